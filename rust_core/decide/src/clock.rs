//! The clock that a core is given: nothing else in it asks what time it is.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Time since a moment of the clock's own. It never goes back.
pub trait Clock: Debug + Send + Sync {
    /// The time now.
    fn elapsed(&self) -> Duration;
}

/// The time of this machine.
#[derive(Debug)]
pub(crate) struct WallClock(Instant);

impl Default for WallClock {
    #[allow(clippy::disallowed_methods)] // the one place where the time comes from
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for WallClock {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock that stands still until it is set: a simulation's, or a test's.
#[derive(Debug, Default)]
pub struct SetClock(AtomicU64);

impl SetClock {
    /// It is `now_us`, µs; an earlier time than before is passed over.
    pub fn set(&self, now_us: u64) {
        self.0.fetch_max(now_us, Relaxed);
    }
}

impl Clock for SetClock {
    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.0.load(Relaxed))
    }
}
