//! Any sequence of messages in any body mode: answered in order, and nothing stays charged.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use std::task::{Context, Waker};
use weighbridge_decide::Refusal;
use weighbridge_fuzz::{check_accounts, core};
use weighbridge_stream::wire::{
    HeaderMap, HeaderValue, HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest,
    ProtocolConfiguration, Request, Response,
};
use weighbridge_stream::{Limits, Stream};

#[derive(Arbitrary, Debug)]
struct Life {
    request_body_mode: u8,
    response_body_mode: u8,
    body_first: bool,
    observed: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    RequestHeaders { path: u8, known: u8, length: Option<u32>, other: Vec<(u8, String)>, end: bool },
    Chat { end: bool, turns: u8 },
    RequestBody { bytes: Vec<u8>, end: bool },
    RequestTrailers,
    ResponseHeaders { status: u16, end: bool },
    ResponseBody { bytes: Vec<u8>, end: bool },
    ResponseTrailers,
    /// Admission is asked for its answer.
    Resume,
    /// The transport cannot take a body.
    RefuseBody,
    Empty,
}

const PATHS: [&str; 8] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/models",
    "/",
    "",
];
const NAMES: [&str; 10] = [
    "content-encoding",
    "x-session-id",
    "x-conversation-id",
    "x-tenant-id",
    "x-request-id",
    "x-gateway-destination-endpoint",
    "content-type",
    ":method",
    ":path",
    "grpc-timeout",
];

fn header(name: &str, value: &str) -> HeaderValue {
    HeaderValue {
        key: Bytes::copy_from_slice(name.as_bytes()),
        value: Bytes::new(),
        raw_value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

impl Step {
    fn message(self) -> Option<Request> {
        Some(match self {
            Self::RequestHeaders { path, known, length, other, end } => {
                let mut headers = Vec::new();
                if known & 1 == 0 {
                    headers.push(header(":method", "POST"));
                }
                headers.push(header(":path", PATHS[usize::from(path) % PATHS.len()]));
                if known & 2 == 0 {
                    headers.push(header("content-type", "application/json"));
                }
                if let Some(length) = length {
                    headers.push(header("content-length", &length.to_string()));
                }
                for (name, value) in other {
                    headers.push(header(NAMES[usize::from(name) % NAMES.len()], &value));
                }
                Request::RequestHeaders(HttpHeaders {
                    headers: Some(HeaderMap { headers }),
                    end_of_stream: end,
                })
            }
            Self::Chat { end, turns } => {
                let turn = r#"{"role":"user","content":"Hello \u4f60 and so on"}"#;
                let turns = vec![turn; usize::from(turns) + 1].join(",");
                let text = format!(r#"{{"model":"m","messages":[{turns}]}}"#);
                Request::RequestBody(HttpBody { body: text.into(), end_of_stream: end })
            }
            Self::RequestBody { bytes, end } => {
                Request::RequestBody(HttpBody { body: bytes.into(), end_of_stream: end })
            }
            Self::RequestTrailers => Request::RequestTrailers(HttpTrailers { trailers: None }),
            Self::ResponseHeaders { status, end } => Request::ResponseHeaders(HttpHeaders {
                headers: Some(HeaderMap { headers: vec![header(":status", &status.to_string())] }),
                end_of_stream: end,
            }),
            Self::ResponseBody { bytes, end } => {
                Request::ResponseBody(HttpBody { body: bytes.into(), end_of_stream: end })
            }
            Self::ResponseTrailers => Request::ResponseTrailers(HttpTrailers { trailers: None }),
            Self::Resume | Self::RefuseBody | Self::Empty => return None,
        })
    }
}

fuzz_target!(|life: Life| {
    let limits = Limits { duplex_bytes: 4096, streamed_bytes: 1024 };
    let core = core();
    let mut stream = Stream::new(Arc::clone(&core), limits);
    let mut config = Some(ProtocolConfiguration {
        request_body_mode: i32::from(life.request_body_mode % 6),
        response_body_mode: i32::from(life.response_body_mode % 6),
        send_body_without_waiting_for_header_response: life.body_first,
    });
    let mut refused = false;
    for (at, step) in life.steps.into_iter().take(64).enumerate() {
        let now_us = at as u64 * 1000;
        match step {
            Step::Resume => {
                core.advance(now_us);
                drop(stream.poll_resume(&mut Context::from_waker(Waker::noop()), now_us));
                continue;
            }
            Step::RefuseBody => {
                let replies = stream.refuse_body(&Refusal::body_too_large(1), now_us);
                assert!(replies.len() <= 1);
                refused |= !replies.is_empty();
                continue;
            }
            _ => {}
        }
        let message = ProcessingRequest {
            request: step.message(),
            metadata_context: None,
            observability_mode: life.observed,
            protocol_config: config.take(),
            ..ProcessingRequest::default()
        };
        let heavy = stream.is_heavy(&message);
        let replies = stream.on_message(message, now_us);
        assert!(!heavy || !life.observed, "copies are read at once");
        assert!(!life.observed || replies.is_empty(), "observed streams are not answered");
        for reply in replies {
            assert!(!refused || !matches!(reply.response, Some(Response::Immediate(_))));
            refused |= matches!(reply.response, Some(Response::Immediate(_)));
        }
    }
    drop(stream);
    check_accounts(&core);
});
