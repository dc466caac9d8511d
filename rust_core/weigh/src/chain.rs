//! The prefix chain: hashes of the canonical prompt, block by block, each over all before it.
//!
//! The canonical prompt is tools, then system, then messages, wherever they stand in the JSON. Each
//! section is cut into blocks of [`BLOCK_BYTES`] on its own; a section's end closes its last block,
//! except for the messages, whose end is open since the next turn continues it.

use std::mem;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Canonical bytes in a full block: about 64 tokens.
pub const BLOCK_BYTES: usize = 256;

/// One block of a prefix chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Block {
    /// Hash of this block and of all before it, and of the model.
    pub hash: u64,
    /// Canonical bytes in the block: [`BLOCK_BYTES`], or fewer where a section ends.
    pub bytes: u32,
}

/// How many blocks of a chain belong to each section.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SectionBlocks {
    /// Blocks of tool definitions, first in the chain.
    pub tools: usize,
    /// Blocks of the system prompt, after the tools.
    pub system: usize,
    /// Blocks of messages, or of the prompt, last in the chain.
    pub messages: usize,
}

/// Hashes of a prompt's beginnings: two prompts share as many blocks as they have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixChain {
    blocks: Vec<Block>,
    sections: SectionBlocks,
}

impl PrefixChain {
    /// The blocks, first to last.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// How many blocks belong to each section.
    #[must_use]
    pub fn sections(&self) -> SectionBlocks {
        self.sections
    }

    /// Number of blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there is no complete block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Binds a chain that was read without a model to `model`, as reading a body that names it does.
    #[must_use]
    pub fn bound_to(mut self, model: &str) -> Self {
        let seed = xxh3_64(model.as_bytes());
        for block in &mut self.blocks {
            block.hash = xxh3_64_with_seed(&block.hash.to_le_bytes(), seed);
        }
        self
    }
}

/// Hash and length of a block by itself.
#[derive(Debug, Clone, Copy)]
struct Digest {
    hash: u64,
    bytes: u32,
}

/// One section's blocks, while its bytes pass.
#[derive(Debug)]
pub(crate) struct Section {
    digests: Vec<Digest>,
    open: [u8; BLOCK_BYTES],
    open_len: usize,
    max_blocks: usize,
}

/// A point of a section to which it can return.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    digests: usize,
    open: [u8; BLOCK_BYTES],
    open_len: usize,
}

impl Section {
    pub(crate) fn new(max_blocks: usize) -> Self {
        Self {
            digests: Vec::new(),
            open: [0; BLOCK_BYTES],
            open_len: 0,
            max_blocks,
        }
    }

    /// Appends canonical bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        if self.open_len > 0 {
            let room = BLOCK_BYTES - self.open_len;
            let (head, tail) = bytes.split_at(room.min(bytes.len()));
            let end = self.open_len + head.len();
            if let Some(gap) = self.open.get_mut(self.open_len..end) {
                gap.copy_from_slice(head);
            }
            self.open_len = end;
            if end < BLOCK_BYTES {
                return;
            }
            let open = self.open;
            self.push(&open);
            self.open_len = 0;
            bytes = tail;
        }
        if self.digests.len() >= self.max_blocks {
            return;
        }
        let mut blocks = bytes.chunks_exact(BLOCK_BYTES);
        for block in &mut blocks {
            self.push(block);
        }
        let rest = blocks.remainder();
        if let Some(gap) = self.open.get_mut(..rest.len()) {
            gap.copy_from_slice(rest);
            self.open_len = rest.len();
        }
    }

    fn push(&mut self, block: &[u8]) {
        if self.digests.len() < self.max_blocks {
            self.digests.push(Digest {
                hash: xxh3_64(block),
                bytes: block.len() as u32,
            });
        }
    }

    /// Ends the section: what is left becomes its last block.
    pub(crate) fn close(&mut self) {
        let open = self.open;
        let len = mem::take(&mut self.open_len);
        if let Some(rest) = open.get(..len).filter(|rest| !rest.is_empty()) {
            self.push(rest);
        }
    }

    /// Hash of everything so far, the open block included.
    pub(crate) fn digest(&self) -> u64 {
        let open = self.open.get(..self.open_len).unwrap_or_default();
        let seed = xxh3_64(open);
        self.digests.iter().fold(seed, |hash, digest| {
            xxh3_64_with_seed(&digest.hash.to_le_bytes(), hash)
        })
    }

    /// Moves the blocks of `other` to this section's end; both are closed by it.
    pub(crate) fn append(&mut self, other: &mut Self) {
        self.close();
        other.close();
        self.digests.append(&mut other.digests);
        self.digests.truncate(self.max_blocks);
    }

    /// Hash of the first `blocks` blocks, or of everything where there are fewer.
    pub(crate) fn head_digest(&self, blocks: usize) -> u64 {
        match self.digests.get(..blocks) {
            None => self.digest(),
            Some(head) => head.iter().fold(0, |hash, digest| {
                xxh3_64_with_seed(&digest.hash.to_le_bytes(), hash)
            }),
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            digests: self.digests.len(),
            open: self.open,
            open_len: self.open_len,
        }
    }

    pub(crate) fn return_to(&mut self, mark: &Mark) {
        self.digests.truncate(mark.digests);
        self.open = mark.open;
        self.open_len = mark.open_len;
    }

    pub(crate) fn clear(&mut self) {
        self.digests.clear();
        self.open_len = 0;
    }
}

/// Folds the sections into one chain. `salt` keeps apart what the engine's cache keeps apart.
pub(crate) fn fold(
    tools: &mut Section,
    system: &mut Section,
    messages: &Section,
    salt: &[u8],
    max_blocks: usize,
) -> PrefixChain {
    tools.close();
    system.close();
    let total = tools.digests.len() + system.digests.len() + messages.digests.len();
    let mut blocks = Vec::with_capacity(total.min(max_blocks));
    let mut hash = xxh3_64(salt);
    let mut counts = [0usize; 3];
    let sections = [&tools.digests, &system.digests, &messages.digests];
    for ((tag, digests), count) in (1u64..).zip(sections).zip(&mut counts) {
        for digest in digests.iter().take(max_blocks - blocks.len()) {
            if *count == 0 {
                hash = xxh3_64_with_seed(&tag.to_le_bytes(), hash);
            }
            hash = xxh3_64_with_seed(&digest.hash.to_le_bytes(), hash);
            blocks.push(Block {
                hash,
                bytes: digest.bytes,
            });
            *count += 1;
        }
    }
    let [tools, system, messages] = counts;
    PrefixChain {
        blocks,
        sections: SectionBlocks {
            tools,
            system,
            messages,
        },
    }
}
