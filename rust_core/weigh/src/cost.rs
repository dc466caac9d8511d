//! The cost vector: what a request takes of a replica, term by term.

/// The work of one request on a replica that holds a part of its prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Tokens of the prompt, images included.
    pub prompt_tokens: u64,
    /// Of these, how many the replica holds in its cache.
    pub cached_tokens: u64,
    /// Tokens of one answer.
    pub output_tokens: u64,
    /// Answers generated from the prompt; 0 counts as 1.
    pub choices: u32,
    /// Image tiles to be encoded.
    pub image_tiles: u64,
    /// Seconds of audio to be encoded.
    pub audio_seconds: f64,
}

/// A request's cost in model units (MU), term by term, and its KV tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
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
    /// Tokens held in the KV cache at the request's end.
    pub kv_tokens: u64,
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
