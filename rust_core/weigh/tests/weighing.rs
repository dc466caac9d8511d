//! From a reading to tokens, cached tokens and costs.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use weighbridge_weigh::{Body, Endpoint, Family, Features, Limits, Profile, Reading, Work, read};

fn profile(tokens: Value) -> Profile {
    let profile = json!({
        "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 100_000,
        "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192, "reference_batch": 32.0,
        "cost": {"prefill_per_tok": 0.01, "prefill_per_tok2_e6": 0.5, "decode_per_tok": 0.2,
                 "decode_per_ktok_ctx": 0.02, "image_per_tile": 3.0, "audio_per_second": 1.5,
                 "overhead": 0.7},
        "tokens": tokens,
    });
    Profile::from_json(&profile.to_string()).unwrap()
}

fn chat(body: &Value) -> Reading {
    let body = body.to_string();
    read(
        Endpoint::ChatCompletions,
        Body::whole(body.as_bytes()),
        &Limits::default(),
    )
    .unwrap()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9 * (1.0 + b.abs())
}

#[test]
fn the_cost_vector_is_the_formula() {
    let work = Work {
        prompt_tokens: 3000,
        cached_tokens: 1000,
        output_tokens: 400,
        choices: 2,
        image_tiles: 4,
        audio_seconds: 10.0,
        ..Work::default()
    };
    let cost = profile(json!({})).cost(&work);
    assert!(close(cost.prefill_mu, 0.01 * 2000.0 + 0.5e-6 * (9e6 - 1e6)));
    assert!(close(
        cost.decode_mu,
        2.0 * 400.0 * (0.2 + 0.02e-3 * (3000.0 + 200.0))
    ));
    assert!(close(cost.image_mu, 12.0) && close(cost.audio_mu, 15.0));
    assert!(close(cost.overhead_mu, 0.7));
    assert!(close(
        cost.total(),
        cost.before_first_token() + cost.decode_mu
    ));
    assert_eq!((cost.kv_tokens, cost.output_tokens), (2000 + 800, 800));
    // More cached than there is, and no choices, mean all cached and one.
    let cost = profile(json!({})).cost(&Work {
        cached_tokens: 9000,
        choices: 0,
        ..work
    });
    assert_eq!((cost.cached_tokens, cost.kv_tokens), (3000, 400));
    assert!(close(cost.prefill_mu, 0.0));
}

#[test]
fn tokens_are_told_by_part() {
    let reading = chat(&json!({
        "model": "m",
        "messages": [
            {"role": "system", "content": "You weigh things."},
            {"role": "user", "content": [
                {"type": "text", "text": "How heavy is this lorry?"},
                {"type": "image_url", "image_url": {"url": "https://x", "detail": "low"}},
            ]},
            {"role": "assistant", "content": "Forty tonnes."},
        ],
        "tools": [{"type": "function", "function": {"name": "weigh"}}],
    }));
    let rules = json!({"family": "llama3", "scale": 2.0, "tools_scale": 3.0, "per_request": 10,
                       "per_message": 4, "with_tools": 100});
    let tokens = profile(rules).tokens(&reading, 1.5);
    let text = |text: &str| 3.0 * Family::Llama3.tokens(&Features::of(text.as_bytes()));
    assert!(close(tokens.system, text("You weigh things.")));
    assert!(close(tokens.user, text("How heavy is this lorry?")));
    assert!(close(tokens.assistant, text("Forty tonnes.")));
    let tools = r#"{"type": "function", "function": {"name": "weigh"}}"#;
    assert!(
        // A schema is counted piece by piece.
        (tokens.tools / (3.0 * text(tools)) - 1.0).abs() < 0.1,
        "{} and {}",
        tokens.tools,
        3.0 * text(tools)
    );
    assert!(close(tokens.template, 10.0 + 3.0 * 4.0 + 100.0));
    assert!(close(tokens.images, 85.0));
    assert_eq!(tokens.image_tiles, 1);
    let parts = tokens.text() + tokens.template + tokens.images;
    assert_eq!(tokens.total(), parts.round() as u64);
}

#[test]
fn a_prompt_of_token_ids_is_exact() {
    let body = json!({"model": "m", "prompt": [1, 2, 3, 4, 5]}).to_string();
    let body = Body::whole(body.as_bytes());
    let reading = read(Endpoint::Completions, body, &Limits::default()).unwrap();
    assert_eq!(profile(json!({})).tokens(&reading, 1.7).total(), 5);
}

#[test]
fn a_cached_beginning_is_told_in_tokens() {
    let word = "weight ";
    let turn = |n: usize| json!({"role": "user", "content": word.repeat(n)});
    let body = |messages: &[Value]| {
        let mut all = vec![json!({"role": "system", "content": "Be exact. ".repeat(100)})];
        all.extend_from_slice(messages);
        json!({"model": "m", "messages": all})
    };
    let first = chat(&body(&[turn(2000)]));
    let second = chat(&body(&[turn(2000), turn(1000)]));
    let profile = profile(json!({"family": "qwen"}));
    let (before, tokens) = (profile.tokens(&first, 1.0), profile.tokens(&second, 1.0));
    let cached = profile.cached_tokens(&second, &tokens, first.prefix.len());
    let share = cached as f64 / before.total() as f64;
    assert!((0.93..=1.0).contains(&share), "{share}");
    assert_eq!(cached % 32, 0);
    // All of it cached is still not all: the last token is computed.
    let all = profile.cached_tokens(&second, &tokens, usize::MAX);
    assert!(all < tokens.total());
    assert_eq!(profile.cached_tokens(&second, &tokens, 0), 0);
}

#[test]
fn the_last_token_is_always_computed() {
    let mut profile = profile(json!({"per_request": 0, "per_message": 0}));
    profile.block_tokens = 1;
    let text = "Be exact. ".repeat(100);
    let reading = chat(&json!({"model": "m", "messages": [{"role": "system", "content": text}]}));
    let tokens = profile.tokens(&reading, 1.0);
    let cached = profile.cached_tokens(&reading, &tokens, reading.prefix.len());
    assert_eq!(cached, tokens.total() - 1);
}

#[test]
fn images_are_cached_with_the_blocks_they_stand_in() {
    let image = json!({"type": "image_url", "image_url": {"url": "https://x/1"}});
    let long = json!({"type": "text", "text": "word ".repeat(400)});
    let reading = chat(&json!({"model": "m", "messages": [
        {"role": "user", "content": [image, long, image, long]},
    ]}));
    let profile = profile(json!({}));
    let tokens = profile.tokens(&reading, 1.0);
    assert!(tokens.images > 1500.0);
    let cached = |blocks| profile.cached_tokens(&reading, &tokens, blocks) as f64;
    // The first image with the first block, the second one with the text before it.
    assert!(cached(1) > tokens.images / 2.0 && cached(1) < tokens.images * 0.7);
    let half = reading.prefix.len() / 2;
    assert!(cached(half - 1) < tokens.images);
    assert!(cached(half + 2) > tokens.images);
}

proptest! {
    #[test]
    fn costs_grow_with_work(
        p in 0u64..200_000, c in 0u64..200_000, o in 0u64..20_000, n in 1u32..8, more in 1u64..1000,
    ) {
        let profile = profile(json!({}));
        let work = Work {
            prompt_tokens: p, cached_tokens: c.min(p), output_tokens: o, choices: n,
            ..Work::default()
        };
        let cost = profile.cost(&work);
        prop_assert!(cost.total().is_finite() && cost.total() >= 0.7);
        let longer = profile.cost(&Work { prompt_tokens: p + more, ..work });
        prop_assert!(longer.prefill_mu > cost.prefill_mu);
        let answered = profile.cost(&Work { output_tokens: o + more, ..work });
        prop_assert!(answered.decode_mu > cost.decode_mu);
        prop_assert!(answered.kv_tokens > cost.kv_tokens);
        let cold = profile.cost(&Work { cached_tokens: 0, ..work });
        prop_assert!(cold.prefill_mu >= cost.prefill_mu);
    }

    #[test]
    fn more_blocks_hold_no_fewer_tokens(
        texts in proptest::collection::vec(".{0,400}", 1..8), tools in any::<bool>(),
    ) {
        let messages: Vec<Value> = texts.iter().enumerate().map(|(i, text)| {
            let role = if i % 3 == 0 { "system" } else { "user" };
            json!({"role": role, "content": [{"text": text}, {"image_url": "https://x"}]})
        }).collect();
        let tools = if tools { json!([{"name": "t", "description": texts[0]}]) } else { json!(null) };
        let reading = chat(&json!({"model": "m", "messages": messages, "tools": tools}));
        let profile = profile(json!({}));
        let tokens = profile.tokens(&reading, 1.0);
        let mut before = 0;
        for blocks in 0..=reading.prefix.len() + 1 {
            let cached = profile.cached_tokens(&reading, &tokens, blocks);
            prop_assert!(cached >= before && cached < tokens.total());
            before = cached;
        }
    }
}
