//! A request's costs as a function of what a replica has cached of it.

use std::sync::Arc;
use weighbridge_place::{Amount, MicroMu};
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
    /// Weighs a reading by `profile`, whatever it claims within sequences of `longest` tokens;
    /// `output_tokens` of an answer are predicted from the reading and the tokens of a prompt, and
    /// `factor` corrects the estimate of the latter (1: not at all).
    #[must_use]
    pub fn new(
        profile: &Arc<Profile>,
        longest: u64,
        reading: Reading,
        factor: f64,
        output_tokens: impl FnOnce(&Reading, u64) -> u64,
    ) -> Self {
        let tokens = profile.tokens(&reading, factor);
        let prompts = reading.prompts.max(1);
        let prompt_tokens = tokens.total();
        let each = prompt_tokens.div_ceil(u64::from(prompts));
        let cold = Work {
            prompt_tokens,
            prompts,
            squared_shares: reading.squared_shares,
            cached_tokens: 0,
            output_tokens: output_tokens(&reading, each.min(longest)),
            choices: reading.choices,
            image_tiles: tokens.image_tiles,
            audio_seconds: reading.audio_seconds,
        };
        Self {
            cold: cold.within(longest),
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

    /// The work on a replica that has the first `blocks` blocks of the prefix chain cached.
    #[must_use]
    pub fn work(&self, blocks: u32) -> Work {
        // Most candidates have nothing cached, and a long prompt has thousands of blocks.
        let cached_tokens = match blocks {
            0 => 0,
            _ => (self.profile).cached_tokens(&self.reading, &self.tokens, blocks as usize),
        };
        Work {
            cached_tokens: cached_tokens.min(self.cold.prompt_tokens),
            ..self.cold
        }
    }

    /// The profile that gave the costs.
    #[must_use]
    pub fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }

    /// The cost on a replica that has the first `blocks` blocks of the prefix chain cached.
    #[must_use]
    pub fn cost(&self, blocks: u32) -> CostVector {
        self.profile.cost(&self.work(blocks))
    }

    /// What it takes of a replica, given so many cached blocks.
    #[must_use]
    pub fn amount(&self, blocks: u32) -> Amount {
        let cost = self.cost(blocks);
        Amount {
            prefill: MicroMu::from_mu(cost.before_first_token()),
            decode: MicroMu::from_mu(cost.decode_mu),
            kv_tokens: cost.kv_tokens,
            kv_reserved: self.kv_reserved(blocks),
            sequences: cost.sequences,
        }
    }

    /// MU before the first token, given so many cached blocks.
    #[must_use]
    pub fn prefill_mu(&self, blocks: u32) -> f64 {
        self.cost(blocks).before_first_token()
    }

    /// KV tokens that the engine sets aside, given so many cached blocks.
    #[must_use]
    pub fn kv_reserved(&self, blocks: u32) -> u64 {
        let most = self.reading.max_output_tokens;
        self.profile.kv_reserved(&self.work(blocks), most)
    }

    /// KV tokens that it is expected to hold when it ends.
    #[must_use]
    pub fn kv_tokens(&self) -> u64 {
        self.cost(0).kv_tokens
    }
}
