//! How far a run is: written by the run, read by whoever shows it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// How far a run is, and whether it should stop.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    /// Adds steps that are to be done.
    pub fn expect(&self, steps: u64) {
        self.total.fetch_add(steps, Relaxed);
    }

    /// Notes steps as done.
    pub fn advance(&self, steps: u64) {
        self.done.fetch_add(steps, Relaxed);
    }

    /// Steps done, and steps known of.
    #[must_use]
    pub fn steps(&self) -> (u64, u64) {
        (self.done.load(Relaxed), self.total.load(Relaxed))
    }

    /// Asks the run to stop soon.
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Whether the run was asked to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }
}
