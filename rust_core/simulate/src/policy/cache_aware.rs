//! `SGLang`'s `cache_aware`, as the documents of its successor SMG give it.
//!
//! Unless requests in flight are out of balance (highest − lowest > 64, and highest > 1.5 × lowest),
//! a request goes to the replica that was last sent the longest beginning of its text, if that is
//! more than 0.3 of it; all others go to the replica with the fewest requests in flight. The tree of
//! texts is kept here in steps of 256 tokens; it does not forget what engines evict.

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;

use super::{Ask, Policy, View, fresh, in_flight, lowest};

const MATCH: f64 = 0.3;
const BALANCE_ABSOLUTE: u32 = 64;
const BALANCE_RELATIVE: f64 = 1.5;

/// Tokens between two nodes of the tree.
const STEP_TOKENS: usize = 256;

/// SGLang's policy.
pub(super) struct CacheAware {
    /// Who was last sent a text that begins so.
    tree: HashMap<u64, usize>,
    chance: ChaCha8Rng,
}

impl CacheAware {
    pub(super) fn new(chance: ChaCha8Rng) -> Self {
        Self {
            tree: HashMap::new(),
            chance,
        }
    }

    fn nodes<'a>(ask: &'a Ask<'_>) -> impl Iterator<Item = u64> + 'a {
        let block = ask.workload.tokens_per_block().max(1) as usize;
        let step = (STEP_TOKENS / block).max(1);
        let prompt = ask.sequence.prompt_tokens as usize / block;
        let blocks = ask.sequence.blocks.iter().take(prompt);
        blocks.skip(step - 1).step_by(step).copied()
    }

    /// The replica with the longest beginning, if that is long enough.
    #[allow(clippy::cast_precision_loss)]
    fn matched(&self, ask: &Ask<'_>) -> Option<usize> {
        let known = Self::nodes(ask).map_while(|node| self.tree.get(&node));
        let (depth, replica) = known.enumerate().last()?;
        let share = ((depth + 1) * STEP_TOKENS) as f64 / f64::from(ask.sequence.prompt_tokens);
        (share > MATCH).then_some(*replica)
    }
}

impl Policy for CacheAware {
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize> {
        let loads = || view.open.iter().map(|replica| in_flight(view, *replica));
        let (least, most) = (loads().min()?, loads().max()?);
        let imbalanced = most - least > BALANCE_ABSOLUTE
            && f64::from(most) > BALANCE_RELATIVE * f64::from(least);
        if !imbalanced {
            let matched = self.matched(ask);
            let usable = |replica: &usize| {
                view.open.binary_search(replica).is_ok() && !ask.tried.contains(replica)
            };
            if let Some(replica) = matched.filter(usable) {
                return Some(replica);
            }
        }
        let scored = fresh(ask, view).map(|replica| (replica, f64::from(in_flight(view, replica))));
        lowest(&mut self.chance, scored)
    }

    fn sent(&mut self, ask: &Ask<'_>, replica: usize, _view: &View<'_>) {
        for node in Self::nodes(ask) {
            self.tree.insert(node, replica);
        }
    }
}
