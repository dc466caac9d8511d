//! The longest match of every replica, as a few shrinking sets.

use smallvec::SmallVec;

use super::holders::{Holders, INLINE, bits};
use super::table::Found;
use crate::replica::ReplicaId;

/// For every replica the longest prefix it has likely cached, as found by
/// [`PrefixIndex::matches`](super::PrefixIndex::matches).
///
/// Along a chain the set of holders only shrinks, so it is kept where it changes: replicas of the
/// first level have the shortest match.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    levels: SmallVec<[Level; 4]>,
    words: Vec<u64>,
}

/// The replicas that have the first `depth` blocks.
#[derive(Clone, Copy, Debug)]
struct Level {
    depth: u32,
    set: LevelSet,
}

#[derive(Clone, Copy, Debug)]
enum LevelSet {
    Few(Holders),
    /// Bits in `words`, from the first number up to the second.
    Many(u32, u32),
}

impl Matches {
    /// Blocks of the asked chain that this replica has likely cached.
    #[must_use]
    pub fn blocks(&self, replica: ReplicaId) -> u32 {
        let mut deepest_first = self.levels.iter().rev();
        deepest_first
            .find(|level| self.has(level.set, replica))
            .map_or(0, |level| level.depth)
    }

    /// Blocks of the longest match of all.
    #[must_use]
    pub fn deepest(&self) -> u32 {
        self.levels.last().map_or(0, |level| level.depth)
    }

    /// Up to `most` replicas with the longest matches, deepest first, each once. Among equals the
    /// `seed` says with which to begin, so that all are named equally often.
    #[must_use]
    pub fn best(&self, most: usize, seed: u64) -> SmallVec<[(ReplicaId, u32); 8]> {
        let mut found: SmallVec<[(ReplicaId, u32); 8]> = SmallVec::new();
        for level in self.levels.iter().rev() {
            let mut add = |id: ReplicaId| {
                if found.len() < most && !found.iter().any(|(seen, _)| *seen == id) {
                    found.push((id, level.depth));
                }
                found.len() < most
            };
            match level.set {
                LevelSet::Few(holders) => {
                    let turn = place(seed, holders.ids().count());
                    let _ = holders.ids().skip(turn).all(&mut add)
                        && holders.ids().take(turn).all(&mut add);
                }
                LevelSet::Many(from, to) => {
                    let words = self.words(from, to);
                    let mut turn = place(seed, ones(words).sum());
                    let word = ones(words)
                        .take_while(|ones| take(&mut turn, *ones))
                        .count();
                    let (before, after) = words.split_at_checked(word).unwrap_or((words, &[]));
                    let ahead = u32::try_from(word * 64).unwrap_or(0);
                    let after = || bits(after).map(|id| ReplicaId(id.0 + ahead));
                    let _ = after().skip(turn).all(&mut add)
                        && bits(before).all(&mut add)
                        && after().take(turn).all(&mut add);
                }
            }
            if found.len() >= most {
                break;
            }
        }
        found
    }

    /// Narrows the holders down by those of the block at this depth; false when nobody is left.
    pub(super) fn narrow(&mut self, depth: u32, found: Found<'_>) -> bool {
        let Some(last) = self.levels.last().copied() else {
            return match found {
                Found::Few(holders) => self.push(depth, LevelSet::Few(holders)),
                Found::Many(words) => self.push_words(depth, words.iter().copied()),
            };
        };
        let held = match (last.set, found) {
            (LevelSet::Few(held), found) => held.filter(|id| found.contains(id)),
            (LevelSet::Many(..), Found::Few(few)) => few.filter(|id| self.has(last.set, id)),
            (LevelSet::Many(from, to), Found::Many(words)) => {
                return self.narrow_words(depth, (from, to), words);
            }
        };
        match last.set {
            _ if held.is_empty() => false,
            LevelSet::Few(before) if before == held => self.deepen(depth),
            _ => self.push(depth, LevelSet::Few(held)),
        }
    }

    fn narrow_words(&mut self, depth: u32, (from, to): (u32, u32), words: &[u64]) -> bool {
        let before = self.words(from, to);
        let both = || before.iter().zip(words).map(|(a, b)| a & b);
        if both().eq(before.iter().copied()) {
            return self.deepen(depth);
        }
        let count: u32 = both().map(u64::count_ones).sum();
        if count as usize > INLINE {
            let narrowed: SmallVec<[u64; 16]> = both().collect();
            return self.push_words(depth, narrowed.into_iter());
        }
        let narrowed: SmallVec<[u64; 16]> = both().collect();
        let few = bits(&narrowed).fold(Holders::default(), |set, id| set.with(id).unwrap_or(set));
        !few.is_empty() && self.push(depth, LevelSet::Few(few))
    }

    fn deepen(&mut self, depth: u32) -> bool {
        if let Some(last) = self.levels.last_mut() {
            last.depth = depth;
        }
        true
    }

    fn push(&mut self, depth: u32, set: LevelSet) -> bool {
        self.levels.push(Level { depth, set });
        true
    }

    fn push_words(&mut self, depth: u32, words: impl Iterator<Item = u64>) -> bool {
        let end = |words: &Vec<u64>| u32::try_from(words.len()).unwrap_or(u32::MAX);
        let from = end(&self.words);
        self.words.extend(words);
        let to = end(&self.words);
        self.push(depth, LevelSet::Many(from, to))
    }

    fn words(&self, from: u32, to: u32) -> &[u64] {
        self.words.get(from as usize..to as usize).unwrap_or(&[])
    }

    fn has(&self, set: LevelSet, id: ReplicaId) -> bool {
        match set {
            LevelSet::Few(holders) => holders.contains(id),
            LevelSet::Many(from, to) => has_bit(self.words(from, to), id),
        }
    }
}

impl Found<'_> {
    fn contains(&self, id: ReplicaId) -> bool {
        match self {
            Self::Few(holders) => holders.contains(id),
            Self::Many(words) => has_bit(words, id),
        }
    }
}

fn has_bit(words: &[u64], id: ReplicaId) -> bool {
    words
        .get(id.slot() / 64)
        .is_some_and(|word| word >> (id.slot() % 64) & 1 == 1)
}

/// How many are in each of these words.
fn ones(words: &[u64]) -> impl Iterator<Item = usize> {
    words.iter().map(|word| word.count_ones() as usize)
}

/// Where to begin among `among` holders, by the seed.
#[allow(clippy::cast_possible_truncation)]
fn place(seed: u64, among: usize) -> usize {
    ((u128::from(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * among as u128) >> 64) as usize
}

/// Takes `count` off `left`, unless fewer are left.
fn take(left: &mut usize, count: usize) -> bool {
    let rest = left.checked_sub(count);
    *left = rest.unwrap_or(*left);
    rest.is_some()
}
