//! Who a request's tenant is: a trusted header's word, or a verified claim's and nobody else's; and
//! how many tenants are counted apart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::{headers, message};
use prost_types::{Struct, Value, value::Kind};
use std::sync::Arc;
use weighbridge_decide::{Core, Status};
use weighbridge_stream::wire::{HttpBody, HttpHeaders, Metadata, ProcessingRequest, Request};
use weighbridge_stream::{Limits, Stream};

const JWT: &str = "envoy.filters.http.jwt_authn";

fn core(more: &serde_json::Value) -> Arc<Core> {
    let mut settings =
        serde_json::json!({"admission": {"enabled": false, "tenants": {"gold": {}}}});
    let all = settings.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    common::core(&settings)
}

fn by_claim() -> serde_json::Value {
    serde_json::json!({
        "tenant_header": "x-tenant-id",
        "tenant_claim": {"namespace": JWT, "path": ["claims", "org", "id"]},
    })
}

fn object(key: &str, kind: Kind) -> Struct {
    let value = Value { kind: Some(kind) };
    Struct {
        fields: [(key.to_owned(), value)].into(),
    }
}

/// `{"claims": {"org": {"id": kind}}}` in a namespace.
fn claims(namespace: &str, kind: Kind) -> Metadata {
    let org = object("id", kind);
    let payload = object("org", Kind::StructValue(org));
    let all = object("claims", Kind::StructValue(payload));
    Metadata {
        filter_metadata: [(namespace.to_owned(), all)].into(),
    }
}

fn text(name: &str) -> Kind {
    Kind::StringValue(name.to_owned())
}

/// Sends a request to its end.
fn send(core: &Arc<Core>, header: &str, metadata: Option<Metadata>) {
    begin(core, header, "", metadata).close(0);
}

/// Sends a request.
fn begin(core: &Arc<Core>, header: &str, priority: &str, metadata: Option<Metadata>) -> Stream {
    let mut stream = Stream::new(Arc::clone(core), Limits::default());
    let pairs = [
        (":method", "POST"),
        (":path", "/v1/chat/completions"),
        ("x-tenant-id", header),
        ("x-request-priority", priority),
    ];
    let first = ProcessingRequest {
        metadata_context: metadata,
        ..message(Request::RequestHeaders(HttpHeaders {
            headers: Some(headers(&pairs)),
            end_of_stream: false,
        }))
    };
    stream.on_message(first, 0);
    let body = ProcessingRequest {
        request: Some(Request::RequestBody(HttpBody {
            body: Bytes::from_static(
                br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":1}"#,
            ),
            end_of_stream: true,
        })),
        ..ProcessingRequest::default()
    };
    stream.on_message(body, 0);
    stream
}

/// The tenant that a request was decided for.
fn tenant(core: &Arc<Core>, header: &str, metadata: Option<Metadata>) -> String {
    let seen = core.log().after(0).len() as u64;
    send(core, header, metadata);
    core.log().after(seen)[0].tenant.to_string()
}

#[test]
fn a_header_is_believed_only_where_it_is_configured() {
    assert_eq!(tenant(&core(&serde_json::json!({})), "gold", None), "gold");
    let distrustful = core(&serde_json::json!({"tenant_header": null}));
    assert_eq!(tenant(&distrustful, "gold", None), "");
}

#[test]
fn the_claim_counts_and_never_the_header() {
    let core = core(&by_claim());
    assert_eq!(
        tenant(&core, "gold", Some(claims(JWT, text("acme")))),
        "acme"
    );
    assert_eq!(tenant(&core, "gold", None), "");
    assert_eq!(
        tenant(&core, "gold", Some(claims("envoy.lb", text("x")))),
        ""
    );
}

#[test]
fn a_claim_is_text_or_a_number() {
    let core = core(&by_claim());
    let of = |kind| tenant(&core, "gold", Some(claims(JWT, kind)));
    assert_eq!(of(Kind::NumberValue(42.0)), "42");
    assert_eq!(of(Kind::BoolValue(true)), "");
    assert_eq!(of(Kind::StructValue(Struct::default())), "");
    assert_eq!(of(text("")), "");
    assert_eq!(of(text(&"x".repeat(1025))), "");
}

#[test]
fn a_request_may_ask_for_less_priority_than_its_tenants_and_never_for_more() {
    let narrow = serde_json::json!({
        "admission": {"queue": {"window_ms": 1}, "tenants": {"nightly": {"priority": "batch"}}}
    });
    let core = core(&narrow);
    let asked = [
        ("", "standard"),
        ("nightly", "critical"),
        ("acme", "critical"),
        ("acme", "sheddable"),
        ("nightly", "sheddable"),
    ];
    let open = asked.map(|(name, priority)| begin(&core, name, priority, None));
    let waiting = Status::of(&core).admission["m"].waiting.clone();
    let requests = ["critical", "standard", "batch", "sheddable"].map(|of| waiting[of].requests);
    // The first runs.
    assert_eq!(requests, [0, 1, 1, 2]);
    drop(open);
}

#[test]
fn ten_thousand_tenants_are_counted_in_a_bounded_number_of_rows() {
    let core = core(&serde_json::json!({"counted_tenants": 100}));
    for number in 0..10_000 {
        send(&core, &format!("t{number}"), None);
    }
    send(&core, "gold", None);
    send(&core, "t3", None);
    let rows = Status::of(&core).tenants;
    assert_eq!(rows.len(), 102, "a hundred, the listed one and the others");
    let requests = |name: &str| {
        let row = rows.iter().find(|row| row.tenant == name);
        row.map_or(0, |row| row.took.requests)
    };
    assert_eq!(requests("gold"), 1);
    assert_eq!(requests("t3"), 2);
    assert_eq!(requests("other"), 9_900);
}
