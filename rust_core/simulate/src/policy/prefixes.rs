//! What the Gateway API's endpoint pickers know of caches: the latest prompts that they
//! sent.

use std::sync::Arc;

use weighbridge_place::{Matches, PrefixIndex, ReplicaCache, ReplicaId};
use weighbridge_weigh::Profile;

use super::Ask;

/// Tokens of a block.
const BLOCK_TOKENS: usize = 64;
const MOST_BLOCKS: usize = 256;
const BLOCKS_PER_REPLICA: u64 = 31_250;

/// The prompts that replicas were sent.
pub(super) struct Prefixes {
    index: Arc<PrefixIndex>,
    caches: Vec<ReplicaCache>,
    blocks_per_replica: usize,
}

/// Who was sent how much of a prompt before.
pub(super) struct Shares {
    matches: Matches,
    blocks: usize,
}

impl Prefixes {
    pub(super) fn new(profiles: &[Profile]) -> Self {
        let held = profiles.iter().map(|profile| profile.kv_tokens).max();
        let blocks = BLOCKS_PER_REPLICA.min(held.unwrap_or(0) / BLOCK_TOKENS as u64);
        Self {
            index: PrefixIndex::new(),
            caches: Vec::new(),
            blocks_per_replica: usize::try_from(blocks).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn shares(&self, ask: &Ask<'_>) -> Shares {
        let blocks = blocks(ask);
        Shares {
            matches: self.index.matches(&blocks),
            blocks: blocks.len(),
        }
    }

    pub(super) fn record(&mut self, ask: &Ask<'_>, replica: usize) {
        while self.caches.len() <= replica {
            let cache = ReplicaCache::new(
                Arc::clone(&self.index),
                id(self.caches.len()),
                self.blocks_per_replica,
            );
            self.caches.push(cache);
        }
        if let Some(cache) = self.caches.get(replica) {
            cache.record(&blocks(ask));
        }
    }
}

impl Shares {
    /// The share of the prompt's blocks that the replica was sent before, 0 to 1.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn of(&self, replica: usize) -> f64 {
        f64::from(self.matches.blocks(id(replica))) / self.blocks.max(1) as f64
    }
}

fn blocks(ask: &Ask<'_>) -> Vec<u64> {
    let block = ask.workload.tokens_per_block().max(1) as usize;
    let step = (BLOCK_TOKENS / block).max(1);
    let prompt = ask.sequence.prompt_tokens as usize / block;
    let blocks = ask.sequence.blocks.iter().take(prompt).skip(step - 1);
    blocks.step_by(step).copied().take(MOST_BLOCKS).collect()
}

fn id(replica: usize) -> ReplicaId {
    ReplicaId(u32::try_from(replica).unwrap_or(u32::MAX))
}
