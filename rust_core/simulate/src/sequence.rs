//! A request's tokens as an engine sees them, and the chained hashes of their blocks.
//!
//! The chat template is the emulator's: one token begins the sequence; a message is two tokens, its
//! words, and one that ends it; the answer begins with two. A token is four bytes here, so a block
//! is hashed as it lies in memory.

use std::sync::Arc;

use weighbridge_traces::{Arrival, Kind, Replay, Role, TOKEN_BYTES, TextPool};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const BEGIN: [u8; TOKEN_BYTES] = [0, 0, 0, 1];
const ROLE: [u8; TOKEN_BYTES] = [0, 0, 0, 2];
const END: [u8; TOKEN_BYTES] = [0, 0, 0, 3];

/// The tokens of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Tokens of the prompt, the template's included.
    pub(crate) prompt_tokens: u32,
    /// The hash of each complete block of the prompt and of what is known of the answer.
    pub(crate) blocks: Arc<[u64]>,
}

/// Makes sequences, keeping its buffers.
#[derive(Debug)]
pub(crate) struct Sequencer {
    pool: TextPool,
    bytes: Vec<u8>,
    block_bytes: usize,
    with_answers: bool,
}

impl Sequencer {
    /// Sequences of blocks of that size, with what is known of the answers or without.
    pub(crate) fn new(tokens_per_block: u32, with_answers: bool) -> Self {
        Self {
            with_answers,
            pool: TextPool::new(),
            bytes: Vec::new(),
            block_bytes: (tokens_per_block.max(1) as usize).saturating_mul(TOKEN_BYTES),
        }
    }

    /// The sequence of a request.
    pub(crate) fn of(&mut self, replay: &Replay, arrival: &Arrival) -> Sequence {
        self.bytes.clear();
        let trace = replay.trace();
        let Some(request) = replay.request(arrival) else {
            return Sequence {
                prompt_tokens: 0,
                blocks: Arc::from([]),
            };
        };
        self.bytes.extend_from_slice(&BEGIN);
        // What is embedded has no template around it.
        let is_text = request.kind == Kind::Embeddings;
        for id in trace.path(request.prompt) {
            let role = trace.message(id).map_or(Role::User, |message| message.role);
            if is_text {
                replay.write_words(arrival, id, &self.pool, &mut self.bytes);
                continue;
            }
            self.head(role);
            replay.write_words(arrival, id, &self.pool, &mut self.bytes);
            self.bytes.extend_from_slice(&END);
        }
        if !is_text {
            self.head(Role::Assistant);
        }
        let prompt_tokens = self.bytes.len() / TOKEN_BYTES;
        if let Some(reply) = request.reply.filter(|_| self.with_answers) {
            replay.write_words(arrival, reply, &self.pool, &mut self.bytes);
        }
        let mut before = 0;
        let blocks = self
            .bytes
            .chunks_exact(self.block_bytes)
            .map(|block| {
                before = xxh3_64_with_seed(block, before);
                before
            })
            .collect();
        Sequence {
            prompt_tokens: u32::try_from(prompt_tokens).unwrap_or(u32::MAX),
            blocks,
        }
    }

    fn head(&mut self, role: Role) {
        self.bytes.extend_from_slice(&ROLE);
        self.bytes.extend_from_slice(match role {
            Role::System => b"syst",
            Role::User => b"user",
            Role::Assistant => b"assi",
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Sequencer;
    use std::sync::Arc;
    use weighbridge_traces::{LoadOptions, Replay, Scaling, read};

    #[test]
    fn a_turn_begins_with_the_turn_before_it_and_its_answer() {
        let text = r#"{"at_s":0,"session":"a","output_tokens":40,"messages":[{"role":"system","tokens":100},{"role":"user","tokens":60}]}
{"at_s":9,"session":"a","output_tokens":9,"messages":[{"role":"assistant","tokens":40},{"role":"user","tokens":90}]}
"#;
        let trace = read(text.as_bytes(), "test", &LoadOptions::default()).unwrap();
        let replay = Replay::new(Arc::new(trace), &Scaling::default()).unwrap();
        let mut sequencer = Sequencer::new(8, true);
        let first = sequencer.of(&replay, &replay.arrivals()[0]);
        let second = sequencer.of(&replay, &replay.arrivals()[1]);
        // One begins, three are around each message, two before the answer.
        assert_eq!(first.prompt_tokens, 1 + 100 + 60 + 2 * 3 + 2);
        assert_eq!(second.prompt_tokens, 1 + 100 + 60 + 40 + 90 + 4 * 3 + 2);
        assert_eq!(first.blocks.len(), (first.prompt_tokens as usize + 40) / 8);
        assert_eq!(second.blocks.len(), second.prompt_tokens as usize / 8);
        assert_eq!(first.blocks[..], second.blocks[..first.blocks.len()]);
        let unknown = Sequencer::new(8, false).of(&replay, &replay.arrivals()[0]);
        assert_eq!(
            unknown.blocks[..],
            first.blocks[..first.prompt_tokens as usize / 8]
        );
    }
}
