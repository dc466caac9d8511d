//! The groups of requests whose answers are alike in length: bounded, sharded, read without waiting.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

use super::histogram::Histogram;
use super::{Ask, Prediction, Published};

/// Groups that a request belongs to, narrowest first.
const LEVELS: usize = 3;
const SHARDS: usize = 64;
/// Groups looked at to find one to forget.
const LOOKED_AT: usize = 64;

/// The groups of a request, narrowest first: workload with everything known, workload and size of
/// the prompt, workload.
pub(crate) fn keys(ask: &Ask) -> [u64; LEVELS] {
    let prompt = size_class(ask.prompt_tokens, 2);
    let most = ask.max_tokens.map_or(0, |most| 1 + size_class(most, 0));
    let flags = u64::from(ask.stream) | u64::from(ask.tools) << 1;
    [
        key(0, ask.workload, prompt << 16 | most << 8 | flags),
        key(1, ask.workload, prompt),
        key(2, ask.workload, 0),
    ]
}

/// So many classes an octave, as a power of two.
fn size_class(tokens: u64, parts_log2: u32) -> u64 {
    let Some(octave) = tokens.checked_ilog2() else {
        return 0;
    };
    let mask = (1 << parts_log2) - 1;
    let part = tokens.rotate_right(octave.wrapping_sub(parts_log2)) & mask;
    (u64::from(octave + 1) << parts_log2) | part
}

fn key(level: u64, scope: u64, rest: u64) -> u64 {
    let mut bytes = [0u8; 24];
    let (first, tail) = bytes.split_at_mut(8);
    let (second, third) = tail.split_at_mut(8);
    first.copy_from_slice(&level.to_le_bytes());
    second.copy_from_slice(&scope.to_le_bytes());
    third.copy_from_slice(&rest.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// Keys are hashes already. (Tenants' names go through a hash that they could search collisions
/// of; all they would win is to share a group.)
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[derive(Debug)]
struct Group {
    key: u64,
    histogram: Histogram,
    published: Published,
    /// Read or written again since it was last looked at to be forgotten.
    used: AtomicBool,
}

#[derive(Debug, Default)]
struct Shard {
    by_key: HashMap<u64, usize, BuildHasherDefault<AsIs>>,
    slots: Vec<Group>,
    hand: usize,
}

/// All groups.
#[derive(Debug)]
pub(crate) struct Groups {
    shards: Vec<RwLock<Shard>>,
    most_in_shard: usize,
}

impl Groups {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            most_in_shard: (most / SHARDS).max(LEVELS),
        }
    }

    pub(crate) fn len(&self) -> usize {
        let count = |shard: &RwLock<Shard>| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.slots.len()
        };
        self.shards.iter().map(count).sum()
    }

    fn shard(&self, key: u64) -> Option<&RwLock<Shard>> {
        #[allow(clippy::cast_possible_truncation)]
        self.shards.get((key >> 48) as usize % SHARDS)
    }

    /// What a group says, if it is known.
    pub(crate) fn read(&self, key: u64) -> Option<Prediction> {
        let shard = self
            .shard(key)?
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let group = shard.slots.get(*shard.by_key.get(&key)?)?;
        if !group.used.load(Relaxed) {
            group.used.store(true, Relaxed);
        }
        Some(group.published.load())
    }

    /// Changes a group's histogram and publishes what comes of it.
    pub(crate) fn write(&self, key: u64, change: impl FnOnce(&mut Histogram) -> Prediction) {
        let Some(shard) = self.shard(key) else {
            return;
        };
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        let (slot, known) = shard.find_or_make(key, self.most_in_shard);
        if let Some(group) = shard.slots.get_mut(slot) {
            let prediction = change(&mut group.histogram);
            group.published.store(&prediction);
            *group.used.get_mut() = known;
        }
    }
}

impl Shard {
    fn find_or_make(&mut self, key: u64, most: usize) -> (usize, bool) {
        if let Some(slot) = self.by_key.get(&key) {
            return (*slot, true);
        }
        let group = Group {
            key,
            histogram: Histogram::default(),
            published: Published::default(),
            used: AtomicBool::new(false),
        };
        let slot = if self.slots.len() < most {
            self.slots.push(group);
            self.slots.len() - 1
        } else {
            let slot = self.least_used();
            if let Some(place) = self.slots.get_mut(slot) {
                self.by_key.remove(&place.key);
                *place = group;
            }
            slot
        };
        self.by_key.insert(key, slot);
        (slot, false)
    }

    /// One that was not used since the hand last passed it, if there is one nearby.
    fn least_used(&mut self) -> usize {
        for _ in 0..LOOKED_AT {
            self.hand = (self.hand + 1) % self.slots.len().max(1);
            let used = self
                .slots
                .get_mut(self.hand)
                .is_some_and(|group| std::mem::take(group.used.get_mut()));
            if !used {
                break;
            }
        }
        self.hand
    }
}
