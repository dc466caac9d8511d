//! What swapping the assignment costs requests: lookups of 100,000 slices while nothing happens, and
//! while another thread swaps all of them every 20 ms. Prints JSON.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use weighbridge_place::{
    Assignment, Key, MicroMu, Placed, Published, ReplicaId, SliceSpec, Slices,
};

const SLICES: u64 = 100_000;
const LOOKUPS: u64 = 2_000_000;
const PAUSE: Duration = Duration::from_millis(20);

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

fn assignment(number: u64) -> Assignment {
    let slice = |at: u64| SliceSpec {
        start: Key::from_bits(at * (u64::MAX / SLICES)),
        homes: [ReplicaId((mix(at ^ number) % 1_000) as u32)]
            .into_iter()
            .collect(),
    };
    let slices = Slices::new((0..SLICES).map(slice).collect());
    Assignment::new(number, HashMap::from([("m".to_owned(), Arc::new(slices))]))
}

/// What a request asks of the assignment: its slice's homes, and to be counted there. Nanoseconds of
/// each, sorted.
fn requests(published: &Published) -> Vec<u64> {
    let mut nanos: Vec<u64> = (0..LOOKUPS)
        .map(|at| {
            let key = Key::from_bits(mix(at));
            let start = Instant::now();
            let current = published.load();
            let slices = current.model("m").unwrap();
            black_box(slices.find(key).map(|slice| slice.homes.first().copied()));
            slices.record(
                key,
                Placed {
                    charged: MicroMu::from_mu(9.0),
                    saved: MicroMu::from_mu(3.0),
                },
            );
            drop(current);
            u64::try_from(start.elapsed().as_nanos()).unwrap()
        })
        .collect();
    nanos.sort_unstable();
    nanos
}

fn report(name: &str, nanos: &[u64], swaps: u64) {
    let share = |part: usize| nanos[(nanos.len() - 1) * part / 10_000];
    let mean = nanos.iter().sum::<u64>() / nanos.len() as u64;
    println!(
        "{{\"phase\":\"{name}\",\"slices\":{SLICES},\"lookups\":{},\"swaps\":{swaps},\"mean_ns\":{mean},\"p50_ns\":{},\"p99_ns\":{},\"p999_ns\":{},\"p9999_ns\":{},\"above_1us_of_10000\":{:.2}}}",
        nanos.len(),
        share(5_000),
        share(9_900),
        share(9_990),
        share(9_999),
        nanos.iter().filter(|nanos| **nanos > 1_000).count() as f64 * 1e4 / nanos.len() as f64,
    );
}

fn main() {
    let published = Published::default();
    published.replace(assignment(1));
    requests(&published);
    for _ in 0..3 {
        report("still", &requests(&published), 0);
        let stop = AtomicBool::new(false);
        let swaps = AtomicU64::new(0);
        let nanos = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    published.replace(assignment(swaps.fetch_add(1, Relaxed) + 2));
                    std::thread::sleep(PAUSE);
                }
            });
            let nanos = requests(&published);
            stop.store(true, Relaxed);
            nanos
        });
        report("swapping", &nanos, swaps.load(Relaxed));
    }
}
