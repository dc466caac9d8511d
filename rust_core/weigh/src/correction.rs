//! What replies teach about a model's token estimate: one factor, learnt from usage.

use std::sync::atomic::{AtomicU64, Ordering};

/// Smallest and largest factor.
const MIN_FACTOR: f64 = 0.5;
const MAX_FACTOR: f64 = 2.0;

/// Weight of a new observation once the first ones are in.
const GAIN: f64 = 0.02;

/// Furthest that one observation may lie from the present factor, as a ratio: what lies further
/// counts as if it lay there, so that no single reply moves the factor by more than 1 %.
const MAX_SURPRISE: f64 = 1.5;

/// Prompts of fewer tokens tell more of the template than of the text.
const MIN_TOKENS: u64 = 32;

/// A factor on the token estimate of one model, read without locks by every request.
///
/// It is a moving average of `log(actual ÷ estimate)`, so over- and underestimates by the same
/// ratio weigh the same. The first observations count fully, later ones 2 % each.
#[derive(Debug, Default)]
pub struct Correction {
    /// Bits of an `f64`: the average of the logarithm. 0 is no correction.
    log_factor: AtomicU64,
    observations: AtomicU64,
}

impl Correction {
    /// No correction yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The correction that another process has learnt.
    #[must_use]
    pub fn from_factor(factor: f64, observations: u64) -> Self {
        let log = if factor.is_finite() {
            factor.clamp(MIN_FACTOR, MAX_FACTOR).ln()
        } else {
            0.0
        };
        Self {
            log_factor: AtomicU64::new(log.to_bits()),
            observations: AtomicU64::new(observations),
        }
    }

    /// The factor, from 0.5 to 2; 1 before the first observation.
    #[must_use]
    pub fn factor(&self) -> f64 {
        f64::from_bits(self.log_factor.load(Ordering::Relaxed)).exp()
    }

    /// Observations taken in.
    #[must_use]
    pub fn observations(&self) -> u64 {
        self.observations.load(Ordering::Relaxed)
    }

    /// Takes in what a reply's usage says of a prompt's tokens, against the estimate made with the
    /// factor `used`. Short prompts, and estimates of truncated bodies, are better left out.
    pub fn observe(&self, estimate: u64, actual: u64, used: f64) {
        if estimate < MIN_TOKENS || actual < MIN_TOKENS || !(used.is_finite() && used > 0.0) {
            return;
        }
        let raw = (actual as f64 / estimate as f64 * used).ln();
        let seen = self.observations.fetch_add(1, Ordering::Relaxed);
        let gain = (1.0 / (seen as f64 + 2.0)).max(GAIN);
        // Concurrent observers retry; the average does not depend on their order by much.
        let _ = self
            .log_factor
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
                let log = f64::from_bits(bits);
                let surprise = (raw - log).clamp(-MAX_SURPRISE.ln(), MAX_SURPRISE.ln());
                let next = (log + gain * surprise).clamp(MIN_FACTOR.ln(), MAX_FACTOR.ln());
                Some(next.to_bits())
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_steady_error_is_learnt() {
        let correction = Correction::new();
        for _ in 0..200 {
            let used = correction.factor();
            correction.observe((1000.0 * used) as u64, 1300, used);
        }
        assert!(
            (correction.factor() - 1.3).abs() < 0.02,
            "{}",
            correction.factor()
        );
        for _ in 0..400 {
            let used = correction.factor();
            correction.observe((1000.0 * used) as u64, 900, used);
        }
        assert!(
            (correction.factor() - 0.9).abs() < 0.02,
            "{}",
            correction.factor()
        );
    }

    #[test]
    fn outliers_hardly_move_it() {
        let correction = Correction::from_factor(1.1, 1000);
        correction.observe(1000, 1_000_000, 1.1);
        assert!((correction.factor() / 1.1 - 1.0).abs() < 0.01);
        correction.observe(1_000_000, 1000, 1.1);
        assert!((correction.factor() / 1.1 - 1.0).abs() < 0.01);
    }

    #[test]
    fn short_prompts_teach_nothing() {
        let correction = Correction::new();
        correction.observe(10, 40, 1.0);
        correction.observe(40, 10, 1.0);
        assert_eq!((correction.factor(), correction.observations()), (1.0, 0));
    }

    proptest! {
        #[test]
        fn the_factor_stays_in_bounds(
            replies in proptest::collection::vec((any::<u64>(), any::<u64>(), 0.0f64..10.0), 0..200),
        ) {
            let correction = Correction::new();
            for (estimate, actual, used) in replies {
                correction.observe(estimate, actual, used);
                prop_assert!((MIN_FACTOR - 1e-9..=MAX_FACTOR + 1e-9).contains(&correction.factor()));
            }
        }
    }
}
