//! What requests show of one replica as they pass: counts and speed, until the next round takes them.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use weighbridge_learn::{Flight, SpeedMeter};

/// A status from which on a response is the replica's failure.
const FAILURE: u16 = 500;

/// What is gathered of one replica. Any thread may add to it.
#[derive(Debug)]
pub(crate) struct Signs {
    /// `ip:port`; a number may go to another endpoint later.
    pub(crate) endpoint: String,
    good: AtomicU32,
    bad: AtomicU32,
    meter: Mutex<SpeedMeter>,
}

impl Signs {
    /// Nothing yet, of a replica of `mu_per_ms` that `reference_batch` requests fill.
    pub(crate) fn new(endpoint: &str, mu_per_ms: f64, reference_batch: f64) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            good: AtomicU32::new(0),
            bad: AtomicU32::new(0),
            meter: Mutex::new(SpeedMeter::new(mu_per_ms, reference_batch)),
        }
    }

    /// A response began, or an attempt did not come to one (`status` 0).
    pub(crate) fn answered(&self, status: u16) {
        if status == 0 || status >= FAILURE {
            self.failed();
        } else {
            self.good.fetch_add(1, Relaxed);
        }
    }

    /// A request failed here, or waited too long.
    pub(crate) fn failed(&self) {
        self.bad.fetch_add(1, Relaxed);
    }

    /// A request was placed; its first byte is expected in so many ms.
    pub(crate) fn placed(&self, expected_ms: f64, now_us: u64) -> Flight {
        self.meter().placed(expected_ms, now_us)
    }

    /// Its first byte is there.
    pub(crate) fn first_byte(&self, flight: &mut Flight, decode_mu: f64, now_us: u64) {
        self.meter().first_byte(flight, decode_mu, now_us);
    }

    /// It has ended, having taken `decode_mu` where that is known.
    pub(crate) fn end(&self, flight: Flight, decode_mu: Option<f64>, now_us: u64) {
        self.meter().end(flight, decode_mu, now_us);
    }

    /// Requests that were answered and that failed since this was asked last.
    pub(crate) fn take(&self) -> (u32, u32) {
        (self.good.swap(0, Relaxed), self.bad.swap(0, Relaxed))
    }

    /// Requests whose speed is being measured.
    pub(crate) fn flying(&self) -> f64 {
        self.meter().flying()
    }

    /// Its speed against its profile, where enough is known.
    pub(crate) fn speed(&self, now_us: u64) -> Option<f64> {
        self.meter().ratio(now_us)
    }

    /// What it did before says nothing of it any more.
    pub(crate) fn forget_speed(&self) {
        self.meter().reset();
    }

    fn meter(&self) -> MutexGuard<'_, SpeedMeter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
