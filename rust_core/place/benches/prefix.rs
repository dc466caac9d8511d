//! The prefix index at 1,000 replicas and 1 M blocks: lookup, record, and bytes per block.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use weighbridge_place::{PrefixIndex, ReplicaCache, ReplicaId};

const REPLICAS: u64 = 1_000;
const BLOCKS: u64 = 1_000_000;

/// Blocks of a 4 KB chat: a system prompt of its tenant, then its own turns.
const SYSTEM: u64 = 6;
const OWN: u64 = 10;
const TENANTS: u64 = 200;

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

/// The chain of one session: tenant's blocks first, shared by all replicas it was served on.
fn chain(session: u64) -> Vec<u64> {
    let tenant = session % TENANTS;
    let system = (0..SYSTEM).map(|at| mix(1 << 50 | tenant << 8 | at));
    system
        .chain((0..OWN).map(|at| mix(session << 8 | at)))
        .collect()
}

fn filled() -> (Arc<PrefixIndex>, Vec<ReplicaCache>, u64) {
    let index = PrefixIndex::new();
    let limit = usize::try_from(BLOCKS / REPLICAS * 2).unwrap();
    let caches: Vec<ReplicaCache> = (0..u32::try_from(REPLICAS).unwrap())
        .map(|id| ReplicaCache::new(Arc::clone(&index), ReplicaId(id), limit))
        .collect();
    let sessions = BLOCKS / OWN;
    for session in 0..sessions {
        caches[(mix(session) % REPLICAS) as usize].record(&chain(session));
    }
    (index, caches, sessions)
}

fn prefix(criterion: &mut Criterion) {
    let (index, caches, sessions) = filled();
    let pairs: usize = caches.iter().map(ReplicaCache::len).sum();
    let size = index.size();
    let own: usize = caches.iter().map(ReplicaCache::bytes).sum();
    println!(
        "{{\"replicas\":{REPLICAS},\"blocks\":{},\"pairs\":{pairs},\"bytes\":{},\"bytes_per_pair\":{:.1}}}",
        size.blocks,
        size.bytes + own,
        (size.bytes + own) as f64 / pairs as f64
    );

    let chains: Vec<Vec<u64>> = (0..sessions)
        .map(|session| chain(mix(session) % sessions))
        .collect();
    let mut group = criterion.benchmark_group("prefix");
    let mut at = 0;
    let mut next = || {
        at = (at + 1) % chains.len();
        at
    };
    group.bench_function("matches_4kb_chat", |bencher| {
        bencher.iter(|| {
            let matches = index.matches(black_box(&chains[next()]));
            black_box(matches.deepest())
        });
    });
    let unknown: Vec<u64> = (0..16).map(|at| mix(1 << 60 | at)).collect();
    group.bench_function("matches_nothing", |bencher| {
        bencher.iter(|| black_box(index.matches(black_box(&unknown)).deepest()));
    });
    group.bench_function("record_known", |bencher| {
        bencher.iter(|| {
            let session = mix(next() as u64) % sessions;
            caches[(mix(session) % REPLICAS) as usize].record(black_box(&chain(session)))
        });
    });
    let mut fresh = sessions;
    group.bench_function("record_new_and_evict", |bencher| {
        bencher.iter(|| {
            fresh += 1;
            caches[(mix(fresh) % REPLICAS) as usize].record(black_box(&chain(fresh)))
        });
    });
    let long: Vec<u64> = (0..800).map(|at| mix(1 << 55 | at)).collect();
    for cache in caches.iter().take(3) {
        cache.record(&long);
    }
    group.bench_function("matches_200kb_prompt", |bencher| {
        bencher.iter(|| black_box(index.matches(black_box(&long)).deepest()));
    });
    group.finish();
    percentiles(&index, &chains);
}

/// Each lookup timed alone, as a request would meet it.
fn percentiles(index: &PrefixIndex, chains: &[Vec<u64>]) {
    let mut nanos: Vec<u128> = chains
        .iter()
        .map(|chain| {
            let start = Instant::now();
            black_box(index.matches(black_box(chain)).deepest());
            start.elapsed().as_nanos()
        })
        .collect();
    nanos.sort_unstable();
    let at = |share: usize| nanos[nanos.len() * share / 1_000];
    println!(
        "{{\"lookup\":\"4kb_chat\",\"p50_ns\":{},\"p99_ns\":{},\"p999_ns\":{}}}",
        at(500),
        at(990),
        at(999)
    );
}

criterion_group!(benches, prefix);
criterion_main!(benches);
