//! Durations counted into fixed buckets, without a lock.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of a decision's duration, ns: 2 µs to 50 ms.
pub(crate) const DECISION_NS: &[u64] = &[
    2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000, 50_000_000,
];
/// Upper bounds of the time to the first token, ns, as OpenTelemetry's terms for GenAI advise.
pub(crate) const FIRST_TOKEN_NS: &[u64] = &[
    1_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    40_000_000,
    60_000_000,
    80_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
    30_000_000_000,
];
/// Upper bounds of a whole request's time, ns, as OpenTelemetry's terms for GenAI advise.
pub(crate) const REQUEST_NS: &[u64] = &[
    10_000_000,
    20_000_000,
    40_000_000,
    80_000_000,
    160_000_000,
    320_000_000,
    640_000_000,
    1_280_000_000,
    2_560_000_000,
    5_120_000_000,
    10_240_000_000,
    20_480_000_000,
    40_960_000_000,
    81_920_000_000,
];

/// Counts of durations.
#[derive(Debug)]
pub struct Histogram {
    bounds_ns: &'static [u64],
    /// One a bound, and one for what is above all.
    counts: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

impl Histogram {
    /// An empty one; the bounds ascend.
    pub(crate) fn new(bounds_ns: &'static [u64]) -> Self {
        Self {
            bounds_ns,
            counts: (0..=bounds_ns.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_ns: AtomicU64::new(0),
        }
    }

    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = self.bounds_ns.partition_point(|bound| *bound < ns);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Relaxed);
        }
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// As it is now.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn look(&self) -> HistogramStatus {
        let mut so_far = 0;
        let mut below = |count: &AtomicU64| {
            so_far += count.load(Relaxed);
            so_far
        };
        let bounds = self.bounds_ns.iter().map(|ns| Some(*ns as f64 / 1e9));
        HistogramStatus {
            buckets: bounds
                .chain([None])
                .zip(&self.counts)
                .map(|(bound, count)| (bound, below(count)))
                .collect(),
            sum_s: self.sum_ns.load(Relaxed) as f64 / 1e9,
        }
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistogramStatus {
    /// Upper bound in s, `None` for the last, and how many were not above it.
    pub buckets: Vec<(Option<f64>, u64)>,
    /// Sum of all durations, s.
    pub sum_s: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_all_buckets_at_or_above_it() {
        let took = [
            0,
            1,
            2_000,
            2_001,
            49_999_999,
            50_000_000,
            50_000_001,
            7_000_000_000,
        ];
        let histogram = Histogram::new(DECISION_NS);
        for ns in took {
            histogram.observe(Duration::from_nanos(ns));
        }
        let status = histogram.look();
        for ((bound, count), bound_ns) in status.buckets.iter().zip(DECISION_NS) {
            assert_eq!(*bound, Some(*bound_ns as f64 / 1e9));
            assert_eq!(
                *count,
                took.iter().filter(|ns| *ns <= bound_ns).count() as u64
            );
        }
        assert_eq!(status.buckets.last(), Some(&(None, took.len() as u64)));
        let sum = took.iter().sum::<u64>() as f64 / 1e9;
        assert!((status.sum_s - sum).abs() < 1e-9);
    }

    #[test]
    fn bounds_ascend() {
        for bounds in [DECISION_NS, FIRST_TOKEN_NS, REQUEST_NS] {
            assert!(bounds.is_sorted());
        }
    }
}
