//! Rounds at 1,000 replicas and 100,000 slices: steady, and after a loss. Prints JSON.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::LazyLock;
use std::time::Instant;

use weighbridge_place::assigner::{AssignerSettings, Member, Round, round};
use weighbridge_place::{Heat, Key, MicroMu, Placed, ReplicaId, Slices};

const ROUND_MS: u64 = 2_000;

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

/// The tenants' sessions: (key, MU per second), skewed over tenants and over sessions.
fn sessions(tenants: u64, each: u64, total: f64) -> Vec<(Key, f64)> {
    let weight = |tenant: u64, rank: u64| 1.0 / ((tenant + 5) as f64 * ((rank + 5) as f64).sqrt());
    let all = (0..tenants).flat_map(|tenant| (0..each).map(move |rank| (tenant, rank)));
    let sum: f64 = all.clone().map(|(tenant, rank)| weight(tenant, rank)).sum();
    let key = |tenant: u64, rank: u64| {
        Key::new(
            (mix(tenant) >> 32) as u32,
            (mix(tenant << 32 | rank) >> 32) as u32,
        )
    };
    all.map(|(tenant, rank)| (key(tenant, rank), total * weight(tenant, rank) / sum))
        .collect()
}

/// Milliseconds that this thread has had a core, where the system tells; else milliseconds passed.
fn cpu_ms() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = stat.and_then(|stat| stat.split(' ').next()?.parse::<f64>().ok());
    nanos.unwrap_or_else(|| START.elapsed().as_nanos() as f64) / 1e6
}

struct World {
    settings: AssignerSettings,
    members: Vec<Member>,
    sessions: Vec<(Key, f64)>,
    slices: Slices,
    heat: Heat,
    now_ms: u64,
}

impl World {
    /// One round; milliseconds for absorbing the heat and for the round itself.
    fn step(&mut self) -> (Round, f64, f64) {
        self.now_ms += ROUND_MS;
        for (key, rate) in &self.sessions {
            let mu = rate * ROUND_MS as f64 / 1e3;
            self.slices.record(
                *key,
                Placed {
                    charged: MicroMu::from_mu(mu),
                    saved: MicroMu::from_mu(mu * 0.3),
                },
            );
        }
        let start = cpu_ms();
        self.heat.absorb(&self.slices, self.now_ms, 20_000.0);
        let absorbed = cpu_ms() - start;
        let start = cpu_ms();
        let next = round(
            &self.slices,
            &self.heat,
            &self.members,
            &[],
            &self.settings,
            ROUND_MS as f64 / 1e3,
        );
        let decided = cpu_ms() - start;
        self.slices = Slices::new(next.slices.clone());
        self.heat = next.heat.clone();
        (next, absorbed, decided)
    }
}

fn main() {
    let count = 1_000u32;
    let settings = AssignerSettings {
        split_share: 0.015,
        most_slices: 128,
        ..AssignerSettings::default()
    };
    let members = (0..count)
        .map(|id| Member {
            id: ReplicaId(id),
            mu_per_s: 1_000.0,
            kv_tokens: 1e6,
            domain: format!("rack-{}", id % 20),
            serves: true,
        })
        .collect();
    let mut world = World {
        settings,
        members,
        sessions: sessions(2_000, 100, 600.0 * f64::from(count)),
        slices: Slices::default(),
        heat: Heat::new(0),
        now_ms: 0,
    };
    for number in 0..14 {
        if number == 11 {
            world
                .members
                .iter_mut()
                .take(50)
                .for_each(|member| member.serves = false);
        }
        let (next, absorb_ms, round_ms) = world.step();
        println!(
            "{{\"round\":{number},\"replicas\":{count},\"slices\":{},\"moves\":{},\"splits\":{},\"merges\":{},\"highest_to_mean\":{:.3},\"absorb_ms\":{absorb_ms:.1},\"round_ms\":{round_ms:.1}}}",
            next.slices.len(),
            next.moves.len(),
            next.splits,
            next.merges,
            next.highest / next.mean,
        );
    }
}
