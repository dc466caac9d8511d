//! Decisions as spans: whose child each is, from when to when, and which leave none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::{headers, message};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use weighbridge_decide::{Core, Span, SpanOutcome, Status, TraceParent};
use weighbridge_stream::wire::{HttpBody, HttpHeaders, Request};
use weighbridge_stream::{Limits, Stream};

const CLIENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const GATEWAY: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000aa-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000bb-00";

/// A core that keeps so many spans and whose one replica is full with a single request.
fn core(spans: usize) -> Arc<Core> {
    common::core(&serde_json::json!({
        "admission": {"queue": {"window_ms": 10.0, "max_wait_ms": 5_000, "queue_requests": 1}},
        "decision_log": 0,
        "spans": spans,
    }))
}

/// Sends a request; `client` is its `traceparent`, `gateway` that of the stream.
fn send(
    core: &Arc<Core>,
    client: Option<&str>,
    gateway: Option<&str>,
    model: &str,
    now_us: u64,
) -> Stream {
    let mut stream = Stream::new(Arc::clone(core), Limits::default());
    if let Some(text) = gateway {
        stream.set_traceparent(text);
    }
    let mut pairs = vec![
        (":method", "POST"),
        (":path", "/v1/chat/completions"),
        ("x-request-id", "r"),
    ];
    pairs.extend(client.map(|text| ("traceparent", text)));
    let headers = HttpHeaders {
        headers: Some(headers(&pairs)),
        end_of_stream: model.is_empty(),
    };
    stream.on_message(message(Request::RequestHeaders(headers)), now_us);
    let body = serde_json::json!({
        "model": model, "max_tokens": 100,
        "messages": [{"role": "user", "content": "word ".repeat(200)}],
    });
    let body = HttpBody {
        body: Bytes::from(body.to_string()),
        end_of_stream: true,
    };
    if !model.is_empty() {
        stream.on_message(message(Request::RequestBody(body)), now_us);
    }
    stream
}

fn parents(spans: &[Span]) -> Vec<TraceParent> {
    spans.iter().map(|span| span.parent).collect()
}

fn refused(span: &Span) -> (u16, &str) {
    match &span.outcome {
        SpanOutcome::Refused { status, code } => (*status, code),
        SpanOutcome::Placed(_) => panic!("it was placed"),
    }
}

#[test]
fn the_gateways_span_stands_above_the_clients() {
    let core = core(10);
    drop(send(&core, Some(CLIENT), None, "m", 0));
    drop(send(&core, Some(CLIENT), Some(GATEWAY), "m", 0));
    drop(send(&core, None, Some(GATEWAY), "m", 0));
    let [client, gateway] = [CLIENT, GATEWAY].map(|text| TraceParent::parse(text).unwrap());
    let spans = core.take_spans(10);
    assert_eq!(parents(&spans), [client, gateway, gateway]);
    let SpanOutcome::Placed(record) = &spans[0].outcome else {
        panic!("it was placed");
    };
    assert_eq!(record.endpoints.replica(), "10.0.0.1:8000");
    assert!(core.take_spans(10).is_empty(), "taken once");
}

#[test]
fn what_is_not_sampled_or_not_traced_leaves_no_span() {
    let traced = core(10);
    drop(send(&traced, None, None, "m", 0));
    drop(send(&traced, Some("nonsense"), None, "m", 0));
    drop(send(&traced, Some(UNSAMPLED), None, "m", 0));
    // The gateway decides for its whole trace.
    drop(send(&traced, Some(CLIENT), Some(UNSAMPLED), "m", 0));
    assert!(traced.take_spans(10).is_empty());
    let untraced = core(0);
    drop(send(&untraced, Some(CLIENT), Some(GATEWAY), "m", 0));
    assert!(untraced.take_spans(10).is_empty());
}

#[test]
fn a_wait_for_admission_is_part_of_the_span() {
    let core = core(10);
    let mut context = Context::from_waker(Waker::noop());
    let first = send(&core, None, None, "m", 0);
    let mut second = send(&core, Some(CLIENT), None, "m", 1_000);
    assert!(second.poll_resume(&mut context, 1_500).is_pending());
    drop(send(&core, Some(CLIENT), None, "m", 2_000));
    assert_eq!(refused(&core.take_spans(10)[0]), (429, "queue_full"));
    drop(first);
    let Poll::Ready(_) = second.poll_resume(&mut context, 90_000_000) else {
        panic!("its turn has come");
    };
    let spans = core.take_spans(10);
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].started_us, 1_000);
    assert_eq!(spans[0].waited_us, 89_999_000);
    assert!(spans[0].ended_us >= 90_000_000);
}

#[test]
fn refusals_are_spans_too_also_by_the_headers_alone() {
    let core = core(10);
    drop(send(&core, Some(CLIENT), None, "nobody", 0));
    drop(send(&core, Some(CLIENT), None, "", 0));
    let spans = core.take_spans(10);
    let codes: Vec<_> = spans.iter().map(refused).collect();
    assert_eq!(codes, [(404, "model_not_found"), (400, "empty_body")]);
}

#[test]
fn spans_that_nobody_takes_fall_out_and_are_counted() {
    let core = core(2);
    for _ in 0..5 {
        drop(send(&core, Some(CLIENT), None, "m", 0));
    }
    assert_eq!(Status::of(&core).spans_lost, 3);
    assert_eq!(core.take_spans(10).len(), 2);
}
