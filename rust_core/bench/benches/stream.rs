//! The state machine: one request from its head to its end, with and without the protobuf edge.
#![allow(missing_docs, clippy::expect_used)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use serde_json::json;
use std::sync::Arc;
use weighbridge_bench::{Conversation, life, profile};
use weighbridge_decide::{Core, Settings};
use weighbridge_stream::wire::ProcessingRequest;
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
