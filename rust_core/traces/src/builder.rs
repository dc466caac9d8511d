//! Puts a trace together: interns names, grows the tree of messages, orders the requests.

use std::collections::HashMap;

use crate::error::TraceError;
use crate::trace::{Image, Kind, Message, MessageId, Piece, Request, Role, Trace};

/// What clients without a word on it allow as the answer's length, tokens.
pub(crate) const USUAL_MAX_TOKENS: u32 = 2048;

/// Longest message and longest answer, tokens: what is longer is cut.
pub(crate) const MOST_TOKENS: u32 = 1 << 24;

/// Puts a trace together.
#[derive(Debug, Default)]
pub struct TraceBuilder {
    trace: Trace,
    sessions: HashMap<String, u32>,
    tenants: HashMap<String, u32>,
}

/// One request as its format gives it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewRequest {
    pub(crate) at_us: u64,
    pub(crate) session: u32,
    pub(crate) tenant: u32,
    pub(crate) turn: u32,
    pub(crate) kind: Kind,
    pub(crate) prompt: MessageId,
    pub(crate) output_tokens: u32,
    pub(crate) max_tokens: Option<u32>,
}

impl TraceBuilder {
    /// An empty trace of that name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut builder = Self::default();
        name.clone_into(&mut builder.trace.name);
        builder
    }

    pub(crate) fn session(&mut self, name: &str) -> u32 {
        intern(&mut self.sessions, &mut self.trace.sessions, name)
    }

    pub(crate) fn tenant(&mut self, name: &str) -> u32 {
        intern(&mut self.tenants, &mut self.trace.tenants, name)
    }

    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Adds a message after `before`.
    pub(crate) fn say(
        &mut self,
        before: Option<MessageId>,
        role: Role,
        pieces: &[Piece],
    ) -> MessageId {
        self.show(before, role, pieces, None)
    }

    /// Adds a message after `before`, perhaps with a picture.
    pub(crate) fn show(
        &mut self,
        before: Option<MessageId>,
        role: Role,
        pieces: &[Piece],
        image: Option<Image>,
    ) -> MessageId {
        let from = count(self.trace.pieces.len());
        let used = pieces.iter().filter(|piece| piece.tokens > 0);
        self.trace.pieces.extend(used.copied());
        let tokens = pieces
            .iter()
            .fold(0u32, |sum, piece| sum.saturating_add(piece.tokens));
        let (earlier_tokens, earlier) = before
            .and_then(|id| self.trace.message(id))
            .map_or((0, 0), |message| (message.total_tokens, message.count));
        let id = MessageId(count(self.trace.messages.len()));
        self.trace.messages.push(Message {
            before,
            role,
            tokens,
            image,
            total_tokens: earlier_tokens
                .saturating_add(tokens)
                .saturating_add(image.map_or(0, Image::tokens)),
            count: earlier + 1,
            pieces: (from, count(self.trace.pieces.len())),
        });
        id
    }

    pub(crate) fn ask(&mut self, new: NewRequest) {
        let input_tokens = self
            .trace
            .message(new.prompt)
            .map_or(0, |message| message.total_tokens);
        let output_tokens = new.output_tokens.clamp(1, MOST_TOKENS);
        self.trace.requests.push(Request {
            at_us: new.at_us,
            session: new.session,
            tenant: new.tenant,
            turn: new.turn,
            kind: new.kind,
            prompt: new.prompt,
            reply: None,
            input_tokens,
            output_tokens,
            max_tokens: new
                .max_tokens
                .unwrap_or_else(|| USUAL_MAX_TOKENS.max(output_tokens.next_power_of_two()))
                .max(output_tokens),
        });
    }

    /// The trace, its requests in order of time, the first at 0.
    ///
    /// # Errors
    /// It holds no request.
    pub fn finish(mut self) -> Result<Trace, TraceError> {
        let trace = &mut self.trace;
        trace
            .requests
            .sort_by_key(|request| (request.at_us, request.session, request.turn));
        let (Some(first), Some(last)) = (trace.requests.first(), trace.requests.last()) else {
            return Err(TraceError::Empty(std::mem::take(&mut trace.name)));
        };
        let (start, length) = (first.at_us, last.at_us - first.at_us);
        let gap = length / (trace.requests.len() as u64);
        trace.span_us = (length + gap).max(1);
        for request in &mut trace.requests {
            request.at_us -= start;
        }
        link_replies(trace);
        Ok(self.trace)
    }
}

/// An answer is what the session's next turn quotes of it: known from the first message after the
/// prompt.
fn link_replies(trace: &mut Trace) {
    let mut quoted: HashMap<MessageId, MessageId> = HashMap::new();
    for (number, message) in (0u32..).zip(&trace.messages) {
        if let (Some(before), Role::Assistant) = (message.before, message.role) {
            quoted.entry(before).or_insert(MessageId(number));
        }
    }
    for request in &mut trace.requests {
        request.reply = quoted.get(&request.prompt).copied();
    }
}

fn intern(known: &mut HashMap<String, u32>, names: &mut Vec<String>, name: &str) -> u32 {
    if let Some(number) = known.get(name) {
        return *number;
    }
    let number = count(names.len());
    names.push(name.to_owned());
    known.insert(name.to_owned(), number);
    number
}

/// Traces hold far fewer than 2³² of anything.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
