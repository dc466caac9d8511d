//! Content of a message: text, or a list of parts, or null.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::conversation::{Conversation, Kind, Turn};
use super::medium::{AudioSeed, MediaSeed, SourceSeed, detail_named};
use super::message::ArgumentsSeed;
use super::visit::{KeySeed, Str, skip, string};
use crate::image::{Detail, Media};

/// Content: a string, a list of parts (objects or strings), or null.
pub(super) struct ContentSeed<'a, 'de> {
    pub(super) conversation: &'a mut Conversation,
    pub(super) turn: &'a mut Turn<'de>,
    pub(super) kind: Kind,
}

impl<'de> DeserializeSeed<'de> for ContentSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for ContentSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of parts")
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_bytes(self)
    }

    fn visit_borrowed_bytes<E: Error>(self, text: &'de [u8]) -> Result<(), E> {
        self.turn
            .text(self.conversation, self.kind, Str::Body(text));
        Ok(())
    }

    fn visit_bytes<E: Error>(self, text: &[u8]) -> Result<(), E> {
        self.turn
            .text(self.conversation, self.kind, Str::Decoded(text));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self {
            conversation,
            turn,
            kind,
        } = self;
        loop {
            let part = PartSeed {
                conversation: &mut *conversation,
                turn: &mut *turn,
                kind,
            };
            if seq.next_element_seed(part)?.is_none() {
                return Ok(());
            }
            conversation.step()?;
        }
    }
}

/// One part of a content list. What it holds is told by its keys; `type` only repeats them.
struct PartSeed<'a, 'de> {
    conversation: &'a mut Conversation,
    turn: &'a mut Turn<'de>,
    kind: Kind,
}

impl<'de> DeserializeSeed<'de> for PartSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

#[derive(Clone, Copy)]
enum Key {
    Text,
    Reasoning,
    Content,
    Medium(Media),
    Source,
    Audio,
    Detail,
    Name,
    Input,
    Other,
}

fn key(name: &[u8]) -> Key {
    match name {
        b"text" | b"refusal" => Key::Text,
        b"thinking" => Key::Reasoning,
        b"content" => Key::Content,
        b"image_url" | b"image" | b"image_embeds" => Key::Medium(Media::Image),
        b"video_url" | b"video" => Key::Medium(Media::Video),
        b"file_data" | b"file_url" | b"file" => Key::Medium(Media::Document),
        b"source" => Key::Source,
        b"input_audio" | b"audio_url" | b"audio" => Key::Audio,
        b"detail" => Key::Detail,
        b"name" => Key::Name,
        b"input" => Key::Input,
        _ => Key::Other,
    }
}

impl<'de> Visitor<'de> for PartSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a content part")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.turn
            .text(self.conversation, self.kind, Str::Body(text.as_bytes()));
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.turn
            .text(self.conversation, self.kind, Str::Decoded(text.as_bytes()));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self {
            conversation,
            turn,
            kind,
        } = self;
        let first_image = conversation.images.len();
        let mut detail = Detail::default();
        let outcome = entries(&mut map, conversation, turn, kind, &mut detail);
        for image in conversation.images.iter_mut().skip(first_image) {
            image.detail = detail;
        }
        outcome
    }
}

fn entries<'de, A: MapAccess<'de>>(
    map: &mut A,
    conversation: &mut Conversation,
    turn: &mut Turn<'de>,
    kind: Kind,
    detail: &mut Detail,
) -> Result<(), A::Error> {
    while let Some(key) = map.next_key_seed(KeySeed(key))? {
        conversation.step()?;
        match key {
            Key::Text => {
                map.next_value_seed(string(|text| turn.text(conversation, kind, text)))?;
            }
            Key::Reasoning => {
                let kind = Kind::Reasoning;
                map.next_value_seed(string(|text| turn.text(conversation, kind, text)))?;
            }
            Key::Content => {
                let kind = Kind::ToolResult;
                map.next_value_seed(ContentSeed {
                    conversation,
                    turn,
                    kind,
                })?;
            }
            Key::Medium(media) => {
                map.next_value_seed(MediaSeed {
                    conversation,
                    turn,
                    media,
                    detail,
                })?;
            }
            Key::Source => map.next_value_seed(SourceSeed {
                conversation,
                turn,
                kind,
            })?,
            Key::Audio => map.next_value_seed(AudioSeed { conversation, turn })?,
            Key::Detail => {
                if let Some(asked) =
                    map.next_value_seed(string(|name| detail_named(name.bytes())))?
                {
                    *detail = asked;
                }
            }
            Key::Name => {
                map.next_value_seed(string(|name| turn.text(conversation, Kind::Name, name)))?;
            }
            Key::Input => map.next_value_seed(ArgumentsSeed { conversation, turn })?,
            Key::Other => skip(map)?,
        }
    }
    Ok(())
}
