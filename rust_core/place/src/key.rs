//! Keys: where a request stands in the key space of its model.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A point of the 64-bit key space: the workload in the high 32 bits, the session in the low 32.
///
/// A workload thus owns one contiguous stretch of 2³² keys, which slices divide. Each model has a
/// key space of its own, so models never share a slice. Two tenants of one model whose hashes are
/// equal (among 1,000 tenants one chance in 8,600) share a stretch: that costs isolation, not
/// correctness. Two sessions whose hashes are equal share a home, as do thousands of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

const WORKLOAD_SEED: u64 = 0x7765_6967_6862_7269;
const SESSION_SEED: u64 = 0x7365_7373_696f_6e31;

impl Key {
    /// From the two hashes.
    #[must_use]
    pub const fn new(workload: u32, session: u32) -> Self {
        Self((workload as u64) << 32 | session as u64)
    }

    /// The key of a session of a tenant. The session is whatever identifies it: a header's value,
    /// or the hash of the first blocks.
    ///
    /// Without a tenant (an empty name) there is no workload to be kept on few replicas: the
    /// session alone gives all 64 bits, and its kind is spread over the model's whole key space.
    #[must_use]
    pub fn of(tenant: &str, session: &[u8]) -> Self {
        if tenant.is_empty() {
            return Self(xxh3_64_with_seed(session, SESSION_SEED));
        }
        Self::new(workload_hash(tenant), session_hash(session))
    }

    /// From its 64 bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its 64 bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The workload's hash.
    #[must_use]
    pub const fn workload(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The session's hash.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub const fn session(self) -> u32 {
        self.0 as u32
    }
}

/// The high bits of a key: a tenant's stretch in its model's key space.
#[must_use]
pub fn workload_hash(tenant: &str) -> u32 {
    high(xxh3_64_with_seed(tenant.as_bytes(), WORKLOAD_SEED))
}

/// The low bits of a key.
#[must_use]
pub fn session_hash(session: &[u8]) -> u32 {
    high(xxh3_64_with_seed(session, SESSION_SEED))
}

const fn high(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Mixes a seed and a value into 64 well-spread bits (the finaliser of `SplitMix64`).
#[must_use]
pub(crate) const fn mix(seed: u64, value: u64) -> u64 {
    let mut z = seed ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_sessions_share_a_stretch_and_nobodys_are_everywhere() {
        let keys = |tenant: &str| -> Vec<Key> {
            (0..1000)
                .map(|session| Key::of(tenant, format!("s{session}").as_bytes()))
                .collect()
        };
        let workload = keys("acme")[0].workload();
        assert!(keys("acme").iter().all(|key| key.workload() == workload));
        let mut eighths = [0; 8];
        for key in keys("") {
            eighths[(key.bits() >> 61) as usize] += 1;
        }
        assert!(eighths.iter().all(|count| *count > 80), "{eighths:?}");
    }
}
