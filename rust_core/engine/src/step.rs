//! What an iteration did, in buffers that the caller reuses.

/// A request that was given blocks and its first context chunk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Started {
    /// The request.
    pub id: u64,
    /// Time since it was submitted, ms.
    pub queued_ms: f64,
    /// Context tokens found in the cache.
    pub cached_tokens: u32,
    /// Context blocks found in the cache.
    pub reused_blocks: u32,
    /// Whole context blocks that were not found.
    pub missed_blocks: u32,
    /// Blocks handed to it in all.
    pub blocks: u32,
    /// Whether it had been paused before, so that its tokens are computed again.
    pub resumed: bool,
}

/// A request whose last token was produced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// The request.
    pub id: u64,
    /// Tokens it produced.
    pub output_tokens: u32,
}

/// One iteration, or a run of iterations without any event but generated tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    /// Number of the (last) iteration since the engine started, from 1.
    pub iteration: u64,
    /// Iterations covered: 1 from [`crate::Engine::step`].
    pub iterations: u64,
    /// When the first one started, ms.
    pub starts_at_ms: f64,
    /// When the last one ends, ms: tokens are out at this moment, not before.
    pub ends_at_ms: f64,
    /// Requests that started in it.
    pub started: Vec<Started>,
    /// Requests whose context was completed: each has one more token.
    pub prefilled: Vec<u64>,
    /// Requests that were generating in the last iteration: each has one more token an
    /// iteration.
    pub decoded: Vec<u64>,
    /// Requests that are done; they are among `prefilled` or `decoded` as well.
    pub finished: Vec<Finished>,
    /// Requests that gave up their blocks to run again later.
    pub paused: Vec<u64>,
    /// Requests with a context chunk in the last iteration.
    pub context_requests: u32,
    /// Context tokens of the last iteration.
    pub context_tokens: u32,
    /// Output tokens produced, over all iterations covered.
    pub tokens: u64,
}

impl Step {
    /// Empties it, keeping its buffers.
    pub fn clear(&mut self) {
        self.started.clear();
        self.prefilled.clear();
        self.decoded.clear();
        self.finished.clear();
        self.paused.clear();
        self.iterations = 0;
        self.context_requests = 0;
        self.context_tokens = 0;
        self.tokens = 0;
    }

    /// Whether anything happened besides one more token for each generating request.
    #[must_use]
    pub fn is_eventful(&self) -> bool {
        self.context_requests > 0
            || !self.started.is_empty()
            || !self.finished.is_empty()
            || !self.paused.is_empty()
    }
}
