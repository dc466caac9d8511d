//! What will become of the requests that an engine has, if no others come: the engine's own schedule
//! run ahead on counts alone.
//!
//! Iterations take what they will take but for the noise, chunks and batches are scheduled as the
//! engine does, and stretches without an event are leapt over. Of the cache only counts are kept:
//! what a request finds there is what it would find now, or what is before it in the queue.

use std::collections::VecDeque;

use crate::cost::{Work, chunk_squares, iteration_ms};
use crate::engine::Engine;
use crate::profile::EngineProfile;
use crate::request::{Request, RequestSpec};
use crate::schedule::{chunk_of, first_chunk};

/// Waiting requests whose prompts are compared with those before them.
const COMPARED: usize = 32;

/// What will become of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// The request.
    pub id: u64,
    /// When it has its first token, ms; `None`: it has it already.
    pub first_ms: Option<f64>,
    /// When it has its last token, ms.
    pub done_ms: f64,
}

/// A context to be computed.
#[derive(Debug, Clone, Copy)]
struct Prompt {
    id: u64,
    computed: u32,
    context: u32,
    /// Tokens after the first.
    more: u32,
    /// Whether its first token was out before it was paused.
    resumed: bool,
    /// Blocks that it takes while it runs.
    blocks: u64,
    tiles: u32,
}

/// An answer being written.
#[derive(Debug, Clone, Copy)]
struct Answer {
    id: u64,
    first_ms: Option<f64>,
    end_tick: u64,
    /// At the tick `joined`, tokens.
    context: u64,
    joined: u64,
    blocks: u64,
}

/// The engine's state, on counts alone.
struct Outlook<'a> {
    profile: &'a EngineProfile,
    slowdown: f64,
    now_ms: f64,
    tick: u64,
    context: u64,
    free: u64,
    waiting: VecDeque<Prompt>,
    prefilling: Vec<Prompt>,
    /// The last to end first.
    answers: Vec<Answer>,
    expected: Vec<Expected>,
}

impl Engine {
    /// What will become of all requests, and of one more, if the next iteration starts at `start_ms`
    /// and nothing else comes. The one more is the last of them.
    #[must_use]
    pub fn outlook(&self, more: Option<&RequestSpec>, start_ms: f64) -> Vec<Expected> {
        let mut outlook = Outlook {
            profile: &self.profile,
            slowdown: self.slowdown,
            now_ms: start_ms,
            tick: self.tick,
            context: self.context_sum,
            free: u64::from(self.pool.available()).saturating_sub(self.promised),
            waiting: self.waiting_prompts(more),
            prefilling: self
                .of(&self.prefilling)
                .map(|r| self.prompt(r, r.computed))
                .collect(),
            answers: self.of(&self.generating).map(|r| self.answer(r)).collect(),
            expected: Vec::with_capacity(self.requests.len() + 1),
        };
        outlook
            .answers
            .sort_by_key(|answer| std::cmp::Reverse(answer.end_tick));
        outlook.run();
        outlook.expected
    }

    fn of<'a>(&'a self, keys: &'a [usize]) -> impl Iterator<Item = &'a Request> {
        keys.iter().filter_map(|key| self.requests.get(*key))
    }

    fn prompt(&self, request: &Request, computed: u32) -> Prompt {
        let generated = request.context.saturating_sub(request.spec.prompt_tokens);
        Prompt {
            id: request.spec.id,
            computed,
            context: request.context,
            more: request.spec.output_tokens.saturating_sub(generated + 1),
            resumed: request.paused_before,
            blocks: u64::from(request.worst),
            tiles: 0,
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        Answer {
            id: request.spec.id,
            first_ms: None,
            end_tick: request.done_at(),
            context: u64::from(request.cached_at(self.tick)),
            joined: self.tick,
            blocks: u64::from(request.worst),
        }
    }

    /// The waiting requests and one more, each with what it will find in the cache.
    fn waiting_prompts(&self, more: Option<&RequestSpec>) -> VecDeque<Prompt> {
        let mut prompts = VecDeque::with_capacity(self.waiting.len() + 1);
        let mut before: Vec<&[u64]> = self
            .of(&self.prefilling)
            .take(COMPARED)
            .map(|r| self.reusable(&r.spec.block_hashes, r.context))
            .collect();
        let find = |hashes: &[u64], before: &[&[u64]]| {
            let held = self.pool.find(hashes, |_| {}).blocks;
            let common = before.iter().map(|other| common(hashes, other)).max();
            held.max(common.unwrap_or(0)) * self.profile.tokens_per_block
        };
        for key in &self.waiting {
            let Some(request) = self.requests.get(*key) else {
                continue;
            };
            let hashes = self.reusable(&request.spec.block_hashes, request.context);
            let cached = find(hashes, &before);
            if before.len() < COMPARED {
                before.push(hashes);
            }
            prompts.push_back(Prompt {
                tiles: request.spec.image_tiles,
                ..self.prompt(request, cached)
            });
        }
        if let Some(spec) = more {
            let hashes = self.reusable(&spec.block_hashes, spec.prompt_tokens);
            prompts.push_back(Prompt {
                id: spec.id,
                computed: find(hashes, &before),
                context: spec.prompt_tokens,
                more: spec.output_tokens.saturating_sub(1),
                resumed: false,
                blocks: u64::from(self.blocks(spec.prompt_tokens.saturating_add(spec.max_tokens))),
                tiles: spec.image_tiles,
            });
        }
        prompts
    }
}

/// Blocks that two prompts begin with; hashes are chained.
fn common(one: &[u64], other: &[u64]) -> u32 {
    let most = one.len().min(other.len());
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = (low + high) / 2;
        if one.get(middle) == other.get(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    u32::try_from(low).unwrap_or(u32::MAX)
}

impl Outlook<'_> {
    fn run(&mut self) {
        loop {
            let starts = self.next_starts();
            if self.prefilling.is_empty() && !starts {
                if self.answers.is_empty() {
                    return;
                }
                self.leap();
            } else {
                self.mixed();
            }
        }
    }

    fn running(&self) -> u64 {
        (self.answers.len() + self.prefilling.len()) as u64
    }

    /// Whether the first waiting request may start now. One that fits nowhere starts alone.
    fn next_starts(&self) -> bool {
        let fits = |prompt: &Prompt| {
            let cached = u64::from(prompt.computed / self.profile.tokens_per_block);
            prompt.blocks.saturating_sub(cached) <= self.free || self.running() == 0
        };
        self.running() < u64::from(self.profile.max_batch_size)
            && self.waiting.front().is_some_and(fits)
    }

    /// Adds tokens until the next answer ends.
    #[allow(clippy::cast_precision_loss)]
    fn leap(&mut self) {
        let Some(next) = self.answers.last() else {
            return;
        };
        let steps = next.end_tick.saturating_sub(self.tick).max(1);
        let generating = self.answers.len() as u64;
        // The context grows evenly: the mean step is the one in the middle.
        let work = Work {
            generating,
            generating_context: self.context + generating * (steps + 1) / 2,
            ..Work::default()
        };
        self.now_ms += iteration_ms(self.profile, &work) * self.slowdown * steps as f64;
        self.advance(steps);
    }

    /// One iteration with chunks of prompts.
    fn mixed(&mut self) {
        let generating = self.answers.len() as u64;
        let most = u64::from(self.profile.max_num_tokens).saturating_sub(generating);
        let mut budget = u32::try_from(most).unwrap_or(u32::MAX).max(1);
        let mut work = Work {
            generating,
            generating_context: self.context + generating,
            ..Work::default()
        };
        let per_block = self.profile.tokens_per_block;
        // Where a chunk does not fit, nothing after it runs either.
        let is_blocked = self.prefilling.iter_mut().any(|prompt| {
            let tokens = chunk_of(prompt.computed, prompt.context, budget, per_block);
            compute(prompt, tokens, &mut budget, &mut work);
            tokens == 0
        });
        while !is_blocked && budget > 0 && self.next_starts() {
            let next = self.waiting.front().map(|prompt| {
                let left = (prompt.computed, prompt.context);
                first_chunk(self.profile, left, prompt.resumed, budget)
            });
            let Some(tokens) = next.filter(|tokens| *tokens > 0) else {
                break;
            };
            let Some(mut prompt) = self.waiting.pop_front() else {
                break;
            };
            let cached = u64::from(prompt.computed / self.profile.tokens_per_block);
            prompt.blocks = prompt.blocks.saturating_sub(cached);
            self.free = self.free.saturating_sub(prompt.blocks);
            work.image_tiles += u64::from(prompt.tiles);
            compute(&mut prompt, tokens, &mut budget, &mut work);
            self.prefilling.push(prompt);
        }
        self.now_ms += iteration_ms(self.profile, &work) * self.slowdown;
        if generating > 0 {
            self.advance(1);
        }
        let (done, left): (Vec<Prompt>, Vec<Prompt>) = self
            .prefilling
            .iter()
            .partition(|p| p.computed >= p.context);
        self.prefilling = left;
        for prompt in done {
            self.begin(prompt);
        }
    }

    fn begin(&mut self, prompt: Prompt) {
        let answer = Answer {
            id: prompt.id,
            first_ms: (!prompt.resumed).then_some(self.now_ms),
            end_tick: self.tick + u64::from(prompt.more),
            context: u64::from(prompt.context),
            joined: self.tick,
            blocks: prompt.blocks,
        };
        if prompt.more == 0 {
            return self.end(answer);
        }
        self.context += answer.context;
        let at = self
            .answers
            .partition_point(|other| other.end_tick >= answer.end_tick);
        self.answers.insert(at, answer);
    }

    fn advance(&mut self, steps: u64) {
        self.tick += steps;
        self.context += steps * self.answers.len() as u64;
        while let Some(answer) = self.answers.last().copied() {
            if answer.end_tick > self.tick {
                break;
            }
            self.answers.pop();
            let context = answer.context + (self.tick - answer.joined);
            self.context = self.context.saturating_sub(context);
            self.end(answer);
        }
    }

    fn end(&mut self, answer: Answer) {
        self.free += answer.blocks;
        self.expected.push(Expected {
            id: answer.id,
            first_ms: answer.first_ms,
            done_ms: self.now_ms,
        });
    }
}

/// Computes a prompt's next `tokens`.
fn compute(prompt: &mut Prompt, tokens: u32, budget: &mut u32, work: &mut Work) {
    work.context_tokens += u64::from(tokens);
    work.context_squares += chunk_squares(prompt.computed, tokens);
    prompt.computed += tokens;
    *budget -= tokens;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::engine::Engine;
    use crate::profile::EngineProfile;
    use crate::request::RequestSpec;
    use crate::step::Step;
    use proptest::prelude::*;

    fn spec(id: u64, prompt: u32, output: u32) -> RequestSpec {
        let block_hashes: Vec<u64> = (0..u64::from(prompt / 32))
            .map(|at| id << 32 | at)
            .collect();
        RequestSpec {
            id,
            block_hashes: Arc::from(block_hashes),
            prompt_tokens: prompt,
            output_tokens: output,
            max_tokens: output,
            image_tiles: 0,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        /// What is foretold comes true, whatever the engine was doing.
        #[test]
        fn the_outlook_is_what_happens(
            lengths in prop::collection::vec((1..20_000u32, 1..400u32), 1..24),
            before in 0..40usize,
            kv_blocks in 4_000..30_000u32,
        ) {
            let profile = EngineProfile {
                noise: 0.0,
                kv_blocks,
                max_batch_size: 12,
                ..EngineProfile::default()
            };
            let mut engine = Engine::new(profile, 1).unwrap();
            let mut step = Step::default();
            let mut now = 0.0;
            let (last, first) = lengths.split_last().unwrap();
            for (id, (prompt, output)) in (0u64..).zip(first) {
                engine.submit(spec(id, *prompt, *output), now).unwrap();
            }
            for _ in 0..before {
                if engine.step(now, &mut step) {
                    now = step.ends_at_ms;
                }
            }
            let more = spec(999, last.0, last.1);
            let outlook = engine.outlook(Some(&more), now);
            engine.submit(more, now).unwrap();
            let mut happened = Vec::new();
            let mut firsts = std::collections::HashMap::new();
            while engine.step(now, &mut step) {
                now = step.ends_at_ms;
                for id in &step.prefilled {
                    firsts.insert(*id, now);
                }
                happened.extend(step.finished.iter().map(|finished| (finished.id, now)));
            }
            prop_assert_eq!(outlook.len(), happened.len());
            for (id, done_ms) in happened {
                let expected = outlook.iter().find(|one| one.id == id).unwrap();
                prop_assert!((expected.done_ms / done_ms - 1.0).abs() < 0.02,
                    "{}: {} and {}", id, expected.done_ms, done_ms);
                prop_assert_eq!(expected.first_ms.is_some(), firsts.contains_key(&id));
                if let Some(first_ms) = expected.first_ms {
                    prop_assert!((first_ms / firsts[&id] - 1.0).abs() < 0.02,
                        "{}: first {} and {}", id, first_ms, firsts[&id]);
                }
            }
        }
    }
}
