//! A request as the engine sees it, and the answers to handing one in.

use std::sync::Arc;

use thiserror::Error;

/// What is asked of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSpec {
    /// The caller's name for it, unused by any other request that is not done.
    pub id: u64,
    /// Hash of each complete block of the sequence, chained over all blocks before it:
    /// first the prompt's, then as many of the output's as are known ahead (they are
    /// found by the next turn). Shorter than the prompt: the rest is not reused.
    pub block_hashes: Arc<[u64]>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens it will produce; the scheduler does not look at it.
    pub output_tokens: u32,
    /// The most tokens it may produce: what the scheduler must reckon with.
    pub max_tokens: u32,
    /// Image tiles to encode before its context.
    pub image_tiles: u32,
}

/// What the engine made of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Tokens it will produce, cut to the sequence limit.
    pub output_tokens: u32,
    /// The most it may produce, cut to the sequence limit.
    pub max_tokens: u32,
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// There is nothing to compute.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// Prompt and one token exceed the longest sequence.
    #[error("the prompt's length ({prompt}) must be below max_seq_len ({limit})")]
    TooLong {
        /// Tokens of the prompt.
        prompt: u32,
        /// The longest sequence, tokens.
        limit: u32,
    },
    /// Without chunked prefill the whole prompt must fit one iteration.
    #[error("the prompt's length ({prompt}) should not exceed max_num_tokens ({limit})")]
    NotChunked {
        /// Tokens of the prompt.
        prompt: u32,
        /// Tokens of one iteration.
        limit: u32,
    },
    /// The id is in use.
    #[error("request {0} is here already")]
    Duplicate(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Waiting,
    Prefilling,
    Generating,
}

/// A request that is not done.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) spec: RequestSpec,
    pub(crate) phase: Phase,
    pub(crate) arrived_ms: f64,
    /// Order of admission, renewed when it is resumed.
    pub(crate) admission: u64,
    /// Context tokens to compute before the next token: the prompt, and what was
    /// produced before a pause.
    pub(crate) context: u32,
    /// Of these, computed or found in the cache.
    pub(crate) computed: u32,
    /// Tokens produced when it began (again) to generate.
    pub(crate) generated: u32,
    /// The engine's tick then.
    pub(crate) joined: u64,
    /// Nodes it holds, from the root.
    pub(crate) held: Vec<u32>,
    /// Blocks it holds beyond those, as of `computed` context tokens.
    pub(crate) private: u32,
    /// Place among the generating requests.
    pub(crate) place: usize,
    /// Blocks of its worst case.
    pub(crate) worst: u32,
    pub(crate) paused_before: bool,
}

impl Request {
    pub(crate) fn new(spec: RequestSpec, now_ms: f64, worst: u32) -> Self {
        let context = spec.prompt_tokens;
        Self {
            spec,
            phase: Phase::Waiting,
            arrived_ms: now_ms,
            admission: 0,
            context,
            computed: 0,
            generated: 0,
            joined: 0,
            held: Vec::new(),
            private: 0,
            place: 0,
            worst,
            paused_before: false,
        }
    }

    /// Tokens produced by `tick`, for one that is generating.
    pub(crate) fn generated_at(&self, tick: u64) -> u32 {
        let since = u32::try_from(tick - self.joined).unwrap_or(u32::MAX);
        self.generated.saturating_add(since)
    }

    /// Tokens whose keys and values are in the cache at `tick`: all but the newest.
    pub(crate) fn cached_at(&self, tick: u64) -> u32 {
        match self.phase {
            Phase::Waiting => 0,
            Phase::Prefilling => self.computed,
            Phase::Generating => (self.spec.prompt_tokens + self.generated_at(tick)) - 1,
        }
    }

    /// The tick by which its last token is produced.
    pub(crate) fn done_at(&self) -> u64 {
        self.joined + u64::from(self.spec.output_tokens - self.generated)
    }
}
