//! Generations over real sockets, as a client sees them.

#![allow(clippy::unwrap_used, clippy::panic)] // tests, helpers included

mod common;

use common::{chat, eventually, get, open, post, post_with, start};
use serde_json::{Value, json};

#[test]
fn a_chat_is_answered_with_usage_and_the_name_of_who_served() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let answer = post(
        address,
        "/v1/chat/completions",
        &chat("How heavy is a truck?", 5),
    );
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        answer.header("x-served-by"),
        Some(address.to_string().as_str())
    );
    let body = answer.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["choices"][0]["message"]["role"], "assistant");
    let text = body["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(text.split(' ').count(), 5);
    let usage = &body["usage"];
    assert_eq!(usage["completion_tokens"], 5);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    let prompt = usage["prompt_tokens"].as_u64().unwrap();
    assert!((8..20).contains(&prompt), "{prompt}");
    assert_eq!(usage["total_tokens"], prompt + 5);
    emulator.stop();
}

#[test]
fn a_stream_says_the_same_as_the_whole_answer() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let mut request = chat(
        "Say something long enough to fill some blocks. "
            .repeat(20)
            .as_str(),
        40,
    );
    let whole = post(address, "/v1/chat/completions", &request).json();
    request["stream"] = json!(true);
    request["stream_options"] = json!({"include_usage": true});
    let answer = post(address, "/v1/chat/completions", &request);
    assert_eq!(
        answer.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    let events = answer.events();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let events: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|e| serde_json::from_str(e).unwrap())
        .collect();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = events
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(json!(text), whole["choices"][0]["message"]["content"]);
    // A role, a chunk for each token, and the usage.
    assert_eq!(events.len(), 42);
    assert_eq!(events[40]["choices"][0]["finish_reason"], "length");
    let usage = &events[41]["usage"];
    assert_eq!(events[41]["choices"], json!([]));
    assert_eq!(usage["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    assert_eq!(usage["completion_tokens"], 40);
    // All complete blocks of the prompt were left by the request before.
    let prompt = usage["prompt_tokens"].as_u64().unwrap();
    assert_eq!(
        usage["prompt_tokens_details"]["cached_tokens"],
        (prompt - 1) / 32 * 32
    );
}

#[test]
fn the_next_turn_finds_the_reply_in_the_cache() {
    let emulator = start(json!({"output_median": 300.0}));
    let address = emulator.addresses()[0];
    let mut request = chat("Tell me about weighing trucks.", 4000);
    let first = post(address, "/v1/chat/completions", &request).json();
    assert_eq!(first["choices"][0]["finish_reason"], "stop");
    let seen = first["usage"]["total_tokens"].as_u64().unwrap();
    let messages = request["messages"].as_array_mut().unwrap();
    messages.push(first["choices"][0]["message"].clone());
    messages.push(json!({"role": "user", "content": "Go on."}));
    let second = post(address, "/v1/chat/completions", &request).json();
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    // Everything but the newest token, in complete blocks.
    assert_eq!(cached, Some((seen - 1) / 32 * 32));
    let counters = emulator.counters(0).unwrap();
    assert_eq!(Some(counters.cached_tokens), cached);
}

#[test]
fn replicas_do_not_share_their_caches() {
    let emulator = start(json!({"replicas": 2}));
    let addresses = emulator.addresses();
    let request = chat(&"the same words again ".repeat(50), 2);
    let cached = |address| {
        post(address, "/v1/chat/completions", &request).json()["usage"]["prompt_tokens_details"]
            ["cached_tokens"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(cached(addresses[0]), 0);
    assert_eq!(cached(addresses[1]), 0);
    assert!(cached(addresses[0]) >= 192);
}

#[test]
fn the_output_length_is_the_one_asked_for_and_never_above_the_limit() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let ask = |n: &str, limit| {
        let headers = [("x-emulate-output-tokens", n)];
        let answer = post_with(
            address,
            "/v1/chat/completions",
            &headers,
            &chat("hello", limit),
        );
        let body = answer.json();
        (
            body["usage"]["completion_tokens"].as_u64().unwrap(),
            body["choices"][0]["finish_reason"]
                .as_str()
                .unwrap()
                .to_owned(),
        )
    };
    assert_eq!(ask("17", 100), (17, "stop".to_owned()));
    assert_eq!(ask("500", 100), (100, "length".to_owned()));
}

#[test]
fn completions_take_several_prompts_and_choices() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let request = json!({"model": "llama-3.1-8b", "prompt": ["one", "two"], "n": 2,
        "max_tokens": 3, "ignore_eos": true});
    let body = post(address, "/v1/completions", &request).json();
    assert_eq!(body["object"], "text_completion");
    let choices = body["choices"].as_array().unwrap();
    let indices: Vec<_> = choices
        .iter()
        .map(|c| c["index"].as_u64().unwrap())
        .collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert_eq!(body["usage"]["completion_tokens"], 12);
    let mut stream = request.clone();
    stream["stream"] = json!(true);
    let answer = post(address, "/v1/completions", &stream);
    let mut texts = vec![String::new(); 4];
    for event in answer.events().iter().filter(|e| **e != "[DONE]") {
        let event: Value = serde_json::from_str(event).unwrap();
        let choice = &event["choices"][0];
        texts[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    let whole: Vec<_> = choices
        .iter()
        .map(|c| c["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, whole);
}

#[test]
fn refusals_have_the_shapes_of_trtllm_serve() {
    let emulator = start(json!({"profiles": [{"max_seq_len": 100}], "max_body_bytes": 10_000}));
    let address = emulator.addresses()[0];
    let raw = |body: &str| {
        let mut stream = open(address, "POST", "/v1/chat/completions", &[], body).unwrap();
        assert_eq!(stream.status, 400);
        let mut text = String::new();
        std::io::Read::read_to_string(stream.reader(), &mut text).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    // Form errors carry a text alone.
    assert!(raw("{").get("error").unwrap().is_string());
    assert!(
        raw("{\"model\":\"llama-3.1-8b\"}")["error"]
            .as_str()
            .unwrap()
            .contains("messages")
    );
    assert!(raw("").get("error").is_some());
    let too_long = post(
        address,
        "/v1/chat/completions",
        &chat(&"word ".repeat(200), 5),
    );
    assert_eq!(too_long.status, 400);
    let body = too_long.json();
    let mut keys: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    assert_eq!(keys, ["code", "message", "object", "param", "type"]);
    assert_eq!(body["object"], "error");
    assert_eq!(body["type"], "BadRequestError");
    assert_eq!(body["code"], 400);
    let mut unknown = chat("hi", 5);
    unknown["model"] = json!("gpt-2");
    let answer = post(address, "/v1/chat/completions", &unknown);
    assert_eq!(
        (answer.status, answer.json()["code"].as_u64()),
        (404, Some(404))
    );
    let huge = post(
        address,
        "/v1/chat/completions",
        &chat(&"x".repeat(20_000), 5),
    );
    assert_eq!(huge.status, 413);
    assert_eq!(get(address, "/v1/nothing").status, 404);
    assert_eq!(get(address, "/v1/completions").status, 405);
    assert_eq!(emulator.counters(0).unwrap().refused, 8);
    assert_eq!(emulator.counters(0).unwrap().requests, 0);
}

#[test]
fn fields_that_trtllm_serve_forbids_are_refused_unless_told_otherwise() {
    let mut request = chat("hi", 1);
    request["prompt_cache_key"] = json!("k");
    request["user"] = json!("u");
    let ask = |config: Value| {
        let emulator = start(config);
        post(emulator.addresses()[0], "/v1/chat/completions", &request)
    };
    assert_eq!(ask(json!({"strict_fields": false})).status, 200);
    let answer = ask(json!({}));
    assert_eq!(answer.status, 400);
    assert!(
        answer.json()["error"]
            .as_str()
            .unwrap()
            .contains("prompt_cache_key")
    );
}

#[test]
fn stream_options_need_a_stream() {
    let emulator = start(json!({}));
    let mut request = chat("hi", 1);
    request["stream_options"] = json!({"include_usage": true});
    let answer = post(emulator.addresses()[0], "/v1/chat/completions", &request);
    assert_eq!(answer.status, 400);
    assert!(
        answer.json()["error"]
            .as_str()
            .unwrap()
            .contains("stream_options")
    );
}

#[test]
fn times_are_those_of_the_engine_model() {
    let emulator = start(json!({"profiles": [{
        "noise": 0.0, "step_overhead_ms": 0.0, "prefill_base_ms": 100.0,
        "prefill_ms_per_token": 0.0, "prefill_ms_per_token2": 0.0, "decode_base_ms": 10.0,
        "decode_ms_per_seq": 0.0, "decode_ms_per_ktoken": 0.0}]}));
    let address = emulator.addresses()[0];
    post(address, "/v1/chat/completions", &chat("hi", 6));
    let records = get(address, "/perf_metrics").json();
    let times = &records[0]["perf_metrics"]["timing_metrics"];
    let between =
        |from: &str, to: &str| times[to].as_f64().unwrap() - times[from].as_f64().unwrap();
    assert!((between("first_scheduled_time", "first_token_time") - 0.1).abs() < 1e-6);
    assert!((between("first_token_time", "last_token_time") - 0.05).abs() < 1e-6);
}

#[test]
fn a_client_that_goes_away_frees_its_blocks() {
    let emulator = start(json!({"speed": 1.0}));
    let address = emulator.addresses()[0];
    for streamed in [true, false] {
        let mut request = chat("a long answer, please", 4000);
        request["ignore_eos"] = json!(true);
        request["stream"] = json!(streamed);
        let text = request.to_string();
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(
            &mut socket,
            format!(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{text}",
                text.len()
            )
            .as_bytes(),
        )
        .unwrap();
        eventually("running", || {
            emulator.counters(0).unwrap().kv_used_blocks > 0
        });
        drop(socket);
        eventually("aborted", || {
            let counters = emulator.counters(0).unwrap();
            counters.open == 0 && counters.kv_used_blocks == 0
        });
    }
    let counters = emulator.counters(0).unwrap();
    assert_eq!((counters.aborted, counters.completed), (2, 0));
}

#[test]
fn the_same_seed_gives_the_same_texts() {
    let answer = |seed: u64| {
        let emulator = start(json!({"seed": seed}));
        post(
            emulator.addresses()[0],
            "/v1/chat/completions",
            &chat("hello there", 4000),
        )
        .json()["choices"]
            .clone()
    };
    assert_eq!(answer(1), answer(1));
    assert_ne!(answer(1), answer(2));
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = serde_json::from_value(json!({"base_port": port})).unwrap();
    let error = weighbridge_emulator::Emulator::start(config).unwrap_err();
    assert!(
        error.to_string().contains(&format!("port {port}")),
        "{error}"
    );
}

#[test]
fn stopping_closes_the_ports() {
    let emulator = start(json!({"replicas": 3, "control_port": 0}));
    let mut addresses = emulator.addresses();
    addresses.extend(emulator.control_address());
    assert!(
        addresses
            .iter()
            .all(|a| std::net::TcpStream::connect(a).is_ok())
    );
    emulator.stop();
    assert!(
        addresses
            .iter()
            .all(|a| std::net::TcpListener::bind(a).is_ok())
    );
}

#[test]
fn a_full_replica_refuses_more() {
    let emulator = start(json!({"speed": 1.0, "max_open_requests": 1}));
    let address = emulator.addresses()[0];
    let mut request = chat("one", 4000);
    request["ignore_eos"] = json!(true);
    request["stream"] = json!(true);
    let first = open(
        address,
        "POST",
        "/v1/chat/completions",
        &[],
        &request.to_string(),
    )
    .unwrap();
    eventually("open", || emulator.counters(0).unwrap().open == 1);
    let second = post(address, "/v1/chat/completions", &chat("two", 5));
    assert_eq!(second.status, 503);
    drop(first);
}

#[test]
fn embeddings_are_computed_as_prompts_and_generate_nothing() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let long = "How heavy is the truck that waits at the gate? ".repeat(40);
    let input = json!({"model": "llama-3.1-8b", "input": ["How heavy?", long, "How heavy?"]});
    let answer = post(address, "/v1/embeddings", &input);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body = answer.json();
    assert_eq!(body["object"], "list");
    assert_eq!(body["model"], "llama-3.1-8b");
    let numbers = |at: usize| body["data"][at]["embedding"].as_array().unwrap().clone();
    assert_eq!(body["data"].as_array().unwrap().len(), 3);
    assert_eq!(body["data"][2]["index"], 2);
    assert_eq!(body["data"][2]["object"], "embedding");
    assert_eq!(numbers(0), numbers(2));
    assert_ne!(numbers(0), numbers(1));
    assert!(
        numbers(1)
            .iter()
            .all(|one| one.as_f64().unwrap().abs() <= 1.0)
    );
    let usage = &body["usage"];
    assert!(usage["prompt_tokens"].as_u64().unwrap() > 400);
    assert_eq!(usage["prompt_tokens"], usage["total_tokens"]);
    assert_eq!(usage.get("completion_tokens"), None);

    let mut short = json!({"model": "llama-3.1-8b", "input": [[1, 2, 3]], "dimensions": 4});
    let floats = post(address, "/v1/embeddings", &short).json();
    assert_eq!(floats["data"][0]["embedding"].as_array().unwrap().len(), 4);
    short["encoding_format"] = json!("base64");
    let packed = post(address, "/v1/embeddings", &short).json();
    // Four floats of four bytes each.
    assert_eq!(packed["data"][0]["embedding"].as_str().unwrap().len(), 24);

    for (field, value) in [
        ("model", json!("another")),
        ("dimensions", json!(0)),
        ("dimensions", json!(4097)),
        ("encoding_format", json!("hex")),
        ("input", json!(7)),
    ] {
        let mut wrong = input.clone();
        wrong[field] = value;
        let answer = post(address, "/v1/embeddings", &wrong);
        assert!(
            (400..500).contains(&answer.status),
            "{field}: {}",
            answer.body
        );
    }
    emulator.stop();
}

#[test]
fn an_output_length_can_be_asked_for_in_the_last_message() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let tokens = |headers: &[(&str, &str)], request: &Value| {
        let answer = post_with(address, "/v1/chat/completions", headers, request);
        answer.json()["usage"]["completion_tokens"]
            .as_u64()
            .unwrap()
    };
    let mut request = chat("How heavy? x-emulate-output-tokens: 37", 900);
    assert_eq!(tokens(&[], &request), 37);
    // The header comes first, and the last message's before an earlier one's.
    assert_eq!(tokens(&[("x-emulate-output-tokens", "5")], &request), 5);
    let again = json!({"role": "user", "content": "And now? x-emulate-output-tokens: 41"});
    request["messages"].as_array_mut().unwrap().push(again);
    assert_eq!(tokens(&[], &request), 41);
    let none = chat("How heavy? x-emulate-output-tokens: many", 900);
    assert!(tokens(&[], &none) > 0);
    emulator.stop();
}
