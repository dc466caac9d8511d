//! Bodies that arrive strangely: with trailers, in parts while they wait, larger than is taken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::headers;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use weighbridge_decide::{Accounts, Core, Refusal};
use weighbridge_stream::wire::{
    BodySendMode, CommonResponse, HttpBody, HttpHeaders, HttpTrailers, ImmediateResponse,
    ProcessingRequest, ProcessingResponse, ProtocolConfiguration, Request, Response,
};
use weighbridge_stream::{Limits, Stream};

const DUPLEX: BodySendMode = BodySendMode::FullDuplexStreamed;
const LIMITS: Limits = Limits {
    duplex_bytes: 64 << 10,
    streamed_bytes: 16 << 10,
};

/// One request of a client, as Envoy sends it.
struct Client {
    core: Arc<Core>,
    stream: Stream,
}

impl Client {
    fn new(core: &Arc<Core>, mode: BodySendMode, more: &[(&str, &str)]) -> Self {
        let mut stream = Stream::new(Arc::clone(core), LIMITS);
        let mut pairs = vec![
            (":method", "POST"),
            (":path", "/v1/chat/completions"),
            ("x-request-id", "r-1"),
        ];
        pairs.extend_from_slice(more);
        let head = ProcessingRequest {
            request: Some(Request::RequestHeaders(HttpHeaders {
                headers: Some(headers(&pairs)),
                end_of_stream: false,
            })),
            protocol_config: Some(ProtocolConfiguration {
                request_body_mode: mode.into(),
                send_body_without_waiting_for_header_response: mode == BodySendMode::Streamed,
                ..ProtocolConfiguration::default()
            }),
            ..ProcessingRequest::default()
        };
        stream.on_message(head, core.now_us());
        Self {
            core: Arc::clone(core),
            stream,
        }
    }

    fn send(&mut self, request: Request) -> Vec<ProcessingResponse> {
        let message = ProcessingRequest {
            request: Some(request),
            ..ProcessingRequest::default()
        };
        self.stream.on_message(message, self.core.now_us())
    }

    fn body(&mut self, body: &[u8], end_of_stream: bool) -> Vec<ProcessingResponse> {
        self.send(Request::RequestBody(HttpBody {
            body: Bytes::copy_from_slice(body),
            end_of_stream,
        }))
    }

    fn trailers(&mut self) -> Vec<ProcessingResponse> {
        self.send(Request::RequestTrailers(HttpTrailers { trailers: None }))
    }

    fn resume(&mut self) -> Poll<Vec<ProcessingResponse>> {
        let now_us = self.core.now_us();
        let mut context = Context::from_waker(Waker::noop());
        self.stream.poll_resume(&mut context, now_us)
    }
}

fn core() -> Arc<Core> {
    common::core(&serde_json::json!({}))
}

/// A core with room for one request at a time, and for this many bytes of bodies.
fn narrow(held_body_bytes: usize) -> Arc<Core> {
    common::core(&serde_json::json!({
        "held_body_bytes": held_body_bytes,
        "admission": {"queue": {"window_ms": 1.0, "max_wait_ms": 60_000, "queue_requests": 100,
            "queue_window_ms": 1e9}},
    }))
}

fn chat(bytes: usize) -> Vec<u8> {
    let mut text = serde_json::json!({
        "model": "m", "max_tokens": 100,
        "messages": [{"role": "user", "content": "word ".repeat(200)}],
    })
    .to_string()
    .into_bytes();
    let length = bytes.max(text.len());
    text.resize(length, b' ');
    text
}

fn echoed(replies: &[ProcessingResponse]) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let mut ended = false;
    for reply in replies {
        if let Some(Response::RequestBody(answer)) = &reply.response {
            let common = answer.response.as_ref().unwrap();
            let mutation = common.body_mutation.as_ref().unwrap();
            let chunk = mutation.streamed_response.as_ref().unwrap();
            bytes.extend_from_slice(&chunk.body);
            ended |= chunk.end_of_stream;
        }
    }
    (bytes, ended)
}

fn refusal(replies: &[ProcessingResponse]) -> &ImmediateResponse {
    match replies {
        [
            ProcessingResponse {
                response: Some(Response::Immediate(immediate)),
                ..
            },
        ] => immediate,
        other => panic!("not refused: {other:?}"),
    }
}

fn code(replies: &[ProcessingResponse]) -> (i32, String) {
    let refused = refusal(replies);
    let body: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
    let code = body["error"]["code"].as_str().unwrap().to_owned();
    (refused.status.unwrap().code, code)
}

#[test]
fn a_body_that_ends_with_trailers_is_given_back_whole_and_once() {
    for observes in [false, true] {
        let core = core();
        core.set_observe_only(observes);
        let mut client = Client::new(&core, DUPLEX, &[]);
        let body = chat(30_000);
        assert!(client.body(&body[..20_000], false).is_empty());
        assert!(client.body(&body[20_000..], false).is_empty());
        let replies = client.trailers();
        let [
            ProcessingResponse {
                response: Some(Response::RequestHeaders(answer)),
                ..
            },
        ] = &replies[..]
        else {
            panic!("one answer holds everything: {replies:?}");
        };
        let common = answer.response.as_ref().unwrap();
        assert_eq!(common.status, CommonResponse::CONTINUE_AND_REPLACE);
        let mutation = common.body_mutation.as_ref().unwrap();
        assert_eq!(mutation.body.as_ref().unwrap(), &Bytes::from(body));
        assert_eq!(common.header_mutation.is_some(), !observes);
    }
}

#[test]
fn trailers_after_a_body_that_was_passed_on_are_refused_before_envoy_repeats_it() {
    let core = core();
    let mut client = Client::new(&core, DUPLEX, &[]);
    let replies = client.body(&chat(LIMITS.duplex_bytes), false);
    assert_eq!(echoed(&replies), (chat(LIMITS.duplex_bytes), false));
    let (status, code) = code(&client.trailers());
    assert_eq!((status, code.as_str()), (400, "trailers_after_long_body"));
    assert_eq!(core.accounts(), Accounts::default());
}

#[test]
fn trailers_after_a_whole_body_are_answered_in_the_other_modes() {
    for mode in [BodySendMode::Buffered, BodySendMode::BufferedPartial] {
        let mut client = Client::new(&core(), mode, &[]);
        assert_eq!(client.body(&chat(0), false).len(), 1);
        let replies = client.trailers();
        assert!(matches!(
            replies[..],
            [ProcessingResponse {
                response: Some(Response::RequestTrailers(_)),
                ..
            }]
        ));
    }
}

#[test]
fn a_streamed_body_ends_with_its_length_since_trailers_would_not_be_told() {
    let body = chat(0);
    let length = body.len().to_string();
    let mut client = Client::new(
        &core(),
        BodySendMode::Streamed,
        &[("content-length", &length)],
    );
    let replies = client.body(&body, false);
    assert_eq!(replies.len(), 2, "headers and body: {replies:?}");
}

#[test]
fn a_request_that_waits_keeps_nothing_of_a_body_that_envoy_has() {
    let core = narrow(4 << 20);
    let mut first = Client::new(&core, BodySendMode::Buffered, &[]);
    first.body(&chat(0), true);
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let mut client = Client::new(&core, BodySendMode::Buffered, &[]);
        client.body(&chat(1 << 20), true);
        assert!(client.stream.is_waiting());
        waiting.push(client);
    }
    assert_eq!(core.memory().held(), 0);
    drop(first);
    core.advance(core.now_us());
    assert!(waiting.iter_mut().any(|client| client.resume().is_ready()));
}

#[test]
fn a_long_body_goes_on_coming_while_its_request_waits() {
    let core = narrow(4 << 20);
    let mut first = Client::new(&core, DUPLEX, &[]);
    first.body(&chat(200_000), true);
    let body = chat(200_000);
    for trailers in [false, true] {
        let mut client = Client::new(&core, DUPLEX, &[]);
        for (at, piece) in body.chunks(40_000).enumerate() {
            client.body(piece, !trailers && at == 4);
        }
        assert!(client.stream.is_waiting());
        assert_eq!(core.memory().held(), body.len());
        if trailers {
            assert!(client.trailers().is_empty(), "answered with the rest");
        }
        first.stream.close(core.now_us());
        core.advance(core.now_us());
        let Poll::Ready(replies) = client.resume() else {
            panic!("the first has left");
        };
        if trailers {
            let Some(Response::RequestHeaders(answer)) = &replies[0].response else {
                panic!("{replies:?}");
            };
            let mutation = answer.response.clone().unwrap().body_mutation.unwrap();
            assert_eq!(
                (replies.len(), mutation.body.unwrap().len()),
                (1, body.len())
            );
        } else {
            assert_eq!(echoed(&replies), (body.clone(), true));
        }
        assert_eq!(core.memory().held(), 0);
        first = client;
    }
}

#[test]
fn beyond_the_memory_for_bodies_a_request_is_refused_and_nothing_stays_held() {
    let core = narrow(200_100);
    let mut slow: Vec<_> = (0..1000).map(|_| Client::new(&core, DUPLEX, &[])).collect();
    for client in &mut slow {
        assert!(client.body(&chat(5_000), false).is_empty());
        assert!(core.memory().held() <= 200_100);
    }
    let mut refused = 0;
    for client in slow.iter_mut().rev() {
        let replies = client.body(b" ", true);
        if matches!(replies[0].response, Some(Response::Immediate(_))) {
            let (status, code) = code(&replies);
            assert_eq!((status, code.as_str()), (503, "busy_with_bodies"));
            let headers = refusal(&replies).headers.as_ref().unwrap();
            let names = headers
                .set_headers
                .iter()
                .filter_map(|one| one.header.as_ref());
            assert!(
                names
                    .into_iter()
                    .any(|one| one.key.as_ref() == b"retry-after")
            );
            refused += 1;
        }
        assert!(core.memory().held() <= 200_100);
    }
    assert_eq!(refused, 960);
    drop(slow);
    assert_eq!(core.memory().held(), 0);
    let mut client = Client::new(&core, DUPLEX, &[]);
    assert!(client.body(&chat(0), true).len() > 1);
}

#[test]
fn a_body_that_cannot_be_taken_is_refused_and_never_let_past() {
    let refused = Refusal::body_too_large(1000);
    for mode in [BodySendMode::Buffered, DUPLEX] {
        let core = core();
        let mut client = Client::new(&core, mode, &[]);
        let replies = client.stream.refuse_body(&refused, core.now_us());
        assert_eq!(code(&replies), (413, "body_too_large".to_owned()));
        assert!(client.body(b"x", true).is_empty(), "all is said");
        // Before its head nothing is known of a request.
        let mut stream = Stream::new(Arc::clone(&core), LIMITS);
        assert!(stream.refuse_body(&refused, core.now_us()).is_empty());
        assert_eq!(core.accounts(), Accounts::default());
    }
}

#[test]
fn large_and_compressed_bodies_are_read_beside_the_others() {
    let message = |bytes: usize| ProcessingRequest {
        request: Some(Request::RequestBody(HttpBody {
            body: Bytes::from(vec![b' '; bytes]),
            end_of_stream: true,
        })),
        ..ProcessingRequest::default()
    };
    let plain = Client::new(&core(), BodySendMode::Buffered, &[]);
    assert!(!plain.stream.is_heavy(&message(200 << 10)));
    assert!(plain.stream.is_heavy(&message(300 << 10)));
    let packed = [("content-encoding", "br")];
    let packed = Client::new(&core(), BodySendMode::Buffered, &packed);
    assert!(packed.stream.is_heavy(&message(278)));
}

#[test]
fn a_refusal_waits_until_the_client_has_sent_its_long_body() {
    let core = core();
    let mut client = Client::new(&core, DUPLEX, &[]);
    let mut body = chat(LIMITS.duplex_bytes);
    body[..12].copy_from_slice(br#"{"model":"? "#);
    assert!(client.body(&body, false).is_empty());
    for _ in 0..100 {
        assert!(client.body(&body, false).is_empty());
        assert_eq!(core.memory().held(), 0);
    }
    assert_eq!(refusal(&client.body(b" ", true)).status.unwrap().code, 400);
    let mut endless = Client::new(&core, DUPLEX, &[]);
    let piece = vec![b'{'; 1 << 20];
    let replies: Vec<_> = (0..80).flat_map(|_| endless.body(&piece, false)).collect();
    assert_eq!(refusal(&replies).status.unwrap().code, 400);
}
