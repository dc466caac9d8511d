//! A quiet stretch that is said to lie ahead is one, whatever comes after it.

use std::sync::Arc;

use proptest::prelude::*;
use weighbridge_engine::{CapacityPolicy, Engine, EngineProfile, RequestSpec, Step};

fn profile(policy: CapacityPolicy, kv_blocks: u32) -> EngineProfile {
    EngineProfile {
        kv_blocks,
        tokens_per_block: 4,
        max_batch_size: 4,
        max_num_tokens: 32,
        policy,
        ..EngineProfile::default()
    }
}

fn spec(id: u64, (prompt, output): (u32, u32)) -> RequestSpec {
    RequestSpec {
        id,
        block_hashes: (0..u64::from(prompt / 4))
            .map(|block| ((id % 3) << 32) | (block + 1))
            .collect::<Arc<[u64]>>(),
        prompt_tokens: prompt,
        output_tokens: output,
        max_tokens: output + 8,
        image_tiles: 0,
    }
}

proptest! {
    #[test]
    fn no_event_comes_before_it_was_said_to(
        requests in prop::collection::vec((1..40u32, 1..60u32), 1..30),
        gaps in prop::collection::vec(0..25u32, 30),
        most_utilised in any::<bool>(),
        kv_blocks in 40..90u32,
    ) {
        let policy = if most_utilised {
            CapacityPolicy::MaxUtilization
        } else {
            CapacityPolicy::GuaranteedNoEvict
        };
        let mut one = Engine::new(profile(policy, kv_blocks), 7).unwrap();
        let mut many = Engine::new(profile(policy, kv_blocks), 7).unwrap();
        let (mut step, mut run) = (Step::default(), Step::default());
        let mut now = 0.0;
        for (id, (request, gap)) in (0u64..).zip(requests.into_iter().zip(gaps)) {
            one.submit(spec(id, request), now).unwrap();
            many.submit(spec(id, request), now).unwrap();
            // So many events later the next request comes.
            for _ in 0..gap {
                let quiet = one.quiet_until(now);
                let mut start = now;
                while start < quiet {
                    prop_assert!(one.step(start, &mut step));
                    prop_assert!(!step.is_eventful(), "at {start} of {quiet}");
                    start = step.ends_at_ms;
                }
                prop_assert_eq!(start, quiet);
                prop_assert_eq!(many.quiet_until(now), quiet);
                many.step_many(now, quiet, &mut run);
                prop_assert!(!run.is_eventful());
                let more = one.step(quiet, &mut step);
                prop_assert_eq!(more, many.step(quiet, &mut run));
                prop_assert!(!more || step == run, "{step:?} {run:?}");
                now = if more { step.ends_at_ms } else { quiet + 1.0 };
                prop_assert_eq!(one.kv_stats(), many.kv_stats());
            }
        }
    }
}

#[test]
fn a_lone_reply_is_quiet_up_to_its_last_token() {
    let mut engine = Engine::new(profile(CapacityPolicy::GuaranteedNoEvict, 60), 7).unwrap();
    let mut step = Step::default();
    engine.submit(spec(1, (10, 100)), 0.0).unwrap();
    assert_eq!(engine.quiet_until(0.0), 0.0, "the prompt comes first");
    assert!(engine.step(0.0, &mut step));
    let quiet = engine.quiet_until(step.ends_at_ms);
    engine.step_many(step.ends_at_ms, quiet, &mut step);
    assert_eq!((step.iterations, step.ends_at_ms), (98, quiet));
    assert!(engine.step(quiet, &mut step));
    assert_eq!(step.finished.len(), 1);
}
