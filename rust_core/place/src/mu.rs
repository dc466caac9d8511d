//! Model units in exact fixed point, so that sums of charges return to zero.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

/// Millionths of a model unit. 1 MU is 1 ms of exclusive engine time of one reference replica.
///
/// Additions are exact in any order, which floating point is not: a ledger that adds and later
/// takes away the same amounts ends at zero. The range is ±9.2 · 10¹² MU (292 years of one engine).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroMu(i64);

/// Millionths in one model unit.
const MICRO: f64 = 1_000_000.0;

/// The most that one amount may be, in MU: ten engine-days, so that 10⁴ of them still add up.
const CEILING_MU: f64 = 864_000_000.0;

impl MicroMu {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From whole millionths.
    #[must_use]
    pub const fn from_micro(micro: i64) -> Self {
        Self(micro)
    }

    /// From model units, rounded to the nearest millionth. Clamped to ± ten engine-days; what is
    /// not a number counts as nothing, so that a broken estimate cannot poison a sum.
    #[must_use]
    pub fn from_mu(mu: f64) -> Self {
        if mu.is_nan() {
            return Self::ZERO;
        }
        #[allow(clippy::cast_possible_truncation)]
        Self((mu.clamp(-CEILING_MU, CEILING_MU) * MICRO).round() as i64)
    }

    /// In whole millionths.
    #[must_use]
    pub const fn micro(self) -> i64 {
        self.0
    }

    /// In model units.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn as_mu(self) -> f64 {
        self.0 as f64 / MICRO
    }

    /// `count` times this amount, within what an `i64` holds.
    #[must_use]
    pub const fn times(self, count: u32) -> Self {
        Self(self.0.saturating_mul(count as i64))
    }
}

impl Add for MicroMu {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl Sub for MicroMu {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }
}

impl Neg for MicroMu {
    type Output = Self;
    fn neg(self) -> Self {
        Self(self.0.wrapping_neg())
    }
}

impl AddAssign for MicroMu {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for MicroMu {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for MicroMu {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_both_ways_to_the_millionth() {
        assert_eq!(MicroMu::from_mu(1.5).micro(), 1_500_000);
        assert_eq!(MicroMu::from_mu(0.000_000_6).micro(), 1);
        assert!((MicroMu::from_micro(2_250_000).as_mu() - 2.25).abs() < f64::EPSILON);
    }

    #[test]
    fn a_broken_estimate_cannot_poison_a_sum() {
        assert_eq!(MicroMu::from_mu(f64::NAN), MicroMu::ZERO);
        let huge = MicroMu::from_mu(f64::INFINITY);
        assert_eq!(huge, MicroMu::from_mu(1e300));
        assert_eq!(
            (0..10_000).map(|_| huge).sum::<MicroMu>().as_mu(),
            CEILING_MU * 10_000.0
        );
    }
}
