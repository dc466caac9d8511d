//! How fast a queue drains: MU given back while requests wait.

/// Trust in the nominal rate, as ms of observation.
const PRIOR_MS: f64 = 1_000.0;
/// Observation is halved when it is older than this, ms.
const MEMORY_MS: f64 = 20_000.0;

/// Measures the rate at which a full gate gives back MU; knows the nominal rate to begin with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Drain {
    mu: f64,
    ms: f64,
}

impl Drain {
    /// Time has passed with requests waiting.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn waited(&mut self, us: u64) {
        self.ms += us as f64 / 1000.0;
        if self.ms > MEMORY_MS {
            self.ms /= 2.0;
            self.mu /= 2.0;
        }
    }

    /// MU were given back with requests waiting.
    pub(crate) fn drained(&mut self, mu: f64) {
        self.mu += mu.max(0.0);
    }

    /// MU per ms, never zero.
    pub(crate) fn mu_per_ms(&self, nominal: f64) -> f64 {
        let rate = (self.mu + nominal.max(0.0) * PRIOR_MS) / (self.ms + PRIOR_MS);
        rate.max(1e-6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurement_takes_over_from_the_nominal_rate() {
        let mut drain = Drain::default();
        assert!((drain.mu_per_ms(8.0) - 8.0).abs() < 1e-9);
        for _ in 0..60_000 {
            drain.waited(1_000);
            drain.drained(2.0);
        }
        let rate = drain.mu_per_ms(8.0);
        assert!((2.0..2.7).contains(&rate), "{rate}");
    }
}
