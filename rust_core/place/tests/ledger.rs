//! The ledger is exact: whatever the interleaving, nothing in flight means nothing carried.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use proptest::prelude::*;
use weighbridge_place::{Amount, Charge, Load, MicroMu, Registry, ReplicaSpec, Totals};

const ENDPOINTS: u8 = 4;

/// One step of one thread.
#[derive(Clone, Debug)]
enum Step {
    Start(u8, Amount),
    PrefillDone(u8),
    Adjust(u8, Amount),
    MoveTo(u8, u8),
    End(u8),
    /// Publish a pool of the endpoints whose bits are set.
    Replace(u8),
}

fn amount() -> impl Strategy<Value = Amount> {
    (0.0..1e5f64, 0.0..1e5f64, 0u64..2_000_000).prop_map(|(prefill, decode, kv_tokens)| Amount {
        prefill: MicroMu::from_mu(prefill),
        decode: MicroMu::from_mu(decode),
        kv_tokens,
        kv_reserved: kv_tokens * 3,
        sequences: (kv_tokens % 7) as u32,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let endpoint = 0..ENDPOINTS;
    prop_oneof![
        6 => (endpoint.clone(), amount()).prop_map(|(at, amount)| Step::Start(at, amount)),
        3 => any::<u8>().prop_map(Step::PrefillDone),
        2 => (any::<u8>(), amount()).prop_map(|(at, amount)| Step::Adjust(at, amount)),
        2 => (any::<u8>(), endpoint).prop_map(|(at, to)| Step::MoveTo(at, to)),
        4 => any::<u8>().prop_map(Step::End),
        2 => (0u8..1 << ENDPOINTS).prop_map(Step::Replace),
    ]
}

fn endpoint(at: u8) -> String {
    format!("10.0.0.{at}:8000")
}

fn specs(bits: u8) -> Vec<ReplicaSpec> {
    (0..ENDPOINTS)
        .filter(|at| bits >> at & 1 == 1)
        .map(|at| ReplicaSpec {
            endpoint: endpoint(at),
            model: "m".into(),
            ..ReplicaSpec::default()
        })
        .collect()
}

/// Runs one thread's steps; returns the charges still held.
fn run(registry: &Registry, steps: &[Step], loads: &Mutex<Vec<Arc<Load>>>) -> Vec<Charge> {
    let mut held: Vec<Charge> = Vec::new();
    let pick = |held: &Vec<Charge>, at: u8| (!held.is_empty()).then(|| at as usize % held.len());
    for step in steps {
        match step {
            Step::Start(at, amount) => {
                if let Some(replica) = registry.pool().endpoint(&endpoint(*at)) {
                    held.push(replica.load.charge(*amount));
                    loads.lock().unwrap().push(Arc::clone(&replica.load));
                }
            }
            Step::PrefillDone(at) => {
                if let Some(at) = pick(&held, *at) {
                    held[at].prefill_done();
                }
            }
            Step::Adjust(at, amount) => {
                if let Some(at) = pick(&held, *at) {
                    held[at].adjust(*amount);
                }
            }
            Step::MoveTo(at, to) => {
                let pool = registry.pool();
                if let (Some(at), Some(to)) = (pick(&held, *at), pool.endpoint(&endpoint(*to))) {
                    held[at].move_to(&to.load);
                }
            }
            Step::End(at) => {
                if let Some(at) = pick(&held, *at) {
                    drop(held.swap_remove(at));
                }
            }
            Step::Replace(bits) => {
                registry.replace(specs(*bits));
            }
        }
    }
    held
}

/// What these charges hold of one ledger.
fn sum(charges: &[Charge], load: &Arc<Load>) -> Totals {
    charges
        .iter()
        .filter(|charge| Arc::ptr_eq(charge.load(), load))
        .fold(Totals::default(), |sum, charge| Totals {
            prefill: sum.prefill + charge.amount().prefill,
            decode: sum.decode + charge.amount().decode,
            kv_tokens: sum.kv_tokens + i64::try_from(charge.amount().kv_tokens).unwrap(),
            kv_reserved: sum.kv_reserved + i64::try_from(charge.amount().kv_reserved).unwrap(),
            sequences: sum.sequences + i64::from(charge.amount().sequences),
            requests: sum.requests + 1,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn sums_are_those_of_the_requests_in_flight(
        programs in prop::collection::vec(prop::collection::vec(step(), 0..200), 4),
    ) {
        let registry = Registry::default();
        registry.replace(specs(0b1111));
        let loads = Mutex::new(Vec::new());
        let barrier = Barrier::new(programs.len());
        let held: Vec<Charge> = thread::scope(|scope| {
            let threads: Vec<_> = programs
                .iter()
                .map(|steps| {
                    scope.spawn(|| {
                        barrier.wait();
                        run(&registry, steps, &loads)
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });

        let mut loads = loads.into_inner().unwrap();
        registry.replace(specs(0b1111));
        loads.extend(registry.pool().replicas().map(|replica| Arc::clone(&replica.load)));
        for load in &loads {
            prop_assert_eq!(load.own(), sum(&held, load));
        }
        drop(held);
        for load in &loads {
            prop_assert_eq!(load.own(), Totals::default());
            prop_assert_eq!(load.totals(), Totals::default());
        }
    }
}

#[test]
fn a_replica_that_returns_still_carries_its_old_requests() {
    let registry = Registry::default();
    registry.replace(specs(0b0001));
    let amount = Amount {
        kv_tokens: 500,
        ..Amount::default()
    };
    let before = registry.pool_full();
    let charge = before.endpoint(&endpoint(0)).unwrap().load.charge(amount);
    let id = before.endpoint(&endpoint(0)).unwrap().id;
    drop(before);

    registry.replace(Vec::new());
    // Many others come and go; the endpoint with work in flight is not forgotten for them.
    for round in 0..50 {
        let others = (0..40).map(|at| ReplicaSpec {
            endpoint: format!("10.1.{round}.{at}:8000"),
            model: "m".into(),
            ..ReplicaSpec::default()
        });
        registry.replace(others.collect());
    }
    registry.replace(specs(0b0001));
    let back = registry.pool_full();
    let replica = back.endpoint(&endpoint(0)).unwrap();
    assert_eq!(replica.id, id);
    assert_eq!(replica.load.own().kv_tokens, 500);
    drop(charge);
    assert_eq!(replica.load.own(), Totals::default());
}

#[test]
fn numbers_stay_dense_while_endpoints_come_and_go() {
    let registry = Registry::default();
    for round in 0..200 {
        let fleet = (0..20).map(|at| ReplicaSpec {
            endpoint: format!("10.1.{round}.{at}:8000"),
            model: "m".into(),
            ..ReplicaSpec::default()
        });
        registry.replace(fleet.collect());
    }
    let highest = registry
        .pool()
        .replicas()
        .map(|replica| replica.id.slot())
        .max();
    assert!(highest < Some(80), "{highest:?}");
}

#[test]
fn the_prefill_part_is_given_back_once() {
    let load = Arc::new(Load::default());
    let amount = Amount {
        prefill: MicroMu::from_mu(7.0),
        decode: MicroMu::from_mu(3.0),
        kv_tokens: 10,
        kv_reserved: 90,
        sequences: 2,
    };
    let mut charge = load.charge(amount);
    assert_eq!(load.totals().work(), MicroMu::from_mu(10.0));
    charge.prefill_done();
    charge.prefill_done();
    assert_eq!(load.totals().work(), MicroMu::from_mu(3.0));
    charge.adjust(Amount {
        decode: MicroMu::from_mu(5.0),
        ..amount
    });
    assert_eq!(load.totals().work(), MicroMu::from_mu(5.0));
    drop(charge);
    assert_eq!(load.totals(), Totals::default());
}

#[test]
fn foreign_work_is_seen_but_is_not_our_own() {
    let load = Arc::new(Load::default());
    load.set_foreign(MicroMu::from_mu(9.0), 100, 2);
    load.set_foreign(MicroMu::from_mu(4.0), 50, 1);
    let totals = load.totals();
    assert_eq!(totals.work(), MicroMu::from_mu(4.0));
    assert_eq!((totals.kv_tokens, totals.requests), (50, 1));
    assert_eq!(load.own(), Totals::default());
}

#[test]
fn work_that_did_not_happen_is_not_recent_work_either() {
    let load = Arc::new(Load::default());
    let amount = |mu: f64| Amount {
        prefill: MicroMu::from_mu(mu),
        ..Amount::default()
    };
    let recent = |load: &Load| (load.recent().prefill.as_mu(), load.recent().requests);
    let near = |(mu, requests): (f64, f64), expected: (f64, f64)| {
        (mu - expected.0).abs() < 1e-3 && (requests - expected.1).abs() < 1e-3
    };
    let mut kept = load.charge(amount(100.0));
    let mut refused = load.charge(amount(1e6));
    refused.over();
    assert_eq!(load.own().requests, 1);
    assert_eq!(recent(&load), (1_000_100.0, 2.0));
    load.fade(0.5);
    refused.correct(None);
    assert!(near(recent(&load), (50.0, 0.5)), "{:?}", load.recent());
    drop(refused);

    // A retry went on to another replica: that is where the work is.
    let other = Arc::new(Load::default());
    kept.move_to(&other);
    assert!(near(recent(&load), (0.0, 0.0)), "{:?}", load.recent());
    other.fade(0.1);
    kept.over();
    kept.correct(Some(MicroMu::from_mu(40.0)));
    assert!(near(recent(&other), (4.0, 0.1)), "{:?}", other.recent());
    drop(kept);
    assert_eq!(other.own(), Totals::default());
}

#[test]
fn requests_on_promises_are_recent_where_they_run_and_fade_like_others() {
    let (load, other) = (Arc::new(Load::default()), Arc::new(Load::default()));
    let promised = |load: &Load| load.recent().promised;
    let _plain = load.charge(Amount::default());
    let mut kept = load.charge(Amount::default());
    kept.promise();
    kept.promise();
    assert!((promised(&load) - 1.0).abs() < 1e-6 && load.recent().requests > 1.9);
    kept.move_to(&other);
    assert!(promised(&load).abs() < 1e-6 && (promised(&other) - 1.0).abs() < 1e-6);
    other.fade(0.5);
    assert!((promised(&other) - 0.5).abs() < 1e-6);
    // It did not happen.
    kept.correct(None);
    assert!(promised(&other).abs() < 1e-6);
}

#[test]
fn a_number_is_never_that_of_another_endpoint() {
    let registry = Registry::default();
    let mut seen = std::collections::HashMap::new();
    for round in 0..200 {
        let fleet = (0..20).map(|at| ReplicaSpec {
            endpoint: format!("10.1.{round}.{at}:8000"),
            model: "m".into(),
            ..ReplicaSpec::default()
        });
        registry.replace(fleet.collect());
        let pool = registry.pool_full();
        for replica in pool.replicas() {
            let endpoint = replica.spec.endpoint.clone();
            let before = seen.insert(replica.id, endpoint.clone());
            assert!(before.is_none_or(|other| other == endpoint));
        }
        for (id, endpoint) in &seen {
            let found = pool.replica(*id);
            assert!(found.is_none_or(|replica| replica.spec.endpoint == *endpoint));
        }
    }
}
