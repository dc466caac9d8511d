//! Why a request is refused: HTTP status, and the error in OpenAI's shape.

use serde::Serialize;
use weighbridge_admit::{Shed, ShedReason, Standing};
use weighbridge_weigh::ReadError;
use weighbridge_weigh::decode::DecodeError;

/// A request that is answered by us and reaches no replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// OpenAI's `type`.
    pub kind: &'static str,
    /// Stable, for programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// The field of the body that is wrong, where one is.
    pub param: Option<String>,
    /// When to try again, s.
    pub retry_after_s: Option<u64>,
    /// Other headers of the response: where the tenant stands.
    pub headers: Box<[(&'static str, String)]>,
}

#[derive(Serialize)]
struct Wrapper<'a> {
    error: Shape<'a>,
}

#[derive(Serialize)]
struct Shape<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

impl Refusal {
    fn bad_request(code: &'static str, message: impl Into<String>, param: Option<&str>) -> Self {
        Self {
            status: 400,
            kind: "invalid_request_error",
            code,
            message: message.into(),
            param: param.map(str::to_owned),
            retry_after_s: None,
            headers: Box::default(),
        }
    }

    /// A POST to an inference endpoint without a body.
    #[must_use]
    pub fn empty_body() -> Self {
        Self::bad_request("empty_body", "the request has no body", None)
    }

    /// Two headers of this name that name two tenants.
    #[must_use]
    pub fn two_tenants(header: &str) -> Self {
        let message = format!("the header {header} names more than one tenant");
        Self::bad_request("ambiguous_tenant", message, None)
    }

    /// A body that is not JSON by its own headers.
    #[must_use]
    pub fn content_type(found: &str) -> Self {
        let shown = shown(found);
        Self {
            status: 415,
            ..Self::bad_request(
                "unsupported_content_type",
                format!("content-type must be application/json, not {shown}"),
                None,
            )
        }
    }

    /// A body that the reader could not read.
    #[must_use]
    pub fn unreadable(error: &ReadError) -> Self {
        Self::bad_request(error.code(), error.to_string(), error.param())
    }

    /// A content-encoding that could not be undone.
    #[must_use]
    pub fn undecodable(error: &DecodeError) -> Self {
        Self {
            status: error.status(),
            ..Self::bad_request(error.code(), error.to_string(), None)
        }
    }

    /// The model's name came after the part of the body that we are sent.
    #[must_use]
    pub fn model_out_of_sight(seen_bytes: usize) -> Self {
        Self::bad_request(
            "model_out_of_sight",
            format!("`model` is not within the first {seen_bytes} bytes; put it before the prompt"),
            Some("model"),
        )
    }

    /// It needs at least `needed` tokens, where sequences of its model have `longest`.
    #[must_use]
    pub fn too_long(longest: u64, needed: u64, param: &str) -> Self {
        Self::bad_request(
            "context_length_exceeded",
            format!(
                "the request needs at least {needed} tokens; the model takes {longest}, prompt and answer together"
            ),
            Some(param),
        )
    }

    /// A path that is no inference endpoint; only `explain` refuses it, Envoy's traffic passes.
    #[must_use]
    pub fn not_inference(path: &str) -> Self {
        let shown = shown(path);
        Self {
            status: 404,
            ..Self::bad_request(
                "not_an_inference_endpoint",
                format!("{shown} is no inference endpoint"),
                None,
            )
        }
    }

    /// A model that no profile names.
    #[must_use]
    pub fn unknown_model(model: &str) -> Self {
        let shown = shown(model);
        Self {
            status: 404,
            ..Self::bad_request(
                "model_not_found",
                format!("the model `{shown}` does not exist"),
                Some("model"),
            )
        }
    }

    /// No replica that may serve it is alive.
    #[must_use]
    pub fn no_replica(model: &str) -> Self {
        Self {
            status: 503,
            kind: "service_unavailable",
            code: "no_replica",
            message: format!("no replica of `{model}` can take the request"),
            param: None,
            retry_after_s: Some(1),
            headers: Box::default(),
        }
    }

    /// No replica is left for a request whose model is not known.
    #[must_use]
    pub fn no_replica_at_all() -> Self {
        Self {
            message: "no replica can take the request".to_owned(),
            ..Self::no_replica("")
        }
    }

    /// A request that admission has shed, and where its tenant stands.
    #[must_use]
    pub fn shed(shed: Shed, standing: &Standing) -> Self {
        let why = match shed.reason {
            ShedReason::QueueFull => "too many requests wait before it",
            ShedReason::TenantQueueFull => "too many of this tenant's requests wait already",
            ShedReason::Displaced => "it had to make room for requests that come before it",
            ShedReason::Deadline => "it has waited as long as it may",
            ShedReason::Preempted => "a request of a guaranteed tenant needed its place",
            ShedReason::NoReplica => return Self::no_replica_at_all(),
            ShedReason::TooLarge => {
                return Self {
                    status: 413,
                    ..Self::bad_request(
                        shed.reason.as_str(),
                        "the request is larger than its tenant may ask for",
                        None,
                    )
                };
            }
        };
        let whole = |value: f64| format!("{:.0}", value.max(0.0));
        Self {
            status: 429,
            kind: "rate_limit_error",
            code: shed.reason.as_str(),
            message: format!("the request was not admitted: {why}"),
            param: None,
            retry_after_s: Some(shed.retry_after_ms.div_ceil(1000).max(1)),
            headers: Box::new([
                ("x-ratelimit-limit", whole(standing.limit_mu_per_min)),
                ("x-ratelimit-remaining", whole(standing.remaining_mu)),
                (
                    "x-ratelimit-reset",
                    standing.reset_ms.div_ceil(1000).to_string(),
                ),
            ]),
        }
    }

    /// A body that the gateway sends in a larger message than is taken.
    #[must_use]
    pub fn body_too_large(most_bytes: usize) -> Self {
        Self {
            status: 413,
            ..Self::bad_request(
                "body_too_large",
                format!("the body is larger than the {most_bytes} bytes that are taken"),
                None,
            )
        }
    }

    /// Bodies of other requests take all the memory that there is for them, or all the time.
    #[must_use]
    pub fn bodies_in_the_way() -> Self {
        Self {
            code: "busy_with_bodies",
            message: "too many large bodies are being read; try again".to_owned(),
            ..Self::no_replica("")
        }
    }

    /// Trailers after a body that the gateway has passed on in part already: it would send on what
    /// it kept of it once more.
    #[must_use]
    pub fn trailers_after_long_body() -> Self {
        Self::bad_request(
            "trailers_after_long_body",
            "trailers cannot follow a body as long as this one",
            None,
        )
    }

    /// The body of the response.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&Wrapper {
            error: Shape {
                message: &self.message,
                kind: self.kind,
                param: self.param.as_deref(),
                code: self.code,
            },
        })
        .unwrap_or_default()
    }
}

/// As much of a client's own words as a message repeats.
fn shown(text: &str) -> String {
    text.chars().take(128).collect()
}
