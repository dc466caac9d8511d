//! Dynamo's KV router, as its documents give the cost and as its release 1.6.1 defaults.
//!
//! ```text
//! cost = max(prefill tokens ahead + prompt − tokens cached there, 0) ÷ block + blocks in use with it
//! ```
//! The lowest cost wins (temperature 0), equals are drawn among. Prefill ahead is what was sent and
//! has no first token yet, less what was cached; blocks in use are those of the prompts under
//! way, whole ones alone, each counted once however many share it. What is cached is known exactly,
//! as from events of the engines' caches. `tests/arena/dynamo_agree.py` holds the choices against
//! those of Dynamo's own service.

use std::collections::HashMap;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::{Ask, Policy, Usage, View, fresh, lowest};

/// What the router has sent to one worker and has not seen the end of.
#[derive(Debug, Default)]
struct Worker {
    prefill_tokens: u64,
    /// Requests that hold a block.
    blocks: HashMap<u64, u32>,
}

impl Worker {
    /// Blocks in use if a prompt came: the beginning of it may be in use already.
    #[allow(clippy::cast_precision_loss)]
    fn with(&self, prompt: &[u64]) -> f64 {
        // Hashes are chained: where one is held, all before it are.
        let held = prompt.partition_point(|block| self.blocks.contains_key(block));
        (self.blocks.len() + prompt.len() - held) as f64
    }
}

/// One request under way.
#[derive(Debug)]
struct Sent {
    worker: usize,
    prefill_tokens: u64,
    prompt: Arc<[u64]>,
    prompt_blocks: usize,
}

/// Dynamo's policy.
pub(super) struct Dynamo {
    workers: Vec<Worker>,
    under_way: HashMap<usize, Sent>,
    chance: ChaCha8Rng,
    /// What was asked, weighed, chosen and seen, in order, where that is wanted.
    diary: Option<Vec<Value>>,
}

impl Dynamo {
    pub(super) fn new(chance: ChaCha8Rng, with_diary: bool) -> Self {
        Self {
            workers: Vec::new(),
            under_way: HashMap::new(),
            chance,
            diary: with_diary.then(Vec::new),
        }
    }

    fn note(&mut self, what: impl FnOnce() -> Value) {
        if let Some(diary) = &mut self.diary {
            diary.push(what());
        }
    }

    /// The whole blocks of the prompt.
    fn prompt(ask: &Ask<'_>) -> usize {
        let block = ask.workload.tokens_per_block().max(1);
        let whole = (ask.sequence.prompt_tokens / block) as usize;
        whole.min(ask.sequence.blocks.len())
    }

    fn free(&mut self, number: usize) {
        let Some(sent) = self.under_way.remove(&number) else {
            return;
        };
        self.note(|| json!({"end": number}));
        let Some(worker) = self.workers.get_mut(sent.worker) else {
            return;
        };
        worker.prefill_tokens -= sent.prefill_tokens;
        for block in sent.prompt.iter().take(sent.prompt_blocks) {
            if let Some(holders) = worker.blocks.get_mut(block) {
                *holders -= 1;
                if *holders == 0 {
                    worker.blocks.remove(block);
                }
            }
        }
    }
}

impl Policy for Dynamo {
    #[allow(clippy::cast_precision_loss)]
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize> {
        let whole = Self::prompt(ask);
        let blocks = ask.sequence.blocks.get(..whole).unwrap_or_default();
        let block = ask.workload.tokens_per_block().max(1);
        let tokens = ask.sequence.prompt_tokens;
        let (replicas, workers) = (&*view.replicas, &self.workers);
        let none = Worker::default();
        let weigh = |replica: usize| {
            let worker = workers.get(replica).unwrap_or(&none);
            let cached = replicas.get(replica).map_or(0, |replica| {
                replica.engine().cached_tokens(&ask.sequence.blocks, tokens)
            });
            let prefill = worker.prefill_tokens as f64 + f64::from(tokens) - f64::from(cached);
            let cost = prefill.max(0.0) / f64::from(block) + worker.with(blocks);
            (replica, cached, cost)
        };
        let weighed: Vec<(usize, u32, f64)> = fresh(ask, view).map(weigh).collect();
        let scored = weighed.iter().map(|(replica, _, cost)| (*replica, *cost));
        let chosen = lowest(&mut self.chance, scored);
        self.note(|| {
            json!({"ask": ask.number, "tokens": tokens, "block_tokens": block, "blocks": blocks,
                "weighed": weighed, "chosen": chosen})
        });
        chosen
    }

    fn sent(&mut self, ask: &Ask<'_>, replica: usize, view: &View<'_>) {
        self.free(ask.number);
        let whole = Self::prompt(ask);
        let tokens = ask.sequence.prompt_tokens;
        let cached = view.replicas.get(replica).map_or(0, |replica| {
            replica.engine().cached_tokens(&ask.sequence.blocks, tokens)
        });
        while self.workers.len() <= replica {
            self.workers.push(Worker::default());
        }
        let Some(worker) = self.workers.get_mut(replica) else {
            return;
        };
        let prefill_tokens = u64::from(tokens.saturating_sub(cached));
        worker.prefill_tokens += prefill_tokens;
        for block in ask.sequence.blocks.iter().take(whole) {
            *worker.blocks.entry(*block).or_default() += 1;
        }
        self.under_way.insert(
            ask.number,
            Sent {
                worker: replica,
                prefill_tokens,
                prompt: Arc::clone(&ask.sequence.blocks),
                prompt_blocks: whole,
            },
        );
        self.note(|| json!({"sent": ask.number, "to": replica, "prefill_tokens": prefill_tokens}));
    }

    fn first_token(&mut self, number: usize, _replica: usize, _now_ms: f64) {
        if let Some(sent) = self.under_way.get_mut(&number) {
            let done = std::mem::take(&mut sent.prefill_tokens);
            if let Some(worker) = self.workers.get_mut(sent.worker) {
                worker.prefill_tokens -= done;
            }
            self.note(|| json!({"first": number}));
        }
    }

    fn finished(&mut self, number: usize, _replica: usize, _usage: Usage, _now_ms: f64) {
        self.free(number);
    }

    fn dropped(&mut self, number: usize, _now_ms: f64) {
        self.free(number);
    }

    fn diary(&mut self) -> Vec<Value> {
        self.diary.take().unwrap_or_default()
    }
}
