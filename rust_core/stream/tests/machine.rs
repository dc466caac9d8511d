//! The state machine as Envoy meets it: messages in, replies out, the ledger after each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::headers;
use prost::Message;
use prost_types::{ListValue, Struct, Value, value::Kind};
use std::sync::Arc;
use weighbridge_decide::{Accounts, Core, Settings};
use weighbridge_stream::wire::{
    BodySendMode, CommonAnswer, HttpBody, HttpHeaders, HttpTrailers, ImmediateResponse, Metadata,
    ProcessingRequest, ProcessingResponse, ProtocolConfiguration, Request, Response,
};
use weighbridge_stream::{Limits, Stream};

const DESTINATION: &str = "x-gateway-destination-endpoint";

fn core() -> Arc<Core> {
    let settings: Settings = serde_json::from_value(serde_json::json!({
        "profiles": [{
            "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 100_000,
            "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192,
            "reference_batch": 32.0,
            "cost": {
                "prefill_per_tok": 0.1, "prefill_per_tok2_e6": 1.0,
                "decode_per_tok": 1.0, "decode_per_ktok_ctx": 0.1
            }
        }]
    }))
    .unwrap();
    let core = Core::new(settings).unwrap();
    core.set_replicas(
        serde_json::from_value(serde_json::json!([
            {"endpoint": "10.0.0.1:8000", "profile": "p"},
            {"endpoint": "10.0.0.2:8000", "profile": "p"},
            {"endpoint": "10.0.0.3:8000", "profile": "p"}
        ]))
        .unwrap(),
    )
    .unwrap();
    Arc::new(core)
}

/// A client's request as Envoy sends it.
struct Client {
    core: Arc<Core>,
    stream: Stream,
    mode: ProtocolConfiguration,
    metadata: Option<Metadata>,
}

impl Client {
    fn new(core: &Arc<Core>, mode: BodySendMode) -> Self {
        let limits = Limits {
            duplex_bytes: 1 << 20,
            streamed_bytes: 1 << 16,
        };
        Self {
            core: Arc::clone(core),
            stream: Stream::new(Arc::clone(core), limits),
            mode: ProtocolConfiguration {
                request_body_mode: mode.into(),
                ..ProtocolConfiguration::default()
            },
            metadata: None,
        }
    }

    fn send(&mut self, request: Request) -> Vec<ProcessingResponse> {
        let first = matches!(request, Request::RequestHeaders(_));
        let message = ProcessingRequest {
            request: Some(request),
            metadata_context: self.metadata.clone(),
            observability_mode: false,
            protocol_config: first.then_some(self.mode),
            ..ProcessingRequest::default()
        };
        let now = self.core.now_us();
        self.stream.on_message(message, now)
    }

    fn post(&mut self, more: &[(&str, &str)]) -> Vec<ProcessingResponse> {
        let mut pairs = vec![
            (":method", "POST"),
            (":path", "/v1/chat/completions"),
            ("content-type", "application/json"),
            ("x-request-id", "r-1"),
        ];
        pairs.extend_from_slice(more);
        self.send(Request::RequestHeaders(HttpHeaders {
            headers: Some(headers(&pairs)),
            end_of_stream: false,
        }))
    }

    fn body(&mut self, body: &[u8], end_of_stream: bool) -> Vec<ProcessingResponse> {
        self.send(Request::RequestBody(HttpBody {
            body: Bytes::copy_from_slice(body),
            end_of_stream,
        }))
    }

    fn in_flight(&self) -> (i64, f64, f64, i64) {
        self.core
            .pool()
            .replicas()
            .fold((0, 0.0, 0.0, 0), |sum, replica| {
                let own = replica.load.own();
                (
                    sum.0 + own.requests,
                    sum.1 + own.prefill.as_mu(),
                    sum.2 + own.decode.as_mu(),
                    sum.3 + own.kv_tokens,
                )
            })
    }
}

fn chat(text: &str) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({
        "model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": text}]
    }))
    .unwrap()
}

fn set_header(answer: &CommonAnswer) -> Option<String> {
    let mutation = answer.response.as_ref()?.header_mutation.as_ref()?;
    let header = mutation.set_headers.first()?.header.as_ref()?;
    assert_eq!(header.key.as_ref(), DESTINATION.as_bytes());
    Some(header.text().unwrap().to_owned())
}

fn metadata_of(reply: &ProcessingResponse) -> Option<String> {
    // As Envoy reads it.
    let written = reply.dynamic_metadata.as_ref()?.encode_to_vec();
    let metadata = Struct::decode(written.as_slice()).unwrap();
    let namespace = metadata.fields.get("envoy.lb")?;
    let Some(Kind::StructValue(leaf)) = &namespace.kind else {
        return None;
    };
    match &leaf.fields.get(DESTINATION)?.kind {
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    }
}

fn immediate(replies: &[ProcessingResponse]) -> &ImmediateResponse {
    assert_eq!(replies.len(), 1);
    match &replies[0].response {
        Some(Response::Immediate(immediate)) => immediate,
        other => panic!("not refused: {other:?}"),
    }
}

fn status(immediate: &ImmediateResponse) -> i32 {
    immediate.status.unwrap().code
}

fn error(immediate: &ImmediateResponse) -> serde_json::Value {
    let value: serde_json::Value = serde_json::from_slice(&immediate.body).unwrap();
    let error = value["error"].clone();
    for key in ["message", "type", "param", "code"] {
        assert!(
            error.get(key).is_some(),
            "OpenAI's shape has {key}: {error}"
        );
    }
    error
}

#[test]
fn a_buffered_body_is_placed_and_charged_until_the_stream_ends() {
    for mode in [BodySendMode::Buffered, BodySendMode::BufferedPartial] {
        let core = core();
        let mut client = Client::new(&core, mode);
        let replies = client.post(&[]);
        assert_eq!(replies.len(), 1);
        assert!(matches!(
            replies[0].response,
            Some(Response::RequestHeaders(_))
        ));
        let replies = client.body(&chat("hello"), true);
        assert_eq!(replies.len(), 1);
        let Some(Response::RequestBody(answer)) = &replies[0].response else {
            panic!("the body's answer carries the choice: {replies:?}");
        };
        let chosen = set_header(answer).unwrap();
        assert_eq!(
            chosen.split(',').count(),
            3,
            "two fallbacks follow: {chosen}"
        );
        assert_eq!(metadata_of(&replies[0]), Some(chosen.clone()));
        let (requests, prefill, decode, kv) = client.in_flight();
        assert_eq!(requests, 1);
        assert!(prefill > 0.0 && decode > 0.0 && kv > 10);
        let replies = client.send(Request::ResponseHeaders(HttpHeaders {
            headers: Some(headers(&[(":status", "200")])),
            end_of_stream: false,
        }));
        assert!(matches!(
            replies[0].response,
            Some(Response::ResponseHeaders(_))
        ));
        let (requests, prefill, decode, _) = client.in_flight();
        assert_eq!((requests, prefill), (1, 0.0));
        assert!(decode > 0.0);
        client.stream = Stream::new(Arc::clone(&core), Limits::default());
        assert_eq!(client.in_flight(), (0, 0.0, 0.0, 0));
    }
}

#[test]
fn without_a_body_the_headers_answer_carries_the_choice() {
    for mode in [BodySendMode::None, BodySendMode::Streamed] {
        let core = core();
        let mut client = Client::new(&core, mode);
        let replies = client.post(&[("content-length", "4000"), ("x-session-id", "s")]);
        assert_eq!(replies.len(), 1);
        let Some(Response::RequestHeaders(answer)) = &replies[0].response else {
            panic!("{replies:?}");
        };
        assert!(set_header(answer).is_some());
        let (requests, prefill, ..) = client.in_flight();
        assert_eq!(requests, 1);
        assert!(
            prefill > 50.0,
            "4,000 unseen bytes are weighed too: {prefill}"
        );
        let replies = client.body(b"{}", true);
        assert!(matches!(
            replies[..],
            [ProcessingResponse {
                response: Some(Response::RequestBody(CommonAnswer { response: None })),
                ..
            }]
        ));
    }
}

#[test]
fn full_duplex_gives_back_every_byte_in_chunks_after_the_headers() {
    let core = core();
    let mut client = Client::new(&core, BodySendMode::FullDuplexStreamed);
    assert!(client.post(&[]).is_empty(), "the headers wait for the body");
    let body = chat(&"long ".repeat(60_000));
    let mut replies = Vec::new();
    let pieces: Vec<&[u8]> = body.chunks(50_000).collect();
    for (index, piece) in pieces.iter().enumerate() {
        replies.extend(client.body(piece, index + 1 == pieces.len()));
    }
    let Some(Response::RequestHeaders(answer)) = &replies[0].response else {
        panic!("the headers are answered first");
    };
    assert!(set_header(answer).is_some());
    assert!(metadata_of(&replies[0]).is_some());
    let mut echoed = Vec::new();
    for (index, reply) in replies.iter().enumerate().skip(1) {
        let Some(Response::RequestBody(answer)) = &reply.response else {
            panic!("{reply:?}");
        };
        let mutation = answer
            .response
            .as_ref()
            .unwrap()
            .body_mutation
            .as_ref()
            .unwrap();
        let chunk = mutation.streamed_response.as_ref().unwrap();
        assert!(chunk.body.len() <= 64 * 1024);
        assert_eq!(chunk.end_of_stream, index + 1 == replies.len());
        echoed.extend_from_slice(&chunk.body);
    }
    assert_eq!(echoed, body);
}

#[test]
fn full_duplex_decides_early_on_a_body_beyond_the_limit_and_passes_the_rest() {
    let core = core();
    let mut client = Client::new(&core, BodySendMode::FullDuplexStreamed);
    client.post(&[]);
    let body = chat(&"x".repeat(3 << 20));
    let replies = client.body(&body[..1 << 20], false);
    assert!(matches!(
        replies[0].response,
        Some(Response::RequestHeaders(_))
    ));
    assert_eq!(client.in_flight().0, 1);
    let replies = client.body(&body[1 << 20..(1 << 20) + 100], false);
    assert_eq!(replies.len(), 1);
    let replies = client.body(&body[(1 << 20) + 100..], true);
    assert!(matches!(
        replies[0].response,
        Some(Response::RequestBody(_))
    ));
}

#[test]
fn trailers_end_a_streamed_body() {
    let core = core();
    let mut client = Client::new(&core, BodySendMode::FullDuplexStreamed);
    client.post(&[]);
    assert!(client.body(&chat("hi"), false).is_empty());
    let replies = client.send(Request::RequestTrailers(HttpTrailers::default()));
    assert!(matches!(
        replies[..],
        [ProcessingResponse {
            response: Some(Response::RequestHeaders(_)),
            ..
        }]
    ));
}

#[test]
fn streamed_without_waiting_holds_the_headers_and_answers_every_chunk() {
    let core = core();
    let mut client = Client::new(&core, BodySendMode::Streamed);
    client.mode.send_body_without_waiting_for_header_response = true;
    assert!(client.post(&[]).is_empty());
    let body = chat("hello there");
    assert!(client.body(&body[..10], false).is_empty());
    let replies = client.body(&body[10..], true);
    assert!(matches!(
        replies[0].response,
        Some(Response::RequestHeaders(_))
    ));
    assert_eq!(replies.len(), 3, "one for the headers, one for each chunk");
    assert_eq!(client.in_flight().0, 1);
}

#[test]
fn what_is_none_of_ours_passes_untouched() {
    let core = core();
    for (method, path) in [
        ("GET", "/v1/models"),
        ("POST", "/grpc.Service/Call"),
        ("GET", "/v1/chat/completions"),
    ] {
        let mut client = Client::new(&core, BodySendMode::FullDuplexStreamed);
        let replies = client.send(Request::RequestHeaders(HttpHeaders {
            headers: Some(headers(&[
                (":method", method),
                (":path", path),
                (DESTINATION, "6.6.6.6:1"),
            ])),
            end_of_stream: false,
        }));
        let Some(Response::RequestHeaders(answer)) = &replies[0].response else {
            panic!("{replies:?}");
        };
        let mutation = answer.response.clone().unwrap().header_mutation.unwrap();
        assert!(mutation.set_headers.is_empty());
        assert_eq!(
            mutation.remove_headers,
            [DESTINATION],
            "no client steers itself"
        );
        let replies = client.body(b"\x00\x01", true);
        assert_eq!(replies.len(), 1, "the body goes on");
        assert_eq!(client.in_flight().0, 0);
    }
}

#[test]
fn refusals_are_errors_in_openai_shape_and_charge_nothing() {
    let core = core();
    let cases: [(&[u8], i32, &str); 4] = [
        (b"{\"model\": \"m\", ", 400, "invalid_json"),
        (b"", 400, "empty_body"),
        (b"[]", 400, "invalid_body"),
        (
            b"{\"model\": \"unknown\", \"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}",
            404,
            "model_not_found",
        ),
    ];
    for (body, code, name) in cases {
        let mut client = Client::new(&core, BodySendMode::BufferedPartial);
        client.post(&[]);
        let replies = client.body(body, true);
        let refused = immediate(&replies);
        assert_eq!(status(refused), code, "{name}");
        assert_eq!(error(refused)["code"], name);
        assert_eq!(refused.details, format!("weighbridge_{name}"));
        assert!(
            client.body(b"more", true).is_empty(),
            "nothing follows a refusal"
        );
        assert_eq!(client.in_flight(), (0, 0.0, 0.0, 0));
    }
    let mut client = Client::new(&core, BodySendMode::BufferedPartial);
    let replies = client.send(Request::RequestHeaders(HttpHeaders {
        headers: Some(headers(&[
            (":method", "POST"),
            (":path", "/v1/completions"),
            ("content-type", "text/plain"),
        ])),
        end_of_stream: false,
    }));
    assert_eq!(status(immediate(&replies)), 415);
    let mut client = Client::new(&core, BodySendMode::BufferedPartial);
    let replies = client.send(Request::RequestHeaders(HttpHeaders {
        headers: Some(headers(&[
            (":method", "POST"),
            (":path", "/v1/completions"),
        ])),
        end_of_stream: true,
    }));
    assert_eq!(status(immediate(&replies)), 400);
}

/// What a gateway says of the replicas that may serve.
fn hint(endpoints: &[&str]) -> Metadata {
    let values = endpoints
        .iter()
        .map(|endpoint| Value {
            kind: Some(Kind::StringValue((*endpoint).to_owned())),
        })
        .collect();
    let leaf = Struct {
        fields: [(
            "x-gateway-destination-endpoint-subset".to_owned(),
            Value {
                kind: Some(Kind::ListValue(ListValue { values })),
            },
        )]
        .into(),
    };
    Metadata {
        filter_metadata: [("envoy.lb.subset_hint".to_owned(), leaf)].into(),
    }
}

#[test]
fn the_subset_hint_limits_the_choice() {
    let core = core();
    for session in 0..20 {
        let mut client = Client::new(&core, BodySendMode::Buffered);
        client.metadata = Some(hint(&["10.0.0.2:8000"]));
        client.post(&[("x-session-id", &format!("s{session}"))]);
        let replies = client.body(&chat("x"), true);
        assert_eq!(metadata_of(&replies[0]).unwrap(), "10.0.0.2:8000");
    }
    for none in [hint(&[]), hint(&["9.9.9.9:1"])] {
        let mut client = Client::new(&core, BodySendMode::Buffered);
        client.metadata = Some(none);
        client.post(&[]);
        let replies = client.body(&chat("x"), true);
        assert_eq!(status(immediate(&replies)), 503);
    }
}

#[test]
fn where_all_that_may_serve_are_named_none_is_asked_twice() {
    let core = core();
    let all = ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"];
    // The third list is as long as `placing.fallbacks` asks for: others may serve as well.
    for (named, repeats) in [(1, Some("1")), (2, Some("1")), (3, None)] {
        let mut client = Client::new(&core, BodySendMode::Buffered);
        client.metadata = Some(hint(&all[..named]));
        client.post(&[]);
        let replies = client.body(&chat("x"), true);
        let Some(Response::RequestBody(answer)) = &replies[0].response else {
            panic!("not answered: {replies:?}");
        };
        let common = answer.response.as_ref().unwrap();
        let set = &common.header_mutation.as_ref().unwrap().set_headers;
        let found = set.iter().find_map(|one| {
            let header = one.header.as_ref()?;
            (header.key.as_ref() == b"x-envoy-max-retries").then(|| header.text().unwrap())
        });
        assert_eq!(found, repeats, "{named} named");
    }
}

#[test]
fn a_retry_moves_the_charge_to_the_replica_that_served() {
    let core = core();
    let mut client = Client::new(&core, BodySendMode::Buffered);
    client.post(&[]);
    let replies = client.body(&chat("x"), true);
    let chosen = metadata_of(&replies[0]).unwrap();
    let endpoints: Vec<&str> = chosen.split(',').collect();
    let leaf = Struct {
        fields: [(
            "x-gateway-destination-endpoint-served".to_owned(),
            Value {
                kind: Some(Kind::StringValue(endpoints[1].to_owned())),
            },
        )]
        .into(),
    };
    client.metadata = Some(Metadata {
        filter_metadata: [("envoy.lb".to_owned(), leaf)].into(),
    });
    client.send(Request::ResponseHeaders(HttpHeaders {
        headers: Some(headers(&[(":status", "200")])),
        end_of_stream: false,
    }));
    let pool = core.pool();
    assert_eq!(pool.endpoint(endpoints[0]).unwrap().load.own().requests, 0);
    assert_eq!(pool.endpoint(endpoints[1]).unwrap().load.own().requests, 1);
}

#[test]
fn turns_of_a_session_stay_together_without_a_header() {
    let core = core();
    for chat_number in 0..30 {
        let mut messages = vec![
            serde_json::json!({"role": "system", "content": "You are kind."}),
            serde_json::json!({"role": "user", "content": format!("question {chat_number}")}),
        ];
        let mut seen = Vec::new();
        for _ in 0..4 {
            let mut client = Client::new(&core, BodySendMode::Buffered);
            client.post(&[]);
            let body = serde_json::to_vec(&serde_json::json!({"model": "m", "messages": messages}))
                .unwrap();
            let replies = client.body(&body, true);
            let chosen = metadata_of(&replies[0]).unwrap();
            seen.push(chosen.split(',').next().unwrap().to_owned());
            messages.push(serde_json::json!({"role": "assistant", "content": "an answer"}));
            messages.push(serde_json::json!({"role": "user", "content": "and then?"}));
        }
        seen.dedup();
        assert_eq!(seen.len(), 1, "chat {chat_number} moved: {seen:?}");
    }
}

#[test]
fn observed_copies_are_not_answered() {
    let core = core();
    let mut stream = Stream::new(Arc::clone(&core), Limits::default());
    let message = ProcessingRequest {
        request: Some(Request::RequestHeaders(HttpHeaders {
            headers: Some(headers(&[
                (":method", "POST"),
                (":path", "/v1/completions"),
            ])),
            end_of_stream: true,
        })),
        observability_mode: true,
        ..ProcessingRequest::default()
    };
    assert!(stream.on_message(message, 0).is_empty());
}

// Found by fuzzing: a second head after the refusal was refused again.
#[test]
fn after_a_refusal_nothing_more_is_said() {
    let core = core();
    let mut client = Client::new(&core, BodySendMode::Buffered);
    client.post(&[]);
    let replies = client.body(b"[]", true);
    assert_eq!(status(immediate(&replies)), 400);
    assert!(client.post(&[]).is_empty());
    assert!(client.body(&chat("again"), true).is_empty());
    assert_eq!(client.in_flight().0, 0);
    assert_eq!(core.tallies().refusals().values().sum::<u64>(), 1);
}

#[test]
fn a_second_head_on_a_stream_ends_the_request_before_it() {
    let core = core();
    for _ in 0..300 {
        let mut client = Client::new(&core, BodySendMode::Buffered);
        client.post(&[]);
        client.body(&chat("first"), true);
        assert_eq!(core.accounts().running, 1);
        client.post(&[]);
        assert_eq!(core.accounts(), Accounts::default());
        client.body(&chat("second"), true);
        assert_eq!(core.accounts().running, 1);
    }
    assert_eq!(core.accounts(), Accounts::default());
}
