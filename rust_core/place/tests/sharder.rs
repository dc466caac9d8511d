//! The sharder: what requests see of rounds.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use weighbridge_place::assigner::Why;
use weighbridge_place::{
    Key, MicroMu, Registry, ReplicaId, ReplicaSpec, Sharder, SharderSettings, State,
};

fn spec(at: usize, model: &str) -> ReplicaSpec {
    ReplicaSpec {
        endpoint: format!("10.0.0.{at}:8000"),
        model: model.into(),
        ..Default::default()
    }
}

fn specs(count: usize) -> Vec<ReplicaSpec> {
    (0..count)
        .map(|at| spec(at, if at % 2 == 0 { "even" } else { "odd" }))
        .collect()
}

fn round(sharder: &Sharder, registry: &Registry, now_ms: u64) -> u64 {
    sharder.round(
        &registry.pool(),
        &HashMap::new(),
        &SharderSettings::default(),
        now_ms,
    );
    sharder.assignment().number
}

fn homes(sharder: &Sharder, model: &str) -> BTreeSet<ReplicaId> {
    let assignment = sharder.assignment_full();
    assignment
        .model(model)
        .unwrap()
        .iter()
        .flat_map(|slice| slice.homes.to_vec())
        .collect()
}

#[test]
fn each_model_has_slices_on_its_own_replicas() {
    let (registry, sharder) = (Registry::default(), Sharder::new());
    assert_eq!(round(&sharder, &registry, 0), 0);
    registry.replace(specs(8));
    assert_eq!(round(&sharder, &registry, 1_000), 1);
    for model in ["even", "odd"] {
        let pool = registry.pool_full();
        let own: BTreeSet<ReplicaId> = pool
            .model(model)
            .unwrap()
            .replicas
            .iter()
            .map(|replica| replica.id)
            .collect();
        assert_eq!(homes(&sharder, model), own);
    }
}

#[test]
fn an_assignment_changes_only_when_something_does() {
    let (registry, sharder) = (Registry::default(), Sharder::new());
    registry.replace(specs(8));
    let first = round(&sharder, &registry, 1_000);
    let before = sharder.assignment_full();
    assert_eq!(round(&sharder, &registry, 2_000), first);
    let mut changed = specs(8);
    changed[2].state = State::Ejected;
    registry.replace(changed);
    assert_eq!(round(&sharder, &registry, 2_001), first + 1);
    // The other model's slices are the very same, counters and all.
    let after = sharder.assignment_full();
    assert!(Arc::ptr_eq(
        before.model("odd").unwrap(),
        after.model("odd").unwrap()
    ));
    let ejected = registry.pool().endpoint("10.0.0.2:8000").unwrap().id;
    assert!(!homes(&sharder, "even").contains(&ejected));
    registry.replace(
        specs(8)
            .into_iter()
            .filter(|spec| spec.model == "odd")
            .collect(),
    );
    assert_eq!(round(&sharder, &registry, 2_002), first + 2);
    assert!(sharder.assignment().model("even").is_none());
}

#[test]
fn what_requests_record_is_where_the_next_round_finds_it_hot() {
    let (registry, sharder) = (Registry::default(), Sharder::new());
    registry.replace((0..6).map(|at| spec(at, "m")).collect());
    round(&sharder, &registry, 0);
    let mut hot = 0;
    for second in 1..20u64 {
        let assignment = sharder.assignment_full();
        for session in 0..600u32 {
            let key = Key::new(7, session.wrapping_mul(0x9e37_79b9));
            assignment
                .model("m")
                .unwrap()
                .record(key, MicroMu::from_mu(5.0), MicroMu::ZERO);
        }
        let settings = SharderSettings::default();
        let rounds = sharder.round(&registry.pool(), &HashMap::new(), &settings, second * 1_000);
        hot += rounds[0]
            .round
            .moves
            .iter()
            .filter(|moved| moved.why == Why::Hot)
            .count();
    }
    assert!(hot > 0);
    let heat = sharder.heat("m").unwrap();
    assert!(
        (2_900.0..3_100.0).contains(&heat.mu_per_s()),
        "{}",
        heat.mu_per_s()
    );
    let assignment = sharder.assignment_full();
    let mut load: HashMap<ReplicaId, u32> = HashMap::new();
    for session in 0..600u32 {
        let key = Key::new(7, session.wrapping_mul(0x9e37_79b9));
        *load
            .entry(assignment.model("m").unwrap().find(key).unwrap().homes[0])
            .or_default() += 1;
    }
    assert!(
        load.len() == 6 && load.values().all(|count| *count <= 110),
        "{load:?}"
    );
}

#[test]
fn readers_see_whole_assignments_while_rounds_go_on() {
    let (registry, sharder) = (Registry::default(), Sharder::new());
    registry.replace((0..12).map(|at| spec(at, "m")).collect());
    round(&sharder, &registry, 0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..2u64 {
            let (sharder, done) = (&sharder, &done);
            scope.spawn(move || {
                let (mut seen, mut at) = (0, reader);
                while !done.load(Relaxed) {
                    let assignment = sharder.assignment();
                    assert!(assignment.number >= seen, "an older assignment came back");
                    seen = assignment.number;
                    at = at
                        .wrapping_mul(0x5851_f42d_4c95_7f2d)
                        .wrapping_add(0x1405_7b7e_f767_814f);
                    let key = Key::from_bits(at);
                    let slices = assignment.model("m").unwrap();
                    let slice = slices.find(key).unwrap();
                    assert!(slice.start <= key && key <= slice.last && !slice.homes.is_empty());
                    slices.record(key, MicroMu::from_mu(1.0), MicroMu::ZERO);
                }
            });
        }
        for turn in 1..200usize {
            let mut next: Vec<ReplicaSpec> = (0..12).map(|at| spec(at, "m")).collect();
            next[turn % 12].state = State::Ejected;
            registry.replace(next);
            round(&sharder, &registry, turn as u64 * 50);
        }
        done.store(true, Relaxed);
    });
    assert!(sharder.assignment().number >= 199);
}
