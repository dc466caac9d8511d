//! A profile: the coefficients of one model on one hardware and engine configuration.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::check::{counts, fault, named, not_negative, positive};
use crate::cost::{CostCoefficients, CostVector, Work};
use crate::media::{AudioRules, ImageRules};
use crate::reading::{Part, Reading};
use crate::tokens::{Family, PromptTokens, Template};

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The profile's name.
    pub name: String,
    /// Names under which the model is served, the first being its own.
    pub models: Vec<String>,
    /// Names of adapters (LoRA) of the model, served by the same replicas.
    #[serde(default)]
    pub adapters: Vec<String>,
    /// Whether a replica of this profile is the model's reference, whose milliseconds are its MU.
    #[serde(default)]
    pub reference: bool,
    /// What the figures hold for.
    #[serde(default)]
    pub hardware: Hardware,
    /// How the engine was run.
    #[serde(default)]
    pub engine: EngineSettings,
    /// Where the figures come from.
    #[serde(default)]
    pub source: Source,
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
    /// Most tokens of a prompt and one answer together; left out, as many as the cache holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_seq_len: Option<u32>,
    /// Sequences in a step when the replica is well loaded.
    pub reference_batch: f64,
    /// Cost coefficients, MU.
    pub cost: CostCoefficients,
    /// What this hardware takes, in ms; for simulation and for SLO, not for cost.
    #[serde(default)]
    pub latency: Option<Latency>,
    /// How text becomes tokens.
    #[serde(default)]
    pub tokens: TokenRules,
    /// How images become tokens and tiles.
    #[serde(default)]
    pub images: ImageRules,
    /// How audio becomes tokens.
    #[serde(default)]
    pub audio: AudioRules,
    /// What is assumed where a request does not say.
    #[serde(default)]
    pub defaults: Defaults,
}

/// The hardware of a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hardware {
    /// The GPU, such as `h100_sxm`.
    pub gpu: String,
    /// GPUs in a replica.
    pub gpus: u32,
    /// Tensor parallelism.
    pub tensor_parallel: u32,
    /// Expert parallelism.
    pub expert_parallel: u32,
}

/// The engine's settings that the figures depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSettings {
    /// The engine, such as `tensorrt-llm`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Data type of the weights.
    pub quantization: String,
    /// Data type of the KV cache.
    pub kv_cache: String,
    /// Whether long prompts are computed in chunks.
    pub chunked_prefill: bool,
    /// Whether KV blocks are reused.
    pub block_reuse: bool,
}

/// Where a profile's figures come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// Who measured: a package with its version, or `weighbridge calibrate`.
    pub tables: String,
    /// When, as `YYYY-MM-DD`.
    pub date: String,
    /// Anything else worth knowing, such as the fit's worst error.
    pub note: String,
}

/// Latencies of the hardware itself, named and scaled as in NVIDIA's tables' fits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Latency {
    /// ms of a step that computes prompts, before its tokens.
    pub prefill_base_ms: f64,
    /// ms for each prompt token.
    pub prefill_per_tok_ms: f64,
    /// ms for each million of squared prompt tokens.
    pub prefill_per_tok2_e6_ms: f64,
    /// ms of a step that generates, before its sequences.
    pub decode_base_ms: f64,
    /// ms for each sequence in a step.
    pub decode_per_seq_ms: f64,
    /// ms for each thousand tokens of context in a step.
    pub decode_per_ktok_ctx_ms: f64,
    /// ms that a step takes more when all experts are touched; 0 for dense models.
    pub decode_experts_ms: f64,
    /// Share of the experts that one sequence touches, 0 to 1.
    pub decode_experts_per_seq: f64,
}

/// How text becomes tokens. What is left out is the family's own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenRules {
    /// The tokenizer's family.
    pub family: Family,
    /// Factor on all text, for a tokenizer that differs from its family.
    pub scale: f64,
    /// Factor on definitions of tools, for templates that do not render them as compact JSON.
    pub tools_scale: Option<f64>,
    /// Tokens that the chat template adds to each request.
    pub per_request: Option<f64>,
    /// Tokens that it adds to each message.
    pub per_message: Option<f64>,
    /// Tokens that it adds to a request with tools.
    pub with_tools: Option<f64>,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            family: Family::Default,
            scale: 1.0,
            tools_scale: None,
            per_request: None,
            per_message: None,
            with_tools: None,
        }
    }
}

/// What is assumed where a request does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Output tokens of a request, until a predictor knows better.
    pub output_tokens: u64,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { output_tokens: 256 }
    }
}

impl Profile {
    /// Reads a profile from JSON and validates it.
    ///
    /// # Errors
    /// Names the key whose value is missing, unknown, of a wrong type or out of range.
    pub fn from_json(json: &str) -> Result<Self, ProfileError> {
        let mut json = serde_json::Deserializer::from_str(json);
        let profile: Self =
            serde_path_to_error::deserialize(&mut json).map_err(|error| ProfileError {
                key: error.path().to_string(),
                reason: error.into_inner().to_string(),
            })?;
        profile.validate()?;
        Ok(profile)
    }

    /// Checks what types cannot: ranges, and what belongs together.
    ///
    /// # Errors
    /// Names the first key whose value is out of range.
    pub fn validate(&self) -> Result<(), ProfileError> {
        named("name", &self.name)?;
        if self.models.is_empty() {
            return fault("models", "needs at least one name");
        }
        for (i, name) in self.models.iter().enumerate() {
            named(&format!("models.{i}"), name)?;
        }
        for (i, name) in self.adapters.iter().enumerate() {
            named(&format!("adapters.{i}"), name)?;
        }
        positive("capacity_mu_per_min", self.capacity_mu_per_min)?;
        counts("kv_tokens", self.kv_tokens)?;
        counts("block_tokens", u64::from(self.block_tokens))?;
        counts("max_batch_size", u64::from(self.max_batch_size))?;
        counts("max_num_tokens", u64::from(self.max_num_tokens))?;
        counts("max_seq_len", self.longest_sequence())?;
        positive("reference_batch", self.reference_batch)?;
        if self.reference_batch > f64::from(self.max_batch_size) {
            return fault("reference_batch", "must be at most max_batch_size");
        }
        if u64::from(self.block_tokens) > self.kv_tokens {
            return fault("block_tokens", "must be at most kv_tokens");
        }
        self.cost.validate()?;
        if let Some(latency) = &self.latency {
            latency.validate()?;
        }
        self.tokens.validate()?;
        self.images.validate()?;
        self.audio.validate()
    }

    /// Most tokens that a prompt and one answer to it may have together: `max_seq_len`, or the whole
    /// cache where that is less.
    #[must_use]
    pub fn longest_sequence(&self) -> u64 {
        self.max_seq_len
            .map_or(self.kv_tokens, u64::from)
            .min(self.kv_tokens)
    }

    /// Estimates the prompt tokens of a request; text is scaled by `correction` (1 for none), as
    /// [`crate::Correction`] learns it. Text that a tokenizer counted is neither estimated nor scaled.
    #[must_use]
    pub fn tokens(&self, reading: &Reading, correction: f64) -> PromptTokens {
        let rules = &self.tokens;
        let template = rules.template();
        let scale = rules.scale * correction;
        let text = |part: Part| match &reading.exact {
            Some(exact) => exact.get(part) as f64,
            None => rules.family.tokens(reading.text.get(part)) * scale,
        };
        let (images, image_tiles) = self.images.weigh(reading);
        let messages = f64::from(reading.messages) * template.per_message;
        let mut tokens = PromptTokens {
            system: text(Part::System),
            user: text(Part::User),
            assistant: text(Part::Assistant),
            tool: text(Part::Tool),
            tools: text(Part::Tools) * template.tools_scale,
            prompt: text(Part::Prompt),
            explicit: reading.explicit_tokens as f64,
            images,
            audio: self.audio.tokens(reading.audio_seconds),
            template: 0.0,
            missing: 0.0,
            image_tiles,
        };
        if reading.templated {
            tokens.template = template.per_request + messages;
            if reading.has_tools {
                tokens.template += template.with_tools;
            }
        }
        tokens.missing = missing_tokens(reading, tokens.text() + tokens.explicit + messages);
        tokens
    }

    /// Tokens that a replica holds in its cache, when it holds the chain's first `blocks` blocks:
    /// whole KV blocks, and never all of the prompt, whose last token is always computed.
    #[must_use]
    pub fn cached_tokens(&self, reading: &Reading, tokens: &PromptTokens, blocks: usize) -> u64 {
        let held = reading.prefix.held(blocks);
        let share = |bytes: u64, of: u64| {
            if of == 0 {
                0.0
            } else {
                bytes as f64 / of as f64
            }
        };
        let whole = reading.prefix.whole();
        let messages = tokens.user + tokens.assistant + tokens.tool + tokens.prompt;
        let mut cached = share(held.tools, whole.tools) * tokens.tools
            + share(held.system, whole.system) * tokens.system
            + share(held.messages, whole.messages) * (messages + tokens.explicit)
            + share(held.images, whole.images) * tokens.images;
        if held.tools + held.system + held.messages > 0 {
            let all = whole.tools + whole.system + whole.messages;
            let sum = held.tools + held.system + held.messages;
            cached += share(sum, all) * tokens.template;
        }
        let block = u64::from(self.block_tokens.max(1));
        let cached = (cached as u64).min(tokens.total().saturating_sub(1));
        cached / block * block
    }

    /// KV tokens that the engine sets aside for some work until it ends, so that nothing that runs has
    /// to give way: in whole blocks, for each prompt what is not cached of it, and for each answer
    /// `max_output_tokens`, or what `max_seq_len` leaves beside the prompt. An answer without any limit
    /// counts as it is expected. Answers share the whole blocks of their prompt.
    #[must_use]
    pub fn kv_reserved(&self, work: &Work, max_output_tokens: Option<u64>) -> u64 {
        let block = u64::from(self.block_tokens.max(1));
        let prompts = u64::from(work.prompts.max(1));
        let prompt = work.prompt_tokens.div_ceil(prompts);
        let answers = u64::from(work.choices.max(1)).div_ceil(prompts);
        let left = self.longest_sequence().saturating_sub(prompt);
        let most = match (max_output_tokens, self.max_seq_len) {
            (Some(most), _) => most,
            (None, Some(_)) => left,
            (None, None) => work.output_tokens,
        };
        let shared = prompt / block * block;
        let own = (prompt - shared + most.min(left)).div_ceil(block) * block;
        let sequences = answers.saturating_mul(own).saturating_add(shared);
        let cached = work.cached_tokens.min(work.prompt_tokens) / block * block;
        prompts.saturating_mul(sequences).saturating_sub(cached)
    }

    /// The cost of some work, in MU of the model's reference replica.
    #[must_use]
    pub fn cost(&self, work: &Work) -> CostVector {
        self.cost.vector(work)
    }
}

impl Latency {
    fn validate(&self) -> Result<(), ProfileError> {
        for (key, value) in [
            ("latency.prefill_base_ms", self.prefill_base_ms),
            ("latency.prefill_per_tok_ms", self.prefill_per_tok_ms),
            (
                "latency.prefill_per_tok2_e6_ms",
                self.prefill_per_tok2_e6_ms,
            ),
            ("latency.decode_base_ms", self.decode_base_ms),
            ("latency.decode_per_seq_ms", self.decode_per_seq_ms),
            (
                "latency.decode_per_ktok_ctx_ms",
                self.decode_per_ktok_ctx_ms,
            ),
            ("latency.decode_experts_ms", self.decode_experts_ms),
            (
                "latency.decode_experts_per_seq",
                self.decode_experts_per_seq,
            ),
        ] {
            not_negative(key, value)?;
        }
        if self.decode_experts_per_seq > 1.0 {
            return fault("latency.decode_experts_per_seq", "must be at most 1");
        }
        Ok(())
    }
}

impl TokenRules {
    /// The chat template: what the profile says, else the family's.
    fn template(&self) -> Template {
        let family = self.family.template();
        Template {
            per_request: self.per_request.unwrap_or(family.per_request),
            per_message: self.per_message.unwrap_or(family.per_message),
            with_tools: self.with_tools.unwrap_or(family.with_tools),
            tools_scale: self.tools_scale.unwrap_or(family.tools_scale),
        }
    }

    fn validate(&self) -> Result<(), ProfileError> {
        let template = self.template();
        positive("tokens.scale", self.scale)?;
        positive("tokens.tools_scale", template.tools_scale)?;
        not_negative("tokens.per_request", template.per_request)?;
        not_negative("tokens.per_message", template.per_message)?;
        not_negative("tokens.with_tools", template.with_tools)
    }
}

/// Tokens of what was not seen of a truncated body, as dense as what was seen of its text.
fn missing_tokens(reading: &Reading, seen_tokens: f64) -> f64 {
    /// Bytes below which what was seen says nothing about the rest.
    const FEW: u64 = 256;
    /// Tokens in a byte of which nothing is known.
    const USUAL: f64 = 0.25;
    if reading.cut_in_media {
        return 0.0;
    }
    let text_bytes = reading.seen_bytes.saturating_sub(reading.media_bytes);
    let density = if text_bytes < FEW {
        USUAL
    } else {
        seen_tokens / text_bytes as f64
    };
    density * reading.missing_bytes as f64
}
