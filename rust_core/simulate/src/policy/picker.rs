//! The Gateway API's endpoint picker: prefix, queue and KV scorers, weighted 3, 2 and 2.
//!
//! As its plugins score: prefix is the share of the prompt's blocks (the first 256) that the replica
//! was sent before and that are still among its latest 31,250; queue is 1 for the shortest queue of
//! waiting requests and 0 for the longest; KV is the free share of the cache. Queues and caches are
//! as old as the last scrape. The highest sum wins, equals are drawn among.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use weighbridge_place::{PrefixIndex, ReplicaCache, ReplicaId};
use weighbridge_weigh::Profile;

use super::{Ask, Policy, View, fresh, lowest};
use crate::replica::Metrics;
use crate::scenario::Scenario;

const PREFIX_WEIGHT: f64 = 3.0;
const QUEUE_WEIGHT: f64 = 2.0;
const KV_WEIGHT: f64 = 2.0;

/// Tokens of a block.
const BLOCK_TOKENS: usize = 64;
const MOST_BLOCKS: usize = 256;
const BLOCKS_PER_REPLICA: u64 = 31_250;

/// The endpoint picker.
pub(super) struct Picker {
    index: Arc<PrefixIndex>,
    caches: Vec<ReplicaCache>,
    blocks_per_replica: usize,
    metrics: Vec<Metrics>,
    scraped_ms: f64,
    interval_ms: f64,
    chance: ChaCha8Rng,
}

impl Picker {
    pub(super) fn new(scenario: &Scenario, profiles: &[Profile], chance: ChaCha8Rng) -> Self {
        let held = profiles.iter().map(|profile| profile.kv_tokens).max();
        let blocks = BLOCKS_PER_REPLICA.min(held.unwrap_or(0) / BLOCK_TOKENS as u64);
        Self {
            index: PrefixIndex::new(),
            caches: Vec::new(),
            blocks_per_replica: usize::try_from(blocks).unwrap_or(usize::MAX),
            metrics: Vec::new(),
            scraped_ms: f64::NEG_INFINITY,
            interval_ms: scenario.telemetry_ms,
            chance,
        }
    }

    fn blocks(ask: &Ask<'_>) -> Vec<u64> {
        let block = ask.workload.tokens_per_block().max(1) as usize;
        let step = (BLOCK_TOKENS / block).max(1);
        let prompt = ask.sequence.prompt_tokens as usize / block;
        let blocks = ask.sequence.blocks.iter().take(prompt).skip(step - 1);
        blocks.step_by(step).copied().take(MOST_BLOCKS).collect()
    }

    fn scrape(&mut self, view: &mut View<'_>, now_ms: f64) {
        if now_ms < self.scraped_ms + self.interval_ms && self.metrics.len() == view.replicas.len()
        {
            return;
        }
        // Scrapes are on a grid of their own, whenever requests come.
        self.scraped_ms = if self.interval_ms > 0.0 {
            (now_ms / self.interval_ms).floor() * self.interval_ms
        } else {
            now_ms
        };
        self.metrics.clear();
        let scraped = view.replicas.iter_mut();
        self.metrics
            .extend(scraped.map(|replica| replica.metrics(now_ms)));
    }
}

impl Policy for Picker {
    #[allow(clippy::cast_precision_loss)]
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize> {
        self.scrape(view, ask.now_ms);
        let blocks = Self::blocks(ask);
        let matches = self.index.matches(&blocks);
        let metrics = &self.metrics;
        let of = |replica: usize| metrics.get(replica).copied().unwrap_or_default();
        let queues = || fresh(ask, view).map(|replica| of(replica).waiting);
        let (shortest, longest) = (queues().min()?, queues().max()?);
        let score = |replica: usize| {
            let Metrics { waiting, kv_share } = of(replica);
            let matched = matches.blocks(id(replica));
            let prefix = f64::from(matched) / blocks.len().max(1) as f64;
            let queue = if longest == shortest {
                1.0
            } else {
                f64::from(longest - waiting) / f64::from(longest - shortest)
            };
            PREFIX_WEIGHT * prefix + QUEUE_WEIGHT * queue + KV_WEIGHT * (1.0 - kv_share)
        };
        let scored = fresh(ask, view).map(|replica| (replica, -score(replica)));
        lowest(&mut self.chance, scored)
    }

    fn sent(&mut self, ask: &Ask<'_>, replica: usize) {
        while self.caches.len() <= replica {
            let cache = ReplicaCache::new(
                Arc::clone(&self.index),
                id(self.caches.len()),
                self.blocks_per_replica,
            );
            self.caches.push(cache);
        }
        if let Some(cache) = self.caches.get(replica) {
            cache.record(&Self::blocks(ask));
        }
    }
}

fn id(replica: usize) -> ReplicaId {
    ReplicaId(u32::try_from(replica).unwrap_or(u32::MAX))
}
