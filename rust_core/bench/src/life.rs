//! The messages that Envoy sends in one request's life.

use bytes::Bytes;
use weighbridge_stream::wire::{
    BodySendMode, HeaderMap, HeaderValue, HttpBody, HttpHeaders, ProcessingRequest,
    ProtocolConfiguration, Request,
};

fn headers(pairs: &[(&str, &str)]) -> HttpHeaders {
    let headers = pairs
        .iter()
        .map(|(name, value)| HeaderValue {
            key: Bytes::copy_from_slice(name.as_bytes()),
            value: Bytes::new(),
            raw_value: Bytes::copy_from_slice(value.as_bytes()),
        })
        .collect();
    HttpHeaders {
        headers: Some(HeaderMap { headers }),
        end_of_stream: false,
    }
}

/// The messages of one request, as Envoy sends them.
#[must_use]
pub fn life(body: Bytes) -> Vec<ProcessingRequest> {
    let head = headers(&[
        (":authority", "localhost:10000"),
        (":method", "POST"),
        (":path", "/v1/chat/completions"),
        (":scheme", "http"),
        ("content-type", "application/json"),
        ("content-length", "4096"),
        ("user-agent", "bench"),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "6f1c0d2e-0000-4000-8000-000000000000"),
        ("x-session-id", "session-7"),
    ]);
    let body = HttpBody {
        body,
        end_of_stream: true,
    };
    let answer = headers(&[(":status", "200"), ("content-type", "application/json")]);
    let requests = [
        Request::RequestHeaders(head),
        Request::RequestBody(body),
        Request::ResponseHeaders(answer),
    ];
    let mut messages: Vec<_> = requests
        .into_iter()
        .map(|request| ProcessingRequest {
            request: Some(request),
            ..ProcessingRequest::default()
        })
        .collect();
    if let Some(first) = messages.first_mut() {
        first.protocol_config = Some(ProtocolConfiguration {
            request_body_mode: BodySendMode::BufferedPartial.into(),
            ..ProtocolConfiguration::default()
        });
    }
    messages
}
