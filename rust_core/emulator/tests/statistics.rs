//! The statistics routes, held against the shapes that trtllm-serve gives.

#![allow(clippy::unwrap_used, clippy::panic)] // tests, helpers included

mod common;

use common::{chat, eventually, get, open, post, start};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn keys(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

fn set<const N: usize>(names: [&'static str; N]) -> BTreeSet<&'static str> {
    names.into()
}

/// A chat whose prompt fills some blocks.
fn long_chat() -> Value {
    chat(&"How heavy is the load on this bridge? ".repeat(20), 20)
}

#[test]
fn iteration_records_have_all_keys_and_are_handed_out_once() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let answer = post(address, "/v1/chat/completions", &long_chat()).json();
    let records = get(address, "/metrics").json();
    let records = records.as_array().unwrap();
    // One for the prompt and the first token, one for each other token.
    assert_eq!(records.len(), 20);
    assert_eq!(
        keys(&records[0]),
        set([
            "timestamp",
            "iter",
            "iterLatencyMS",
            "newActiveRequestsQueueLatencyMS",
            "numNewActiveRequests",
            "numActiveRequests",
            "numQueuedRequests",
            "numCompletedRequests",
            "maxNumActiveRequests",
            "maxBatchSizeStatic",
            "maxBatchSizeTunerRecommended",
            "maxBatchSizeRuntime",
            "maxNumTokensStatic",
            "maxNumTokensTunerRecommended",
            "maxNumTokensRuntime",
            "gpuMemUsage",
            "cpuMemUsage",
            "pinnedMemUsage",
            "kvCacheStats",
            "staticBatchingStats",
            "inflightBatchingStats",
            "specDecodingStats",
        ])
    );
    assert_eq!(
        keys(&records[0]["kvCacheStats"]),
        set([
            "maxNumBlocks",
            "freeNumBlocks",
            "usedNumBlocks",
            "tokensPerBlock",
            "allocTotalBlocks",
            "allocNewBlocks",
            "reusedBlocks",
            "missedBlocks",
            "cacheHitRate",
        ])
    );
    assert_eq!(
        keys(&records[0]["inflightBatchingStats"]),
        set([
            "numScheduledRequests",
            "numContextRequests",
            "numGenRequests",
            "numPausedRequests",
            "numCtxTokens",
            "microBatchId",
            "avgNumDecodedTokensPerIter",
        ])
    );
    let prompt = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let first = &records[0];
    assert_eq!(first["iter"], 1);
    assert_eq!(first["numNewActiveRequests"], 1);
    assert_eq!(first["inflightBatchingStats"]["numCtxTokens"], prompt);
    assert_eq!(first["kvCacheStats"]["usedNumBlocks"], prompt.div_ceil(32));
    assert_eq!(first["kvCacheStats"]["missedBlocks"], prompt / 32);
    let last = &records[19];
    // Counted when the iteration began: an idle server's last record still shows it.
    assert_eq!(last["numActiveRequests"], 1);
    assert_eq!(last["numCompletedRequests"], 1);
    assert_eq!(last["inflightBatchingStats"]["numGenRequests"], 1);
    assert_eq!(last["kvCacheStats"]["usedNumBlocks"], 0);
    assert_eq!(last["kvCacheStats"]["freeNumBlocks"], 31_037);
    assert_eq!(get(address, "/metrics").json(), json!([]));
}

/// The last record that a replica of this profile shows under five endless requests, once
/// `settled` takes it.
fn under_five(profile: &Value, settled: impl Fn(&Value) -> bool) -> Value {
    let emulator = start(json!({"speed": 1.0, "profiles": [profile]}));
    let address = emulator.addresses()[0];
    let mut request = chat("count", 300);
    request["ignore_eos"] = json!(true);
    request["stream"] = json!(true);
    let body = request.to_string();
    let streams: Vec<_> = (0..5)
        .map(|_| open(address, "POST", "/v1/chat/completions", &[], &body).unwrap())
        .collect();
    let mut seen = Value::Null;
    eventually("a record shows all five", || {
        let records = get(address, "/metrics").json();
        let last = records.as_array().unwrap().last();
        seen = last.cloned().unwrap_or(Value::Null);
        settled(&seen)
    });
    drop(streams);
    eventually("all are gone", || emulator.counters(0).unwrap().open == 0);
    seen
}

#[test]
fn requests_without_a_place_in_the_batch_are_queued() {
    let profile = json!({"max_batch_size": 2, "decode_base_ms": 50.0});
    let record = under_five(&profile, |r| r["numQueuedRequests"] == 3);
    assert_eq!(record["numActiveRequests"], 2);
    assert_eq!(record["inflightBatchingStats"]["numScheduledRequests"], 2);
}

#[test]
fn requests_without_blocks_are_active_and_not_scheduled() {
    // Each may take 10 blocks.
    let profile = json!({"kv_blocks": 35, "max_seq_len": 640, "decode_base_ms": 50.0});
    let record = under_five(&profile, |r| r["numActiveRequests"] == 5);
    assert_eq!(record["numQueuedRequests"], 0);
    assert_eq!(record["inflightBatchingStats"]["numScheduledRequests"], 3);
}

#[test]
fn perf_metrics_tell_each_request_once() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let request = long_chat();
    post(address, "/v1/chat/completions", &request);
    post(address, "/v1/chat/completions", &request);
    let records = get(address, "/perf_metrics").json();
    assert_eq!(records.as_array().unwrap().len(), 2);
    let [first, second] = [&records[0]["perf_metrics"], &records[1]["perf_metrics"]];
    assert_eq!(keys(&records[0]), set(["request_id", "perf_metrics"]));
    assert_eq!(
        keys(first),
        set([
            "first_iter",
            "last_iter",
            "timing_metrics",
            "kv_cache_metrics"
        ])
    );
    assert_eq!(
        keys(&first["timing_metrics"]),
        set([
            "server_arrival_time",
            "arrival_time",
            "first_scheduled_time",
            "first_token_time",
            "server_first_token_time",
            "last_token_time",
        ])
    );
    assert_eq!(
        keys(&first["kv_cache_metrics"]),
        set([
            "num_total_allocated_blocks",
            "num_new_allocated_blocks",
            "num_reused_blocks",
            "num_missed_blocks",
        ])
    );
    assert_eq!(
        (&first["first_iter"], &first["last_iter"]),
        (&json!(1), &json!(20))
    );
    let times = &first["timing_metrics"];
    let time = |name: &str| times[name].as_f64().unwrap();
    assert!(time("arrival_time") <= time("first_scheduled_time"));
    assert!(time("first_scheduled_time") < time("first_token_time"));
    assert!(time("first_token_time") < time("last_token_time"));
    assert_eq!(first["kv_cache_metrics"]["num_reused_blocks"], 0);
    let missed = first["kv_cache_metrics"]["num_missed_blocks"]
        .as_u64()
        .unwrap();
    assert!(missed >= 5);
    assert_eq!(second["kv_cache_metrics"]["num_reused_blocks"], missed);
    assert_eq!(get(address, "/perf_metrics").json(), json!([]));
}

#[test]
fn cache_events_rebuild_what_is_cached() {
    let emulator = start(json!({"event_buffer_max_size": 100, "profiles": [{
        "kv_blocks": 12, "max_seq_len": 320}]}));
    let address = emulator.addresses()[0];
    let chats = [
        chat(&"one two three four ".repeat(30), 10),
        chat(&"five six seven eight ".repeat(68), 10),
    ];
    for chat in &chats {
        assert_eq!(post(address, "/v1/chat/completions", chat).status, 200);
    }
    let events = post(address, "/kv_cache_events", &json!({})).json();
    let events = events.as_array().unwrap();
    assert_eq!(
        events[0]["data"],
        json!({"type": "created", "num_blocks_per_cache_level": [12, 0]})
    );
    let ids: Vec<_> = events
        .iter()
        .map(|e| e["event_id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, (0..events.len() as u64).collect::<Vec<_>>());
    let mut cached = BTreeSet::new();
    for event in events {
        assert_eq!(keys(event), set(["event_id", "data", "window_size"]));
        let data = &event["data"];
        match data["type"].as_str().unwrap() {
            "stored" => {
                assert_eq!(keys(data), set(["type", "parent_hash", "blocks"]));
                // What comes after a block that is gone could not be found.
                if let Some(parent) = data["parent_hash"].as_u64() {
                    assert!(cached.contains(&parent));
                }
                for block in data["blocks"].as_array().unwrap() {
                    assert_eq!(
                        keys(block),
                        set(["type", "block_hash", "tokens", "cache_level", "priority"])
                    );
                    assert_eq!(block["tokens"].as_array().unwrap().len(), 32);
                    assert_eq!(
                        keys(&block["tokens"][0]),
                        set(["type", "token_id", "token_extra_id"])
                    );
                    cached.insert(block["block_hash"].as_u64().unwrap());
                }
            }
            "removed" => {
                assert_eq!(keys(data), set(["type", "block_hashes"]));
                for hash in data["block_hashes"].as_array().unwrap() {
                    assert!(cached.remove(&hash.as_u64().unwrap()));
                }
            }
            "created" => {}
            other => panic!("{other}"),
        }
    }
    let counters = emulator.counters(0).unwrap();
    assert_eq!(counters.kv_cached_blocks as usize, cached.len());
    assert!(events.iter().any(|e| e["data"]["type"] == "removed"));
}

#[test]
fn stored_events_carry_the_tokens_of_their_blocks() {
    let emulator = start(json!({"event_buffer_max_size": 100}));
    let address = emulator.addresses()[0];
    let complete = |tokens: std::ops::Range<u32>| {
        let prompt: Vec<u32> = tokens.collect();
        let request = json!({"model": "llama-3.1-8b", "prompt": prompt, "max_tokens": 1});
        assert_eq!(post(address, "/v1/completions", &request).status, 200);
    };
    complete(0..70);
    complete(0..140);
    let events = post(address, "/kv_cache_events", &json!({})).json();
    let stored: Vec<&Value> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["data"])
        .filter(|data| data["type"] == "stored")
        .collect();
    let tokens = |data: &Value| -> Vec<u64> {
        data["blocks"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|block| block["tokens"].as_array().unwrap())
            .map(|token| token["token_id"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(tokens(stored[0]), (0..64).collect::<Vec<_>>());
    assert_eq!(tokens(stored[1]), (64..128).collect::<Vec<_>>());
    assert_eq!(stored[0]["parent_hash"], Value::Null);
    assert_eq!(
        stored[1]["parent_hash"],
        stored[0]["blocks"][1]["block_hash"]
    );
}

#[test]
fn prometheus_speaks_the_collectors_names() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    post(address, "/v1/chat/completions", &long_chat());
    post(address, "/v1/chat/completions", &long_chat());
    let text = get(address, "/prometheus/metrics").body;
    let value = |name: &str| -> f64 {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("trtllm_{name}{{")))
            .unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value("generation_tokens_total"), 40.0);
    assert_eq!(value("num_requests_running"), 1.0);
    assert_eq!(value("kv_cache_max_blocks"), 31_037.0);
    assert_eq!(value("time_to_first_token_seconds_count"), 2.0);
    assert_eq!(value("e2e_request_latency_seconds_count"), 2.0);
    assert!((0.4..0.6).contains(&value("kv_cache_hit_rate")));
    // Every sample follows the name and type of its family.
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap().to_owned();
        } else if !line.starts_with('#') {
            assert!(line.starts_with(&family), "{line} under {family}");
        }
    }
}

#[test]
fn the_small_routes_answer() {
    let emulator = start(json!({"models": ["qwen3-32b"]}));
    let address = emulator.addresses()[0];
    let health = get(address, "/health");
    assert_eq!((health.status, health.body.as_str()), (200, ""));
    assert!(get(address, "/version").json()["version"].is_string());
    let models = get(address, "/v1/models").json();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], "qwen3-32b");
    assert_eq!(
        keys(&models["data"][0]),
        set(["id", "object", "created", "owned_by"])
    );
    assert_eq!(get(address, "/health_generate").status, 200);
    assert_eq!(get(address, "/server_info").status, 200);
    assert_eq!(post(address, "/release_memory", &json!({})).status, 200);
    assert_eq!(emulator.counters(0).unwrap().control_requests, 1);
}
