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
mod extra;
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
use xxhash_rust::xxh3::xxh3_64;

use crate::chain::{self, Section};
use crate::endpoint::Endpoint;
use crate::error::ReadError;
use crate::exact::{ExactTokens, TokenCounter};
use crate::features::Features;
use crate::limits::Limits;
use crate::reading::{Body, Lora, Part, Reading, Texts};
use conversation::{Conversation, OPENING_BLOCKS};
use extra::{Binding, Rendered};

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
        if let Some(reason) = scan.conversation.excess.take() {
            let param = scan.param;
            return Err(ReadError::InvalidValue { param, reason });
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
        if reading.prompts > 1 {
            // The rest of the list is as long as its beginning.
            let times = 1.0 + reading.missing_bytes as f64 / seen.max(1) as f64;
            let most = f64::from(limits.max_pieces);
            let answers = reading.choices / reading.prompts;
            reading.prompts = (f64::from(reading.prompts) * times).min(most) as u32;
            reading.choices = reading.prompts.saturating_mul(answers);
            reading.squared_shares /= times;
        }
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
    tools: Section,
    instructions: Section,
    instructions_text: Features,
    suffix_text: Features,
    instructions_exact: u64,
    suffix_exact: u64,
    tools_exact: u64,
    conversation: Conversation,
    /// Token ids that stand for the messages.
    ids: Option<Box<Conversation>>,
    documents: Rendered,
    template: Rendered,
    template_arguments: Rendered,
    /// Hash of the reasoning effort, which templates write into the prompt.
    effort: Option<u64>,
    video_frames: u64,
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
            tools: Section::new(limits.max_blocks),
            instructions: Section::new(limits.max_blocks),
            instructions_text: Features::default(),
            suffix_text: Features::default(),
            instructions_exact: 0,
            suffix_exact: 0,
            tools_exact: 0,
            conversation: Conversation::new(&limits, counter),
            ids: None,
            documents: Rendered::default(),
            template: Rendered::default(),
            template_arguments: Rendered::default(),
            effort: None,
            video_frames: 0,
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
        let mut exact_tokens = conversation.exact;
        for rendered in [self.documents, self.template, self.template_arguments] {
            *reading.text.get_mut(Part::System) += rendered.text;
            exact_tokens.add(Part::System, rendered.exact);
        }
        *reading.text.get_mut(Part::System) += self.instructions_text;
        *reading.text.get_mut(Part::Prompt) += self.suffix_text;
        *reading.text.get_mut(Part::Tools) = tools;
        exact_tokens.add(Part::System, self.instructions_exact);
        exact_tokens.add(Part::Prompt, self.suffix_exact);
        exact_tokens.add(Part::Tools, self.tools_exact);
        reading.images = mem::take(&mut conversation.images);
        reading.more_images = conversation.more_images;
        reading.audio_seconds = conversation.audio_seconds;
        reading.media_bytes = conversation.media_bytes;
        reading.cut_in_media = !self.complete && conversation.latest_is_media;
        let takes_prompts = matches!(self.endpoint, Endpoint::Completions | Endpoint::Embeddings);
        reading.templated = !takes_prompts;
        reading.explicit_tokens = conversation.explicit_tokens;
        reading.messages = conversation.messages;
        reading.max_output_tokens = self.max_completion_tokens.or(self.max_tokens);
        let choices = self.n.unwrap_or(1).max(self.best_of.unwrap_or(1));
        reading.prompts = if takes_prompts {
            conversation.messages.max(1)
        } else {
            1
        };
        reading.choices = choices.saturating_mul(reading.prompts);
        let (sum, squares) = conversation.prompt_sizes;
        reading.squared_shares = match reading.prompts {
            1 => 1.0,
            _ if sum > 0.0 => squares / (sum * sum),
            _ => 0.0,
        };
        if self.endpoint == Endpoint::Embeddings {
            reading.max_output_tokens = Some(0);
            reading.ignore_eos = true;
        }
        let frames = self
            .video_frames
            .min(u64::from(self.limits.max_video_frames));
        reading.video_frames = frames as u32;
        reading.has_tools = reading.tools > 0;
        if reading.session.user.is_none() {
            reading.session.user = self.metadata_user.take();
        }
        self.instructions.append(&mut conversation.lead);
        if let Some(hash) = self.documents.hash {
            self.instructions.feed(&hash.to_le_bytes());
        }
        if let Some(ids) = &mut self.ids {
            // The engine takes them for the prompt as it stands, and renders nothing.
            reading.text = Texts::default();
            exact_tokens = ExactTokens::default();
            reading.explicit_tokens = ids.explicit_tokens;
            reading.templated = false;
            self.tools.clear();
            self.instructions.clear();
            mem::swap(&mut conversation.rest, &mut ids.rest);
            if reading.messages == 0 {
                reading.session.opening = conversation.rest.head_digest(OPENING_BLOCKS);
                reading.messages = 1;
            }
        }
        reading.exact = exact.then_some(exact_tokens);
        let salt = self.salt(reading.lora.as_ref());
        reading.prefix = chain::fold(
            &mut self.tools,
            &mut self.instructions,
            &mut self.conversation.rest,
            &salt,
            self.limits.max_blocks,
        );
        if !reading.model.is_empty() {
            reading.prefix.bind_to(&reading.model);
        }
        Ok(reading)
    }

    /// What the chain is bound to, beside the model: what keeps blocks apart in the engine's cache,
    /// and what changes how all of the prompt is rendered.
    fn salt(&self, lora: Option<&Lora>) -> Vec<u8> {
        // Engines know an adapter by its number alone.
        let adapter = lora.map(|lora| match lora.id {
            Some(id) => xxh3_64(&id.to_le_bytes()),
            None => xxh3_64(lora.name.as_deref().unwrap_or_default().as_bytes()),
        });
        let cache_salt = self.cache_salt.as_deref();
        Binding::default()
            .to(1, cache_salt.map(|salt| xxh3_64(salt.as_bytes())))
            .to(2, adapter)
            .to(3, self.template.hash)
            .to(4, self.template_arguments.hash)
            .to(5, self.effort)
            .salt()
    }

    fn check_required(&self) -> Result<(), ReadError> {
        if self.reading.model.is_empty() {
            return Err(ReadError::Missing { param: "model" });
        }
        let continues = self.endpoint == Endpoint::Responses
            && self.reading.session.previous_response_id.is_some();
        if self.ids.is_some() {
            return Ok(());
        }
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
