//! Counters of what was decided and served, for metrics and `status`.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// What one replica was given and what came of it, since start.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests placed here.
    pub requests: AtomicU64,
    /// MU of those, in millionths.
    pub micro_mu: AtomicU64,
    /// Prompt tokens predicted to be cached here when placed.
    pub cached_tokens: AtomicU64,
    /// Prompt tokens placed here.
    pub prompt_tokens: AtomicU64,
    /// Responses with status 500 and above.
    pub failures: AtomicU64,
}

/// All counters of a core.
#[derive(Debug, Default)]
pub struct Tallies {
    replicas: RwLock<HashMap<String, Arc<Tally>>>,
    reasons: Mutex<BTreeMap<&'static str, u64>>,
    refusals: Mutex<BTreeMap<&'static str, u64>>,
    /// ext_proc streams open now.
    pub streams: AtomicU64,
}

impl Tallies {
    /// The counters of the replica at `endpoint`.
    #[must_use]
    pub fn replica(&self, endpoint: &str) -> Arc<Tally> {
        let known = self
            .replicas
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(endpoint)
            .cloned();
        known.unwrap_or_else(|| {
            let mut all = self
                .replicas
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(endpoint.to_owned()).or_default())
        })
    }

    pub(crate) fn count_reason(&self, reason: &'static str) {
        count(&self.reasons, reason);
    }

    pub(crate) fn count_refusal(&self, code: &'static str) {
        count(&self.refusals, code);
    }

    /// Decisions by reason.
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<&'static str, u64> {
        copy(&self.reasons)
    }

    /// Refusals by code.
    #[must_use]
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        copy(&self.refusals)
    }

    /// Opens or closes a stream.
    pub fn stream_opened(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    /// Counterpart of [`Tallies::stream_opened`].
    pub fn stream_closed(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }
}

type Counts = Mutex<BTreeMap<&'static str, u64>>;

fn count(counts: &Counts, name: &'static str) {
    *counts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(name)
        .or_default() += 1;
}

fn copy(counts: &Counts) -> BTreeMap<&'static str, u64> {
    counts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}
