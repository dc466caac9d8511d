//! Request bodies: the bytes that a client would send.

use std::io::Write as _;

use serde::Deserialize;

use crate::text::{TOKEN_BYTES, TextPool};
use crate::trace::{Image, Kind, Message, MessageId, Piece, Request, Role, Trace};

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

/// Appends the body of a chat completion, or of a request for embeddings. `salt` keeps the contents
/// of copies apart, all but their system prompts; 0 changes nothing.
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
    if request.kind == Kind::Embeddings {
        out.extend_from_slice(b",\"input\":\"");
        for id in path {
            if let Some(message) = trace.message(id) {
                words(trace, message, salt, pool, out);
            }
        }
        out.extend_from_slice(b"\"}");
        return;
    }
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
        if let Some(image) = message.image {
            out.extend_from_slice(b"\",\"content\":[{\"type\":\"text\",\"text\":\"");
            content(trace, message, salt, pool, out);
            out.extend_from_slice(
                b"\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/gif;base64,",
            );
            picture(image, salt, out);
            out.extend_from_slice(b"\"}}]}");
            continue;
        }
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

/// Appends a picture in base64: a GIF's head, with its content's number among its bytes.
fn picture(image: Image, salt: u64, out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = [0u8; 33];
    let content = image_content(image, salt).to_le_bytes();
    let head = b"GIF89a".iter().copied();
    let sizes = image
        .width
        .to_le_bytes()
        .into_iter()
        .chain(image.height.to_le_bytes());
    // What stands between the sizes and the content says that there is no table of colours.
    let all = head.chain(sizes).chain([0, 0, 0]).chain(content);
    for (byte, value) in bytes.iter_mut().zip(all) {
        *byte = value;
    }
    for three in bytes.chunks_exact(3) {
        let bits = three
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for shift in [18, 12, 6, 0] {
            let at = (bits >> shift) as usize & 63;
            out.push(ALPHABET.get(at).copied().unwrap_or(b'A'));
        }
    }
}

fn image_content(image: Image, salt: u64) -> u64 {
    match salt {
        0 => image.content,
        salt => crate::seed::mix(salt, image.content),
    }
}

/// Appends a picture's tokens, four bytes each.
pub(crate) fn image_tokens(image: Image, salt: u64, out: &mut Vec<u8>) {
    let content = image_content(image, salt);
    for at in 0..u64::from(image.tokens()) {
        let token = crate::seed::mix(content, at).to_le_bytes();
        out.extend_from_slice(token.get(..TOKEN_BYTES).unwrap_or(&token));
    }
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

/// Appends the tokens of the message `id`, if there is such a message: its words, then its picture.
pub(crate) fn words_of(
    trace: &Trace,
    id: MessageId,
    salt: u64,
    pool: &TextPool,
    out: &mut Vec<u8>,
) {
    if let Some(message) = trace.message(id) {
        words(trace, message, salt, pool, out);
        if let Some(image) = message.image {
            image_tokens(image, salt, out);
        }
    }
}
