//! Any JSON value as canonical text: what a chat template's `tojson` makes of it.
//!
//! Keys stay in the client's order, separators are `", "` and `": "`, escapes that JSON does not
//! need are decoded: `"\u0041"` and `"A"` give the same bytes.

use std::fmt;
use std::io::Write as _;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Appends the value's canonical text; on an error, what was seen before it.
pub(super) struct CanonicalSeed<'a>(pub(super) &'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for CanonicalSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CanonicalSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.extend_from_slice(b"null");
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.0
            .extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        write!(self.0, "{value}").map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        write!(self.0, "{value}").map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        // `{:?}` keeps large exponents short, where `{}` would write 300 digits.
        write!(self.0, "{value:?}").map_err(E::custom)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        quote(value.as_bytes(), self.0);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.0.push(b'[');
        let start = self.0.len();
        loop {
            let before = self.0.len();
            if before > start {
                self.0.extend_from_slice(b", ");
            }
            let element = seq.next_element_seed(CanonicalSeed(self.0));
            if nothing_came(self.0, before, &element) {
                self.0.truncate(before);
            }
            if element?.is_none() {
                break;
            }
        }
        self.0.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.push(b'{');
        let start = self.0.len();
        loop {
            let before = self.0.len();
            if before > start {
                self.0.extend_from_slice(b", ");
            }
            let key = map.next_key_seed(CanonicalSeed(self.0));
            if nothing_came(self.0, before, &key) {
                self.0.truncate(before);
            }
            if key?.is_none() {
                break;
            }
            self.0.extend_from_slice(b": ");
            map.next_value_seed(CanonicalSeed(self.0))?;
        }
        self.0.push(b'}');
        Ok(())
    }
}

/// Whether the separator written at `before` separates nothing: the value ends, or was cut, there.
fn nothing_came<E>(out: &[u8], before: usize, next: &Result<Option<()>, E>) -> bool {
    !matches!(next, Ok(Some(()))) && out.len() <= before + b", ".len()
}

/// Appends `text` in quotes, escaping what JSON must.
fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    // Nearly all strings are plain; a loop without an early end looks at many bytes at once.
    if !text
        .iter()
        .fold(false, |any, &byte| any | must_escape(byte))
    {
        out.extend_from_slice(text);
        out.push(b'"');
        return;
    }
    for run in text.split_inclusive(|&byte| must_escape(byte)) {
        let Some((&last, plain)) = run.split_last() else {
            continue;
        };
        let escaped: &[u8] = match last {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1F => {
                out.extend_from_slice(plain);
                // Rare enough that the formatter's cost does not matter; a Vec cannot fail.
                let _ = write!(out, "\\u{last:04x}");
                continue;
            }
            _ => {
                out.extend_from_slice(run);
                continue;
            }
        };
        out.extend_from_slice(plain);
        out.extend_from_slice(escaped);
    }
    out.push(b'"');
}

fn must_escape(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(json: &str) -> String {
        let mut text = Vec::new();
        let mut json = serde_json::Deserializer::from_str(json);
        CanonicalSeed(&mut text).deserialize(&mut json).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn values_are_written_as_pythons_json_dumps_writes_them() {
        for (json, expected) in [
            ("[ ]", "[]"),
            ("{ }", "{}"),
            (
                "[1,-2,3.5,true,false,null]",
                "[1, -2, 3.5, true, false, null]",
            ),
            (
                r#"{"b":{"a":[{}]},"a":""}"#,
                r#"{"b": {"a": [{}]}, "a": ""}"#,
            ),
            (
                r#""\u0041\u4f60\/\n\"\\\u0001\t""#,
                r#""A你/\n\"\\\u0001\t""#,
            ),
        ] {
            assert_eq!(canonical(json), expected);
        }
        assert!(canonical("1e300").len() < 10);
    }
}
