//! Text to tokens: deterministic, roughly as byte-pair encodings cut, stable under appending.
//!
//! A token's id is a hash of its text. Words keep the space before them, long
//! words are cut, digits go by threes, ideographs one by one, runs of signs and
//! of blanks are short tokens. Cuts are made from the left, so that a longer
//! text changes at most the last token of a shorter one.

use xxhash_rust::xxh3::xxh3_64;

/// Letters of a word that is one token.
const WORD: usize = 8;
/// Characters that a run of signs or blanks keeps in one token.
const RUN: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    Ideograph,
    Blank,
    Newline,
    Sign,
}

/// Hands the token ids of `text` to `sink`, in order.
pub fn tokenize(text: &str, mut sink: impl FnMut(u32)) {
    let mut rest = text;
    while let Some(length) = first_token(rest) {
        let (token, after) = rest.split_at(length);
        sink(token_id(token));
        rest = after;
    }
}

/// The id of a token.
pub(crate) fn token_id(token: &str) -> u32 {
    // The low half of a hash is a hash.
    (xxh3_64(token.as_bytes()) & 0xFFFF_FFFF) as u32
}

/// The length in bytes of the first token, if there is any text.
fn first_token(text: &str) -> Option<usize> {
    let mut chars = text.chars();
    let first = chars.next()?;
    let length = match class(first) {
        Class::Ideograph => first.len_utf8(),
        Class::Letter => word(text),
        Class::Digit => run(text, 3, Class::Digit),
        Class::Newline => run(text, RUN, Class::Newline),
        Class::Sign => run(text, RUN, Class::Sign),
        Class::Blank => match chars.next().map(class) {
            // One space belongs to the word or sign that follows it.
            Some(Class::Letter) if first == ' ' => 1 + word(chars_after(text)),
            Some(Class::Sign) if first == ' ' => 1 + run(chars_after(text), RUN, Class::Sign),
            _ => blanks(text),
        },
    };
    Some(length)
}

fn chars_after(text: &str) -> &str {
    text.get(1..).unwrap_or_default()
}

/// A run of blanks, short of the last one if a word follows.
fn blanks(text: &str) -> usize {
    let all = run(text, 4 * RUN, Class::Blank);
    let followed = text
        .get(all..)
        .and_then(|rest| rest.chars().next())
        .is_some_and(|c| matches!(class(c), Class::Letter | Class::Sign));
    if followed && all > 1 && text.get(all - 1..all) == Some(" ") {
        all - 1
    } else {
        all
    }
}

/// A word, or the first piece of a long one: its length depends on what it begins with.
fn word(text: &str) -> usize {
    let whole = run(text, WORD + 1, Class::Letter);
    if text.get(..whole).is_some_and(|w| w.chars().count() <= WORD) {
        return whole;
    }
    let start = run(text, 3, Class::Letter);
    let spread = text
        .get(..start)
        .map_or(0, |s| usize::try_from(token_id(s) % 3).unwrap_or(0));
    run(text, 4 + spread, Class::Letter)
}

/// Bytes of the first characters of a class, at most `most` characters.
fn run(text: &str, most: usize, of: Class) -> usize {
    text.char_indices()
        .take(most)
        .find(|(_, c)| class(*c) != of)
        .map_or_else(
            || text.chars().take(most).map(char::len_utf8).sum(),
            |(at, _)| at,
        )
}

fn class(c: char) -> Class {
    match c {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Digit,
        ' ' | '\t' => Class::Blank,
        '\n' | '\r' => Class::Newline,
        _ if c.is_ascii() => Class::Sign,
        '\u{2E80}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7AF}' | '\u{F900}'..='\u{FAFF}' => {
            Class::Ideograph
        }
        '\u{20000}'..='\u{3FFFF}' => Class::Ideograph,
        _ if c.is_alphabetic() => Class::Letter,
        _ if c.is_whitespace() => Class::Blank,
        _ => Class::Sign,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{first_token, tokenize};

    fn pieces(text: &str) -> Vec<&str> {
        let mut rest = text;
        let mut pieces = Vec::new();
        while let Some(length) = first_token(rest) {
            let (piece, after) = rest.split_at(length);
            pieces.push(piece);
            rest = after;
        }
        pieces
    }

    fn ids(text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        tokenize(text, |id| ids.push(id));
        ids
    }

    #[test]
    fn text_is_cut_as_byte_pair_encodings_cut() {
        assert_eq!(
            pieces("The weight, in 2026:  model units"),
            [
                "The", " weight", ",", " in", " ", "202", "6", ":", " ", " model", " units"
            ]
        );
        assert_eq!(pieces("称量请求"), ["称", "量", "请", "求"]);
        assert!(pieces("internationalization").len() > 2);
    }

    #[test]
    fn english_is_some_four_bytes_a_token() {
        let text = "A truck is weighed before it is let onto the bridge. Weighbridge weighs each \
                    request in model units and tells the proxy which replica should carry it.";
        let ratio = text.len() as f64 / ids(text).len() as f64;
        assert!((3.8..5.6).contains(&ratio), "{ratio}");
    }

    proptest! {
        #[test]
        fn appending_changes_at_most_the_last_two_tokens(a in "\\PC{0,60}", b in "\\PC{0,60}") {
            let short = ids(&a);
            let long = ids(&format!("{a}{b}"));
            let kept = short.len().saturating_sub(2);
            prop_assert_eq!(&short[..kept], &long[..kept]);
        }

        #[test]
        fn the_pieces_are_the_text(text in any::<String>()) {
            prop_assert_eq!(pieces(&text).concat(), text);
        }
    }
}
