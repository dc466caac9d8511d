//! Random histories: what must hold after every iteration, whatever comes in.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;

use crate::{CapacityPolicy, Engine, EngineProfile, RequestSpec, Step};

pub(crate) const BLOCK: u32 = 4;

#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// A turn of a conversation that shares its first blocks with others.
    Submit {
        session: u8,
        blocks: u8,
        rest: u8,
        output: u8,
        slack: u8,
    },
    Cancel(u8),
    Iterate(u8),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..6_u8, 0..12_u8, 0..4_u8, 1..20_u8, 0..10_u8).prop_map(
            |(session, blocks, rest, output, slack)| Action::Submit { session, blocks, rest, output, slack }
        ),
        1 => any::<u8>().prop_map(Action::Cancel),
        5 => (1..12_u8).prop_map(Action::Iterate),
    ]
}

fn profile() -> impl Strategy<Value = EngineProfile> {
    (
        prop_oneof![
            Just(CapacityPolicy::GuaranteedNoEvict),
            Just(CapacityPolicy::MaxUtilization)
        ],
        18..60_u32,
        prop_oneof![Just(0_u32), 1..20_u32],
        1..6_u32,
        9..40_u32,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(policy, kv_blocks, host_blocks, batch, tokens, chunked_prefill, block_reuse)| {
                EngineProfile {
                    kv_blocks,
                    host_blocks,
                    tokens_per_block: BLOCK,
                    max_batch_size: batch,
                    max_num_tokens: tokens.max(batch + BLOCK),
                    chunked_prefill,
                    block_reuse,
                    policy,
                    ..EngineProfile::default()
                }
            },
        )
}

/// The chained hashes of a session's first `blocks` blocks; sessions of equal remainder
/// share their first three.
fn hashes(session: u8, blocks: u32) -> Arc<[u64]> {
    (0..blocks)
        .map(|i| {
            let owner = if i < 3 { session % 2 } else { session };
            u64::from(owner) * 1000 + u64::from(i) + 1
        })
        .collect()
}

pub(crate) fn spec(
    id: u64,
    session: u8,
    blocks: u8,
    rest: u8,
    output: u8,
    slack: u8,
) -> RequestSpec {
    let prompt_tokens = (u32::from(blocks) * BLOCK + u32::from(rest)).max(1);
    let output_tokens = u32::from(output);
    RequestSpec {
        id,
        block_hashes: hashes(session, (prompt_tokens + output_tokens) / BLOCK),
        prompt_tokens,
        output_tokens,
        max_tokens: output_tokens + u32::from(slack),
        image_tiles: 0,
    }
}

/// Follows a history from outside and checks it.
#[derive(Default)]
pub(crate) struct Witness {
    open: HashMap<u64, u32>,
    wanted: HashMap<u64, u32>,
    pub(crate) done: HashSet<u64>,
    pub(crate) pauses: u64,
}

impl Witness {
    fn see(&mut self, engine: &Engine, step: &Step) {
        engine.pool.check();
        let load = engine.load();
        let limit = engine.profile().max_batch_size;
        assert!(load.generating + load.prefilling <= limit);
        let spent = step.context_tokens + step.decoded.len() as u32;
        assert!(spent <= engine.profile().max_num_tokens);
        assert!(step.ends_at_ms > step.starts_at_ms);
        self.pauses += step.paused.len() as u64;
        for id in step.prefilled.iter().chain(&step.decoded) {
            *self.open.get_mut(id).expect("a token of an open request") += 1;
        }
        for finished in &step.finished {
            let produced = self.open.remove(&finished.id).expect("open until finished");
            assert_eq!(produced, finished.output_tokens);
            assert_eq!(produced, self.wanted[&finished.id]);
            assert!(self.done.insert(finished.id));
        }
        if engine.profile().policy == CapacityPolicy::GuaranteedNoEvict {
            assert!(step.paused.is_empty());
            assert!(engine.promised <= u64::from(engine.pool.available()));
        }
    }
}

/// Plays the actions and then lets the engine run dry.
pub(crate) fn play(profile: &EngineProfile, actions: &[Action], seed: u64) -> (Vec<Step>, Witness) {
    let mut engine = Engine::new(profile.clone(), seed).unwrap();
    let mut witness = Witness::default();
    let mut steps = Vec::new();
    let mut step = Step::default();
    let (mut now, mut next_id) = (0.0, 0);
    for action in actions {
        match *action {
            Action::Submit {
                session,
                blocks,
                rest,
                output,
                slack,
            } => {
                next_id += 1;
                let spec = spec(next_id, session, blocks, rest, output, slack);
                let longest = profile.longest_sequence().min(if profile.chunked_prefill {
                    u32::MAX
                } else {
                    profile.max_num_tokens + 1
                });
                let fits = spec.prompt_tokens < longest;
                match engine.submit(spec, now) {
                    Ok(accepted) => {
                        assert!(fits);
                        witness.open.insert(next_id, 0);
                        witness.wanted.insert(next_id, accepted.output_tokens);
                    }
                    Err(_) => assert!(!fits),
                }
            }
            Action::Cancel(n) => {
                let id = u64::from(n) % (next_id + 1);
                assert_eq!(engine.cancel(id), witness.open.remove(&id).is_some());
                engine.pool.check();
            }
            Action::Iterate(times) => {
                for _ in 0..times {
                    if !engine.step(now, &mut step) {
                        assert!(engine.is_idle(), "stuck: {:?}", engine.load());
                        break;
                    }
                    witness.see(&engine, &step);
                    now = step.ends_at_ms;
                    steps.push(step.clone());
                }
            }
        }
    }
    let mut left = 100_000;
    while engine.step(now, &mut step) {
        witness.see(&engine, &step);
        now = step.ends_at_ms;
        steps.push(step.clone());
        left -= 1;
        assert!(left > 0, "no progress");
    }
    assert!(engine.is_idle());
    assert!(witness.open.is_empty(), "{:?}", witness.open);
    assert_eq!(engine.load(), crate::Load::default());
    assert_eq!(engine.promised, 0);
    let kv = engine.kv_stats();
    assert_eq!((kv.used_blocks, kv.free_blocks), (0, profile.kv_blocks));
    (steps, witness)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_request_ends_and_every_block_comes_back(
        profile in profile(),
        actions in prop::collection::vec(action(), 1..80),
    ) {
        play(&profile, &actions, 1);
    }

    #[test]
    fn the_same_seed_gives_the_same_history(
        profile in profile(),
        actions in prop::collection::vec(action(), 1..40),
        seed in any::<u64>(),
    ) {
        prop_assert_eq!(play(&profile, &actions, seed).0, play(&profile, &actions, seed).0);
    }

    /// Without eviction what is found is exactly the longest prefix published before.
    #[test]
    fn reuse_is_exact_while_nothing_is_evicted(
        turns in prop::collection::vec((0..6_u8, 0..12_u8, 0..4_u8, 1..20_u8), 1..30),
    ) {
        let profile = EngineProfile { tokens_per_block: BLOCK, ..EngineProfile::default() };
        let mut engine = Engine::new(profile, 3).unwrap();
        let mut published: HashSet<u64> = HashSet::new();
        let mut step = Step::default();
        let mut now = 0.0;
        for (id, (session, blocks, rest, output)) in turns.into_iter().enumerate() {
            let spec = spec(id as u64, session, blocks, rest, output, 0);
            let whole = ((spec.prompt_tokens - 1) / BLOCK) as usize;
            let expected = spec.block_hashes[..whole]
                .iter()
                .take_while(|hash| published.contains(hash))
                .count() as u32 * BLOCK;
            prop_assert_eq!(
                engine.cached_tokens(&spec.block_hashes, spec.prompt_tokens), expected
            );
            let stored = ((spec.prompt_tokens + spec.output_tokens - 1) / BLOCK) as usize;
            published.extend(&spec.block_hashes[..stored]);
            engine.submit(spec, now).unwrap();
            let mut cached = None;
            while engine.step(now, &mut step) {
                now = step.ends_at_ms;
                cached = cached.or(step.started.first().map(|s| s.cached_tokens));
            }
            prop_assert_eq!(cached, Some(expected));
        }
    }

    /// Fast-forwarding is the same history with the quiet iterations left out.
    #[test]
    fn many_steps_are_the_same_steps(
        profile in profile(),
        actions in prop::collection::vec(action(), 1..40),
        until in 1.0..400.0_f64,
    ) {
        let mut plain = Engine::new(profile.clone(), 5).unwrap();
        let mut fast = Engine::new(profile, 5).unwrap();
        let (mut a, mut b) = (Step::default(), Step::default());
        let (mut now, mut id) = (0.0, 0);
        for action in actions {
            match action {
                Action::Submit { session, blocks, rest, output, slack } => {
                    id += 1;
                    let spec = spec(id, session, blocks, rest, output, slack);
                    prop_assert_eq!(plain.submit(spec.clone(), now), fast.submit(spec, now));
                }
                Action::Cancel(n) => {
                    let id = u64::from(n) % (id + 1);
                    prop_assert_eq!(plain.cancel(id), fast.cancel(id));
                }
                Action::Iterate(_) => {
                    let end = now + until;
                    let ran = fast.step_many(now, end, &mut b);
                    let mut iterations = 0;
                    while iterations < b.iterations {
                        prop_assert!(plain.step(now, &mut a));
                        iterations += 1;
                        now = a.ends_at_ms;
                        if iterations < b.iterations {
                            prop_assert!(!a.is_eventful());
                            prop_assert!(now < end);
                        }
                    }
                    if ran {
                        prop_assert!(a.is_eventful() || now >= end);
                        prop_assert_eq!(a.ends_at_ms.to_bits(), b.ends_at_ms.to_bits());
                        prop_assert_eq!(&a.finished, &b.finished);
                        prop_assert_eq!(&a.started, &b.started);
                        prop_assert_eq!(&a.decoded, &b.decoded);
                        prop_assert_eq!(&a.prefilled, &b.prefilled);
                        prop_assert_eq!(&a.paused, &b.paused);
                        prop_assert_eq!(a.iteration, b.iteration);
                    }
                    prop_assert_eq!(plain.load(), fast.load());
                    prop_assert_eq!(plain.kv_stats(), fast.kv_stats());
                }
            }
        }
    }
}
