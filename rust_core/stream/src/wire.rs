//! The part of Envoy's `envoy.service.ext_proc.v3` messages that Weighbridge reads and writes.
//!
//! Field numbers are those of Envoy's own protos; fields left out are skipped on reading, as
//! protobuf allows. Header names and values stay `Bytes` (on the wire a string is bytes), so that
//! decoding a message copies nothing.

use bytes::Bytes;
use prost::{Enumeration, Message, Oneof};
use prost_types::Struct;
use std::collections::HashMap;

/// One message of Envoy to the external processor.
#[derive(Clone, PartialEq, Message)]
pub struct ProcessingRequest {
    /// What the message is about.
    #[prost(oneof = "Request", tags = "2, 3, 4, 5, 6, 7")]
    pub request: Option<Request>,
    /// Dynamic metadata of the namespaces that the filter forwards.
    #[prost(message, optional, tag = "8")]
    pub metadata_context: Option<Metadata>,
    /// Envoy sends copies only and waits for no reply.
    #[prost(bool, tag = "10")]
    pub observability_mode: bool,
    /// What the filter was asked to tell of the request, by the name of the filter.
    #[prost(map = "string, message", tag = "9")]
    pub attributes: HashMap<String, Struct>,
    /// The filter's body modes; on the first message of a stream.
    #[prost(message, optional, tag = "11")]
    pub protocol_config: Option<ProtocolConfiguration>,
}

/// What a [`ProcessingRequest`] is about.
#[derive(Clone, PartialEq, Oneof)]
pub enum Request {
    /// The request's headers.
    #[prost(message, tag = "2")]
    RequestHeaders(HttpHeaders),
    /// The response's headers.
    #[prost(message, tag = "3")]
    ResponseHeaders(HttpHeaders),
    /// The request's body, or a chunk of it.
    #[prost(message, tag = "4")]
    RequestBody(HttpBody),
    /// The response's body, or a chunk of it.
    #[prost(message, tag = "5")]
    ResponseBody(HttpBody),
    /// The request's trailers.
    #[prost(message, tag = "6")]
    RequestTrailers(HttpTrailers),
    /// The response's trailers.
    #[prost(message, tag = "7")]
    ResponseTrailers(HttpTrailers),
}

/// How the filter treats bodies, told once per stream.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ProtocolConfiguration {
    /// How request bodies are sent to us.
    #[prost(enumeration = "BodySendMode", tag = "1")]
    pub request_body_mode: i32,
    /// How response bodies are sent to us.
    #[prost(enumeration = "BodySendMode", tag = "2")]
    pub response_body_mode: i32,
    /// STREAMED bodies come before the headers were answered.
    #[prost(bool, tag = "3")]
    pub send_body_without_waiting_for_header_response: bool,
}

/// `ProcessingMode.BodySendMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum BodySendMode {
    /// Bodies are not sent.
    None = 0,
    /// Chunk by chunk, each answered in turn.
    Streamed = 1,
    /// Whole, or 413 above the buffer limit.
    Buffered = 2,
    /// What fits the buffer limit.
    BufferedPartial = 3,
    /// Chunk by chunk in both directions; every byte must be sent back.
    FullDuplexStreamed = 4,
}

/// `HttpHeaders`.
#[derive(Clone, PartialEq, Message)]
pub struct HttpHeaders {
    /// Name and value pairs, pseudo-headers included.
    #[prost(message, optional, tag = "1")]
    pub headers: Option<HeaderMap>,
    /// No body follows.
    #[prost(bool, tag = "3")]
    pub end_of_stream: bool,
}

/// `HttpBody`.
#[derive(Clone, PartialEq, Message)]
pub struct HttpBody {
    /// Bytes of the body.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
    /// These are the last.
    #[prost(bool, tag = "2")]
    pub end_of_stream: bool,
}

/// `HttpTrailers`.
#[derive(Clone, PartialEq, Message)]
pub struct HttpTrailers {
    /// Name and value pairs.
    #[prost(message, optional, tag = "1")]
    pub trailers: Option<HeaderMap>,
}

/// `config.core.v3.HeaderMap`.
#[derive(Clone, PartialEq, Message)]
pub struct HeaderMap {
    /// In the order of the request; names are lower case.
    #[prost(message, repeated, tag = "1")]
    pub headers: Vec<HeaderValue>,
}

impl HeaderMap {
    /// The first value of the header `name` (lower case), if it is UTF-8.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|header| header.key.as_ref() == name.as_bytes())
            .and_then(HeaderValue::text)
    }
}

/// `config.core.v3.HeaderValue`.
#[derive(Clone, PartialEq, Message)]
pub struct HeaderValue {
    /// Name.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Value, as older Envoys send it.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// Value, as Envoy sends it since 1.28.
    #[prost(bytes = "bytes", tag = "3")]
    pub raw_value: Bytes,
}

impl HeaderValue {
    /// The value, if it is UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.bytes()).ok()
    }

    /// The value as a name, if it is not empty. HTTP took values for Latin-1 before it took them
    /// for UTF-8: bytes that are no UTF-8 are read so, and thus every value is one name.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let bytes = self.bytes();
        if bytes.is_empty() {
            return None;
        }
        Some(match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().copied().map(char::from).collect(),
        })
    }

    fn bytes(&self) -> &[u8] {
        if self.raw_value.is_empty() {
            &self.value
        } else {
            &self.raw_value
        }
    }
}

/// `config.core.v3.Metadata`.
#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    /// By namespace.
    #[prost(map = "string, message", tag = "1")]
    pub filter_metadata: HashMap<String, Struct>,
}

/// `google.protobuf.Struct` as it is written: a list, since nothing is looked up in it.
#[derive(Clone, PartialEq, Message)]
pub struct FieldList {
    /// Its fields.
    #[prost(message, repeated, tag = "1")]
    pub fields: Vec<Field>,
}

/// One field of a `Struct`.
#[derive(Clone, PartialEq, Message)]
pub struct Field {
    /// Its name.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Its value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<FieldValue>,
}

/// `google.protobuf.Value`, of the two kinds that are written.
#[derive(Clone, PartialEq, Message)]
pub struct FieldValue {
    /// The value.
    #[prost(oneof = "FieldKind", tags = "3, 5")]
    pub kind: Option<FieldKind>,
}

/// The kinds of a [`FieldValue`].
#[derive(Clone, PartialEq, Oneof)]
pub enum FieldKind {
    /// Text.
    #[prost(bytes = "bytes", tag = "3")]
    Text(Bytes),
    /// Fields of its own.
    #[prost(message, tag = "5")]
    Fields(FieldList),
}

impl FieldList {
    /// A list of one field.
    #[must_use]
    pub fn of(key: &'static str, kind: FieldKind) -> Self {
        Self {
            fields: vec![Field {
                key: Bytes::from_static(key.as_bytes()),
                value: Some(FieldValue { kind: Some(kind) }),
            }],
        }
    }
}

/// One reply to Envoy.
#[derive(Clone, PartialEq, Message)]
pub struct ProcessingResponse {
    /// What it answers.
    #[prost(oneof = "Response", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub response: Option<Response>,
    /// Metadata that later filters, the load balancer and access logs read, by namespace.
    #[prost(message, optional, tag = "8")]
    pub dynamic_metadata: Option<FieldList>,
    /// Asks for more time for the message at hand; sent alone, before its answer.
    #[prost(message, optional, tag = "10")]
    pub override_message_timeout: Option<prost_types::Duration>,
}

impl From<Response> for ProcessingResponse {
    fn from(response: Response) -> Self {
        Self {
            response: Some(response),
            dynamic_metadata: None,
            override_message_timeout: None,
        }
    }
}

/// What a [`ProcessingResponse`] answers.
#[derive(Clone, PartialEq, Oneof)]
pub enum Response {
    /// To the request's headers.
    #[prost(message, tag = "1")]
    RequestHeaders(CommonAnswer),
    /// To the response's headers.
    #[prost(message, tag = "2")]
    ResponseHeaders(CommonAnswer),
    /// To the request's body, or a chunk.
    #[prost(message, tag = "3")]
    RequestBody(CommonAnswer),
    /// To the response's body, or a chunk.
    #[prost(message, tag = "4")]
    ResponseBody(CommonAnswer),
    /// To the request's trailers.
    #[prost(message, tag = "5")]
    RequestTrailers(TrailersAnswer),
    /// To the response's trailers.
    #[prost(message, tag = "6")]
    ResponseTrailers(TrailersAnswer),
    /// Ends the request with our own response.
    #[prost(message, tag = "7")]
    Immediate(ImmediateResponse),
}

/// `HeadersResponse` and `BodyResponse`, which look alike on the wire.
#[derive(Clone, PartialEq, Message)]
pub struct CommonAnswer {
    /// Absent: go on unchanged.
    #[prost(message, optional, tag = "1")]
    pub response: Option<CommonResponse>,
}

/// `CommonResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct CommonResponse {
    /// `ResponseStatus`: CONTINUE, or [`CommonResponse::CONTINUE_AND_REPLACE`].
    #[prost(int32, tag = "1")]
    pub status: i32,
    /// Headers to set and to remove.
    #[prost(message, optional, tag = "2")]
    pub header_mutation: Option<HeaderMutation>,
    /// The body to send on.
    #[prost(message, optional, tag = "3")]
    pub body_mutation: Option<BodyMutation>,
    /// Choose the route again, since headers have changed.
    #[prost(bool, tag = "5")]
    pub clear_route_cache: bool,
}

/// `TrailersResponse`, always unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct TrailersAnswer {}

/// `ImmediateResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ImmediateResponse {
    /// HTTP status.
    #[prost(message, optional, tag = "1")]
    pub status: Option<HttpStatus>,
    /// Headers of the response.
    #[prost(message, optional, tag = "2")]
    pub headers: Option<HeaderMutation>,
    /// Body of the response.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
    /// For access logs: `%RESPONSE_CODE_DETAILS%`.
    #[prost(string, tag = "5")]
    pub details: String,
}

/// `type.v3.HttpStatus`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct HttpStatus {
    /// The code, such as 400.
    #[prost(int32, tag = "1")]
    pub code: i32,
}

/// `HeaderMutation`.
#[derive(Clone, PartialEq, Message)]
pub struct HeaderMutation {
    /// Headers to set.
    #[prost(message, repeated, tag = "1")]
    pub set_headers: Vec<HeaderValueOption>,
    /// Headers to remove.
    #[prost(string, repeated, tag = "2")]
    pub remove_headers: Vec<String>,
}

/// `config.core.v3.HeaderValueOption`.
#[derive(Clone, PartialEq, Message)]
pub struct HeaderValueOption {
    /// The header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<HeaderValue>,
    /// `HeaderAppendAction`.
    #[prost(int32, tag = "3")]
    pub append_action: i32,
}

impl HeaderValueOption {
    /// `HeaderAppendAction::OVERWRITE_IF_EXISTS_OR_ADD`.
    const OVERWRITE_IF_EXISTS_OR_ADD: i32 = 2;

    /// Sets `name` to `value`, whatever it was.
    #[must_use]
    pub fn set(name: &'static str, value: Bytes) -> Self {
        Self {
            header: Some(HeaderValue {
                key: Bytes::from_static(name.as_bytes()),
                value: Bytes::new(),
                raw_value: value,
            }),
            append_action: Self::OVERWRITE_IF_EXISTS_OR_ADD,
        }
    }
}

impl CommonResponse {
    /// The answer holds the whole body, and Envoy sends no more of the request.
    pub const CONTINUE_AND_REPLACE: i32 = 1;
}

/// `BodyMutation`: one of the two.
#[derive(Clone, PartialEq, Message)]
pub struct BodyMutation {
    /// The whole body, with [`CommonResponse::CONTINUE_AND_REPLACE`].
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub body: Option<Bytes>,
    /// A chunk of the body, in FULL_DUPLEX_STREAMED.
    #[prost(message, optional, tag = "3")]
    pub streamed_response: Option<StreamedBodyResponse>,
}

/// `StreamedBodyResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct StreamedBodyResponse {
    /// Bytes of the body, at most 64 KiB.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
    /// These are the last.
    #[prost(bool, tag = "2")]
    pub end_of_stream: bool,
}
