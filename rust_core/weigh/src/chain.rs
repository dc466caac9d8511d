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
    /// Canonical bytes of each section, those outside the chain included.
    bytes: Held,
    /// For each image, in order, the number of blocks that must be held for it to be.
    images: Vec<u32>,
}

/// Canonical bytes of each section, and images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes of tool definitions.
    pub tools: u64,
    /// Bytes of the system prompt.
    pub system: u64,
    /// Bytes of messages, or of the prompt.
    pub messages: u64,
    /// Images, videos and documents.
    pub images: u64,
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

    /// All there is, in the chain or not.
    #[must_use]
    pub fn whole(&self) -> Held {
        self.bytes
    }

    /// What a cache holds that has the first `blocks` blocks.
    #[must_use]
    pub fn held(&self, blocks: usize) -> Held {
        let SectionBlocks {
            tools,
            system,
            messages,
        } = self.sections;
        let bytes = |first: usize, of: usize, all: u64| {
            let held = blocks.saturating_sub(first).min(of);
            // Only a section's last block may be short, and a complete section has all its bytes.
            (held as u64 * BLOCK_BYTES as u64).min(all)
        };
        Held {
            tools: bytes(0, tools, self.bytes.tools),
            system: bytes(tools, system, self.bytes.system),
            messages: bytes(tools + system, messages, self.bytes.messages),
            images: self
                .images
                .partition_point(|&needs| needs as usize <= blocks) as u64,
        }
    }

    /// Binds a chain that was read without a model to `model`, as reading a body that names it does.
    #[must_use]
    pub fn bound_to(mut self, model: &str) -> Self {
        self.bind_to(model);
        self
    }

    pub(crate) fn bind_to(&mut self, model: &str) {
        let seed = xxh3_64(model.as_bytes());
        for block in &mut self.blocks {
            block.hash = xxh3_64_with_seed(&block.hash.to_le_bytes(), seed);
        }
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
    bytes: u64,
    images: Vec<u32>,
    mark: Mark,
    max_blocks: usize,
}

/// A point of a section to which it can return.
#[derive(Debug, Clone, Copy)]
struct Mark {
    digests: usize,
    open: [u8; BLOCK_BYTES],
    open_len: usize,
    bytes: u64,
    images: usize,
}

impl Mark {
    const START: Self = Self {
        digests: 0,
        open: [0; BLOCK_BYTES],
        open_len: 0,
        bytes: 0,
        images: 0,
    };
}

impl Section {
    pub(crate) fn new(max_blocks: usize) -> Self {
        Self {
            digests: Vec::new(),
            open: [0; BLOCK_BYTES],
            open_len: 0,
            bytes: 0,
            images: Vec::new(),
            mark: Mark::START,
            max_blocks,
        }
    }

    /// Appends canonical bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        let rest = if self.open_len > 0 {
            self.fill(bytes)
        } else {
            bytes
        };
        if rest.is_empty() || self.digests.len() >= self.max_blocks {
            return;
        }
        let mut blocks = rest.chunks_exact(BLOCK_BYTES);
        for block in &mut blocks {
            self.push(block);
        }
        let rest = blocks.remainder();
        if let Some(open) = self.open.get_mut(..rest.len()) {
            open.copy_from_slice(rest);
            self.open_len = rest.len();
        }
    }

    /// Fills the open block, and pushes it when it is full. Returns what did not go in.
    fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = BLOCK_BYTES - self.open_len;
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        let end = self.open_len + head.len();
        if let Some(gap) = self.open.get_mut(self.open_len..end) {
            gap.copy_from_slice(head);
        }
        self.open_len = end;
        if end == BLOCK_BYTES {
            self.close();
        }
        rest
    }

    fn push(&mut self, block: &[u8]) {
        if self.digests.len() < self.max_blocks {
            self.digests.push(Digest {
                hash: xxh3_64(block),
                bytes: block.len() as u32,
            });
        }
    }

    /// Notes that the bytes to come stand for an image.
    pub(crate) fn note_image(&mut self) {
        // The image is held when the block is that its last byte falls into, or the next one.
        let needs = self.digests.len().saturating_add(1);
        self.images.push(u32::try_from(needs).unwrap_or(u32::MAX));
    }

    /// Ends the section: what is left becomes its last block.
    pub(crate) fn close(&mut self) {
        let open = self.open;
        let len = mem::take(&mut self.open_len);
        if let Some(rest) = open.get(..len).filter(|rest| !rest.is_empty()) {
            self.push(rest);
        }
    }

    /// Moves the blocks of `other` to this section's end; both are closed by it.
    pub(crate) fn append(&mut self, other: &mut Self) {
        self.close();
        other.close();
        let before = u32::try_from(self.digests.len()).unwrap_or(u32::MAX);
        self.images.extend(
            other
                .images
                .iter()
                .map(|needs| needs.saturating_add(before)),
        );
        self.digests.append(&mut other.digests);
        self.digests.truncate(self.max_blocks);
        self.bytes += other.bytes;
    }

    /// Hash of everything so far, the open block included.
    pub(crate) fn digest(&self) -> u64 {
        let open = self.open.get(..self.open_len).unwrap_or_default();
        chained(&self.digests, xxh3_64(open))
    }

    /// Hash of the first `blocks` blocks, or of everything where there are fewer.
    pub(crate) fn head_digest(&self, blocks: usize) -> u64 {
        self.digests
            .get(..blocks)
            .map_or_else(|| self.digest(), |head| chained(head, 0))
    }

    /// Remembers this point, instead of the one before.
    pub(crate) fn set_mark(&mut self) {
        let mark = &mut self.mark;
        mark.digests = self.digests.len();
        mark.open_len = self.open_len;
        mark.bytes = self.bytes;
        mark.images = self.images.len();
        for (to, from) in mark.open.iter_mut().zip(&self.open).take(self.open_len) {
            *to = *from;
        }
    }

    /// Forgets what came after the mark.
    pub(crate) fn return_to_mark(&mut self) {
        self.digests.truncate(self.mark.digests);
        self.open = self.mark.open;
        self.open_len = self.mark.open_len;
        self.bytes = self.mark.bytes;
        self.images.truncate(self.mark.images);
    }

    pub(crate) fn clear(&mut self) {
        self.digests.clear();
        self.open_len = 0;
        self.bytes = 0;
        self.images.clear();
        self.mark = Mark::START;
    }
}

/// Hash of the blocks' hashes in order, after `seed`.
fn chained(digests: &[Digest], seed: u64) -> u64 {
    digests.iter().fold(seed, |hash, digest| {
        xxh3_64_with_seed(&digest.hash.to_le_bytes(), hash)
    })
}

/// Folds the sections into one chain. `salt` keeps apart what the engine's cache keeps apart.
pub(crate) fn fold(
    tools: &mut Section,
    system: &mut Section,
    messages: &mut Section,
    salt: &[u8],
    max_blocks: usize,
) -> PrefixChain {
    tools.close();
    system.close();
    let bytes = Held {
        tools: tools.bytes,
        system: system.bytes,
        messages: messages.bytes,
        images: (system.images.len() + messages.images.len()) as u64,
    };
    let total = tools.digests.len() + system.digests.len() + messages.digests.len();
    let mut chain = PrefixChain {
        bytes,
        ..PrefixChain::default()
    };
    chain.blocks.reserve_exact(total.min(max_blocks));
    let mut hash = xxh3_64(salt);
    let mut counts = [0usize; 3];
    for ((tag, section), count) in (1u64..).zip([tools, system, messages]).zip(&mut counts) {
        let before = chain.blocks.len();
        if !section.digests.is_empty() {
            hash = xxh3_64_with_seed(&tag.to_le_bytes(), hash);
        }
        for digest in section.digests.iter().take(max_blocks - before) {
            hash = xxh3_64_with_seed(&digest.hash.to_le_bytes(), hash);
            chain.blocks.push(Block {
                hash,
                bytes: digest.bytes,
            });
        }
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        chain.images.extend(
            section
                .images
                .iter()
                .map(|needs| needs.saturating_add(before)),
        );
        *count = chain.blocks.len() - before as usize;
    }
    let [tools, system, messages] = counts;
    chain.sections = SectionBlocks {
        tools,
        system,
        messages,
    };
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..2000)
    }

    fn chain(mut section: Section) -> PrefixChain {
        fold(
            &mut Section::new(99),
            &mut Section::new(99),
            &mut section,
            b"",
            99,
        )
    }

    proptest! {
        #[test]
        fn pieces_hash_as_the_whole(
            text in bytes(), cuts in proptest::collection::vec(0usize..600, 0..8),
        ) {
            let mut whole = Section::new(99);
            whole.feed(&text);
            let mut pieces = Section::new(99);
            let mut rest = text.as_slice();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.feed(piece);
                rest = after;
            }
            pieces.feed(rest);
            prop_assert_eq!(whole.digest(), pieces.digest());
            prop_assert_eq!(chain(whole), chain(pieces));
        }

        #[test]
        fn returning_to_a_mark_undoes_what_came_after(kept in bytes(), undone in bytes()) {
            let mut section = Section::new(99);
            section.feed(&kept);
            let digest = section.digest();
            section.set_mark();
            section.note_image();
            section.feed(&undone);
            section.return_to_mark();
            prop_assert_eq!(section.digest(), digest);
            prop_assert_eq!(section.bytes, kept.len() as u64);
            prop_assert!(section.images.is_empty());
        }

        #[test]
        fn no_more_blocks_than_allowed(text in bytes(), max in 0usize..6) {
            let mut section = Section::new(max);
            section.feed(&text);
            section.feed(&text);
            prop_assert!(section.digests.len() <= max);
            prop_assert_eq!(section.bytes, 2 * text.len() as u64);
            let (mut tools, mut system) = (Section::new(max), Section::new(max));
            let chain = fold(&mut tools, &mut system, &mut section, b"", max);
            prop_assert!(chain.len() <= max);
        }

        #[test]
        fn what_is_held_grows_to_what_is_in_the_chain(
            tools in bytes(), system in bytes(), messages in bytes(),
        ) {
            let section = |text: &[u8]| {
                let mut section = Section::new(99);
                section.note_image();
                section.feed(text);
                section
            };
            let mut tools_section = Section::new(99);
            tools_section.feed(&tools);
            let (mut system, mut messages) = (section(&system), section(&messages));
            let chain = fold(&mut tools_section, &mut system, &mut messages, b"", 99);
            prop_assert_eq!(chain.held(0), Held::default());
            let mut sum = 0;
            for (i, block) in chain.blocks().iter().enumerate() {
                sum += u64::from(block.bytes);
                let held = chain.held(i + 1);
                prop_assert_eq!(held.tools + held.system + held.messages, sum);
            }
            let (all, whole) = (chain.held(chain.len()), chain.whole());
            prop_assert_eq!((all.tools, all.system), (whole.tools, whole.system));
            prop_assert!(whole.messages - all.messages < BLOCK_BYTES as u64);
        }
    }

    #[test]
    fn the_same_bytes_in_other_sections_are_another_prompt() {
        let text = vec![b'a'; 600];
        let section = || {
            let mut section = Section::new(99);
            section.feed(&text);
            section
        };
        let none = || Section::new(99);
        let first = |chain: PrefixChain| chain.blocks().first().copied();
        let tools = first(fold(&mut section(), &mut none(), &mut none(), b"", 99));
        let system = first(fold(&mut none(), &mut section(), &mut none(), b"", 99));
        let messages = first(fold(&mut none(), &mut none(), &mut section(), b"", 99));
        let salted = first(fold(
            &mut none(),
            &mut none(),
            &mut section(),
            b"tenant",
            99,
        ));
        let all = [tools, system, messages, salted];
        for (i, one) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|other| one != other));
        }
    }
}
