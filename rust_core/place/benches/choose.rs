//! The choice at 1,000 replicas, 100,000 slices and 1 M cached blocks. Prints JSON.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use weighbridge_place::{
    Amount, Ask, ChoiceSettings, IndexLimits, Key, MicroMu, Placed, Registry, ReplicaSpec,
    SliceSpec, Slices, choose,
};

const REPLICAS: u64 = 1_000;
const BLOCKS: u64 = 1_000_000;
const SLICES: u64 = 100_000;
const SYSTEM: u64 = 6;
const OWN: u64 = 10;

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

fn chain(session: u64) -> Vec<u64> {
    let tenant = session % 200;
    let system = (0..SYSTEM).map(|at| mix(1 << 50 | tenant << 8 | at));
    system
        .chain((0..OWN).map(|at| mix(session << 8 | at)))
        .collect()
}

fn key(session: u64) -> Key {
    Key::from_bits(mix(session ^ 0x55))
}

fn prefill(blocks: u32) -> MicroMu {
    MicroMu::from_mu(60.0 - 3.0 * f64::from(blocks))
}

struct Fleet {
    registry: Registry,
    slices: Slices,
    sessions: u64,
}

fn fleet() -> Fleet {
    let registry = Registry::new(IndexLimits {
        tokens_per_block: 64,
        most_marks: 2 * BLOCKS,
        ..IndexLimits::default()
    });
    let specs = (0..REPLICAS).map(|at| ReplicaSpec {
        endpoint: format!("10.0.{}.{}:8000", at / 250, at % 250),
        model: "llama".into(),
        domain: format!("rack-{}", at % 20),
        ..ReplicaSpec::default()
    });
    registry.replace(specs.collect());
    let pool = registry.pool_full();
    let ids: Vec<_> = pool.replicas().map(|replica| replica.id).collect();
    let slice = |at: u64| SliceSpec {
        start: Key::from_bits(at * (u64::MAX / SLICES)),
        homes: [ids[(mix(at) % REPLICAS) as usize]].into_iter().collect(),
    };
    let slices = Slices::new((0..SLICES).map(slice).collect());
    let sessions = BLOCKS / OWN;
    for session in 0..sessions {
        let home = slices.find(key(session)).unwrap().homes[0];
        pool.replica(home).unwrap().cache.record(&chain(session));
    }
    for (at, replica) in pool.replicas().enumerate() {
        // Held for the length of the run: every replica has some work in flight.
        let decode = MicroMu::from_mu(mix(at as u64) as f64 / u64::MAX as f64 * 400.0);
        std::mem::forget(replica.load.charge(Amount {
            decode,
            sequences: 1,
            ..Amount::default()
        }));
    }
    Fleet {
        registry,
        slices,
        sessions,
    }
}

fn ask<'a>(session: u64, chain: &'a [u64], seed: u64) -> Ask<'a> {
    Ask {
        model: "llama",
        adapter: None,
        key: key(session),
        chain,
        prefill: &prefill,
        decode: MicroMu::from_mu(100.0),
        sequences: 1,
        kv: &|_| 1_500,
        kv_tokens: 1_000,
        objectives: None,
        yields: 1.0,
        subset: None,
        keeper: None,
        now_ms: 0,
        seed,
    }
}

fn bench(criterion: &mut Criterion) {
    let fleet = fleet();
    let chains: Vec<(u64, Vec<u64>)> = (0..50_000u64)
        .map(|at| mix(at) % fleet.sessions)
        .map(|session| (session, chain(session)))
        .collect();
    let settings = ChoiceSettings::default();
    let mut at = 0u64;
    criterion.bench_function("choose_4kb_chat", |bencher| {
        bencher.iter(|| {
            at += 1;
            let (session, chain) = &chains[at as usize % chains.len()];
            let pool = fleet.registry.pool();
            black_box(choose(
                &pool,
                Some(&fleet.slices),
                &ask(*session, chain, at),
                &settings,
            ))
        });
    });
    criterion.bench_function("find_slice", |bencher| {
        bencher.iter(|| {
            at += 1;
            black_box(fleet.slices.find(key(at)).map(|slice| slice.homes[0]))
        });
    });
    criterion.bench_function("record_heat", |bencher| {
        bencher.iter(|| {
            at += 1;
            fleet.slices.record(
                key(at),
                Placed {
                    charged: MicroMu::from_mu(9.0),
                    saved: MicroMu::from_mu(3.0),
                },
            );
        });
    });
    let mut nanos: Vec<u128> = chains
        .iter()
        .map(|(session, chain)| {
            at += 1;
            let start = Instant::now();
            let pool = fleet.registry.pool();
            let _ = black_box(choose(
                &pool,
                Some(&fleet.slices),
                &ask(*session, chain, at),
                &settings,
            ));
            start.elapsed().as_nanos()
        })
        .collect();
    nanos.sort_unstable();
    let share = |part: usize| nanos[nanos.len() * part / 1_000];
    println!(
        "{{\"choose\":\"4kb_chat\",\"replicas\":{REPLICAS},\"slices\":{SLICES},\"blocks\":{},\"p50_ns\":{},\"p99_ns\":{},\"p999_ns\":{}}}",
        fleet.registry.pool().index().size().blocks,
        share(500),
        share(990),
        share(999)
    );
}

criterion_group!(benches, bench);
criterion_main!(benches);
