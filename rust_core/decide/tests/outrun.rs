//! Answers that run on beyond what was expected of them: they count as they run, and exactly at their
//! end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::json;
use weighbridge_decide::{Accounts, Begun, Core, Incoming, Ticket};
use weighbridge_weigh::{Body, Endpoint};

const KV_TOKENS: u64 = 40_000;

fn core() -> Core {
    let profile = json!({
        "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": KV_TOKENS,
        "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192, "max_seq_len": 8_000,
        "reference_batch": 32.0,
        "cost": {
            "prefill_per_tok": 0.01, "prefill_per_tok2_e6": 0.1,
            "decode_per_tok": 0.1, "decode_per_ktok_ctx": 0.001
        }
    });
    let settings = json!({
        "profiles": [profile], "default_output_tokens": 8, "usage_records": 9,
    });
    let core = Core::new(serde_json::from_value(settings).unwrap()).unwrap();
    let replicas = json!([{"endpoint": "10.0.0.1:8000", "profile": "p"}]);
    core.set_replicas(serde_json::from_value(replicas).unwrap())
        .unwrap();
    core
}

fn begin(core: &Core, stream: bool, at_us: u64) -> Begun {
    let body = json!({
        "model": "m", "stream": stream, "messages": [{"role": "user", "content": "hello"}]
    });
    let body = body.to_string();
    let incoming = Incoming {
        request_id: "r",
        endpoint: Endpoint::ChatCompletions,
        session: None,
        tenant: Some("crowd"),
        priority: None,
        wanted: weighbridge_decide::Wanted::default(),
        subset: None,
        content_encoding: None,
        parent: None,
        body: Body::whole(body.as_bytes()),
    };
    core.begin(&incoming, at_us).unwrap()
}

fn placed(core: &Core, stream: bool) -> Ticket {
    match begin(core, stream, 0) {
        Begun::Placed(ticket) => ticket,
        Begun::Waits(_) => panic!("it waits"),
    }
}

fn events(count: usize) -> String {
    let event = json!({"choices": [{"index": 0, "delta": {"content": "on "}}]});
    format!("data: {event}\n\n").repeat(count)
}

#[test]
fn an_answer_that_runs_on_counts_with_what_it_has_and_as_much_again() {
    let core = core();
    let mut ticket = placed(&core, true);
    let mut observer = core.observe(ticket.join(), None).unwrap();
    observer.begin(Some("text/event-stream"), None);
    core.first_byte(&mut ticket, 200, None, 1_000);
    observer.body(events(8).as_bytes(), 2_000);
    let expected = core.accounts();
    let mut before = expected;
    for round in 1..=5 {
        observer.body(events(400).as_bytes(), 10_000 * round);
        let now = core.accounts();
        let tokens = 0.1 * 400.0 * round as f64;
        assert!(
            now.charged_mu > tokens && now.kv_tokens > 400 * round as i64,
            "{now:?} after {round} times 400 tokens"
        );
        assert!(now.charged_mu < 2.5 * tokens, "{now:?}");
        assert!(now.charged_mu >= before.charged_mu && now.running_mu >= before.running_mu);
        before = now;
    }
    assert!(before.charged_mu > 50.0 * expected.charged_mu);
    // No sequence is longer than the model's: 8,000 tokens.
    observer.body(events(7_000).as_bytes(), 90_000);
    assert!(core.accounts().kv_tokens <= 8_000);
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 7_900}});
    let end = format!("data: {usage}\n\ndata: [DONE]\n\n");
    observer.body(end.as_bytes(), 100_000);
    core.observed(observer, 100_000);
    core.end(ticket, 100_001);
    assert_eq!(core.accounts(), Accounts::default());
    let record = core.take_usage(9).pop().unwrap();
    assert_eq!(record.output_tokens, 7_900);
    let billed = weighbridge_decide::Status::of(&core).admission["m"].tenants[0].billed_mu;
    assert!(
        (billed - record.mu).abs() < 1e-3,
        "{billed} for {}",
        record.mu
    );
}

#[test]
fn answers_of_which_nothing_is_seen_count_by_the_time_they_have_run() {
    for stream in [false, true] {
        let core = core();
        let mut ticket = placed(&core, stream);
        if stream {
            core.first_byte(&mut ticket, 200, None, 1_000);
        }
        core.advance(100_000);
        core.judge(200_000).unwrap();
        let soon = core.accounts();
        core.judge(30_000_000).unwrap();
        let late = core.accounts();
        assert!(
            late.charged_mu > 20.0 * soon.charged_mu && late.kv_tokens > soon.kv_tokens + 1_000,
            "{soon:?} {late:?}"
        );
        core.end(ticket, 30_000_001);
        assert_eq!(core.accounts(), Accounts::default());
    }
}

#[test]
fn a_crowd_whose_answers_turn_out_long_shuts_the_gate() {
    let core = core();
    let tickets: Vec<Ticket> = (0..30).map(|_| placed(&core, false)).collect();
    assert!(matches!(begin(&core, false, 1_000), Begun::Placed(_)));
    core.judge(120_000_000).unwrap();
    assert!(
        matches!(begin(&core, false, 120_000_001), Begun::Waits(_)),
        "{:?}",
        core.accounts()
    );
    for ticket in tickets {
        core.end(ticket, 120_000_002);
    }
    assert_eq!(core.accounts(), Accounts::default());
}
