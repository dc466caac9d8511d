//! A trace: requests by time of arrival, their prompts as paths in a tree of messages.

use serde::{Deserialize, Serialize};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The system prompt: the same for all sessions that have it.
    System,
    /// The user, or a tool that answers.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// Its name in a request's body.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::System, Self::User, Self::Assistant]
            .into_iter()
            .find(|role| role.as_str() == name)
    }
}

/// A stretch of a content: `tokens` words of it from the word at `offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Which content: equal contents have equal words.
    pub content: u64,
    /// Words left out before it.
    pub offset: u32,
    /// Words.
    pub tokens: u32,
}

/// A picture beside a message's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    /// Which picture: equal contents are equal pictures.
    pub content: u64,
    /// Its width, pixels.
    pub width: u16,
    /// Its height, pixels.
    pub height: u16,
}

impl Image {
    /// Side of a tile, pixels.
    const TILE: u16 = 512;
    /// The most tiles of one picture; larger ones are scaled down.
    const MOST_TILES: u32 = 16;
    /// Tokens of a tile, as the emulated engines have it.
    const TILE_TOKENS: u32 = 256;

    /// Tiles that it is encoded in.
    #[must_use]
    pub fn tiles(self) -> u32 {
        let across = |side: u16| u32::from(side.div_ceil(Self::TILE));
        (across(self.width) * across(self.height)).clamp(1, Self::MOST_TILES)
    }

    /// Tokens that it stands for in a prompt.
    #[must_use]
    pub fn tokens(self) -> u32 {
        self.tiles() * Self::TILE_TOKENS
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Somebody waits for the answer.
    #[default]
    Chat,
    /// Nobody waits for its first token.
    Batch,
    /// There is no answer: the prompt's embeddings are asked for.
    Embeddings,
}

/// A message's number within its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub(crate) u32);

impl MessageId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One message, and those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The message before it.
    pub before: Option<MessageId>,
    /// Who speaks.
    pub role: Role,
    /// Its words.
    pub tokens: u32,
    /// The picture beside them.
    pub image: Option<Image>,
    /// Tokens of it and all before it, pictures included.
    pub total_tokens: u32,
    /// How many messages there are up to it.
    pub count: u32,
    pub(crate) pieces: (u32, u32),
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it arrives, µs from the trace's start.
    pub at_us: u64,
    /// Its session's number.
    pub session: u32,
    /// Its tenant's number.
    pub tenant: u32,
    /// Its turn within the session, from 1.
    pub turn: u32,
    /// What it is for.
    pub kind: Kind,
    /// The last message of its prompt.
    pub prompt: MessageId,
    /// What the session's next turn quotes as the answer to it, if there is a next turn.
    pub reply: Option<MessageId>,
    /// Tokens of its prompt without the chat template's.
    pub input_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// Most tokens that the client allows.
    pub max_tokens: u32,
}

/// Requests by time of arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    pub(crate) name: String,
    pub(crate) requests: Vec<Request>,
    pub(crate) messages: Vec<Message>,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) sessions: Vec<String>,
    pub(crate) tenants: Vec<String>,
    pub(crate) span_us: u64,
}

impl Trace {
    /// What it is called: its file's name, or how it was made.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All requests, by time of arrival.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// How long it takes until it could begin anew, µs: from the first arrival to a mean gap after
    /// the last.
    #[must_use]
    pub fn span_us(&self) -> u64 {
        self.span_us
    }

    /// Requests a second.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn rate(&self) -> f64 {
        self.requests.len() as f64 / (self.span_us.max(1) as f64 / 1e6)
    }

    /// How many sessions there are.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// How many tenants there are.
    #[must_use]
    pub fn tenant_count(&self) -> usize {
        self.tenants.len()
    }

    /// A session's name.
    #[must_use]
    pub fn session(&self, number: u32) -> &str {
        self.sessions
            .get(number as usize)
            .map_or("", String::as_str)
    }

    /// A tenant's name; empty where the trace names none.
    #[must_use]
    pub fn tenant(&self, number: u32) -> &str {
        self.tenants.get(number as usize).map_or("", String::as_str)
    }

    /// A message.
    #[must_use]
    pub fn message(&self, id: MessageId) -> Option<&Message> {
        self.messages.get(id.index())
    }

    /// What a message is made of.
    #[must_use]
    pub fn pieces(&self, message: &Message) -> &[Piece] {
        let (from, to) = message.pieces;
        self.pieces
            .get(from as usize..to as usize)
            .unwrap_or_default()
    }

    /// The pictures of a prompt, from the first.
    pub fn images(&self, last: MessageId) -> impl Iterator<Item = Image> {
        let path = self.path(last).into_iter();
        path.filter_map(|id| self.message(id)?.image)
    }

    /// The messages up to this one, from the first.
    #[must_use]
    pub fn path(&self, last: MessageId) -> Vec<MessageId> {
        let mut path = Vec::new();
        let mut next = Some(last);
        while let Some(id) = next {
            path.push(id);
            next = self.message(id).and_then(|message| message.before);
        }
        path.reverse();
        path
    }

    /// Whether a prompt begins with all messages of another, or is the same.
    #[must_use]
    pub fn extends(&self, prompt: MessageId, other: MessageId) -> bool {
        let mut next = Some(prompt);
        while let Some(id) = next {
            if id == other {
                return true;
            }
            next = self.message(id).and_then(|message| message.before);
        }
        false
    }
}
