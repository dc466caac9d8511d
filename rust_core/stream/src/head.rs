//! What Weighbridge needs of a request's headers and metadata, read in one pass.

use crate::wire::{HeaderMap, HeaderValue, Metadata};
use prost_types::{Struct, value::Kind};
use std::collections::HashMap;
use weighbridge_decide::{
    Claim, Settings, TraceParent, Traced, Wanted, canonical_endpoint, objective_ms,
};
use weighbridge_weigh::Endpoint;

/// The endpoint header of the endpoint picker protocol; we set it, clients may not.
pub(crate) const DESTINATION: &str = "x-gateway-destination-endpoint";
/// Names a request to the filter that observes its reply; 16 hex digits. One that a client sends is
/// no request's.
pub(crate) const JOIN: &str = "x-weighbridge-request";
/// Namespace of the metadata that the gateway's load balancer reads.
pub(crate) const LB_NAMESPACE: &str = "envoy.lb";
const SUBSET_NAMESPACE: &str = "envoy.lb.subset_hint";
const SUBSET_KEY: &str = "x-gateway-destination-endpoint-subset";
const SERVED_KEY: &str = "x-gateway-destination-endpoint-served";
/// Envoy's attribute of who served.
const UPSTREAM_ADDRESS: &str = "upstream.address";

/// The headers that ask for objectives: our own, and those of llm-d's router…
const TTFT: [&[u8]; 2] = [b"x-slo-ttft-ms", b"x-llm-d-slo-ttft-ms"];
const TPOT: [&[u8]; 2] = [b"x-slo-tpot-ms", b"x-llm-d-slo-tpot-ms"];
/// …and those that name one, as the Gateway API's inference extension and llm-d have it.
const OBJECTIVE: [&[u8]; 2] = [
    b"x-gateway-inference-objective",
    b"x-llm-d-inference-objective",
];

/// Bytes of an `x-request-id` that are kept: in places a client may choose it. Those that are alike so
/// far are one name.
const MOST_ID_BYTES: usize = 128;

/// Longer names of tenants are nobody's: they cannot be listed either.
const MOST_NAME_BYTES: usize = 1024;

/// A request's head, as far as routing needs it.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) request_id: String,
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    /// Bytes of the body as sent, when the client said so.
    pub(crate) content_length: Option<u64>,
    pub(crate) session: Option<String>,
    pub(crate) tenant: Option<String>,
    /// The header that named two tenants.
    pub(crate) ambiguous: Option<String>,
    pub(crate) priority: Option<String>,
    /// Objectives that are asked for, ms…
    pub(crate) ttft_ms: Option<f64>,
    pub(crate) tpot_ms: Option<f64>,
    /// …and the name of one.
    pub(crate) objective: Option<String>,
    pub(crate) names_destination: bool,
    /// The client's span, where decisions are traced.
    pub(crate) parent: Option<TraceParent>,
    /// The response that the path names: `/v1/responses/{id}`.
    pub(crate) response: Option<String>,
}

impl Head {
    pub(crate) fn read(
        headers: Option<&HeaderMap>,
        metadata: Option<&Metadata>,
        settings: &Settings,
    ) -> Self {
        // A header that a client may have sent never stands in for a verified claim.
        let tenant_header = match &settings.tenant_claim {
            Some(_) => None,
            None => settings.tenant_header.as_deref().map(str::as_bytes),
        };
        let mut head = Self::default();
        let mut post = false;
        let mut path = None;
        let mut session_rank = usize::MAX;
        for header in headers.iter().flat_map(|map| &map.headers) {
            match header.key.as_ref() {
                b":method" => post = header.text() == Some("POST"),
                b":path" => {
                    let text = header.name().unwrap_or_default();
                    path = Endpoint::from_path(&text);
                    head.response = response_of(&text);
                }
                b"x-request-id" => {
                    let name = header.name().unwrap_or_default();
                    head.request_id = request_id(&name).to_owned();
                }
                b"content-type" => head.content_type = header.name(),
                b"content-encoding" => head.content_encoding = header.name(),
                b"content-length" => {
                    head.content_length = header.text().and_then(|text| text.parse().ok());
                }
                name if TTFT.contains(&name) => {
                    let ms = || header.text().and_then(objective_ms);
                    head.ttft_ms = head.ttft_ms.or_else(ms);
                }
                name if TPOT.contains(&name) => {
                    let ms = || header.text().and_then(objective_ms);
                    head.tpot_ms = head.tpot_ms.or_else(ms);
                }
                name if OBJECTIVE.contains(&name) => {
                    head.objective = head.objective.take().or_else(|| header.name());
                }
                b"traceparent" if settings.spans > 0 => {
                    head.parent = header.text().and_then(TraceParent::parse);
                }
                name => {
                    if name == DESTINATION.as_bytes() {
                        head.names_destination = true;
                    } else if tenant_header == Some(name) {
                        head.add_tenant(header);
                    } else if name == settings.priority_header.as_bytes() {
                        head.priority = head.priority.take().or_else(|| header.name());
                    } else if let Some(rank) = settings
                        .session_headers
                        .iter()
                        .position(|session| session.as_bytes() == name)
                    {
                        if rank < session_rank
                            && let Some(session) = header.name()
                        {
                            session_rank = rank;
                            head.session = Some(session);
                        }
                    }
                }
            }
        }
        if let Some(claim) = &settings.tenant_claim {
            head.tenant = metadata.and_then(|metadata| claimed(metadata, claim));
        }
        head.tenant = head.tenant.filter(|name| name.len() <= MOST_NAME_BYTES);
        head.endpoint = path.filter(|_| post);
        head
    }

    /// Takes a header that names the tenant; an empty one names nobody.
    fn add_tenant(&mut self, header: &HeaderValue) {
        let Some(name) = header.name() else {
            return;
        };
        match &self.tenant {
            Some(known) if *known != name => {
                self.ambiguous = Some(String::from_utf8_lossy(&header.key).into_owned());
            }
            _ => self.tenant = Some(name),
        }
    }

    /// The objectives that are asked for.
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        Wanted {
            ttft_ms: self.ttft_ms,
            tpot_ms: self.tpot_ms,
            name: self.objective.as_deref(),
        }
    }

    pub(crate) fn traced(&self, endpoint: Endpoint) -> Traced<'_> {
        Traced {
            parent: self.parent,
            request_id: &self.request_id,
            endpoint,
        }
    }

    /// Whether the body may be the JSON that the inference endpoints take.
    pub(crate) fn may_be_json(&self) -> bool {
        self.content_type.as_deref().is_none_or(|value| {
            let kind = value.split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case("application/json")
                || kind
                    .len()
                    .checked_sub(5)
                    .and_then(|cut| kind.get(cut..))
                    .is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
        })
    }
}

/// What a request goes by in logs, and where its reply is observed.
pub(crate) fn request_id(name: &str) -> &str {
    let most = name.len().min(MOST_ID_BYTES);
    let end = (0..=most).rev().find(|end| name.is_char_boundary(*end));
    name.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// The id in `/v1/responses/{id}`, whatever the path begins with and goes on with.
fn response_of(path: &str) -> Option<String> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let (_, rest) = path.split_once("/v1/responses/")?;
    let id = rest.split('/').next().unwrap_or_default();
    owned(Some(id).filter(|id| id.len() <= MOST_NAME_BYTES))
}

fn owned(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// What a verified claim says, where it is text or a number.
fn claimed(metadata: &Metadata, claim: &Claim) -> Option<String> {
    let mut fields = &metadata.filter_metadata.get(&claim.namespace)?.fields;
    let (last, path) = claim.path.split_last()?;
    for key in path {
        match fields.get(key)?.kind.as_ref() {
            Some(Kind::StructValue(inner)) => fields = &inner.fields,
            _ => return None,
        }
    }
    match fields.get(last)?.kind.as_ref() {
        Some(Kind::StringValue(text)) => owned(Some(text)),
        Some(Kind::NumberValue(number)) => Some(number.to_string()),
        _ => None,
    }
}

/// The endpoints that the gateway allows: `None` any, an empty list none.
pub(crate) fn subset_hint(metadata: Option<&Metadata>) -> Option<Vec<String>> {
    let hint = metadata?
        .filter_metadata
        .get(SUBSET_NAMESPACE)?
        .fields
        .get(SUBSET_KEY)?;
    Some(match hint.kind.as_ref() {
        Some(Kind::ListValue(list)) => list
            .values
            .iter()
            .filter_map(|value| match value.kind.as_ref() {
                Some(Kind::StringValue(text)) => Some(text.as_str()),
                _ => None,
            })
            .flat_map(endpoints)
            .collect(),
        Some(Kind::StringValue(text)) => endpoints(text).collect(),
        _ => Vec::new(),
    })
}

/// The endpoints of a text with commas, as a gateway makes it of a header.
fn endpoints(text: &str) -> impl Iterator<Item = String> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| canonical_endpoint(part).into_owned())
}

/// The endpoint that the gateway says it was served by: in the protocol's metadata, or else in
/// Envoy's own attribute.
pub(crate) fn served<'a>(
    metadata: Option<&'a Metadata>,
    attributes: &'a HashMap<String, Struct>,
) -> Option<&'a str> {
    let told = metadata
        .and_then(|metadata| metadata.filter_metadata.get(LB_NAMESPACE))
        .and_then(|fields| text_of(fields, SERVED_KEY));
    told.or_else(|| {
        attributes
            .values()
            .find_map(|fields| text_of(fields, UPSTREAM_ADDRESS))
    })
}

fn text_of<'a>(fields: &'a Struct, key: &str) -> Option<&'a str> {
    match fields.fields.get(key)?.kind.as_ref() {
        Some(Kind::StringValue(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}
