//! A promise: a bucket of MU that refills with time, kept as the moment at which it would be full.

use crate::book::Terms;
use weighbridge_place::MicroMu;

/// Nanoseconds in a minute.
const MINUTE_NS: f64 = 60e9;
/// Debts are forgotten beyond this, ns (about 30 years): sums stay far from overflow.
const HORIZON_NS: f64 = 1e18;

/// A bucket of `burst` MU, refilled at a steady rate. Time is µs on the caller's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// ns that one MU takes to refill; 0 where nothing is promised.
    ns_per_mu: f64,
    /// ns that the whole bucket takes to refill.
    burst_ns: i64,
    /// When it would be full again, ns.
    full_at: i64,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(terms: &Terms) -> Self {
        let mut bucket = Self {
            ns_per_mu: 0.0,
            burst_ns: 0,
            full_at: 0,
        };
        bucket.set(terms, 0);
        bucket
    }

    /// Takes new terms; what is missing from it stays missing, in MU.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn set(&mut self, terms: &Terms, now_us: u64) {
        let now = ns(now_us);
        let missing_mu = if self.promises() {
            self.full_at.saturating_sub(now).max(0) as f64 / self.ns_per_mu
        } else {
            0.0
        };
        self.ns_per_mu = if terms.guaranteed_mu_per_min > 0.0 {
            MINUTE_NS / terms.guaranteed_mu_per_min
        } else {
            0.0
        };
        self.full_at = now.saturating_add(whole_ns(missing_mu * self.ns_per_mu));
        self.burst_ns = whole_ns(terms.burst() * self.ns_per_mu);
    }

    /// Whether anything is promised at all.
    pub(crate) fn promises(&self) -> bool {
        self.ns_per_mu > 0.0
    }

    /// The first moment at which the bucket is not empty, µs; always later than any moment before
    /// which it is empty.
    pub(crate) fn ready_at_us(&self) -> u64 {
        let ns = self.full_at.saturating_sub(self.burst_ns);
        u64::try_from(ns).map_or(0, |ns| ns / 1000 + 1)
    }

    /// Whether the tenant is within its promise.
    pub(crate) fn is_ready(&self, now_us: u64) -> bool {
        self.promises() && self.ready_at_us() <= now_us
    }

    /// Draws (or, if negative, gives back) an amount.
    pub(crate) fn draw(&mut self, amount: MicroMu, now_us: u64) {
        if !self.promises() {
            return;
        }
        let now = ns(now_us);
        let change = self.refill_ns(amount);
        self.full_at = self
            .full_at
            .max(now)
            .saturating_add(change)
            .clamp(now, now.saturating_add(whole_ns(HORIZON_NS)));
    }

    /// ns in which so much is refilled.
    pub(crate) fn refill_ns(&self, amount: MicroMu) -> i64 {
        whole_ns(amount.as_mu() * self.ns_per_mu)
    }

    /// MU in the bucket; negative while overdrawn.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn level_mu(&self, now_us: u64) -> f64 {
        if !self.promises() {
            return 0.0;
        }
        let missing = (self.full_at.saturating_sub(ns(now_us))).max(0);
        (self.burst_ns.saturating_sub(missing)) as f64 / self.ns_per_mu
    }

    /// µs until it is full.
    pub(crate) fn refilled_in_us(&self, now_us: u64) -> u64 {
        u64::try_from(self.full_at.saturating_sub(ns(now_us))).unwrap_or(0) / 1000
    }
}

fn ns(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX).saturating_mul(1000)
}

#[allow(clippy::cast_possible_truncation)]
fn whole_ns(value: f64) -> i64 {
    value.clamp(-HORIZON_NS, HORIZON_NS).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(per_min: f64, burst: f64) -> Bucket {
        Bucket::new(&Terms {
            guaranteed_mu_per_min: per_min,
            burst_mu: Some(burst),
            ..Terms::default()
        })
    }

    fn mu(value: f64) -> MicroMu {
        MicroMu::from_mu(value)
    }

    #[test]
    fn one_request_may_overdraw_it_and_the_debt_is_paid_in_time() {
        // 60,000 MU a minute: 1 MU a ms.
        let mut bucket = bucket(60_000.0, 10.0);
        assert!(bucket.is_ready(1));
        bucket.draw(mu(25.0), 0);
        assert!((bucket.level_mu(0) + 15.0).abs() < 1e-6);
        assert!(!bucket.is_ready(14_999));
        assert!(bucket.is_ready(15_001));
        assert_eq!(bucket.refilled_in_us(0), 25_000);
    }

    #[test]
    fn credit_never_fills_it_beyond_its_size() {
        let mut bucket = bucket(60_000.0, 10.0);
        bucket.draw(mu(5.0), 1_000_000);
        bucket.draw(mu(-500.0), 1_000_000);
        assert!((bucket.level_mu(1_000_000) - 10.0).abs() < 1e-6);
    }

    #[test]
    fn a_raised_promise_pays_the_same_debt_sooner() {
        let mut bucket = bucket(60_000.0, 10.0);
        bucket.draw(mu(40.0), 0);
        bucket.set(
            &Terms {
                guaranteed_mu_per_min: 120_000.0,
                burst_mu: Some(10.0),
                ..Terms::default()
            },
            10_000,
        );
        assert!((bucket.level_mu(10_000) + 20.0).abs() < 1e-6);
        assert_eq!(bucket.refilled_in_us(10_000), 15_000);
    }

    #[test]
    fn no_promise_is_never_ready() {
        let mut none = bucket(0.0, 0.0);
        none.draw(mu(1.0), 5);
        assert!(!none.is_ready(u64::MAX));
        assert!(none.level_mu(0).abs() < f64::EPSILON);
    }
}
