//! What the messages, or the prompts, of a request add up to.

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::visit::Str;
use crate::chain::Section;
use crate::exact::{self, ExactTokens, TokenCounter};
use crate::features::Features;
use crate::image::Image;
use crate::limits::Limits;
use crate::reading::{Part, Texts};

/// Blocks of a prompt without messages that are taken for its opening.
pub(super) const OPENING_BLOCKS: usize = 4;

/// Byte that starts a message in the canonical prompt; it cannot occur in UTF-8.
const MESSAGE: u8 = 0xFE;

/// Byte that starts a piece of a message in the canonical prompt; it cannot occur in UTF-8.
const PIECE: u8 = 0xFF;

/// Accumulators for messages or prompts.
pub(super) struct Conversation {
    pub(super) text: Texts,
    pub(super) exact: ExactTokens,
    /// The tokenizer, where tokens are to be counted.
    counter: Option<Arc<dyn TokenCounter>>,
    pub(super) images: Vec<Image>,
    pub(super) more_images: u64,
    pub(super) audio_seconds: f64,
    /// Bytes of inline media, encoded as they stand.
    pub(super) media_bytes: u64,
    /// Bytes a second of the latest audio; none after another medium.
    pub(super) audio_rate: Option<f64>,
    /// Whether the latest piece was a medium.
    pub(super) latest_is_media: bool,
    pub(super) explicit_tokens: u64,
    pub(super) messages: u32,
    /// Sums of the sizes of prompts, bytes or token ids, and of their squares.
    pub(super) prompt_sizes: (f64, f64),
    /// Messages, parts and prompts so far, those that were taken back included…
    pieces: u32,
    max_pieces: u32,
    max_token_ids: u64,
    /// …and what there are too many of.
    pub(super) excess: Option<String>,
    /// System messages before all others.
    pub(super) lead: Section,
    /// Everything after them.
    pub(super) rest: Section,
    /// Canonical JSON of the value being walked.
    pub(super) scratch: Vec<u8>,
    /// Whether a message was seen that is no leading system message.
    opened: bool,
    opening: Option<u64>,
    max_images: usize,
}

impl Conversation {
    pub(super) fn new(limits: &Limits, counter: Option<Arc<dyn TokenCounter>>) -> Self {
        Self {
            text: Texts::default(),
            exact: ExactTokens::default(),
            counter,
            images: Vec::new(),
            more_images: 0,
            audio_seconds: 0.0,
            media_bytes: 0,
            audio_rate: None,
            latest_is_media: false,
            explicit_tokens: 0,
            messages: 0,
            prompt_sizes: (0.0, 0.0),
            pieces: 0,
            max_pieces: limits.max_pieces,
            max_token_ids: limits.max_token_ids,
            excess: None,
            lead: Section::new(limits.max_blocks),
            rest: Section::new(limits.max_blocks),
            scratch: Vec::new(),
            opened: false,
            opening: None,
            max_images: limits.max_images,
        }
    }

    /// Forgets everything: the key occurs again.
    pub(super) fn clear(&mut self) {
        self.text = Texts::default();
        self.exact = ExactTokens::default();
        self.images.clear();
        self.more_images = 0;
        self.audio_seconds = 0.0;
        self.media_bytes = 0;
        self.audio_rate = None;
        self.latest_is_media = false;
        self.explicit_tokens = 0;
        self.messages = 0;
        self.prompt_sizes = (0.0, 0.0);
        self.lead.clear();
        self.rest.clear();
        self.opened = false;
        self.opening = None;
    }

    /// Hash of the conversation's opening; see [`crate::SessionHints::opening`].
    pub(super) fn opening(&self, instructions: &Section) -> u64 {
        let first = self
            .opening
            .unwrap_or_else(|| mix(self.lead.digest(), self.rest.head_digest(OPENING_BLOCKS)));
        mix(instructions.digest(), first)
    }

    /// Tokens of some text, 0 without a tokenizer.
    pub(super) fn count(&self, text: &[u8]) -> u64 {
        exact::count(self.counter.as_deref(), text)
    }

    /// Counts one more message, part or prompt.
    pub(super) fn step<E: Error>(&mut self) -> Result<(), E> {
        self.pieces += 1;
        if self.pieces <= self.max_pieces {
            return Ok(());
        }
        let most = self.max_pieces;
        Err(self.fail(format!(
            "expected at most {most} messages, prompts and parts of them"
        )))
    }

    fn fail<E: Error>(&mut self, reason: String) -> E {
        E::custom(self.excess.insert(reason))
    }

    /// One prompt of this size is over.
    pub(super) fn prompt_ends(&mut self, size: u64) {
        self.prompt_sizes.0 += size as f64;
        self.prompt_sizes.1 += (size as f64) * (size as f64);
    }

    /// Another prompt begins after one of token ids.
    pub(super) fn next_prompt(&mut self) {
        self.rest.feed(&[PIECE, Kind::Text as u8]);
    }

    /// Adds text of a prompt.
    pub(super) fn prompt_text(&mut self, bytes: &[u8]) {
        self.text.prompt += Features::of(bytes);
        self.exact.prompt += self.count(bytes);
        self.rest.feed(&[PIECE, Kind::Text as u8]);
        self.rest.feed(bytes);
    }

    /// Adds one token id of a prompt.
    pub(super) fn prompt_token<E: Error>(&mut self, id: u64) -> Result<(), E> {
        self.explicit_tokens += 1;
        if self.explicit_tokens > self.max_token_ids {
            let most = self.max_token_ids;
            return Err(self.fail(format!("expected at most {most} token ids")));
        }
        // Ids have at most 32 bits; a wrong one only has to hash differently.
        self.rest.feed(&((id ^ (id >> 32)) as u32).to_le_bytes());
        Ok(())
    }

    fn keep_image(&mut self, image: Image) {
        if self.images.len() < self.max_images {
            self.images.push(image);
        } else {
            self.more_images += 1;
        }
    }
}

fn mix(hash: u64, seed: u64) -> u64 {
    xxh3_64_with_seed(&hash.to_le_bytes(), seed)
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    System = 1,
    User = 2,
    Assistant = 3,
    Tool = 4,
}

impl Role {
    /// The role of that name; unknown ones speak as users.
    pub(super) fn named(name: &[u8]) -> Self {
        match name {
            b"system" | b"developer" => Self::System,
            b"assistant" | b"model" => Self::Assistant,
            b"tool" | b"function" => Self::Tool,
            _ => Self::User,
        }
    }

    fn part(self) -> Part {
        match self {
            Self::System => Part::System,
            Self::User => Part::User,
            Self::Assistant => Part::Assistant,
            Self::Tool => Part::Tool,
        }
    }
}

/// What a piece of a message is; its place in the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text = 1,
    Name = 2,
    Arguments = 3,
    Image = 4,
    Audio = 5,
    Reasoning = 6,
    ToolResult = 7,
}

/// A piece whose message has not told its role yet.
struct Piece<'de> {
    kind: Kind,
    bytes: Cow<'de, [u8]>,
}

/// What one key of a message added.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    text: Features,
    tool_text: Features,
    exact: u64,
    tool_exact: u64,
    audio_seconds: f64,
    media_bytes: u64,
}

impl Tally {
    fn is_empty(&self) -> bool {
        let texts = self.text.bytes + self.tool_text.bytes + self.media_bytes;
        texts == 0 && self.audio_seconds == 0.0
    }
}

/// One message while it is read.
pub(super) struct Turn<'de> {
    role: Option<Role>,
    /// Once the message's start is in its section: whether that is the leading one.
    leads: Option<bool>,
    pending: Vec<Piece<'de>>,
    content: Tally,
    calls: Tally,
    in_content: bool,
    first_image: usize,
    more_images: u64,
}

impl<'de> Turn<'de> {
    pub(super) fn new(conversation: &Conversation) -> Self {
        Self {
            role: None,
            leads: None,
            pending: Vec::new(),
            content: Tally::default(),
            calls: Tally::default(),
            in_content: false,
            first_image: conversation.images.len(),
            more_images: conversation.more_images,
        }
    }

    pub(super) fn set_role(&mut self, role: Role) {
        self.role = Some(role);
    }

    /// Sets a role that the item's type implies, unless it has one.
    pub(super) fn imply_role(&mut self, role: Role) {
        self.role.get_or_insert(role);
    }

    /// `content` begins, perhaps again: the last one wins.
    pub(super) fn begin_content(&mut self, conversation: &mut Conversation, again: bool) {
        self.in_content = true;
        if !again {
            return;
        }
        self.content = Tally::default();
        self.pending.clear();
        conversation.images.truncate(self.first_image);
        conversation.more_images = self.more_images;
        if let Some(leads) = self.leads.take() {
            section(conversation, leads).return_to_mark();
        }
    }

    pub(super) fn end_content(&mut self) {
        self.in_content = false;
    }

    fn tally(&mut self) -> &mut Tally {
        if self.in_content {
            &mut self.content
        } else {
            &mut self.calls
        }
    }

    /// Adds text of this message.
    pub(super) fn text(&mut self, conversation: &mut Conversation, kind: Kind, text: Str<'de, '_>) {
        let features = Features::of(text.bytes());
        let exact = conversation.count(text.bytes());
        let tally = self.tally();
        if kind == Kind::ToolResult {
            tally.tool_text += features;
            tally.tool_exact += exact;
        } else {
            tally.text += features;
            tally.exact += exact;
        }
        self.piece(conversation, kind, text);
    }

    /// Adds an image, video or document, which enters the chain by its hash.
    pub(super) fn image(&mut self, conversation: &mut Conversation, image: Image, hash: u64) {
        self.tally().media_bytes += image.bytes;
        conversation.keep_image(image);
        conversation.audio_rate = None;
        self.piece(conversation, Kind::Image, Str::Decoded(&hash.to_le_bytes()));
    }

    /// Adds audio of `bytes` inline bytes, which enters the chain by its hash.
    pub(super) fn audio(
        &mut self,
        conversation: &mut Conversation,
        seconds: f64,
        bytes: u64,
        hash: u64,
    ) {
        let tally = self.tally();
        tally.audio_seconds += seconds;
        tally.media_bytes += bytes;
        self.piece(conversation, Kind::Audio, Str::Decoded(&hash.to_le_bytes()));
    }

    /// Puts right the seconds of audio already added.
    pub(super) fn correct_audio(&mut self, seconds: f64) {
        self.tally().audio_seconds += seconds;
    }

    fn piece(&mut self, conversation: &mut Conversation, kind: Kind, text: Str<'de, '_>) {
        conversation.latest_is_media = matches!(kind, Kind::Image | Kind::Audio);
        if self.role.is_none() {
            self.pending.push(Piece {
                kind,
                bytes: text.keep(),
            });
            return;
        }
        feed(self.begun_section(conversation), kind, text.bytes());
    }

    /// The message's section, with the message's start and what was pending written to it.
    fn begun_section<'c>(&mut self, conversation: &'c mut Conversation) -> &'c mut Section {
        let role = self.role.unwrap_or(Role::User);
        let leads = match self.leads {
            Some(leads) => leads,
            None => {
                let leads = role == Role::System && !conversation.opened;
                self.leads = Some(leads);
                conversation.opened |= !leads;
                let section = section(conversation, leads);
                section.set_mark();
                section.feed(&[MESSAGE, role as u8]);
                for piece in self.pending.drain(..) {
                    feed(section, piece.kind, &piece.bytes);
                }
                leads
            }
        };
        section(conversation, leads)
    }

    /// The message is over, or cut.
    pub(super) fn end(&mut self, conversation: &mut Conversation) {
        let role = self.role.unwrap_or(Role::User);
        self.begun_section(conversation);
        for tally in [&self.content, &self.calls] {
            if tally.is_empty() {
                continue;
            }
            *conversation.text.get_mut(role.part()) += tally.text;
            *conversation.text.get_mut(Part::Tool) += tally.tool_text;
            conversation.exact.add(role.part(), tally.exact);
            conversation.exact.add(Part::Tool, tally.tool_exact);
            conversation.audio_seconds += tally.audio_seconds;
            conversation.media_bytes += tally.media_bytes;
        }
        conversation.messages = conversation.messages.saturating_add(1);
        if role == Role::User && conversation.opening.is_none() {
            conversation.opening =
                Some(mix(conversation.lead.digest(), conversation.rest.digest()));
        }
    }
}

/// Writes a piece of a message to its section.
fn feed(section: &mut Section, kind: Kind, bytes: &[u8]) {
    section.feed(&[PIECE, kind as u8]);
    if kind == Kind::Image {
        section.note_image();
    }
    section.feed(bytes);
}

fn section(conversation: &mut Conversation, leads: bool) -> &mut Section {
    if leads {
        &mut conversation.lead
    } else {
        &mut conversation.rest
    }
}
