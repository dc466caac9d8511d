//! The state machine: one request from its head to its end, with and without the protobuf edge.
#![allow(missing_docs, clippy::expect_used)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use serde_json::json;
use std::sync::Arc;
use weighbridge_bench::{Conversation, profile};
use weighbridge_decide::{Core, Settings};
use weighbridge_stream::wire::{
    BodySendMode, HeaderMap, HeaderValue, HttpBody, HttpHeaders, ProcessingRequest,
    ProtocolConfiguration, Request,
};
use weighbridge_stream::{Limits, Stream};

const BODY_BYTES: usize = 4 << 10;

fn core() -> Arc<Core> {
    let settings: Settings =
        serde_json::from_value(json!({"profiles": [profile()]})).expect("settings");
    let core = Core::new(settings).expect("a core");
    let replicas: Vec<_> = (0..100)
        .map(|at| json!({"endpoint": format!("10.0.0.{at}:8000"), "profile": "bench"}))
        .collect();
    core.set_replicas(serde_json::from_value(json!(replicas)).expect("replicas"))
        .expect("replicas");
    Arc::new(core)
}

fn headers(pairs: &[(&str, &str)]) -> HttpHeaders {
    let headers = pairs
        .iter()
        .map(|(name, value)| HeaderValue {
            key: Bytes::copy_from_slice(name.as_bytes()),
            value: Bytes::new(),
            raw_value: Bytes::copy_from_slice(value.as_bytes()),
        })
        .collect();
    HttpHeaders {
        headers: Some(HeaderMap { headers }),
        end_of_stream: false,
    }
}

/// The messages of one request, as Envoy sends them.
fn life(body: Bytes) -> Vec<ProcessingRequest> {
    let head = headers(&[
        (":authority", "localhost:10000"),
        (":method", "POST"),
        (":path", "/v1/chat/completions"),
        (":scheme", "http"),
        ("content-type", "application/json"),
        ("content-length", "4096"),
        ("user-agent", "bench"),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "6f1c0d2e-0000-4000-8000-000000000000"),
        ("x-session-id", "session-7"),
    ]);
    let body = HttpBody {
        body,
        end_of_stream: true,
    };
    let answer = headers(&[(":status", "200"), ("content-type", "application/json")]);
    let requests = [
        Request::RequestHeaders(head),
        Request::RequestBody(body),
        Request::ResponseHeaders(answer),
    ];
    let mut messages: Vec<_> = requests
        .into_iter()
        .map(|request| ProcessingRequest {
            request: Some(request),
            ..ProcessingRequest::default()
        })
        .collect();
    if let Some(first) = messages.first_mut() {
        first.protocol_config = Some(ProtocolConfiguration {
            request_body_mode: BodySendMode::BufferedPartial.into(),
            ..ProtocolConfiguration::default()
        });
    }
    messages
}

fn lives(criterion: &mut Criterion) {
    let core = core();
    let messages = life(Conversation::new(7).body("bench-8b", BODY_BYTES).into());
    let wire: Vec<Bytes> = messages
        .iter()
        .map(|message| message.encode_to_vec().into())
        .collect();
    let mut group = criterion.benchmark_group("stream");
    group.throughput(Throughput::Elements(1));
    group.bench_function("machine", |bencher| {
        bencher.iter(|| {
            let mut stream = Stream::new(Arc::clone(&core), Limits::default());
            for message in messages.clone() {
                std::hint::black_box(stream.on_message(message, 0));
            }
        });
    });
    group.bench_function("machine_and_protobuf", |bencher| {
        bencher.iter(|| {
            let mut stream = Stream::new(Arc::clone(&core), Limits::default());
            for bytes in &wire {
                let message = ProcessingRequest::decode(bytes.clone()).expect("a message");
                for reply in stream.on_message(message, 0) {
                    std::hint::black_box(reply.encode_to_vec());
                }
            }
        });
    });
    group.finish();
}

criterion_group!(benches, lives);
criterion_main!(benches);
