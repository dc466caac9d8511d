//! How often tenants may have several replicas asked who keeps a response.

use crate::shards::Shards;
use std::collections::{HashMap, VecDeque};

/// A tenant's searches at once, and those that it wins back in a second.
const MOST_AT_ONCE: f64 = 64.0;
const PER_SECOND: f64 = 16.0;
/// How long a response that no replica knew is not searched again, µs.
const UNKNOWN_US: u64 = 30_000_000;
/// Tenants and unknown responses remembered in each shard.
const MOST: usize = 4_096;

/// What tenants have searched lately.
#[derive(Debug, Default)]
pub(crate) struct Seeking {
    tenants: Shards<HashMap<u64, Spent>>,
    unknown: Shards<Unknown>,
}

/// A tenant's searches, as far as they have not been won back.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    searches: f64,
    at_us: u64,
}

#[derive(Debug, Default)]
struct Unknown {
    until_us: HashMap<u64, u64>,
    oldest: VecDeque<u64>,
}

impl Spent {
    fn now(self, now_us: u64) -> Self {
        #[allow(clippy::cast_precision_loss)]
        let seconds = now_us.saturating_sub(self.at_us) as f64 / 1e6;
        Self {
            searches: (self.searches - seconds * PER_SECOND).max(0.0),
            at_us: self.at_us.max(now_us),
        }
    }
}

impl Seeking {
    /// Whether a tenant may have one more search, which is counted.
    pub(crate) fn may(&self, tenant: u64, now_us: u64) -> bool {
        let mut tenants = self.tenants.of(tenant);
        if tenants.len() >= MOST && !tenants.contains_key(&tenant) {
            tenants.retain(|_, spent| spent.now(now_us).searches > 0.0);
            if tenants.len() >= MOST {
                return false;
            }
        }
        let spent = tenants.entry(tenant).or_default();
        *spent = spent.now(now_us);
        let may = spent.searches + 1.0 <= MOST_AT_ONCE;
        if may {
            spent.searches += 1.0;
        }
        may
    }

    /// No replica knew a response, by the hash of its tenant and id.
    pub(crate) fn not_found(&self, response: u64, now_us: u64) {
        let mut unknown = self.unknown.of(response);
        let until_us = now_us.saturating_add(UNKNOWN_US);
        if unknown.until_us.insert(response, until_us).is_none() {
            unknown.oldest.push_back(response);
        }
        if unknown.oldest.len() > MOST {
            if let Some(oldest) = unknown.oldest.pop_front() {
                unknown.until_us.remove(&oldest);
            }
        }
    }

    /// Whether a response is one that no replica knew a short time ago.
    pub(crate) fn is_unknown(&self, response: u64, now_us: u64) -> bool {
        let unknown = self.unknown.of(response);
        unknown
            .until_us
            .get(&response)
            .is_some_and(|until_us| now_us < *until_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_s_searches_are_bounded_and_won_back() {
        let seeking = Seeking::default();
        let granted = |tenant, now_us| (0..1_000).filter(|_| seeking.may(tenant, now_us)).count();
        assert_eq!(granted(1, 0), 64);
        assert_eq!(granted(2, 0), 64, "another's are its own");
        assert_eq!(granted(1, 1_000_000), 16);
        assert_eq!(granted(1, 3_600_000_000), 64);
    }

    #[test]
    fn an_unknown_response_is_remembered_for_a_short_time_and_memory_is_bounded() {
        let seeking = Seeking::default();
        for response in 0..200_000 {
            seeking.not_found(response, 0);
            seeking.may(response, 0);
        }
        assert!(seeking.is_unknown(199_999, 29_000_000));
        assert!(!seeking.is_unknown(199_999, 30_000_000));
        assert!(!seeking.is_unknown(0, 0), "the oldest are forgotten");
        let held: usize = seeking.unknown.all().map(|part| part.until_us.len()).sum();
        assert!(held <= crate::shards::SHARDS * MOST, "{held}");
        let tenants: usize = seeking.tenants.all().map(|part| part.len()).sum();
        assert!(tenants <= crate::shards::SHARDS * MOST, "{tenants}");
    }
}
