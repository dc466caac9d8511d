//! Request bodies: the bytes that a client would send.

use std::io::Write as _;

use serde::Deserialize;

use crate::text::{TOKEN_BYTES, TextPool};
use crate::trace::{Message, MessageId, Piece, Request, Role, Trace};

/// How bodies are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyOptions {
    /// The model asked for.
    pub model: String,
    /// Whether the answer is streamed, its usage at the end.
    pub stream: bool,
    /// Whether `max_tokens` is the very length of the answer, not what the client allows: for
    /// engines that take it for the length.
    pub exact_length: bool,
    /// What the request says of its answer's length, as a fact (`ignore_eos`): routers that predict
    /// lengths take it instead. `None` says nothing.
    pub told_length: Option<ToldLength>,
}

/// The length that an answer is said to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToldLength {
    /// As it will be.
    Known,
    /// So many tokens, whatever it will be.
    Tokens(u32),
}

impl BodyOptions {
    /// A streamed request to `model` with the client's own `max_tokens`.
    #[must_use]
    pub fn streamed(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            stream: true,
            exact_length: false,
            told_length: None,
        }
    }
}

/// Appends the body of a chat completion. `salt` keeps the contents of copies apart, all but their
/// system prompts; 0 changes nothing.
pub(crate) fn write(
    trace: &Trace,
    request: &Request,
    salt: u64,
    pool: &TextPool,
    options: &BodyOptions,
    out: &mut Vec<u8>,
) {
    let path = trace.path(request.prompt);
    out.reserve(request.input_tokens as usize * TOKEN_BYTES + path.len() * 48 + 256);
    out.extend_from_slice(b"{\"model\":");
    // A string into a Vec: cannot fail.
    let _ = serde_json::to_writer(&mut *out, &options.model);
    out.extend_from_slice(b",\"messages\":[");
    for (place, id) in path.into_iter().enumerate() {
        let Some(message) = trace.message(id) else {
            continue;
        };
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"role\":\"");
        out.extend_from_slice(message.role.as_str().as_bytes());
        out.extend_from_slice(b"\",\"content\":\"");
        content(trace, message, salt, pool, out);
        out.extend_from_slice(b"\"}");
    }
    let limit = match options.told_length {
        Some(ToldLength::Known) => request.output_tokens,
        Some(ToldLength::Tokens(tokens)) => tokens,
        None if options.exact_length => request.output_tokens,
        None => request.max_tokens,
    };
    let _ = write!(out, "],\"max_tokens\":{limit}");
    if options.told_length.is_some() {
        out.extend_from_slice(b",\"ignore_eos\":true");
    }
    if options.stream {
        out.extend_from_slice(b",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    }
    out.push(b'}');
}

/// Appends a message's words, a space between them.
pub(crate) fn content(
    trace: &Trace,
    message: &Message,
    salt: u64,
    pool: &TextPool,
    out: &mut Vec<u8>,
) {
    words(trace, message, salt, pool, out);
    if out.last() == Some(&b' ') {
        out.pop();
    }
}

/// Appends a message's words, a space after each.
pub(crate) fn words(
    trace: &Trace,
    message: &Message,
    salt: u64,
    pool: &TextPool,
    out: &mut Vec<u8>,
) {
    let shared = salt == 0 || message.role == Role::System;
    for piece in trace.pieces(message) {
        let content = if shared {
            piece.content
        } else {
            crate::seed::mix(salt, piece.content)
        };
        pool.write(Piece { content, ..*piece }, out);
    }
}

/// Appends the words of the message `id`, if there is such a message.
pub(crate) fn words_of(
    trace: &Trace,
    id: MessageId,
    salt: u64,
    pool: &TextPool,
    out: &mut Vec<u8>,
) {
    if let Some(message) = trace.message(id) {
        words(trace, message, salt, pool, out);
    }
}
