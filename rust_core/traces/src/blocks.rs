//! Sessions out of block ids: a request goes on where an earlier one's complete blocks ended.
//!
//! Where a trace has only ids of blocks (equal id, equal content), a request is the next turn of the
//! latest request whose complete blocks are the longest that it begins with; the incomplete last
//! block of that one is taken to go on too. The system prompt is what precedes the deepest point
//! where many different continuations part.

use std::collections::{HashMap, HashSet};

use crate::builder::{NewRequest, TraceBuilder};
use crate::seed::mix;
use crate::trace::{Kind, MessageId, Piece, Role};

/// Continuations that part after a system prompt: at least this many,
const FORKS: usize = 8;
/// and at least one for so many rows.
const ROWS_PER_FORK: usize = 200;

/// A system prompt is looked for in so many leading blocks.
const SYSTEM_BLOCKS: usize = 512;

/// Complete blocks that a request must have in common with the one it continues, at least.
const COMMON: usize = 2;

/// One request as block ids say it.
#[derive(Clone, Debug)]
pub(crate) struct BlockRow {
    pub(crate) at_us: u64,
    pub(crate) input_tokens: u32,
    pub(crate) output_tokens: u32,
    /// The content of each block, the last one perhaps incomplete.
    pub(crate) blocks: Vec<u64>,
    /// Sessions are named after it.
    pub(crate) group: String,
    pub(crate) tenant: u32,
}

/// A request that later ones may continue.
#[derive(Clone, Copy)]
struct Known {
    prompt: MessageId,
    session: u32,
    turn: u32,
    input_tokens: u32,
    output_tokens: u32,
}

/// Rows of one block size, turned into sessions.
pub(crate) struct BlockSessions<'a> {
    builder: &'a mut TraceBuilder,
    block_tokens: u32,
    /// By the chained hash of its complete blocks.
    known: HashMap<u64, Known>,
    /// By the chained hash of all its blocks and its length.
    whole: HashMap<(u64, u32), Known>,
    /// The latest turn of each session.
    turns: HashMap<u32, u32>,
    /// Chained hashes of system prompts.
    systems: HashSet<u64>,
    system_messages: HashMap<u64, MessageId>,
    count: HashMap<String, u32>,
}

impl<'a> BlockSessions<'a> {
    /// No sessions yet, and no system prompts.
    pub(crate) fn new(builder: &'a mut TraceBuilder, block_tokens: u32) -> Self {
        Self {
            builder,
            block_tokens: block_tokens.max(1),
            known: HashMap::new(),
            whole: HashMap::new(),
            turns: HashMap::new(),
            systems: HashSet::new(),
            system_messages: HashMap::new(),
            count: HashMap::new(),
        }
    }

    /// Takes what begins many of these rows for system prompts.
    pub(crate) fn find_systems(&mut self, rows: &[BlockRow]) {
        self.systems.extend(system_prompts(rows));
    }

    /// Takes these leading blocks for a system prompt.
    pub(crate) fn add_system(&mut self, blocks: &[u64]) {
        self.systems.extend(chain(blocks).last());
    }

    /// The trace being built.
    pub(crate) fn builder(&mut self) -> &mut TraceBuilder {
        self.builder
    }

    /// Adds a row; rows come in order of time.
    pub(crate) fn add(&mut self, row: &BlockRow) {
        let input_tokens = self.fitting(row);
        let hashes = chain(&row.blocks);
        let system = self.system_blocks(&hashes, input_tokens);
        let last = hashes.last().copied().unwrap_or(0);
        let repeated = self.whole.get(&(last, input_tokens)).copied();
        let found = repeated.or_else(|| self.continued(&hashes, system, input_tokens));
        let (prompt, session, turn) = match found {
            Some(before) => {
                let (session, turn) = self.next_turn(before, &row.group);
                let prompt = self.continue_prompt(before, row, input_tokens);
                (prompt, session, turn)
            }
            None => {
                let prompt = self.open_prompt(row, &hashes, system, input_tokens);
                (prompt, self.new_session(&row.group), 1)
            }
        };
        self.turns.insert(session, turn);
        let known = Known {
            prompt,
            session,
            turn,
            input_tokens,
            output_tokens: row.output_tokens,
        };
        self.whole.insert((last, input_tokens), known);
        let complete = (input_tokens / self.block_tokens) as usize;
        if let Some(hash) = complete.checked_sub(1).and_then(|last| hashes.get(last)) {
            self.known.insert(*hash, known);
        }
        self.builder.ask(NewRequest {
            at_us: row.at_us,
            session,
            tenant: row.tenant,
            turn,
            kind: Kind::Chat,
            prompt,
            output_tokens: row.output_tokens,
            max_tokens: None,
        });
    }

    /// The row's tokens, as far as it has blocks for them.
    fn fitting(&self, row: &BlockRow) -> u32 {
        let most = u64::from(self.block_tokens) * row.blocks.len() as u64;
        row.input_tokens
            .clamp(1, u32::try_from(most.max(1)).unwrap_or(u32::MAX))
    }

    /// Leading blocks that are a system prompt and leave at least one token to the user.
    fn system_blocks(&self, hashes: &[u64], input_tokens: u32) -> usize {
        let most = (input_tokens.saturating_sub(1) / self.block_tokens) as usize;
        let leading = hashes.get(..most.min(SYSTEM_BLOCKS)).unwrap_or(hashes);
        let last = leading.iter().rposition(|hash| self.systems.contains(hash));
        last.map_or(0, |at| at + 1)
    }

    /// The request that this one continues.
    fn continued(&self, hashes: &[u64], system: usize, input_tokens: u32) -> Option<Known> {
        let least = COMMON.max(system + 1);
        let lengths = (least..=hashes.len()).rev();
        lengths
            .filter_map(|blocks| self.known.get(hashes.get(blocks - 1)?))
            .find(|known| known.input_tokens < input_tokens)
            .copied()
    }

    /// The session that goes on, or a branch of it where it went on already.
    fn next_turn(&mut self, before: Known, group: &str) -> (u32, u32) {
        if self.turns.get(&before.session) == Some(&before.turn) {
            (before.session, before.turn + 1)
        } else {
            (self.new_session(group), 1)
        }
    }

    fn new_session(&mut self, group: &str) -> u32 {
        let count = self.count.entry(group.to_owned()).or_default();
        *count += 1;
        let name = match (group, *count) {
            ("", count) => format!("s{count}"),
            (group, 1) => group.to_owned(),
            (group, count) => format!("{group}.{count}"),
        };
        self.builder.session(&name)
    }

    fn open_prompt(
        &mut self,
        row: &BlockRow,
        hashes: &[u64],
        system: usize,
        input_tokens: u32,
    ) -> MessageId {
        let system_tokens = u32::try_from(system).unwrap_or(0) * self.block_tokens;
        let lead = system
            .checked_sub(1)
            .and_then(|last| hashes.get(last).copied());
        let before = lead.map(|hash| match self.system_messages.get(&hash) {
            Some(message) => *message,
            None => {
                let pieces = self.pieces(row, 0, system_tokens);
                let message = self.builder.say(None, Role::System, &pieces);
                self.system_messages.insert(hash, message);
                message
            }
        });
        let pieces = self.pieces(row, system_tokens, input_tokens);
        self.builder.say(before, Role::User, &pieces)
    }

    /// The answer, as much of it as fits and leaves the user a token, then what the user adds.
    fn continue_prompt(&mut self, before: Known, row: &BlockRow, input_tokens: u32) -> MessageId {
        let added = input_tokens.saturating_sub(before.input_tokens);
        if added == 0 {
            return before.prompt;
        }
        let reply = before.output_tokens.min(added - 1);
        let middle = before.input_tokens + reply;
        let mut last = before.prompt;
        if reply > 0 {
            let pieces = self.pieces(row, before.input_tokens, middle);
            last = self.builder.say(Some(last), Role::Assistant, &pieces);
        }
        let pieces = self.pieces(row, middle, input_tokens);
        self.builder.say(Some(last), Role::User, &pieces)
    }

    /// The row's words from one position to another.
    fn pieces(&self, row: &BlockRow, from: u32, to: u32) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = from;
        while at < to {
            let offset = at % self.block_tokens;
            let tokens = (self.block_tokens - offset).min(to - at);
            let block = row.blocks.get((at / self.block_tokens) as usize);
            pieces.push(Piece {
                content: block.copied().unwrap_or(0),
                offset,
                tokens,
            });
            at += tokens;
        }
        pieces
    }
}

/// For each block the hash of it and all before it.
fn chain(blocks: &[u64]) -> Vec<u64> {
    let mut hash = 0;
    blocks
        .iter()
        .map(|block| {
            hash = mix(hash, *block);
            hash
        })
        .collect()
}

/// Chained hashes after which many different blocks follow.
fn system_prompts(rows: &[BlockRow]) -> HashSet<u64> {
    let forks = FORKS.max(rows.len() / ROWS_PER_FORK);
    let mut next: HashMap<u64, HashSet<u64>> = HashMap::new();
    for row in rows {
        let leading = row.blocks.get(..SYSTEM_BLOCKS).unwrap_or(&row.blocks);
        let hashes = chain(leading);
        for (hash, block) in hashes.iter().zip(leading.iter().skip(1)) {
            let following = next.entry(*hash).or_default();
            if following.len() < forks {
                following.insert(*block);
            }
        }
    }
    next.into_iter()
        .filter(|(_, following)| following.len() >= forks)
        .map(|(hash, _)| hash)
        .collect()
}
