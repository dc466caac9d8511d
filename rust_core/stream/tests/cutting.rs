//! Sheddable requests that no replica has begun to answer, and guarantees that would be late behind them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::{Woken, headers, message, poll};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;
use weighbridge_decide::{Accounts, Core};
use weighbridge_stream::Stream;
use weighbridge_stream::wire::{HttpHeaders, ImmediateResponse, Request, Response};

/// One replica, which computes a token of a prompt in 0.1 ms.
fn core(cut_sheddable: bool) -> Arc<Core> {
    common::core(&json!({
        "admission": {
            "cut_sheddable": cut_sheddable,
            "queue": {"window_ms": 10_000.0, "first_token_share": 10.0},
            "tenants": {
                "gold": {"guaranteed_mu_per_min": 30000.0},
                "low": {"priority": "sheddable"},
            },
        },
        "placing": {"objectives_of": {"tenants": {"gold": {"ttft_ms": 200.0}}}},
        "usage_records": 10,
    }))
}

/// A request of this tenant with a prompt of `words`, which is sent to the replica at once.
fn send(core: &Arc<Core>, tenant: &str, words: usize) -> Stream {
    let text = format!("{tenant} {words} {}", "word ".repeat(words));
    let body = json!({
        "model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": text}],
    });
    let (stream, replies) = common::chat(core, "", tenant, &body, 0);
    assert!(
        matches!(replies[0].response, Some(Response::RequestBody(_))),
        "it runs"
    );
    stream
}

/// What the client of a request that was cut is told; `None` where it goes on.
fn told(stream: &mut Stream) -> Option<ImmediateResponse> {
    if !stream.is_waiting() {
        return None;
    }
    match poll(stream, &Arc::<Woken>::default(), 1_000) {
        Poll::Pending => None,
        Poll::Ready(replies) => match replies.into_iter().next()?.response {
            Some(Response::Immediate(refusal)) => Some(refusal),
            other => panic!("it is refused: {other:?}"),
        },
    }
}

#[test]
fn a_guarantee_that_would_be_late_ends_sheddable_work_before_it() {
    let core = core(true);
    let mut low = send(&core, "low", 20_000);
    let woken = Arc::default();
    assert!(low.is_waiting() && poll(&mut low, &woken, 1_000).is_pending());
    let gold = send(&core, "gold", 100);
    assert_eq!(woken.0.load(SeqCst), 1, "its stream is told at once");
    let refusal = told(&mut low).expect("it is cut");
    assert_eq!(refusal.status.unwrap().code, 429);
    let body = String::from_utf8(refusal.body.to_vec()).unwrap();
    assert!(body.contains("preempted"), "{body}");
    assert!(!low.is_waiting());
    let [record] = <[_; 1]>::try_from(core.take_usage(9)).unwrap();
    assert!(record.mu.abs() < 1e-9, "nobody pays for it");
    assert_eq!(core.accounts().charged, 1, "gold's alone");
    drop((low, gold));
    assert_eq!(core.accounts(), Accounts::default());
}

#[test]
fn the_newest_yield_and_no_more_of_them_than_need_be() {
    let core = core(true);
    let mut first = send(&core, "low", 500);
    let mut second = send(&core, "low", 3_000);
    let mut third = send(&core, "low", 3_001);
    let _gold = send(&core, "gold", 100);
    let cut = [&mut first, &mut second, &mut third].map(|one| told(one).is_some());
    assert_eq!(cut, [false, true, true]);
}

#[test]
fn nothing_is_cut_in_vain_or_unasked() {
    // Without leave.
    let off = core(false);
    let mut low = send(&off, "low", 20_000);
    let _gold = send(&off, "gold", 100);
    assert!(told(&mut low).is_none());
    // Where the guarantee is in time.
    let core = core(true);
    let mut low = send(&core, "low", 500);
    let _gold = send(&core, "gold", 100);
    assert!(told(&mut low).is_none());
    // Where it would be late all the same, behind others' work.
    let _other = send(&core, "other", 20_000);
    let _gold = send(&core, "gold", 200);
    assert!(told(&mut low).is_none());
}

#[test]
fn what_has_begun_to_answer_is_not_cut() {
    let core = core(true);
    let mut low = send(&core, "low", 20_000);
    let response = HttpHeaders {
        headers: Some(headers(&[(":status", "200")])),
        end_of_stream: false,
    };
    low.on_message(message(Request::ResponseHeaders(response)), 500);
    let _gold = send(&core, "gold", 100);
    assert!(told(&mut low).is_none());
}
