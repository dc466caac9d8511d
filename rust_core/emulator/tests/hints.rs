//! What a control plane tells a server: cache hints, and the offset of its clock.

#![allow(clippy::unwrap_used)] // tests, helpers included

mod common;

use common::{chat, eventually, get, post, start};
use serde_json::{Value, json};

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap()
}

#[test]
fn a_truncated_conversation_is_found_as_far_as_it_was_to_be_kept() {
    let emulator = start(json!({"event_buffer_max_size": 1000}));
    let address = emulator.addresses()[0];
    let system = json!({"role": "system", "content": "be brief and exact ".repeat(40)});
    let user = json!({"role": "user", "content": "tell of trucks ".repeat(60)});
    let mut request = chat("", 2);
    request["messages"] = json!([system, user]);
    let ask = || cached(&post(address, "/v1/chat/completions", &request).json());
    assert_eq!(ask(), 0);
    let whole = ask();
    let hint = json!({
        "action": "truncate",
        "messages": [system, user],
        "messages_to_retain": [system],
    });
    let answer = post(address, "/v1/kv_cache_hints", &hint);
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let left = ask();
    assert!((128..=whole / 2).contains(&left), "{left} of {whole}");
    let events = post(address, "/kv_cache_events", &json!({})).json();
    let kinds = events.as_array().unwrap().iter();
    assert!(
        kinds
            .map(|event| &event["data"]["type"])
            .any(|kind| kind == "removed")
    );
    // All of it.
    let hint = json!({"action": "truncate", "messages": [system, user]});
    assert_eq!(post(address, "/v1/kv_cache_hints", &hint).status, 200);
    assert_eq!(ask(), 0);
}

#[test]
fn only_truncation_is_known() {
    let emulator = start(json!({}));
    let hint = json!({"action": "pin", "messages": []});
    let answer = post(emulator.addresses()[0], "/v1/kv_cache_hints", &hint);
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["type"], "InvalidRequestError");
}

#[test]
fn times_are_told_on_the_clock_that_was_asked_for() {
    let emulator = start(json!({"speed": 10.0}));
    let address = emulator.addresses()[0];
    let clock = get(address, "/steady_clock_offset").json();
    let (received, sent) = (
        clock["receive_ts"].as_f64().unwrap(),
        clock["transmit_ts"].as_f64().unwrap(),
    );
    // 200 ms, ten times as fast.
    assert!(sent - received >= 2.0, "{clock}");
    let path = "/steady_clock_offset";
    assert_eq!(post(address, path, &json!({"offset": 1000.0})).status, 200);
    assert_eq!(post(address, path, &json!({"offset": "x"})).status, 400);
    assert_eq!(post(address, path, &json!({})).status, 400);
    post(address, "/v1/chat/completions", &chat("hi", 2));
    let mut records = json!([]);
    eventually("a record", || {
        records = get(address, "/perf_metrics").json();
        records != json!([])
    });
    let times = &records[0]["perf_metrics"]["timing_metrics"];
    let arrival = times["arrival_time"].as_f64().unwrap();
    assert!(arrival >= 1000.0 + sent, "{times}");
    assert!(times["first_token_time"].as_f64().unwrap() >= arrival);
}
