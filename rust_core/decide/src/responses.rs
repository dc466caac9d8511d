//! Which replica keeps which response: `/v1/responses` goes on from an earlier one by its id alone,
//! and an engine knows only those that it gave itself.

use crate::shards::{Shards, hash};
use std::collections::{HashMap, VecDeque};
use weighbridge_learn::usage::response_key;
use weighbridge_place::{Key, ReplicaId};

/// Responses of each shard that are known; then the oldest is forgotten. Together some 10 MB.
const MOST: usize = 8_192;

/// Replicas that a request is offered to, one after another, when it names a response of which it
/// is not known who keeps it: given by way of another sidecar, before a restart, or this very moment.
pub(crate) const ASKED: usize = 8;

/// Where a response is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The key of the conversation it belongs to.
    pub(crate) key: Key,
    /// The replica that gave it.
    pub(crate) replica: ReplicaId,
}

/// The responses that were given of late.
#[derive(Debug, Default)]
pub(crate) struct Responses {
    shards: Shards<Shard>,
}

#[derive(Debug, Default)]
struct Shard {
    kept: HashMap<u64, Kept>,
    oldest: VecDeque<u64>,
}

impl Responses {
    /// A reply to `tenant` carried an id, known by its [`response_key`].
    pub(crate) fn note(&self, tenant: &str, response: u64, kept: Kept) {
        let id = hash((tenant, response));
        let mut shard = self.shards.of(id);
        if shard.kept.insert(id, kept).is_none() {
            shard.oldest.push_back(id);
        }
        if shard.oldest.len() > MOST {
            if let Some(oldest) = shard.oldest.pop_front() {
                shard.kept.remove(&oldest);
            }
        }
    }

    /// What the response that `tenant` calls `id` is known by.
    pub(crate) fn known_by(tenant: &str, id: &str) -> u64 {
        hash((tenant, response_key(id.as_bytes())))
    }

    /// Where the response that `tenant` calls `id` is kept, if it is known.
    pub(crate) fn find(&self, tenant: &str, id: &str) -> Option<Kept> {
        let id = Self::known_by(tenant, id);
        self.shards.of(id).kept.get(&id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::SHARDS;

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
        let responses = Responses::default();
        note(&responses, "a", "resp_1", 7);
        assert_eq!(responses.find("a", "resp_1"), Some(kept(7)));
        assert_eq!(responses.find("b", "resp_1"), None);
        assert_eq!(responses.find("a", "resp_2"), None);
    }

    #[test]
    fn the_oldest_are_forgotten_and_memory_is_bounded() {
        let responses = Responses::default();
        for number in 0..200_000_u32 {
            note(&responses, "a", &format!("resp_{number}"), number);
            note(&responses, "a", &format!("resp_{number}"), number);
        }
        assert_eq!(responses.find("a", "resp_0"), None);
        assert_eq!(responses.find("a", "resp_199999"), Some(kept(199_999)));
        let held: usize = (0..SHARDS as u64)
            .map(|shard| responses.shards.of(shard).kept.len())
            .sum();
        assert!(held <= SHARDS * MOST, "{held}");
    }
}
