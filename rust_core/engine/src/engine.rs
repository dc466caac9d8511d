//! The engine: requests in, iterations out.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use slab::Slab;

use crate::cache::{CacheEvent, KvStats};
use crate::cost::{Work, iteration_ms};
use crate::noise::Noise;
use crate::pool::Pool;
use crate::profile::{EngineProfile, ProfileError};
use crate::request::{Accepted, Phase, Request, RequestSpec, SubmitError};
use crate::spread::SpreadMap;
use crate::step::{Finished, Step};

/// How many requests are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Not started, or paused.
    pub waiting: u32,
    /// With part of their context computed.
    pub prefilling: u32,
    /// Producing tokens.
    pub generating: u32,
    /// Context of those together, tokens.
    pub generating_context: u64,
}

/// One engine. All times are milliseconds on the caller's clock.
#[derive(Debug)]
pub struct Engine {
    pub(crate) profile: EngineProfile,
    pub(crate) pool: Pool,
    pub(crate) requests: Slab<Request>,
    by_id: SpreadMap<usize>,
    pub(crate) waiting: VecDeque<usize>,
    pub(crate) prefilling: Vec<usize>,
    pub(crate) generating: Vec<usize>,
    pub(crate) generating_ids: Vec<u64>,
    /// Decode iterations so far: all generating requests advance together, so what each
    /// of them has is a difference of ticks.
    pub(crate) tick: u64,
    /// For each remainder of the tick, how many generating requests then need a block.
    boundaries: Vec<u32>,
    /// When generating requests are done: (tick, admission, key); stale ones are skipped.
    endings: BinaryHeap<Reverse<(u64, u64, usize)>>,
    pub(crate) context_sum: u64,
    /// Blocks promised to running requests and not yet taken (`GuaranteedNoEvict`).
    pub(crate) promised: u64,
    /// No waiting request can start before something is released.
    pub(crate) blocked: bool,
    pub(crate) admissions: u64,
    iteration: u64,
    pub(crate) noise: Noise,
    pub(crate) slowdown: f64,
}

impl Engine {
    /// An idle engine with an empty cache.
    ///
    /// # Errors
    /// The profile is out of its ranges.
    pub fn new(profile: EngineProfile, seed: u64) -> Result<Self, ProfileError> {
        profile.validate()?;
        let remainders = usize::try_from(profile.tokens_per_block).unwrap_or(1);
        Ok(Self {
            pool: Pool::new(profile.kv_blocks, profile.host_blocks),
            noise: Noise::new(seed, profile.noise),
            requests: Slab::new(),
            by_id: SpreadMap::default(),
            waiting: VecDeque::new(),
            prefilling: Vec::new(),
            generating: Vec::new(),
            generating_ids: Vec::new(),
            tick: 0,
            boundaries: vec![0; remainders],
            endings: BinaryHeap::new(),
            context_sum: 0,
            promised: 0,
            blocked: false,
            admissions: 0,
            iteration: 0,
            slowdown: 1.0,
            profile,
        })
    }

    /// The profile it runs.
    #[must_use]
    pub fn profile(&self) -> &EngineProfile {
        &self.profile
    }

    /// Hands a request in at `now_ms`; the next iteration may start it.
    ///
    /// # Errors
    /// It can never run, or its id is in use.
    pub fn submit(&mut self, mut spec: RequestSpec, now_ms: f64) -> Result<Accepted, SubmitError> {
        let accepted = self.profile.accept(&spec)?;
        if self.by_id.contains_key(&spec.id) {
            return Err(SubmitError::Duplicate(spec.id));
        }
        spec.max_tokens = accepted.max_tokens;
        spec.output_tokens = accepted.output_tokens;
        let worst = self.blocks(spec.prompt_tokens + spec.max_tokens);
        let id = spec.id;
        let key = self.requests.insert(Request::new(spec, now_ms, worst));
        self.by_id.insert(id, key);
        self.waiting.push_back(key);
        if self.waiting.len() == 1 {
            self.blocked = false;
        }
        Ok(accepted)
    }

    /// Drops a request, keeping what it computed in the cache. Answers whether it was here.
    pub fn cancel(&mut self, id: u64) -> bool {
        let Some(key) = self.by_id.remove(&id) else {
            return false;
        };
        match self.requests.get(key).map(|r| r.phase) {
            Some(Phase::Waiting) => {
                if let Some(at) = self.waiting.iter().position(|k| *k == key) {
                    self.waiting.remove(at);
                    // The one behind it may fit where it did not.
                    self.blocked &= at != 0;
                }
            }
            Some(Phase::Prefilling) => {
                self.prefilling.retain(|k| *k != key);
                self.release(key);
            }
            Some(Phase::Generating) => {
                self.leave_batch(key);
                self.release(key);
            }
            None => {}
        }
        self.requests.try_remove(key).is_some()
    }

    /// Runs the iteration that starts at `now_ms` and fills `out` with what it did.
    /// Answers `false`, and leaves `out` empty, when there is nothing to run.
    ///
    /// The state afterwards is that at `out.ends_at_ms`; requests handed in or cancelled
    /// before that moment take part in the next iteration.
    pub fn step(&mut self, now_ms: f64, out: &mut Step) -> bool {
        out.clear();
        self.iterate(now_ms, out)
    }

    /// Whether an iteration would do nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// How many requests are where.
    #[must_use]
    pub fn load(&self) -> Load {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Load {
            waiting: count(self.waiting.len()),
            prefilling: count(self.prefilling.len()),
            generating: count(self.generating.len()),
            generating_context: self.context_sum,
        }
    }

    /// The cache's counts.
    #[must_use]
    pub fn kv_stats(&self) -> KvStats {
        self.pool.stats()
    }

    /// Prompt tokens that a request with these block hashes would find in the cache now.
    #[must_use]
    pub fn cached_tokens(&self, block_hashes: &[u64], prompt_tokens: u32) -> u32 {
        self.pool
            .find(self.reusable(block_hashes, prompt_tokens), |_| {})
            .blocks
            * self.profile.tokens_per_block
    }

    /// Makes every later iteration take `factor` times its time (1: as the profile says).
    pub fn set_slowdown(&mut self, factor: f64) {
        if factor.is_finite() && factor > 0.0 {
            self.slowdown = factor;
        }
    }

    /// Gives up the cached blocks of a sequence beyond its first `keep`, as far as no request holds
    /// them. Answers how many.
    pub fn truncate_cache(&mut self, block_hashes: &[u64], keep: usize) -> u32 {
        self.pool.truncate(block_hashes, keep)
    }

    /// Starts keeping cache events; [`Engine::take_cache_events`] hands them out.
    pub fn record_cache_events(&mut self) {
        self.pool.record_events();
    }

    /// The cache events since the last call.
    pub fn take_cache_events(&mut self) -> Vec<CacheEvent> {
        self.pool.take_events()
    }

    pub(crate) fn iterate(&mut self, now_ms: f64, out: &mut Step) -> bool {
        let mut work = Work::default();
        let new_blocks = self.make_room(out);
        self.schedule_context(now_ms, new_blocks, &mut work, out);
        work.generating = self.generating.len() as u64;
        if work.generating > 0 {
            // Each reads its context and the token it adds.
            work.generating_context = self.context_sum + work.generating;
        } else if out.context_requests == 0 {
            return false;
        }
        self.advance_clock(now_ms, &work, out);
        if work.generating > 0 {
            out.decoded.clear();
            out.decoded.extend_from_slice(&self.generating_ids);
            self.decode(new_blocks);
            out.tokens += work.generating;
            self.finish_due(out);
        }
        self.complete_contexts(out);
        true
    }

    pub(crate) fn advance_clock(&mut self, now_ms: f64, work: &Work, out: &mut Step) {
        let time = iteration_ms(&self.profile, work) * self.slowdown * self.noise.factor();
        self.iteration += 1;
        out.iteration = self.iteration;
        out.iterations += 1;
        out.starts_at_ms = now_ms;
        out.ends_at_ms = now_ms + time;
    }

    /// One more token for every generating request.
    pub(crate) fn decode(&mut self, new_blocks: u32) {
        let taken = self.pool.take(new_blocks);
        debug_assert_eq!(taken, new_blocks);
        self.promised = self.promised.saturating_sub(u64::from(taken));
        self.context_sum += self.generating.len() as u64;
        self.tick += 1;
    }

    /// Blocks that the generating requests need for their next token.
    pub(crate) fn blocks_due(&self) -> u32 {
        self.blocks_due_at(self.tick)
    }

    pub(crate) fn blocks_due_at(&self, tick: u64) -> u32 {
        let remainder = self.remainder(tick);
        self.boundaries.get(remainder).copied().unwrap_or(0)
    }

    /// The tick at which the next request is done.
    pub(crate) fn next_ending(&mut self) -> Option<u64> {
        while let Some(Reverse((due, admission, key))) = self.endings.peek().copied() {
            if self.generates(key, admission) {
                return Some(due);
            }
            self.endings.pop();
        }
        None
    }

    fn generates(&self, key: usize, admission: u64) -> bool {
        self.requests
            .get(key)
            .is_some_and(|r| r.admission == admission && r.phase == Phase::Generating)
    }

    fn finish_due(&mut self, out: &mut Step) {
        while self.next_ending().is_some_and(|due| due <= self.tick) {
            let Some(Reverse((_, _, key))) = self.endings.pop() else {
                return;
            };
            self.leave_batch(key);
            self.finish(key, out);
        }
    }

    /// Prompts whose last chunk was computed: they have their first token.
    fn complete_contexts(&mut self, out: &mut Step) {
        let mut at = 0;
        while let Some(key) = self.prefilling.get(at).copied() {
            let Some(request) = self.requests.get(key) else {
                self.prefilling.remove(at);
                continue;
            };
            if request.computed < request.context {
                at += 1;
                continue;
            }
            self.prefilling.remove(at);
            // What they published may be what others wait for.
            self.blocked = false;
            self.publish(key);
            out.tokens += 1;
            if let Some(request) = self.requests.get_mut(key) {
                request.generated = request.context - request.spec.prompt_tokens + 1;
                request.joined = self.tick;
                out.prefilled.push(request.spec.id);
                if request.generated >= request.spec.output_tokens {
                    self.finish(key, out);
                } else {
                    self.join_batch(key);
                }
            }
        }
    }

    fn join_batch(&mut self, key: usize) {
        let tick = self.tick;
        let Some(request) = self.requests.get_mut(key) else {
            return;
        };
        request.phase = Phase::Generating;
        request.place = self.generating.len();
        let cached = request.cached_at(tick);
        let ending = (request.done_at(), request.admission, key);
        let id = request.spec.id;
        self.generating.push(key);
        self.generating_ids.push(id);
        self.context_sum += u64::from(cached);
        self.endings.push(Reverse(ending));
        let boundary = self.boundary(tick, cached);
        if let Some(count) = self.boundaries.get_mut(boundary) {
            *count += 1;
        }
    }

    /// Takes a request out of the generating ones and settles what it holds.
    pub(crate) fn leave_batch(&mut self, key: usize) {
        let tick = self.tick;
        let per_block = self.profile.tokens_per_block;
        let Some(request) = self.requests.get_mut(key) else {
            return;
        };
        let cached = request.cached_at(tick);
        let blocks = cached.div_ceil(per_block);
        request.private = blocks - u32::try_from(request.held.len()).unwrap_or(blocks);
        request.computed = cached;
        request.generated = request.generated_at(tick);
        request.phase = Phase::Prefilling;
        let place = request.place;
        self.context_sum -= u64::from(cached);
        let boundary = self.boundary(tick, cached);
        if let Some(count) = self.boundaries.get_mut(boundary) {
            *count -= 1;
        }
        self.generating.swap_remove(place);
        self.generating_ids.swap_remove(place);
        if let Some(moved) = self.generating.get(place).copied() {
            if let Some(request) = self.requests.get_mut(moved) {
                request.place = place;
            }
        }
    }

    fn finish(&mut self, key: usize, out: &mut Step) {
        self.release(key);
        if let Some(request) = self.requests.try_remove(key) {
            self.by_id.remove(&request.spec.id);
            out.finished.push(Finished {
                id: request.spec.id,
                output_tokens: request.spec.output_tokens,
            });
        }
    }

    /// Makes the complete blocks of what is computed findable.
    fn publish(&mut self, key: usize) {
        if !self.profile.block_reuse {
            return;
        }
        let Some(request) = self.requests.get_mut(key) else {
            return;
        };
        let complete = request.computed / self.profile.tokens_per_block;
        let known = request.spec.block_hashes.len();
        let until = usize::try_from(complete).unwrap_or(known).min(known);
        let hashes = request
            .spec
            .block_hashes
            .get(request.held.len()..until)
            .unwrap_or_default();
        let fresh = u32::try_from(hashes.len()).unwrap_or(0);
        self.pool
            .publish(request.spec.id, hashes, &mut request.held);
        request.private -= fresh;
    }

    /// Gives back all blocks of a request that is out of the batch, its complete ones findable.
    pub(crate) fn release(&mut self, key: usize) {
        self.publish(key);
        self.blocked = false;
        let Some(request) = self.requests.get_mut(key) else {
            return;
        };
        let blocks = request.private + u32::try_from(request.held.len()).unwrap_or(0);
        let unused = u64::from(request.worst.saturating_sub(blocks));
        self.promised = self.promised.saturating_sub(unused);
        self.pool.put(std::mem::take(&mut request.private));
        self.pool.release(&mut request.held);
    }

    /// The hashes of a context that may be found: the last token is always computed.
    pub(crate) fn reusable<'a>(&self, hashes: &'a [u64], context: u32) -> &'a [u64] {
        if !self.profile.block_reuse {
            return &[];
        }
        let whole = context.saturating_sub(1) / self.profile.tokens_per_block;
        let until = usize::try_from(whole)
            .unwrap_or(usize::MAX)
            .min(hashes.len());
        hashes.get(..until).unwrap_or_default()
    }

    pub(crate) fn blocks(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.profile.tokens_per_block)
    }

    pub(crate) fn is_full(&self) -> bool {
        let limit = usize::try_from(self.profile.max_batch_size).unwrap_or(usize::MAX);
        self.generating.len() + self.prefilling.len() >= limit
    }

    /// The remainder of those ticks at which a request needs a block that has `cached`
    /// tokens at `tick`.
    fn boundary(&self, tick: u64, cached: u32) -> usize {
        let block = u64::from(self.profile.tokens_per_block);
        let missing = (block - u64::from(cached) % block) % block;
        self.remainder(tick + missing)
    }

    fn remainder(&self, tick: u64) -> usize {
        usize::try_from(tick % u64::from(self.profile.tokens_per_block)).unwrap_or(0)
    }
}
