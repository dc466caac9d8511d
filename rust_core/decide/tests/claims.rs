//! What requests claim, and what is taken back when they do not happen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use weighbridge_decide::{
    Accounts, Begun, Core, EngineLook, Incoming, Observation, Refusal, Status, Ticket,
};
use weighbridge_weigh::{Body, Endpoint};

const CONTEXT: u64 = 100_000;

fn profile(name: &str, prefill: f64) -> Value {
    json!({
        "name": name, "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 1_000_000,
        "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192, "max_seq_len": CONTEXT,
        "reference_batch": 32.0,
        "cost": {
            "prefill_per_tok": prefill, "prefill_per_tok2_e6": 0.1,
            "decode_per_tok": 0.1, "decode_per_ktok_ctx": 0.001
        }
    })
}

fn core(replicas: usize) -> Core {
    let settings = serde_json::from_value(json!({"profiles": [profile("p", 0.01)]}));
    let core = Core::new(settings.unwrap()).unwrap();
    let replica = |number| json!({"endpoint": endpoint(number), "profile": "p"});
    let replicas: Vec<_> = (0..replicas).map(replica).collect();
    core.set_replicas(serde_json::from_value(json!(replicas)).unwrap())
        .unwrap();
    core
}

fn endpoint(number: usize) -> String {
    format!("10.0.0.{number}:8000")
}

fn chat(text: &str, more: &Value) -> Vec<u8> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
    let fields = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    serde_json::to_vec(&body).unwrap()
}

fn incoming<'a>(session: &'a str, body: Body<'a>) -> Incoming<'a> {
    Incoming {
        request_id: session,
        endpoint: Endpoint::ChatCompletions,
        session: Some(session),
        tenant: None,
        priority: None,
        wanted: weighbridge_decide::Wanted::default(),
        subset: None,
        content_encoding: None,
        parent: None,
        body,
    }
}

fn begin(core: &Core, incoming: &Incoming<'_>, now_us: u64) -> Result<Ticket, Refusal> {
    match core.begin(incoming, now_us)? {
        Begun::Placed(ticket) => Ok(ticket),
        Begun::Waits(_) => panic!("{} waits", incoming.request_id),
    }
}

fn code_and_param(refused: Result<Ticket, Refusal>) -> (u16, &'static str, Option<String>) {
    let refusal = refused
        .map(|ticket| ticket.endpoint().to_owned())
        .unwrap_err();
    assert!(refusal.to_json().contains("context_length_exceeded"));
    (refusal.status, refusal.code, refusal.param)
}

/// Claims that no engine could meet, and some that one could.
fn claims() -> [Value; 6] {
    [
        json!({"min_tokens": 1_000_000_000_000_000_u64}),
        json!({"min_tokens": CONTEXT - 5_000}),
        json!({"max_tokens": u64::MAX, "ignore_eos": true}),
        json!({"max_tokens": 1_000_000_000_000_000_u64, "min_tokens": 90_000, "ignore_eos": true}),
        json!({"n": 4, "best_of": 4, "max_tokens": 1e15 as u64}),
        json!({"max_tokens": 1}),
    ]
}

#[test]
fn requests_that_engines_refuse_steer_nothing_however_much_they_claim() {
    let core = core(4);
    let mut now_us = 0;
    for round in 0..20 {
        for claim in claims() {
            now_us += 1_000;
            let body = chat("hello", &claim);
            let session = format!("greedy {round}");
            if let Ok(mut ticket) = begin(&core, &incoming(&session, Body::whole(&body)), now_us) {
                core.first_byte(&mut ticket, 400, None, now_us + 500);
                core.end(ticket, now_us + 600);
            }
        }
        core.assign(now_us);
    }
    assert_eq!(core.accounts(), Accounts::default());
    let heat = Status::of(&core).assignment.models["m"].mu_per_s;
    // Placed and not taken back, it were millions.
    assert!(
        heat < 1_000.0,
        "{heat} MU/s of requests that did not happen"
    );

    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..100 {
        now_us += 1_000;
        let body = chat(
            &format!("{number} {}", "word ".repeat(1_500)),
            &json!({"max_tokens": 9}),
        );
        let session = format!("s{number}");
        let mut ticket = begin(&core, &incoming(&session, Body::whole(&body)), now_us).unwrap();
        *counts.entry(ticket.endpoint().to_owned()).or_default() += 1;
        core.first_byte(&mut ticket, 200, None, now_us + 500);
        core.end(ticket, now_us + 600);
    }
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert!(
        counts.values().all(|count| (10..=40).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn no_request_holds_more_than_full_contexts() {
    let core = core(4);
    // What a full context costs, prompt or answer, and four answers.
    let most_mu = 4.0 * (0.1 * CONTEXT as f64 + 0.001 * 1e-3 * (CONTEXT * CONTEXT) as f64);
    for claim in claims() {
        let body = chat("hello", &claim);
        let Ok(ticket) = begin(&core, &incoming("s", Body::whole(&body)), 0) else {
            continue;
        };
        let held = core.accounts();
        assert!(
            held.charged_mu <= most_mu && held.running_mu <= most_mu,
            "{claim}: {held:?}"
        );
        assert!(held.kv_tokens <= 4 * CONTEXT as i64, "{claim}: {held:?}");
        core.end(ticket, 1);
    }
    for length in [u64::MAX, 1 << 60, 1 << 40] {
        let body = Body {
            bytes: br#"{"model": "m", "messages": [{"role": "user", "content": "he"#,
            complete: false,
            total_bytes: Some(length),
        };
        let ticket = begin(&core, &incoming("s", body), 0).unwrap();
        let held = core.accounts();
        assert!(held.charged_mu <= most_mu, "{length}: {held:?}");
        assert!(held.kv_tokens <= CONTEXT as i64, "{length}: {held:?}");
        core.end(ticket, 1);
    }
}

#[test]
fn what_cannot_fit_is_refused_by_the_field_that_is_too_long() {
    let core = core(2);
    let ask = |body: &[u8]| code_and_param(begin(&core, &incoming("s", Body::whole(body)), 0));
    let too_long = |param: &str| (400, "context_length_exceeded", Some(param.to_owned()));
    let body = chat("hello", &json!({"min_tokens": CONTEXT}));
    assert_eq!(ask(&body), too_long("min_tokens"));
    // Far more words than tokens that fit.
    let body = chat(&"words and words ".repeat(200_000), &json!({}));
    assert_eq!(ask(&body), too_long("messages"));

    let ids = |count: usize, more: Value| {
        let mut body = json!({"model": "m", "prompt": vec![7; count]});
        let fields = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        serde_json::to_vec(&body).unwrap()
    };
    let completion = |body: &[u8]| {
        let incoming = Incoming {
            endpoint: Endpoint::Completions,
            ..incoming("s", Body::whole(body))
        };
        begin(&core, &incoming, 0)
    };
    assert_eq!(
        code_and_param(completion(&ids(100_000, json!({})))),
        too_long("prompt")
    );
    let both = ids(60_000, json!({"min_tokens": 50_000}));
    assert_eq!(code_and_param(completion(&both)), too_long("min_tokens"));
    drop(completion(&ids(99_000, json!({"max_tokens": 5_000}))).unwrap());
}

#[test]
fn text_whose_length_is_only_estimated_is_cut_and_not_refused_near_the_limit() {
    let core = core(2);
    for text in [
        "word ".repeat(120_000),
        "-".repeat(900_000),
        ". ".repeat(200_000),
    ] {
        let body = chat(&text, &json!({"max_tokens": 10}));
        drop(begin(&core, &incoming("s", Body::whole(&body)), 0).unwrap());
    }
    let longest = core
        .log()
        .after(0)
        .iter()
        .map(|one| one.prompt_tokens)
        .max();
    assert!(longest < Some(CONTEXT), "{longest:?}");
}

#[test]
fn a_batch_may_have_more_tokens_than_one_sequence_takes() {
    let core = core(2);
    let prompts = vec![vec![5; 50_000]; 4];
    let body = json!({"model": "m", "prompt": prompts, "max_tokens": 1}).to_string();
    let incoming = Incoming {
        endpoint: Endpoint::Completions,
        ..incoming("s", Body::whole(body.as_bytes()))
    };
    drop(begin(&core, &incoming, 0).unwrap());
}

fn drained(core: &Core, replicas: usize) {
    for number in 0..replicas {
        assert!(core.drain(&endpoint(number), true).unwrap());
    }
}

#[test]
fn where_all_replicas_drain_a_request_is_told_at_once() {
    let core = core(3);
    let body = chat("hello", &json!({"max_tokens": 10}));
    let running = begin(&core, &incoming("s", Body::whole(&body)), 0).unwrap();
    drained(&core, 3);
    let refusal = begin(&core, &incoming("t", Body::whole(&body)), 1)
        .map(|ticket| ticket.endpoint().to_owned())
        .unwrap_err();
    assert_eq!((refusal.status, refusal.code), (503, "no_replica"));
    assert!(refusal.retry_after_s.is_some());
    core.end(running, 2);
    assert!(core.drain(&endpoint(1), false).unwrap());
    let ticket = begin(&core, &incoming("t", Body::whole(&body)), 3).unwrap();
    assert_eq!(ticket.endpoint(), endpoint(1));
}

/// Fills the gate; the answer of one that then has to wait.
fn waiting(core: &Core, body: &[u8]) -> (Vec<Ticket>, Box<weighbridge_decide::Waiting>) {
    let mut running = Vec::new();
    loop {
        match core.begin(&incoming("w", Body::whole(body)), 0).unwrap() {
            Begun::Placed(ticket) => running.push(ticket),
            Begun::Waits(waiting) => return (running, waiting),
        }
        assert!(running.len() < 100_000, "nothing ever waits");
    }
}

#[test]
fn what_waits_is_told_as_soon_as_no_replica_will_take_it() {
    let core = core(2);
    let body = chat(
        &"word ".repeat(3_000),
        &json!({"max_tokens": 1_000, "ignore_eos": true}),
    );
    let (running, mut waiting) = waiting(&core, &body);
    drained(&core, 1);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(waiting.poll(&mut context).is_pending());
    drained(&core, 2);
    let std::task::Poll::Ready(answer) = waiting.poll(&mut context) else {
        panic!("it still waits");
    };
    let refusal = core
        .resume(waiting, answer, &incoming("w", Body::whole(&body)), 1)
        .map(|ticket| ticket.endpoint().to_owned())
        .unwrap_err();
    assert_eq!((refusal.status, refusal.code), (503, "no_replica"));
    assert!(refusal.retry_after_s.is_some());
    drop(running);
    assert_eq!(core.accounts(), Accounts::default());
}

fn foreign(core: &Core, number: usize, requests: u64) {
    for look in 1..=3 {
        let seen = Observation {
            endpoint: endpoint(number),
            probe: None,
            outlier: None,
            engine: Some(EngineLook {
                iteration: None,
                requests,
                kv_tokens: 0,
            }),
        };
        core.hear(&[seen], look * 1_000);
    }
}

#[test]
fn the_gate_counts_what_others_have_the_replicas_do_but_no_more_than_they_can_hold() {
    let core = core(2);
    let body = chat("hello", &json!({"max_tokens": 100, "ignore_eos": true}));
    let own = begin(&core, &incoming("s", Body::whole(&body)), 0).unwrap();
    foreign(&core, 0, 100_000);
    drop(begin(&core, &incoming("t", Body::whole(&body)), 10_000).unwrap());
    foreign(&core, 1, 100_000);
    assert!(matches!(
        core.begin(&incoming("u", Body::whole(&body)), 20_000)
            .unwrap(),
        Begun::Waits(_)
    ));
    foreign(&core, 0, 0);
    drop(begin(&core, &incoming("v", Body::whole(&body)), 30_000).unwrap());
    core.end(own, 40_000);
}

#[test]
fn what_wakes_others_may_look_at_the_request_that_made_room() {
    struct Looks(std::sync::Arc<Core>, std::sync::atomic::AtomicBool);
    impl std::task::Wake for Looks {
        fn wake(self: std::sync::Arc<Self>) {
            drop(self.0.observe(None, Some("w")));
            self.1.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let core = std::sync::Arc::new(core(1));
    let body = chat(&"word ".repeat(40_000), &json!({"max_tokens": 1}));
    let (mut running, mut waits) = waiting(&core, &body);
    let woken = std::sync::Arc::new(Looks(
        std::sync::Arc::clone(&core),
        std::sync::atomic::AtomicBool::new(false),
    ));
    let waker = std::task::Waker::from(std::sync::Arc::clone(&woken));
    let mut context = std::task::Context::from_waker(&waker);
    assert!(waits.poll(&mut context).is_pending());
    for ticket in &mut running {
        core.first_byte(ticket, 200, None, 1);
    }
    assert!(woken.1.load(std::sync::atomic::Ordering::SeqCst));
}

fn core_of(profiles: Vec<Value>) -> Result<Core, String> {
    let settings = serde_json::from_value(json!({"profiles": profiles})).unwrap();
    Core::new(settings).map_err(|error| error.to_string())
}

#[test]
fn the_profile_marked_as_reference_gives_a_models_costs() {
    let mut marked = profile("marked", 0.5);
    marked["reference"] = json!(true);
    let core = core_of(vec![profile("first", 0.01), marked.clone()]).unwrap();
    let replicas = json!([{"endpoint": endpoint(0), "profile": "first"}]);
    core.set_replicas(serde_json::from_value(replicas).unwrap())
        .unwrap();
    let body = chat(&"word ".repeat(1_000), &json!({"max_tokens": 1}));
    drop(begin(&core, &incoming("s", Body::whole(&body)), 0).unwrap());
    let record = &core.log().after(0)[0];
    let each = record.prefill_mu / record.prompt_tokens as f64;
    assert!((each - 0.5).abs() < 0.01, "{each}");

    let mut other = profile("other", 0.2);
    other["reference"] = json!(true);
    let error = core_of(vec![marked, other]).map(|_| ()).unwrap_err();
    assert!(
        error.contains("marked") && error.contains("other") && error.contains("reference"),
        "{error}"
    );
}
