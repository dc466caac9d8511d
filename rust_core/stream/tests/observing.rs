//! Observe-only mode: decisions are made and recorded, and the gateway is told nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::headers;
use prost_types::{Struct, Value, value::Kind};
use serde_json::json;
use std::sync::Arc;
use weighbridge_decide::Core;
use weighbridge_stream::wire::{
    BodySendMode, CommonAnswer, HttpBody, HttpHeaders, Metadata, ProcessingRequest,
    ProcessingResponse, ProtocolConfiguration, Request, Response,
};
use weighbridge_stream::{Limits, Stream};

const MODES: [BodySendMode; 5] = [
    BodySendMode::None,
    BodySendMode::Streamed,
    BodySendMode::Buffered,
    BodySendMode::BufferedPartial,
    BodySendMode::FullDuplexStreamed,
];

fn core() -> Arc<Core> {
    let settings = json!({
        "profiles": [{
            "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 100_000,
            "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192,
            "reference_batch": 32.0,
            "cost": {
                "prefill_per_tok": 0.1, "prefill_per_tok2_e6": 1.0,
                "decode_per_tok": 1.0, "decode_per_ktok_ctx": 0.1
            }
        }],
        // Nothing may run at once: only what is not held up gets through.
        "admission": {"queue": {"queue_requests": 0, "window_ms": 1.0}}
    });
    let core = Core::new(serde_json::from_value(settings).unwrap()).unwrap();
    let replicas = json!([
        {"endpoint": "10.0.0.1:8000", "profile": "p"},
        {"endpoint": "10.0.0.2:8000", "profile": "p"}
    ]);
    core.set_replicas(serde_json::from_value(replicas).unwrap())
        .unwrap();
    core.set_observe_only(true);
    Arc::new(core)
}

/// A whole request up to its reply's headers, served by `served`: the stream, and all replies.
fn request(
    core: &Arc<Core>,
    mode: BodySendMode,
    kind: &str,
    body: &[u8],
    served: &str,
) -> (Stream, Vec<ProcessingResponse>) {
    let mut stream = Stream::new(Arc::clone(core), Limits::default());
    let config = ProtocolConfiguration {
        request_body_mode: mode.into(),
        ..ProtocolConfiguration::default()
    };
    let leaf = Struct {
        fields: [(
            "x-gateway-destination-endpoint-served".to_owned(),
            Value {
                kind: Some(Kind::StringValue(served.to_owned())),
            },
        )]
        .into(),
    };
    let metadata = Metadata {
        filter_metadata: [("envoy.lb".to_owned(), leaf)].into(),
    };
    let head = Request::RequestHeaders(HttpHeaders {
        headers: Some(headers(&[
            (":method", "POST"),
            (":path", "/v1/chat/completions"),
            ("content-type", kind),
            ("content-length", &body.len().to_string()),
        ])),
        end_of_stream: false,
    });
    let body = Request::RequestBody(HttpBody {
        body: Bytes::copy_from_slice(body),
        end_of_stream: true,
    });
    let reply = Request::ResponseHeaders(HttpHeaders {
        headers: Some(headers(&[(":status", "200")])),
        end_of_stream: false,
    });
    let mut replies = Vec::new();
    for (request, at) in [head, body, reply].into_iter().zip(0..) {
        if at == 1 && mode == BodySendMode::None {
            continue;
        }
        let message = ProcessingRequest {
            request: Some(request),
            metadata_context: (at == 2).then(|| metadata.clone()),
            observability_mode: false,
            protocol_config: (at == 0).then_some(config),
            ..ProcessingRequest::default()
        };
        replies.extend(stream.on_message(message, core.now_us()));
    }
    (stream, replies)
}

fn chat(model: &str) -> Vec<u8> {
    let content = "the same opening of every one of them ".repeat(400);
    serde_json::to_vec(&json!({
        "model": model, "max_tokens": 10, "messages": [{"role": "user", "content": content}]
    }))
    .unwrap()
}

/// Nothing but bytes handed back: no header, no metadata, no answer of our own.
fn assert_untouched(replies: &[ProcessingResponse], mode: BodySendMode) {
    let messages = if mode == BodySendMode::None { 2 } else { 3 };
    assert_eq!(replies.len(), messages, "{mode:?}: {replies:?}");
    for reply in replies {
        assert_eq!(reply.dynamic_metadata, None);
        let answer = match reply.response.as_ref().unwrap() {
            Response::RequestHeaders(answer)
            | Response::RequestBody(answer)
            | Response::ResponseHeaders(answer) => answer,
            other => panic!("{mode:?}: {other:?}"),
        };
        if let CommonAnswer {
            response: Some(response),
        } = answer
        {
            assert_eq!(response.header_mutation, None, "{mode:?}");
        }
    }
}

#[test]
fn decisions_are_recorded_and_nothing_is_touched() {
    for mode in MODES {
        let core = core();
        let (stream, replies) = request(&core, mode, "application/json", &chat("m"), "");
        assert_untouched(&replies, mode);
        let records = core.log().after(0);
        assert_eq!(records.len(), 1, "{mode:?}");
        assert!(!records[0].steered);
        assert_eq!(core.observing().look().decided, 1);
        drop(stream);
    }
}

#[test]
fn what_would_be_refused_passes_and_is_counted() {
    for mode in MODES {
        let core = core();
        let (stream, replies) = request(&core, mode, "text/plain", &chat("m"), "");
        assert_untouched(&replies, mode);
        drop(stream);
        if mode == BodySendMode::Buffered || mode == BodySendMode::FullDuplexStreamed {
            let (stream, replies) = request(&core, mode, "application/json", &chat("other"), "");
            assert_untouched(&replies, mode);
            assert_eq!(core.observing().look().would_refuse, 2, "{mode:?}");
            drop(stream);
        }
    }
}

#[test]
fn who_served_is_charged_and_known_to_hold_the_prompt() {
    let core = core();
    let json = "application/json";
    let body = chat("m");
    let (first, _) = request(&core, BodySendMode::Buffered, json, &body, "");
    let home = core.log().after(0)[0].endpoints.replica().to_owned();
    drop(first);
    let other = if home == "10.0.0.1:8000" {
        "10.0.0.2:8000"
    } else {
        "10.0.0.1:8000"
    };
    let (second, _) = request(&core, BodySendMode::Buffered, json, &body, other);
    let requests = |endpoint| {
        let pool = core.pool();
        pool.endpoint(endpoint).unwrap().load.own().requests
    };
    assert_eq!((requests(other), requests(&home)), (1, 0));
    let seen = core.observing().look();
    assert_eq!((seen.decided, seen.served, seen.elsewhere), (2, 1, 1));
    assert!(seen.served_mu > 0.0 && seen.decided_mu == seen.served_mu);
    drop(second);
    // What is decided now knows where the prompt is, and what staying away from it would cost.
    let (third, _) = request(&core, BodySendMode::Buffered, json, &body, &home);
    let after = core.observing().look();
    assert_eq!(core.log().after(2)[0].endpoints.replica(), other);
    assert_eq!((after.served, after.elsewhere), (2, 2));
    assert!(after.decided_mu - seen.decided_mu < 0.5 * (after.served_mu - seen.served_mu));
    drop(third);
}

#[test]
fn steering_begins_with_the_next_request() {
    let core = core();
    core.set_observe_only(false);
    let (_stream, replies) = request(
        &core,
        BodySendMode::Buffered,
        "application/json",
        &chat("m"),
        "",
    );
    assert!(replies.iter().any(|reply| reply.dynamic_metadata.is_some()
        || matches!(reply.response, Some(Response::Immediate(_)))));
}
