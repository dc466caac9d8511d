//! `explain` for a request as a client would send it: path, headers and body.

use crate::head::Head;
use crate::wire::{HeaderMap, HeaderValue};
use bytes::Bytes;
use weighbridge_decide::{Core, Explanation, Incoming, Refusal};
use weighbridge_weigh::Body;

/// Reads, weighs and places a request as [`crate::Stream`] would, charging nothing.
///
/// # Errors
/// The refusal that the client would get.
pub fn explain(
    core: &Core,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Result<Explanation, Refusal> {
    let value = |name: &str, value: &str| HeaderValue {
        key: Bytes::from(name.to_ascii_lowercase()),
        value: Bytes::new(),
        raw_value: Bytes::copy_from_slice(value.as_bytes()),
    };
    let mut map = vec![value(":method", "POST"), value(":path", path)];
    map.extend(headers.iter().map(|(name, text)| value(name, text)));
    let head = Head::read(Some(&HeaderMap { headers: map }), None, core.settings());
    let Some(endpoint) = head.endpoint else {
        return Err(Refusal::not_inference(path));
    };
    let incoming = Incoming {
        request_id: &head.request_id,
        endpoint,
        session: head.session.as_deref(),
        tenant: head.tenant.as_deref(),
        priority: head.priority.as_deref(),
        wanted: head.wanted(),
        subset: None,
        content_encoding: head.content_encoding.as_deref(),
        parent: None,
        body: Body::whole(body),
    };
    Explanation::of(core, &incoming, core.now_us())
}
