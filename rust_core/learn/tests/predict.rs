//! Predictions follow what answers had, group by group, and stay within what clients allow.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use weighbridge_learn::predict::{Ask, Predictor, Settings};

fn ask(workload: u64, prompt_tokens: u64) -> Ask {
    Ask {
        model: 1,
        workload,
        prompt_tokens,
        ..Ask::default()
    }
}

#[test]
fn nothing_learnt_is_the_prior() {
    let predictor = Predictor::new(Settings::default());
    let prediction = predictor.predict(&ask(1, 100));
    assert_eq!((prediction.mean, prediction.p95), (256.0, 256.0));
}

#[test]
fn workloads_are_told_apart_and_a_new_one_leans_on_its_model() {
    let predictor = Predictor::new(Settings::default());
    for _ in 0..300 {
        predictor.observe(&ask(1, 1_000), 20);
        predictor.observe(&ask(2, 1_000), 900);
    }
    let short = predictor.predict(&ask(1, 1_000));
    let long = predictor.predict(&ask(2, 1_000));
    assert!((15.0..80.0).contains(&short.mean), "{short:?}");
    assert!((800.0..920.0).contains(&long.mean), "{long:?}");
    for _ in 0..20 {
        predictor.observe(&ask(5, 1_000), 400);
    }
    let new = predictor.predict(&ask(3, 1_000));
    assert!(
        (350.0..500.0).contains(&new.mean),
        "the middle one: {new:?}"
    );
    let other_model = predictor.predict(&Ask {
        model: 9,
        ..ask(4, 1_000)
    });
    assert!((other_model.mean - 256.0).abs() < 1e-9);
}

#[test]
fn it_follows_a_change() {
    let predictor = Predictor::new(Settings {
        half_life: 200.0,
        ..Settings::default()
    });
    for _ in 0..2_000 {
        predictor.observe(&ask(1, 100), 800);
    }
    for _ in 0..1_000 {
        predictor.observe(&ask(1, 100), 50);
    }
    let prediction = predictor.predict(&ask(1, 100));
    assert!(prediction.mean < 110.0, "{prediction:?}");
}

#[test]
fn an_answer_that_runs_to_its_limit_is_known_and_teaches_nothing() {
    let predictor = Predictor::new(Settings::default());
    let fixed = Ask {
        max_tokens: Some(4_000),
        runs_to_limit: true,
        ..ask(1, 100)
    };
    assert_eq!(predictor.predict(&fixed).mean, 4_000.0);
    predictor.observe(&fixed, 4_000);
    assert_eq!(predictor.groups(), 0);
}

#[test]
fn groups_are_bounded_and_the_used_ones_stay() {
    let predictor = Predictor::new(Settings {
        most_groups: 1_024,
        ..Settings::default()
    });
    for _ in 0..100 {
        predictor.observe(&ask(1, 100), 40);
    }
    for stranger in 10..30_000 {
        predictor.observe(
            &Ask {
                model: stranger,
                ..ask(stranger, 100)
            },
            2_000,
        );
        if stranger % 4 == 0 {
            let prediction = predictor.predict(&ask(1, 100));
            assert!(prediction.mean < 60.0, "forgotten: {prediction:?}");
        }
    }
    assert!(predictor.groups() <= 1_024);
    let prediction = predictor.predict(&ask(1, 100));
    assert!(prediction.mean < 60.0, "{prediction:?}");
}

#[test]
fn one_workload_s_claims_bear_on_no_other() {
    let predictor = Predictor::new(Settings::default());
    for _ in 0..5 {
        predictor.observe(&ask(1, 100), 1_000_000);
    }
    assert!(predictor.predict(&ask(2, 100)).mean <= 256.0);
    for _ in 0..50 {
        predictor.observe(&ask(2, 100), 5);
        predictor.observe(&ask(3, 100), 7);
    }
    for _ in 0..5_000 {
        predictor.observe(&ask(1, 100), 1_000_000);
    }
    for workload in 2..9 {
        let prediction = predictor.predict(&ask(workload, 100));
        assert!(prediction.p95 <= 20.0, "{workload}: {prediction:?}");
    }
    predictor.observe(&ask(9, 100), 6);
    assert!(predictor.predict(&ask(9, 100)).mean <= 20.0);
}

proptest! {
    /// However long one workload says that its answers are, what the others are taken for lies
    /// within what they themselves say.
    #[test]
    fn the_middle_is_among_what_the_others_say(
        honest in prop::collection::vec((1u64..6, 1u64..900), 30..80),
        claims in prop::collection::vec(0u64..u64::MAX, 0..60),
    ) {
        let predictor = Predictor::new(Settings::default());
        let mut claims = claims.into_iter();
        for workload in 1..6 {
            predictor.observe(&ask(workload, 50), 300);
        }
        for (workload, tokens) in honest {
            predictor.observe(&ask(workload, 50), tokens);
            if let Some(claim) = claims.next() {
                predictor.observe(&ask(77, 50), claim);
            }
        }
        let new = predictor.predict(&ask(99, 50));
        prop_assert!(new.mean <= 900.0 && new.p50 <= 1_024.0 && new.p95 <= 1_280.0, "{:?}", new);
    }

    #[test]
    fn a_prediction_is_within_what_the_client_asks_for(
        seen in prop::collection::vec((0u64..3, 0u64..50_000, 0u64..5_000), 0..60),
        max in prop::option::of(0u64..3_000),
        min in 0u64..100,
        prompt in any::<u64>(),
    ) {
        let predictor = Predictor::new(Settings::default());
        for (workload, prompt, tokens) in seen {
            predictor.observe(&ask(workload, prompt), tokens);
        }
        let prediction = predictor.predict(&Ask {
            max_tokens: max,
            min_tokens: min,
            ..ask(1, prompt)
        });
        for tokens in [prediction.mean, prediction.p50, prediction.p90, prediction.p95] {
            prop_assert!(tokens.is_finite() && tokens >= 0.0);
            if let Some(max) = max {
                prop_assert!(tokens <= max as f64);
            }
            prop_assert!(tokens >= (min.min(max.unwrap_or(min))) as f64);
        }
        prop_assert!(prediction.p50 <= prediction.p90 && prediction.p90 <= prediction.p95);
    }
}
