//! Observe-only mode: what was decided beside what the gateway did by itself.

use crate::weighed::Weighed;
use crate::weighing::Weighing;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use weighbridge_place::{MicroMu, Pool, Replica};

/// A decision that is not carried out, until it is seen who served the request.
#[derive(Debug)]
pub(crate) struct Observed {
    weighing: Weighing,
    chain: Arc<[u64]>,
    /// Blocks of the chain that the replica decided on likely holds.
    cached_blocks: u32,
}

impl Observed {
    pub(crate) fn new(weighed: &Weighed, cached_blocks: u32) -> Self {
        Self {
            weighing: weighed.weighing.clone(),
            chain: Arc::clone(&weighed.chain),
            cached_blocks,
        }
    }
}

/// What observing came to, since start.
#[derive(Debug, Default)]
pub struct Observing {
    decided: AtomicU64,
    served: AtomicU64,
    elsewhere: AtomicU64,
    would_refuse: AtomicU64,
    served_micro_mu: AtomicU64,
    decided_micro_mu: AtomicU64,
}

impl Observing {
    pub(crate) fn decided(&self) {
        self.decided.fetch_add(1, Relaxed);
    }

    pub(crate) fn would_refuse(&self) {
        self.would_refuse.fetch_add(1, Relaxed);
    }

    /// `served` has begun to answer a request that would have gone to the one at `decided`; if it does
    /// so well, it is `served` that likely holds the prompt from now on.
    pub(crate) fn served(
        &self,
        observed: &Observed,
        status: u16,
        decided: &str,
        served: &Replica,
        pool: &Pool,
    ) {
        self.served.fetch_add(1, Relaxed);
        if served.spec.endpoint != decided {
            self.elsewhere.fetch_add(1, Relaxed);
        }
        let held = pool.index().matches(&observed.chain).blocks(served.id);
        let micro = |blocks| {
            let mu = MicroMu::from_mu(observed.weighing.cost(blocks).total());
            mu.micro().max(0).unsigned_abs()
        };
        self.served_micro_mu.fetch_add(micro(held), Relaxed);
        self.decided_micro_mu
            .fetch_add(micro(observed.cached_blocks), Relaxed);
        if status < 400 {
            served.cache.record(&observed.chain);
        }
    }

    /// As it is now.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn look(&self) -> ObservingStatus {
        let mu = |micro: &AtomicU64| micro.load(Relaxed) as f64 / 1e6;
        ObservingStatus {
            decided: self.decided.load(Relaxed),
            served: self.served.load(Relaxed),
            elsewhere: self.elsewhere.load(Relaxed),
            would_refuse: self.would_refuse.load(Relaxed),
            served_mu: mu(&self.served_micro_mu),
            decided_mu: mu(&self.decided_micro_mu),
        }
    }
}

/// What observing came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ObservingStatus {
    /// Decisions that were not carried out.
    pub decided: u64,
    /// Of these, requests of which the gateway told who served them.
    pub served: u64,
    /// Of these, served by another replica than the one decided on.
    pub elsewhere: u64,
    /// Requests that would have been refused.
    pub would_refuse: u64,
    /// MU of those served, given what the replicas that served them likely held.
    pub served_mu: f64,
    /// MU of the same on the replicas decided on, given what these likely held.
    pub decided_mu: f64,
}
