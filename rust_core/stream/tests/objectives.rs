//! The objectives that a request's headers ask for: longer times than its tenant's, never shorter ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::{core, headers, message};
use serde_json::json;
use std::sync::Arc;
use weighbridge_decide::{Core, Status};
use weighbridge_stream::wire::{HttpBody, HttpHeaders, Request};
use weighbridge_stream::{Limits, Stream};

fn settings() -> serde_json::Value {
    json!({
        "tenant_header": "x-tenant-id",
        "priority_header": "x-request-priority",
        "placing": {"objectives_of": {
            "models": {"m": {"ttft_ms": 1_000.0, "tpot_ms": 50.0}},
            "tenants": {"gold": {"ttft_ms": 300.0}},
            "named": {"overnight": {"ttft_ms": 600_000.0, "priority": "sheddable"}},
        }},
    })
}

/// A request with these headers.
fn send(core: &Arc<Core>, more: &[(&str, &str)]) -> Stream {
    let mut all = vec![
        (":method", "POST"),
        (":path", "/v1/chat/completions"),
        ("content-type", "application/json"),
    ];
    all.extend(more);
    let mut stream = Stream::new(Arc::clone(core), Limits::default());
    let head = Request::RequestHeaders(HttpHeaders {
        headers: Some(headers(&all)),
        end_of_stream: false,
    });
    stream.on_message(message(head), 0);
    let body = json!({
        "model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]
    });
    let body = Request::RequestBody(HttpBody {
        body: Bytes::from(body.to_string()),
        end_of_stream: true,
    });
    stream.on_message(message(body), 0);
    stream
}

/// The objectives with which a request with these headers is placed: ms of a first token and a token.
fn placed(core: &Arc<Core>, more: &[(&str, &str)]) -> (f64, f64) {
    let mut stream = send(core, more);
    let record = core.log().after(0).pop().unwrap();
    stream.close(1);
    (record.objective_ttft_ms, record.objective_tpot_ms)
}

#[test]
fn each_name_of_the_headers_is_read() {
    let core = core(&settings());
    let gold = ("x-tenant-id", "gold");
    assert_eq!(placed(&core, &[]), (1_000.0, 50.0));
    assert_eq!(placed(&core, &[gold]), (300.0, 50.0));
    for (ttft, tpot) in [
        ("x-slo-ttft-ms", "x-slo-tpot-ms"),
        ("x-llm-d-slo-ttft-ms", "x-llm-d-slo-tpot-ms"),
    ] {
        let asked = [gold, (ttft, "5000"), (tpot, "80.5")];
        assert_eq!(placed(&core, &asked), (5_000.0, 80.5));
    }
    for name in [
        "x-gateway-inference-objective",
        "x-llm-d-inference-objective",
    ] {
        assert_eq!(placed(&core, &[(name, "overnight")]), (600_000.0, 50.0));
        assert_eq!(placed(&core, &[(name, "nobody's")]), (1_000.0, 50.0));
    }
}

#[test]
fn neither_nonsense_nor_a_shorter_time_is_taken() {
    let core = core(&settings());
    for nonsense in [
        "", "soon", "NaN", "inf", "-5", "0", "1e999", "1", "0x10", "5 s",
    ] {
        let asked = [("x-slo-ttft-ms", nonsense), ("x-slo-tpot-ms", nonsense)];
        assert_eq!(placed(&core, &asked), (1_000.0, 50.0), "{nonsense:?}");
    }
    let (ttft, _) = placed(&core, &[("x-slo-ttft-ms", "1e300")]);
    assert!(ttft <= 3_600_000.0, "{ttft}");
}

#[test]
fn a_request_that_has_time_waits_as_batch_unless_it_says_otherwise() {
    let mut settings = settings();
    settings["admission"] = json!({"queue": {"window_ms": 1.0, "max_wait_ms": 30_000}});
    let core = core(&settings);
    let waiting = |more: &[(&str, &str)]| {
        let _first = send(&core, &[]);
        let _second = send(&core, more);
        let waiting = &Status::of(&core).admission["m"].waiting;
        let found = waiting.iter().find(|(_, queue)| queue.requests > 0);
        *found.unwrap().0
    };
    let time = |ms| ("x-slo-ttft-ms", ms);
    assert_eq!(waiting(&[]), "standard");
    assert_eq!(waiting(&[time("29000")]), "standard");
    assert_eq!(waiting(&[time("30000")]), "batch");
    assert_eq!(
        waiting(&[time("30000"), ("x-request-priority", "standard")]),
        "standard"
    );
    let named = ("x-gateway-inference-objective", "overnight");
    assert_eq!(waiting(&[named]), "sheddable");
}
