//! Makes the beginning of a body parse as far as it goes.

use std::borrow::Cow;

/// The beginning of a body with the string that it was cut in closed, so that the parser hands it
/// out; where it was not cut in a string, the parser fails at the added quote and loses nothing.
pub(super) fn closed(bytes: &[u8]) -> Cow<'_, [u8]> {
    let kept = without_partial_utf8(without_partial_escape(bytes));
    let mut closed = Vec::with_capacity(kept.len() + 1);
    closed.extend_from_slice(kept);
    closed.push(b'"');
    Cow::Owned(closed)
}

/// Drops an escape that was cut (`\`, `\u12`) or that needs the next one (`\ud83d`).
fn without_partial_escape(bytes: &[u8]) -> &[u8] {
    let tail_start = bytes.len().saturating_sub(12);
    let tail = bytes.get(tail_start..).unwrap_or_default();
    // The last escape that starts in the tail: a backslash after an even run of backslashes.
    for at in (0..tail.len()).rev() {
        let start = tail_start + at;
        if bytes.get(start) != Some(&b'\\') || !escapes(bytes, start) {
            continue;
        }
        let escape = bytes.get(start..).unwrap_or_default();
        let kept = bytes.get(..start).unwrap_or_default();
        return match escape {
            [_] => kept_before_high_surrogate(kept),
            [_, b'u', hex @ ..] if hex.len() < 4 => kept_before_high_surrogate(kept),
            [_, b'u', _, _, _, _] if is_high_surrogate(escape) => kept,
            _ => bytes,
        };
    }
    bytes
}

/// Whether the backslash at `at` starts an escape and is not itself escaped.
fn escapes(bytes: &[u8], at: usize) -> bool {
    let before = bytes.get(..at).unwrap_or_default();
    before.iter().rev().take_while(|&&b| b == b'\\').count() % 2 == 0
}

fn is_high_surrogate(escape: &[u8]) -> bool {
    matches!(
        escape,
        [
            b'\\',
            b'u',
            b'd' | b'D',
            b'8' | b'9' | b'a' | b'b' | b'A' | b'B',
            ..
        ]
    )
}

/// Drops a high surrogate's escape whose low one was just dropped.
fn kept_before_high_surrogate(kept: &[u8]) -> &[u8] {
    let start = kept.len().saturating_sub(6);
    match kept.get(start..) {
        Some(escape) if escape.len() == 6 && is_high_surrogate(escape) && escapes(kept, start) => {
            kept.get(..start).unwrap_or_default()
        }
        _ => kept,
    }
}

/// Drops a character whose last bytes were cut off.
fn without_partial_utf8(bytes: &[u8]) -> &[u8] {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let Some(&byte) = bytes.get(at) else { break };
        let length = match byte {
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            _ => 1,
        };
        return if length > back {
            bytes.get(..at).unwrap_or_default()
        } else {
            bytes
        };
    }
    bytes
}

/// Whether the parser failed because the body ends, and not at a fault before that.
pub(super) fn is_cut(error: &serde_json::Error, text: &[u8]) -> bool {
    if error.is_eof() {
        return true;
    }
    if !error.is_syntax() {
        return false;
    }
    // Outside strings the added quote is what the parser trips over: the last byte of all.
    let last_line = text.iter().rev().take_while(|&&byte| byte != b'\n').count();
    let lines = 1 + text.iter().filter(|&&byte| byte == b'\n').count();
    error.line() == lines && error.column() + 1 >= last_line
}

/// Whether the body was cut inside a string of inline media: base64 all the way from its quote.
pub(super) fn in_media(bytes: &[u8]) -> bool {
    let length = bytes.iter().rev().take_while(|&&byte| byte != b'"').count();
    let value = bytes.get(bytes.len() - length..).unwrap_or_default();
    if value.len() < 64 {
        return value.starts_with(b"data:");
    }
    let data = match value.iter().take(128).position(|&byte| byte == b',') {
        Some(comma) if value.starts_with(b"data:") => value.get(comma + 1..).unwrap_or_default(),
        _ => value,
    };
    data.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"+/=-_\\".contains(byte))
}
