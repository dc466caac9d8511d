//! Seeds for numbers, booleans and hints, as lenient as the engines' own parsers.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::visit::{KeySeed, skip, skip_map, skip_seq};

/// What a key for a whole number held.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Count {
    /// Nothing: null.
    Absent,
    /// A whole number.
    Is(u64),
    /// A number that cannot count anything: negative, fractional or beyond 64 bits.
    Impossible,
}

/// A whole number or null. Floats without a fraction, booleans and strings of digits count, as in
/// pydantic.
pub(super) struct CountSeed;

impl<'de> DeserializeSeed<'de> for CountSeed {
    type Value = Count;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Count, D::Error> {
        json.deserialize_any(self)
    }
}

impl Visitor<'_> for CountSeed {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer")
    }

    fn visit_unit<E: Error>(self) -> Result<Count, E> {
        Ok(Count::Absent)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Count, E> {
        Ok(Count::Is(u64::from(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Count, E> {
        Ok(Count::Is(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Count, E> {
        Ok(u64::try_from(value).map_or(Count::Impossible, Count::Is))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Count, E> {
        let whole = value.fract() == 0.0 && (0.0..9.0e15).contains(&value);
        Ok(if whole {
            Count::Is(value as u64)
        } else {
            Count::Impossible
        })
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Count, E> {
        count(value).ok_or_else(|| E::custom("a string that is no integer, expected an integer"))
    }
}

/// A number in a string: digits, in groups by single underscores or not, and zeros after a point.
fn count(text: &str) -> Option<Count> {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let negative = whole.strip_prefix('-');
    let whole = negative.unwrap_or(whole.strip_prefix('+').unwrap_or(whole));
    let is_digits = |group: &str| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
    if !whole.split('_').all(is_digits) || !fraction.bytes().all(|byte| byte == b'0') {
        return None;
    }
    let number: Option<u64> = whole.replace('_', "").parse().ok();
    Some(
        match number.filter(|number| negative.is_none() || *number == 0) {
            Some(number) => Count::Is(number),
            None => Count::Impossible,
        },
    )
}

/// A boolean or null; 0, 1 and their usual words count, as in pydantic.
pub(super) struct FlagSeed;

impl<'de> DeserializeSeed<'de> for FlagSeed {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_any(self)
    }
}

impl Visitor<'_> for FlagSeed {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a boolean")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        Ok(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        match value {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(E::custom("a number, expected a boolean")),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        match value {
            0.0 => Ok(false),
            1.0 => Ok(true),
            _ => Err(E::custom("a number, expected a boolean")),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<bool, E> {
        match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "on" | "yes" | "y" | "t" => Ok(true),
            "false" | "0" | "off" | "no" | "n" | "f" => Ok(false),
            _ => Err(E::custom("a string, expected a boolean")),
        }
    }
}

/// `stream_options`: whether usage is to be included.
pub(super) struct StreamOptionsSeed;

impl<'de> DeserializeSeed<'de> for StreamOptionsSeed {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StreamOptionsSeed {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut include = false;
        while let Some(ours) = map.next_key_seed(KeySeed(|key| key == b"include_usage"))? {
            if ours {
                include = map.next_value_seed(FlagSeed)?;
            } else {
                skip(&mut map)?;
            }
        }
        Ok(include)
    }
}

/// A hint: a string, or the string under `key` of an object. Anything else is no hint, but no error.
pub(super) struct HintSeed<'a> {
    /// The key to look for in an object.
    pub(super) key: fn(&[u8]) -> bool,
    /// Where the hint goes; null and other types leave it empty.
    pub(super) hint: &'a mut Option<String>,
    /// Longest hint kept as it is, in bytes.
    pub(super) max_bytes: usize,
}

impl HintSeed<'_> {
    fn set(self, bytes: &[u8]) {
        *self.hint = hint(bytes, self.max_bytes);
    }
}

/// A hint's text, or its hash where it is long or no UTF-8; empty is no hint.
pub(super) fn hint(bytes: &[u8], max_bytes: usize) -> Option<String> {
    if bytes.is_empty() {
        return None;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= max_bytes => Some(text.to_owned()),
        _ => Some(format!("xxh3:{:032x}", xxhash_rust::xxh3::xxh3_128(bytes))),
    }
}

impl<'de> DeserializeSeed<'de> for HintSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        *self.hint = None;
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for HintSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an object")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.set(text.as_bytes());
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.set(number.to_string().as_bytes());
        Ok(())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.set(number.to_string().as_bytes());
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        skip_seq(&mut seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(ours) = map.next_key_seed(KeySeed(self.key))? {
            if ours {
                let inner = HintSeed {
                    key: |_| false,
                    hint: self.hint,
                    max_bytes: self.max_bytes,
                };
                map.next_value_seed(inner)?;
            } else {
                skip(&mut map)?;
            }
        }
        skip_map(&mut map)
    }
}
