//! Marks: the blocks of a chain that the index keeps, all near its root and ever fewer further down.
//!
//! What a replica has of a prompt need not be known to the block: an eighth of it is near enough.
//! So the blocks kept stand as far apart as an eighth of their depth, and of a long prompt a few
//! dozen are kept instead of hundreds. Every chain has its marks at the same depths: two chains that
//! share a prefix share its marks.

/// Where the marks of chains are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marks {
    /// Every block.
    All,
    /// So many from one depth to twice that depth, a power of two.
    PerDoubling(u32),
}

/// One mark of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its block's hash.
    pub(super) block: u64,
    /// Blocks of the chain up to it, itself included.
    pub(super) depth: u32,
    /// Blocks that it stands for: those since the mark before it.
    pub(super) blocks: u32,
}

impl Marks {
    /// The marks of a chain, from the root on.
    pub(super) fn of(self, chain: &[u64]) -> impl Iterator<Item = Mark> + '_ {
        let mut depth = 0;
        let next = move || {
            let blocks = self.step(depth);
            depth += blocks;
            let block = *chain.get(depth as usize - 1)?;
            Some(Mark {
                block,
                depth,
                blocks,
            })
        };
        std::iter::from_fn(next).fuse()
    }

    /// Blocks from the mark at this depth to the next one.
    fn step(self, depth: u32) -> u32 {
        match self {
            Self::All => 1,
            Self::PerDoubling(count) => match (depth / count.max(1)).checked_ilog2() {
                Some(doublings) => 1 << doublings,
                None => 1,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depths(marks: Marks, blocks: u64) -> Vec<u32> {
        let chain: Vec<u64> = (0..blocks).collect();
        marks.of(&chain).map(|mark| mark.depth).collect()
    }

    #[test]
    fn marks_thin_out_with_depth() {
        assert_eq!(depths(Marks::All, 5), [1, 2, 3, 4, 5]);
        let few = depths(Marks::PerDoubling(4), 40);
        assert_eq!(
            few,
            [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40]
        );
        assert_eq!(depths(Marks::PerDoubling(8), 1 << 16).len(), 8 + 8 * 13);
    }

    #[test]
    fn marks_stand_for_all_blocks_up_to_the_last() {
        let chain: Vec<u64> = (0..1_000).collect();
        let marks: Vec<Mark> = Marks::PerDoubling(8).of(&chain).collect();
        let stood_for: u32 = marks.iter().map(|mark| mark.blocks).sum();
        assert_eq!(Some(stood_for), marks.last().map(|mark| mark.depth));
        assert!(
            marks
                .iter()
                .all(|mark| mark.block == u64::from(mark.depth) - 1)
        );
        assert!(stood_for > 1_000 * 7 / 8);
    }
}
