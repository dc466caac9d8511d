//! Warm-up: a new replica gets its share by degrees.

/// How a replica that has just come, or come back cold, grows into its capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarmUp {
    /// Share of its capacity that it may be given at first, 0 to 1.
    pub first_share: f64,
    /// Milliseconds until it may be given all.
    pub over_ms: u64,
}

impl Default for WarmUp {
    fn default() -> Self {
        Self {
            first_share: 0.1,
            over_ms: 60_000,
        }
    }
}

impl WarmUp {
    /// The share at an age: grows evenly from the first share to 1.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn share(&self, age_ms: u64) -> f64 {
        if age_ms >= self.over_ms {
            return 1.0;
        }
        let first = self.first_share.clamp(0.001, 1.0);
        first + (1.0 - first) * age_ms as f64 / self.over_ms as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_from_the_first_share_to_all() {
        let warm_up = WarmUp {
            first_share: 0.25,
            over_ms: 1_000,
        };
        let shares: Vec<f64> = [0, 500, 1_000, u64::MAX]
            .map(|age| warm_up.share(age))
            .into();
        assert_eq!(shares, [0.25, 0.625, 1.0, 1.0]);
        assert_eq!(
            WarmUp {
                first_share: 0.5,
                over_ms: 0
            }
            .share(0),
            1.0
        );
    }
}
