//! One pass over a request's JSON, keeping only what weighing needs.
//!
//! Strings are visited as raw bytes, borrowed where they have no escapes, and are classified and
//! hashed as they pass. Seeds hold references to the accumulators, so what was seen before the cut
//! of a truncated body is kept. Documented leniencies:
//!
//! - Invalid UTF-8, lone surrogates, NUL and raw control characters inside strings are weighed as
//!   bytes; whether they are legal is the engine's to say.
//! - Of duplicate keys the last wins, at the top level and inside messages.
//! - Nesting deeper than 127 levels is [`ReadError::TooDeep`] inside values that weighing reads;
//!   values that it skips may nest as they like, since skipping does not recurse.
//! - Numbers beyond 64 bits are refused where they mean something ([`ReadError::InvalidValue`]).

mod canonical;
mod content;
mod conversation;
mod fault;
mod medium;
mod message;
mod prompt;
mod scalar;
mod top;
mod truncated;
mod visit;

use std::borrow::Cow;
use std::mem;
use std::sync::Arc;

use serde::de::DeserializeSeed;

use crate::chain::{self, Section};
use crate::endpoint::Endpoint;
use crate::error::ReadError;
use crate::exact::TokenCounter;
use crate::features::Features;
use crate::limits::Limits;
use crate::reading::{Body, Part, Reading};
use conversation::Conversation;

/// Reads a body of `endpoint`, whole or cut off.
///
/// A body that is cut off is read as far as it goes: fields after the cut are absent (`model` may be
/// empty, which the caller must decide about), and a value that the cut may have shortened is
/// dropped unless it is text or media.
///
/// # Errors
/// When the body is no JSON object, lacks its model or prompt, or gives a parameter that weighing
/// needs a wrong type or value.
pub fn read(endpoint: Endpoint, body: Body<'_>, limits: &Limits) -> Result<Reading, ReadError> {
    read_with(endpoint, body, limits, None)
}

/// Reads a body as [`read`] does, and counts its text's tokens with `counter`.
///
/// # Errors
/// As [`read`].
pub fn read_exact(
    endpoint: Endpoint,
    body: Body<'_>,
    limits: &Limits,
    counter: &Arc<dyn TokenCounter>,
) -> Result<Reading, ReadError> {
    read_with(endpoint, body, limits, Some(Arc::clone(counter)))
}

fn read_with(
    endpoint: Endpoint,
    body: Body<'_>,
    limits: &Limits,
    counter: Option<Arc<dyn TokenCounter>>,
) -> Result<Reading, ReadError> {
    let bytes = body
        .bytes
        .strip_prefix(b"\xEF\xBB\xBF")
        .unwrap_or(body.bytes);
    let text = if body.complete {
        Cow::Borrowed(bytes)
    } else {
        truncated::closed(bytes)
    };
    let exact = counter.is_some();
    let mut scan = Scan::new(endpoint, *limits, body.complete, counter);
    let mut json = serde_json::Deserializer::from_slice(&text);
    let outcome = top::TopSeed(&mut scan)
        .deserialize(&mut json)
        .and_then(|()| if body.complete { json.end() } else { Ok(()) });
    if let Err(error) = outcome {
        if let Some(fault) = scan.fault.take() {
            return Err(fault);
        }
        if body.complete || !truncated::is_cut(&error, &text) {
            return Err(fault::from_json(&error, scan.entered, scan.param));
        }
    }
    let audio_rate = scan.conversation.audio_rate;
    let mut reading = scan.finish(exact)?;
    let seen = body.bytes.len() as u64;
    reading.seen_bytes = seen;
    if !body.complete {
        reading.missing_bytes = body.total_bytes.unwrap_or(seen).saturating_sub(seen);
        reading.cut_in_media &= reading.missing_bytes > 0 && truncated::in_media(bytes);
        if let Some(bytes_per_second) = audio_rate.filter(|_| reading.cut_in_media) {
            reading.audio_seconds += reading.missing_bytes as f64 * 0.75 / bytes_per_second;
        }
    }
    Ok(reading)
}

/// Accumulators of one pass.
struct Scan {
    endpoint: Endpoint,
    limits: Limits,
    complete: bool,
    /// Whether the top-level object was entered.
    entered: bool,
    /// The top-level parameter being read, for errors.
    param: &'static str,
    /// The top-level key being read.
    last: top::Key,
    /// A fault found while visiting, which the parser's own error would blur.
    fault: Option<ReadError>,
    reading: Reading,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u32>,
    best_of: Option<u32>,
    metadata_user: Option<String>,
    cache_salt: Option<String>,
    prompt_seen: bool,
    prompts: u32,
    tools: Section,
    instructions: Section,
    instructions_text: Features,
    suffix_text: Features,
    instructions_exact: u64,
    suffix_exact: u64,
    tools_exact: u64,
    conversation: Conversation,
    /// Canonical JSON of the value being walked.
    scratch: Vec<u8>,
}

impl Scan {
    fn new(
        endpoint: Endpoint,
        limits: Limits,
        complete: bool,
        counter: Option<Arc<dyn TokenCounter>>,
    ) -> Self {
        Self {
            endpoint,
            limits,
            complete,
            entered: false,
            param: "body",
            last: top::Key::Other,
            fault: None,
            reading: Reading::default(),
            max_tokens: None,
            max_completion_tokens: None,
            n: None,
            best_of: None,
            metadata_user: None,
            cache_salt: None,
            prompt_seen: false,
            prompts: 0,
            tools: Section::new(limits.max_blocks),
            instructions: Section::new(limits.max_blocks),
            instructions_text: Features::default(),
            suffix_text: Features::default(),
            instructions_exact: 0,
            suffix_exact: 0,
            tools_exact: 0,
            conversation: Conversation::new(&limits, counter),
            scratch: Vec::new(),
        }
    }

    /// Notes a fault and returns the error that stops the parser.
    fn fail<E: serde::de::Error>(&mut self, fault: ReadError) -> E {
        let error = E::custom(&fault);
        self.fault = Some(fault);
        error
    }

    fn finish(&mut self, exact: bool) -> Result<Reading, ReadError> {
        if self.complete {
            self.check_required()?;
        }
        let mut reading = mem::take(&mut self.reading);
        let conversation = &mut self.conversation;
        reading.session.opening = conversation.opening(&self.instructions);
        let tools = reading.text.tools;
        reading.text = conversation.text;
        *reading.text.get_mut(Part::System) += self.instructions_text;
        *reading.text.get_mut(Part::Prompt) += self.suffix_text;
        *reading.text.get_mut(Part::Tools) = tools;
        if exact {
            let mut exact = conversation.exact;
            exact.add(Part::System, self.instructions_exact);
            exact.add(Part::Prompt, self.suffix_exact);
            exact.add(Part::Tools, self.tools_exact);
            reading.exact = Some(exact);
        }
        reading.images = mem::take(&mut conversation.images);
        reading.more_images = conversation.more_images;
        reading.audio_seconds = conversation.audio_seconds;
        reading.media_bytes = conversation.media_bytes;
        reading.cut_in_media = !self.complete && conversation.latest_is_media;
        reading.templated = !matches!(self.endpoint, Endpoint::Completions | Endpoint::Embeddings);
        reading.explicit_tokens = conversation.explicit_tokens;
        reading.messages = conversation.messages;
        reading.max_output_tokens = self.max_completion_tokens.or(self.max_tokens);
        let choices = self.n.unwrap_or(1).max(self.best_of.unwrap_or(1));
        reading.choices = choices.saturating_mul(self.prompts.max(1));
        reading.has_tools = reading.tools > 0;
        if reading.session.user.is_none() {
            reading.session.user = self.metadata_user.take();
        }
        self.instructions.append(&mut conversation.lead);
        let salt = self.cache_salt.as_deref().unwrap_or_default();
        reading.prefix = chain::fold(
            &mut self.tools,
            &mut self.instructions,
            &mut conversation.rest,
            salt.as_bytes(),
            self.limits.max_blocks,
        );
        if !reading.model.is_empty() {
            reading.prefix.bind_to(&reading.model);
        }
        Ok(reading)
    }

    fn check_required(&self) -> Result<(), ReadError> {
        if self.reading.model.is_empty() {
            return Err(ReadError::Missing { param: "model" });
        }
        let continues = self.endpoint == Endpoint::Responses
            && self.reading.session.previous_response_id.is_some();
        if !self.prompt_seen && !continues {
            return Err(ReadError::Missing {
                param: self.endpoint.prompt_key(),
            });
        }
        let chat = matches!(
            self.endpoint,
            Endpoint::ChatCompletions | Endpoint::Messages
        );
        if chat && self.conversation.messages == 0 {
            let reason = "expected at least one message".to_owned();
            return Err(ReadError::InvalidValue {
                param: "messages",
                reason,
            });
        }
        Ok(())
    }
}
