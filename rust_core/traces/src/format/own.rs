//! Weighbridge's own format: one request a line, with the messages that it adds to its session.
//!
//! ```json
//! {"at_s":12.5,"session":"s7","tenant":"acme","output_tokens":180,"max_tokens":400,"messages":[
//!   {"role":"system","content":"helpdesk","tokens":900},{"role":"user","tokens":60}]}
//! {"at_s":40.0,"session":"s7","output_tokens":90,"messages":[
//!   {"role":"assistant","tokens":180},{"role":"user","tokens":45}]}
//! ```
//! The prompt is that of the session's request before it, then these messages. Equal `content` is
//! equal text; without it, text is found nowhere else. In place of `content` and `tokens`, `pieces`
//! may say it exactly: `[[content, words left out, words], …]`. A message may have an `image`:
//! `[content, width, height]`. `kind` is `chat` where it is left out, `batch` (nobody waits for the
//! first token) or `embeddings` (there is no answer).

use std::collections::HashMap;
use std::io::BufRead;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::builder::{MOST_TOKENS, NewRequest, TraceBuilder};
use crate::error::TraceError;
use crate::load::Source;
use crate::seed::mix;
use crate::trace::{Image, Kind, MessageId, Piece, Role};

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    /// s from the trace's start.
    pub(crate) at_s: f64,
    pub(crate) session: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) tenant: String,
    pub(crate) output_tokens: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "is_chat")]
    pub(crate) kind: Kind,
    pub(crate) messages: Vec<Said>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    pub(crate) role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pieces: Option<Vec<(String, u32, u32)>>,
    /// A picture: its content, width and height in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<(String, u16, u16)>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_chat(kind: &Kind) -> bool {
    *kind == Kind::Chat
}

/// What tells a message that a session adds from others.
type Opening = (Option<MessageId>, Role, Vec<Piece>, Option<Image>);

/// The name of a content in this format.
pub(crate) fn content_name(content: u64) -> String {
    format!("{content:016x}")
}

fn content_of(name: &str) -> u64 {
    let hex = (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok());
    hex.flatten().unwrap_or_else(|| xxh3_64(name.as_bytes()))
}

pub(crate) fn read<R: BufRead>(
    source: Source<R>,
    builder: &mut TraceBuilder,
) -> Result<(), TraceError> {
    let mut last: HashMap<u32, (MessageId, u32)> = HashMap::new();
    let mut opened: HashMap<Opening, MessageId> = HashMap::new();
    let mut unnamed = 0u64;
    source.each_line(|line: Line| {
        let at_s = line.at_s;
        if !(0.0..1e12).contains(&at_s) {
            return Err(format!("at_s: {at_s} is no time in s"));
        }
        let session = builder.session(&line.session);
        let (mut prompt, turn) = match last.get(&session) {
            Some((prompt, turn)) => (Some(*prompt), turn + 1),
            None => (None, 1),
        };
        for said in &line.messages {
            let role = Role::named(&said.role)
                .ok_or_else(|| format!("role: '{}' is no role", said.role))?;
            let pieces = pieces(said, &mut unnamed)?;
            let key = (prompt, role, pieces, image(said)?);
            prompt = Some(match opened.get(&key) {
                Some(message) => *message,
                None => {
                    let message = builder.show(prompt, role, &key.2, key.3);
                    opened.insert(key, message);
                    message
                }
            });
        }
        let prompt = prompt.ok_or_else(|| "messages: the first request has none".to_owned())?;
        last.insert(session, (prompt, turn));
        let tenant = builder.tenant(&line.tenant);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let at_us = (at_s * 1e6).round() as u64;
        builder.ask(NewRequest {
            at_us,
            session,
            tenant,
            turn,
            kind: line.kind,
            prompt,
            output_tokens: line.output_tokens,
            max_tokens: line.max_tokens,
        });
        Ok(())
    })
}

fn image(said: &Said) -> Result<Option<Image>, String> {
    let Some((name, width, height)) = &said.image else {
        return Ok(None);
    };
    if *width == 0 || *height == 0 {
        return Err("image: it has no pixels".to_owned());
    }
    Ok(Some(Image {
        content: content_of(name),
        width: *width,
        height: *height,
    }))
}

fn pieces(said: &Said, unnamed: &mut u64) -> Result<Vec<Piece>, String> {
    if let Some(pieces) = &said.pieces {
        let piece = |(name, offset, tokens): &(String, u32, u32)| Piece {
            content: content_of(name),
            offset: *offset,
            tokens: *tokens,
        };
        let fits = |(_, offset, tokens): &(String, u32, u32)| {
            *offset <= MOST_TOKENS && (1..=MOST_TOKENS).contains(tokens)
        };
        if pieces.is_empty() || !pieces.iter().all(fits) {
            return Err(format!("pieces: tokens must be 1 to {MOST_TOKENS}"));
        }
        return Ok(pieces.iter().map(piece).collect());
    }
    let tokens = said
        .tokens
        .filter(|tokens| (1..=MOST_TOKENS).contains(tokens))
        .ok_or_else(|| format!("a message needs tokens from 1 to {MOST_TOKENS}, or pieces"))?;
    let content = match &said.content {
        Some(name) => content_of(name),
        None => {
            *unnamed += 1;
            mix(0x6f77_6e6c, *unnamed)
        }
    };
    Ok(vec![Piece {
        content,
        offset: 0,
        tokens,
    }])
}
