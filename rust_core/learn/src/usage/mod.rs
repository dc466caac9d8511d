//! Reads a reply as it passes: its usage, its pace, and what to estimate where it has no usage.

mod coding;
mod parser;
mod scan;

pub use coding::ReplyReader;
pub use scan::response_key;

use scan::Numbers;

/// No reply has more tokens; what says so counts as this.
const MOST_TOKENS: u64 = 100_000_000;
/// Bytes of text for a token where nothing better is known.
const BYTES_PER_TOKEN: u64 = 4;

/// What a reply says of its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: Option<u64>,
    /// Of these, how many were read from the cache.
    pub cached_tokens: Option<u64>,
    /// Tokens of all answers, reasoning included.
    pub output_tokens: Option<u64>,
    /// Of these, how many were reasoning.
    pub reasoning_tokens: Option<u64>,
}

impl Usage {
    fn of(numbers: &Numbers) -> Self {
        let cap = |tokens: Option<u64>| tokens.map(|tokens| tokens.min(MOST_TOKENS));
        // Anthropic's input tokens are those that the cache did not have; OpenAI's are all.
        let beside = numbers.cache_read.unwrap_or(0).min(MOST_TOKENS)
            + numbers.cache_creation.unwrap_or(0).min(MOST_TOKENS);
        let prompt_tokens = cap(numbers.prompt).map(|prompt| prompt.saturating_add(beside));
        let cached = cap(numbers.cache_read.or(numbers.cached));
        let output_tokens = cap(numbers.output);
        Self {
            prompt_tokens,
            cached_tokens: match (cached, prompt_tokens) {
                (Some(cached), Some(prompt)) => Some(cached.min(prompt)),
                (cached, _) => cached,
            },
            output_tokens,
            reasoning_tokens: cap(numbers.reasoning),
        }
    }
}

/// What was seen of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// What it says of its tokens.
    pub usage: Usage,
    /// Its `id` by [`response_key`], where it is a response that a later request may go on from.
    pub response: Option<u64>,
    /// Events that carried output: about a token each, where the engine streams token by token.
    pub output_events: u64,
    /// Bytes of text that the model wrote.
    pub text_bytes: u64,
    /// Bytes of the body, content-encoding undone.
    pub body_bytes: u64,
    /// When the first and the last output came, µs on the caller's clock.
    pub output_from_us: Option<u64>,
    /// See `output_from_us`.
    pub output_until_us: Option<u64>,
    /// It came to its end: the stream said so, or its JSON is whole.
    pub is_whole: bool,
    /// It carries an error, whatever its status.
    pub is_error: bool,
    /// A part could not be read: an unknown or broken content-encoding, or too much of it.
    pub is_unread: bool,
}

impl Reply {
    /// Output tokens: as the reply says, or else as its events and text suggest.
    #[must_use]
    pub fn output_tokens(&self) -> u64 {
        (self.usage.output_tokens).unwrap_or_else(|| self.seen_tokens())
    }

    /// Output tokens as events and text suggest.
    fn seen_tokens(&self) -> u64 {
        self.output_events.max(self.text_bytes / BYTES_PER_TOKEN)
    }

    /// Time per output token after the first, µs; `None` where there was no more than one event.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn us_per_token(&self) -> Option<f64> {
        let (from, until) = (self.output_from_us?, self.output_until_us?);
        let tokens = self.output_tokens().max(self.output_events);
        if self.output_events < 2 {
            return None;
        }
        Some(until.saturating_sub(from) as f64 / (tokens - 1) as f64)
    }
}
