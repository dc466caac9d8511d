//! Faults on command, in process and over the control port.

#![allow(clippy::unwrap_used, clippy::panic)] // tests, helpers included

mod common;

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::{chat, eventually, get, open, post, start};
use serde_json::{Value, json};
use weighbridge_emulator::{Emulator, Fault, HangScope};

fn inflict(emulator: &Emulator, replica: &str, fault: &Value) -> common::Answer {
    let control = emulator.control_address().unwrap();
    post(control, &format!("/replicas/{replica}/fault"), fault)
}

/// A stream that has begun and will not end by itself.
fn endless(address: SocketAddr) -> common::Stream {
    let mut request = chat("go on for ever", 4000);
    request["ignore_eos"] = json!(true);
    request["stream"] = json!(true);
    let mut stream = open(
        address,
        "POST",
        "/v1/chat/completions",
        &[],
        &request.to_string(),
    )
    .unwrap();
    assert!(stream.chunk().unwrap().is_some());
    stream
}

#[test]
fn a_crash_breaks_connections_and_a_heal_brings_a_cold_cache() {
    let emulator = start(json!({"replicas": 2, "control_port": 0, "speed": 1.0}));
    let [address, other] = emulator.addresses()[..] else {
        panic!()
    };
    let request = chat(&"warm the cache with this ".repeat(30), 1);
    post(address, "/v1/chat/completions", &request);
    let mut stream = endless(address);
    assert_eq!(
        inflict(&emulator, "0", &json!({"kind": "crash"})).status,
        200
    );
    while let Ok(chunk) = stream.chunk() {
        assert!(chunk.is_some(), "the stream ended as if it were complete");
    }
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(get(other, "/health").status, 200);
    let described = get(emulator.control_address().unwrap(), "/replicas/0").json();
    assert_eq!(described["up"], false);
    assert_eq!(described["counters"]["failed"], 1);
    assert_eq!(
        inflict(&emulator, &address.to_string(), &json!({"kind": "heal"})).status,
        200
    );
    let answer = post(address, "/v1/chat/completions", &request).json();
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[test]
fn a_restart_is_over_when_it_is_answered() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let request = chat(&"warm the cache with this ".repeat(30), 1);
    let cached = || {
        post(address, "/v1/chat/completions", &request).json()["usage"]["prompt_tokens_details"]
            ["cached_tokens"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(cached(), 0);
    assert!(cached() > 0);
    emulator.fault(0, Fault::Restart { down_ms: 20 }).unwrap();
    assert_eq!(cached(), 0);
    // What was done before stays counted.
    assert_eq!(emulator.counters(0).unwrap().completed, 3);
}

#[test]
fn a_hanging_process_answers_nothing_until_it_is_healed() {
    let emulator = start(json!({"speed": 1.0}));
    let address = emulator.addresses()[0];
    let mut stream = endless(address);
    emulator
        .fault(
            0,
            Fault::Hang {
                scope: HangScope::Process,
            },
        )
        .unwrap();
    let waiting = std::thread::spawn(move || get(address, "/health").status);
    // Its connection is taken, so the stream is silent rather than broken.
    stream
        .reader()
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    eventually("silence", || stream.chunk().is_err());
    let produced = emulator.counters(0).unwrap().output_tokens;
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(emulator.counters(0).unwrap().output_tokens, produced);
    assert!(!waiting.is_finished());
    emulator.fault(0, Fault::Heal).unwrap();
    assert_eq!(waiting.join().unwrap(), 200);
    eventually("tokens again", || {
        emulator.counters(0).unwrap().output_tokens > produced
    });
}

#[test]
fn a_hanging_engine_still_says_that_it_is_healthy() {
    let emulator = start(json!({"speed": 1.0}));
    let address = emulator.addresses()[0];
    let _stream = endless(address);
    emulator
        .fault(
            0,
            Fault::Hang {
                scope: HangScope::Engine,
            },
        )
        .unwrap();
    let produced = emulator.counters(0).unwrap().output_tokens;
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(emulator.counters(0).unwrap().output_tokens, produced);
    assert_eq!(get(address, "/health").status, 200);
    emulator.fault(0, Fault::Heal).unwrap();
    eventually("tokens again", || {
        emulator.counters(0).unwrap().output_tokens > produced
    });
}

#[test]
fn a_slow_replica_takes_longer_by_its_factor() {
    let emulator = start(json!({"profiles": [{"noise": 0.0}], "iter_stats_max_iterations": 5000}));
    let address = emulator.addresses()[0];
    let latency = || {
        get(address, "/metrics");
        post(address, "/v1/chat/completions", &chat("one two three", 30));
        let records = get(address, "/metrics").json();
        records[20]["iterLatencyMS"].as_f64().unwrap()
    };
    let before = latency();
    emulator.fault(0, Fault::Slow { factor: 3.0 }).unwrap();
    let ratio = latency() / before;
    assert!((ratio - 3.0).abs() < 0.01, "{ratio}");
    emulator.fault(0, Fault::Heal).unwrap();
    assert!((latency() / before - 1.0).abs() < 0.01);
}

#[test]
fn errors_come_at_their_rate_and_in_their_shape() {
    let emulator = start(json!({"control_port": 0}));
    let address = emulator.addresses()[0];
    let fault = json!({"kind": "errors", "rate": 0.5, "status": 503});
    assert_eq!(inflict(&emulator, "0", &fault).status, 200);
    let statuses: Vec<u16> = (0..60)
        .map(|_| post(address, "/v1/chat/completions", &chat("hi", 1)).status)
        .collect();
    let refused = statuses.iter().filter(|s| **s == 503).count();
    assert!((15..45).contains(&refused), "{refused}");
    assert!(statuses.iter().all(|s| [200, 503].contains(s)));
    assert_eq!(get(address, "/health").status, 200);
    inflict(&emulator, "0", &json!({"kind": "errors", "rate": 1.0}));
    let answer = post(address, "/v1/chat/completions", &chat("hi", 1));
    assert_eq!(answer.status, 500);
    assert_eq!(answer.json()["object"], "error");
}

#[test]
fn an_unhealthy_replica_says_so_and_heals_by_itself_when_told() {
    let emulator = start(json!({"control_port": 0}));
    let address = emulator.addresses()[0];
    let fault = json!({"kind": "unhealthy", "for_ms": 100});
    assert_eq!(inflict(&emulator, "0", &fault).status, 200);
    assert_eq!(get(address, "/health").status, 503);
    eventually("healed", || get(address, "/health").status == 200);
}

#[test]
fn replicas_start_one_after_the_other() {
    let emulator = start(json!({"replicas": 2, "start_stagger_ms": 150}));
    let [first, second] = emulator.addresses()[..] else {
        panic!()
    };
    assert_eq!(get(first, "/health").status, 200);
    let early = get(second, "/health");
    assert_eq!(early.status, 503);
    assert!(early.body.contains("unavailable"));
    assert_eq!(
        post(second, "/v1/chat/completions", &chat("hi", 1)).status,
        503
    );
    eventually("started", || get(second, "/health").status == 200);
}

#[test]
fn the_control_port_explains_what_it_does_not_take() {
    let emulator = start(json!({"control_port": 0}));
    let control = emulator.control_address().unwrap();
    for (fault, part) in [
        (json!({"kind": "explode"}), "explode"),
        (json!({"kind": "slow", "factor": 0.0}), "factor"),
        (json!({"kind": "slow", "factor": 2.0, "speed": 1}), "speed"),
        (json!({}), "kind"),
    ] {
        let answer = inflict(&emulator, "0", &fault);
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains(part), "{fault}: {}", answer.body);
    }
    assert_eq!(
        inflict(&emulator, "7", &json!({"kind": "crash"})).status,
        404
    );
    assert_eq!(get(control, "/").status, 404);
    assert_eq!(
        get(control, "/replicas").json().as_array().unwrap().len(),
        1
    );
}
