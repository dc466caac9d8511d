//! What ties a request to earlier ones of the same conversation.

use crate::core::Incoming;
use std::borrow::Cow;
use weighbridge_weigh::Reading;

/// What names a request's session: the first that is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// A configured header.
    Header(String),
    /// `prompt_cache_key` in the body.
    PromptCacheKey(String),
    /// `conversation` in the body.
    Conversation(String),
    /// `previous_response_id` in the body.
    PreviousResponse(String),
    /// `user` in the body.
    User(String),
    /// Hash of the prompt's opening.
    Opening(u64),
    /// Nothing: the body was not sent to us. Each request is its own session.
    Request(String),
}

impl Session {
    pub(crate) fn of(incoming: &Incoming<'_>, reading: &Reading) -> Self {
        let hints = &reading.session;
        let header = incoming.session.map(str::to_owned).map(Self::Header);
        header
            .or_else(|| hints.prompt_cache_key.clone().map(Self::PromptCacheKey))
            .or_else(|| hints.conversation.clone().map(Self::Conversation))
            .or_else(|| {
                hints
                    .previous_response_id
                    .clone()
                    .map(Self::PreviousResponse)
            })
            .or_else(|| hints.user.clone().map(Self::User))
            .unwrap_or_else(|| {
                if incoming.body.bytes.is_empty() {
                    Self::Request(incoming.request_id.to_owned())
                } else {
                    Self::Opening(hints.opening)
                }
            })
    }

    /// Where it was found.
    #[must_use]
    pub fn source(&self) -> &'static str {
        match self {
            Self::Header(_) => "header",
            Self::PromptCacheKey(_) => "prompt_cache_key",
            Self::Conversation(_) => "conversation",
            Self::PreviousResponse(_) => "previous_response_id",
            Self::User(_) => "user",
            Self::Opening(_) => "opening",
            Self::Request(_) => "request",
        }
    }

    pub(crate) fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Header(name)
            | Self::PromptCacheKey(name)
            | Self::Conversation(name)
            | Self::PreviousResponse(name)
            | Self::User(name)
            | Self::Request(name) => Cow::Borrowed(name.as_bytes()),
            Self::Opening(hash) => Cow::Owned(hash.to_le_bytes().to_vec()),
        }
    }

    /// For people: the client's own word, cut to 64 characters, or the opening's hash.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Header(name)
            | Self::PromptCacheKey(name)
            | Self::Conversation(name)
            | Self::PreviousResponse(name)
            | Self::User(name)
            | Self::Request(name) => name.chars().take(64).collect(),
            Self::Opening(hash) => format!("{hash:016x}"),
        }
    }
}
