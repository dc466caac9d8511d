//! Counters of what was decided and served, for metrics and `status`.

use crate::histogram::{DECISION_NS, Histogram};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use weighbridge_place::{MicroMu, Pool, Reason};
use weighbridge_weigh::CostVector;

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
#[derive(Debug)]
pub struct Tallies {
    replicas: RwLock<HashMap<String, Arc<Tally>>>,
    reasons: [AtomicU64; Reason::ALL.len()],
    refusals: Mutex<BTreeMap<&'static str, u64>>,
    /// ext_proc streams open now.
    pub streams: AtomicU64,
    /// Time that decisions took: read, weighed and placed, without waits.
    pub decisions: Histogram,
}

impl Default for Tallies {
    fn default() -> Self {
        Self {
            replicas: RwLock::default(),
            reasons: Default::default(),
            refusals: Mutex::default(),
            streams: AtomicU64::new(0),
            decisions: Histogram::new(DECISION_NS),
        }
    }
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

    /// Forgets replicas that have left.
    pub(crate) fn follow(&self, pool: &Pool) {
        let mut all = self
            .replicas
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        all.retain(|endpoint, _| pool.endpoint(endpoint).is_some());
    }

    pub(crate) fn count_reason(&self, reason: Reason) {
        if let Some(count) = self.reasons.get(reason as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn count_refusal(&self, code: &'static str) {
        count(&self.refusals, code);
    }

    /// Decisions by reason.
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<&'static str, u64> {
        let counts = Reason::ALL.iter().zip(&self.reasons);
        let counts = counts.map(|(reason, count)| (reason.as_str(), count.load(Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
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

/// What one tenant took of one model, since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TenantTally {
    /// Requests that ended.
    pub requests: u64,
    /// MU billed.
    pub mu: f64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Of these, cached.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
}

/// The name under which tenants are counted together that are too many to be told apart.
const OTHER: &str = "other";

/// What tenants took, by tenant and model: each that is listed, and as many besides as are allowed.
#[derive(Debug, Default)]
pub(crate) struct TenantTallies {
    /// Most pairs of an unlisted tenant and a model.
    most_unlisted: usize,
    inner: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    all: HashMap<(String, Arc<str>), TenantTally>,
    listed: HashSet<String>,
    unlisted: usize,
}

impl TenantTallies {
    /// Counts at most so many unlisted tenants' models by name.
    pub(crate) fn new(most_unlisted: usize) -> Self {
        Self {
            most_unlisted,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These tenants are counted by name whatever others there are.
    pub(crate) fn list<'a>(&self, names: impl Iterator<Item = &'a String>) {
        self.lock().listed = names.cloned().collect();
    }

    /// Adds a request that has ended.
    pub(crate) fn add(&self, tenant: &str, model: &Arc<str>, cost: &CostVector, mu: MicroMu) {
        let mut counted = self.lock();
        let mut key = (tenant.to_owned(), Arc::clone(model));
        if !tenant.is_empty() && !counted.all.contains_key(&key) && !counted.listed.contains(tenant)
        {
            if counted.unlisted >= self.most_unlisted {
                OTHER.clone_into(&mut key.0);
            } else {
                counted.unlisted += 1;
            }
        }
        let tally = counted.all.entry(key).or_default();
        tally.requests += 1;
        tally.mu += mu.as_mu();
        tally.prompt_tokens += cost.prompt_tokens;
        tally.cached_tokens += cost.cached_tokens;
        tally.output_tokens += cost.output_tokens;
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(String, String, TenantTally)> {
        let counted = self.lock();
        let mut all: Vec<_> = counted
            .all
            .iter()
            .map(|((tenant, model), tally)| (tenant.clone(), model.to_string(), *tally))
            .collect();
        all.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        all
    }
}
