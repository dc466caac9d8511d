//! What no router can beat: the hits of one cache for all, endless or of all replicas' memory.

use weighbridge_engine::EngineProfile;

use crate::lru::PrefixLru;
use crate::workload::Workload;

/// Blocks that one node of the cache stands for, where there are more than [`MANY_BLOCKS`].
const COARSE: usize = 8;
const MANY_BLOCKS: u64 = 20_000_000;

/// Share of prompt tokens that a cache would have had.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bounds {
    /// An endless one.
    pub(crate) ideal: f64,
    /// One of all replicas' memory together, least recently used first out.
    pub(crate) pooled: f64,
}

impl Bounds {
    /// Replays the prompts in order of arrival; those that arrive before `from_us` only fill the
    /// caches. An answer is there when its prompt is.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn of(workload: &Workload, blocks: u64, from_us: u64) -> Self {
        let per_block = u64::from(workload.tokens_per_block());
        let arrivals = workload.arrivals();
        let count = |number| workload.sequence(number).blocks.len() as u64;
        let some: u64 = (0..arrivals.len()).take(1000).map(count).sum();
        let all = some * arrivals.len() as u64 / (arrivals.len().clamp(1, 1000) as u64);
        let step = if all > MANY_BLOCKS { COARSE } else { 1 };
        let mut ideal = PrefixLru::new(u64::MAX);
        let mut pooled = PrefixLru::new(blocks);
        let (mut tokens, mut ideal_hits, mut pooled_hits) = (0u64, 0u64, 0u64);
        for (number, arrival) in arrivals.iter().enumerate() {
            let sequence = workload.sequence(number);
            let prompt = u64::from(sequence.prompt_tokens);
            // The last token is always computed.
            let most = usize::try_from(prompt.saturating_sub(1) / per_block).unwrap_or(0);
            if arrival.at_us >= from_us {
                let whole = sequence.blocks.get(..most).unwrap_or(&sequence.blocks);
                tokens += prompt;
                ideal_hits += held(&ideal, whole, step) * per_block;
                pooled_hits += held(&pooled, whole, step) * per_block;
            }
            let nodes = nodes(&sequence.blocks, most, step);
            for (hash, weight) in nodes.into_iter().rev() {
                ideal.touch(hash, weight);
                pooled.touch(hash, weight);
            }
        }
        let share = |hits: u64| hits as f64 / tokens.max(1) as f64;
        Self {
            ideal: share(ideal_hits),
            pooled: share(pooled_hits),
        }
    }

    /// Blocks of all these engines together.
    pub(crate) fn pool<'a>(engines: impl Iterator<Item = (&'a EngineProfile, usize)>) -> u64 {
        engines
            .map(|(engine, count)| u64::from(engine.kv_blocks) * count as u64)
            .sum()
    }
}

/// The hashes to keep of a sequence: every so many blocks, the prompt's end and the sequence's, each
/// with the blocks since the one before it.
fn nodes(blocks: &[u64], prompt: usize, step: usize) -> Vec<(u64, u32)> {
    let mut nodes = Vec::with_capacity(blocks.len() / step + 2);
    let mut since = 0;
    for (at, hash) in blocks.iter().enumerate() {
        since += 1;
        let end = at + 1;
        if end % step == 0 || end == prompt || end == blocks.len() {
            nodes.push((*hash, since));
            since = 0;
        }
    }
    nodes
}

/// Leading blocks that are held: whole steps, then single ones.
fn held(cache: &PrefixLru, blocks: &[u64], step: usize) -> u64 {
    let mut end = 0;
    for (at, hash) in blocks.iter().enumerate() {
        let done = at + 1;
        let ends_step = done % step == 0;
        if cache.holds(*hash) {
            end = done;
        } else if ends_step {
            break;
        }
    }
    end as u64
}

#[cfg(test)]
mod tests {
    use super::{held, nodes};
    use crate::lru::PrefixLru;

    #[test]
    fn coarse_steps_find_what_single_ones_do_up_to_ends() {
        let blocks: Vec<u64> = (1..=37).collect();
        for step in [1, 8] {
            let mut cache = PrefixLru::new(u64::MAX);
            nodes(&blocks, 29, step)
                .into_iter()
                .rev()
                .for_each(|(hash, weight)| cache.touch(hash, weight));
            assert_eq!(held(&cache, &blocks, step), 37);
            assert_eq!(held(&cache, &blocks[..29], step), 29);
            let mut other = blocks.clone();
            other[29..].fill(99);
            assert_eq!(held(&cache, &other, step), 29);
            assert_eq!(held(&cache, &[99, 2, 3], step), 0);
        }
        let weights: u32 = nodes(&blocks, 29, 8).iter().map(|(_, weight)| weight).sum();
        assert_eq!(weights, 37);
    }
}
