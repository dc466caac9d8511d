//! Bounded-load hashing: sticky, bounded in MU, and moving no more than it must.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use weighbridge_place::bounded_hash::Bound;
use weighbridge_place::{
    Amount, Ask, Charge, Decision, Key, MicroMu, NoReplica, Pool, Reason, Registry, ReplicaSpec,
    State, Verdict, choose_bounded_hash,
};

fn spec(at: usize) -> ReplicaSpec {
    ReplicaSpec {
        endpoint: format!("10.0.0.{at}:8000"),
        model: "m".into(),
        adapters: vec!["tuned".into()],
        ..ReplicaSpec::default()
    }
}

fn registry(count: usize) -> Registry {
    let registry = Registry::default();
    registry.replace((0..count).map(spec).collect());
    registry
}

fn ask<'a>(session: u32, prefill: &'a dyn Fn(u32) -> MicroMu) -> Ask<'a> {
    Ask {
        model: "m",
        adapter: None,
        key: Key::new(7, session),
        chain: &[],
        prefill,
        decode: MicroMu::from_mu(100.0),
        kv: &|_| 1_000,
        hold_ms: 0.0,
        subset: None,
        keeper: None,
        now_ms: 0,
        seed: 0,
    }
}

fn fifty(_: u32) -> MicroMu {
    MicroMu::from_mu(50.0)
}

fn choose(pool: &Pool, ask: &Ask<'_>) -> Result<Decision, NoReplica> {
    choose_bounded_hash(pool, ask, Bound::default())
}

fn charge(pool: &Pool, decision: &Decision, ask: &Ask<'_>) -> Charge {
    pool.replica(decision.chosen).unwrap().load.charge(Amount {
        prefill: decision.prefill,
        decode: ask.decode,
        kv_tokens: (ask.kv)(0),
        kv_reserved: (ask.kv)(0),
    })
}

#[test]
fn an_idle_pool_sends_each_session_home_every_time() {
    let registry = registry(10);
    let pool = registry.pool_full();
    for session in 0..100u32 {
        let ask = ask(session.wrapping_mul(0x9e37_79b9), &fifty);
        let first = choose(&pool, &ask).unwrap();
        let again = choose(&pool, &ask).unwrap();
        assert_eq!((first.reason, first.chosen), (Reason::Home, again.chosen));
        assert_eq!(first.fallbacks.len(), 3);
        assert!(!first.fallbacks.contains(&first.chosen));
    }
}

#[test]
fn losing_a_replica_moves_its_sessions_alone() {
    let registry = registry(20);
    let before = registry.pool_full();
    registry.replace((0..20).filter(|at| *at != 7).map(spec).collect());
    let after = registry.pool_full();
    let lost = before.endpoint("10.0.0.7:8000").unwrap().id;
    let mut moved = 0;
    for session in 0..2_000u32 {
        let ask = ask(session.wrapping_mul(0x9e37_79b9), &fifty);
        let (old, new) = (
            choose(&before, &ask).unwrap(),
            choose(&after, &ask).unwrap(),
        );
        if old.chosen == lost {
            moved += 1;
        } else {
            assert_eq!(old.chosen, new.chosen);
        }
    }
    assert!((40..200).contains(&moved), "{moved}");
}

#[test]
fn health_subset_and_memory_keep_a_replica_out_and_the_reason_says_so() {
    let registry = registry(5);
    let ask = ask(42, &fifty);
    let home = choose(&registry.pool(), &ask).unwrap();
    let endpoint = registry
        .pool()
        .replica(home.chosen)
        .unwrap()
        .spec
        .endpoint
        .clone();
    let with = |change: &dyn Fn(&mut ReplicaSpec)| {
        let mut specs: Vec<ReplicaSpec> = (0..5).map(spec).collect();
        specs
            .iter_mut()
            .filter(|spec| spec.endpoint == endpoint)
            .for_each(change);
        registry.replace(specs);
        choose(&registry.pool(), &ask).unwrap()
    };
    let ejected = with(&|spec| spec.state = State::Ejected);
    assert_eq!(ejected.reason, Reason::SpillHealth);
    assert!(ejected.chosen != home.chosen && !ejected.fallbacks.contains(&home.chosen));
    let full = with(&|spec| spec.kv_tokens = 10);
    assert_eq!(full.reason, Reason::SpillKv);
    assert_ne!(full.chosen, home.chosen);
    assert_eq!(with(&|_| {}).reason, Reason::Home);

    let others: Vec<String> = (0..5)
        .map(|at| spec(at).endpoint)
        .filter(|other| *other != endpoint)
        .collect();
    let subset: Vec<&str> = others.iter().map(String::as_str).collect();
    let hinted = Ask {
        subset: Some(&subset),
        ..ask
    };
    assert_eq!(
        choose(&registry.pool(), &hinted).unwrap().reason,
        Reason::Subset
    );
}

#[test]
fn refusals_say_what_is_missing() {
    let registry = registry(2);
    let plain = ask(1, &fifty);
    let refused = |ask: &Ask<'_>| choose(&registry.pool(), ask).unwrap_err();
    assert_eq!(
        refused(&Ask {
            model: "other",
            ..plain
        }),
        NoReplica::UnknownModel
    );
    assert_eq!(
        refused(&Ask {
            subset: Some(&[]),
            ..plain
        }),
        NoReplica::EmptySubset
    );
    assert!(
        choose(
            &registry.pool(),
            &Ask {
                model: "tuned",
                ..plain
            }
        )
        .is_ok()
    );
    let down = (0..2)
        .map(|at| ReplicaSpec {
            state: State::Ejected,
            ..spec(at)
        })
        .collect();
    registry.replace(down);
    assert_eq!(
        choose(&registry.pool(), &plain).unwrap_err(),
        NoReplica::NoneReady
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn load_stays_within_the_bound(
        requests in prop::collection::vec((0u32..40, 1.0..2_000.0f64), 1..400),
        capacities in prop::collection::vec(20_000.0..120_000.0f64, 2..12),
    ) {
        let registry = Registry::default();
        let specs = capacities.iter().enumerate().map(|(at, capacity)| ReplicaSpec {
            capacity_mu_per_min: *capacity,
            kv_tokens: u64::MAX >> 8,
            ..spec(at)
        });
        registry.replace(specs.collect());
        let pool = registry.pool_full();
        let mut held = Vec::new();
        for (session, mu) in requests {
            let prefill = move |_: u32| MicroMu::from_mu(mu);
            let ask = ask(session.wrapping_mul(0x9e37_79b9), &prefill);
            let decision = choose(&pool, &ask).unwrap();
            let chosen = pool.replica(decision.chosen).unwrap();
            let idle = chosen.load.totals().requests == 0;
            held.push(charge(&pool, &decision, &ask));
            let (work, rate) = pool.replicas().fold((0.0, 0.0), |(work, rate), replica| {
                (work + replica.load.totals().work().as_mu(), rate + replica.mu_per_ms())
            });
            let own = chosen.ms_for(chosen.load.totals().work());
            if decision.reason != Reason::Fallback {
                prop_assert!(idle || own <= 1.25 * work / rate + 1e-6);
                let fit = decision.candidates.iter().find(|c| c.verdict == Verdict::Fit);
                prop_assert_eq!(fit.map(|c| c.replica), Some(decision.chosen));
            } else {
                // Only where no replica at all was within the bound.
                prop_assert!(decision.candidates.iter().all(|c| c.verdict == Verdict::Loaded));
                prop_assert_eq!(decision.candidates.len(), pool.len());
            }
        }
    }
}
