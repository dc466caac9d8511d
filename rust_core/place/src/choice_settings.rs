//! What the choice of a replica may be told.

use crate::forecast::Objectives;

/// What the choice may be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChoiceSettings {
    /// Another replica must beat home by this many milliseconds…
    pub spill_margin_ms: f64,
    /// …and by this share of the wait at home.
    pub spill_margin_share: f64,
    /// Others of the pool that are looked at.
    pub samples: usize,
    /// Replicas with the longest cached prefix that are looked at.
    pub cached: usize,
    /// What a sequence that is stalled beside a prefill counts, beside a request that waits.
    pub stall_weight: f64,
    /// How often more the harm to others counts where all of these are there on promises to their
    /// tenants, for a request that yields to them.
    pub promise_weight: f64,
    /// How often the prefill counts, beside its own time, that another replica's cache would have saved,
    /// where a copy takes room that is short: all of it where a cache is filled again within
    /// `reuse_ms`, and less by the square of the time where it lasts longer.
    pub room_weight: f64,
    /// Sessions come back within this time, ms.
    pub reuse_ms: f64,
    /// A degraded replica's score is multiplied by this.
    pub degraded_factor: f64,
    /// Milliseconds to load an adapter.
    pub adapter_ms: f64,
    /// First tokens and tokens that are in time.
    pub objectives: Objectives,
    /// Time within which placed work counts as recent, ms: the one by which it fades.
    pub memory_ms: f64,
}

impl Default for ChoiceSettings {
    fn default() -> Self {
        Self {
            spill_margin_ms: 20.0,
            spill_margin_share: 0.5,
            samples: 8,
            cached: 4,
            stall_weight: 4.0,
            promise_weight: 200.0,
            room_weight: 60.0,
            reuse_ms: 300_000.0,
            degraded_factor: 2.0,
            adapter_ms: 500.0,
            objectives: Objectives {
                ttft_ms: 2_000.0,
                tpot_ms: 100.0,
            },
            memory_ms: 30_000.0,
        }
    }
}
