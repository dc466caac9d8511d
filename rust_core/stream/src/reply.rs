//! The replies that the state machine gives, as wire messages.

use crate::head::{DESTINATION, JOIN, LB_NAMESPACE};
use crate::wire::{
    BodyMutation, CommonAnswer, CommonResponse, FieldKind, FieldList, HeaderMutation,
    HeaderValueOption, HttpStatus, ImmediateResponse, ProcessingResponse, Response,
    StreamedBodyResponse,
};
use bytes::Bytes;
use weighbridge_decide::Refusal;

/// Envoy takes chunks of at most 64 KiB in FULL_DUPLEX_STREAMED.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// Envoy's: further statuses of an upstream at which the request is repeated at the next one.
const REPEATED_STATUSES: &str = "x-envoy-retriable-status-codes";

/// Envoy's: how often a request may be repeated, in place of what the route says.
const MOST_REPEATS: &str = "x-envoy-max-retries";

/// Go on, with nothing changed.
pub(crate) fn unchanged() -> CommonAnswer {
    CommonAnswer { response: None }
}

/// Removes the destination header that a client sent.
pub(crate) fn without_destination() -> CommonAnswer {
    CommonAnswer {
        response: Some(CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers: Vec::new(),
                remove_headers: vec![DESTINATION.to_owned()],
            }),
            ..CommonResponse::default()
        }),
    }
}

/// How often Envoy may repeat a request at other replicas than the chosen one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// As its route says: replicas beyond those named may serve the request as well.
    AsRouted,
    /// Once at each other replica named: no other may serve it. A single replica is asked once more,
    /// since its connection may have been closing when the request was written.
    Named,
    /// At each replica named, also after a 404, until one knows what the request asks for.
    Seeking,
}

impl Repeats {
    /// The repeats of a choice of `endpoints`. The choice names `fallbacks` replicas after the first,
    /// or fewer where no others may serve.
    #[must_use]
    pub fn of(endpoints: &str, fallbacks: usize) -> Self {
        if others(endpoints.as_bytes()) < fallbacks {
            Self::Named
        } else {
            Self::AsRouted
        }
    }
}

/// How many endpoints follow the first.
fn others(endpoints: &[u8]) -> usize {
    endpoints.iter().filter(|byte| **byte == b',').count()
}

/// Sets the destination header to `endpoints`, `ip:port[,ip:port…]`. `join` is put on the request,
/// for the filter that observes its reply.
fn destination(endpoints: Bytes, repeats: Repeats, join: Option<u64>) -> CommonAnswer {
    let most = match repeats {
        Repeats::AsRouted => None,
        Repeats::Named => Some(others(&endpoints).max(1)),
        Repeats::Seeking => Some(others(&endpoints)),
    };
    let mut set_headers = vec![HeaderValueOption::set(DESTINATION, endpoints)];
    if let Some(most) = most {
        set_headers.push(HeaderValueOption::set(
            MOST_REPEATS,
            most.to_string().into(),
        ));
    }
    if repeats == Repeats::Seeking {
        let statuses = Bytes::from_static(b"404");
        set_headers.push(HeaderValueOption::set(REPEATED_STATUSES, statuses));
    }
    if let Some(join) = join {
        set_headers.push(HeaderValueOption::set(JOIN, format!("{join:016x}").into()));
    }
    CommonAnswer {
        response: Some(CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers,
                remove_headers: Vec::new(),
            }),
            ..CommonResponse::default()
        }),
    }
}

/// The answer that names `endpoints` to Envoy, in a header and in metadata; `make` says to which
/// message it answers.
#[must_use]
pub fn choice(
    endpoints: &str,
    repeats: Repeats,
    join: Option<u64>,
    make: fn(CommonAnswer) -> Response,
) -> ProcessingResponse {
    let endpoints = Bytes::copy_from_slice(endpoints.as_bytes());
    ProcessingResponse {
        response: Some(make(destination(endpoints.clone(), repeats, join))),
        dynamic_metadata: Some(destination_metadata(endpoints)),
        override_message_timeout: None,
    }
}

/// The choice as metadata, beside the header: `envoy.lb` → destination → `endpoints`.
fn destination_metadata(endpoints: Bytes) -> FieldList {
    let leaf = FieldList::of(DESTINATION, FieldKind::Text(endpoints));
    FieldList::of(LB_NAMESPACE, FieldKind::Fields(leaf))
}

/// A body's bytes sent back, in chunks that Envoy takes; `make` says which side's body it is.
pub(crate) fn echo(
    mut body: Bytes,
    end_of_stream: bool,
    make: fn(CommonAnswer) -> Response,
    replies: &mut Vec<ProcessingResponse>,
) {
    loop {
        let chunk = body.split_to(body.len().min(CHUNK_BYTES));
        let last = body.is_empty();
        let answer = CommonAnswer {
            response: Some(CommonResponse {
                body_mutation: Some(BodyMutation {
                    body: None,
                    streamed_response: Some(StreamedBodyResponse {
                        body: chunk,
                        end_of_stream: last && end_of_stream,
                    }),
                }),
                ..CommonResponse::default()
            }),
        };
        replies.push(make(answer).into());
        if last {
            return;
        }
    }
}

/// The headers' answer, with the whole body in it: Envoy sends no more of the request and wants no
/// answer to what it has sent.
///
/// Bodies that are injected piece by piece are kept by Envoy for retries, and sent once more where
/// trailers follow them.
pub(crate) fn with_body(mut reply: ProcessingResponse, body: Bytes) -> ProcessingResponse {
    if let Some(Response::RequestHeaders(answer)) = &mut reply.response {
        let common = answer.response.get_or_insert_default();
        common.status = CommonResponse::CONTINUE_AND_REPLACE;
        common.body_mutation = Some(BodyMutation {
            body: Some(body),
            streamed_response: None,
        });
    }
    reply
}

/// Asks for `ms` more before the answer, which has to wait.
pub(crate) fn more_time(ms: u64) -> ProcessingResponse {
    ProcessingResponse {
        override_message_timeout: Some(prost_types::Duration {
            seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            nanos: i32::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
        }),
        ..ProcessingResponse::default()
    }
}

/// Ends the request with an error in OpenAI's shape.
pub(crate) fn refuse(refusal: &Refusal) -> ProcessingResponse {
    let mut set_headers = vec![HeaderValueOption::set(
        "content-type",
        Bytes::from_static(b"application/json"),
    )];
    if let Some(seconds) = refusal.retry_after_s {
        set_headers.push(HeaderValueOption::set(
            "retry-after",
            Bytes::from(seconds.to_string()),
        ));
    }
    for (name, value) in &refusal.headers {
        set_headers.push(HeaderValueOption::set(name, Bytes::from(value.clone())));
    }
    Response::Immediate(ImmediateResponse {
        status: Some(HttpStatus {
            code: i32::from(refusal.status),
        }),
        headers: Some(HeaderMutation {
            set_headers,
            remove_headers: Vec::new(),
        }),
        body: Bytes::from(refusal.to_json()),
        details: format!("weighbridge_{}", refusal.code),
    })
    .into()
}
