//! How far a replica's prefix cache holds what the prefix index expects, as its usage tells.

/// Weight of a new report.
const GAIN: f64 = 0.1;
/// Prompts of which fewer tokens were expected to be cached say nothing.
const LEAST_EXPECTED: u64 = 256;
/// Misses in a row that mean an empty cache: the replica was restarted or its cache dropped.
const COLD_AFTER: u8 = 3;
/// Trust never falls below this: a replica must be able to earn it back.
const LEAST: f64 = 0.05;

/// What a report means for the prefix index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheVerdict {
    /// As expected, or better.
    AsExpected,
    /// It has fewer of this prompt's blocks than expected: those beyond are not there.
    Shorter,
    /// It seems to have lost everything.
    Cold,
}

/// The share of expected cached tokens that a replica really has, learnt report by report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheTrust {
    trust: f64,
    misses: u8,
}

impl Default for CacheTrust {
    fn default() -> Self {
        Self {
            trust: 1.0,
            misses: 0,
        }
    }
}

impl CacheTrust {
    /// The share of expected cached tokens to count on, 0.05 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.trust
    }

    /// Takes in that so many tokens were expected to be cached and so many were.
    #[allow(clippy::cast_precision_loss)]
    pub fn observe(&mut self, expected: u64, actual: u64) -> CacheVerdict {
        if expected < LEAST_EXPECTED {
            return CacheVerdict::AsExpected;
        }
        let share = (actual as f64 / expected as f64).clamp(0.0, 1.0);
        self.trust = (self.trust + GAIN * (share - self.trust)).max(LEAST);
        if share > 0.1 {
            self.misses = 0;
        } else {
            self.misses = self.misses.saturating_add(1);
        }
        if self.misses == COLD_AFTER {
            // What follows is learnt anew, from an index that is empty as well.
            *self = Self::default();
            return CacheVerdict::Cold;
        }
        if share < 0.9 {
            CacheVerdict::Shorter
        } else {
            CacheVerdict::AsExpected
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_restart_is_noticed_once() {
        let mut trust = CacheTrust::default();
        let verdicts: Vec<_> = (0..4).map(|_| trust.observe(4_000, 0)).collect();
        assert_eq!(
            verdicts,
            [
                CacheVerdict::Shorter,
                CacheVerdict::Shorter,
                CacheVerdict::Cold,
                CacheVerdict::Shorter
            ]
        );
    }

    #[test]
    fn eviction_that_the_index_does_not_see_lowers_trust() {
        let mut trust = CacheTrust::default();
        for _ in 0..100 {
            trust.observe(1_000, 600);
        }
        assert!((trust.share() - 0.6).abs() < 0.01);
    }

    proptest! {
        #[test]
        fn trust_stays_in_bounds(reports in prop::collection::vec((any::<u64>(), any::<u64>()), 0..100)) {
            let mut trust = CacheTrust::default();
            for (expected, actual) in reports {
                trust.observe(expected, actual);
                prop_assert!((LEAST..=1.0).contains(&trust.share()));
            }
        }
    }
}
