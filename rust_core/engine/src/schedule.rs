//! Who runs in the next iteration: capacity first, then the token budget.

use crate::cost::{Work, chunk_squares};
use crate::engine::Engine;
use crate::profile::{CapacityPolicy, EngineProfile};
use crate::request::Phase;
use crate::step::{Started, Step};

/// The outcome of trying to start one waiting request.
enum Admission {
    Started,
    /// Another request is computing the blocks that this one wants: worth waiting for.
    WaitsForPrefix,
    /// It does not fit now, and those behind it must not overtake it.
    NoRoom,
}

/// A waiting request measured against the cache.
struct Fit {
    cached_tokens: u32,
    chunk: u32,
    /// Blocks of the context.
    blocks: u32,
    /// Blocks to take besides those found.
    fresh: u32,
    /// Free blocks that starting it uses up, promises included.
    wanted: u64,
}

impl Engine {
    /// Pauses the youngest until the blocks due fit; answers how many are due.
    pub(crate) fn make_room(&mut self, out: &mut Step) -> u32 {
        let mut due = self.blocks_due();
        while due > self.pool.available() {
            // The oldest alone always fits: no sequence is longer than the cache.
            if self.generating.len() + self.prefilling.len() <= 1 || !self.pause_youngest(out) {
                break;
            }
            due = self.blocks_due();
        }
        due
    }

    fn pause_youngest(&mut self, out: &mut Step) -> bool {
        let running = self.generating.iter().chain(&self.prefilling);
        let youngest = running
            .filter_map(|key| self.requests.get(*key).map(|r| (r.admission, *key)))
            .max();
        let Some((_, key)) = youngest else {
            return false;
        };
        if self.requests.get(key).map(|r| r.phase) == Some(Phase::Generating) {
            self.leave_batch(key);
        } else {
            self.prefilling.retain(|k| *k != key);
        }
        self.release(key);
        if let Some(request) = self.requests.get_mut(key) {
            request.phase = Phase::Waiting;
            request.context = request.spec.prompt_tokens + request.generated;
            request.computed = 0;
            request.paused_before = true;
            out.paused.push(request.spec.id);
        }
        self.waiting.push_front(key);
        self.blocked = true;
        true
    }

    /// Gives context chunks to those that have begun, then to those that may begin.
    pub(crate) fn schedule_context(
        &mut self,
        now_ms: f64,
        due: u32,
        work: &mut Work,
        out: &mut Step,
    ) {
        if self.prefilling.is_empty() && (self.waiting.is_empty() || self.blocked) {
            return;
        }
        let generating = u32::try_from(self.generating.len()).unwrap_or(u32::MAX);
        let mut budget = self.profile.max_num_tokens.saturating_sub(generating);
        for at in 0..self.prefilling.len() {
            if budget == 0 || !self.continue_context(at, &mut budget, work, out) {
                return;
            }
        }
        self.admit(now_ms, due, &mut budget, work, out);
    }

    fn continue_context(
        &mut self,
        at: usize,
        budget: &mut u32,
        work: &mut Work,
        out: &mut Step,
    ) -> bool {
        let per_block = self.profile.tokens_per_block;
        let Some(key) = self.prefilling.get(at).copied() else {
            return false;
        };
        let Some(request) = self.requests.get_mut(key) else {
            return false;
        };
        let chunk = chunk_of(request.computed, request.context, *budget, per_block);
        if chunk == 0 {
            return false;
        }
        count_chunk(request.computed, chunk, budget, work, out);
        request.computed += chunk;
        true
    }

    fn admit(&mut self, now_ms: f64, due: u32, budget: &mut u32, work: &mut Work, out: &mut Step) {
        let mut at = 0;
        while *budget > 0 && !self.blocked && !self.is_full() {
            let Some(key) = self.waiting.get(at).copied() else {
                return;
            };
            match self.try_start(key, now_ms, due, budget, work, out) {
                Admission::Started => {
                    self.waiting.remove(at);
                }
                Admission::WaitsForPrefix => at += 1,
                Admission::NoRoom => return,
            }
        }
    }

    fn try_start(
        &mut self,
        key: usize,
        now_ms: f64,
        due: u32,
        budget: &mut u32,
        work: &mut Work,
        out: &mut Step,
    ) -> Admission {
        let mut found = Vec::new();
        let Some(fit) = self.fit(key, *budget, &mut found) else {
            return Admission::WaitsForPrefix;
        };
        let spoken_for = match self.profile.policy {
            CapacityPolicy::GuaranteedNoEvict => self.promised,
            CapacityPolicy::MaxUtilization => u64::from(due),
        };
        if fit.wanted + spoken_for > u64::from(self.pool.available()) {
            self.blocked = true;
            return Admission::NoRoom;
        }
        if fit.chunk == 0 {
            return Admission::NoRoom;
        }
        self.admissions += 1;
        let admission = self.admissions;
        let reuse = self.profile.block_reuse;
        let Some(request) = self.requests.get_mut(key) else {
            return Admission::NoRoom;
        };
        let spec = &request.spec;
        let onboarded = self.pool.claim(&found);
        request.held = found;
        request.private = self.pool.take(fit.fresh);
        let reused_blocks = fit.cached_tokens / self.profile.tokens_per_block;
        let missed_blocks = if reuse {
            request.context / self.profile.tokens_per_block - reused_blocks
        } else {
            0
        };
        self.pool.count_missed(missed_blocks);
        if self.profile.policy == CapacityPolicy::GuaranteedNoEvict {
            self.promised += u64::from(request.worst.saturating_sub(fit.blocks));
        }
        request.phase = Phase::Prefilling;
        request.admission = admission;
        request.computed = fit.cached_tokens;
        work.onboarded += u64::from(onboarded);
        work.image_tiles += u64::from(spec.image_tiles);
        out.started.push(Started {
            id: spec.id,
            queued_ms: now_ms - request.arrived_ms,
            cached_tokens: fit.cached_tokens,
            reused_blocks,
            missed_blocks,
            blocks: fit.blocks,
            resumed: request.paused_before,
        });
        count_chunk(request.computed, fit.chunk, budget, work, out);
        request.computed += fit.chunk;
        self.prefilling.push(key);
        Admission::Started
    }

    /// What starting a waiting request takes, and the nodes it finds; `None` if it should
    /// wait for a prefix that is being computed.
    fn fit(&self, key: usize, budget: u32, nodes: &mut Vec<u32>) -> Option<Fit> {
        let request = self.requests.get(key)?;
        let hashes = &request.spec.block_hashes;
        let reusable = self.reusable(hashes, request.context);
        let found = self.pool.find(reusable, |node| nodes.push(node));
        let found_blocks = usize::try_from(found.blocks).unwrap_or(0);
        if self.is_being_computed(hashes, found_blocks, request.context) {
            return None;
        }
        let cached_tokens = found.blocks * self.profile.tokens_per_block;
        let left = (cached_tokens, request.context);
        let chunk = first_chunk(&self.profile, left, request.paused_before, budget);
        let blocks = self.blocks(request.context);
        let total = match self.profile.policy {
            CapacityPolicy::GuaranteedNoEvict => request.worst.max(blocks),
            CapacityPolicy::MaxUtilization => blocks,
        };
        Some(Fit {
            cached_tokens,
            chunk,
            blocks,
            fresh: blocks - found.blocks,
            wanted: u64::from(total - found.held),
        })
    }

    /// Whether a running request is computing the first block that was not found.
    fn is_being_computed(&self, hashes: &[u64], found: usize, context: u32) -> bool {
        if !self.profile.block_reuse || self.prefilling.is_empty() {
            return false;
        }
        let complete = context / self.profile.tokens_per_block;
        let Some(wanted) = hashes
            .get(found)
            .filter(|_| found < usize::try_from(complete).unwrap_or(0))
        else {
            return false;
        };
        self.prefilling.iter().any(|key| {
            self.requests.get(*key).is_some_and(|other| {
                let first = other.held.len();
                let complete = other.context / self.profile.tokens_per_block;
                first < usize::try_from(complete).unwrap_or(0)
                    && other.spec.block_hashes.get(first) == Some(wanted)
            })
        })
    }
}

/// The first chunk of a prompt of which `computed` of `context` tokens are found: without chunked
/// prefill all that is left or nothing, but for one that was paused.
pub(crate) fn first_chunk(
    profile: &EngineProfile,
    (computed, context): (u32, u32),
    resumed: bool,
    budget: u32,
) -> u32 {
    let chunk = chunk_of(computed, context, budget, profile.tokens_per_block);
    let is_whole = chunk == context - computed;
    if profile.chunked_prefill || resumed || is_whole {
        chunk
    } else {
        0
    }
}

/// The next chunk: what is left, or as many whole blocks as the budget allows.
pub(crate) fn chunk_of(computed: u32, context: u32, budget: u32, per_block: u32) -> u32 {
    let left = context - computed;
    if left <= budget {
        left
    } else {
        let end = (computed + budget) / per_block * per_block;
        end.saturating_sub(computed)
    }
}

fn count_chunk(start: u32, tokens: u32, budget: &mut u32, work: &mut Work, out: &mut Step) {
    *budget -= tokens;
    work.context_tokens += u64::from(tokens);
    work.context_squares += chunk_squares(start, tokens);
    out.context_requests += 1;
    out.context_tokens += tokens;
}
