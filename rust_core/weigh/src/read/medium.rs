//! Images, videos, documents and audio inside a message's content.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use xxhash_rust::xxh3::xxh3_64;

use super::content::ContentSeed;
use super::conversation::{Conversation, Kind, Turn};
use super::visit::{KeySeed, Str, skip, string};
use crate::audio::{Audio, REMOTE_SECONDS};
use crate::base64::Base64;
use crate::image::{Detail, Image, Media, inline_data};

/// The detail of that name.
pub(super) fn detail_named(name: &[u8]) -> Detail {
    match name {
        b"low" => Detail::Low,
        b"high" => Detail::High,
        _ => Detail::Auto,
    }
}

/// A medium: its URL, or an object with a `url` and a `detail`, or a list of either.
pub(super) struct MediaSeed<'a, 'de> {
    pub(super) conversation: &'a mut Conversation,
    pub(super) turn: &'a mut Turn<'de>,
    pub(super) media: Media,
    pub(super) detail: &'a mut Detail,
}

impl MediaSeed<'_, '_> {
    fn add(self, url: &[u8]) {
        let image = Image::at_url(url, self.media);
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
        b"url" | b"file_data" | b"file_url" | b"data" => MediaKey::Url,
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

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self {
            conversation,
            turn,
            media,
            detail,
        } = self;
        loop {
            let one = MediaSeed {
                conversation: &mut *conversation,
                turn: &mut *turn,
                media,
                detail: &mut *detail,
            };
            if seq.next_element_seed(one)?.is_none() {
                return Ok(());
            }
            conversation.step()?;
        }
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
                    if let Some(asked) =
                        map.next_value_seed(string(|name| detail_named(name.bytes())))?
                    {
                        *detail = asked;
                    }
                }
                MediaKey::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

/// Anthropic's `source`: base64 data, a URL, plain text or content. What `data` is, is told by
/// itself, since its `type` may come later.
pub(super) struct SourceSeed<'a, 'de> {
    pub(super) conversation: &'a mut Conversation,
    pub(super) turn: &'a mut Turn<'de>,
    pub(super) kind: Kind,
}

impl<'de> DeserializeSeed<'de> for SourceSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

#[derive(Clone, Copy)]
enum SourceKey {
    Data,
    Url,
    Content,
    Other,
}

fn source_key(name: &[u8]) -> SourceKey {
    match name {
        b"data" => SourceKey::Data,
        b"url" => SourceKey::Url,
        b"content" => SourceKey::Content,
        _ => SourceKey::Other,
    }
}

impl<'de> Visitor<'de> for SourceSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a source object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self {
            conversation,
            turn,
            kind,
        } = self;
        while let Some(key) = map.next_key_seed(KeySeed(source_key))? {
            match key {
                SourceKey::Data => {
                    map.next_value_seed(string(|data| {
                        if Base64(data.bytes()).is_likely() {
                            let image = Image::inline(data.bytes(), Media::Image);
                            turn.image(conversation, image, xxh3_64(data.bytes()));
                        } else {
                            turn.text(conversation, kind, data);
                        }
                    }))?;
                }
                SourceKey::Url => {
                    map.next_value_seed(string(|url| {
                        let image = Image::at_url(url.bytes(), Media::Image);
                        turn.image(conversation, image, xxh3_64(url.bytes()));
                    }))?;
                }
                SourceKey::Content => map.next_value_seed(ContentSeed {
                    conversation: &mut *conversation,
                    turn: &mut *turn,
                    kind,
                })?,
                SourceKey::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

/// Audio: a URL, or an object with `data` and `format`, or with a `url`.
pub(super) struct AudioSeed<'a, 'de> {
    pub(super) conversation: &'a mut Conversation,
    pub(super) turn: &'a mut Turn<'de>,
}

impl<'de> DeserializeSeed<'de> for AudioSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

#[derive(Clone, Copy)]
enum AudioKey {
    Data,
    Url,
    Format,
    Other,
}

fn audio_key(name: &[u8]) -> AudioKey {
    match name {
        b"data" => AudioKey::Data,
        b"url" => AudioKey::Url,
        b"format" => AudioKey::Format,
        _ => AudioKey::Other,
    }
}

/// The audio at a URL, and its hash.
fn at_url(url: &[u8]) -> (Option<Audio>, u64) {
    (
        inline_data(url).map(|(_, data)| Audio::inline(data)),
        xxh3_64(url),
    )
}

impl<'de> AudioSeed<'_, 'de> {
    fn add(&mut self, audio: Option<Audio>, encoded: Str<'de, '_>, hash: u64) {
        let inline = if audio.is_some() {
            encoded.bytes().len() as u64
        } else {
            0
        };
        let seconds = audio.map_or(REMOTE_SECONDS, |audio| audio.seconds());
        self.turn.audio(self.conversation, seconds, inline, hash);
        self.conversation.audio_rate = audio.map(|audio| audio.bytes_per_second);
    }
}

impl<'de> Visitor<'de> for AudioSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("audio")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(mut self, url: &str) -> Result<(), E> {
        let (audio, hash) = at_url(url.as_bytes());
        self.add(audio, Str::Decoded(url.as_bytes()), hash);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut heard: Option<Audio> = None;
        let mut format: Vec<u8> = Vec::new();
        while let Some(key) = map.next_key_seed(KeySeed(audio_key))? {
            match key {
                AudioKey::Data => {
                    map.next_value_seed(string(|data| {
                        let audio = Audio::inline(data.bytes()).of_format(&format);
                        self.add(Some(audio), data, xxh3_64(data.bytes()));
                        heard = Some(audio);
                    }))?;
                }
                AudioKey::Url => {
                    map.next_value_seed(string(|url| {
                        let (audio, hash) = at_url(url.bytes());
                        self.add(audio, url, hash);
                    }))?;
                }
                AudioKey::Format => {
                    let name = map.next_value_seed(string(|name| {
                        name.bytes().get(..16).unwrap_or(name.bytes()).to_vec()
                    }))?;
                    format = name.unwrap_or_default();
                    // The data came first: what it was taken for is put right.
                    if let Some(audio) = heard {
                        let right = audio.of_format(&format);
                        self.turn.correct_audio(right.seconds() - audio.seconds());
                        heard = Some(right);
                    }
                }
                AudioKey::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}
