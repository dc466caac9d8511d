//! Decisions: reading alone, and the whole from body to released charge.
#![allow(missing_docs, clippy::expect_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weighbridge_bench::{Case, Conversation, Scene, profile};
use weighbridge_weigh::{Body, Endpoint, Limits, read};

const KIB: usize = 1 << 10;

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    for bytes in [KIB / 2, 4 * KIB, 32 * KIB, 256 * KIB, 1024 * KIB] {
        let body = Conversation::new(7).body("bench-8b", bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(
            BenchmarkId::from_parameter(bytes),
            &body,
            |bencher, body| {
                let limits = Limits::default();
                bencher.iter(|| read(Endpoint::ChatCompletions, Body::whole(body), &limits));
            },
        );
    }
    group.finish();
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for (body_bytes, replicas, index_blocks) in [
        (4 * KIB, 10, 0),
        (4 * KIB, 1000, 0),
        (4 * KIB, 1000, 1_000_000),
        (256 * KIB, 1000, 1_000_000),
    ] {
        let case = Case {
            body_bytes,
            replicas,
            index_blocks,
        };
        let mut scene = Scene::set(&profile(), case).expect("a scene");
        let name = format!("{body_bytes}B/{replicas}replicas/{index_blocks}blocks");
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter(|| scene.step().expect("a decision"));
        });
    }
    group.finish();
}

criterion_group!(benches, reading, decisions);
criterion_main!(benches);
