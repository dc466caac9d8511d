//! A token sequence and the chained hashes of its complete blocks.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of one token.
const WIDTH: usize = size_of::<u32>();

/// Tokens that are cut into blocks of the cache, kept as the bytes that are hashed.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    bytes: Vec<u8>,
    /// Bytes of one block.
    block: usize,
}

impl Sequence {
    pub(crate) fn new(tokens_per_block: u32) -> Self {
        Self {
            bytes: Vec::new(),
            block: usize::try_from(tokens_per_block).unwrap_or(32).max(1) * WIDTH,
        }
    }

    pub(crate) fn push(&mut self, token: u32) {
        self.bytes.extend_from_slice(&token.to_le_bytes());
    }

    /// How many tokens there are.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / WIDTH
    }

    pub(crate) fn tokens(&self) -> Arc<[u32]> {
        self.bytes
            .chunks_exact(WIDTH)
            .filter_map(|bytes| bytes.try_into().ok().map(u32::from_le_bytes))
            .collect()
    }

    /// The hash of every complete block, each over its tokens and the hash before it.
    pub(crate) fn hashes(&self) -> Arc<[u64]> {
        let mut parent = 0;
        self.bytes
            .chunks_exact(self.block)
            .map(|block| {
                parent = xxh3_64_with_seed(block, parent);
                parent
            })
            .collect()
    }

    /// A hash of everything so far.
    pub(crate) fn digest(&self, seed: u64) -> u64 {
        xxh3_64_with_seed(&self.bytes, seed)
    }
}

#[cfg(test)]
mod tests {
    use super::Sequence;

    #[test]
    fn hashes_cover_complete_blocks_and_all_before_them() {
        let sequence = |tokens: &[u32]| {
            let mut sequence = Sequence::new(2);
            tokens.iter().for_each(|t| sequence.push(*t));
            assert_eq!(sequence.tokens()[..], *tokens);
            sequence.hashes()
        };
        let long = sequence(&[1, 2, 3, 4, 5]);
        assert_eq!(long.len(), 2);
        assert_eq!(sequence(&[1, 2, 3])[..], long[..1]);
        // The same second block after another first one is another block.
        assert_ne!(sequence(&[9, 2, 3, 4])[1], long[1]);
    }
}
