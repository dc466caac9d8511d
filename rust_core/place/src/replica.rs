//! Replicas and the pool: the immutable snapshot of who can serve what.

use std::collections::HashMap;
use std::sync::Arc;

use crate::address::canonical_endpoint;
use crate::forecast::{Doing, StepTimes};
use crate::ledger::Load;
use crate::mu::MicroMu;
use crate::prefix::{PrefixIndex, ReplicaCache};
use crate::ring::Ring;

/// A replica's number: stable while its endpoint is known to the registry, and never that of
/// another. Its lower bits are a slot, small and dense; the upper ones are the slot's generation,
/// which changes when the slot goes to another endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u32);

/// Bits of a slot: a million replicas.
const SLOT_BITS: u32 = 20;

impl ReplicaId {
    /// As an index into tables by slot.
    #[must_use]
    pub const fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }

    /// The number of the next endpoint in this slot.
    pub(crate) const fn next_generation(self) -> Self {
        Self(self.0.wrapping_add(1 << SLOT_BITS))
    }
}

/// What a replica may be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// Serves as its profile says.
    #[default]
    Healthy,
    /// Serves, but worse than its profile: gets requests only when it wins clearly.
    Degraded,
    /// Gets nothing.
    Ejected,
    /// Was ejected; gets a trickle that shows whether it is well again.
    Probing,
    /// Finishes what it has; gets nothing new while another replica can serve.
    Draining,
}

impl State {
    /// Whether requests may be placed here while better ones exist.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded | Self::Probing)
    }
}

/// A replica as configuration, discovery and health describe it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaSpec {
    /// `ip:port`.
    pub endpoint: String,
    /// The base model it serves.
    pub model: String,
    /// LoRA adapters it has loaded.
    pub adapters: Vec<String>,
    /// MU it serves per minute at saturation (reference replica: 60,000).
    pub capacity_mu_per_min: f64,
    /// KV tokens its memory holds.
    pub kv_tokens: u64,
    /// What its iterations take.
    pub steps: StepTimes,
    /// Failure domain: rack or zone; empty where unknown.
    pub domain: String,
    /// Health.
    pub state: State,
    /// Share of its capacity that it may be given now, 0 to 1: below 1 while it warms up.
    pub share: f64,
}

impl Default for ReplicaSpec {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            model: String::new(),
            adapters: Vec::new(),
            capacity_mu_per_min: 60_000.0,
            kv_tokens: 1_000_000,
            steps: StepTimes::default(),
            domain: String::new(),
            state: State::Healthy,
            share: 1.0,
        }
    }
}

impl ReplicaSpec {
    /// Whether it has this LoRA adapter loaded.
    #[must_use]
    pub fn has_adapter(&self, name: &str) -> bool {
        self.adapters.iter().any(|adapter| adapter == name)
    }
}

/// A replica in a pool: its description, its number, its ledger and its part of the prefix index.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Its description in this snapshot.
    pub spec: ReplicaSpec,
    /// Its number.
    pub id: ReplicaId,
    /// Its ledger, shared by all snapshots.
    pub load: Arc<Load>,
    /// Its likely cached blocks, shared by all snapshots.
    pub cache: Arc<ReplicaCache>,
}

impl Replica {
    /// MU it may be given per millisecond, warm-up share counted. Never zero.
    #[must_use]
    pub fn mu_per_ms(&self) -> f64 {
        let share = self.spec.share;
        let share = if share.is_nan() {
            1.0
        } else {
            share.clamp(1e-3, 1.0)
        };
        self.full_mu_per_ms() * share
    }

    /// MU it serves per millisecond once warm. Never zero.
    #[must_use]
    pub fn full_mu_per_ms(&self) -> f64 {
        let rate = self.spec.capacity_mu_per_min / 60_000.0;
        if rate.is_finite() {
            rate.max(1e-6)
        } else {
            1.0
        }
    }

    /// Milliseconds that this much work takes it.
    #[must_use]
    pub fn ms_for(&self, work: MicroMu) -> f64 {
        work.as_mu().max(0.0) / self.mu_per_ms()
    }

    /// What it does now; what was placed on it counts as recent for `memory_ms`.
    #[must_use]
    pub fn doing(&self, memory_ms: f64) -> Doing {
        let (totals, recent) = (self.load.totals(), self.load.recent());
        let memory_ms = memory_ms.max(1.0);
        Doing {
            ahead_ms: self.ms_for(totals.prefill),
            sequences: totals.sequences as f64,
            decode_mu: totals.decode.as_mu(),
            kv_tokens: totals.kv_tokens as f64,
            kv_reserved: totals.kv_reserved as f64,
            kv_limit: self.spec.kv_tokens as f64,
            prefill_share: self.ms_for(recent.prefill) / memory_ms,
            arrivals: recent.requests / memory_ms,
            promised: (recent.promised / recent.requests.max(1.0)).min(1.0),
        }
    }
}

/// The replicas of one model.
#[derive(Clone, Debug, Default)]
pub struct ModelPool {
    /// The model's name.
    pub model: String,
    /// Its replicas, ordered by endpoint.
    pub replicas: Vec<Arc<Replica>>,
    /// Sum of their capacities in MU per millisecond, of those that are open.
    pub mu_per_ms: f64,
    pub(crate) ring: Arc<Ring>,
    /// Those that are open, to draw samples from.
    pub(crate) open: Vec<ReplicaId>,
    /// A bit for each of its replicas' numbers: asked of every candidate, without a look at its name.
    pub(crate) numbers: Box<[u64]>,
    /// Those that are open and have an adapter loaded.
    pub(crate) with_adapter: HashMap<String, Vec<ReplicaId>>,
}

impl ModelPool {
    /// Whether the replica of this number is one of them.
    pub(crate) fn has(&self, id: ReplicaId) -> bool {
        let word = self.numbers.get(id.slot() / 64);
        word.is_some_and(|word| word >> (id.slot() % 64) & 1 == 1)
    }
}

/// An immutable, numbered snapshot of all replicas.
#[derive(Debug)]
pub struct Pool {
    /// Grows by one with every change.
    pub number: u64,
    pub(crate) models: HashMap<String, Arc<ModelPool>>,
    pub(crate) adapters: HashMap<String, String>,
    pub(crate) by_endpoint: HashMap<String, Arc<Replica>>,
    pub(crate) by_id: Vec<Option<Arc<Replica>>>,
    pub(crate) index: Arc<PrefixIndex>,
}

impl Pool {
    /// The replicas of a model, by its name or by the name of one of its adapters.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Arc<ModelPool>> {
        self.models.get(name).or_else(|| {
            self.adapters
                .get(name)
                .and_then(|base| self.models.get(base))
        })
    }

    /// The base model of an adapter that a replica lists.
    #[must_use]
    pub fn base_of(&self, adapter: &str) -> Option<&str> {
        self.adapters.get(adapter).map(String::as_str)
    }

    /// Endpoints of the model's replicas that list an adapter; `None` where all of them do.
    #[must_use]
    pub fn listing(&self, model: &str, adapter: &str) -> Option<Vec<&str>> {
        let members = self.models.get(model)?;
        let listed: Vec<&str> = members
            .replicas
            .iter()
            .filter(|replica| replica.spec.has_adapter(adapter))
            .map(|replica| replica.spec.endpoint.as_str())
            .collect();
        (listed.len() < members.replicas.len()).then_some(listed)
    }

    /// All models with at least one replica, in no order.
    pub fn models(&self) -> impl Iterator<Item = &Arc<ModelPool>> {
        self.models.values()
    }

    /// The replica at `ip:port`, in any spelling.
    #[must_use]
    pub fn endpoint(&self, endpoint: &str) -> Option<&Arc<Replica>> {
        self.by_endpoint.get(canonical_endpoint(endpoint).as_ref())
    }

    /// The replica with this number.
    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> Option<&Arc<Replica>> {
        self.in_slot(id).filter(|replica| replica.id == id)
    }

    /// The replica in the slot of this number, whatever its generation: the prefix index knows slots
    /// alone, and forgets what one held before another endpoint has it.
    #[must_use]
    pub fn in_slot(&self, id: ReplicaId) -> Option<&Arc<Replica>> {
        self.by_id.get(id.slot()).and_then(Option::as_ref)
    }

    /// All replicas, by number.
    pub fn replicas(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.by_id.iter().flatten()
    }

    /// How many replicas there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_endpoint.len()
    }

    /// Whether there is no replica at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_endpoint.is_empty()
    }

    /// The prefix index of all replicas.
    #[must_use]
    pub fn index(&self) -> &Arc<PrefixIndex> {
        &self.index
    }
}
