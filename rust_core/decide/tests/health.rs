//! Health as requests, polls and Envoy show it: the ill get less and nobody else does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::json;
use weighbridge_decide::{
    Admission, Begun, Core, Incoming, Observation, ReplicaState, ReplicaStatus, Status, Ticket,
};
use weighbridge_weigh::{Body, Endpoint};

const SECOND: u64 = 1_000_000;

fn core(replicas: usize) -> Core {
    let settings = serde_json::from_value(json!({
        "profiles": [{
            "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 1_000_000,
            "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192,
            "reference_batch": 32.0,
            "cost": {
                "prefill_per_tok": 0.1, "prefill_per_tok2_e6": 1.0,
                "decode_per_tok": 1.0, "decode_per_ktok_ctx": 0.1
            }
        }]
    }))
    .unwrap();
    let core = Core::new(settings).unwrap();
    set_replicas(&core, replicas);
    core
}

fn set_replicas(core: &Core, replicas: usize) {
    let replicas: Vec<_> = (0..replicas)
        .map(|at| json!({"endpoint": endpoint(at), "profile": "p"}))
        .collect();
    let replicas = serde_json::from_value(json!(replicas)).unwrap();
    core.set_replicas(replicas).unwrap();
}

fn endpoint(at: usize) -> String {
    format!("10.0.0.{at}:8000")
}

fn place(core: &Core, text: &str, now_us: u64) -> Ticket {
    place_within(core, text, None, now_us)
}

fn place_within(core: &Core, text: &str, subset: Option<&[String]>, now_us: u64) -> Ticket {
    let body = json!({
        "model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": text}]
    });
    let body = serde_json::to_vec(&body).unwrap();
    let incoming = Incoming {
        request_id: text,
        endpoint: Endpoint::ChatCompletions,
        session: None,
        tenant: None,
        priority: None,
        wanted: weighbridge_decide::Wanted::default(),
        subset,
        content_encoding: None,
        parent: None,
        body: Body::whole(&body),
    };
    match core.begin(&incoming, now_us).unwrap() {
        Begun::Placed(ticket) => ticket,
        Begun::Waits(_) => panic!("it waits"),
    }
}

fn hear(core: &Core, seen: &serde_json::Value, now_us: u64) {
    let seen: Vec<Observation> = serde_json::from_value(json!([seen])).unwrap();
    core.hear(&seen, now_us);
}

fn look(core: &Core, at: usize) -> ReplicaStatus {
    let status = Status::of(core);
    let found = status
        .replicas
        .into_iter()
        .find(|one| one.endpoint == endpoint(at));
    found.unwrap()
}

/// Seconds of traffic, 40 requests each; `ends` answers each of them. Health pages say all is well.
fn live(core: &Core, seconds: std::ops::Range<u64>, ends: impl Fn(&Core, Ticket, u64)) {
    for second in seconds {
        for number in 0..40 {
            let now = second * SECOND + number * 20_000;
            let ticket = place(core, &format!("{second} asks {number}"), now);
            ends(core, ticket, now + 10_000);
        }
        let now = (second + 1) * SECOND - 1;
        for replica in Status::of(core).replicas {
            hear(
                core,
                &json!({"endpoint": replica.endpoint, "probe": "good"}),
                now,
            );
        }
        core.judge(now).unwrap();
    }
}

fn ends_well(core: &Core, mut ticket: Ticket, now_us: u64) {
    core.first_byte(&mut ticket, 200, None, now_us);
    core.end(ticket, now_us);
}

#[test]
fn a_replica_that_fails_is_ejected_and_comes_back_when_it_is_well() {
    let core = core(4);
    let fails = |core: &Core, mut ticket: Ticket, now| {
        let status = if ticket.endpoint() == endpoint(1) {
            500
        } else {
            200
        };
        core.first_byte(&mut ticket, status, None, now);
        core.end(ticket, now);
    };
    live(&core, 1..8, fails);
    assert_eq!(look(&core, 1).state, ReplicaState::Ejected);
    assert!(
        [0, 2, 3]
            .iter()
            .all(|at| look(&core, *at).state == ReplicaState::Healthy)
    );
    let before = look(&core, 1).served.requests;
    live(&core, 8..10, ends_well);
    assert_eq!(look(&core, 1).served.requests, before);
    live(&core, 10..40, ends_well);
    assert_eq!(look(&core, 1).state, ReplicaState::Healthy);
    assert!(look(&core, 1).served.requests > before);
    let counts = Status::of(&core).health.changes;
    assert_eq!(counts["ejected"]["failures"], 1);
    assert_eq!(counts["healthy"]["nothing"], 1);
}

#[test]
fn a_replica_that_envoy_cannot_reach_is_ejected_though_no_client_noticed() {
    let core = core(4);
    live(&core, 1..8, |core, mut ticket, now| {
        let (dead, next) = (endpoint(2), endpoint(3));
        let served = (ticket.endpoint() == dead).then_some(next.as_str());
        core.first_byte(&mut ticket, 200, served, now);
        core.end(ticket, now);
    });
    assert_eq!(look(&core, 2).state, ReplicaState::Ejected);
    assert_eq!(look(&core, 3).state, ReplicaState::Healthy);
    assert_eq!(look(&core, 2).requests, 0);
}

#[test]
fn an_engine_that_hangs_is_found_before_any_request_has_ended() {
    let core = core(4);
    // The gate would soon hold back what may go there alone.
    let admission = Admission {
        enabled: false,
        ..Admission::default()
    };
    core.set_admission(&admission).unwrap();
    let mut held = Vec::new();
    for second in 1..12 {
        for number in 0..40 {
            let now = second * SECOND + number * 20_000;
            // By itself the choice would soon avoid it.
            let hangs = [endpoint(0)];
            let subset = (number % 4 == 0).then_some(&hangs[..]);
            let ticket = place_within(&core, &format!("{second} asks {number}"), subset, now);
            if ticket.endpoint() == endpoint(0) {
                held.push(ticket);
            } else {
                ends_well(&core, ticket, now + 10_000);
            }
        }
        core.judge((second + 1) * SECOND).unwrap();
    }
    let ill = look(&core, 0);
    assert_ne!(ill.state, ReplicaState::Healthy);
    assert!(ill.share < 0.7, "{}", ill.share);
    assert!((1..4).all(|at| look(&core, at).state == ReplicaState::Healthy));
    for ticket in held {
        core.end(ticket, 12 * SECOND);
    }
    assert_eq!(look(&core, 0).requests, 0);
}

#[test]
fn polls_and_envoy_take_out_no_more_than_allowed() {
    let core = core(4);
    for second in 1..6 {
        for at in 0..4 {
            let probe = if at == 3 { "good" } else { "bad" };
            let seen = json!({"endpoint": endpoint(at), "probe": probe, "outlier": at == 2});
            hear(&core, &seen, second * SECOND);
        }
        core.judge(second * SECOND).unwrap();
    }
    let states: Vec<_> = (0..4).map(|at| look(&core, at).state).collect();
    let out = states
        .iter()
        .filter(|state| **state == ReplicaState::Ejected);
    assert_eq!(out.count(), 2, "{states:?}");
    assert_eq!(states[3], ReplicaState::Healthy);
}

#[test]
fn what_was_judged_outlives_new_replicas_but_not_a_replica_that_left() {
    let core = core(3);
    for second in 1..4 {
        hear(
            &core,
            &json!({"endpoint": endpoint(2), "probe": "bad"}),
            second * SECOND,
        );
        core.judge(second * SECOND).unwrap();
    }
    set_replicas(&core, 5);
    assert_eq!(look(&core, 2).state, ReplicaState::Ejected);
    set_replicas(&core, 2);
    set_replicas(&core, 3);
    assert_eq!(look(&core, 2).state, ReplicaState::Healthy);
}

#[test]
fn foreign_load_is_charged_bounded_and_forgotten() {
    let core = core(3);
    live(&core, 1..3, ends_well);
    let says = |at: usize, requests: u64, now: u64| {
        let engine = json!({"requests": requests, "kv_tokens": 50_000});
        hear(
            &core,
            &json!({"endpoint": endpoint(at), "engine": engine}),
            now,
        );
    };
    says(0, 40, 3 * SECOND);
    says(0, 40, 4 * SECOND);
    assert_eq!(
        look(&core, 0).foreign.requests,
        0,
        "may be a matter of timing"
    );
    says(0, 40, 5 * SECOND);
    let loaded = look(&core, 0);
    assert_eq!(loaded.foreign.requests, 40);
    assert_eq!(loaded.foreign.kv_tokens, 50_000);
    assert!(loaded.foreign.mu > 100.0, "{}", loaded.foreign.mu);
    assert_eq!(loaded.requests, 0, "our own ledger is ours alone");
    // It gets less than its like.
    let before: Vec<_> = (0..3).map(|at| look(&core, at).served.requests).collect();
    live(&core, 6..9, ends_well);
    let got: Vec<_> = (0..3)
        .map(|at| look(&core, at).served.requests - before[at])
        .collect();
    assert!(got[0] < got[1] && got[0] < got[2], "{got:?}");
    // Whatever a replica claims, no more than thirty seconds of its capacity is believed.
    for second in 9..12 {
        says(1, u64::MAX, second * SECOND);
    }
    assert!(look(&core, 1).foreign.mu <= 30_000.0 + 1e-6);
    core.judge(60 * SECOND).unwrap();
    assert_eq!(
        (
            look(&core, 0).foreign.requests,
            look(&core, 1).foreign.requests
        ),
        (0, 0)
    );
}

#[test]
fn a_restart_empties_the_prefix_index() {
    let core = core(1);
    let prompt = "many words of a long prompt ".repeat(200);
    let engine = |iteration: u64| json!({"endpoint": endpoint(0), "engine": {"iteration": iteration, "requests": 0}});
    hear(&core, &engine(900), SECOND);
    ends_well(&core, place(&core, &prompt, SECOND), 2 * SECOND);
    hear(&core, &engine(1000), 3 * SECOND);
    assert!(look(&core, 0).cached_blocks > 0);
    hear(&core, &engine(4), 4 * SECOND);
    assert_eq!(look(&core, 0).cached_blocks, 0);
    ends_well(&core, place(&core, &prompt, 5 * SECOND), 6 * SECOND);
    hear(
        &core,
        &json!({"endpoint": endpoint(0), "probe": "bad"}),
        7 * SECOND,
    );
    assert!(look(&core, 0).cached_blocks > 0, "only silent");
    hear(
        &core,
        &json!({"endpoint": endpoint(0), "probe": "refused"}),
        8 * SECOND,
    );
    assert_eq!(look(&core, 0).cached_blocks, 0, "nobody is there");
    assert_eq!(Status::of(&core).health.restarts, 2);
}

#[test]
fn a_cache_that_holds_less_than_promised_is_counted_on_less() {
    let core = core(1);
    let prompt = "many words of a long prompt ".repeat(400);
    let ask = |number: u64, cached_share: f64| {
        let now = number * SECOND;
        let mut ticket = place(&core, &prompt, now);
        let mut observer = core.observe(None, Some(&prompt)).unwrap();
        observer.begin(Some("application/json"), None);
        let usage = json!({"choices": [{"message": {"content": "yes"}}], "usage": {
            "prompt_tokens": 2400, "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": (2400.0 * cached_share) as u64}
        }});
        core.first_byte(&mut ticket, 200, None, now);
        observer.body(usage.to_string().as_bytes(), now);
        core.observed(observer, now + 1000);
        core.end(ticket, now + 2000);
        core.log().after(0).last().unwrap().cached_tokens
    };
    ask(1, 0.0);
    let promised = ask(2, 0.95);
    assert!(promised > 1500, "{promised}");
    for number in 3..60 {
        ask(number, 0.5);
    }
    let doubted = ask(60, 0.5);
    assert!(doubted < promised * 7 / 10, "{doubted} of {promised}");
    assert!(doubted > promised * 4 / 10, "{doubted} of {promised}");
    for number in 61..140 {
        ask(number, 1.0);
    }
    let believed = ask(140, 1.0);
    assert!(believed > promised * 8 / 10, "{believed} of {promised}");
}

#[test]
fn a_clock_that_jumps_costs_nothing() {
    let core = core(3);
    live(&core, 100..103, ends_well);
    let day = 86_400;
    // Forwards by a day with requests under way, back again, and to the end of time.
    let held: Vec<_> = (0..10)
        .map(|number| place(&core, &format!("held {number}"), 103 * SECOND))
        .collect();
    live(&core, 103 + day..106 + day, ends_well);
    live(&core, 104..107, ends_well);
    for ticket in held {
        ends_well(&core, ticket, 1);
    }
    core.assign(u64::MAX);
    core.judge(u64::MAX).unwrap();
    core.assign(1);
    live(&core, 1..20, ends_well);
    for at in 0..3 {
        let one = look(&core, at);
        assert_eq!((one.requests, one.kv_tokens), (0, 0));
        assert_eq!((one.prefill_mu, one.decode_mu), (0.0, 0.0));
        assert_ne!(one.state, ReplicaState::Ejected);
    }
}

/// Thousands that fail at once are one pool more, not one each.
#[test]
fn a_round_publishes_one_pool_however_many_fail() {
    const MANY: usize = 2_000;
    let core = core(MANY);
    let before = Status::of(&core).pool;
    let seen: Vec<Observation> = (0..MANY)
        .map(|at| serde_json::from_value(json!({"endpoint": endpoint(at), "probe": "refused"})))
        .collect::<Result<_, _>>()
        .unwrap();
    for turn in 1..=5 {
        core.hear(&seen, turn * SECOND);
    }
    assert_eq!(
        Status::of(&core).pool,
        before,
        "what is heard publishes nothing"
    );
    let changes = core.judge(6 * SECOND).unwrap();
    assert!(
        changes.len() > MANY / 4,
        "{} were judged ill",
        changes.len()
    );
    assert_eq!(Status::of(&core).pool, before + 1);
}

#[test]
fn those_in_flight_are_told_of_busy_replicas_alone() {
    let core = core(3);
    assert!(core.in_flight().is_empty());
    let ticket = place(&core, "hello", 0);
    let busy = core.in_flight();
    assert_eq!(busy.values().copied().collect::<Vec<_>>(), [1]);
    core.end(ticket, SECOND);
    assert!(core.in_flight().is_empty());
}
