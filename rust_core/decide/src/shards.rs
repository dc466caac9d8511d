//! State in parts, each behind a lock of its own, so that requests seldom wait for one another.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many parts there are.
pub(crate) const SHARDS: usize = 16;

/// What is kept, by the hash of a key.
#[derive(Debug)]
pub(crate) struct Shards<T>([Mutex<T>; SHARDS]);

impl<T: Default> Default for Shards<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl<T> Shards<T> {
    /// The part in which the key of this hash is.
    pub(crate) fn of(&self, hash: u64) -> MutexGuard<'_, T> {
        #[allow(clippy::cast_possible_truncation)]
        let at = hash as usize % SHARDS;
        // The remainder is always within the array.
        let shard = self.0.get(at).unwrap_or_else(|| {
            let [first, ..] = &self.0;
            first
        });
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All parts, one after another.
    pub(crate) fn all(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A hash that is the same in every run.
pub(crate) fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
