//! Seeds for the JSON values that requests are made of.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A decoded string of the body, which may hold any bytes.
#[derive(Clone, Copy)]
pub(super) enum Str<'de, 'a> {
    /// A slice of the body, which outlives the visit.
    Body(&'de [u8]),
    /// A copy with its escapes decoded, which does not.
    Decoded(&'a [u8]),
}

impl<'de, 'a> Str<'de, 'a> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Body(bytes) => bytes,
            Self::Decoded(bytes) => bytes,
        }
    }

    /// The bytes, copied only if they do not outlive the visit.
    pub(super) fn keep(&self) -> Cow<'de, [u8]> {
        match self {
            Self::Body(bytes) => Cow::Borrowed(bytes),
            Self::Decoded(bytes) => Cow::Owned(bytes.to_vec()),
        }
    }
}

/// A string or null, handed to a function; any other type is an error.
pub(super) struct StringSeed<F, R> {
    then: F,
    result: PhantomData<R>,
}

/// A seed that hands the string to `then`; null gives `None`.
pub(super) fn string<'de, F, R>(then: F) -> StringSeed<F, R>
where
    F: FnOnce(Str<'de, '_>) -> R,
{
    StringSeed {
        then,
        result: PhantomData,
    }
}

impl<'de, F, R> DeserializeSeed<'de> for StringSeed<F, R>
where
    F: FnOnce(Str<'de, '_>) -> R,
{
    type Value = Option<R>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_option(self)
    }
}

impl<'de, F, R> Visitor<'de> for StringSeed<F, R>
where
    F: FnOnce(Str<'de, '_>) -> R,
{
    type Value = Option<R>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_bytes(self)
    }

    fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Some((self.then)(Str::Body(bytes))))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Some((self.then)(Str::Decoded(bytes))))
    }
}

/// A key of an object, mapped by a function.
pub(super) struct KeySeed<K>(pub(super) fn(&[u8]) -> K);

impl<'de, K> DeserializeSeed<'de> for KeySeed<K> {
    type Value = K;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<K, D::Error> {
        json.deserialize_bytes(self)
    }
}

impl<K> Visitor<'_> for KeySeed<K> {
    type Value = K;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<K, E> {
        Ok((self.0)(bytes))
    }
}

/// The value of the next entry, thrown away.
pub(super) fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(|_| ())
}

/// The rest of an array, thrown away.
pub(super) fn skip_seq<'de, A: SeqAccess<'de>>(seq: &mut A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// The rest of an object, thrown away.
pub(super) fn skip_map<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}
