//! A decision's hold on its replica, from the choice to the end of the stream.

use std::sync::Arc;
use weighbridge_place::{Charge, Replica};

/// What was decided for one request; dropping it releases what was charged.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    charge: Charge,
    replica: Arc<Replica>,
    endpoints: String,
}

impl Ticket {
    pub(crate) fn new(
        number: u64,
        charge: Charge,
        replica: &Arc<Replica>,
        fallbacks: &[String],
    ) -> Self {
        let mut endpoints = replica.spec.endpoint.clone();
        for fallback in fallbacks {
            endpoints.push(',');
            endpoints.push_str(fallback);
        }
        Self {
            number,
            charge,
            replica: Arc::clone(replica),
            endpoints,
        }
    }

    /// The decision's number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The chosen endpoint and its fallbacks: `ip:port[,ip:port…]`.
    #[must_use]
    pub fn endpoints(&self) -> &str {
        &self.endpoints
    }

    /// The replica that is charged now.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.replica.spec.endpoint
    }

    /// The first byte of the reply is there: its prefill is done.
    pub(crate) fn first_byte(&mut self) {
        self.charge.prefill_done();
    }

    /// Another replica served it (a retry moved on): the charge goes there.
    pub(crate) fn move_to(&mut self, replica: &Arc<Replica>) {
        self.charge = replica.load.charge(self.charge.amount());
        self.replica = Arc::clone(replica);
    }
}
