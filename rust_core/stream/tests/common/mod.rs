//! What several of these tests begin with: a core, and messages as Envoy sends them.
#![allow(dead_code, reason = "each test uses its part")]

use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use weighbridge_decide::Core;
use weighbridge_stream::wire::{
    BodySendMode, HeaderMap, HeaderValue, HttpBody, HttpHeaders, ProcessingRequest,
    ProcessingResponse, ProtocolConfiguration, Request,
};
use weighbridge_stream::{Limits, Stream};

/// A core with one replica, and these settings besides.
pub(crate) fn core(more: &Value) -> Arc<Core> {
    let mut settings = json!({
        "profiles": [{
            "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 1_000_000,
            "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192,
            "reference_batch": 32.0,
            "cost": {
                "prefill_per_tok": 0.1, "prefill_per_tok2_e6": 0.0,
                "decode_per_tok": 1.0, "decode_per_ktok_ctx": 0.0
            }
        }],
    });
    let all = settings.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    let core = Core::new(serde_json::from_value(settings).unwrap()).unwrap();
    let replicas = json!([{"endpoint": "10.0.0.1:8000", "profile": "p"}]);
    core.set_replicas(serde_json::from_value(replicas).unwrap())
        .unwrap();
    Arc::new(core)
}

/// Headers as Envoy sends them.
pub(crate) fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&str, &str)| HeaderValue {
        key: Bytes::copy_from_slice(name.as_bytes()),
        value: Bytes::new(),
        raw_value: Bytes::copy_from_slice(value.as_bytes()),
    };
    HeaderMap {
        headers: pairs.iter().map(header).collect(),
    }
}

/// A message of a stream whose bodies are buffered.
pub(crate) fn message(request: Request) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(request),
        protocol_config: Some(ProtocolConfiguration {
            request_body_mode: BodySendMode::BufferedPartial.into(),
            ..ProtocolConfiguration::default()
        }),
        ..ProcessingRequest::default()
    }
}

/// Sends a chat request of this tenant, its body in one piece; the replies to that.
pub(crate) fn chat(
    core: &Arc<Core>,
    id: &str,
    tenant: &str,
    body: &Value,
    now_us: u64,
) -> (Stream, Vec<ProcessingResponse>) {
    let mut stream = Stream::new(Arc::clone(core), Limits::default());
    let request = HttpHeaders {
        headers: Some(headers(&[
            (":method", "POST"),
            (":path", "/v1/chat/completions"),
            ("content-type", "application/json"),
            ("x-request-id", id),
            ("x-tenant-id", tenant),
        ])),
        end_of_stream: false,
    };
    stream.on_message(message(Request::RequestHeaders(request)), now_us);
    let body = HttpBody {
        body: Bytes::from(body.to_string()),
        end_of_stream: true,
    };
    let replies = stream.on_message(message(Request::RequestBody(body)), now_us);
    (stream, replies)
}

/// Counts how often a stream's task is woken.
#[derive(Default)]
pub(crate) struct Woken(pub(crate) AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Asks a stream for replies that have waited.
pub(crate) fn poll(
    stream: &mut Stream,
    woken: &Arc<Woken>,
    now_us: u64,
) -> Poll<Vec<ProcessingResponse>> {
    let waker = Waker::from(Arc::clone(woken));
    stream.poll_resume(&mut Context::from_waker(&waker), now_us)
}
