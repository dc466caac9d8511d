//! Counting tokens with a tokenizer instead of estimating them.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::{Value, json};
use weighbridge_weigh::exact::TokenCounter;
use weighbridge_weigh::{Body, Endpoint, Limits, Profile, Reading, read, read_exact};

/// Counts words.
#[derive(Debug)]
struct Words;

impl TokenCounter for Words {
    fn count(&self, text: &str) -> u64 {
        text.split_whitespace().count() as u64
    }
}

fn words(endpoint: Endpoint, body: &Value) -> Reading {
    let counter: Arc<dyn TokenCounter> = Arc::new(Words);
    let body = body.to_string();
    read_exact(
        endpoint,
        Body::whole(body.as_bytes()),
        &Limits::default(),
        &counter,
    )
    .unwrap()
}

#[test]
fn every_part_is_counted() {
    let body = json!({
        "model": "m",
        "system": "one two three",
        "messages": [
            {"role": "user", "content": "a b"},
            {"role": "assistant", "content": [
                {"type": "text", "text": "c"},
                {"type": "tool_use", "name": "look", "input": {"x": 1}},
            ]},
            {"content": [{"type": "tool_result", "content": "d e f g"}], "role": "user"},
        ],
        "tools": [{"name": "look", "description": "it up"}],
    });
    let reading = words(Endpoint::Messages, &body);
    let exact = reading.exact.unwrap();
    assert_eq!(
        (exact.system, exact.user, exact.assistant, exact.tool),
        (3, 2, 1 + 1 + 2, 4)
    );
    assert_eq!(exact.tools, 5);
    let body = json!({"model": "m", "prompt": ["a b", "c"], "suffix": "d"});
    assert_eq!(words(Endpoint::Completions, &body).exact.unwrap().prompt, 4);
    let twice = r#"{"model":"m","messages":[{"role":"user","content":"a b c","content":"d"}]}"#;
    let counter: Arc<dyn TokenCounter> = Arc::new(Words);
    let body = Body::whole(twice.as_bytes());
    let reading = read_exact(
        Endpoint::ChatCompletions,
        body,
        &Limits::default(),
        &counter,
    );
    assert_eq!(reading.unwrap().exact.unwrap().user, 1);
}

#[test]
fn counted_text_is_neither_estimated_nor_corrected() {
    let profile = json!({
        "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 100_000,
        "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192, "reference_batch": 32.0,
        "cost": {"prefill_per_tok": 0.01, "prefill_per_tok2_e6": 0.5, "decode_per_tok": 0.2,
                 "decode_per_ktok_ctx": 0.02},
        "tokens": {"scale": 1.5, "per_request": 0, "per_message": 0},
    });
    let profile = Profile::from_json(&profile.to_string()).unwrap();
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "a b c d e"}]});
    let counted = words(Endpoint::ChatCompletions, &body);
    assert_eq!(profile.tokens(&counted, 2.0).total(), 5);
    let body = body.to_string();
    let body = Body::whole(body.as_bytes());
    let estimated = read(Endpoint::ChatCompletions, body, &Limits::default()).unwrap();
    assert_eq!(estimated.exact, None);
    assert_eq!(
        Reading {
            exact: None,
            ..counted
        },
        estimated
    );
}

#[cfg(feature = "exact")]
#[test]
fn a_tokenizer_file_is_read() {
    use weighbridge_weigh::exact::HuggingFace;
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"weigh": 0, "[UNK]": 1}, "unk_token": "[UNK]"},
    });
    let path = std::env::temp_dir().join(format!("tokenizer-{}.json", std::process::id()));
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let tokenizer = HuggingFace::from_file(&path).unwrap();
    assert_eq!(tokenizer.count("weigh, weigh and weigh!"), 6);
    std::fs::write(&path, "{}").unwrap();
    let error = HuggingFace::from_file(&path).unwrap_err();
    assert!(error.to_string().contains("tokenizer-"), "{error}");
    std::fs::remove_file(&path).unwrap();
}
