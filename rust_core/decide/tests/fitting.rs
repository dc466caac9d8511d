//! A request runs where it would be answered in time, and waits while it would be late everywhere.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::json;
use std::task::{Context, Poll, Waker};
use weighbridge_decide::{Accounts, Begun, Core, Incoming, Ticket, Waiting, Wanted};
use weighbridge_weigh::{Body, Endpoint};

/// Prefill takes 0.1 ms a token; first tokens are in time after 2 s and 150 ms a thousand tokens, of which
/// a wait at a replica and the prefill may take four tenths.
fn core(replicas: usize, placing: &serde_json::Value) -> Core {
    let settings = json!({
        "placing": placing, "admission": {"queue": {"first_token_share": 0.4}},
        "profiles": [{
            "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 10_000_000,
            "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192,
            "reference_batch": 32.0,
            "cost": {
                "prefill_per_tok": 0.1, "prefill_per_tok2_e6": 0.0,
                "decode_per_tok": 1.0, "decode_per_ktok_ctx": 0.1
            }
        }]
    });
    let core = Core::new(serde_json::from_value(settings).unwrap()).unwrap();
    let all: Vec<_> = (0..replicas)
        .map(|number| json!({"endpoint": format!("10.0.0.{number}:8000"), "profile": "p"}))
        .collect();
    let all = serde_json::from_value(json!(all)).unwrap();
    core.set_replicas(all).unwrap();
    core
}

/// A prompt of so many tokens, none of them sent before.
fn prompt(tokens: u32, salt: u32) -> Vec<u8> {
    let ids: Vec<u32> = (0..tokens).map(|at| salt * 100_000 + at).collect();
    serde_json::to_vec(&json!({"model": "m", "max_tokens": 20, "prompt": ids})).unwrap()
}

fn incoming(body: &[u8]) -> Incoming<'_> {
    Incoming {
        request_id: "r",
        endpoint: Endpoint::Completions,
        session: None,
        tenant: None,
        priority: None,
        wanted: Wanted::default(),
        subset: None,
        content_encoding: None,
        parent: None,
        body: Body::whole(body),
    }
}

fn begin(core: &Core, body: &[u8], now_us: u64) -> Begun {
    core.begin(&incoming(body), now_us).unwrap()
}

fn runs(begun: Begun) -> Ticket {
    match begun {
        Begun::Placed(ticket) => ticket,
        Begun::Waits(_) => panic!("it waits"),
    }
}

fn waits(begun: Begun) -> Box<Waiting> {
    match begun {
        Begun::Waits(waiting) => waiting,
        Begun::Placed(ticket) => panic!("it runs on {}", ticket.endpoint()),
    }
}

/// The ticket of a request whose turn has come.
fn turn(core: &Core, mut waiting: Box<Waiting>, body: &[u8], now_us: u64) -> Option<Ticket> {
    core.advance(now_us);
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(answer) = waiting.poll(&mut context) else {
        return None;
    };
    Some(
        core.resume(waiting, answer, &incoming(body), now_us)
            .unwrap(),
    )
}

#[test]
fn a_long_prompt_may_take_as_long_as_its_own_objective_allows() {
    // Its prefill alone takes 2 s: of 5 s it may take 2, of 22 s almost 9.
    let long = prompt(20_000, 3);
    let core = core(1, &json!({}));
    let _ahead = runs(begin(&core, &prompt(5_000, 1), 0));
    let _late = waits(begin(&core, &long, 0));
    let core = self::core(1, &json!({"objective_ttft_ms_per_ktok": 1_000.0}));
    let _ahead = runs(begin(&core, &prompt(5_000, 1), 0));
    let _in_time = runs(begin(&core, &long, 0));
}

#[test]
fn who_asks_for_patience_waits_here_and_not_before_others_at_a_replica() {
    let core = core(1, &json!({}));
    let _ahead = runs(begin(&core, &prompt(10_000, 1), 0));
    let body = prompt(10, 2);
    let _late = waits(begin(&core, &body, 0));
    for ttft_ms in [10_000.0, 3_600_000.0] {
        let patient = Incoming {
            wanted: Wanted {
                ttft_ms: Some(ttft_ms),
                ..Wanted::default()
            },
            ..incoming(&body)
        };
        let _waits = waits(core.begin(&patient, 0).unwrap());
    }
}

#[test]
fn a_prompt_that_takes_longer_than_its_objective_runs_where_nothing_is_ahead() {
    let core = core(1, &json!({}));
    let _it = runs(begin(&core, &prompt(90_000, 1), 0));
}

#[test]
fn a_long_prompt_that_waits_makes_no_short_one_wait() {
    let core = core(2, &json!({}));
    let _a = runs(begin(&core, &prompt(50_000, 1), 0));
    let b = runs(begin(&core, &prompt(1_500, 2), 0));
    let _long = waits(begin(&core, &prompt(50_000, 3), 0));
    let short = runs(begin(&core, &prompt(10, 4), 0));
    assert_eq!(short.endpoint(), b.endpoint());
}

#[test]
fn a_request_that_waits_goes_where_it_first_fits_and_leaves_nothing_behind() {
    let core = core(2, &json!({}));
    let hangs = runs(begin(&core, &prompt(30_000, 1), 0));
    let other = runs(begin(&core, &prompt(30_000, 2), 0));
    let body = prompt(10, 3);
    let waiting = waits(begin(&core, &body, 0));
    let free = other.endpoint().to_owned();
    core.end(other, 3_000_000);
    let placed = turn(&core, waiting, &body, 3_000_000).expect("it runs");
    assert_eq!(placed.endpoint(), free);
    core.end(placed, 3_100_000);
    core.end(hangs, 3_200_000);
    assert_eq!(core.accounts(), Accounts::default());
}

#[test]
fn tokens_that_would_be_late_keep_prompts_away_until_they_would_not() {
    // A step of a full batch takes 64 of 70 ms.
    let core = core(1, &json!({"objective_tpot_ms": 70.0}));
    let mut now_us = 0;
    let mut busy = 0;
    let mut waiting = None;
    // Half of the time is prefill, beside answers that decode all the while.
    for salt in 0..60 {
        now_us += 400_000;
        match begin(&core, &prompt(2_000, salt), now_us) {
            Begun::Placed(mut ticket) => {
                busy += 1;
                core.first_byte(&mut ticket, 200, None, now_us + 200_000);
                std::mem::forget(ticket);
            }
            Begun::Waits(other) => {
                waiting = Some(other);
                break;
            }
        }
    }
    assert!(busy > 3, "{busy}");
    assert!(waiting.is_some(), "tokens of {busy} answers were late");
}
