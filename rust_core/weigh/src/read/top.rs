//! The body's top-level object.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::Scan;
use super::canonical::CanonicalSeed;
use super::conversation::{Conversation, Role};
use super::extra::{FramesSeed, IdsSeed, LoraSeed, Rendered};
use super::message::MessagesSeed;
use super::prompt::PromptSeed;
use super::scalar::{Count, CountSeed, FlagSeed, HintSeed, StreamOptionsSeed};
use super::visit::{KeySeed, skip, string};
use crate::endpoint::Endpoint;
use crate::error::ReadError;
use crate::features::Features;

/// The whole body.
pub(super) struct TopSeed<'a>(pub(super) &'a mut Scan);

impl<'de> DeserializeSeed<'de> for TopSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

/// Top-level keys that weighing knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Model,
    Stream,
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    MinTokens,
    IgnoreEos,
    N,
    BestOf,
    Messages,
    Prompt,
    Suffix,
    Input,
    Instructions,
    System,
    Tools,
    PromptCache,
    PreviousResponseId,
    Conversation,
    User,
    Metadata,
    CacheSalt,
    PromptTokenIds,
    Documents,
    ChatTemplate,
    ChatTemplateArguments,
    Effort,
    Lora,
    ConversationParams,
    MediaArguments,
    Other,
}

fn key(name: &[u8]) -> Key {
    match name {
        b"model" => Key::Model,
        b"stream" => Key::Stream,
        b"stream_options" => Key::StreamOptions,
        b"max_tokens" => Key::MaxTokens,
        b"max_completion_tokens" => Key::MaxCompletionTokens,
        b"max_output_tokens" => Key::MaxOutputTokens,
        b"min_tokens" => Key::MinTokens,
        b"ignore_eos" => Key::IgnoreEos,
        b"n" => Key::N,
        b"best_of" => Key::BestOf,
        b"messages" => Key::Messages,
        b"prompt" => Key::Prompt,
        b"suffix" => Key::Suffix,
        b"input" => Key::Input,
        b"instructions" => Key::Instructions,
        b"system" => Key::System,
        b"tools" | b"functions" => Key::Tools,
        b"prompt_cache_key" => Key::PromptCache,
        b"previous_response_id" => Key::PreviousResponseId,
        b"conversation" => Key::Conversation,
        b"user" => Key::User,
        b"metadata" => Key::Metadata,
        b"cache_salt" => Key::CacheSalt,
        b"prompt_token_ids" | b"prompt_token_ids_b64" => Key::PromptTokenIds,
        b"documents" => Key::Documents,
        b"chat_template" => Key::ChatTemplate,
        b"chat_template_kwargs" => Key::ChatTemplateArguments,
        b"reasoning_effort" | b"reasoning" => Key::Effort,
        b"lora_request" => Key::Lora,
        b"conversation_params" => Key::ConversationParams,
        b"media_io_kwargs" | b"mm_processor_kwargs" => Key::MediaArguments,
        _ => Key::Other,
    }
}

impl Key {
    /// Whether `endpoint` has this key; a key of another endpoint is skipped like an unknown one, as
    /// engines skip it: a limit that they do not read must not be believed.
    fn belongs_to(self, endpoint: Endpoint) -> bool {
        match self {
            Self::MaxTokens => !matches!(endpoint, Endpoint::Responses | Endpoint::Embeddings),
            Self::MaxOutputTokens => endpoint == Endpoint::Responses,
            Self::MinTokens
            | Self::IgnoreEos
            | Self::N
            | Self::BestOf
            | Self::Lora
            | Self::ConversationParams => {
                matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Completions)
            }
            Self::MaxCompletionTokens
            | Self::PromptTokenIds
            | Self::Documents
            | Self::ChatTemplate
            | Self::ChatTemplateArguments
            | Self::MediaArguments => endpoint == Endpoint::ChatCompletions,
            Self::Effort => matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Responses),
            Self::Messages => matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Messages),
            Self::Prompt | Self::Suffix => endpoint == Endpoint::Completions,
            Self::Input => matches!(endpoint, Endpoint::Responses | Endpoint::Embeddings),
            Self::Instructions => endpoint == Endpoint::Responses,
            Self::System => endpoint == Endpoint::Messages,
            Self::Tools => !matches!(endpoint, Endpoint::Completions | Endpoint::Embeddings),
            _ => true,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Stream => "stream",
            Self::StreamOptions => "stream_options",
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxOutputTokens => "max_output_tokens",
            Self::MinTokens => "min_tokens",
            Self::IgnoreEos => "ignore_eos",
            Self::N => "n",
            Self::BestOf => "best_of",
            Self::Messages => "messages",
            Self::Prompt => "prompt",
            Self::Suffix => "suffix",
            Self::Input => "input",
            Self::Instructions => "instructions",
            Self::System => "system",
            Self::Tools => "tools",
            Self::PromptCache => "prompt_cache_key",
            Self::PreviousResponseId => "previous_response_id",
            Self::Conversation => "conversation",
            Self::User => "user",
            Self::Metadata => "metadata",
            Self::CacheSalt => "cache_salt",
            Self::PromptTokenIds => "prompt_token_ids",
            Self::Documents => "documents",
            Self::ChatTemplate => "chat_template",
            Self::ChatTemplateArguments => "chat_template_kwargs",
            Self::Effort => "reasoning_effort",
            Self::Lora => "lora_request",
            Self::ConversationParams => "conversation_params",
            Self::MediaArguments => "media_io_kwargs",
            Self::Other => "body",
        }
    }
}

impl<'de> Visitor<'de> for TopSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let scan = self.0;
        scan.entered = true;
        loop {
            let key = match map.next_key_seed(KeySeed(key)) {
                Ok(Some(key)) => key,
                Ok(None) => return Ok(()),
                Err(error) => {
                    scan.forget_last();
                    return Err(error);
                }
            };
            scan.last = if key.belongs_to(scan.endpoint) {
                key
            } else {
                Key::Other
            };
            scan.param = scan.last.name();
            scan.conversation.step()?;
            if let Err(error) = scan.value(scan.last, &mut map) {
                scan.forget_last();
                return Err(error);
            }
        }
    }
}

impl Scan {
    /// Reads the value of a top-level key.
    fn value<'de, A: MapAccess<'de>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Model => self.model(map)?,
            Key::Stream => self.reading.stream = map.next_value_seed(FlagSeed)?,
            Key::StreamOptions => {
                self.reading.include_usage = map.next_value_seed(StreamOptionsSeed)?;
            }
            Key::MaxTokens => self.max_tokens = self.count(map)?,
            Key::MaxCompletionTokens | Key::MaxOutputTokens => {
                self.max_completion_tokens = self.count(map)?;
            }
            Key::MinTokens => self.reading.min_output_tokens = self.count(map)?.unwrap_or(0),
            Key::IgnoreEos => self.reading.ignore_eos = map.next_value_seed(FlagSeed)?,
            Key::N => self.n = self.choices(map)?,
            Key::BestOf => self.best_of = self.choices(map)?,
            Key::Messages => self.messages(map, false)?,
            Key::Input if self.endpoint == Endpoint::Responses => self.messages(map, true)?,
            Key::Prompt | Key::Input => {
                self.prompt_seen = true;
                let prompts = map.next_value_seed(PromptSeed(&mut self.conversation))?;
                self.prompt_seen = prompts.is_some();
            }
            Key::Suffix => {
                let conversation = &self.conversation;
                let suffix = map.next_value_seed(string(|text| {
                    (Features::of(text.bytes()), conversation.count(text.bytes()))
                }))?;
                (self.suffix_text, self.suffix_exact) = suffix.unwrap_or_default();
            }
            Key::Instructions | Key::System => map.next_value_seed(InstructionsSeed(self))?,
            Key::Tools => map.next_value_seed(ToolsSeed(self))?,
            Key::PromptCache => {
                let max_bytes = self.limits.max_hint_bytes;
                let hint = &mut self.reading.session.prompt_cache_key;
                map.next_value_seed(HintSeed {
                    key: |_| false,
                    hint,
                    max_bytes,
                })?;
            }
            Key::PreviousResponseId => {
                let max_bytes = self.limits.max_hint_bytes;
                let hint = &mut self.reading.session.previous_response_id;
                map.next_value_seed(HintSeed {
                    key: |_| false,
                    hint,
                    max_bytes,
                })?;
            }
            Key::Conversation => {
                let max_bytes = self.limits.max_hint_bytes;
                let hint = &mut self.reading.session.conversation;
                map.next_value_seed(HintSeed {
                    key: |key| key == b"id",
                    hint,
                    max_bytes,
                })?;
            }
            Key::User => {
                let max_bytes = self.limits.max_hint_bytes;
                let hint = &mut self.reading.session.user;
                map.next_value_seed(HintSeed {
                    key: |_| false,
                    hint,
                    max_bytes,
                })?;
            }
            Key::Metadata => {
                let max_bytes = self.limits.max_hint_bytes;
                let hint = &mut self.metadata_user;
                map.next_value_seed(HintSeed {
                    key: |key| key == b"user_id",
                    hint,
                    max_bytes,
                })?;
            }
            Key::CacheSalt => {
                let max_bytes = self.limits.max_hint_bytes;
                let hint = &mut self.cache_salt;
                map.next_value_seed(HintSeed {
                    key: |_| false,
                    hint,
                    max_bytes,
                })?;
            }
            Key::PromptTokenIds => {
                let ids = self
                    .ids
                    .get_or_insert_with(|| Box::new(Conversation::new(&self.limits, None)));
                let given = map.next_value_seed(IdsSeed(ids));
                if let Some(excess) = ids.excess.take() {
                    self.conversation.excess = Some(excess);
                }
                if !given? {
                    self.ids = None;
                }
            }
            Key::Documents => self.documents = self.rendered(map)?,
            Key::ChatTemplate => self.template = self.rendered(map)?,
            Key::ChatTemplateArguments => self.template_arguments = self.rendered(map)?,
            Key::Effort => self.effort = self.rendered(map)?.hash,
            Key::Lora => {
                let max_bytes = self.limits.max_hint_bytes;
                let lora = &mut self.reading.lora;
                map.next_value_seed(LoraSeed { lora, max_bytes })?;
            }
            Key::ConversationParams => {
                let max_bytes = self.limits.max_hint_bytes;
                let hint = &mut self.reading.session.conversation;
                map.next_value_seed(HintSeed {
                    key: |key| key == b"conversation_id",
                    hint,
                    max_bytes,
                })?;
            }
            Key::MediaArguments => map.next_value_seed(FramesSeed(&mut self.video_frames))?,
            Key::Other => skip(map)?,
        }
        Ok(())
    }

    /// A value that a template renders, as canonical JSON.
    fn rendered<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<Rendered, A::Error> {
        self.scratch.clear();
        map.next_value_seed(CanonicalSeed(&mut self.scratch))?;
        Ok(match self.scratch.as_slice() {
            b"null" => Rendered::default(),
            text => Rendered::of(text, &self.conversation),
        })
    }

    /// Takes back a value that the cut may have shortened; text and media stay.
    fn forget_last(&mut self) {
        if self.complete {
            return;
        }
        match self.last {
            Key::Model => self.reading.model.clear(),
            Key::Stream => self.reading.stream = false,
            Key::StreamOptions => self.reading.include_usage = false,
            Key::MaxTokens => self.max_tokens = None,
            Key::MaxCompletionTokens | Key::MaxOutputTokens => self.max_completion_tokens = None,
            Key::MinTokens => self.reading.min_output_tokens = 0,
            Key::IgnoreEos => self.reading.ignore_eos = false,
            Key::N => self.n = None,
            Key::BestOf => self.best_of = None,
            Key::PromptCache => self.reading.session.prompt_cache_key = None,
            Key::PreviousResponseId => self.reading.session.previous_response_id = None,
            Key::Conversation => self.reading.session.conversation = None,
            Key::User => self.reading.session.user = None,
            Key::Metadata => self.metadata_user = None,
            Key::CacheSalt => self.cache_salt = None,
            Key::Lora => self.reading.lora = None,
            Key::ConversationParams => self.reading.session.conversation = None,
            Key::PromptTokenIds
            | Key::Documents
            | Key::ChatTemplate
            | Key::ChatTemplateArguments
            | Key::Effort
            | Key::MediaArguments
            | Key::Messages
            | Key::Prompt
            | Key::Suffix
            | Key::Input
            | Key::Instructions
            | Key::System
            | Key::Tools
            | Key::Other => {}
        }
    }

    fn model<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        let max = self.limits.max_model_bytes;
        let name = map.next_value_seed(string(|name| {
            let fits = name.bytes().len() <= max;
            fits.then(|| String::from_utf8(name.bytes().to_vec()).ok())
                .flatten()
        }))?;
        match name {
            None => self.reading.model.clear(),
            Some(Some(model)) => self.reading.model = model,
            Some(None) => {
                let reason = format!("expected UTF-8 of at most {max} bytes");
                return Err(self.fail(ReadError::InvalidValue {
                    param: "model",
                    reason,
                }));
            }
        }
        Ok(())
    }

    fn messages<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        or_text: bool,
    ) -> Result<(), A::Error> {
        // Seen even if the cut comes before the value's end.
        self.prompt_seen = true;
        let conversation = &mut self.conversation;
        self.prompt_seen = map.next_value_seed(MessagesSeed {
            conversation,
            or_text,
        })?;
        Ok(())
    }

    fn count<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<Option<u64>, A::Error> {
        match map.next_value_seed(CountSeed)? {
            Count::Absent => Ok(None),
            Count::Is(count) => Ok(Some(count)),
            Count::Impossible => {
                let reason = "expected a whole number of at least 0".to_owned();
                Err(self.fail(ReadError::InvalidValue {
                    param: self.param,
                    reason,
                }))
            }
        }
    }

    fn choices<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<Option<u32>, A::Error> {
        let max = self.limits.max_choices;
        match map.next_value_seed(CountSeed)? {
            Count::Absent => Ok(None),
            Count::Is(count) if (1..=u64::from(max)).contains(&count) => Ok(Some(count as u32)),
            _ => {
                let reason = format!("expected a whole number from 1 to {max}");
                Err(self.fail(ReadError::InvalidValue {
                    param: self.param,
                    reason,
                }))
            }
        }
    }
}

/// `instructions` or `system`: text, or a list of text blocks, or null.
struct InstructionsSeed<'a>(&'a mut Scan);

impl<'de> DeserializeSeed<'de> for InstructionsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        self.0.instructions.clear();
        self.0.instructions_text = Features::default();
        self.0.instructions_exact = 0;
        json.deserialize_option(self)
    }
}

impl InstructionsSeed<'_> {
    fn add(&mut self, text: &[u8]) {
        self.0.instructions_text += Features::of(text);
        self.0.instructions_exact += self.0.conversation.count(text);
        self.0.instructions.feed(&[0xFE, Role::System as u8]);
        self.0.instructions.feed(text);
    }
}

#[derive(Clone, Copy)]
enum BlockKey {
    Text,
    Other,
}

/// One block of a list of system texts.
struct SystemBlockSeed<'a, 'b>(&'a mut InstructionsSeed<'b>);

impl<'de> DeserializeSeed<'de> for SystemBlockSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SystemBlockSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text block")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.add(text.as_bytes());
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let key = |name: &[u8]| {
            if name == b"text" {
                BlockKey::Text
            } else {
                BlockKey::Other
            }
        };
        while let Some(key) = map.next_key_seed(KeySeed(key))? {
            match key {
                BlockKey::Text => {
                    map.next_value_seed(string(|text| self.0.add(text.bytes())))?;
                }
                BlockKey::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for InstructionsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of text blocks")
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_bytes(self)
    }

    fn visit_bytes<E: Error>(mut self, text: &[u8]) -> Result<(), E> {
        self.add(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(SystemBlockSeed(&mut self))?.is_some() {
            self.0.conversation.step()?;
        }
        Ok(())
    }
}

/// Bytes of definitions of tools that are weighed at once, so that many small ones cost no more.
const TOOLS_AT_ONCE: usize = 4096;

/// `tools`: a list of definitions, each any JSON, or null.
struct ToolsSeed<'a>(&'a mut Scan);

impl<'de> DeserializeSeed<'de> for ToolsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        self.0.tools.clear();
        self.0.reading.text.tools = Features::default();
        self.0.tools_exact = 0;
        self.0.reading.tools = 0;
        json.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for ToolsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of tools")
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let scan = self.0;
        scan.scratch.clear();
        loop {
            let before = scan.scratch.len();
            if scan.reading.tools > 0 {
                // Canonical JSON has no line feeds of its own.
                scan.scratch.push(b'\n');
            }
            let start = scan.scratch.len();
            let element = seq.next_element_seed(CanonicalSeed(&mut scan.scratch));
            if scan.scratch.len() > start {
                scan.reading.tools = scan.reading.tools.saturating_add(1);
            } else {
                scan.scratch.truncate(before);
            }
            let over = !matches!(element, Ok(Some(())));
            if over || scan.scratch.len() >= TOOLS_AT_ONCE {
                scan.weigh_tools();
            }
            if element?.is_none() {
                return Ok(());
            }
            scan.conversation.step()?;
        }
    }
}

impl Scan {
    /// Weighs the definitions of tools that were written to the scratch.
    fn weigh_tools(&mut self) {
        self.reading.text.tools += Features::of(&self.scratch);
        self.tools_exact += self.conversation.count(&self.scratch);
        self.tools.feed(&self.scratch);
        self.scratch.clear();
    }
}
