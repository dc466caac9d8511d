//! Seeded noise on step times: one cheap draw an iteration, the same for the same seed.

/// A SplitMix64 sequence turned into a bell-shaped factor around one.
#[derive(Debug, Clone)]
pub(crate) struct Noise {
    state: u64,
    deviation: f64,
}

impl Noise {
    /// Noise whose factor has the given standard deviation.
    pub(crate) fn new(seed: u64, deviation: f64) -> Self {
        Self {
            state: seed,
            deviation,
        }
    }

    /// The next factor: one on average, never below a twentieth.
    pub(crate) fn factor(&mut self) -> f64 {
        if self.deviation == 0.0 {
            return 1.0;
        }
        (1.0 + self.deviation * bell(self.next())).max(0.05)
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// The sum of four 16-bit uniforms, shifted and scaled to mean 0 and deviation 1.
fn bell(bits: u64) -> f64 {
    let sum = (bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) + ((bits >> 32) & 0xFFFF) + (bits >> 48);
    // At most 4 · 65535, exact in an f64.
    #[allow(clippy::cast_precision_loss)]
    let centred = sum as f64 / 65536.0 - 2.0;
    centred * 3.0_f64.sqrt()
}

#[cfg(test)]
mod tests {
    use super::Noise;

    #[test]
    fn factors_have_the_asked_mean_and_deviation() {
        let mut noise = Noise::new(7, 0.1);
        let draws: Vec<f64> = (0..100_000).map(|_| noise.factor()).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!((mean - 1.0).abs() < 0.002, "{mean}");
        assert!((variance.sqrt() - 0.1).abs() < 0.002, "{variance}");
    }

    #[test]
    fn no_noise_is_exactly_one() {
        let mut noise = Noise::new(7, 0.0);
        assert!((0..10).all(|_| noise.factor() == 1.0));
    }
}
