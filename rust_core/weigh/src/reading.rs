//! What a request's body says, as far as weighing needs it.

use crate::chain::PrefixChain;
use crate::exact::ExactTokens;
use crate::features::Features;
use crate::image::Image;

/// A request body, whole or cut off.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    /// The bytes at hand, after any content-encoding was undone.
    pub bytes: &'a [u8],
    /// Whether `bytes` is the whole body.
    pub complete: bool,
    /// Length of the whole body in bytes (`content-length`), where known.
    pub total_bytes: Option<u64>,
}

impl<'a> Body<'a> {
    /// A whole body.
    #[must_use]
    pub fn whole(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            complete: true,
            total_bytes: Some(bytes.len() as u64),
        }
    }

    /// The beginning of a body whose length may be known.
    #[must_use]
    pub fn beginning(bytes: &'a [u8], total_bytes: Option<u64>) -> Self {
        Self {
            bytes,
            complete: false,
            total_bytes,
        }
    }
}

/// Who speaks a piece of text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Part {
    /// System and developer messages, instructions.
    System,
    /// User messages, and messages without a known role.
    #[default]
    User,
    /// Assistant messages and the tool calls in them.
    Assistant,
    /// Results of tools.
    Tool,
    /// Definitions of tools, as canonical JSON.
    Tools,
    /// The prompt of a completion, the input of an embedding.
    Prompt,
}

/// Byte classes of a request's text, by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Texts {
    /// See [`Part::System`].
    pub system: Features,
    /// See [`Part::User`].
    pub user: Features,
    /// See [`Part::Assistant`].
    pub assistant: Features,
    /// See [`Part::Tool`].
    pub tool: Features,
    /// See [`Part::Tools`].
    pub tools: Features,
    /// See [`Part::Prompt`].
    pub prompt: Features,
}

impl Texts {
    /// The text of one part.
    #[must_use]
    pub fn get(&self, part: Part) -> &Features {
        match part {
            Part::System => &self.system,
            Part::User => &self.user,
            Part::Assistant => &self.assistant,
            Part::Tool => &self.tool,
            Part::Tools => &self.tools,
            Part::Prompt => &self.prompt,
        }
    }

    pub(crate) fn get_mut(&mut self, part: Part) -> &mut Features {
        match part {
            Part::System => &mut self.system,
            Part::User => &mut self.user,
            Part::Assistant => &mut self.assistant,
            Part::Tool => &mut self.tool,
            Part::Tools => &mut self.tools,
            Part::Prompt => &mut self.prompt,
        }
    }

    /// All parts together.
    #[must_use]
    pub fn total(&self) -> Features {
        let mut total = Features::default();
        for part in [
            self.system,
            self.user,
            self.assistant,
            self.tool,
            self.tools,
            self.prompt,
        ] {
            total += part;
        }
        total
    }
}

/// What ties a request to earlier ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionHints {
    /// `prompt_cache_key`.
    pub prompt_cache_key: Option<String>,
    /// `previous_response_id`.
    pub previous_response_id: Option<String>,
    /// `conversation`, or its `id`.
    pub conversation: Option<String>,
    /// `user`, or Anthropic's `metadata.user_id`.
    pub user: Option<String>,
    /// Hash of the conversation's opening: the system prompt and the messages up to and including
    /// the first user message, or a prompt's first four blocks. Equal in every turn of a chat.
    pub opening: u64,
}

/// The adapter that a request asks for beside its model (`lora_request`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lora {
    /// `lora_name`.
    pub name: Option<String>,
    /// `lora_int_id`, by which engines know the adapter.
    pub id: Option<u64>,
}

/// What weighing needs of a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// The model asked for; empty where a truncated body was cut before it.
    pub model: String,
    /// The adapter asked for beside it.
    pub lora: Option<Lora>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether a stream is to end with its usage (`stream_options.include_usage`).
    pub include_usage: bool,
    /// Most tokens that an answer may have, where the client says so; 0 for embeddings, which have
    /// none.
    pub max_output_tokens: Option<u64>,
    /// Fewest tokens that the answer must have (`min_tokens`).
    pub min_output_tokens: u64,
    /// Whether the answer runs to its limit whatever the model says (`ignore_eos`, embeddings).
    pub ignore_eos: bool,
    /// Answers generated: the larger of `n` and `best_of`, times the number of prompts.
    pub choices: u32,
    /// Prompts, each computed by itself: more than 1 for a list of them.
    pub prompts: u32,
    /// Sum of the squares of the prompts' shares in the whole: 1 where one is all of it.
    pub squared_shares: f64,
    /// Whether tools are defined.
    pub has_tools: bool,
    /// Number of tools defined.
    pub tools: u32,
    /// What ties the request to earlier ones.
    pub session: SessionHints,
    /// Text by part.
    pub text: Texts,
    /// Text by part in tokens, where a tokenizer counted them ([`crate::read_exact`]).
    pub exact: Option<ExactTokens>,
    /// Images, videos and documents.
    pub images: Vec<Image>,
    /// Frames of each video, where the client says so (`media_io_kwargs`, `mm_processor_kwargs`).
    pub video_frames: u32,
    /// Images beyond [`crate::Limits::max_images`], not kept one by one.
    pub more_images: u64,
    /// Seconds of audio.
    pub audio_seconds: f64,
    /// Prompt tokens given as token ids.
    pub explicit_tokens: u64,
    /// Messages, input items or prompts.
    pub messages: u32,
    /// Hashes of the prompt's beginnings.
    pub prefix: PrefixChain,
    /// Whether the engine puts the request through a chat template.
    pub templated: bool,
    /// Bytes of the body that were seen.
    pub seen_bytes: u64,
    /// Of these, bytes of inline media, base64 as it stands.
    pub media_bytes: u64,
    /// Bytes of the body that were not seen (0 for a whole body, or where the length is unknown).
    pub missing_bytes: u64,
    /// Whether the body was cut inside inline media, so that the missing bytes are mostly more of it.
    pub cut_in_media: bool,
}
