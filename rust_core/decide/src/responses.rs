//! Which replica keeps which response: `/v1/responses` goes on from an earlier one by its id alone,
//! and an engine knows only those that it gave itself.

use crate::metering::hash;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use weighbridge_learn::usage::response_key;
use weighbridge_place::{Key, ReplicaId};

/// Parts of the table.
const SHARDS: usize = 16;
/// Responses of each part that are known; then the oldest is forgotten. Together some 10 MB.
const MOST: usize = 8_192;

/// Where a response is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The key of the conversation it belongs to.
    pub(crate) key: Key,
    /// The replica that gave it.
    pub(crate) replica: ReplicaId,
}

/// The responses that were given of late.
#[derive(Debug)]
pub(crate) struct Responses {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    kept: HashMap<u64, Kept>,
    oldest: VecDeque<u64>,
}

impl Responses {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// A reply to `tenant` carried an id, known by its [`response_key`].
    pub(crate) fn note(&self, tenant: &str, response: u64, kept: Kept) {
        let id = hash((tenant, response));
        let mut shard = self.shard(id);
        if shard.kept.insert(id, kept).is_none() {
            shard.oldest.push_back(id);
        }
        if shard.oldest.len() > MOST {
            if let Some(oldest) = shard.oldest.pop_front() {
                shard.kept.remove(&oldest);
            }
        }
    }

    /// Where the response that `tenant` calls `id` is kept, if it is known.
    pub(crate) fn find(&self, tenant: &str, id: &str) -> Option<Kept> {
        let id = hash((tenant, response_key(id.as_bytes())));
        self.shard(id).kept.get(&id).copied()
    }

    #[allow(clippy::cast_possible_truncation)]
    fn shard(&self, id: u64) -> MutexGuard<'_, Shard> {
        let at = id as usize % SHARDS;
        // The remainder is below the number of parts.
        let shard = self.shards.get(at).unwrap_or(&self.shards[0]);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(number: u32) -> Kept {
        Kept {
            key: Key::of("a", b"s"),
            replica: ReplicaId(number),
        }
    }

    fn note(responses: &Responses, tenant: &str, id: &str, number: u32) {
        responses.note(tenant, response_key(id.as_bytes()), kept(number));
    }

    #[test]
    fn a_tenant_finds_its_own_responses_and_no_others() {
        let responses = Responses::new();
        note(&responses, "a", "resp_1", 7);
        assert_eq!(responses.find("a", "resp_1"), Some(kept(7)));
        assert_eq!(responses.find("b", "resp_1"), None);
        assert_eq!(responses.find("a", "resp_2"), None);
    }

    #[test]
    fn the_oldest_are_forgotten_and_memory_is_bounded() {
        let responses = Responses::new();
        for number in 0..200_000_u32 {
            note(&responses, "a", &format!("resp_{number}"), number);
            note(&responses, "a", &format!("resp_{number}"), number);
        }
        assert_eq!(responses.find("a", "resp_0"), None);
        assert_eq!(responses.find("a", "resp_199999"), Some(kept(199_999)));
        let held: usize = responses
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap().kept.len())
            .sum();
        assert!(held <= SHARDS * MOST, "{held}");
    }
}
