//! Cutting: sheddable requests that a replica has not begun to answer end where a guarantee would be late.

use crate::life::Life;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use weighbridge_place::{MicroMu, ReplicaId};

/// The requests that may be cut. Empty, unless an operator allows it.
#[derive(Debug)]
pub(crate) struct Cutting {
    is_on: AtomicBool,
    /// By replica and decision's number: the newest last.
    running: Mutex<HashMap<ReplicaId, BTreeMap<u64, Running>>>,
}

#[derive(Debug)]
struct Running {
    life: Weak<Life>,
    cut: Arc<Cut>,
}

/// Where a request's stream learns that it is cut.
#[derive(Debug, Default)]
struct Cut(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    is_cut: bool,
    waker: Option<Waker>,
}

/// A request's place among those that may be cut; dropped, it leaves.
#[derive(Debug)]
pub(crate) struct Cuttable {
    cutting: Arc<Cutting>,
    replica: ReplicaId,
    number: u64,
    cut: Arc<Cut>,
}

impl Cutting {
    /// Nothing yet; `is_on`: an operator allows it.
    pub(crate) fn new(is_on: bool) -> Arc<Self> {
        Arc::new(Self {
            is_on: AtomicBool::new(is_on),
            running: Mutex::default(),
        })
    }

    pub(crate) fn set(&self, is_on: bool) {
        self.is_on.store(is_on, Relaxed);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// Lists a request that may be cut.
    pub(crate) fn list(self: &Arc<Self>, replica: ReplicaId, life: &Arc<Life>) -> Cuttable {
        let (number, cut) = (life.facts.number, Arc::<Cut>::default());
        let running = Running {
            life: Arc::downgrade(life),
            cut: Arc::clone(&cut),
        };
        let mut all = self.lock();
        all.entry(replica).or_default().insert(number, running);
        drop(all);
        Cuttable {
            cutting: Arc::clone(self),
            replica,
            number,
            cut,
        }
    }

    /// Cuts as many on this replica, the newest first, as have `late` prefill to compute: none, where
    /// all of them have less, or nothing is late.
    pub(crate) fn make_way(&self, replica: ReplicaId, late: MicroMu) {
        if late <= MicroMu::ZERO {
            return;
        }
        // Declared before the lock, so dropped after it: who lets go of a request last wakes others.
        let mut lives = Vec::new();
        let mut all = self.lock();
        let Some(here) = all.get_mut(&replica) else {
            return;
        };
        let mut found = MicroMu::ZERO;
        let mut newest = here.iter().rev();
        let first = newest.find_map(|(number, running)| {
            if let Some(life) = running.life.upgrade() {
                found += life.prefill_left();
                lives.push(life);
            }
            (found >= late).then_some(*number)
        });
        let Some(first) = first else {
            return;
        };
        let cut = here.split_off(&first);
        drop(all);
        for running in cut.values() {
            running.cut.tell();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ReplicaId, BTreeMap<u64, Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cut {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        let mut told = self.lock();
        told.is_cut = true;
        let waker = told.waker.take();
        drop(told);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Cuttable {
    /// Returns ready once the request is cut, and wakes `context` then.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut told = self.cut.lock();
        if told.is_cut {
            return Poll::Ready(());
        }
        told.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Cuttable {
    fn drop(&mut self) {
        let mut all = self.cutting.lock();
        if let Some(here) = all.get_mut(&self.replica) {
            here.remove(&self.number);
            if here.is_empty() {
                all.remove(&self.replica);
            }
        }
    }
}
