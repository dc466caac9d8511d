//! What Weighbridge needs of a request's headers and metadata, read in one pass.

use crate::wire::{HeaderMap, Metadata};
use prost_types::value::Kind;
use weighbridge_decide::{Claim, Settings, TraceParent, Traced};
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
    pub(crate) priority: Option<String>,
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
                    path = header.text().and_then(Endpoint::from_path);
                    head.response = header.text().and_then(response_of);
                }
                b"x-request-id" => head.request_id = owned(header.text()).unwrap_or_default(),
                b"content-type" => head.content_type = owned(header.text()),
                b"content-encoding" => head.content_encoding = owned(header.text()),
                b"content-length" => {
                    head.content_length = header.text().and_then(|text| text.parse().ok());
                }
                b"traceparent" if settings.spans > 0 => {
                    head.parent = header.text().and_then(TraceParent::parse);
                }
                name => {
                    if name == DESTINATION.as_bytes() {
                        head.names_destination = true;
                    } else if tenant_header == Some(name) {
                        head.tenant = owned(header.text());
                    } else if name == settings.priority_header.as_bytes() {
                        head.priority = owned(header.text());
                    } else if let Some(rank) = settings
                        .session_headers
                        .iter()
                        .position(|session| session.as_bytes() == name)
                    {
                        if rank < session_rank && !header.raw_value.is_empty() {
                            session_rank = rank;
                            head.session = owned(header.text());
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
        .map(str::to_owned)
}

/// The endpoint that the gateway says it was served by.
pub(crate) fn served(metadata: Option<&Metadata>) -> Option<&str> {
    let value = metadata?
        .filter_metadata
        .get(LB_NAMESPACE)?
        .fields
        .get(SERVED_KEY)?;
    match value.kind.as_ref() {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}
