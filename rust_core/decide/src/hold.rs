//! A request's charge, shared by the stream that routes it and the one that observes its reply.

use std::sync::{Mutex, MutexGuard, PoisonError};
use weighbridge_place::{Amount, Charge, Replica};

/// A charge that is held until its request has ended.
#[derive(Debug)]
pub(crate) struct Hold(Mutex<Option<Charge>>);

impl Hold {
    pub(crate) fn new(charge: Charge) -> Self {
        Self(Mutex::new(Some(charge)))
    }

    /// Gives back the prefill part.
    pub(crate) fn prefill_done(&self) {
        if let Some(charge) = self.lock().as_mut() {
            charge.prefill_done();
        }
    }

    /// Gives back all of it.
    pub(crate) fn release(&self) {
        *self.lock() = None;
    }

    /// What is held.
    pub(crate) fn amount(&self) -> Amount {
        let none = Amount::default;
        self.lock().as_ref().map_or_else(none, Charge::amount)
    }

    /// Another replica carries it now.
    pub(crate) fn move_to(&self, replica: &Replica) {
        let mut held = self.lock();
        if let Some(amount) = held.as_ref().map(Charge::amount) {
            *held = Some(replica.load.charge(amount));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Charge>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
