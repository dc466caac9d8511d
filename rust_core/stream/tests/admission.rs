//! Waiting for admission, refusals with where a tenant stands, and replies observed by a second
//! stream: what a tenant is billed in the end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::{headers, message, poll};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;
use weighbridge_decide::{Core, Status, UsageRecord, UsageSource};
use weighbridge_stream::wire::{
    HeaderValue, HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse, Request, Response,
};
use weighbridge_stream::{Limits, Stream};

/// A core whose one replica is full with a single request.
fn core(admission: &serde_json::Value) -> Arc<Core> {
    common::core(&serde_json::json!({"admission": admission, "usage_records": 100}))
}

fn narrow() -> serde_json::Value {
    serde_json::json!({
        "queue": {"window_ms": 10.0, "max_wait_ms": 5_000, "queue_requests": 2},
        "tenants": {"gold": {"guaranteed_mu_per_min": 60000.0}},
    })
}

/// Sends a request; the replies to its body.
fn send(
    core: &Arc<Core>,
    id: &str,
    tenant: &str,
    now_us: u64,
) -> (Stream, Vec<ProcessingResponse>) {
    let text = "word ".repeat(200);
    let body = serde_json::json!({
        "model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": text}],
    });
    common::chat(core, id, tenant, &body, now_us)
}

fn respond(stream: &mut Stream, status: &str, now_us: u64) {
    let response = HttpHeaders {
        headers: Some(headers(&[(":status", status)])),
        end_of_stream: false,
    };
    stream.on_message(message(Request::ResponseHeaders(response)), now_us);
}

/// A stream that observes the reply to the request of this id.
fn observer(core: &Arc<Core>, id: &str) -> Stream {
    let mut stream = Stream::new(Arc::clone(core), Limits::default());
    let request = HttpHeaders {
        headers: Some(headers(&[("x-request-id", id)])),
        end_of_stream: false,
    };
    copy(&mut stream, Request::RequestHeaders(request), 0);
    stream
}

fn copy(stream: &mut Stream, request: Request, now_us: u64) {
    let copy = ProcessingRequest {
        observability_mode: true,
        ..message(request)
    };
    assert!(stream.on_message(copy, now_us).is_empty());
}

fn copy_reply(stream: &mut Stream, body: &str) {
    copy_reply_at(stream, 0, body);
}

/// The headers come at once, the body at `now_us`.
fn copy_reply_at(stream: &mut Stream, now_us: u64, body: &str) {
    let response = HttpHeaders {
        headers: Some(headers(&[
            (":status", "200"),
            ("content-type", "application/json"),
        ])),
        end_of_stream: false,
    };
    copy(stream, Request::ResponseHeaders(response), 0);
    for piece in body.as_bytes().chunks(7) {
        let body = HttpBody {
            body: Bytes::copy_from_slice(piece),
            end_of_stream: false,
        };
        copy(stream, Request::ResponseBody(body), now_us);
    }
}

fn is_choice(replies: &[ProcessingResponse]) -> bool {
    matches!(
        replies,
        [ProcessingResponse { response: Some(Response::RequestBody(answer)), .. }]
            if answer.response.is_some()
    )
}

fn usage(core: &Core) -> UsageRecord {
    let [record] = <[UsageRecord; 1]>::try_from(core.take_usage(9)).unwrap();
    record
}

#[test]
fn a_request_waits_with_more_time_asked_for_and_is_placed_when_there_is_room() {
    let core = core(&narrow());
    let (first, replies) = send(&core, "1", "", 0);
    assert!(is_choice(&replies) && !first.is_waiting());
    let (mut second, replies) = send(&core, "2", "", 0);
    assert!(second.is_waiting());
    let [
        ProcessingResponse {
            response: None,
            override_message_timeout: Some(more),
            ..
        },
    ] = replies.as_slice()
    else {
        panic!("more time is asked for: {replies:?}");
    };
    assert_eq!(more.seconds, 6);
    let woken = Arc::default();
    assert!(poll(&mut second, &woken, 1_000).is_pending());
    drop(first);
    assert_eq!(woken.0.load(SeqCst), 1);
    let Poll::Ready(replies) = poll(&mut second, &woken, 2_000) else {
        panic!("its turn has come");
    };
    assert!(is_choice(&replies) && !second.is_waiting());
}

#[test]
fn a_promise_runs_at_once_while_others_wait() {
    let core = core(&narrow());
    let (_first, _) = send(&core, "1", "", 0);
    let (other, _) = send(&core, "2", "", 0);
    let (gold, replies) = send(&core, "3", "gold", 0);
    assert!(other.is_waiting() && !gold.is_waiting());
    assert!(is_choice(&replies));
}

#[test]
fn what_does_not_fit_is_refused_with_where_the_tenant_stands() {
    let core = core(&narrow());
    let _held: Vec<_> = (0..3)
        .map(|at| send(&core, &at.to_string(), "t", 0))
        .collect();
    let (_, replies) = send(&core, "4", "t", 0);
    let [
        ProcessingResponse {
            response: Some(Response::Immediate(refusal)),
            ..
        },
    ] = replies.as_slice()
    else {
        panic!("refused: {replies:?}");
    };
    assert_eq!(refusal.status.unwrap().code, 429);
    let set = &refusal.headers.as_ref().unwrap().set_headers;
    let value = |name: &str| {
        let found = set.iter().filter_map(|option| option.header.as_ref());
        let found = found.filter(|header| header.key == name.as_bytes());
        found
            .filter_map(HeaderValue::text)
            .next()
            .unwrap()
            .to_owned()
    };
    assert!(value("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(value("x-ratelimit-limit"), "60000");
    assert_eq!(value("x-ratelimit-remaining"), "0");
    let error: serde_json::Value = serde_json::from_slice(&refusal.body).unwrap();
    assert_eq!(error["error"]["type"], "rate_limit_error");
    assert_eq!(error["error"]["code"], "queue_full");
}

#[test]
fn a_wait_ends_at_its_deadline_and_a_client_that_leaves_gives_up_its_place() {
    let core = core(&narrow());
    let (_first, _) = send(&core, "1", "", 0);
    let (mut second, _) = send(&core, "2", "", 0);
    let (third, _) = send(&core, "3", "", 0);
    drop(third);
    let waiting = Status::of(&core).admission["m"].waiting["standard"].requests;
    assert_eq!(waiting, 1);
    core.advance(u64::MAX / 2);
    let Poll::Ready(replies) = poll(&mut second, &Arc::default(), u64::MAX / 2) else {
        panic!("its deadline has come");
    };
    assert!(matches!(
        replies.as_slice(),
        [ProcessingResponse {
            response: Some(Response::Immediate(_)),
            ..
        }]
    ));
}

#[test]
fn an_observed_reply_is_billed_by_its_usage_whoever_ends_first() {
    for observer_first in [true, false] {
        let core = core(&serde_json::json!({}));
        let (mut stream, _) = send(&core, "id", "acme", 0);
        let mut copy = observer(&core, "id");
        respond(&mut stream, "200", 50_000);
        copy_reply_at(
            &mut copy,
            70_000,
            r#"{"choices":[{"message":{"content":"some forty tokens of text"}}],"usage":{"prompt_tokens":210,
               "completion_tokens":40,"prompt_tokens_details":{"cached_tokens":100}}}"#,
        );
        if observer_first {
            copy.close(90_000);
            assert!(core.take_usage(1).is_empty());
            stream.close(100_000);
        } else {
            stream.close(100_000);
            assert!(
                core.take_usage(1).is_empty(),
                "the reply is not read to its end"
            );
            copy.close(110_000);
        }
        let record = usage(&core);
        assert_eq!(record.source, UsageSource::Usage);
        assert_eq!((record.prompt_tokens, record.cached_tokens), (210, 100));
        assert_eq!(record.output_tokens, 40);
        assert!(
            (record.mu - (110.0 * 0.1 + 40.0)).abs() < 1e-6,
            "{record:?}"
        );
        // Not when the headers came.
        assert_eq!(record.first_token_ms, Some(70.0));
        let status = Status::of(&core);
        assert_eq!(status.admission["m"].running, 0);
        let tenant = &status.admission["m"].tenants[0];
        assert_eq!(tenant.tenant, "acme");
        assert!((tenant.billed_mu - record.mu).abs() < 1e-6);
        assert_eq!(status.tenants[0].took.output_tokens, 40);
    }
}

#[test]
fn a_reply_is_settled_at_its_last_byte_and_holds_nobody_up_until_then() {
    let core = core(&narrow());
    let (mut first, _) = send(&core, "1", "", 0);
    let mut copied = observer(&core, "1");
    let (mut second, _) = send(&core, "2", "", 0);
    respond(&mut first, "200", 0);
    drop(first);
    // What it took is not known yet, and yet the next one runs.
    assert!(poll(&mut second, &Arc::default(), 0).is_ready());
    assert!(core.take_usage(1).is_empty());
    copy_reply(
        &mut copied,
        r#"{"choices":[{"message":{"content":"some forty tokens of text"}}],
            "usage":{"prompt_tokens":210,"completion_tokens":40}}"#,
    );
    let last = HttpBody {
        body: Bytes::new(),
        end_of_stream: true,
    };
    copy(&mut copied, Request::ResponseBody(last), 0);
    assert_eq!(usage(&core).output_tokens, 40);
}

#[test]
fn what_replies_had_is_what_the_next_is_expected_to_have() {
    let core = core(&serde_json::json!({}));
    for round in 0..40u64 {
        let id = round.to_string();
        let (mut stream, _) = send(&core, &id, "", 0);
        let mut copy = observer(&core, &id);
        respond(&mut stream, "200", 0);
        copy_reply(
            &mut copy,
            r#"{"usage":{"prompt_tokens":200,"completion_tokens":7}}"#,
        );
        copy.close(0);
        stream.close(0);
    }
    let (_stream, _) = send(&core, "next", "", 0);
    let expected = core.log().after(40)[0].output_tokens;
    assert!(expected < 20, "{expected}");
}

#[test]
fn unobserved_replies_are_billed_by_estimate_and_refused_ones_nothing() {
    let core = core(&serde_json::json!({}));
    let (mut stream, _) = send(&core, "1", "", 0);
    respond(&mut stream, "200", 0);
    drop(stream);
    let record = usage(&core);
    assert_eq!(record.source, UsageSource::Estimate);
    assert!((record.mu - record.estimated_mu).abs() < 1e-6);
    let (mut stream, _) = send(&core, "2", "", 0);
    respond(&mut stream, "503", 0);
    drop(stream);
    let record = usage(&core);
    assert_eq!((record.status, record.mu), (503, 0.0));
}

#[test]
fn a_lie_beyond_reason_is_not_billed() {
    let core = core(&serde_json::json!({}));
    let (mut stream, _) = send(&core, "1", "", 0);
    let mut copy = observer(&core, "1");
    respond(&mut stream, "200", 0);
    copy_reply(
        &mut copy,
        r#"{"choices":[{"message":{"content":"hello"}}],
            "usage":{"prompt_tokens":9000000,"completion_tokens":9000000}}"#,
    );
    copy.close(0);
    stream.close(0);
    let record = usage(&core);
    assert!(record.prompt_tokens < 400, "{record:?}");
    assert_eq!(record.output_tokens, 1, "no more than its five bytes bear");
    assert_eq!(record.source, UsageSource::Observed);
}
