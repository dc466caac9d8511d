//! Answers in trtllm-serve's shapes.

pub(crate) mod prometheus;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Body;
use serde::Serialize;
use serde_json::{Value, json};

use crate::interface::generate::{Interface, Refusal, Ticket};

/// A stream that breaks in the middle: the connection is cut, not the answer ended.
#[derive(Debug)]
pub(crate) struct Broken;

/// The body of any answer.
pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Broken>>;

/// Tokens used by a request, over all its choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    prompt: u64,
    completion: u64,
    cached: u64,
}

impl Usage {
    pub(crate) fn of(ticket: &Ticket) -> Self {
        let views = ticket.choices.iter().map(|c| c.progress.view());
        let (completion, cached) = views.fold((0, 0), |(tokens, cached), view| {
            (
                tokens + u64::from(view.tokens),
                // Further choices find the prompt of the first one.
                if cached == 0 {
                    u64::from(view.cached_tokens)
                } else {
                    cached
                },
            )
        });
        Self {
            prompt: ticket.prompt_tokens,
            completion,
            cached,
        }
    }

    pub(crate) fn prompt(&self) -> u64 {
        self.prompt
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }

    /// The same under the names of `/v1/responses`.
    pub(crate) fn responses_json(&self) -> Value {
        json!({
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": 0},
            "output_tokens": self.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt + self.completion,
        })
    }
}

/// The answer to a request that was not streamed, once all its choices have ended.
pub(crate) fn complete(ticket: &Ticket, created: u64) -> Value {
    let id = ticket.id;
    let choices: Vec<Value> = (0..)
        .zip(&ticket.choices)
        .map(|(index, choice)| match ticket.interface {
            Interface::Chat => chat_choice(index, &choice.reply),
            Interface::Completion => completion_choice(index, &choice.reply),
        })
        .collect();
    let (id, object) = match ticket.interface {
        Interface::Chat => (format!("chatcmpl-{id}"), "chat.completion"),
        Interface::Completion => (format!("cmpl-{id}"), "text_completion"),
    };
    json!({
        "id": id,
        "object": object,
        "created": created,
        "model": ticket.replica.model,
        "choices": choices,
        "usage": Usage::of(ticket).json(),
        "prompt_token_ids": null,
    })
}

fn chat_choice(index: u32, reply: &crate::text::reply::Reply) -> Value {
    json!({
        "index": index,
        "message": {
            "role": "assistant",
            "content": reply.text(),
            "reasoning_content": "",
            "tool_calls": [],
        },
        "logprobs": null,
        "finish_reason": reply.finish_reason(),
        "stop_reason": null,
        "disaggregated_params": null,
        "avg_decoded_tokens_per_iter": 1.0,
    })
}

fn completion_choice(index: u32, reply: &crate::text::reply::Reply) -> Value {
    json!({
        "index": index,
        "text": reply.text(),
        "token_ids": null,
        "logprobs": null,
        "context_logits": null,
        "finish_reason": reply.finish_reason(),
        "stop_reason": null,
        "disaggregated_params": null,
        "avg_decoded_tokens_per_iter": 1.0,
    })
}

/// A refusal: the server's own checks and its form checks answer differently.
pub(crate) fn refusal(refusal: &Refusal) -> Answer {
    match refusal {
        Refusal::Form(text) => json_answer(StatusCode::BAD_REQUEST, &json!({"error": text})),
        Refusal::Check {
            status,
            kind,
            message,
        } => error(*status, kind, message),
    }
}

/// An error as the server's own checks give it.
pub(crate) fn error(status: StatusCode, kind: &str, message: &str) -> Answer {
    let body = json!({
        "object": "error",
        "message": message,
        "type": kind,
        "param": null,
        "code": status.as_u16(),
    });
    json_answer(status, &body)
}

/// A JSON document.
pub(crate) fn json_answer(status: StatusCode, body: &impl Serialize) -> Answer {
    // Only maps with keys that are no strings fail, and there are none.
    let text = serde_json::to_vec(body).unwrap_or_default();
    let mut answer = full(status, text.into());
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Plain text.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = full(status, text.into());
    answer.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}

/// No body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    full(status, Bytes::new())
}

/// A stream of events.
pub(crate) fn events<S>(stream: S) -> Answer
where
    S: Body<Data = Bytes, Error = Broken> + Send + 'static,
{
    let mut answer = Response::new(stream.boxed_unsync());
    answer.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    answer
}

fn full(status: StatusCode, body: Bytes) -> Answer {
    let body = Full::new(body).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    answer
}
