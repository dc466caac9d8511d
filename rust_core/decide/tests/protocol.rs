//! What a request's fields mean for where it goes and what it is charged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use weighbridge_decide::{Begun, Core, Explanation, Incoming, Ticket};
use weighbridge_weigh::{Body, Endpoint};

fn core(replicas: usize) -> Core {
    let settings = json!({
        "profiles": [{
            "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 993_196,
            "block_tokens": 32, "max_batch_size": 256, "max_num_tokens": 8192,
            "max_seq_len": 131_072, "reference_batch": 256.0,
            "cost": {
                "prefill_per_tok": 0.0127, "prefill_per_tok2_e6": 0.53,
                "decode_per_tok": 0.0275, "decode_per_ktok_ctx": 0.0216
            }
        }]
    });
    let core = Core::new(serde_json::from_value(settings).unwrap()).unwrap();
    let replicas: Vec<Value> = (0..replicas)
        .map(|number| json!({"endpoint": format!("10.0.0.{number}:8000"), "profile": "p"}))
        .collect();
    core.set_replicas(serde_json::from_value(json!(replicas)).unwrap())
        .unwrap();
    core
}

fn incoming(endpoint: Endpoint, body: &[u8]) -> Incoming<'_> {
    Incoming {
        request_id: "r",
        endpoint,
        session: Some("agents"),
        tenant: None,
        priority: None,
        wanted: weighbridge_decide::Wanted::default(),
        subset: None,
        content_encoding: None,
        parent: None,
        body: Body::whole(body),
    }
}

/// Begins a request of the one session, which must run at once.
fn begin(core: &Core, body: &Value) -> Ticket {
    let body = body.to_string();
    match core
        .begin(&incoming(Endpoint::ChatCompletions, body.as_bytes()), 0)
        .unwrap()
    {
        Begun::Placed(ticket) => ticket,
        Begun::Waits(_) => panic!("it waits"),
    }
}

fn chat(number: usize, more: Value) -> Value {
    let mut body = json!({
        "model": "m", "messages": [{"role": "user", "content": format!("write about {number}")}]
    });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[test]
fn requests_go_where_the_engine_has_memory_for_all_that_they_may_become() {
    for limit in [json!({}), json!({"max_tokens": 125_000})] {
        let core = core(2);
        let tickets: Vec<Ticket> = (0..12)
            .map(|number| begin(&core, &chat(number, limit.clone())))
            .collect();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for ticket in &tickets {
            *counts.entry(ticket.endpoint().to_owned()).or_default() += 1;
        }
        // An engine of this size runs seven at once.
        assert!(counts.values().all(|count| *count <= 7), "{counts:?}");
        drop(tickets);
        for replica in core.pool().replicas() {
            assert_eq!(replica.load.own(), Default::default());
        }
    }
    // What names a limit stays together.
    let core = core(2);
    let tickets: Vec<Ticket> = (0..12)
        .map(|number| begin(&core, &chat(number, json!({"max_tokens": 500}))))
        .collect();
    let first = tickets[0].endpoint();
    let there = tickets.iter().filter(|one| one.endpoint() == first).count();
    assert!(there >= 10, "{there}");
}

#[test]
fn requests_beyond_what_all_engines_have_memory_for_are_spread_and_none_is_refused() {
    let core = core(2);
    let tickets: Vec<Ticket> = (0..60)
        .map(|number| begin(&core, &chat(number, json!({}))))
        .collect();
    let first = tickets[0].endpoint();
    let there = tickets.iter().filter(|one| one.endpoint() == first).count();
    assert!((25..=35).contains(&there), "{there}");
}

#[test]
fn a_prefix_of_another_adapter_is_not_cached() {
    let core = core(3);
    let system =
        "You answer questions about a weighbridge: loads, axles, tickets, tare. ".repeat(120);
    let body = |lora: &Value| {
        json!({"model": "m", "max_tokens": 4, "lora_request": lora, "messages": [
            {"role": "system", "content": system}, {"role": "user", "content": "hi"}]})
    };
    let lora =
        |name: &str, id: u32| json!({"lora_name": name, "lora_int_id": id, "lora_path": "/a"});
    let (law, tax) = (lora("law", 2), lora("tax", 3));
    for (adapter, is_warm) in [
        (&Value::Null, false),
        (&Value::Null, true),
        (&law, false),
        (&tax, false),
        (&law, true),
    ] {
        let body = body(adapter);
        let text = body.to_string();
        let found = Explanation::of(
            &core,
            &incoming(Endpoint::ChatCompletions, text.as_bytes()),
            0,
        )
        .unwrap();
        let found = serde_json::to_value(&found).unwrap();
        let cached = found["cost"]["cached_tokens"].as_u64().unwrap();
        assert_eq!(cached > 1_000, is_warm, "{adapter}: {cached}");
        let mut ticket = begin(&core, &body);
        core.first_byte(&mut ticket, 200, None, 0);
        core.end(ticket, 1);
    }
}

#[test]
fn a_request_goes_to_a_replica_that_has_its_adapter_loaded() {
    let core = core(4);
    let replicas: Vec<Value> = (0..4)
        .map(|number| {
            let adapters = if number == 2 { json!(["law"]) } else { json!([]) };
            json!({"endpoint": format!("10.0.0.{number}:8000"), "profile": "p", "adapters": adapters})
        })
        .collect();
    core.set_replicas(serde_json::from_value(json!(replicas)).unwrap())
        .unwrap();
    let lora = json!({"lora_name": "law", "lora_int_id": 2, "lora_path": "/a"});
    let ticket = begin(&core, &chat(1, json!({"lora_request": lora})));
    assert_eq!(ticket.endpoint(), "10.0.0.2:8000");
}

#[test]
fn embeddings_cost_no_output() {
    let core = core(1);
    let body = json!({"model": "m", "input": vec!["tare"; 1000]}).to_string();
    let found =
        Explanation::of(&core, &incoming(Endpoint::Embeddings, body.as_bytes()), 0).unwrap();
    let found = serde_json::to_value(&found).unwrap();
    assert_eq!(found["cost"]["decode_mu"], 0.0);
    assert!(found["cost"]["prefill_mu"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_body_that_expands_beyond_what_was_sent_is_refused() {
    use std::io::Write as _;
    let core = core(1);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(br#"{"model":"m","max_tokens":1,"prompt":["#)
        .unwrap();
    gzip.write_all(&b"1,".repeat(8 << 20)).unwrap();
    gzip.write_all(b"1]}").unwrap();
    let bomb = gzip.finish().unwrap();
    let mut incoming = incoming(Endpoint::Completions, &bomb);
    incoming.content_encoding = Some("gzip");
    let refusal = core.decide(&incoming, 0).unwrap_err();
    assert_eq!((refusal.status, refusal.code), (413, "body_too_large"));
    incoming.content_encoding = Some("gzip, br");
    assert_eq!(core.decide(&incoming, 0).unwrap_err().status, 415);
}
