//! Names that clients and gateways give in bytes of any kind: a value is one name, an empty one is
//! none, and an address has one spelling.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::message;
use prost_types::{ListValue, Struct, Value, value::Kind};
use std::sync::Arc;
use weighbridge_decide::{Core, Record};
use weighbridge_stream::wire::{
    HeaderMap, HeaderValue, HttpBody, HttpHeaders, Metadata, ProcessingRequest, ProcessingResponse,
    Request, Response,
};
use weighbridge_stream::{Limits, Stream};

fn core() -> Arc<Core> {
    common::core(&serde_json::json!({"admission": {"enabled": false}}))
}

fn head(pairs: &[(&str, &[u8])]) -> HttpHeaders {
    let fixed: [(&str, &[u8]); 2] = [(":method", b"POST"), (":path", b"/v1/chat/completions")];
    let header = |(name, value): &(&str, &[u8])| HeaderValue {
        key: Bytes::copy_from_slice(name.as_bytes()),
        value: Bytes::new(),
        raw_value: Bytes::copy_from_slice(value),
    };
    HttpHeaders {
        headers: Some(HeaderMap {
            headers: fixed.iter().chain(pairs).map(header).collect(),
        }),
        end_of_stream: false,
    }
}

fn begin(
    core: &Arc<Core>,
    pairs: &[(&str, &[u8])],
    metadata: Option<Metadata>,
) -> (Stream, Vec<ProcessingResponse>) {
    let mut stream = Stream::new(Arc::clone(core), Limits::default());
    let first = ProcessingRequest {
        metadata_context: metadata,
        ..message(Request::RequestHeaders(head(pairs)))
    };
    let mut replies = stream.on_message(first, 0);
    let text = br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":1}"#;
    let body = HttpBody {
        body: Bytes::from_static(text),
        end_of_stream: true,
    };
    replies.extend(stream.on_message(message(Request::RequestBody(body)), 0));
    (stream, replies)
}

fn decided(core: &Arc<Core>, pairs: &[(&str, &[u8])]) -> Arc<Record> {
    let seen = core.log().after(0).len() as u64;
    drop(begin(core, pairs, None));
    Arc::clone(&core.log().after(seen)[0])
}

fn refused(replies: &[ProcessingResponse]) -> Option<(i32, String)> {
    replies.iter().find_map(|reply| match &reply.response {
        Some(Response::Immediate(answer)) => Some((
            answer.status.unwrap().code,
            String::from_utf8(answer.body.to_vec()).unwrap(),
        )),
        _ => None,
    })
}

#[test]
fn a_tenant_is_the_same_in_latin_1_and_in_utf_8() {
    let core = core();
    for value in ["Sébastien".as_bytes(), b"S\xe9bastien"] {
        assert_eq!(
            decided(&core, &[("x-tenant-id", value)]).tenant.as_ref(),
            "Sébastien"
        );
    }
}

#[test]
fn every_value_that_is_not_empty_is_a_session() {
    let core = core();
    // Latin-1, GB 18030, bytes of no encoding.
    for value in [&b"s\xe9ance"[..], b"\xbb\xe1\xbb\xb0-1", b"\xff\xfe\x80"] {
        let record = decided(&core, &[("x-session-id", value)]);
        assert_eq!(record.session_source, "header");
    }
    let other = decided(&core, &[("x-session-id", b"s\xe9ance")]);
    let same = decided(&core, &[("x-session-id", "séance".as_bytes())]);
    assert_eq!(other.session, same.session);
}

#[test]
fn a_session_of_any_bytes_goes_before_the_next_header() {
    let core = core();
    let both = decided(
        &core,
        &[("x-session-id", b"\xe9"), ("x-conversation-id", b"c")],
    );
    let first = decided(&core, &[("x-session-id", b"\xe9")]);
    assert_eq!(both.session, first.session);
    let empty = decided(&core, &[("x-session-id", b""), ("x-conversation-id", b"c")]);
    let second = decided(&core, &[("x-conversation-id", b"c")]);
    assert_eq!(empty.session, second.session);
}

#[test]
fn the_session_headers_of_common_agents_are_read() {
    let core = core();
    for name in ["session_id", "conversation_id"] {
        let record = decided(&core, &[(name, b"a-1")]);
        assert_eq!(record.session_source, "header");
    }
}

#[test]
fn an_empty_second_header_takes_no_tenant_away() {
    let core = core();
    for pairs in [
        [("x-tenant-id", &b"ann"[..]), ("x-tenant-id", b"")],
        [("x-tenant-id", b""), ("x-tenant-id", b"ann")],
        [("x-tenant-id", b"ann"), ("x-tenant-id", b"ann")],
    ] {
        assert_eq!(decided(&core, &pairs).tenant.as_ref(), "ann");
    }
}

#[test]
fn two_tenants_are_refused_by_the_header_s_name() {
    let core = core();
    let pairs: [(&str, &[u8]); 2] = [("x-tenant-id", b"ann"), ("x-tenant-id", b"bob")];
    let (_stream, replies) = begin(&core, &pairs, None);
    let (status, body) = refused(&replies).unwrap();
    assert_eq!(status, 400);
    assert!(body.contains("x-tenant-id"), "{body}");
}

fn subset(endpoint: &str) -> Metadata {
    let text = Value {
        kind: Some(Kind::StringValue(endpoint.to_owned())),
    };
    let list = Value {
        kind: Some(Kind::ListValue(ListValue { values: vec![text] })),
    };
    let key = "x-gateway-destination-endpoint-subset".to_owned();
    let fields = Struct {
        fields: [(key, list)].into(),
    };
    Metadata {
        filter_metadata: [("envoy.lb.subset_hint".to_owned(), fields)].into(),
    }
}

/// Two replicas, whose endpoints are spelt at length.
fn of_ipv6() -> Arc<Core> {
    let core = core();
    let replicas = serde_json::json!([
        {"endpoint": "[0:0::1]:8000", "profile": "p"},
        {"endpoint": "[0:0:0:0:0:0:0:1]:8001", "profile": "p"},
    ]);
    core.set_replicas(serde_json::from_value(replicas).unwrap())
        .unwrap();
    core
}

#[test]
fn a_subset_of_ipv6_addresses_is_met_in_any_spelling() {
    let core = of_ipv6();
    for spelt in ["[::1]:8001", "[0:0::1]:8001", "[0000::0001]:8001"] {
        let (_stream, replies) = begin(&core, &[], Some(subset(spelt)));
        assert_eq!(refused(&replies), None, "{spelt}");
        let chosen = core
            .log()
            .after(0)
            .last()
            .unwrap()
            .endpoints
            .replica()
            .to_owned();
        assert_eq!(chosen, "[::1]:8001");
    }
}

#[test]
fn who_served_is_known_by_envoy_s_attribute() {
    let core = of_ipv6();
    let (mut stream, _) = begin(&core, &[], Some(subset("[::1]:8000")));
    let address = Value {
        kind: Some(Kind::StringValue("[::1]:8001".to_owned())),
    };
    let fields = Struct {
        fields: [("upstream.address".to_owned(), address)].into(),
    };
    let reply = ProcessingRequest {
        attributes: [("envoy.filters.http.ext_proc".to_owned(), fields)].into(),
        ..message(Request::ResponseHeaders(HttpHeaders {
            headers: Some(common::headers(&[(":status", "200")])),
            end_of_stream: false,
        }))
    };
    stream.on_message(reply, 0);
    let requests = |endpoint| core.pool().endpoint(endpoint).unwrap().load.own().requests;
    assert_eq!((requests("[::1]:8000"), requests("[::1]:8001")), (0, 1));
}
