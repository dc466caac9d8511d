//! What an operator sets of a gate.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Settings of one [`crate::Gate`].
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Decode in flight that counts as full, ms of the replicas' capacity. Each answer, however
    /// long, counts as its slot's part of it at most: replicas that decode full batches are full.
    pub window_ms: f64,
    /// Share of the time to a request's first token that is in time, that its wait at a replica and its
    /// prefill may take: where no replica answers it so soon, it waits here, where others may pass it.
    /// Half of it beside guarantees, and as the queue here fills, down to four tenths of it.
    pub first_token_share: f64,
    /// Share of the replicas' KV tokens that counts as full.
    pub kv_share: f64,
    /// Requests that may wait.
    pub queue_requests: u32,
    /// MU that may wait beyond four requests for each replica, ms of the replicas' capacity: under
    /// lasting overload what is served has waited about so long, so more could not be served in time
    /// anyway. Of `batch`, half of `max_wait_ms` may wait, if that is more.
    pub queue_window_ms: f64,
    /// Longest wait, ms; a request's own deadline may be shorter.
    pub max_wait_ms: u64,
    /// Share of what is served that each waiting class gets at least.
    pub min_share: f64,
    /// Names beyond the book's that are kept apart; further ones share one account.
    pub unknown_tenants: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window_ms: 3_000.0,
            first_token_share: 0.7,
            kv_share: 1.0,
            queue_requests: 4_096,
            queue_window_ms: 250.0,
            max_wait_ms: 30_000,
            min_share: 0.05,
            unknown_tenants: 4_096,
        }
    }
}

/// Why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{key}: {reason}")]
pub struct SettingsError {
    /// The key at fault.
    pub key: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Settings {
    /// MU of the class for which nobody waits that may wait, ms of the replicas' capacity. It is
    /// served last and therefore slower: half of its longest wait leaves it time.
    pub(crate) fn patient_window_ms(&self) -> f64 {
        self.queue_window_ms.max(self.max_wait_ms as f64 / 2.0)
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// The first key at fault.
    pub fn check(&self) -> Result<(), SettingsError> {
        let error = |key, reason| Err(SettingsError { key, reason });
        let window = |value: f64| (1.0..=1e9).contains(&value);
        if !window(self.window_ms) {
            return error("window_ms", "must be from 1 to 1e9");
        }
        if !(0.01..=10.0).contains(&self.first_token_share) {
            return error("first_token_share", "must be from 0.01 to 10");
        }
        if !window(self.queue_window_ms) {
            return error("queue_window_ms", "must be from 1 to 1e9");
        }
        if !(0.01..=10.0).contains(&self.kv_share) {
            return error("kv_share", "must be from 0.01 to 10");
        }
        if !(0.0..=0.25).contains(&self.min_share) {
            return error("min_share", "must be from 0 to 0.25");
        }
        if self.queue_requests > 1 << 20 {
            return error("queue_requests", "must be at most 1048576");
        }
        if self.unknown_tenants > 1 << 20 {
            return error("unknown_tenants", "must be at most 1048576");
        }
        if self.max_wait_ms > 3_600_000 {
            return error("max_wait_ms", "must be at most 3600000");
        }
        Ok(())
    }
}
