//! Replies are joined to requests by what the sidecar puts on them, never by what clients choose.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::{core, headers, message};
use std::sync::Arc;
use weighbridge_decide::{Core, UsageRecord};
use weighbridge_stream::wire::{
    HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse, Request, Response,
};
use weighbridge_stream::{Limits, Stream};

const JOIN: &str = "x-weighbridge-request";

fn head(more: &[(&str, &str)]) -> Request {
    let mut all = vec![
        (":method", "POST"),
        (":path", "/v1/chat/completions"),
        ("content-type", "application/json"),
    ];
    all.extend(more);
    Request::RequestHeaders(HttpHeaders {
        headers: Some(headers(&all)),
        end_of_stream: false,
    })
}

/// A request of `tenant` that is placed, with these headers besides.
fn place(core: &Arc<Core>, more: &[(&str, &str)]) -> (Stream, Vec<ProcessingResponse>) {
    let mut stream = Stream::new(Arc::clone(core), Limits::default());
    let mut replies = stream.on_message(message(head(more)), 0);
    let body = serde_json::json!({
        "model": "m", "max_tokens": 400, "messages": [{"role": "user", "content": "hello"}]
    });
    let body = Request::RequestBody(HttpBody {
        body: Bytes::from(body.to_string()),
        end_of_stream: true,
    });
    replies.extend(stream.on_message(message(body), 0));
    (stream, replies)
}

/// The value that an answer puts on the request.
fn join(replies: &[ProcessingResponse]) -> Option<String> {
    let mut found = replies.iter().filter_map(|reply| match &reply.response {
        Some(Response::RequestBody(answer) | Response::RequestHeaders(answer)) => {
            let set = &answer
                .response
                .as_ref()?
                .header_mutation
                .as_ref()?
                .set_headers;
            let header = set.iter().filter_map(|one| one.header.as_ref());
            let mut header = header.filter(|one| one.key == JOIN.as_bytes());
            header.next()?.text().map(str::to_owned)
        }
        _ => None,
    });
    found.next()
}

/// The stream that observes a request with these headers.
fn copy(core: &Arc<Core>, more: &[(&str, &str)]) -> Stream {
    let mut stream = Stream::new(Arc::clone(core), Limits::default());
    tell(&mut stream, head(more));
    stream
}

fn tell(stream: &mut Stream, request: Request) {
    let message = ProcessingRequest {
        observability_mode: true,
        ..message(request)
    };
    assert!(stream.on_message(message, 0).is_empty());
}

/// Its reply passes, and it ends.
fn reply(stream: &mut Stream, mut copy: Stream, tokens: usize) {
    let head = || {
        Request::ResponseHeaders(HttpHeaders {
            headers: Some(headers(&[
                (":status", "200"),
                ("content-type", "application/json"),
            ])),
            end_of_stream: false,
        })
    };
    stream.on_message(message(head()), 0);
    tell(&mut copy, head());
    let body = serde_json::json!({
        "choices": [{"message": {"content": "w ".repeat(tokens)}}],
        "usage": {"prompt_tokens": 12, "completion_tokens": tokens}
    });
    let body = Request::ResponseBody(HttpBody {
        body: Bytes::from(body.to_string()),
        end_of_stream: true,
    });
    tell(&mut copy, body);
    stream.close(0);
}

fn usage(core: &Core) -> UsageRecord {
    let [record] = <[UsageRecord; 1]>::try_from(core.take_usage(9)).unwrap();
    record
}

#[test]
fn two_tenants_with_one_request_id_are_each_billed_their_own() {
    let core = core(&serde_json::json!({"tenant_header": "x-tenant-id", "usage_records": 9}));
    let id = ("x-request-id", "retry-of-yesterday");
    let (mut a, replies) = place(&core, &[id, ("x-tenant-id", "a")]);
    let join_a = join(&replies).unwrap();
    let (mut b, replies) = place(&core, &[id, ("x-tenant-id", "b")]);
    let join_b = join(&replies).unwrap();
    assert_ne!(join_a, join_b);
    // B's reply comes first, and A's stream is observed last.
    let of_b = copy(&core, &[id, (JOIN, &join_b)]);
    let of_a = copy(&core, &[id, (JOIN, &join_a)]);
    reply(&mut b, of_b, 3);
    let record = usage(&core);
    assert_eq!((&*record.tenant, record.output_tokens), ("b", 3));
    reply(&mut a, of_a, 300);
    let record = usage(&core);
    assert_eq!((&*record.tenant, record.output_tokens), ("a", 300));
}

#[test]
fn what_a_client_puts_there_joins_nothing() {
    let core = core(&serde_json::json!({"tenant_header": "x-tenant-id", "usage_records": 9}));
    let (mut victim, replies) = place(
        &core,
        &[("x-tenant-id", "victim"), (JOIN, "0000000000000001")],
    );
    let known = join(&replies).unwrap();
    assert_ne!(known, "0000000000000001", "what it sent is replaced");
    for guess in ["0000000000000001", "1", "", "no number", "ffffffffffffffff"] {
        let thief = copy(&core, &[("x-request-id", ""), (JOIN, guess)]);
        assert!(thief.is_over(), "{guess}");
    }
    let own = copy(&core, &[(JOIN, &known)]);
    assert!(!own.is_over());
    assert!(
        copy(&core, &[(JOIN, &known)]).is_over(),
        "a reply is read once"
    );
    reply(&mut victim, own, 7);
    assert_eq!(usage(&core).output_tokens, 7);
}

#[test]
fn where_the_gateway_takes_it_off_the_request_id_serves_while_it_is_the_only_one() {
    let core = core(&serde_json::json!({"usage_records": 9}));
    let (mut one, _) = place(&core, &[("x-request-id", "one")]);
    let of_one = copy(&core, &[("x-request-id", "one")]);
    reply(&mut one, of_one, 5);
    assert_eq!(usage(&core).output_tokens, 5);
    let (mut first, _) = place(&core, &[("x-request-id", "same")]);
    let (second, _) = place(&core, &[("x-request-id", "same")]);
    let of_same = copy(&core, &[("x-request-id", "same")]);
    assert!(of_same.is_over(), "two have it");
    reply(&mut first, of_same, 5);
    assert_eq!(
        usage(&core).source,
        weighbridge_decide::UsageSource::Estimate
    );
    drop(second);
}

#[test]
fn of_a_request_id_that_a_client_chose_only_so_much_is_kept() {
    let core = core(&serde_json::json!({"usage_records": 9}));
    let long = "é".repeat(30_000);
    let (mut one, _) = place(&core, &[("x-request-id", &long)]);
    let of_one = copy(&core, &[("x-request-id", &long)]);
    reply(&mut one, of_one, 5);
    let record = usage(&core);
    assert_eq!(record.output_tokens, 5, "its reply is found all the same");
    assert_eq!(&*record.request_id, "é".repeat(64));
    let decided = core.log().after(0);
    assert!(decided.iter().all(|one| one.request_id.len() <= 128));
}

#[test]
fn nothing_is_put_on_requests_that_are_observed_only() {
    let core = core(&serde_json::json!({"usage_records": 9}));
    core.set_observe_only(true);
    let (mut one, replies) = place(&core, &[("x-request-id", "one")]);
    assert_eq!(join(&replies), None);
    let of_one = copy(&core, &[("x-request-id", "one")]);
    reply(&mut one, of_one, 5);
    assert_eq!(usage(&core).output_tokens, 5);
}
