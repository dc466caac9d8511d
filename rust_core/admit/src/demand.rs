//! How much is asked for, beside what the replicas do.

use weighbridge_place::MicroMu;

/// What requests have asked for recently, whatever became of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand {
    /// MU that have not faded.
    asked: f64,
    at_us: u64,
}

/// Time in which what was asked for fades to 1/e, µs.
const FADES_US: f64 = 15e6;

/// Share of the capacity asked for from which there is pressure…
const FROM: f64 = 0.7;
/// …and at which there is all of it.
const TO: f64 = 1.0;

impl Demand {
    /// A request asks for so much.
    pub(crate) fn asked(&mut self, work: MicroMu, now_us: u64) {
        self.asked = self.left(now_us) + work.as_mu();
        self.at_us = self.at_us.max(now_us);
    }

    /// How short capacity of `mu_per_ms` is, from 0 to 1. It follows what is asked for alone, not what
    /// waits: otherwise what is done about the pressure could keep it up.
    pub(crate) fn pressure(&self, mu_per_ms: f64, now_us: u64) -> f64 {
        let share = self.left(now_us) / (mu_per_ms.max(1e-9) * FADES_US / 1e3);
        ((share - FROM) / (TO - FROM)).clamp(0.0, 1.0)
    }

    fn left(&self, now_us: u64) -> f64 {
        let passed = now_us.saturating_sub(self.at_us);
        self.asked * (-(passed as f64) / FADES_US).exp()
    }
}
