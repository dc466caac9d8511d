//! Fields beside the messages by which an engine is told more of the prompt: what is rendered with
//! it, the adapter, token ids in its place.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::conversation::Conversation;
use super::scalar::{Count, CountSeed, hint};
use super::visit::{KeySeed, skip, string};
use crate::base64::Base64;
use crate::features::Features;
use crate::reading::Lora;

/// A value that a chat template renders, or may: its text, and its hash.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rendered {
    pub(super) text: Features,
    pub(super) exact: u64,
    /// `None` where the value is absent.
    pub(super) hash: Option<u64>,
}

impl Rendered {
    pub(super) fn of(text: &[u8], conversation: &Conversation) -> Self {
        Self {
            text: Features::of(text),
            exact: conversation.count(text),
            hash: Some(xxh3_64(text)),
        }
    }
}

/// What a chain is bound to beside its model: prompts that differ in it share nothing in a cache.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Binding(Option<u64>);

impl Binding {
    /// Binds to a value under a name; an absent one leaves no trace.
    pub(super) fn to(self, name: u64, hash: Option<u64>) -> Self {
        let Some(hash) = hash else {
            return self;
        };
        let bytes = [name.to_le_bytes(), hash.to_le_bytes()].concat();
        Self(Some(xxh3_64_with_seed(&bytes, self.0.unwrap_or_default())))
    }

    pub(super) fn salt(self) -> Vec<u8> {
        self.0
            .map_or_else(Vec::new, |hash| hash.to_le_bytes().to_vec())
    }
}

/// `lora_request`: an object, or null.
pub(super) struct LoraSeed<'a> {
    pub(super) lora: &'a mut Option<Lora>,
    pub(super) max_bytes: usize,
}

#[derive(Clone, Copy)]
enum LoraKey {
    Name,
    Id,
    Other,
}

fn lora_key(name: &[u8]) -> LoraKey {
    match name {
        b"lora_name" | b"name" => LoraKey::Name,
        b"lora_int_id" => LoraKey::Id,
        _ => LoraKey::Other,
    }
}

impl<'de> DeserializeSeed<'de> for LoraSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        *self.lora = None;
        json.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for LoraSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object that names an adapter")
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let lora = self.lora.insert(Lora::default());
        while let Some(key) = map.next_key_seed(KeySeed(lora_key))? {
            match key {
                LoraKey::Name => {
                    let name = string(|name| hint(name.bytes(), self.max_bytes));
                    lora.name = map.next_value_seed(name)?.flatten();
                }
                LoraKey::Id => match map.next_value_seed(CountSeed)? {
                    Count::Is(id) => lora.id = Some(id),
                    Count::Absent => lora.id = None,
                    Count::Impossible => {
                        return Err(A::Error::custom("`lora_int_id` must be a whole number"));
                    }
                },
                LoraKey::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

/// `num_frames` of an object, or of its `video`.
pub(super) struct FramesSeed<'a>(pub(super) &'a mut u64);

#[derive(Clone, Copy)]
enum FramesKey {
    Frames,
    Video,
    Other,
}

fn frames_key(name: &[u8]) -> FramesKey {
    match name {
        b"num_frames" => FramesKey::Frames,
        b"video" => FramesKey::Video,
        _ => FramesKey::Other,
    }
}

impl<'de> DeserializeSeed<'de> for FramesSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for FramesSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(KeySeed(frames_key))? {
            match key {
                FramesKey::Frames => match map.next_value_seed(CountSeed)? {
                    Count::Is(frames) => *self.0 = (*self.0).max(frames),
                    Count::Absent => {}
                    Count::Impossible => {
                        return Err(A::Error::custom("`num_frames` must be a whole number"));
                    }
                },
                FramesKey::Video => map.next_value_seed(FramesSeed(self.0))?,
                FramesKey::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

/// `prompt_token_ids`: one list of token ids, as integers or as 32-bit ones in base64, or null. The
/// value is whether there was one.
pub(super) struct IdsSeed<'a>(pub(super) &'a mut Conversation);

impl<'de> DeserializeSeed<'de> for IdsSeed<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        self.0.clear();
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for IdsSeed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of token ids")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        let ids = Base64(text.as_bytes());
        let count = ids.len() / size_of::<u32>();
        if ids.len() % size_of::<u32>() != 0 {
            return Err(E::custom("base64 of no whole number of 32-bit token ids"));
        }
        for at in 0..count {
            let id = ids
                .array(at * size_of::<u32>())
                .map(u32::from_le_bytes)
                .ok_or_else(|| E::custom("text that is no base64"))?;
            self.0.prompt_token(u64::from(id))?;
        }
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        while let Some(id) = seq.next_element()? {
            self.0.prompt_token(id)?;
        }
        Ok(true)
    }
}
