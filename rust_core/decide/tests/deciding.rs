//! Decisions over a core with replicas, slices and the assigner's rounds, on a clock of our own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use weighbridge_decide::{
    Accounts, Begun, Core, Explanation, Incoming, Placing, SetClock, Status, Ticket,
};
use weighbridge_weigh::{Body, Endpoint};

fn profile() -> serde_json::Value {
    json!({
        "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 1_000_000,
        "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192,
        "reference_batch": 32.0,
        "cost": {
            "prefill_per_tok": 0.1, "prefill_per_tok2_e6": 1.0,
            "decode_per_tok": 1.0, "decode_per_ktok_ctx": 0.1
        }
    })
}

fn core(replicas: usize) -> Core {
    let settings = serde_json::from_value(json!({"profiles": [profile()]})).unwrap();
    let core = Core::new(settings).unwrap();
    set_replicas(&core, &(0..replicas).collect::<Vec<_>>());
    core
}

fn set_replicas(core: &Core, numbers: &[usize]) {
    let replicas: Vec<_> = numbers
        .iter()
        .map(|number| {
            json!({
                "endpoint": format!("10.0.0.{number}:8000"), "profile": "p",
                "domain": format!("rack-{}", number % 3)
            })
        })
        .collect();
    core.set_replicas(serde_json::from_value(json!(replicas)).unwrap())
        .unwrap();
}

fn chat(text: &str) -> Vec<u8> {
    serde_json::to_vec(&json!({
        "model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": text}]
    }))
    .unwrap()
}

fn incoming<'a>(session: Option<&'a str>, body: &'a [u8]) -> Incoming<'a> {
    Incoming {
        request_id: "r",
        endpoint: Endpoint::ChatCompletions,
        session,
        tenant: None,
        priority: None,
        wanted: weighbridge_decide::Wanted::default(),
        subset: None,
        content_encoding: None,
        parent: None,
        body: Body::whole(body),
    }
}

fn decide(core: &Core, session: &str, now_us: u64) -> Ticket {
    let body = chat("hello");
    core.decide(&incoming(Some(session), &body), now_us)
        .unwrap()
}

/// Where each of 300 sessions goes when nothing else is in flight.
fn homes(core: &Core) -> BTreeMap<String, String> {
    (0..300)
        .map(|number| {
            let session = format!("s{number}");
            let body = chat("hello");
            let found = Explanation::of(core, &incoming(Some(&session), &body), 0).unwrap();
            (session, found.chosen)
        })
        .collect()
}

#[test]
fn sessions_spread_over_the_replicas_and_stay_where_they_are() {
    let core = core(6);
    let before = homes(&core);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for endpoint in before.values() {
        *counts.entry(endpoint).or_default() += 1;
    }
    assert_eq!(counts.len(), 6, "{counts:?}");
    for round in 1..=10 {
        core.assign(round * 2_000_000);
    }
    assert_eq!(homes(&core), before, "a quiet pool has nothing to move");
}

#[test]
fn the_loss_of_a_replica_moves_its_sessions_alone() {
    let core = core(6);
    let before = homes(&core);
    let number = Status::of(&core).assignment.number;
    set_replicas(&core, &[0, 1, 2, 3, 5]);
    let after = homes(&core);
    for (session, endpoint) in &before {
        if endpoint == "10.0.0.4:8000" {
            assert_ne!(&after[session], endpoint);
        } else {
            assert_eq!(&after[session], endpoint, "{session} had no reason to move");
        }
    }
    let status = Status::of(&core).assignment;
    assert!(
        status.number > number,
        "the assignment is a new one, at once"
    );
    assert!(status.moves["lost"] > 0);
}

#[test]
fn a_session_hotter_than_a_replica_is_given_more_replicas() {
    let core = core(4);
    let mut now_us = 0;
    let mut last = BTreeMap::new();
    for _ in 0..30 {
        last.clear();
        let mut open = Vec::new();
        for _ in 0..200 {
            now_us += 10_000;
            let ticket = decide(&core, "hot", now_us);
            *last.entry(ticket.endpoint().to_owned()).or_insert(0) += 1;
            // In flight for a second: the home's ledger fills.
            open.push(ticket);
            if open.len() > 100 {
                let ticket = open.remove(0);
                core.end(ticket, now_us);
            }
        }
        core.assign(now_us);
    }
    assert!(last.len() > 1, "one replica cannot carry it: {last:?}");
    let report = &Status::of(&core).assignment;
    assert!(
        report.models["m"].homes > report.models["m"].slices,
        "{report:?}"
    );
}

#[test]
fn an_ended_request_leaves_nothing_on_the_ledger_but_its_prefix() {
    let core = core(1);
    let body = chat(&"a long prompt ".repeat(100));
    let mut first = core.decide(&incoming(Some("s"), &body), 0).unwrap();
    core.first_byte(&mut first, 200, None, 900_000);
    core.end(first, 1_000_000);
    let status = &Status::of(&core).replicas[0];
    assert_eq!((status.requests, status.kv_tokens), (0, 0));
    assert!(status.prefill_mu.abs() + status.decode_mu.abs() < f64::EPSILON);
    assert!(status.cached_blocks >= 5);
    drop(core.decide(&incoming(Some("s"), &body), 2_000_000).unwrap());
    let records = core.log().after(0);
    assert_eq!(records[0].cached_tokens, 0);
    assert!(records[1].cached_tokens * 10 > records[1].prompt_tokens * 8);
    assert!(records[1].prefill_mu < records[0].prefill_mu / 4.0);
}

#[test]
fn a_request_holds_a_sequence_for_each_of_its_answers() {
    let core = core(1);
    let sequences = |endpoint, body: &serde_json::Value| {
        let body = serde_json::to_vec(body).unwrap();
        let incoming = Incoming {
            endpoint,
            ..incoming(None, &body)
        };
        let ticket = core.decide(&incoming, 0).unwrap();
        let pool = core.pool();
        let loads = pool.replicas().map(|one| one.load.totals());
        let held: i64 = loads.map(|load| load.sequences).sum();
        core.end(ticket, 0);
        held
    };
    let messages = json!([{"role": "user", "content": "hello"}]);
    let chat = |n: u32| json!({"model": "m", "messages": messages, "n": n, "max_tokens": 50});
    assert_eq!(sequences(Endpoint::ChatCompletions, &chat(1)), 1);
    assert_eq!(sequences(Endpoint::ChatCompletions, &chat(4)), 4);
    let batch = json!({"model": "m", "prompt": ["a", "b"], "n": 3, "max_tokens": 50});
    assert_eq!(sequences(Endpoint::Completions, &batch), 6);
    let texts = json!({"model": "m", "input": ["a", "b"]});
    assert_eq!(
        sequences(Endpoint::Embeddings, &texts),
        0,
        "nothing is decoded"
    );
    assert_eq!(core.accounts(), Accounts::default());
}

#[test]
fn the_prompt_is_charged_until_output_is_seen_where_somebody_looks() {
    let prefill = |core: &Core| -> f64 {
        let status = Status::of(core);
        status.replicas.iter().map(|one| one.prefill_mu).sum()
    };
    let body = chat("hello");
    let begin = |core: &Core| match core.begin(&incoming(None, &body), 0).unwrap() {
        Begun::Placed(ticket) => ticket,
        Begun::Waits(_) => panic!("nothing else is in flight"),
    };

    let watched = core(2);
    let mut ticket = begin(&watched);
    let mut observer = watched.observe(None, Some("r")).unwrap();
    // Engines send a stream's headers before they compute its prompt.
    watched.first_byte(&mut ticket, 200, None, 1_000);
    observer.begin(Some("text/event-stream"), None);
    let role = r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#;
    observer.body(format!("{role}\n\n").as_bytes(), 2_000);
    assert!(prefill(&watched) > 0.0);
    let text = r#"data: {"choices":[{"delta":{"content":"Hi"}}]}"#;
    observer.body(format!("{text}\n\n").as_bytes(), 3_000);
    assert_eq!(prefill(&watched), 0.0);
    watched.observed(observer, 4_000);
    watched.end(ticket, 4_000);

    let refused = core(2);
    let mut ticket = begin(&refused);
    let observer = refused.observe(None, Some("r")).unwrap();
    refused.first_byte(&mut ticket, 503, None, 1_000);
    assert_eq!(prefill(&refused), 0.0);
    refused.observed(observer, 2_000);
    refused.end(ticket, 2_000);

    // An answer in one piece is there with its first byte.
    let unwatched = core(2);
    let mut ticket = begin(&unwatched);
    assert!(prefill(&unwatched) > 0.0);
    unwatched.first_byte(&mut ticket, 200, None, 1_000);
    assert_eq!(prefill(&unwatched), 0.0);
    unwatched.end(ticket, 2_000);
}

#[test]
fn where_nobody_sees_output_a_streamed_prompt_counts_by_the_forecast() {
    let core = core(1);
    let prefill = || Status::of(&core).replicas[0].prefill_mu;
    let body = json!({
        "model": "m", "stream": true, "max_tokens": 50,
        "messages": [{"role": "user", "content": "hello ".repeat(5000)}]
    });
    let body = serde_json::to_vec(&body).unwrap();
    let Ok(Begun::Placed(mut ticket)) = core.begin(&incoming(None, &body), 0) else {
        panic!("nothing else is in flight");
    };
    // The headers come before the prompt is computed, which takes half a second.
    core.first_byte(&mut ticket, 200, None, 1_000);
    core.advance(900_000);
    assert!(prefill() > 0.0);
    core.advance(1_800_000);
    assert_eq!(prefill(), 0.0);
    core.end(ticket, 2_000_000);
    assert_eq!(core.accounts(), Accounts::default());
}

#[test]
fn a_compressed_body_weighs_what_it_expands_to() {
    let core = core(2);
    let body = chat(&"words that compress well ".repeat(400));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&body).unwrap();
    let compressed = encoder.finish().unwrap();
    assert!(compressed.len() * 10 < body.len());
    drop(core.decide(&incoming(Some("plain"), &body), 0).unwrap());
    let gzip = Incoming {
        content_encoding: Some("gzip"),
        ..incoming(Some("gzip"), &compressed)
    };
    drop(core.decide(&gzip, 0).unwrap());
    let records = core.log().after(0);
    assert_eq!(records[0].prompt_tokens, records[1].prompt_tokens);
    let unknown = Incoming {
        content_encoding: Some("lzw"),
        ..incoming(None, &compressed)
    };
    let refusal = core.decide(&unknown, 0).unwrap_err();
    assert_eq!(
        (refusal.status, refusal.code),
        (415, "unsupported_content_encoding")
    );
}

#[test]
fn a_body_cut_before_its_model_means_the_only_one_there_is() {
    let core = core(2);
    let body = chat("hello");
    let cut = body.windows(5).position(|part| part == b"model").unwrap();
    let mut late = br#"{"messages": [{"role": "user", "content": ""#.to_vec();
    late.extend_from_slice(&b"very long ".repeat(1000));
    assert!(cut > 0);
    let beginning = Incoming {
        body: Body::beginning(&late, Some(100_000)),
        ..incoming(None, &[])
    };
    drop(core.decide(&beginning, 0).unwrap());
    let record = &core.log().after(0)[0];
    assert_eq!(&*record.model, "m");
    assert!(
        record.prompt_tokens > 10_000,
        "what is missing weighs too: {record:?}"
    );
}

#[test]
fn placing_can_be_changed_while_requests_run() {
    let core = core(4);
    let endpoints = |core: &Core| decide(core, "s", 0).endpoints().split(',').count();
    assert_eq!(endpoints(&core), 3);
    core.set_placing(Placing {
        fallbacks: 0,
        ..(*core.placing()).clone()
    });
    assert_eq!(endpoints(&core), 1);
}

#[test]
fn settings_that_contradict_themselves_are_refused_by_name() {
    let core = core(1);
    let replicas = json!([{"endpoint": "10.0.0.1:1", "profile": "nobody's"}]);
    let error = core
        .set_replicas(serde_json::from_value(replicas).unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("10.0.0.1:1") && error.contains("nobody's"),
        "{error}"
    );
    assert_eq!(core.pool().len(), 1, "the replicas are as they were");
    assert!(serde_json::from_value::<Placing>(json!({"spill_marge": 1})).is_err());
}

#[test]
fn a_drained_replica_gets_nothing_new_and_what_it_has_ends_there() {
    let core = core(4);
    core.assign(1_000_000);
    let before = homes(&core);
    let victim = before["s0"].clone();
    let ticket = decide(&core, "s0", 2_000_000);
    assert!(core.drain(&victim, true).unwrap());
    for (session, home) in homes(&core) {
        assert_ne!(home, victim);
        assert!(before[&session] == victim || before[&session] == home);
    }
    let held = core.pool().endpoint(&victim).unwrap().load.own().requests;
    assert_eq!((ticket.endpoint(), held), (victim.as_str(), 1));
    core.end(ticket, 3_000_000);
    assert!(core.drain(&victim, false).unwrap());
    assert!(!core.drain("10.9.9.9:1", true).unwrap());
    for round in 2..20u64 {
        core.assign(round * 5_000_000);
    }
    assert!(homes(&core).values().any(|home| *home == victim));
}

#[test]
fn a_profile_that_cannot_be_is_refused_with_its_name_and_key() {
    let settings = serde_json::from_value(json!({
        "profiles": [{
            "name": "without memory", "models": ["m"], "capacity_mu_per_min": 60000.0,
            "kv_tokens": 0, "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192,
            "reference_batch": 32.0,
            "cost": {
                "prefill_per_tok": 0.1, "prefill_per_tok2_e6": 1.0,
                "decode_per_tok": 1.0, "decode_per_ktok_ctx": 0.1
            }
        }]
    }));
    let Err(error) = Core::new(settings.unwrap()) else {
        panic!("a replica without KV memory was accepted");
    };
    let error = error.to_string();
    assert!(
        error.contains("without memory") && error.contains("kv_tokens"),
        "{error}"
    );
}

fn begin(core: &Core, body: &[u8]) -> Ticket {
    match core.begin(&incoming(None, body), 0).unwrap() {
        Begun::Placed(ticket) => ticket,
        Begun::Waits(_) => panic!("nothing else is in flight"),
    }
}

#[test]
fn whichever_way_a_request_ends_nothing_of_it_is_left_in_any_account() {
    let core = core(2);
    let body = chat("hello");
    let held = || core.accounts();

    drop(begin(&core, &body));
    assert_eq!(held(), Accounts::default());

    let mut ticket = begin(&core, &body);
    let one = held();
    assert_eq!((one.charged, one.running, one.open), (1, 1, 1));
    assert!(one.measured > 0 && one.charged_mu > 0.0 && one.running_mu > 0.0);
    core.first_byte(&mut ticket, 200, None, 1_000);
    drop(ticket);
    assert_eq!(held(), Accounts::default());

    // Its stream is gone without a word; the one that observes its reply goes later.
    let ticket = begin(&core, &body);
    let observer = core.observe(None, Some("r")).unwrap();
    drop(ticket);
    let left = held();
    assert_eq!((left.charged, left.open), (0, 0));
    assert!(left.running_mu.abs() < f64::EPSILON);
    assert_eq!(left.measured, 0);
    core.observed(observer, 2_000);
    assert_eq!(held(), Accounts::default());

    let ticket = begin(&core, &body);
    let observer = core.observe(None, Some("r")).unwrap();
    core.end(ticket, 3_000);
    drop(observer);
    assert_eq!(held(), Accounts::default());

    let lost = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ticket = begin(&core, &body);
        panic!("a fault in a transport");
    }));
    assert!(lost.is_err());
    assert_eq!(held(), Accounts::default());
}

#[test]
fn of_two_requests_with_one_id_each_is_known_by_its_own_number_and_neither_by_the_id() {
    let core = core(2);
    let body = chat("hello");
    let (first, second) = (begin(&core, &body), begin(&core, &body));
    assert!(core.observe(None, Some("r")).is_none());
    core.end(first, 1_000);
    assert!(core.observe(None, Some("r")).is_none());
    assert!(core.observe(Some(0), Some("r")).is_none());
    let observer = core.observe(second.join(), Some("another")).unwrap();
    core.observed(observer, 2_000);
    core.end(second, 2_000);
    assert_eq!(core.accounts(), Accounts::default());
    // Where the number gets through, an id joins nothing.
    let third = begin(&core, &body);
    assert!(core.observe(None, Some("r")).is_none());
    drop(third);
    assert_eq!(core.accounts(), Accounts::default());
}

#[test]
fn an_adapter_that_only_replicas_list_is_served_by_them_alone() {
    let core = core(0);
    let with_adapters = |lists: &[&[&str]]| {
        let replicas: Vec<_> = lists
            .iter()
            .enumerate()
            .map(|(number, adapters)| {
                json!({
                    "endpoint": format!("10.0.0.{number}:8000"), "profile": "p",
                    "adapters": adapters
                })
            })
            .collect();
        core.set_replicas(serde_json::from_value(json!(replicas)).unwrap())
            .unwrap();
    };
    let body = serde_json::to_vec(&json!({
        "model": "sql-lora", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]
    }))
    .unwrap();
    let ask = |session: &str| core.decide(&incoming(Some(session), &body), 0);
    with_adapters(&[&[], &[], &[]]);
    assert!(ask("s").unwrap_err().to_json().contains("model_not_found"));
    with_adapters(&[&[], &["sql-lora"], &["other"]]);
    // However long it waits there: no other replica knows the adapter.
    for number in 0..200 {
        let ticket = ask(&format!("s{number}")).unwrap();
        assert_eq!(
            ticket.endpoints(),
            "10.0.0.1:8000",
            "nor is another named for retries"
        );
    }
    with_adapters(&[&["sql-lora"], &["sql-lora"], &["sql-lora"]]);
    let served: BTreeMap<String, ()> = (0..200)
        .map(|number| {
            (
                ask(&format!("s{number}")).unwrap().endpoint().to_owned(),
                (),
            )
        })
        .collect();
    assert_eq!(served.len(), 3);
    with_adapters(&[&[], &[], &[]]);
    assert!(ask("s").unwrap_err().to_json().contains("model_not_found"));
}

#[test]
fn requests_that_nobody_ends_are_ended_after_hours_and_counted() {
    const HOUR_US: u64 = 3_600_000_000;
    let core = core(2);
    let body = chat("hello");
    let ticket = begin(&core, &body);
    core.judge(3 * HOUR_US).unwrap();
    assert_eq!((core.accounts().charged, Status::of(&core).reaped), (1, 0));
    core.judge(5 * HOUR_US).unwrap();
    assert_eq!(core.accounts(), Accounts::default());
    assert_eq!(Status::of(&core).reaped, 1);
    // Its connection was alive after all: nothing is given back twice.
    core.end(ticket, 6 * HOUR_US);
    assert_eq!(core.accounts(), Accounts::default());
}

#[test]
fn a_drain_outlives_a_flap_of_discovery_on_the_clock_that_is_handed_in() {
    let clock = std::sync::Arc::new(SetClock::default());
    let profiles = serde_json::to_value([profile()]).unwrap();
    let settings = serde_json::from_value(json!({"profiles": profiles})).unwrap();
    let core = Core::with_clock(settings, clock.clone()).unwrap();
    set_replicas(&core, &[0, 1]);
    let victim = "10.0.0.1:8000";
    let state = |core: &Core| {
        let status = Status::of(core);
        let found = status.replicas.iter().find(|one| one.endpoint == victim);
        found.unwrap().state.as_str()
    };
    core.drain(victim, true).unwrap();
    clock.set(60_000_000);
    set_replicas(&core, &[0]);
    clock.set(120_000_000);
    set_replicas(&core, &[0, 1]);
    assert_eq!((state(&core), core.now_us()), ("draining", 120_000_000));
    set_replicas(&core, &[0]);
    clock.set(7_200_000_000);
    set_replicas(&core, &[0, 1]);
    assert_eq!(state(&core), "healthy", "another has its address by now");
}

/// Forty prompts of some 2,000 tokens, one each 300 ms, of which no first token is there yet; how many
/// of them have to wait. The replies to streamed ones are observed.
fn unanswered_prompts(is_streamed: bool) -> (Core, Vec<Ticket>, usize) {
    let core = core(2);
    let mut observers = Vec::new();
    let (mut running, mut waiting) = (Vec::new(), 0);
    for number in 0..40 {
        let now_us = number * 300_000;
        core.advance(now_us);
        let session = format!("s{number}");
        let text = format!("{session} {}", "hello ".repeat(2000));
        let body = json!({
            "model": "m", "max_tokens": 50, "stream": is_streamed,
            "messages": [{"role": "user", "content": text}]
        });
        let body = serde_json::to_vec(&body).unwrap();
        match core.begin(&incoming(Some(&session), &body), now_us) {
            Ok(Begun::Placed(ticket)) => {
                let observed = ticket.join().filter(|_| is_streamed);
                observers.extend(observed.and_then(|join| core.observe(Some(join), None)));
                running.push(ticket);
            }
            _ => waiting += 1,
        }
    }
    (core, running, waiting)
}

#[test]
fn long_answers_run_until_batches_are_full() {
    // Its costs are those of batches of 32; 64 sequences decode together.
    let core = core(1);
    let body = json!({
        "model": "m", "max_tokens": 8_000, "min_tokens": 8_000,
        "messages": [{"role": "user", "content": "prove it"}]
    });
    let body = serde_json::to_vec(&body).unwrap();
    let mut running = Vec::new();
    for at_us in (0..70).map(|one| one * 1_000_000) {
        if let Ok(Begun::Placed(mut ticket)) = core.begin(&incoming(None, &body), at_us) {
            core.first_byte(&mut ticket, 200, None, at_us + 100_000);
            running.push(ticket);
        }
    }
    assert!((60..=64).contains(&running.len()), "{}", running.len());
}

#[test]
fn prompts_of_answers_that_are_not_streamed_count_until_they_should_be_computed() {
    let (core, running, waiting) = unanswered_prompts(false);
    assert_eq!(waiting, 0, "their replicas have computed them and decode");
    let now_us = 40 * 300_000 + 5_000_000;
    core.advance(now_us);
    let pool = core.pool();
    let loads = || pool.replicas().map(|one| one.load.totals());
    assert!(loads().all(|load| load.prefill.micro() == 0));
    assert!(loads().all(|load| load.decode.micro() > 0), "it goes on");
    for ticket in running {
        core.end(ticket, now_us);
    }
    assert_eq!(core.accounts(), Accounts::default());
    // Where an observer will see the first token, a prompt counts until then.
    assert!(unanswered_prompts(true).2 > 0);
}
