//! What admission costs a request: where nothing waits, under overload, and with threads at the door.
//!
//! `cargo bench -p weighbridge-admit` prints one JSON object a line; times are ns per request
//! (an offer and its release).
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use weighbridge_admit::{
    Book, Capacity, Door, Entry, Event, Gate, Offer, Outcome, Priority, Settings, Terms,
};
use weighbridge_place::{Amount, MicroMu};

const ROUNDS: usize = 400_000;

fn book(tenants: usize) -> Book {
    let terms = |at: usize| Terms {
        guaranteed_mu_per_min: if at % 4 == 0 { 1_000.0 } else { 0.0 },
        priority: Priority::ALL[at % 4],
        ..Terms::default()
    };
    let named = (0..tenants).map(|at| (name(at), terms(at)));
    Book::new(named, Terms::default()).unwrap()
}

fn name(at: usize) -> String {
    format!("tenant-{at:05}")
}

fn gate(tenants: usize, mu_per_ms: f64) -> Gate {
    Gate::new(
        Settings::default(),
        book(tenants),
        Capacity {
            mu_per_ms,
            kv_tokens: 1 << 40,
            ..Capacity::default()
        },
    )
}

fn offer(tenant: &str) -> Offer<'_> {
    Offer {
        tenant,
        priority: None,
        cost: Amount {
            prefill: MicroMu::from_mu(30.0),
            decode: MicroMu::from_mu(70.0),
            kv_tokens: 900,
            sequences: 1,
            ..Amount::default()
        },
        deadline_us: u64::MAX,
        fit: None,
    }
}

/// A cheap well-spread sequence.
fn mix(at: usize) -> usize {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) & 0xffff_ffff
}

fn report(case: &str, tenants: usize, threads: usize, mut nanos: Vec<u64>) {
    nanos.sort_unstable();
    let at = |share: usize| nanos[(nanos.len() - 1) * share / 1_000];
    println!(
        "{{\"case\":\"{case}\",\"tenants\":{tenants},\"threads\":{threads},\
         \"p50_ns\":{},\"p99_ns\":{},\"p999_ns\":{}}}",
        at(500),
        at(990),
        at(999)
    );
}

/// Room for all: what every request pays.
fn open(tenants: usize) {
    let mut gate = gate(tenants, 1e9);
    let names: Vec<String> = (0..tenants).map(name).collect();
    let mut events = Vec::new();
    let mut nanos = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let offer = offer(&names[mix(round) % tenants]);
        let start = Instant::now();
        let Outcome::Run(grant) = gate.offer(black_box(&offer), round as u64, &mut events) else {
            panic!("there is room");
        };
        gate.release(grant, MicroMu::from_mu(80.0), round as u64, &mut events);
        nanos.push(u64::try_from(start.elapsed().as_nanos()).unwrap());
    }
    report("open", tenants, 1, nanos);
}

/// Twice as many as can be served: queues full, waiters displaced, deadlines.
fn overload(tenants: usize) {
    let mut gate = gate(tenants, 10.0);
    let names: Vec<String> = (0..tenants).map(name).collect();
    let mut events: Vec<Event> = Vec::new();
    let mut running = VecDeque::new();
    let mut nanos = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        // 100 MU every 5 ms where 10 MU a ms are served.
        let now_us = round as u64 * 5_000;
        let offer = offer(&names[mix(round) % tenants]);
        let start = Instant::now();
        let outcome = gate.offer(black_box(&offer), now_us, &mut events);
        if round % 2 == 0 && running.len() >= 1_500 {
            let grant = running.pop_front().unwrap();
            gate.release(grant, MicroMu::from_mu(100.0), now_us, &mut events);
        }
        nanos.push(u64::try_from(start.elapsed().as_nanos()).unwrap());
        if let Outcome::Run(grant) = outcome {
            running.push_back(grant);
        }
        for event in events.drain(..) {
            if let Event::Run(_, grant) = event {
                running.push_back(grant);
            }
        }
    }
    report("overload", tenants, 1, nanos);
}

/// Threads that do nothing else but pass one door.
fn contended(tenants: usize, threads: usize) {
    let door = Door::new(gate(tenants, 1e9));
    let names: Arc<Vec<String>> = Arc::new((0..tenants).map(name).collect());
    let barrier = Arc::new(Barrier::new(threads));
    let workers: Vec<_> = (0..threads)
        .map(|worker| {
            let (door, names, barrier) =
                (Arc::clone(&door), Arc::clone(&names), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                let mut nanos = Vec::with_capacity(ROUNDS);
                for round in 0..ROUNDS {
                    let offer = offer(&names[mix(round * threads + worker) % names.len()]);
                    let start = Instant::now();
                    let Entry::Run(pass) = door.enter(black_box(&offer), round as u64) else {
                        panic!("there is room");
                    };
                    pass.finish(MicroMu::from_mu(80.0), round as u64);
                    nanos.push(u64::try_from(start.elapsed().as_nanos()).unwrap());
                }
                nanos
            })
        })
        .collect();
    let nanos = workers
        .into_iter()
        .flat_map(|worker| worker.join().unwrap())
        .collect();
    report("door", tenants, threads, nanos);
}

fn main() {
    // `cargo test` runs benches too, with an argument that says so.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    for tenants in [4, 10_000] {
        open(tenants);
        overload(tenants);
        for threads in [1, 2] {
            contended(tenants, threads);
        }
    }
}
