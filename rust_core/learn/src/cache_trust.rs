//! How far a replica's prefix cache holds what the prefix index expects, as its usage tells.

/// Weight of a new report, and of one more of the same source.
const GAIN: f64 = 0.1;
const GAIN_AGAIN: f64 = 0.02;
/// Prompts of which fewer tokens were expected to be cached say nothing.
const LEAST_EXPECTED: u64 = 256;
/// Misses in a row, each of another source than the one before, that mean an empty cache: the replica
/// was restarted or its cache dropped.
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
    /// Where the latest report and the latest miss came from.
    latest: Option<u64>,
    missed: Option<u64>,
}

impl Default for CacheTrust {
    fn default() -> Self {
        Self {
            trust: 1.0,
            misses: 0,
            latest: None,
            missed: None,
        }
    }
}

impl CacheTrust {
    /// The share of expected cached tokens to count on, 0.05 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.trust
    }

    /// Takes in that so many tokens of a prompt of `source` were expected to be cached and so many
    /// were. One source's reports alone bear little: its prompts may be of a kind that is never cached.
    #[allow(clippy::cast_precision_loss)]
    pub fn observe(&mut self, expected: u64, actual: u64, source: u64) -> CacheVerdict {
        if expected < LEAST_EXPECTED {
            return CacheVerdict::AsExpected;
        }
        let share = (actual as f64 / expected as f64).clamp(0.0, 1.0);
        let gain = if self.latest.replace(source) == Some(source) {
            GAIN_AGAIN
        } else {
            GAIN
        };
        self.trust = (self.trust + gain * (share - self.trust)).max(LEAST);
        if share > 0.1 {
            (self.misses, self.missed) = (0, None);
        } else if self.missed.replace(source) != Some(source) {
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
        let verdicts: Vec<_> = (0..4).map(|at| trust.observe(4_000, 0, at)).collect();
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
        for at in 0..100 {
            trust.observe(1_000, 600, at % 5);
        }
        assert!((trust.share() - 0.6).abs() < 0.01);
    }

    #[test]
    fn one_source_whose_prompts_are_never_cached_empties_nothing() {
        let mut trust = CacheTrust::default();
        for _ in 0..20 {
            assert_ne!(trust.observe(4_000, 0, 7), CacheVerdict::Cold);
            trust.observe(4_000, 4_000, 8);
            trust.observe(4_000, 4_000, 9);
            for _ in 0..5 {
                assert_ne!(trust.observe(4_000, 0, 7), CacheVerdict::Cold);
            }
        }
        assert!(trust.share() > 0.4, "{}", trust.share());
    }

    proptest! {
        #[test]
        fn trust_stays_in_bounds(reports in prop::collection::vec((any::<u64>(), any::<u64>(), 0u64..3), 0..100)) {
            let mut trust = CacheTrust::default();
            for (expected, actual, source) in reports {
                trust.observe(expected, actual, source);
                prop_assert!((LEAST..=1.0).contains(&trust.share()));
            }
        }
    }
}
