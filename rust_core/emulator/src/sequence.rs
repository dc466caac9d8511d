//! A token sequence and the chained hashes of its complete blocks.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Tokens that are cut into blocks of the cache.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    tokens: Vec<u32>,
    block: usize,
}

impl Sequence {
    pub(crate) fn new(tokens_per_block: u32) -> Self {
        Self {
            tokens: Vec::new(),
            block: usize::try_from(tokens_per_block).unwrap_or(32).max(1),
        }
    }

    pub(crate) fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(crate) fn into_tokens(self) -> Arc<[u32]> {
        Arc::from(self.tokens)
    }

    /// The hash of every complete block, each over its tokens and the hash before it.
    pub(crate) fn hashes(&self) -> Arc<[u64]> {
        let mut parent = 0;
        let mut bytes = Vec::with_capacity(self.block * 4);
        self.tokens
            .chunks_exact(self.block)
            .map(|block| {
                parent = hash(block, parent, &mut bytes);
                parent
            })
            .collect()
    }

    /// A hash of everything so far.
    pub(crate) fn digest(&self, seed: u64) -> u64 {
        hash(&self.tokens, seed, &mut Vec::new())
    }
}

fn hash(tokens: &[u32], seed: u64, bytes: &mut Vec<u8>) -> u64 {
    bytes.clear();
    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    xxh3_64_with_seed(bytes, seed)
}

#[cfg(test)]
mod tests {
    use super::Sequence;

    #[test]
    fn hashes_cover_complete_blocks_and_all_before_them() {
        let sequence = |tokens: &[u32]| {
            let mut sequence = Sequence::new(2);
            tokens.iter().for_each(|t| sequence.push(*t));
            sequence.hashes()
        };
        let long = sequence(&[1, 2, 3, 4, 5]);
        assert_eq!(long.len(), 2);
        assert_eq!(sequence(&[1, 2, 3])[..], long[..1]);
        // The same second block after another first one is another block.
        assert_ne!(sequence(&[9, 2, 3, 4])[1], long[1]);
    }
}
