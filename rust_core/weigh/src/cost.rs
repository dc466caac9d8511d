//! The cost vector: what a request takes of a replica, term by term.

use serde::{Deserialize, Serialize};

use crate::check::not_negative;
use crate::profile::ProfileError;

/// Cost coefficients in MU, that is in ms of the model's reference replica.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostCoefficients {
    /// `a`: MU for each prompt token computed.
    pub prefill_per_tok: f64,
    /// `b/2`: MU for each million of squared context tokens computed.
    pub prefill_per_tok2_e6: f64,
    /// `d`: MU for each output token at the reference batch: its own work, and its share of the
    /// step's base and of the experts that the batch touches.
    pub decode_per_tok: f64,
    /// `e`: MU for each output token and thousand tokens of context.
    pub decode_per_ktok_ctx: f64,
    /// `i`: MU for each image tile.
    #[serde(default)]
    pub image_per_tile: f64,
    /// `s`: MU for each second of audio.
    #[serde(default)]
    pub audio_per_second: f64,
    /// `r`: MU for each request.
    #[serde(default)]
    pub overhead: f64,
}

impl CostCoefficients {
    pub(crate) fn validate(&self) -> Result<(), ProfileError> {
        for (key, value) in [
            ("cost.prefill_per_tok", self.prefill_per_tok),
            ("cost.prefill_per_tok2_e6", self.prefill_per_tok2_e6),
            ("cost.decode_per_tok", self.decode_per_tok),
            ("cost.decode_per_ktok_ctx", self.decode_per_ktok_ctx),
            ("cost.image_per_tile", self.image_per_tile),
            ("cost.audio_per_second", self.audio_per_second),
            ("cost.overhead", self.overhead),
        ] {
            not_negative(key, value)?;
        }
        Ok(())
    }

    /// The cost of some work.
    ///
    /// Each answer reads its prompt's context by itself; all of them share the prompt's computation
    /// and its KV tokens. Prompts of a batch are computed each by itself.
    #[must_use]
    pub fn vector(&self, work: &Work) -> CostVector {
        let cached_tokens = work.cached_tokens.min(work.prompt_tokens);
        let (p, c) = (work.prompt_tokens as f64, cached_tokens as f64);
        let prompts = f64::from(work.prompts.max(1));
        // Of a batch, what is cached is some of the prompts, as long as the others.
        let (p2, c2) = match work.prompts {
            0 | 1 => (p * p, c * c),
            _ => (p * p * work.squares(), c * p * work.squares()),
        };
        let o = work.output_tokens as f64;
        let choices = work.choices.max(1);
        let output_tokens = work.output_tokens.saturating_mul(u64::from(choices));
        let per_token =
            self.decode_per_tok + self.decode_per_ktok_ctx * 1e-3 * (p / prompts + o / 2.0);
        CostVector {
            prefill_mu: self.prefill_per_tok * (p - c)
                + self.prefill_per_tok2_e6 * 1e-6 * (p2 - c2),
            decode_mu: f64::from(choices) * o * per_token,
            image_mu: self.image_per_tile * work.image_tiles as f64,
            audio_mu: self.audio_per_second * work.audio_seconds.max(0.0),
            overhead_mu: prompts * self.overhead,
            prompt_tokens: work.prompt_tokens,
            cached_tokens,
            output_tokens,
            kv_tokens: (work.prompt_tokens - cached_tokens).saturating_add(output_tokens),
            sequences: if output_tokens > 0 { choices } else { 0 },
        }
    }
}

/// The work of one request on a replica that holds a part of its prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Tokens of the prompt, images included, or of all prompts of a batch.
    pub prompt_tokens: u64,
    /// Prompts, each computed by itself; 0 counts as 1.
    pub prompts: u32,
    /// Sum of the squares of the prompts' shares in the tokens: 1 where one has all of them, 1 ÷ n for
    /// n alike; 0 counts as that.
    pub squared_shares: f64,
    /// Of the tokens, how many the replica holds in its cache.
    pub cached_tokens: u64,
    /// Tokens of one answer.
    pub output_tokens: u64,
    /// Answers generated from all prompts; 0 counts as 1.
    pub choices: u32,
    /// Image tiles to be encoded.
    pub image_tiles: u64,
    /// Seconds of audio to be encoded.
    pub audio_seconds: f64,
}

impl Work {
    /// The work, if it were within what sequences of `longest` tokens hold: a request may claim
    /// anything. Each of its prompts leaves room for a token of an answer.
    #[must_use]
    pub fn within(self, longest: u64) -> Self {
        let (longest, prompts) = (longest.max(2), u64::from(self.prompts.max(1)));
        let most = longest.saturating_mul(prompts);
        let prompt_tokens = self.prompt_tokens.min(most - prompts);
        // What is encoded is part of the prompt, and cut with it.
        let share = prompt_tokens as f64 / self.prompt_tokens.max(1) as f64;
        let share = if self.prompt_tokens > prompt_tokens {
            share
        } else {
            1.0
        };
        Self {
            prompt_tokens,
            cached_tokens: self.cached_tokens.min(prompt_tokens),
            output_tokens: (self.output_tokens).min(longest - prompt_tokens.div_ceil(prompts)),
            image_tiles: ((self.image_tiles as f64 * share) as u64).min(most),
            audio_seconds: (self.audio_seconds * share).clamp(0.0, most as f64),
            ..self
        }
    }

    /// [`Work::squared_shares`] within what a number of prompts can have.
    fn squares(&self) -> f64 {
        let least = 1.0 / f64::from(self.prompts.max(1));
        self.squared_shares.clamp(least, 1.0)
    }
}

/// A request's cost in model units (MU), term by term, and its KV tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct CostVector {
    /// Computing the prompt's tokens that are not cached, MU.
    pub prefill_mu: f64,
    /// Generating the answers, MU.
    pub decode_mu: f64,
    /// Encoding images, MU.
    pub image_mu: f64,
    /// Encoding audio, MU.
    pub audio_mu: f64,
    /// Fixed cost of a request, MU.
    pub overhead_mu: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, cached.
    pub cached_tokens: u64,
    /// Tokens of all answers.
    pub output_tokens: u64,
    /// Tokens held in the KV cache at the request's end, beside those that were cached before.
    pub kv_tokens: u64,
    /// Sequences that the engine generates: the answers, none where they have no tokens.
    pub sequences: u32,
}

impl CostVector {
    /// All terms together, MU.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.prefill_mu + self.decode_mu + self.image_mu + self.audio_mu + self.overhead_mu
    }

    /// What the replica does before the first token of the answer, MU.
    #[must_use]
    pub fn before_first_token(&self) -> f64 {
        self.prefill_mu + self.image_mu + self.audio_mu + self.overhead_mu
    }
}
