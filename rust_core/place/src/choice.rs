//! A decision: the request asked about, the replica chosen, why, and what else was looked at.

use smallvec::SmallVec;
use thiserror::Error;

use crate::forecast::Objectives;
use crate::key::Key;
use crate::mu::MicroMu;
use crate::prospect::{Outlook, Prospect};
use crate::replica::ReplicaId;

/// Fallbacks named after the chosen replica, in order of retry.
pub const FALLBACKS: usize = 3;

/// A weighed request that wants a replica.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The model, by its own name or an adapter's.
    pub model: &'a str,
    /// The adapter it needs, if any: replicas that have it loaded are preferred.
    pub adapter: Option<&'a str>,
    /// Where it stands in the model's key space.
    pub key: Key,
    /// Chained hashes of its prefix blocks.
    pub chain: &'a [u64],
    /// The prefill MU (images, audio and overhead with it) on a replica that has so many blocks
    /// of the chain cached. Must not grow with more blocks.
    pub prefill: &'a dyn Fn(u32) -> MicroMu,
    /// The predicted decode MU.
    pub decode: MicroMu,
    /// Sequences that this is the work of: one for each answer.
    pub sequences: u32,
    /// The KV tokens that the engine sets aside for it on a replica that has so many blocks of the
    /// chain cached. Must not grow with more blocks.
    pub kv: &'a dyn Fn(u32) -> u64,
    /// KV tokens that it is expected to hold when it ends.
    pub kv_tokens: u64,
    /// First tokens and tokens that are in time for it; `None`: for everybody's.
    pub objectives: Option<Objectives>,
    /// How far it yields to promises of others, 0 to 1: not at all on a promise of its own, little where
    /// the replicas have time for all.
    pub yields: f64,
    /// Endpoints the gateway allows; `None` allows all.
    pub subset: Option<&'a [&'a str]>,
    /// Milliseconds on the caller's monotonic clock.
    pub now_ms: u64,
    /// The replica that keeps what the request goes on from, and that no other has: it goes there
    /// while it lives and the gateway allows it, whatever its load.
    pub keeper: Option<ReplicaId>,
    /// Randomness for sampling and ties: any well-spread value, such as the request's number.
    pub seed: u64,
}

impl std::fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask")
            .field("model", &self.model)
            .field("key", &self.key)
            .field("blocks", &self.chain.len())
            .finish_non_exhaustive()
    }
}

/// Why the chosen replica was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It is the key's home.
    Home,
    /// It is another replica of the key's slice, and better now.
    ReplicaOfSlice,
    /// It is outside the slice, but has so much of the prompt cached that it is better now.
    Cached,
    /// It alone keeps the response that the request goes on from.
    Keeper,
    /// The home was too loaded.
    SpillLoad,
    /// The home was not healthy.
    SpillHealth,
    /// The gateway's subset hint left out the home.
    Subset,
    /// No replica was fit; the least unfit was taken.
    Fallback,
    /// It was the only candidate.
    OnlyOne,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Home,
        Self::ReplicaOfSlice,
        Self::Cached,
        Self::Keeper,
        Self::SpillLoad,
        Self::SpillHealth,
        Self::Subset,
        Self::Fallback,
        Self::OnlyOne,
    ];

    /// Its name in metrics and `explain`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::ReplicaOfSlice => "replica_of_slice",
            Self::Cached => "cached",
            Self::Keeper => "keeper",
            Self::SpillLoad => "spill_load",
            Self::SpillHealth => "spill_health",
            Self::Subset => "subset",
            Self::Fallback => "fallback",
            Self::OnlyOne => "only_one",
        }
    }
}

/// What was found of one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It could take the request.
    Fit,
    /// Its state keeps it out.
    Unhealthy,
    /// The subset hint leaves it out.
    NotInSubset,
}

impl Verdict {
    /// Its name in `explain`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fit => "fit",
            Self::Unhealthy => "unhealthy",
            Self::NotInSubset => "not_in_subset",
        }
    }
}

/// Why a candidate was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It keeps what the request goes on from.
    Keeper,
    /// The key's home.
    Home,
    /// Another replica of the key's slice.
    Slice,
    /// One of those with the longest cached prefix.
    Cached,
    /// One of the rest of the pool.
    Sampled,
}

impl Role {
    /// Its name in `explain`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Home => "home",
            Self::Slice => "slice",
            Self::Cached => "cached",
            Self::Sampled => "sampled",
        }
    }
}

/// One replica looked at on the way to a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The replica.
    pub replica: ReplicaId,
    /// Why it was looked at.
    pub role: Role,
    /// Blocks of the request's chain it has likely cached.
    pub cached_blocks: u32,
    /// What the request would take of it, and what that counts.
    pub prospect: Prospect,
    /// What it offers.
    pub outlook: Outlook,
    /// What was found.
    pub verdict: Verdict,
}

/// Where a request goes, and why.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The replica.
    pub chosen: ReplicaId,
    /// Other replicas in order of retry.
    pub fallbacks: SmallVec<[ReplicaId; FALLBACKS]>,
    /// Why.
    pub reason: Reason,
    /// Blocks of the chain that the chosen replica has likely cached.
    pub cached_blocks: u32,
    /// Prefill MU on the chosen replica, given those blocks: what to charge.
    pub prefill: MicroMu,
    /// Prefill MU that those blocks save: what to record as the slice's warmth.
    pub saved: MicroMu,
    /// Number of the pool it was decided on.
    pub pool: u64,
    /// Every replica looked at, in order.
    pub candidates: Vec<Candidate>,
}

impl Decision {
    /// What the chosen replica was found to offer.
    #[must_use]
    pub fn candidate(&self) -> Option<&Candidate> {
        let mut all = self.candidates.iter();
        all.find(|candidate| candidate.replica == self.chosen)
    }
}

/// Why no replica could be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoReplica {
    /// No replica serves this model: 404.
    #[error("no replica serves this model")]
    UnknownModel,
    /// Replicas serve it, but none can take a request now: 503.
    #[error("no replica of this model is ready")]
    NoneReady,
    /// The gateway's subset hint names no replica that is ready: 503.
    #[error("no replica of the allowed subset is ready")]
    EmptySubset,
}
