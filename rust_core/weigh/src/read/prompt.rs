//! Prompts of completions and inputs of embeddings: text, token ids, or lists of either.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use super::conversation::Conversation;

/// A prompt of any form. The value is the number of prompts, `None` for null.
pub(super) struct PromptSeed<'a>(pub(super) &'a mut Conversation);

impl<'de> DeserializeSeed<'de> for PromptSeed<'_> {
    type Value = Option<u32>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        self.0.clear();
        json.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for PromptSeed<'_> {
    type Value = Option<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of strings, or lists of token ids")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_bytes(self)
    }

    fn visit_bytes<E: Error>(self, text: &[u8]) -> Result<Self::Value, E> {
        self.0.prompt_text(text);
        self.0.prompt_ends(text.len() as u64);
        self.0.messages = 1;
        Ok(Some(1))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut prompts = 0u32;
        let mut ids = 0u64;
        while let Some(element) = seq.next_element_seed(ElementSeed(&mut *self.0))? {
            match element {
                Element::Id => ids += 1,
                Element::Prompt => prompts = prompts.saturating_add(1),
            }
            self.0.messages = prompts.saturating_add(u32::from(ids > 0));
        }
        if ids > 0 {
            self.0.prompt_ends(ids);
        }
        Ok(Some(self.0.messages))
    }
}

/// What an element of a prompt's list was.
enum Element {
    /// A token id of the one prompt that the list is.
    Id,
    /// A prompt of its own.
    Prompt,
}

struct ElementSeed<'a>(&'a mut Conversation);

impl<'de> DeserializeSeed<'de> for ElementSeed<'_> {
    type Value = Element;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Element, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ElementSeed<'_> {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id or a list of token ids")
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
        self.0.prompt_token(id)?;
        Ok(Element::Id)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
        self.0.step()?;
        self.0.prompt_text(text.as_bytes());
        self.0.prompt_ends(text.len() as u64);
        Ok(Element::Prompt)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
        self.0.step()?;
        let before = self.0.explicit_tokens;
        if before > 0 {
            self.0.next_prompt();
        }
        let outcome = ids(&mut seq, self.0);
        self.0.prompt_ends(self.0.explicit_tokens - before);
        outcome.map(|()| Element::Prompt)
    }
}

/// The token ids of one prompt.
fn ids<'de, A: SeqAccess<'de>>(
    seq: &mut A,
    conversation: &mut Conversation,
) -> Result<(), A::Error> {
    while let Some(id) = seq.next_element()? {
        conversation.prompt_token(id)?;
    }
    Ok(())
}
