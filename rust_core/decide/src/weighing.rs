//! A request's costs as a function of what a replica has cached of it.

use std::sync::Arc;
use weighbridge_weigh::{CostVector, Profile, PromptTokens, Reading, Work};

/// The costs of one request, in MU of its model's reference replica.
#[derive(Clone, Debug)]
pub struct Weighing {
    profile: Arc<Profile>,
    tokens: PromptTokens,
    /// Work on a replica that has nothing cached.
    cold: Work,
    reading: Reading,
}

impl Weighing {
    /// Weighs a reading by `profile`; an answer is taken to have `output_guess` tokens, or as many
    /// as the client allows if that is less.
    #[must_use]
    pub fn new(profile: &Arc<Profile>, reading: Reading, output_guess: u64) -> Self {
        let tokens = profile.tokens(&reading, 1.0);
        let output_tokens = reading
            .max_output_tokens
            .map_or(output_guess, |most| most.min(output_guess))
            .max(reading.min_output_tokens);
        Self {
            cold: Work {
                prompt_tokens: tokens.total(),
                cached_tokens: 0,
                output_tokens,
                choices: reading.choices,
                image_tiles: tokens.image_tiles,
                audio_seconds: reading.audio_seconds,
            },
            profile: Arc::clone(profile),
            tokens,
            reading,
        }
    }

    /// What the request's body says.
    #[must_use]
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// The prompt's tokens by part.
    #[must_use]
    pub fn tokens(&self) -> &PromptTokens {
        &self.tokens
    }

    /// The profile that gave the costs.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The cost on a replica that has the first `blocks` blocks of the prefix chain cached.
    #[must_use]
    pub fn cost(&self, blocks: u32) -> CostVector {
        // Most candidates have nothing cached, and a long prompt has thousands of blocks.
        let cached_tokens = match blocks {
            0 => 0,
            _ => (self.profile).cached_tokens(&self.reading, &self.tokens, blocks as usize),
        };
        self.profile.cost(&Work {
            cached_tokens,
            ..self.cold
        })
    }

    /// MU before the first token, given so many cached blocks.
    #[must_use]
    pub fn prefill_mu(&self, blocks: u32) -> f64 {
        self.cost(blocks).before_first_token()
    }

    /// MU of the output; the cache makes no difference to it.
    #[must_use]
    pub fn decode_mu(&self) -> f64 {
        self.cost(0).decode_mu
    }

    /// KV tokens held until the end.
    #[must_use]
    pub fn kv_tokens(&self) -> u64 {
        self.cost(0).kv_tokens
    }
}
