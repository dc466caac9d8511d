//! Sessions out of lengths: each turn holds the one before it, its answer, and what is new.

use std::collections::HashMap;

use crate::builder::{MOST_TOKENS, NewRequest, TraceBuilder};
use crate::seed::mix;
use crate::trace::{Kind, MessageId, Piece, Role};

/// One request of which only lengths are known.
#[derive(Clone, Debug)]
pub(crate) struct LengthRow<'a> {
    pub(crate) at_us: u64,
    /// Its session; `None` is a session of its own.
    pub(crate) session: Option<&'a str>,
    pub(crate) tenant: &'a str,
    pub(crate) input_tokens: u32,
    pub(crate) output_tokens: u32,
    pub(crate) max_tokens: Option<u32>,
}

#[derive(Clone, Copy)]
struct Known {
    session: u32,
    turn: u32,
    prompt: MessageId,
    input_tokens: u32,
    output_tokens: u32,
}

/// Rows turned into sessions.
pub(crate) struct GrowingSessions<'a> {
    builder: &'a mut TraceBuilder,
    known: HashMap<String, Known>,
    restarts: HashMap<String, u32>,
    rows: u64,
}

impl<'a> GrowingSessions<'a> {
    pub(crate) fn new(builder: &'a mut TraceBuilder) -> Self {
        Self {
            builder,
            known: HashMap::new(),
            restarts: HashMap::new(),
            rows: 0,
        }
    }

    /// Adds a row; rows come in order of time.
    pub(crate) fn add(&mut self, row: &LengthRow<'_>) {
        self.rows += 1;
        let input_tokens = row.input_tokens.clamp(1, MOST_TOKENS);
        let before = row.session.and_then(|name| self.known.get(name)).copied();
        let (session, turn, prompt) = match before {
            Some(before) if input_tokens > before.input_tokens => {
                let prompt = self.grown(before, input_tokens);
                (before.session, before.turn + 1, prompt)
            }
            _ => {
                let session = self.opened(row.session);
                let user = [self.fresh(0, input_tokens)];
                (session, 1, self.builder.say(None, Role::User, &user))
            }
        };
        if let Some(name) = row.session {
            self.known.insert(
                name.to_owned(),
                Known {
                    session,
                    turn,
                    prompt,
                    input_tokens,
                    output_tokens: row.output_tokens,
                },
            );
        }
        let tenant = self.builder.tenant(row.tenant);
        self.builder.ask(NewRequest {
            at_us: row.at_us,
            session,
            tenant,
            turn,
            kind: Kind::Chat,
            prompt,
            output_tokens: row.output_tokens,
            max_tokens: row.max_tokens,
        });
    }

    fn grown(&mut self, before: Known, input_tokens: u32) -> MessageId {
        let added = input_tokens - before.input_tokens;
        let reply = before.output_tokens.min(added - 1);
        let mut last = before.prompt;
        if reply > 0 {
            let answer = [self.fresh(1, reply)];
            last = self.builder.say(Some(last), Role::Assistant, &answer);
        }
        let user = [self.fresh(0, added - reply)];
        self.builder.say(Some(last), Role::User, &user)
    }

    /// A session that shrank is another conversation under the same name.
    fn opened(&mut self, name: Option<&str>) -> u32 {
        let Some(name) = name else {
            return self.builder.session(&format!("r{}", self.rows));
        };
        let count = self.restarts.entry(name.to_owned()).or_default();
        *count += 1;
        let name = match *count {
            1 => name.to_owned(),
            count => format!("{name}.{count}"),
        };
        self.builder.session(&name)
    }

    fn fresh(&self, part: u64, tokens: u32) -> Piece {
        Piece {
            content: mix(mix(0x6772_6f77, self.rows), part),
            offset: 0,
            tokens,
        }
    }
}
