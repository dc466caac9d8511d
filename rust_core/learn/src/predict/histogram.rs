//! A decayed histogram of answer lengths: four buckets an octave, older answers count less.

use super::Prediction;

/// Lengths below this have a bucket each.
const EXACT: usize = 8;
/// Buckets of an octave.
const PARTS: usize = 4;
/// Octaves beyond the exact ones: up to a million tokens.
const OCTAVES: usize = 17;
pub(crate) const BUCKETS: usize = EXACT + OCTAVES * PARTS;

/// Weights above this are scaled down, long before an `f32` loses its last digits.
const HEAVIEST: f32 = 1e6;

/// Counts of answers by length.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: [f32; BUCKETS],
    /// Sum of the counts.
    total: f64,
    /// Sum of the lengths, weighed like the counts.
    tokens: f64,
    /// Weight of the next answer: it grows, which is the same as all earlier ones shrinking.
    weight: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: [0.0; BUCKETS],
            total: 0.0,
            tokens: 0.0,
            weight: 1.0,
        }
    }
}

impl Histogram {
    /// Adds an answer; one that lies `half_life` answers back counts half of it.
    pub(crate) fn add(&mut self, tokens: u64, half_life: f64) {
        if let Some(count) = self.counts.get_mut(bucket(tokens)) {
            *count += self.weight;
        }
        let weight = f64::from(self.weight);
        self.total += weight;
        #[allow(clippy::cast_precision_loss)]
        let tokens = tokens.min(1 << (3 + OCTAVES)) as f64;
        self.tokens += tokens * weight;
        #[allow(clippy::cast_possible_truncation)]
        let growth = half_life.max(1.0).recip().exp2() as f32;
        self.weight *= growth;
        if self.weight > HEAVIEST {
            self.scale(self.weight.recip());
            self.weight = 1.0;
        }
    }

    fn scale(&mut self, factor: f32) {
        for count in &mut self.counts {
            *count *= factor;
        }
        self.total *= f64::from(factor);
        self.tokens *= f64::from(factor);
    }

    /// How many answers it stands for, the latest counting one each.
    pub(crate) fn samples(&self) -> f64 {
        self.total / f64::from(self.weight)
    }

    /// Leans from this, the wider group, towards a narrower one, the more the more that has seen.
    pub(crate) fn lean(&mut self, narrow: &Self, trust: f64) {
        let samples = narrow.samples();
        let share = samples / (samples + trust);
        if self.total <= 0.0 || narrow.total <= 0.0 {
            return;
        }
        let own = (1.0 - share) / self.total;
        let other = share / narrow.total;
        #[allow(clippy::cast_possible_truncation)]
        for (count, narrow) in self.counts.iter_mut().zip(&narrow.counts) {
            *count = (f64::from(*count) * own + f64::from(*narrow) * other) as f32;
        }
        self.tokens = self.tokens * own + narrow.tokens * other;
        self.total = 1.0;
        self.weight = 1.0;
    }

    /// Its mean and quantiles.
    pub(crate) fn prediction(&self) -> Prediction {
        let [p50, p90, p95] = self.quantiles([0.5, 0.9, 0.95]);
        Prediction {
            mean: self.tokens / self.total.max(1e-12),
            p50,
            p90,
            p95,
        }
    }

    /// Quantiles at rising shares, spread evenly within a bucket.
    fn quantiles<const N: usize>(&self, shares: [f64; N]) -> [f64; N] {
        let total: f64 = self.counts.iter().map(|count| f64::from(*count)).sum();
        let mut found = [0.0; N];
        let mut wanted = shares.iter().zip(&mut found).peekable();
        let mut below = 0.0;
        for (at, count) in self.counts.iter().enumerate() {
            let count = f64::from(*count);
            while let Some((share, place)) = wanted.peek_mut() {
                let rank = **share * total;
                if below + count < rank || count <= 0.0 {
                    break;
                }
                let (from, to) = bounds(at);
                let inside = ((rank - below) / count).clamp(0.0, 1.0);
                **place = from + (to - from) * inside;
                wanted.next();
            }
            below += count;
        }
        found
    }
}

/// The bucket of a length.
fn bucket(tokens: u64) -> usize {
    let Ok(tokens) = usize::try_from(tokens.min(1 << (3 + OCTAVES))) else {
        return BUCKETS - 1;
    };
    if tokens < EXACT {
        return tokens;
    }
    let octave = tokens.ilog2() as usize - 3;
    let part = (tokens >> (octave + 1)) & (PARTS - 1);
    (EXACT + octave * PARTS + part).min(BUCKETS - 1)
}

/// The lengths of a bucket: from, and up to.
#[allow(clippy::cast_precision_loss)]
fn bounds(at: usize) -> (f64, f64) {
    if at < EXACT {
        return (at as f64, at as f64);
    }
    let octave = (at - EXACT) / PARTS;
    let part = (at - EXACT) % PARTS;
    let width = (1usize << (octave + 1)) as f64;
    let from = (8usize << octave) as f64 + part as f64 * width;
    (from, from + width - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_and_mean_of_a_known_distribution() {
        let mut histogram = Histogram::default();
        for tokens in 1..=1_000 {
            histogram.add(tokens, 1e9);
        }
        let prediction = histogram.prediction();
        assert!((prediction.mean - 500.5).abs() < 0.1);
        assert!((prediction.p50 - 500.0).abs() < 20.0, "{prediction:?}");
        assert!((prediction.p90 - 900.0).abs() < 40.0, "{prediction:?}");
        assert!((prediction.p95 - 950.0).abs() < 60.0, "{prediction:?}");
    }

    #[test]
    fn what_is_old_fades() {
        let mut histogram = Histogram::default();
        for _ in 0..100_000 {
            histogram.add(1_000, 100.0);
        }
        for _ in 0..700 {
            histogram.add(10, 100.0);
        }
        let prediction = histogram.prediction();
        assert!(
            prediction.mean < 20.0 && prediction.p95 < 12.0,
            "{prediction:?}"
        );
    }

    proptest! {
        #[test]
        fn a_length_lies_in_its_bucket(tokens in 0u64..3_000_000) {
            let (from, to) = bounds(bucket(tokens));
            let capped = tokens.min((1 << 20) - 1) as f64;
            prop_assert!(from <= capped && capped <= to, "{tokens} not in {from}..{to}");
        }

        #[test]
        fn quantiles_rise(lengths in prop::collection::vec(0u64..100_000, 1..100)) {
            let mut histogram = Histogram::default();
            for tokens in &lengths {
                histogram.add(*tokens, 50.0);
            }
            let p = histogram.prediction();
            prop_assert!(p.p50 <= p.p90 && p.p90 <= p.p95);
            let most = *lengths.iter().max().unwrap() as f64;
            prop_assert!(p.p95 <= most * 1.25 + 1.0);
        }
    }
}
