//! An incremental scan of JSON for a few numbers: no buffer, no tree, any split of the bytes.
//!
//! It keeps the keys that lead to the present value, for the first levels, and nothing else; text
//! is counted as it passes. It does not validate: what is no JSON yields no numbers.

use std::hash::{DefaultHasher, Hasher};

/// Levels whose keys are kept: the arguments of a tool call in a streamed chunk are on the seventh.
const LEVELS: usize = 8;
/// Bytes of a key, a `type` or an `id` that are looked at.
const WORD: usize = 72;

/// The beginning of a key, a `type` or an `id`.
#[derive(Clone, Debug)]
struct Word {
    bytes: [u8; WORD],
    /// Its length, or more than fits.
    len: usize,
}

impl Default for Word {
    fn default() -> Self {
        Self {
            bytes: [0; WORD],
            len: 0,
        }
    }
}

impl Word {
    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = *byte;
            }
            self.len = (self.len + 1).min(WORD + 1);
        }
    }

    /// Empty where it is too long to be one of ours.
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A key that means something to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    #[default]
    Other,
    /// `response` or `message`, which hold the reply in streamed events.
    Reply,
    Usage,
    PromptTokens,
    OutputTokens,
    CacheRead,
    CacheCreation,
    PromptDetails,
    OutputDetails,
    Cached,
    Reasoning,
    Type,
    Id,
    Error,
    Text,
}

impl Key {
    fn of(word: &[u8]) -> Self {
        match word {
            b"response" | b"message" => Self::Reply,
            b"usage" => Self::Usage,
            b"prompt_tokens" | b"input_tokens" => Self::PromptTokens,
            b"completion_tokens" | b"output_tokens" => Self::OutputTokens,
            b"cache_read_input_tokens" => Self::CacheRead,
            b"cache_creation_input_tokens" => Self::CacheCreation,
            b"prompt_tokens_details" | b"input_tokens_details" => Self::PromptDetails,
            b"completion_tokens_details" | b"output_tokens_details" => Self::OutputDetails,
            b"cached_tokens" => Self::Cached,
            b"reasoning_tokens" => Self::Reasoning,
            b"type" => Self::Type,
            b"id" => Self::Id,
            b"error" => Self::Error,
            b"content" | b"text" | b"delta" | b"reasoning_content" | b"reasoning" | b"thinking"
            | b"partial_json" | b"arguments" | b"refusal" => Self::Text,
            _ => Self::Other,
        }
    }
}

/// Numbers of one `usage` object, as they are written there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) prompt: Option<u64>,
    pub(crate) output: Option<u64>,
    pub(crate) cached: Option<u64>,
    pub(crate) reasoning: Option<u64>,
    pub(crate) cache_read: Option<u64>,
    pub(crate) cache_creation: Option<u64>,
}

/// What a string is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Key,
    Type,
    Id,
    Text,
    Skipped,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between values.
    #[default]
    Between,
    /// In a string; `true` right after a backslash.
    In(Reading, bool),
    /// In a number; `false` once its whole part has ended.
    Number(bool),
}

/// Scans one JSON text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    state: State,
    depth: u32,
    /// The present key of each level, while that level is an object.
    path: [Key; LEVELS],
    /// Whether each level is an object.
    objects: [bool; LEVELS],
    /// A string here is a key, not a value.
    key_next: bool,
    word: Word,
    /// `None` where it can be no count: negative, or with an exponent.
    number: Option<u64>,
    /// The text has begun, and its outermost value has ended.
    pub(crate) complete: bool,
    pub(crate) begun: bool,
    pub(crate) numbers: Numbers,
    /// Bytes of text that the model wrote (as JSON writes it, escapes included).
    pub(crate) text_bytes: u64,
    /// The reply's own `id`, as [`response_key`] has it, where it is one of the Responses interface.
    pub(crate) response: Option<u64>,
    /// The outermost object's `type` is that of a piece of output.
    pub(crate) is_delta: bool,
    /// The outermost object's `type` says that nothing follows.
    pub(crate) is_last: bool,
    /// The outermost object has a `type`.
    pub(crate) is_typed: bool,
    /// The outermost object has an `error` that is not null.
    pub(crate) is_error: bool,
}

impl Scan {
    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if !matches!(self.state, State::In(..)) && self.depth > 0 && !self.in_object() {
                // An array's own numbers are of no interest; embeddings are a million of them.
                self.state = State::Between;
                let at = bytes.iter().position(|byte| is_structure(*byte));
                let Some((first, rest)) = at.and_then(|at| bytes.get(at..)?.split_first()) else {
                    return;
                };
                self.between(*first);
                bytes = rest;
                continue;
            }
            match self.state {
                State::In(reading, escaped) => bytes = self.string(reading, escaped, bytes),
                State::Number(whole) => bytes = self.number(whole, *first, bytes, rest),
                State::Between => {
                    self.between(*first);
                    bytes = rest;
                }
            }
        }
    }

    fn between(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.begin_value();
                let reading = if self.key_next {
                    Reading::Key
                } else if self.depth == 1 && self.key() == Key::Type {
                    Reading::Type
                } else if self.key() == Key::Id && self.is_reply() {
                    Reading::Id
                } else if self.key() == Key::Text {
                    Reading::Text
                } else {
                    Reading::Skipped
                };
                self.word.len = 0;
                self.state = State::In(reading, false);
            }
            b'{' => {
                self.begin_value();
                self.open(true);
            }
            b'[' => {
                self.begin_value();
                self.open(false);
            }
            b'}' | b']' => self.close(),
            b',' => self.key_next = self.in_object(),
            b':' => self.key_next = false,
            b'0'..=b'9' => {
                self.begin_value();
                self.number = Some(u64::from(byte - b'0'));
                self.state = State::Number(true);
            }
            b'-' => {
                self.begin_value();
                self.number = None;
                self.state = State::Number(false);
            }
            b't' | b'f' => self.begin_value(),
            _ => {}
        }
    }

    /// A value begins that is not null.
    fn begin_value(&mut self) {
        self.begun = true;
        if self.depth == 1 && !self.key_next && self.key() == Key::Error {
            self.is_error = true;
        }
    }

    fn string<'a>(&mut self, reading: Reading, escaped: bool, bytes: &'a [u8]) -> &'a [u8] {
        if escaped {
            self.state = State::In(reading, false);
            self.keep(reading, bytes.get(..1).unwrap_or_default());
            return bytes.get(1..).unwrap_or_default();
        }
        let Some(at) = memchr::memchr2(b'"', b'\\', bytes) else {
            self.keep(reading, bytes);
            return &[];
        };
        let (before, rest) = bytes.split_at_checked(at).unwrap_or((bytes, &[]));
        self.keep(reading, before);
        let (end, rest) = rest.split_first().unwrap_or((&b'"', &[]));
        if *end == b'\\' {
            self.keep(reading, b"\\");
            self.state = State::In(reading, true);
        } else {
            self.state = State::Between;
            self.end_string(reading);
        }
        rest
    }

    fn keep(&mut self, reading: Reading, bytes: &[u8]) {
        match reading {
            Reading::Text => self.text_bytes = self.text_bytes.saturating_add(bytes.len() as u64),
            Reading::Key | Reading::Type | Reading::Id => self.word.push(bytes),
            Reading::Skipped => {}
        }
    }

    fn end_string(&mut self, reading: Reading) {
        let word = self.word.bytes();
        match reading {
            Reading::Key => {
                let key = Key::of(word);
                let level = self.level();
                if let Some(place) = level.and_then(|level| self.path.get_mut(level)) {
                    *place = key;
                }
            }
            Reading::Type => {
                self.is_typed = true;
                // OpenAI's `response.output_text.delta`, Anthropic's `content_block_delta`.
                self.is_delta = word.ends_with(b".delta") || word == b"content_block_delta";
                self.is_last = matches!(
                    word,
                    b"message_stop" | b"response.completed" | b"response.incomplete"
                );
            }
            Reading::Id => {
                if word.starts_with(b"resp") {
                    self.response = Some(response_key(word));
                }
            }
            Reading::Text | Reading::Skipped => {}
        }
    }

    /// Whether the object here is the reply itself, alone or in an event.
    fn is_reply(&self) -> bool {
        match self.depth {
            1 => true,
            2 => self.path.first() == Some(&Key::Reply),
            _ => false,
        }
    }

    fn number<'a>(&mut self, whole: bool, byte: u8, all: &'a [u8], rest: &'a [u8]) -> &'a [u8] {
        match byte {
            b'0'..=b'9' => {
                if whole {
                    let digit = u64::from(byte - b'0');
                    let number = self.number;
                    self.number =
                        number.map(|number| number.saturating_mul(10).saturating_add(digit));
                }
                rest
            }
            b'.' => {
                self.state = State::Number(false);
                rest
            }
            b'e' | b'E' | b'+' | b'-' => {
                self.state = State::Number(false);
                self.number = None;
                rest
            }
            _ => {
                self.end_number();
                // The byte that ends a number is no part of it.
                all
            }
        }
    }

    fn end_number(&mut self) {
        self.state = State::Between;
        let path = match self.path.get(..self.depth as usize) {
            Some([Key::Reply, rest @ ..]) => rest,
            Some(path) => path,
            None => return,
        };
        let numbers = &mut self.numbers;
        let place = match path {
            [Key::Usage, Key::PromptTokens] => &mut numbers.prompt,
            [Key::Usage, Key::OutputTokens] => &mut numbers.output,
            [Key::Usage, Key::CacheRead] => &mut numbers.cache_read,
            [Key::Usage, Key::CacheCreation] => &mut numbers.cache_creation,
            [Key::Usage, Key::PromptDetails, Key::Cached] => &mut numbers.cached,
            [Key::Usage, Key::OutputDetails, Key::Reasoning] => &mut numbers.reasoning,
            _ => return,
        };
        *place = self.number;
    }

    fn open(&mut self, object: bool) {
        self.depth = self.depth.saturating_add(1);
        if let Some(level) = self.level() {
            if let Some(place) = self.path.get_mut(level) {
                *place = Key::Other;
            }
            if let Some(place) = self.objects.get_mut(level) {
                *place = object;
            }
        }
        self.key_next = object;
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.key_next = false;
        self.complete |= self.begun && self.depth == 0;
    }

    /// The present level's place in the path; `None` outside of everything and too deep inside.
    fn level(&self) -> Option<usize> {
        (self.depth as usize).checked_sub(1)
    }

    /// The key of the value here; deep inside, where keys are not kept, that of no interest.
    fn key(&self) -> Key {
        let key = self.level().and_then(|level| self.path.get(level));
        key.copied().unwrap_or_default()
    }

    fn in_object(&self) -> bool {
        self.level()
            .and_then(|level| self.objects.get(level))
            .copied()
            .unwrap_or(false)
    }
}

/// What a response's `id` is known by.
pub fn response_key(id: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(id);
    hasher.finish()
}

/// A byte that begins a string or begins or ends an object or array.
fn is_structure(byte: u8) -> bool {
    matches!(byte, b'"' | b'[' | b']' | b'{' | b'}')
}

impl Numbers {
    /// Takes over what a later event says.
    pub(crate) fn merge(&mut self, later: &Self) {
        self.prompt = later.prompt.or(self.prompt);
        self.output = later.output.or(self.output);
        self.cached = later.cached.or(self.cached);
        self.reasoning = later.reasoning.or(self.reasoning);
        self.cache_read = later.cache_read.or(self.cache_read);
        self.cache_creation = later.cache_creation.or(self.cache_creation);
    }
}
