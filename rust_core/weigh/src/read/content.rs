//! Content of a message: text, or a list of parts, or null.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use xxhash_rust::xxh3::xxh3_64;

use super::conversation::{Conversation, Kind, Turn};
use super::message::ArgumentsSeed;
use super::visit::{KeySeed, Str, skip, string};
use crate::image::{Detail, Image, Media};

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
    Url(Media),
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
        b"image_url" => Key::Url(Media::Image),
        b"video_url" => Key::Url(Media::Video),
        b"file_data" | b"file" => Key::Url(Media::Document),
        b"source" => Key::Source,
        b"input_audio" | b"audio_url" => Key::Audio,
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
        while let Some(key) = map.next_key_seed(KeySeed(key))? {
            match key {
                Key::Text => {
                    map.next_value_seed(string(|text| turn.text(conversation, kind, text)))?;
                }
                Key::Reasoning => {
                    let reasoning = Kind::Reasoning;
                    map.next_value_seed(string(|text| turn.text(conversation, reasoning, text)))?;
                }
                Key::Content => map.next_value_seed(ContentSeed {
                    conversation: &mut *conversation,
                    turn: &mut *turn,
                    kind: Kind::ToolResult,
                })?,
                Key::Url(media) => {
                    let url = MediaSeed {
                        conversation: &mut *conversation,
                        turn: &mut *turn,
                        media,
                        detail: &mut detail,
                    };
                    map.next_value_seed(url)?;
                }
                Key::Detail => {
                    if let Some(asked) = map.next_value_seed(string(|name| named(name.bytes())))? {
                        detail = asked;
                    }
                }
                Key::Name => {
                    map.next_value_seed(string(|name| turn.text(conversation, Kind::Name, name)))?;
                }
                Key::Input => map.next_value_seed(ArgumentsSeed {
                    conversation: &mut *conversation,
                    turn: &mut *turn,
                })?,
                Key::Source | Key::Audio | Key::Other => skip(&mut map)?,
            }
        }
        for image in conversation.images.iter_mut().skip(first_image) {
            image.detail = detail;
        }
        Ok(())
    }
}

fn named(detail: &[u8]) -> Detail {
    match detail {
        b"low" => Detail::Low,
        b"high" => Detail::High,
        _ => Detail::Auto,
    }
}

/// A medium: its URL, or an object with a `url` and a `detail`.
struct MediaSeed<'a, 'de> {
    conversation: &'a mut Conversation,
    turn: &'a mut Turn<'de>,
    media: Media,
    detail: &'a mut Detail,
}

impl MediaSeed<'_, '_> {
    fn add(self, url: &[u8]) {
        let inline = url.starts_with(b"data:");
        let bytes = if inline { url.len() as u64 } else { 0 };
        let image = Image {
            media: self.media,
            bytes,
            ..Image::default()
        };
        self.turn.image(self.conversation, image, xxh3_64(url));
    }
}

impl<'de> DeserializeSeed<'de> for MediaSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

#[derive(Clone, Copy)]
enum MediaKey {
    Url,
    Detail,
    Other,
}

fn media_key(name: &[u8]) -> MediaKey {
    match name {
        b"url" | b"file_data" => MediaKey::Url,
        b"detail" => MediaKey::Detail,
        _ => MediaKey::Other,
    }
}

impl<'de> Visitor<'de> for MediaSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URL")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, url: &str) -> Result<(), E> {
        self.add(url.as_bytes());
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self {
            conversation,
            turn,
            media,
            detail,
        } = self;
        while let Some(key) = map.next_key_seed(KeySeed(media_key))? {
            match key {
                MediaKey::Url => {
                    let inner = MediaSeed {
                        conversation: &mut *conversation,
                        turn: &mut *turn,
                        media,
                        detail: &mut *detail,
                    };
                    map.next_value_seed(string(|url| inner.add(url.bytes())))?;
                }
                MediaKey::Detail => {
                    if let Some(asked) = map.next_value_seed(string(|name| named(name.bytes())))? {
                        *detail = asked;
                    }
                }
                MediaKey::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}
