//! Keys by the hash of their content: chains threaded through one array.
//!
//! Blocks come and go all the time. A table with tombstones slows down under that; here,
//! removing is unlinking, next to the element that is removed anyway.

use crate::list::NONE;

/// Buckets of an empty index.
const FEWEST: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u64,
    after: u32,
}

/// Small dense keys, each with a hash; a hash has one key at most.
#[derive(Debug)]
pub(crate) struct Index {
    /// The first key of each chain; their number is a power of two.
    buckets: Vec<u32>,
    entries: Vec<Entry>,
    len: usize,
}

impl Index {
    pub(crate) fn new() -> Self {
        Self {
            buckets: vec![NONE; FEWEST],
            entries: Vec::new(),
            len: 0,
        }
    }

    pub(crate) fn get(&self, hash: u64) -> Option<u32> {
        let mut key = *self.buckets.get(self.bucket(hash))?;
        while let Some(entry) = self.entries.get(to_index(key)) {
            if entry.hash == hash {
                return Some(key);
            }
            key = entry.after;
        }
        None
    }

    /// The hash of a key that is in.
    pub(crate) fn hash(&self, key: u32) -> Option<u64> {
        self.entries.get(to_index(key)).map(|entry| entry.hash)
    }

    /// Adds a key that is not in, with a hash that is not in.
    pub(crate) fn insert(&mut self, key: u32, hash: u64) {
        if self.len >= self.buckets.len() {
            self.grow();
        }
        let at = to_index(key);
        if at >= self.entries.len() {
            let none = Entry {
                hash: 0,
                after: NONE,
            };
            self.entries.resize(at + 1, none);
        }
        self.link(key, hash);
        self.len += 1;
    }

    /// Takes a key out that is in.
    pub(crate) fn remove(&mut self, key: u32) {
        let Some(Entry { hash, after }) = self.entries.get(to_index(key)).copied() else {
            return;
        };
        let bucket = self.bucket(hash);
        let Some(first) = self.buckets.get_mut(bucket) else {
            return;
        };
        let mut before = *first;
        if before == key {
            *first = after;
            self.len -= 1;
            return;
        }
        while let Some(entry) = self.entries.get_mut(to_index(before)) {
            if entry.after == key {
                entry.after = after;
                self.len -= 1;
                return;
            }
            before = entry.after;
        }
    }

    fn link(&mut self, key: u32, hash: u64) {
        let bucket = self.bucket(hash);
        if let (Some(first), Some(entry)) = (
            self.buckets.get_mut(bucket),
            self.entries.get_mut(to_index(key)),
        ) {
            *entry = Entry {
                hash,
                after: *first,
            };
            *first = key;
        }
    }

    fn grow(&mut self) {
        let double = vec![NONE; self.buckets.len() * 2];
        for first in std::mem::replace(&mut self.buckets, double) {
            let mut key = first;
            while let Some(Entry { hash, after }) = self.entries.get(to_index(key)).copied() {
                self.link(key, hash);
                key = after;
            }
        }
    }

    /// Callers may count instead of hashing: one multiplication spreads what they give.
    fn bucket(&self, hash: u64) -> usize {
        let spread = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        usize::try_from(spread).unwrap_or(0) & (self.buckets.len() - 1)
    }
}

fn to_index(key: u32) -> usize {
    usize::try_from(key).unwrap_or(usize::MAX)
}

#[cfg(test)]
impl Index {
    /// All hashes, found by walking the chains.
    pub(crate) fn hashes(&self) -> Vec<u64> {
        let mut hashes = Vec::new();
        for first in &self.buckets {
            let mut key = *first;
            while key != NONE {
                let entry = self.entries[to_index(key)];
                hashes.push(entry.hash);
                key = entry.after;
            }
        }
        assert_eq!(hashes.len(), self.len);
        hashes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::Index;

    proptest! {
        /// Against a map: few hashes, so that they meet in the same chains and come again.
        #[test]
        fn it_is_a_map(actions in prop::collection::vec((0..300_u64, any::<bool>()), 1..2000)) {
            let mut index = Index::new();
            let mut map: HashMap<u64, u32> = HashMap::new();
            let mut vacant: Vec<u32> = (0..300).collect();
            for (hash, add) in actions {
                // All in few buckets: multiples of the table's size.
                let hash = hash << 40;
                prop_assert_eq!(index.get(hash), map.get(&hash).copied());
                match (map.get(&hash).copied(), add) {
                    (None, true) => {
                        let key = vacant.pop().unwrap();
                        index.insert(key, hash);
                        map.insert(hash, key);
                        prop_assert_eq!(index.hash(key), Some(hash));
                    }
                    (Some(key), false) => {
                        index.remove(key);
                        map.remove(&hash);
                        vacant.push(key);
                    }
                    _ => {}
                }
            }
            let mut walked = index.hashes();
            let mut expected: Vec<u64> = map.keys().copied().collect();
            walked.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(walked, expected);
        }
    }
}
