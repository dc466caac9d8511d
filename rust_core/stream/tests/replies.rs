//! Replies whose bodies come over the stream that routes their request, as endpoint pickers get them:
//! they pass unchanged, and are billed by what they say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::{core, headers};
use serde_json::json;
use std::io::Write;
use std::sync::Arc;
use weighbridge_decide::{Accounts, Core, UsageRecord, UsageSource};
use weighbridge_stream::wire::{
    BodySendMode, HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration, Request, Response,
};
use weighbridge_stream::{Limits, Stream};

const DUPLEX: BodySendMode = BodySendMode::FullDuplexStreamed;
const IN_LINE: [BodySendMode; 4] = [
    DUPLEX,
    BodySendMode::Streamed,
    BodySendMode::Buffered,
    BodySendMode::BufferedPartial,
];
const MS: u64 = 1000;

/// A request on its replica, as a gateway tells of it.
struct Exchange {
    core: Arc<Core>,
    stream: Stream,
    mode: BodySendMode,
}

impl Exchange {
    /// A chat request that is placed at 0 ms; of replies this is sent.
    fn begin(core: &Arc<Core>, mode: BodySendMode, streamed: bool) -> Self {
        let mut exchange = Self {
            core: Arc::clone(core),
            stream: Stream::new(Arc::clone(core), Limits::default()),
            mode,
        };
        exchange.request(streamed);
        exchange
    }

    fn request(&mut self, streamed: bool) {
        let head = HttpHeaders {
            headers: Some(headers(&[
                (":method", "POST"),
                (":path", "/v1/chat/completions"),
                ("content-type", "application/json"),
                ("x-request-id", "of the gateway"),
            ])),
            end_of_stream: false,
        };
        let head = ProcessingRequest {
            request: Some(Request::RequestHeaders(head)),
            protocol_config: Some(ProtocolConfiguration {
                request_body_mode: DUPLEX.into(),
                response_body_mode: self.mode.into(),
                ..ProtocolConfiguration::default()
            }),
            ..ProcessingRequest::default()
        };
        self.stream.on_message(head, 0);
        let body = json!({
            "model": "m", "max_tokens": 100, "stream": streamed,
            "messages": [{"role": "user", "content": "how heavy is it?"}],
        });
        let placed = self.send(
            Request::RequestBody(HttpBody {
                body: Bytes::from(body.to_string()),
                end_of_stream: true,
            }),
            0,
        );
        assert!(placed.len() > 1, "{placed:?}");
    }

    fn send(&mut self, request: Request, at_ms: u64) -> Vec<ProcessingResponse> {
        let message = ProcessingRequest {
            request: Some(request),
            ..ProcessingRequest::default()
        };
        self.stream.on_message(message, at_ms * MS)
    }

    fn answer(&mut self, more: &[(&str, &str)], at_ms: u64) {
        let replies = self.send(
            Request::ResponseHeaders(HttpHeaders {
                headers: Some(headers(more)),
                end_of_stream: false,
            }),
            at_ms,
        );
        assert!(matches!(
            replies[..],
            [ProcessingResponse {
                response: Some(Response::ResponseHeaders(_)),
                ..
            }]
        ));
    }

    /// A piece of the reply comes, and goes on as it is.
    fn body(&mut self, piece: &[u8], end_of_stream: bool, at_ms: u64) {
        let message = Request::ResponseBody(HttpBody {
            body: Bytes::copy_from_slice(piece),
            end_of_stream,
        });
        let replies = self.send(message, at_ms);
        if self.mode == DUPLEX {
            assert_eq!(passed_on(&replies), (piece.to_vec(), end_of_stream));
            return;
        }
        let [
            ProcessingResponse {
                response: Some(Response::ResponseBody(answer)),
                ..
            },
        ] = &replies[..]
        else {
            panic!("{replies:?}");
        };
        assert_eq!(answer.response, None, "unchanged");
    }

    /// Its bill, once it has ended.
    fn end(mut self, at_ms: u64) -> UsageRecord {
        self.stream.close(at_ms * MS);
        drop(self.stream);
        assert_eq!(self.core.accounts(), Accounts::default(), "all given back");
        let [record] = <[UsageRecord; 1]>::try_from(self.core.take_usage(9)).unwrap();
        record
    }
}

fn passed_on(replies: &[ProcessingResponse]) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let mut ended = false;
    for reply in replies {
        let Some(Response::ResponseBody(answer)) = &reply.response else {
            panic!("{reply:?}");
        };
        let mutation = answer.response.as_ref().unwrap().body_mutation.as_ref();
        let chunk = mutation.unwrap().streamed_response.as_ref().unwrap();
        assert!(!ended, "nothing follows the end");
        bytes.extend_from_slice(&chunk.body);
        ended = chunk.end_of_stream;
    }
    (bytes, ended)
}

fn billing() -> Arc<Core> {
    core(&json!({"usage_records": 9}))
}

const JSON: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/json")];
const EVENTS: [(&str, &str); 2] = [(":status", "200"), ("content-type", "text/event-stream")];

fn whole() -> Vec<u8> {
    let reply = json!({
        "choices": [{"message": {"role": "assistant", "content": "1,500 kg"}}],
        "usage": {
            "prompt_tokens": 13, "completion_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 4}
        }
    });
    reply.to_string().into_bytes()
}

fn event(text: &str) -> Vec<u8> {
    let event = json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    format!("data: {event}\n\n").into_bytes()
}

fn usage_event() -> Vec<u8> {
    let event = json!({
        "choices": [], "usage": {"prompt_tokens": 13, "completion_tokens": 6}
    });
    format!("data: {event}\n\ndata: [DONE]\n\n").into_bytes()
}

fn tokens(record: &UsageRecord) -> (UsageSource, u64, u64) {
    (record.source, record.prompt_tokens, record.output_tokens)
}

#[test]
fn a_reply_is_billed_by_its_usage_in_every_mode_that_sends_it() {
    for mode in IN_LINE {
        let mut one = Exchange::begin(&billing(), mode, false);
        one.answer(&JSON, 40);
        let reply = whole();
        one.body(&reply[..50], false, 41);
        one.body(&reply[50..], true, 42);
        let record = one.end(43);
        assert_eq!(tokens(&record), (UsageSource::Usage, 13, 6), "{mode:?}");
        assert_eq!((record.cached_tokens, record.status), (4, 200));
        assert_eq!(record.duration_ms, 43.0);
    }
}

#[test]
fn a_streamed_reply_is_billed_by_its_usage_and_its_first_token_is_seen() {
    for mode in [DUPLEX, BodySendMode::Streamed] {
        let core = billing();
        let mut one = Exchange::begin(&core, mode, true);
        one.answer(&EVENTS, 5);
        // Its headers came before its prompt was computed.
        let prefill = || {
            let pool = core.pool();
            let replica = pool.replicas().next().unwrap().load.own();
            replica.prefill.as_mu()
        };
        assert!(prefill() > 0.0);
        one.body(&event("1,500"), false, 70);
        assert_eq!(prefill(), 0.0, "the first token is out");
        one.body(&event(" kg"), false, 90);
        // An event is cut in two.
        let last = usage_event();
        one.body(&last[..20], false, 100);
        one.body(&last[20..], false, 100);
        one.body(b"", true, 101);
        let record = one.end(101);
        assert_eq!(tokens(&record), (UsageSource::Usage, 13, 6), "{mode:?}");
        assert_eq!(record.first_token_ms, Some(70.0));
    }
}

#[test]
fn compressed_replies_are_read_and_pass_compressed() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&whole()).unwrap();
    let packed = gzip.finish().unwrap();
    for mode in IN_LINE {
        let mut one = Exchange::begin(&billing(), mode, false);
        let coding = [JSON[0], JSON[1], ("content-encoding", "gzip")];
        one.answer(&coding, 40);
        for piece in packed.chunks(30) {
            one.body(piece, false, 41);
        }
        one.body(b"", true, 42);
        let record = one.end(43);
        assert_eq!(tokens(&record), (UsageSource::Usage, 13, 6), "{mode:?}");
    }
}

#[test]
fn a_reply_that_ends_with_trailers_is_billed_as_well() {
    let mut one = Exchange::begin(&billing(), DUPLEX, true);
    one.answer(&EVENTS, 5);
    one.body(&event("1,500 kg"), false, 70);
    one.body(&usage_event(), false, 80);
    let trailers = Request::ResponseTrailers(HttpTrailers { trailers: None });
    let replies = one.send(trailers, 81);
    assert!(matches!(
        replies[..],
        [ProcessingResponse {
            response: Some(Response::ResponseTrailers(_)),
            ..
        }]
    ));
    assert_eq!(tokens(&one.end(82)), (UsageSource::Usage, 13, 6));
}

#[test]
fn of_a_reply_that_breaks_off_what_was_seen_is_billed() {
    for told in [true, false] {
        let mut one = Exchange::begin(&billing(), DUPLEX, true);
        one.answer(&EVENTS, 5);
        for at in 0..7 {
            one.body(&event("kg"), false, 70 + at);
        }
        if told {
            let record = one.end(200);
            let (source, _, output) = tokens(&record);
            assert_eq!((source, output), (UsageSource::Observed, 7));
            assert_eq!(record.first_token_ms, Some(70.0));
        } else {
            // The gateway is gone without a word.
            let core = Arc::clone(&one.core);
            drop(one);
            assert_eq!(core.accounts(), Accounts::default());
            assert_eq!(core.take_usage(9)[0].output_tokens, 7);
        }
    }
}

#[test]
fn a_request_that_ends_unanswered_owes_no_output() {
    let one = Exchange::begin(&billing(), DUPLEX, true);
    let record = one.end(30);
    let (source, _, output) = tokens(&record);
    assert_eq!(
        (source, output, record.status),
        (UsageSource::Estimate, 0, 0)
    );
}

#[test]
fn a_refusal_of_the_engine_costs_nothing() {
    let mut one = Exchange::begin(&billing(), DUPLEX, false);
    one.answer(&[(":status", "400"), JSON[1]], 3);
    one.body(br#"{"error": {"message": "no"}}"#, true, 3);
    let record = one.end(4);
    assert_eq!((record.mu, record.status), (0.0, 400));
}

#[test]
fn two_requests_on_one_stream_are_billed_apart() {
    let core = billing();
    let mut one = Exchange::begin(&core, DUPLEX, false);
    one.answer(&JSON, 3);
    one.body(&whole(), true, 4);
    one.request(true);
    one.answer(&EVENTS, 5);
    one.body(&event("kg"), true, 6);
    one.stream.close(7 * MS);
    let records = core.take_usage(9);
    let billed: Vec<_> = records.iter().map(tokens).collect();
    let prompt = records[1].prompt_tokens;
    assert_eq!(
        billed,
        [
            (UsageSource::Usage, 13, 6),
            (UsageSource::Observed, prompt, 1)
        ]
    );
}

#[test]
fn where_a_second_filter_copies_the_reply_too_it_counts_once() {
    let core = billing();
    let mut one = Exchange::begin(&core, DUPLEX, false);
    let mut copies = Stream::new(Arc::clone(&core), Limits::default());
    let copy = |request| ProcessingRequest {
        request: Some(request),
        observability_mode: true,
        ..ProcessingRequest::default()
    };
    let head = Request::RequestHeaders(HttpHeaders {
        headers: Some(headers(&[("x-request-id", "of the gateway")])),
        end_of_stream: false,
    });
    copies.on_message(copy(head), 0);
    assert!(copies.is_over(), "it has nothing to tell");
    one.answer(&JSON, 3);
    one.body(&whole(), true, 4);
    assert_eq!(tokens(&one.end(5)), (UsageSource::Usage, 13, 6));
}

#[test]
fn in_observe_only_mode_replies_are_read_as_well() {
    let core = billing();
    core.set_observe_only(true);
    let mut one = Exchange::begin(&core, DUPLEX, false);
    one.answer(&JSON, 3);
    one.body(&whole(), true, 4);
    assert_eq!(tokens(&one.end(5)), (UsageSource::Usage, 13, 6));
}

#[test]
fn where_no_bodies_of_replies_come_the_estimate_stands() {
    let mut one = Exchange::begin(&billing(), BodySendMode::None, false);
    one.answer(&JSON, 3);
    assert_eq!(one.end(5).source, UsageSource::Estimate);
}
