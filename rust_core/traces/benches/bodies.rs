//! Bodies a second and bytes a second, for prompts as long as the conversation trace's.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weighbridge_traces::{BodyOptions, Generator, Replay, Scaling, Spread, TextPool};

fn bodies(criterion: &mut Criterion) {
    let generator = Generator {
        user_tokens: Spread {
            least: 0.0,
            median: 3_000.0,
            sigma: 1.0,
            most: 30_000.0,
        },
        ..Generator::default()
    };
    let trace = Arc::new(generator.generate().unwrap());
    let replay = Replay::new(trace, &Scaling::default()).unwrap();
    let pool = TextPool::new();
    let options = BodyOptions::streamed("model");
    let mut out = Vec::new();
    let mut write_all = || {
        let mut bytes = 0;
        for arrival in replay.arrivals().iter().take(1000) {
            out.clear();
            replay.write_body(arrival, &pool, &options, &mut out);
            bytes += out.len();
        }
        bytes
    };
    let mut group = criterion.benchmark_group("bodies");
    group.throughput(Throughput::Bytes(write_all() as u64));
    group.bench_function("write", |bencher| bencher.iter(|| black_box(write_all())));
    group.finish();
}

criterion_group!(benches, bodies);
criterion_main!(benches);
