//! Maps whose keys need no more hashing than one multiplication.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Keys are hashes already: one multiplication spreads them over the table.
#[derive(Default)]
pub(crate) struct SpreadHasher(u64);

impl Hasher for SpreadHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte) ^ self.0.rotate_left(8));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let wide = value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = wide ^ (wide >> 32);
    }
}

pub(crate) type SpreadMap<V> = HashMap<u64, V, BuildHasherDefault<SpreadHasher>>;
