//! A replica's counts, readable while it runs.

use serde::Serialize;

/// What one replica has done since it was made; crashes do not reset it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ReplicaCounters {
    /// Generations handed to the engine.
    pub requests: u64,
    /// Generations that produced all their tokens.
    pub completed: u64,
    /// Generations dropped because their client went away.
    pub aborted: u64,
    /// Generations broken by a fault.
    pub failed: u64,
    /// HTTP requests answered with an error.
    pub refused: u64,
    /// Prompt tokens of started generations.
    pub prompt_tokens: u64,
    /// Of those, found in the cache.
    pub cached_tokens: u64,
    /// Tokens produced.
    pub output_tokens: u64,
    /// Iterations run.
    pub iterations: u64,
    /// Engine time spent in iterations, ms.
    pub busy_ms: f64,
    /// Generations with the engine now, started or not.
    pub open: u64,
    /// Of those, not started.
    pub waiting: u64,
    /// The most that were open at once.
    pub open_peak: u64,
    /// Blocks that running requests hold now.
    pub kv_used_blocks: u32,
    /// Blocks with reusable content that no request holds.
    pub kv_cached_blocks: u32,
    /// Blocks in all.
    pub kv_max_blocks: u32,
    /// Requests to routes that must never be reached through a gateway
    /// (`/release_memory`, `/resume_memory`, `/update_weights`).
    pub control_requests: u64,
}
