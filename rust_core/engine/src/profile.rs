//! The engine's own coefficients and limits, apart from what a router believes of it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::request::{Accepted, RequestSpec, SubmitError};

/// When a request may start, and what gives way when blocks run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CapacityPolicy {
    /// A request starts only when its whole worst case of blocks fits; none is paused.
    GuaranteedNoEvict,
    /// A request starts when its prompt fits; the youngest is paused when blocks run out.
    MaxUtilization,
}

/// One model on one hardware and engine configuration, as the engine itself behaves.
///
/// Times are milliseconds of the engine's own clock. A missing field takes the
/// value of Llama-3.1-8B in fp8 on one H100, measured kernel by kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineProfile {
    /// Time of an iteration with context tokens, before any token, ms.
    pub prefill_base_ms: f64,
    /// Time of one context token, ms.
    pub prefill_ms_per_token: f64,
    /// Attention over the context: ms per token squared.
    pub prefill_ms_per_token2: f64,
    /// Time of an iteration with generating requests, before any of them, ms.
    pub decode_base_ms: f64,
    /// Time of one generating request in an iteration, ms.
    pub decode_ms_per_seq: f64,
    /// Reading 1,000 tokens of context in an iteration, ms.
    pub decode_ms_per_ktoken: f64,
    /// Mixture of experts: what reading all experts adds to an iteration, ms.
    pub moe_ms: f64,
    /// Mixture of experts: generating requests at which 63 % of `moe_ms` is reached.
    pub moe_batch: f64,
    /// Encoding one image tile, ms.
    pub image_tile_ms: f64,
    /// What every iteration costs besides the model: scheduling, sampling, ms.
    pub step_overhead_ms: f64,
    /// Standard deviation of an iteration's time, as a fraction of it (0 to 0.25).
    pub noise: f64,
    /// Blocks of the KV cache on the device.
    pub kv_blocks: u32,
    /// Tokens in one block.
    pub tokens_per_block: u32,
    /// Blocks of the host's second cache level; 0 turns offloading off.
    pub host_blocks: u32,
    /// Bringing one block back from the host, ms.
    pub host_block_ms: f64,
    /// Requests that may run at once.
    pub max_batch_size: u32,
    /// Tokens of one iteration: context tokens and one for each generating request.
    pub max_num_tokens: u32,
    /// Prompt and output of one request together, tokens.
    pub max_seq_len: u32,
    /// Whether a long prompt is spread over iterations.
    pub chunked_prefill: bool,
    /// Whether complete blocks are reused by later requests with the same prefix.
    pub block_reuse: bool,
    /// The capacity scheduler.
    pub policy: CapacityPolicy,
}

/// Why a profile cannot be run.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ProfileError {
    /// A time is negative or not a number.
    #[error("engine profile: {0} must be a time of 0 ms or more, not {1}")]
    Time(&'static str, f64),
    /// A limit is zero.
    #[error("engine profile: {0} must be at least 1")]
    Zero(&'static str),
    /// The noise is out of its range.
    #[error("engine profile: noise must be between 0 and 0.25, not {0}")]
    Noise(f64),
    /// Not even an empty prompt's iteration would take time.
    #[error("engine profile: an iteration must take time: a base or step_overhead_ms above 0")]
    NoTime,
    /// A full batch would not fit one iteration.
    #[error("engine profile: max_batch_size {batch} is above max_num_tokens {tokens}")]
    BatchAboveTokens {
        /// The profile's batch limit.
        batch: u32,
        /// The profile's token limit.
        tokens: u32,
    },
    /// Chunks are whole blocks: a budget below one block beside a full batch starves prompts.
    #[error(
        "engine profile: max_num_tokens {tokens} leaves no block of {block} tokens for a prompt \
         beside max_batch_size {batch} generating requests"
    )]
    NoRoomForChunk {
        /// The profile's token limit.
        tokens: u32,
        /// Tokens in one block.
        block: u32,
        /// The profile's batch limit.
        batch: u32,
    },
    /// More tokens than this model counts with.
    #[error("engine profile: {0} is above {1}")]
    TooLarge(&'static str, u32),
}

/// No cache of this model is larger, so that all token counts fit in 32 bits.
const MOST_BLOCKS: u32 = 1 << 24;

impl Default for EngineProfile {
    fn default() -> Self {
        Self {
            prefill_base_ms: 4.676,
            prefill_ms_per_token: 0.012_659,
            prefill_ms_per_token2: 0.534_5 / 1e6,
            decode_base_ms: 5.19,
            decode_ms_per_seq: 0.0069,
            decode_ms_per_ktoken: 0.021_62,
            moe_ms: 0.0,
            moe_batch: 1.0,
            image_tile_ms: 8.0,
            step_overhead_ms: 0.3,
            noise: 0.02,
            kv_blocks: 31_037,
            tokens_per_block: 32,
            host_blocks: 0,
            host_block_ms: 0.04,
            max_batch_size: 256,
            max_num_tokens: 8192,
            max_seq_len: 131_072,
            chunked_prefill: true,
            block_reuse: true,
            policy: CapacityPolicy::GuaranteedNoEvict,
        }
    }
}

impl EngineProfile {
    /// Checks that an engine can run this profile.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn validate(&self) -> Result<(), ProfileError> {
        for (name, value) in self.times() {
            if !(value.is_finite() && value >= 0.0) {
                return Err(ProfileError::Time(name, value));
            }
        }
        for (name, value) in self.limits() {
            if value == 0 {
                return Err(ProfileError::Zero(name));
            }
            if value > MOST_BLOCKS {
                return Err(ProfileError::TooLarge(name, MOST_BLOCKS));
            }
        }
        if self.host_blocks > MOST_BLOCKS {
            return Err(ProfileError::TooLarge("host_blocks", MOST_BLOCKS));
        }
        if !(0.0..=0.25).contains(&self.noise) {
            return Err(ProfileError::Noise(self.noise));
        }
        if !(self.moe_batch.is_finite() && self.moe_batch > 0.0) {
            return Err(ProfileError::Time("moe_batch", self.moe_batch));
        }
        if self.step_overhead_ms + self.prefill_base_ms.min(self.decode_base_ms) <= 0.0 {
            return Err(ProfileError::NoTime);
        }
        if self.max_batch_size > self.max_num_tokens {
            return Err(ProfileError::BatchAboveTokens {
                batch: self.max_batch_size,
                tokens: self.max_num_tokens,
            });
        }
        if self.chunked_prefill
            && self.max_num_tokens < self.max_batch_size - 1 + self.tokens_per_block
        {
            return Err(ProfileError::NoRoomForChunk {
                tokens: self.max_num_tokens,
                block: self.tokens_per_block,
                batch: self.max_batch_size,
            });
        }
        Ok(())
    }

    /// Tokens that one request may fill: the sequence limit, or the whole cache if smaller.
    #[must_use]
    pub fn longest_sequence(&self) -> u32 {
        let cache = u64::from(self.kv_blocks) * u64::from(self.tokens_per_block);
        self.max_seq_len
            .min(u32::try_from(cache).unwrap_or(u32::MAX))
    }

    /// What an engine of this profile makes of a request, whatever else it runs.
    ///
    /// # Errors
    /// It can never run.
    pub fn accept(&self, spec: &RequestSpec) -> Result<Accepted, SubmitError> {
        let limit = self.longest_sequence();
        if spec.prompt_tokens == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        if spec.prompt_tokens >= limit {
            return Err(SubmitError::TooLong {
                prompt: spec.prompt_tokens,
                limit,
            });
        }
        if !self.chunked_prefill && spec.prompt_tokens > self.max_num_tokens {
            return Err(SubmitError::NotChunked {
                prompt: spec.prompt_tokens,
                limit: self.max_num_tokens,
            });
        }
        let max_tokens = spec.max_tokens.clamp(1, limit - spec.prompt_tokens);
        Ok(Accepted {
            output_tokens: spec.output_tokens.clamp(1, max_tokens),
            max_tokens,
        })
    }

    fn times(&self) -> [(&'static str, f64); 10] {
        [
            ("prefill_base_ms", self.prefill_base_ms),
            ("prefill_ms_per_token", self.prefill_ms_per_token),
            ("prefill_ms_per_token2", self.prefill_ms_per_token2),
            ("decode_base_ms", self.decode_base_ms),
            ("decode_ms_per_seq", self.decode_ms_per_seq),
            ("decode_ms_per_ktoken", self.decode_ms_per_ktoken),
            ("moe_ms", self.moe_ms),
            ("image_tile_ms", self.image_tile_ms),
            ("step_overhead_ms", self.step_overhead_ms),
            ("host_block_ms", self.host_block_ms),
        ]
    }

    fn limits(&self) -> [(&'static str, u32); 5] {
        [
            ("kv_blocks", self.kv_blocks),
            ("tokens_per_block", self.tokens_per_block),
            ("max_batch_size", self.max_batch_size),
            ("max_num_tokens", self.max_num_tokens),
            ("max_seq_len", self.max_seq_len),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::{CapacityPolicy, EngineProfile, ProfileError};

    #[test]
    fn the_default_is_runnable() {
        assert_eq!(EngineProfile::default().validate(), Ok(()));
    }

    #[test]
    fn a_profile_reads_from_json_and_names_what_it_does_not_know() {
        let profile: EngineProfile =
            serde_json::from_str(r#"{"policy":"MAX_UTILIZATION","kv_blocks":100}"#).unwrap();
        assert_eq!(profile.policy, CapacityPolicy::MaxUtilization);
        assert_eq!((profile.kv_blocks, profile.tokens_per_block), (100, 32));
        let error = serde_json::from_str::<EngineProfile>(r#"{"kv_blokcs":1}"#).unwrap_err();
        assert!(error.to_string().contains("kv_blokcs"), "{error}");
    }

    #[test]
    fn out_of_range_fields_are_named() {
        let bad = |change: fn(&mut EngineProfile)| {
            let mut profile = EngineProfile::default();
            change(&mut profile);
            profile.validate()
        };
        assert_eq!(bad(|p| p.noise = 0.5), Err(ProfileError::Noise(0.5)));
        assert_eq!(
            bad(|p| p.kv_blocks = 0),
            Err(ProfileError::Zero("kv_blocks"))
        );
        assert!(matches!(
            bad(|p| p.moe_ms = f64::NAN),
            Err(ProfileError::Time("moe_ms", _))
        ));
        assert!(matches!(
            bad(|p| p.max_num_tokens = 100),
            Err(ProfileError::BatchAboveTokens { .. })
        ));
        assert!(matches!(
            bad(|p| p.max_num_tokens = 260),
            Err(ProfileError::NoRoomForChunk { .. })
        ));
        assert_eq!(
            bad(|p| {
                p.step_overhead_ms = 0.0;
                p.decode_base_ms = 0.0;
            }),
            Err(ProfileError::NoTime)
        );
    }
}
