//! A profile: the coefficients of one model on one hardware and engine configuration.

use serde::Deserialize;
use thiserror::Error;

use crate::cost::{CostVector, Work};
use crate::reading::Reading;

/// Why a profile cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("profile key '{key}': {reason}")]
pub struct ProfileError {
    /// The key at fault, dotted.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Coefficients, capacity and limits of one model on one hardware and engine configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The profile's name.
    pub name: String,
    /// Names under which the model is served.
    pub models: Vec<String>,
    /// Names of adapters (LoRA) of the model, served by the same replicas.
    #[serde(default)]
    pub adapters: Vec<String>,
    /// MU that a replica does in a minute when saturated.
    pub capacity_mu_per_min: f64,
    /// Tokens that the KV cache holds.
    pub kv_tokens: u64,
    /// Tokens in a KV block.
    pub block_tokens: u32,
    /// Most sequences in a step.
    pub max_batch_size: u32,
    /// Most tokens in a step.
    pub max_num_tokens: u32,
    /// Sequences in a step when the replica is well loaded.
    pub reference_batch: f64,
    /// Cost coefficients, MU.
    pub cost: CostCoefficients,
}

/// Cost coefficients in MU, of the model's reference replica.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostCoefficients {
    /// `a`: MU for each prompt token computed.
    pub prefill_per_tok: f64,
    /// `b/2`: MU for each million of squared context tokens computed.
    pub prefill_per_tok2_e6: f64,
    /// `d`: MU for each output token at the reference batch.
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

/// Tokens of a prompt, by part.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PromptTokens {
    /// System prompt.
    pub system: f64,
    /// User messages.
    pub user: f64,
    /// Assistant messages.
    pub assistant: f64,
    /// Results of tools.
    pub tool: f64,
    /// Definitions of tools.
    pub tools: f64,
    /// Prompt of a completion or an embedding.
    pub prompt: f64,
    /// Token ids given as such.
    pub explicit: f64,
    /// Images.
    pub images: f64,
    /// Audio.
    pub audio: f64,
    /// What the chat template adds.
    pub template: f64,
    /// What was not seen of a truncated body.
    pub missing: f64,
    /// Image tiles to be encoded.
    pub image_tiles: u64,
}

impl PromptTokens {
    /// All parts together, rounded.
    #[must_use]
    pub fn total(&self) -> u64 {
        let total = self.system
            + self.user
            + self.assistant
            + self.tool
            + self.tools
            + self.prompt
            + self.explicit
            + self.images
            + self.audio
            + self.template
            + self.missing;
        total.round() as u64
    }
}

impl Profile {
    /// Estimates the prompt tokens of a request; text is scaled by `correction` (1 for none).
    #[must_use]
    pub fn tokens(&self, reading: &Reading, correction: f64) -> PromptTokens {
        let per_byte = 0.25 * correction;
        let text = |features: &crate::Features| features.bytes as f64 * per_byte;
        PromptTokens {
            system: text(&reading.text.system),
            user: text(&reading.text.user),
            assistant: text(&reading.text.assistant),
            tool: text(&reading.text.tool),
            tools: text(&reading.text.tools),
            prompt: text(&reading.text.prompt),
            explicit: reading.explicit_tokens as f64,
            ..PromptTokens::default()
        }
    }

    /// Tokens that a replica holds in its cache, when it holds the chain's first `blocks` blocks.
    #[must_use]
    pub fn cached_tokens(&self, reading: &Reading, tokens: &PromptTokens, blocks: usize) -> u64 {
        let held: u64 = reading
            .prefix
            .blocks()
            .iter()
            .take(blocks)
            .map(|b| u64::from(b.bytes))
            .sum();
        (held / 4).min(tokens.total().saturating_sub(1))
    }

    /// The cost of some work on a replica of this profile's model.
    #[must_use]
    pub fn cost(&self, work: &Work) -> CostVector {
        let cost = &self.cost;
        let cached_tokens = work.cached_tokens.min(work.prompt_tokens);
        let (p, c) = (work.prompt_tokens as f64, cached_tokens as f64);
        let o = work.output_tokens as f64;
        let choices = work.choices.max(1);
        CostVector {
            prefill_mu: cost.prefill_per_tok * (p - c)
                + cost.prefill_per_tok2_e6 * 1e-6 * (p * p - c * c),
            decode_mu: f64::from(choices)
                * o
                * (cost.decode_per_tok + cost.decode_per_ktok_ctx * 1e-3 * (p + o / 2.0)),
            image_mu: cost.image_per_tile * work.image_tiles as f64,
            audio_mu: cost.audio_per_second * work.audio_seconds,
            overhead_mu: cost.overhead,
            prompt_tokens: work.prompt_tokens,
            cached_tokens,
            output_tokens: work.output_tokens.saturating_mul(u64::from(choices)),
            kv_tokens: work
                .prompt_tokens
                .saturating_add(work.output_tokens.saturating_mul(u64::from(choices))),
        }
    }
}
