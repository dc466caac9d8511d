//! Who goes first: cases made by hand, one rule each.

use std::sync::Arc;

use crate::histories::{Action, BLOCK, play, spec};
use crate::{CapacityPolicy, Engine, EngineProfile, RequestSpec, Step};

fn engine(change: impl FnOnce(&mut EngineProfile)) -> Engine {
    let mut profile = EngineProfile {
        tokens_per_block: BLOCK,
        max_batch_size: 8,
        ..EngineProfile::default()
    };
    change(&mut profile);
    Engine::new(profile, 1).unwrap()
}

/// A request of a session with this prompt and output, in tokens; `most` is its limit.
fn request(id: u64, session: u8, prompt: u8, output: u8, most: u8) -> RequestSpec {
    spec(id, session, prompt / 4, prompt % 4, output, most - output)
}

/// Runs one iteration and names those it started.
fn started(engine: &mut Engine) -> Vec<u64> {
    let mut step = Step::default();
    assert!(engine.step(0.0, &mut step));
    step.started.iter().map(|s| s.id).collect()
}

#[test]
fn max_utilization_pauses_the_youngest_and_still_finishes_all() {
    let profile = EngineProfile {
        kv_blocks: 20,
        tokens_per_block: BLOCK,
        max_batch_size: 4,
        policy: CapacityPolicy::MaxUtilization,
        ..EngineProfile::default()
    };
    let submit = |session| Action::Submit {
        session,
        blocks: 4,
        rest: 1,
        output: 19,
        slack: 0,
    };
    let actions = [
        submit(2),
        submit(3),
        submit(4),
        submit(5),
        Action::Iterate(11),
    ];
    let (steps, witness) = play(&profile, &actions, 1);
    assert!(witness.pauses > 0);
    assert_eq!(witness.done.len(), 4);
    let oldest_paused = steps.iter().any(|step| step.paused.contains(&1));
    assert!(!oldest_paused);
}

#[test]
fn a_guaranteed_start_reckons_with_the_worst_case_not_with_the_output() {
    let profile = EngineProfile {
        kv_blocks: 20,
        tokens_per_block: BLOCK,
        max_batch_size: 4,
        ..EngineProfile::default()
    };
    let mut engine = Engine::new(profile, 1).unwrap();
    // Each may take 12 blocks, though it will take 3.
    engine.submit(spec(1, 2, 2, 0, 4, 36), 0.0).unwrap();
    engine.submit(spec(2, 3, 2, 0, 4, 36), 0.0).unwrap();
    let mut step = Step::default();
    assert!(engine.step(0.0, &mut step));
    assert_eq!(step.started.len(), 1);
    assert_eq!(engine.load().waiting, 1);
}

#[test]
fn a_long_prompt_is_spread_over_iterations_beside_those_that_generate() {
    let profile = EngineProfile {
        tokens_per_block: 32,
        max_num_tokens: 1024,
        max_batch_size: 8,
        ..EngineProfile::default()
    };
    let mut engine = Engine::new(profile, 1).unwrap();
    let request = |id, prompt_tokens| RequestSpec {
        id,
        block_hashes: Arc::from([]),
        prompt_tokens,
        output_tokens: 50,
        max_tokens: 50,
        image_tiles: 0,
    };
    engine.submit(request(1, 10), 0.0).unwrap();
    let mut step = Step::default();
    engine.step(0.0, &mut step);
    engine.submit(request(2, 3000), 1.0).unwrap();
    let mut chunks = Vec::new();
    while step.prefilled != [2] {
        assert!(engine.step(2.0, &mut step));
        assert_eq!(step.decoded, [1]);
        chunks.push(step.context_tokens);
    }
    // One token of each iteration belongs to the other request; chunks end on blocks.
    assert_eq!(chunks, [992, 992, 1016]);
}

#[test]
fn a_request_waits_for_a_prefix_that_another_is_computing() {
    let mut engine = Engine::new(
        EngineProfile {
            tokens_per_block: BLOCK,
            ..EngineProfile::default()
        },
        1,
    )
    .unwrap();
    engine.submit(spec(1, 2, 10, 0, 4, 0), 0.0).unwrap();
    engine.submit(spec(2, 2, 10, 1, 4, 0), 0.0).unwrap();
    engine.submit(spec(3, 3, 10, 1, 4, 0), 0.0).unwrap();
    let mut step = Step::default();
    engine.step(0.0, &mut step);
    let ids: Vec<u64> = step.started.iter().map(|s| s.id).collect();
    assert_eq!(ids, [1, 3]);
    engine.step(1.0, &mut step);
    assert_eq!(
        step.started.first().map(|s| (s.id, s.cached_tokens)),
        Some((2, 40))
    );
}

#[test]
fn who_gives_up_at_the_head_of_the_queue_lets_the_next_start_at_once() {
    let mut engine = engine(|p| p.kv_blocks = 20);
    engine.submit(request(1, 2, 8, 20, 20), 0.0).unwrap();
    // Worst cases of 7, 19 and 2 blocks: the second must wait, and the third behind it.
    engine.submit(request(2, 3, 8, 20, 68), 0.0).unwrap();
    engine.submit(request(3, 4, 4, 4, 4), 0.0).unwrap();
    assert_eq!(started(&mut engine), [1]);
    assert!(started(&mut engine).is_empty());
    assert!(engine.cancel(2));
    assert_eq!(started(&mut engine), [3]);
}

#[test]
fn blocks_that_turn_out_to_be_held_by_another_make_room() {
    let mut engine = engine(|p| p.kv_blocks = 11);
    engine.submit(request(1, 2, 12, 20, 20), 0.0).unwrap();
    assert_eq!(started(&mut engine), [1]);
    // Its second block is there but must be computed again, as it holds the last token.
    engine.submit(request(2, 2, 8, 4, 4), 0.0).unwrap();
    engine.submit(request(3, 3, 4, 4, 4), 0.0).unwrap();
    assert_eq!(started(&mut engine), [2]);
    assert_eq!(started(&mut engine), [3]);
}

#[test]
fn the_paused_resume_before_those_who_came_later() {
    let mut engine = engine(|p| {
        p.kv_blocks = 10;
        p.policy = CapacityPolicy::MaxUtilization;
    });
    engine.submit(request(1, 2, 16, 20, 20), 0.0).unwrap();
    engine.submit(request(2, 3, 16, 20, 20), 0.0).unwrap();
    engine.submit(request(3, 4, 16, 20, 20), 0.0).unwrap();
    let mut step = Step::default();
    let mut order = Vec::new();
    while engine.step(0.0, &mut step) {
        order.extend(step.started.iter().map(|s| (s.id, s.resumed)));
    }
    let resumed = order.iter().position(|s| *s == (2, true)).unwrap();
    let third = order.iter().position(|s| s.0 == 3).unwrap();
    assert!(resumed < third, "{order:?}");
}

#[test]
fn a_short_prompt_does_not_overtake_one_that_waits_for_a_whole_iteration() {
    let mut engine = engine(|p| {
        p.chunked_prefill = false;
        p.max_num_tokens = 40;
    });
    engine.submit(request(1, 2, 24, 30, 30), 0.0).unwrap();
    engine.submit(request(2, 3, 39, 4, 4), 0.0).unwrap();
    engine.submit(request(3, 5, 4, 4, 4), 0.0).unwrap();
    assert_eq!(started(&mut engine), [1]);
    // Beside the token of the first there is room for the second and no more.
    assert_eq!(started(&mut engine), [2]);
    assert_eq!(started(&mut engine), [3]);
}

#[test]
fn a_paused_request_finds_what_is_still_cached_of_it() {
    let mut engine = engine(|p| {
        p.kv_blocks = 10;
        p.policy = CapacityPolicy::MaxUtilization;
    });
    engine.submit(request(1, 2, 16, 20, 20), 0.0).unwrap();
    engine.submit(request(2, 3, 16, 20, 20), 0.0).unwrap();
    let mut step = Step::default();
    let mut resumed = None;
    let mut tokens = 0;
    while engine.step(0.0, &mut step) {
        tokens += step.tokens;
        resumed = resumed.or(step.started.iter().find(|s| s.resumed).copied());
    }
    let resumed = resumed.unwrap();
    assert_eq!(resumed.id, 2);
    // Its first blocks were evicted last.
    assert!(resumed.cached_tokens > 0);
    assert_eq!(tokens, 40);
}
