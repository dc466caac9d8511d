//! The prefix index against a slow model, and under threads.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Barrier};
use std::thread;

use proptest::prelude::*;
use weighbridge_place::{PrefixIndex, Registry, ReplicaCache, ReplicaId, ReplicaSpec};

/// One replica's blocks, oldest first: the definition that the index must agree with.
#[derive(Clone, Debug, Default)]
struct Model {
    blocks: Vec<u64>,
    limit: usize,
}

impl Model {
    fn record(&mut self, chain: &[u64]) {
        for block in chain.iter().take(self.limit).rev() {
            self.blocks.retain(|held| held != block);
            self.blocks.push(*block);
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        let surplus = self.blocks.len().saturating_sub(self.limit);
        self.blocks.drain(..surplus);
    }

    fn matched(&self, chain: &[u64]) -> u32 {
        let held: BTreeSet<u64> = self.blocks.iter().copied().collect();
        chain
            .iter()
            .take_while(|block| held.contains(block))
            .count() as u32
    }
}

/// A chain: the path from the root to a node of a tree of prefixes. Equal paths, equal hashes.
fn chain(path: &[u8]) -> Vec<u64> {
    let mut hash = 0u64;
    path.iter()
        .map(|step| {
            hash = (hash ^ u64::from(*step) ^ 0x51)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(23);
            hash
        })
        .collect()
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    // Few branches near the root, so that many replicas share prefixes.
    (0u8..2, 0u8..2, prop::collection::vec(0u8..3, 0..12)).prop_map(|(first, second, rest)| {
        let mut path = vec![first, 0, second];
        path.extend(rest);
        path
    })
}

#[derive(Clone, Debug)]
enum Step {
    Record(usize, Vec<u8>),
    Clear(usize),
    Limit(usize, usize),
    Match(Vec<u8>),
}

fn step(replicas: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..replicas, path()).prop_map(|(at, path)| Step::Record(at, path)),
        1 => (0..replicas).prop_map(Step::Clear),
        1 => (0..replicas, 0usize..60).prop_map(|(at, limit)| Step::Limit(at, limit)),
        8 => path().prop_map(Step::Match),
    ]
}

fn caches(index: &Arc<PrefixIndex>, count: usize, limit: usize) -> Vec<ReplicaCache> {
    // Numbers far apart, so that rows of bits have several words and grow.
    (0..count as u32)
        .map(|at| ReplicaCache::new(Arc::clone(index), ReplicaId(at * 29), limit))
        .collect()
}

#[test]
fn what_is_expected_draws_others_pushes_nothing_out_and_is_gone_when_it_does_not_happen() {
    let index = PrefixIndex::new();
    let cache = ReplicaCache::new(Arc::clone(&index), ReplicaId(3), 512);
    let held: Vec<u64> = (1..=512).collect();
    cache.record(&held);
    let found = |chain: &[u64]| index.matches(chain).blocks(ReplicaId(3));
    // Refused prompts without end, each longer than the whole cache.
    for number in 1..50u64 {
        let refused: Vec<u64> = (0..2_000).map(|at| number << 32 | at).collect();
        cache.expect(&refused);
        assert!((1..=64).contains(&found(&refused)), "{}", found(&refused));
        assert_eq!(found(&held), 512);
        if number % 2 == 0 {
            cache.forget(&refused);
            assert_eq!(found(&refused), 0);
        }
    }
    assert!(index.size().blocks <= 512 + 64);
    // Answered, it is as any other.
    let answered: Vec<u64> = (9_000..9_010).collect();
    cache.expect(&answered);
    cache.record(&answered);
    cache.forget(&answered);
    assert_eq!(found(&answered), 10);
    // What was held before stays when a request with the same beginning fails.
    cache.expect(&[9_000, 9_001, 77]);
    assert_eq!(found(&[9_000, 9_001, 77]), 3);
    cache.forget(&[9_000, 9_001, 77]);
    assert_eq!(found(&answered), 10);
    cache.clear();
    assert_eq!(index.size().blocks, 0);
}

proptest! {
    #[test]
    fn whatever_was_expected_nothing_of_it_outlives_the_request(
        steps in prop::collection::vec((0usize..4, path(), any::<bool>()), 1..200),
    ) {
        let index = PrefixIndex::new();
        let caches = caches(&index, 4, 40);
        let mut models = vec![Model { limit: 40, ..Model::default() }; caches.len()];
        for (at, path, is_answered) in steps {
            let asked = chain(&path);
            caches[at].expect(&asked);
            if is_answered {
                models[at].record(&asked);
                caches[at].record(&asked);
            } else {
                caches[at].forget(&asked);
            }
            prop_assert_eq!(caches[at].len(), models[at].blocks.len());
        }
        let distinct: BTreeSet<u64> = models.iter().flat_map(|m| m.blocks.clone()).collect();
        prop_assert_eq!(index.size().blocks, distinct.len());
    }

    #[test]
    fn finds_the_longest_match_of_every_replica(
        steps in prop::collection::vec(step(11), 1..400),
    ) {
        let index = PrefixIndex::new();
        let caches = caches(&index, 11, 40);
        let mut models = vec![Model { limit: 40, ..Model::default() }; caches.len()];
        for step in steps {
            match step {
                Step::Record(at, path) => {
                    let before = models[at].blocks.clone();
                    models[at].record(&chain(&path));
                    let fresh = caches[at].record(&chain(&path));
                    let new = chain(&path).iter().filter(|block| !before.contains(block)).count();
                    prop_assert!(fresh <= new);
                    prop_assert!(fresh == new || path.len() > models[at].limit);
                }
                Step::Clear(at) => {
                    models[at].blocks.clear();
                    caches[at].clear();
                }
                Step::Limit(at, limit) => {
                    models[at].limit = limit;
                    models[at].shrink();
                    caches[at].set_limit(limit);
                }
                Step::Match(path) => {
                    let asked = chain(&path);
                    let matches = index.matches(&asked);
                    let mut best: Vec<u32> = Vec::new();
                    for (at, model) in models.iter().enumerate() {
                        let depth = model.matched(&asked);
                        prop_assert_eq!(matches.blocks(ReplicaId(at as u32 * 29)), depth);
                        best.extend((depth > 0).then_some(depth));
                    }
                    best.sort_unstable_by(|a, b| b.cmp(a));
                    let named = matches.best(4, 77);
                    let depths: Vec<u32> = named.iter().map(|(_, depth)| *depth).collect();
                    prop_assert_eq!(&depths, &best[..best.len().min(4)]);
                    for (id, depth) in named {
                        prop_assert_eq!(matches.blocks(id), depth);
                    }
                    prop_assert_eq!(matches.deepest(), best.first().copied().unwrap_or(0));
                }
            }
        }
        let distinct: BTreeSet<u64> = models.iter().flat_map(|m| m.blocks.clone()).collect();
        prop_assert_eq!(index.size().blocks, distinct.len());
        for (cache, model) in caches.iter().zip(&models) {
            prop_assert_eq!(cache.len(), model.blocks.len());
            cache.clear();
        }
        prop_assert_eq!(index.size().blocks, 0);
    }
}

/// A session's chain: so many blocks that depend on it alone.
fn session(number: u64, blocks: usize) -> Vec<u64> {
    (0..blocks as u64)
        .map(|at| ((number << 20) + at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .collect()
}

proptest! {
    /// What sparse indexes may get wrong: a match is too short by less than one part of so many as
    /// are kept from a depth to its double, and never too long.
    #[test]
    fn a_sparse_index_finds_nearly_the_whole_match(
        per_doubling in 1u32..40,
        cached in 0usize..3_000,
        more in 0usize..1_000,
    ) {
        let index = PrefixIndex::sparse(per_doubling);
        let cache = ReplicaCache::new(Arc::clone(&index), ReplicaId(7), usize::MAX);
        let next_turn = session(1, cached + more);
        let fresh = cache.record(&next_turn[..cached]);
        let matched = index.matches(&next_turn).blocks(ReplicaId(7)) as usize;
        let least = cached - cached / per_doubling.next_power_of_two() as usize;
        prop_assert!((least..=cached).contains(&matched), "{matched} of {cached}");
        prop_assert_eq!((fresh, cache.len()), (matched, matched));
    }

    #[test]
    fn a_sparse_index_keeps_within_blocks_and_marks(
        turns in prop::collection::vec((0u64..20, 1usize..2_000), 1..200),
        limit in 100usize..10_000,
        most_marks in 10usize..500,
    ) {
        let index = PrefixIndex::sparse(8);
        let cache = ReplicaCache::new(Arc::clone(&index), ReplicaId(0), limit);
        cache.set_most_marks(most_marks);
        for (number, blocks) in turns {
            cache.record(&session(number, blocks));
            prop_assert!(cache.len() <= limit && cache.marks() <= most_marks);
            prop_assert_eq!(index.size().blocks, cache.marks());
            // The latest is held, from its root on, as far as there is room.
            let latest = index.matches(&session(number, blocks)).blocks(ReplicaId(0)) as usize;
            prop_assert!(latest > 0);
        }
        cache.clear();
        prop_assert_eq!((cache.len(), cache.marks(), index.size().blocks), (0, 0, 0));
    }
}

/// Writers on many threads, readers beside them; once quiet, the common table is the union of the
/// replicas' parts.
#[test]
fn agrees_with_itself_after_a_storm() {
    let index = PrefixIndex::new();
    let caches = caches(&index, 24, 60);
    let barrier = Barrier::new(6);
    thread::scope(|scope| {
        for thread in 0..4u64 {
            let (caches, barrier) = (&caches, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let mut random = thread + 1;
                for _ in 0..8_000 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let path: Vec<u8> = (0..8).map(|at| (random >> (at * 2) & 3) as u8).collect();
                    let cache = &caches[(random >> 32) as usize % caches.len()];
                    cache.record(&chain(&path));
                    if random % 503 == 0 {
                        cache.clear();
                    }
                }
            });
        }
        for reader in 0..2u64 {
            let (index, barrier) = (&index, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for round in 0..20_000u64 {
                    let at = round * 7 + reader;
                    let path: Vec<u8> = (0..8).map(|step| (at >> (step * 2) & 3) as u8).collect();
                    let matches = index.matches(&chain(&path));
                    for (id, depth) in matches.best(4, round) {
                        assert!(id.0 % 29 == 0 && id.0 / 29 < 24, "a replica that never was");
                        assert!(depth <= 8 && depth == matches.blocks(id));
                    }
                }
            });
        }
    });

    let mut held: HashMap<u32, usize> = HashMap::new();
    let mut blocks = BTreeSet::new();
    for path in 0..1u32 << 16 {
        let path: Vec<u8> = (0..8).map(|step| (path >> (step * 2) & 3) as u8).collect();
        for block in chain(&path) {
            if blocks.insert(block) {
                let single = index.matches(&[block]);
                for cache in 0..24u32 {
                    *held.entry(cache).or_default() +=
                        single.blocks(ReplicaId(cache * 29)) as usize;
                }
            }
        }
    }
    for (at, cache) in caches.iter().enumerate() {
        assert_eq!(held[&(at as u32)], cache.len());
        cache.clear();
    }
    assert_eq!(index.size().blocks, 0);
}

#[test]
fn a_replica_that_breaks_promises_is_believed_to_hold_less_but_never_nothing() {
    let index = PrefixIndex::new();
    let cache = ReplicaCache::new(Arc::clone(&index), ReplicaId(0), 1_000);
    let blocks: Vec<u64> = (1..=1_000).collect();
    cache.record(&blocks);
    assert_eq!(cache.len(), 1_000);
    for _ in 0..70 {
        cache.observe(10, 4);
    }
    cache.record(&[]);
    assert!((450..550).contains(&cache.len()), "{}", cache.len());
    for _ in 0..100_000 {
        cache.observe(u32::MAX, 0);
    }
    assert_eq!(cache.allowed(), 62);
    for _ in 0..100_000 {
        cache.observe(10, 10);
    }
    assert_eq!(cache.allowed(), 1_000);
}

#[test]
fn the_end_of_a_chain_is_given_up_before_its_beginning() {
    let index = PrefixIndex::new();
    let cache = ReplicaCache::new(Arc::clone(&index), ReplicaId(3), 10);
    let (old, new) = (chain(&[1; 8]), chain(&[2; 5]));
    cache.record(&old);
    cache.record(&new);
    assert_eq!(index.matches(&old).blocks(ReplicaId(3)), 5);
    assert_eq!(index.matches(&new).blocks(ReplicaId(3)), 5);
}

/// A thousand replicas hold some 20 million blocks: the index's memory is bounded, yet each
/// replica's sessions are still known to be there while its KV memory has room for them.
#[test]
fn turnover_is_what_pushes_others_out_of_late() {
    let cache = ReplicaCache::new(PrefixIndex::new(), ReplicaId(0), 8);
    let turnover = |keep| {
        cache.fade(keep);
        cache.turnover()
    };
    cache.record(&[1, 2, 3, 4]);
    assert_eq!(turnover(1.0), 0.0, "there is room to spare");
    cache.record(&[11, 12, 13, 14]);
    assert_eq!(turnover(0.5), 1.0);
    cache.record(&[1, 2, 3, 4]);
    assert_eq!(
        turnover(1.0),
        0.5,
        "what is held already pushes nothing out"
    );
    cache.record(&[21, 22, 23, 24]);
    assert_eq!(turnover(0.0), 1.0);
    assert_eq!(turnover(1.0), 0.0);
    cache.record(&[31]);
    cache.clear();
    assert_eq!(turnover(1.0), 0.0);
}

#[test]
fn a_large_fleet_does_not_forget_what_its_replicas_still_hold() {
    let registry = Registry::default();
    let spec = |at: u32| ReplicaSpec {
        endpoint: format!("10.0.{}.{}:8000", at / 250, at % 250),
        model: "llama".into(),
        kv_tokens: 1_400_000,
        ..ReplicaSpec::default()
    };
    registry.replace((0..1_000).map(spec).collect());
    let pool = registry.pool();
    let replica = pool.replicas().next().unwrap();
    for number in 0..80 {
        replica.cache.record(&session(number, 200));
    }
    for number in 0..80 {
        let matched = pool
            .index()
            .matches(&session(number, 200))
            .blocks(replica.id);
        assert!(
            matched >= 175,
            "{matched} of 200 blocks of session {number}"
        );
    }
}

/// Replicas that hold equally much are named equally often: none gets requests for its number's sake.
#[test]
fn of_those_that_hold_a_prefix_each_is_named_as_often() {
    for holders in [4, 16, 60, 130] {
        let index = PrefixIndex::new();
        let caches: Vec<ReplicaCache> = (0..holders)
            .map(|id| ReplicaCache::new(Arc::clone(&index), ReplicaId(id), 10))
            .collect();
        for cache in &caches {
            cache.record(&[1, 2, 3]);
        }
        let matches = index.matches(&[1, 2, 3]);
        let rounds = u64::from(holders) * 200;
        let mut named: HashMap<u32, u32> = HashMap::new();
        for round in 0..rounds {
            let found = matches.best(2, round);
            assert_eq!(found.len(), 2);
            assert_ne!(found[0].0, found[1].0);
            for (id, _) in found {
                *named.entry(id.0).or_default() += 1;
            }
        }
        // 400 times each, if equally often.
        let times = |id: u32| named.get(&id).copied().unwrap_or(0);
        let (least, most) = (0..holders).fold((u32::MAX, 0), |(least, most), id| {
            (least.min(times(id)), most.max(times(id)))
        });
        assert!(least > 300 && most < 500, "{holders}: {least} to {most}");
    }
}
