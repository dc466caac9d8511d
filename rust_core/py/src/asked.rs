//! A request that somebody wants explained, read from JSON without a tree.

use crate::refused;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Where a body that stands alone would be sent, by the key that carries its prompt.
const PATHS: [(&str, &str); 3] = [
    ("messages", "/v1/chat/completions"),
    ("prompt", "/v1/completions"),
    ("input", "/v1/responses"),
];
/// As deep as the weighing goes.
const DEEPEST: usize = 127;

/// Path, headers and body, as Python gets them.
type Parts<'py> = (String, Vec<(String, String)>, Bound<'py, PyBytes>);

/// Path, headers and body.
struct Asked<'a> {
    path: Cow<'a, str>,
    headers: Vec<(String, String)>,
    body: Cow<'a, [u8]>,
}

/// Reads a body, or `{"path", "headers", "body"}`. `CoreError` says what is wrong.
#[pyfunction]
pub(crate) fn read_asked<'py>(py: Python<'py>, content: &[u8]) -> PyResult<Parts<'py>> {
    let asked = py.detach(|| read(content)).map_err(refused)?;
    let body = PyBytes::new(py, &asked.body);
    Ok((asked.path.into_owned(), asked.headers, body))
}

fn read(content: &[u8]) -> Result<Asked<'_>, String> {
    let text = std::str::from_utf8(content).map_err(|error| format!("no JSON: {error}"))?;
    if !text.trim_ascii_start().starts_with('{') {
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| format!("no JSON: {error}"))?;
        return Err("must be an object: a body, or path, headers and body".into());
    }
    check(content)?;
    let members: Members<'_> =
        serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    let Some(body) = members.body.filter(|_| !members.others) else {
        // The bytes as they are: a duplicate key or an escape is weighed as the client sent it.
        return Ok(Asked {
            path: members.default_path().into(),
            headers: Vec::new(),
            body: content.into(),
        });
    };
    let path = match members.path {
        Some(path) => serde_json::from_str::<String>(path.get())
            .map_err(|_| "path: must be a string")?
            .into(),
        None if body.get().starts_with('{') => {
            let inner: Members<'_> = serde_json::from_str(body.get())
                .map_err(|error| format!("body: no JSON: {error}"))?;
            inner.default_path().into()
        }
        None => Members::default().default_path().into(),
    };
    let body = if body.get().starts_with('"') {
        let text: String =
            serde_json::from_str(body.get()).map_err(|error| format!("body: {error}"))?;
        check(text.as_bytes()).map_err(|error| format!("body: {error}"))?;
        Cow::Owned(text.into_bytes())
    } else {
        Cow::Borrowed(body.get().as_bytes())
    };
    Ok(Asked {
        path,
        headers: members.headers.map_or(Ok(Vec::new()), headers)?,
        body,
    })
}

/// Headers given as an object or as pairs.
fn headers(raw: &RawValue) -> Result<Vec<(String, String)>, String> {
    let wrong = "headers: must be an object, or a list of pairs, of strings";
    if raw.get().starts_with('{') {
        let pairs: Pairs = serde_json::from_str(raw.get()).map_err(|_| wrong)?;
        return Ok(pairs.0);
    }
    serde_json::from_str(raw.get()).map_err(|_| wrong.into())
}

/// Half a surrogate pair is no text, and depth beyond what is weighed no request.
fn check(content: &[u8]) -> Result<(), String> {
    let mut bytes = content.iter().copied().enumerate();
    let (mut depth, mut is_text, mut high) = (0_usize, false, false);
    while let Some((at, byte)) = bytes.next() {
        let was_high = std::mem::take(&mut high);
        match byte {
            b'\\' if is_text => {
                let low = match bytes.next() {
                    Some((at, b'u')) => match content.get(at + 1..at + 5).map(unit) {
                        Some(0xd800..=0xdbff) => {
                            high = true;
                            false
                        }
                        Some(0xdc00..=0xdfff) => true,
                        _ => false,
                    },
                    _ => false,
                };
                if low != was_high {
                    return Err(format!("no text: half a surrogate pair at byte {at}"));
                }
                if high || low {
                    bytes.nth(3);
                }
                continue;
            }
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => depth += 1,
            b'}' | b']' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if was_high {
            return Err(format!("no text: half a surrogate pair before byte {at}"));
        }
        if depth > DEEPEST {
            return Err(format!("nested more than {DEEPEST} deep"));
        }
    }
    Ok(())
}

/// The UTF-16 unit of four hexadecimal digits; 0 of others, at which the parser stumbles.
fn unit(digits: &[u8]) -> u16 {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| u16::from_str_radix(digits, 16).ok())
        .unwrap_or(0)
}

/// What an object says of how to read it.
#[derive(Default)]
struct Members<'a> {
    path: Option<&'a RawValue>,
    headers: Option<&'a RawValue>,
    body: Option<&'a RawValue>,
    /// Whether it has other keys than these.
    others: bool,
    /// Which of `PATHS` it has.
    prompts: [bool; PATHS.len()],
}

impl Members<'_> {
    fn default_path(&self) -> &'static str {
        let known = PATHS.iter().zip(self.prompts).find(|(_, has)| *has);
        known.map_or(PATHS[0].1, |((_, path), _)| path)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            // Of a key given twice the last counts, as engines read it.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = Members::default();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    match key.as_ref() {
                        "path" => found.path = Some(map.next_value()?),
                        "headers" => found.headers = Some(map.next_value()?),
                        "body" => found.body = Some(map.next_value()?),
                        other => {
                            found.others = true;
                            for ((name, _), has) in PATHS.iter().zip(&mut found.prompts) {
                                *has |= *name == other;
                            }
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// The members of an object whose values are strings, in their order.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}
