//! Text to tokens: deterministic, roughly as byte-pair encodings cut, stable under appending.
//!
//! A token's id is a hash of its text. Words keep the space before them, long
//! words are cut, digits go by threes, ideographs one by one, runs of signs and
//! of blanks are short tokens. Cuts are made from the left, so that a longer
//! text changes at most the last token of a shorter one.

use std::sync::LazyLock;

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
    let first = class_at(text, 0)?;
    let length = match first.of {
        Class::Ideograph => first.bytes,
        Class::Letter => word(text, 0),
        Class::Digit => run(text, 0, 3, Class::Digit).bytes,
        Class::Newline => run(text, 0, RUN, Class::Newline).bytes,
        Class::Sign => run(text, 0, RUN, Class::Sign).bytes,
        Class::Blank => match class_at(text, 1).map(|next| next.of) {
            // One space belongs to the word or sign that follows it.
            Some(Class::Letter) if text.starts_with(' ') => 1 + word(text, 1),
            Some(Class::Sign) if text.starts_with(' ') => 1 + run(text, 1, RUN, Class::Sign).bytes,
            _ => blanks(text),
        },
    };
    Some(length)
}

/// A run of blanks, short of the last one if a word follows.
fn blanks(text: &str) -> usize {
    let all = run(text, 0, 4 * RUN, Class::Blank).bytes;
    let followed = class_at(text, all).is_some_and(|c| matches!(c.of, Class::Letter | Class::Sign));
    if followed && all > 1 && text.get(all - 1..all) == Some(" ") {
        all - 1
    } else {
        all
    }
}

/// A word, or the first piece of a long one: its length depends on what it begins with.
fn word(text: &str, from: usize) -> usize {
    let whole = run(text, from, WORD + 1, Class::Letter);
    if whole.chars <= WORD {
        return whole.bytes;
    }
    let start = from + run(text, from, 3, Class::Letter).bytes;
    let spread = text
        .get(from..start)
        .map_or(0, |s| usize::try_from(token_id(s) % 3).unwrap_or(0));
    run(text, from, 4 + spread, Class::Letter).bytes
}

/// How far a run of one class goes.
struct Run {
    bytes: usize,
    chars: usize,
}

/// The characters of a class that stand at `from`, at most `most`.
fn run(text: &str, from: usize, most: usize, of: Class) -> Run {
    let mut run = Run { bytes: 0, chars: 0 };
    while run.chars < most {
        match class_at(text, from + run.bytes) {
            Some(next) if next.of == of => {
                run.bytes += next.bytes;
                run.chars += 1;
            }
            _ => break,
        }
    }
    run
}

/// One character's class and length.
struct Classed {
    of: Class,
    bytes: usize,
}

/// The character at a byte position, if one begins there.
fn class_at(text: &str, at: usize) -> Option<Classed> {
    let byte = *text.as_bytes().get(at)?;
    if let Some(of) = ASCII.get(usize::from(byte)) {
        return Some(Classed { of: *of, bytes: 1 });
    }
    let c = text.get(at..)?.chars().next()?;
    Some(Classed {
        of: class(c),
        bytes: c.len_utf8(),
    })
}

/// Classes of the bytes that are characters by themselves.
static ASCII: LazyLock<[Class; 128]> = LazyLock::new(|| {
    std::array::from_fn(|byte| u8::try_from(byte).map_or(Class::Sign, |b| class(char::from(b))))
});

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
