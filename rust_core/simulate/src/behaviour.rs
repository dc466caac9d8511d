//! Policies do what they are named for, and every request is accounted for.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::json;
use weighbridge_engine::{Engine, Step};
use weighbridge_traces::{Agents, Generator, Replay, Scaling, Surge, Trace, generate};

use crate::measure::{Record, Stage};
use crate::policy::{FORESIGHT, ORACLE, named, policy_names};
use crate::progress::Progress;
use crate::scenario::Scenario;
use crate::simulation::{Run, Simulation};
use crate::workload::Workload;
use crate::world::World;

fn trace(seed: u64) -> Arc<Trace> {
    Arc::new(generator(seed).generate().unwrap())
}

fn generator(seed: u64) -> Generator {
    Generator {
        seed,
        duration_s: 50.0,
        sessions_per_s: 2.0,
        ..Generator::default()
    }
}

fn scenario(replicas: usize, more: serde_json::Value) -> Scenario {
    let mut fields = json!({
        "replicas": [{"engine": {"kv_blocks": 8000, "max_num_tokens": 2048}, "count": replicas}],
        "slo": {"ttft_ms": 500.0, "tpot_ms": 30.0},
    });
    let all = fields.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    serde_json::from_value(fields).unwrap()
}

/// Every request's record after a run.
fn records(policy: &str, scenario: &Scenario, trace: &Arc<Trace>) -> (Workload, Vec<Record>) {
    let replay = Replay::new(Arc::clone(trace), &Scaling::default()).unwrap();
    let workload = Workload::new(replay, 32, true);
    let profiles = scenario.profiles().unwrap();
    let chosen = named(policy, scenario, &profiles, 7).unwrap();
    let mut world = World::new(scenario, &workload, chosen, &profiles[0], 7).unwrap();
    world.run(false, &Progress::default()).unwrap();
    let records = std::mem::take(&mut world.measure.records);
    drop(world);
    (workload, records)
}

/// The replicas that each session was on, in order of its requests.
fn by_session(workload: &Workload, records: &[Record]) -> HashMap<String, Vec<u32>> {
    let mut sessions: HashMap<String, Vec<u32>> = HashMap::new();
    for (arrival, record) in workload.arrivals().iter().zip(records) {
        let session = workload.replay().session(arrival);
        sessions.entry(session).or_default().push(record.replica);
    }
    sessions
}

fn counts(records: &[Record], replicas: usize) -> Vec<usize> {
    let mut counts = vec![0; replicas];
    records
        .iter()
        .for_each(|record| counts[record.replica as usize] += 1);
    counts
}

fn run(simulation: &Simulation, policy: &str) -> crate::report::Outcome {
    let run = Run {
        policy,
        rate: None,
        seed: 3,
        until_hopeless: false,
        with_bounds: true,
    };
    simulation.run(&run, &Progress::default()).unwrap()
}

#[test]
fn equal_seeds_give_equal_results_to_the_byte() {
    let events = json!({"events": ["at=10 kill=2 for=20", "at=15 slow=1 for=10", "at=5 add=1"]});
    let made = || {
        let scenario = scenario(6, events.clone());
        Simulation::new(scenario, trace(1), Scaling::default()).unwrap()
    };
    let (first, second) = (made(), made());
    for policy in policy_names() {
        let text = |simulation| serde_json::to_string(&run(simulation, policy)).unwrap();
        assert_eq!(text(&first), text(&second), "{policy}");
    }
}

#[test]
fn every_request_ends_or_is_counted() {
    let events = json!({
        "events": ["at=10 kill=3 for=20", "at=30 drain=2 for=10", "at=40 kill=1", "at=50 restore=1"],
        "detect_ms": 2000.0,
        "grace_s": 5.0,
    });
    let simulation = Simulation::new(scenario(8, events), trace(2), Scaling::default()).unwrap();
    for policy in policy_names() {
        let detail = run(&simulation, policy).detail;
        let ended = detail.finished + detail.refused + detail.lost + detail.unfinished;
        assert_eq!(ended, detail.requests, "{policy}: {detail:?}");
        assert!(
            detail.finished > detail.requests * 9 / 10,
            "{policy}: {detail:?}"
        );
        // One that packs may have had nothing on those that were lost.
        assert!(
            detail.retried > 0 || policy == "predicted_latency",
            "{policy}"
        );
    }
}

#[test]
fn nothing_goes_to_a_replica_that_is_gone() {
    let events = json!({"events": ["at=20 kill=#2"], "detect_ms": 500.0});
    let scenario = scenario(6, events);
    for policy in policy_names() {
        // The oracle's placements are another policy's.
        let policy = if policy == ORACLE {
            FORESIGHT[0].0
        } else {
            policy
        };
        let (_, records) = records(policy, &scenario, &trace(3));
        let late = records
            .iter()
            .filter(|r| r.arrived_ms >= 20_000.0 && r.stage == Stage::Finished);
        assert!(late.clone().count() > 100);
        assert!(
            late.into_iter().all(|record| record.replica != 2),
            "{policy}"
        );
    }
}

#[test]
fn a_killed_replica_loses_only_what_it_had_begun_to_answer() {
    let calm = scenario(6, json!({}));
    let struck = scenario(6, json!({"events": ["at=20 kill=#2 for=10"]}));
    for policy in ["round_robin", "weighbridge"] {
        let (_, before) = records(policy, &calm, &trace(3));
        let (_, after) = records(policy, &struck, &trace(3));
        assert!(before.iter().all(|r| r.stage == Stage::Finished));
        let lost: Vec<&Record> = after.iter().filter(|r| r.stage == Stage::Lost).collect();
        assert!(
            lost.iter()
                .all(|r| r.replica == 2 && r.first_ms <= 20_000.0),
            "{policy}"
        );
        let finished = after.iter().filter(|r| r.stage == Stage::Finished).count();
        assert_eq!(finished + lost.len(), after.len(), "{policy}");
    }
}

#[test]
fn round_robin_gives_each_the_same_number() {
    let (_, records) = records("round_robin", &scenario(7, json!({})), &trace(1));
    let counts = counts(&records, 7);
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 1, "{counts:?}");
}

#[test]
fn hashing_keeps_a_session_where_it_is() {
    for policy in ["ring_hash", "maglev"] {
        let (workload, records) = records(policy, &scenario(7, json!({})), &trace(1));
        let sessions = by_session(&workload, &records);
        assert!(sessions.values().any(|replicas| replicas.len() > 5));
        for replicas in sessions.values() {
            assert!(
                replicas.iter().all(|replica| *replica == replicas[0]),
                "{policy}"
            );
        }
        assert!(
            counts(&records, 7).iter().all(|count| *count > 0),
            "{policy}"
        );
    }
}

#[test]
fn hashing_without_a_session_goes_anywhere() {
    let scenario = scenario(7, json!({"session_header": false}));
    let (workload, records) = records("ring_hash", &scenario, &trace(1));
    let sessions = by_session(&workload, &records);
    let spread = |replicas: &Vec<u32>| replicas.iter().collect::<BTreeSet<_>>().len();
    assert!(sessions.values().any(|replicas| spread(replicas) > 3));
}

#[test]
fn a_bound_spills_what_a_hash_alone_would_pile_up() {
    let scenario = scenario(7, json!({}));
    let simulation = Simulation::new(scenario, trace(1), Scaling::default()).unwrap();
    let plain = run(&simulation, "ring_hash").row;
    let bounded = run(&simulation, "bounded_hash").row;
    assert_eq!(plain.spills, 0);
    assert!(bounded.spills > 0);
    assert!(bounded.mu_max_over_mean < plain.mu_max_over_mean);
    assert!(bounded.cache_hit_ratio < plain.cache_hit_ratio);
}

#[test]
fn whoever_knows_caches_hits_them() {
    let simulation = Simulation::new(scenario(7, json!({})), trace(1), Scaling::default()).unwrap();
    let blind = run(&simulation, "random").row;
    for policy in [
        "cache_aware",
        "endpoint_picker",
        "dynamo_kv",
        "predicted_latency",
        "weighbridge",
        "foresight-1",
    ] {
        let row = run(&simulation, policy).row;
        assert!(
            row.cache_hit_ratio > blind.cache_hit_ratio + 0.05,
            "{policy}: {row:?}"
        );
        assert!(
            row.cache_hit_ratio <= row.ideal_hit_ratio,
            "{policy}: {row:?}"
        );
    }
    assert!(blind.pooled_hit_ratio <= blind.ideal_hit_ratio);
    assert!(blind.pooled_hit_ratio > 0.3, "{blind:?}");
}

#[test]
fn weighbridge_finds_sessions_without_a_header() {
    let scenario = scenario(7, json!({"session_header": false}));
    let simulation = Simulation::new(scenario, trace(1), Scaling::default()).unwrap();
    let blind = run(&simulation, "random").row;
    let ours = run(&simulation, "weighbridge").row;
    assert!(
        ours.cache_hit_ratio > blind.cache_hit_ratio + 0.1,
        "{ours:?}"
    );
}

#[test]
fn slow_replicas_are_slow_and_slower_ones_get_less() {
    let slowed = scenario(4, json!({"events": ["at=0 slow=#1 factor=5"]}));
    let (_, records) = records("round_robin", &slowed, &trace(1));
    let mean = |replica: u32| {
        let all = records.iter().filter(|r| r.replica == replica);
        let times: Vec<f64> = all.map(|r| r.done_ms - r.first_ms).collect();
        times.iter().sum::<f64>() / times.len() as f64
    };
    assert!(mean(1) > 3.0 * mean(0));
    let mixed: Scenario = serde_json::from_value(json!({"replicas": [
        {"engine": "llama-3.1-8b-fp8-b200", "count": 3},
        {"engine": "llama-3.1-8b-fp8-l40s", "count": 3},
    ]}))
    .unwrap();
    let (_, records) = self::records("weighbridge", &mixed, &trace(1));
    let counts = counts(&records, 6);
    let (fast, slow): (usize, usize) = (counts[..3].iter().sum(), counts[3..].iter().sum());
    assert!(fast > 2 * slow, "{counts:?}");
}

#[test]
fn drained_and_added_replicas_are_noticed() {
    let scenario = scenario(3, json!({"events": ["at=20 add=2", "at=20 drain=#0"]}));
    for policy in ["least_request", "weighbridge", "maglev"] {
        let (_, records) = records(policy, &scenario, &trace(1));
        let after: BTreeSet<u32> = records
            .iter()
            .filter(|record| record.arrived_ms > 20_001.0)
            .map(|record| record.replica)
            .collect();
        assert_eq!(after, BTreeSet::from([1, 2, 3, 4]), "{policy}");
        assert!(records.iter().all(|record| record.stage == Stage::Finished));
    }
}

/// The leaps over quiet stretches change nothing: one replica gives what its engine gives, stepped
/// iteration by iteration.
#[test]
fn a_replica_is_its_engine() {
    let scenario = scenario(
        1,
        json!({"replicas": [
            {"engine": {"kv_blocks": 4500, "max_num_tokens": 1024, "max_seq_len": 131_072}, "count": 1},
        ]}),
    );
    // One question each, so that each is sent at its time.
    let single = Generator {
        turns: 1.0,
        agents: Agents {
            share: 0.0,
            ..Agents::default()
        },
        sessions_per_s: 8.0,
        ..generator(4)
    };
    let trace = Arc::new(single.generate().unwrap());
    let (workload, records) = records("random", &scenario, &trace);
    let mut engine = Engine::new(scenario.replicas[0].engine.0.clone(), seed_of_first()).unwrap();
    let mut step = Step::default();
    let (mut now, mut next) = (0.0, 0);
    let mut expected: HashMap<u64, (f64, f64)> = HashMap::new();
    loop {
        while let Some(arrival) = workload.arrivals().get(next) {
            let at_ms = arrival.at_us as f64 / 1e3;
            if at_ms > now && !engine.is_idle() {
                break;
            }
            now = f64::max(now, at_ms);
            let spec = workload.spec(next, &workload.sequence(next));
            engine.submit(spec, at_ms).unwrap();
            next += 1;
        }
        if !engine.step(now, &mut step) {
            break;
        }
        now = step.ends_at_ms;
        for id in &step.prefilled {
            expected.entry(*id).or_insert((now, 0.0));
        }
        for finished in &step.finished {
            expected.get_mut(&finished.id).unwrap().1 = now;
        }
    }
    assert_eq!(expected.len(), records.len());
    let waited = records
        .iter()
        .filter(|r| r.first_ms - r.arrived_ms > 500.0)
        .count();
    assert!(waited > 20, "it was busy enough to queue: {waited}");
    for (number, record) in records.iter().enumerate() {
        assert_eq!(
            (record.first_ms, record.done_ms),
            expected[&(number as u64)],
            "{number}"
        );
    }
}

/// The seed that the first replica of a world of seed 7 has.
fn seed_of_first() -> u64 {
    7u64.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[test]
fn a_hopeless_run_is_broken_off_and_goodput_lies_below() {
    let simulation = Simulation::new(scenario(2, json!({})), trace(1), Scaling::default()).unwrap();
    let own = run(&simulation, "least_request").row;
    let rate = own.offered_rps * 30.0;
    let run = Run {
        policy: "least_request",
        rate: Some(rate),
        seed: 0,
        until_hopeless: true,
        with_bounds: false,
    };
    let outcome = simulation.run(&run, &Progress::default()).unwrap();
    assert!(outcome.detail.broken_off);
    let settings = crate::goodput::Search {
        start_rps: own.offered_rps,
        precision: 0.1,
        ..crate::goodput::Search::default()
    };
    let found = simulation
        .goodput("least_request", 0, &settings, &Progress::default())
        .unwrap();
    assert!(found.rps < rate, "{found:?}");
}

/// Health is judged as in a sidecar: a replica that has become slow is seen to be, and gets less.
#[test]
fn health_is_on_unless_it_is_switched_off() {
    let on_slow = |core: serde_json::Value| {
        let event = json!({"events": ["at=10 slow=#1 factor=12"], "core": core});
        let (_, records) = records("weighbridge", &scenario(4, event), &trace(1));
        records
            .iter()
            .filter(|record| record.arrived_ms > 25_000.0 && record.replica == 1)
            .count()
    };
    let judged = on_slow(json!({}));
    let unjudged = on_slow(json!({"health": {"enabled": false}}));
    assert!(judged < unjudged, "{judged} and {unjudged}");
}

/// At any load, of any workload, and in searches: no policy is above the oracle.
#[test]
fn nobody_is_above_the_oracle() {
    for (workload, rate) in [("agents", 6.0), ("short", 40.0)] {
        let made = json!({"workload": workload, "duration_s": 30.0, "sessions_per_s": 0.3});
        let trace = Arc::new(generate(&made.to_string()).unwrap());
        let simulation =
            Simulation::new(scenario(3, json!({})), trace, Scaling::default()).unwrap();
        {
            let of = |policy| {
                let run = Run {
                    policy,
                    rate: Some(rate),
                    seed: 0,
                    until_hopeless: false,
                    with_bounds: false,
                };
                simulation.run(&run, &Progress::default()).unwrap()
            };
            let best = of(ORACLE);
            assert_eq!(best.row.policy, ORACLE);
            assert!(best.detail.placed_by.is_some());
            for policy in policy_names() {
                let row = of(policy).row;
                assert!(
                    best.row.slo_attainment >= row.slo_attainment,
                    "{workload} {row:?}"
                );
                assert!(
                    best.row.goodput_rps >= row.goodput_rps,
                    "{workload} {row:?}"
                );
            }
        }
    }
    let simulation = Simulation::new(scenario(2, json!({})), trace(1), Scaling::default()).unwrap();
    let settings = crate::goodput::Search {
        start_rps: 4.0,
        precision: 0.2,
        ..crate::goodput::Search::default()
    };
    let found = |policy| {
        let found = simulation.goodput(policy, 0, &settings, &Progress::default());
        found.unwrap().rps
    };
    let best = found(ORACLE);
    for policy in [
        "least_request",
        "dynamo_kv",
        "predicted_latency",
        "weighbridge",
    ] {
        assert!(best >= found(policy), "{policy}");
    }
}

/// A next turn is there only after the answer before it, whatever the trace's times are.
#[test]
fn turns_follow_the_answers_before_them() {
    let made = json!({"workload": "agents", "duration_s": 10.0});
    let trace = Arc::new(generate(&made.to_string()).unwrap());
    let (workload, records) = records("least_request", &scenario(4, json!({})), &trace);
    let mut followed = 0;
    for (number, record) in records.iter().enumerate() {
        let Some(before) = workload.turn_before(number) else {
            continue;
        };
        followed += 1;
        assert_eq!(record.stage, Stage::Finished);
        assert!(record.arrived_ms >= records[before].done_ms, "{number}");
    }
    assert!(followed > 50, "{followed}");
}

/// What a batch waits for its first token does not count, and embeddings have no further ones.
#[test]
fn objectives_are_of_what_a_request_is_for() {
    let one = |workload: &str| {
        let made = json!({"workload": workload, "duration_s": 20.0, "sessions_per_s": 0.5});
        let trace = Arc::new(generate(&made.to_string()).unwrap());
        let slo = json!({"slo": {"ttft_ms": 1.0, "tpot_ms": 100_000.0}});
        let simulation = Simulation::new(scenario(1, slo), trace, Scaling::default()).unwrap();
        run(&simulation, "round_robin")
    };
    assert_eq!(one("batch").row.slo_attainment, 1.0);
    assert_eq!(one("short").row.slo_attainment, 0.0);
    let embedded = one("embeddings");
    assert_eq!(embedded.row.tpot_p50_ms, None);
    assert_eq!(embedded.detail.finished, embedded.detail.requests);
}

/// A load far above what two replicas can do, and then below it: what came is served again.
#[test]
fn a_surge_is_over_soon_after_its_end() {
    let made = json!({"workload": "short", "duration_s": 120.0});
    let trace = Arc::new(generate(&made.to_string()).unwrap());
    let calm = Simulation::new(
        scenario(2, json!({})),
        Arc::clone(&trace),
        Scaling::default(),
    );
    let usual = calm.unwrap().capacity_rps() * 0.7;
    let scaling = Scaling {
        rate: Some(usual),
        surge: Some(Surge {
            at_s: 30.0,
            for_s: 30.0,
            factor: 1.5 / 0.7,
        }),
        ..Scaling::default()
    };
    let simulation = Simulation::new(scenario(2, json!({})), trace, scaling).unwrap();
    let run = Run {
        policy: "weighbridge",
        rate: Some(usual),
        seed: 0,
        until_hopeless: false,
        with_bounds: false,
    };
    let outcome = simulation.run(&run, &Progress::default()).unwrap();
    let minutes = &outcome.detail.minutes;
    assert!(
        minutes[0].arrived > minutes[1].arrived * 5 / 4,
        "{minutes:?}"
    );
    assert!(
        f64::from(minutes[1].good) >= 0.99 * f64::from(minutes[1].arrived),
        "{minutes:?}"
    );
}

#[test]
fn mistakes_are_named() {
    let simulation = Simulation::new(scenario(1, json!({})), trace(1), Scaling::default()).unwrap();
    let run = Run {
        policy: "magic",
        rate: None,
        seed: 0,
        until_hopeless: false,
        with_bounds: false,
    };
    let error = simulation.run(&run, &Progress::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("there is no policy 'magic' (there are: random,")
    );
    let scenario = scenario(1, json!({"core": {"placing": {"samplez": 1}}}));
    let simulation = Simulation::new(scenario, trace(1), Scaling::default()).unwrap();
    let run = Run {
        policy: "weighbridge",
        ..run
    };
    let error = simulation.run(&run, &Progress::default()).unwrap_err();
    assert!(error.to_string().contains("samplez"), "{error}");
}
