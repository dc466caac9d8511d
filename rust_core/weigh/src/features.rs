//! Byte classes of text, counted without a tokenizer.
//!
//! The text passes in chunks of [`CHUNK`] bytes, each seen with the [`LEAD`] bytes before it. Every
//! class is a loop over a whole chunk that adds up 0 or 1 in a `u8`, the shape that compilers turn
//! into vector code on any target; `CHUNK` keeps these sums below 256.

use std::ops::AddAssign;

/// Bytes counted at a time.
const CHUNK: usize = 128;

/// Bytes before a chunk that its classes may depend on.
const LEAD: usize = 1;

/// Bytes below which a text is counted one by one, which is then faster.
const SHORT: usize = 24;

/// Bytes of a stretch.
const STRETCH: usize = 16;

/// A continuation byte, which is in no class.
const NO_CLASS: u8 = 0x80;

/// A chunk with what leads to it.
type Window = [u8; LEAD + CHUNK];

/// Declares [`Features`] and what all its fields have in common.
macro_rules! features {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// How many bytes, characters or starts of runs of each class a text has.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Features {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Features {
            /// The classes' names, in order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

            /// The counts, in the order of [`Features::NAMES`].
            #[must_use]
            pub fn counts(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$field),*]
            }
        }

        impl AddAssign for Features {
            fn add_assign(&mut self, other: Self) {
                // Each count is at most the bytes of a body, so that sums cannot overflow.
                $(self.$field += other.$field;)*
            }
        }
    };
}

features! {
    /// Bytes of UTF-8.
    bytes,
    /// ASCII letters.
    letters,
    /// Starts of runs of ASCII letters.
    words,
    /// ASCII capitals.
    capitals,
    /// Aligned stretches of sixteen bytes that are all letters: encoded data, or no spaces.
    stretches,
    /// ASCII digits.
    digits,
    /// Starts of runs of ASCII digits.
    numbers,
    /// ASCII punctuation; the delete character counts among it.
    punctuation,
    /// ASCII white space and control characters, line feeds excepted.
    spaces,
    /// Line feeds.
    newlines,
    /// Starts of runs of white space.
    gaps,
    /// Letters of two bytes in Latin script.
    latin,
    /// Other characters of two bytes: Greek, Cyrillic, Hebrew, Arabic.
    two_byte,
    /// Characters of three bytes in South and Southeast Asian scripts (U+0800 to U+1FFF).
    brahmic,
    /// General punctuation and symbols of three bytes (U+2000 to U+2FFF).
    symbols,
    /// Kana, and CJK punctuation (U+3000 to U+3FFF).
    kana,
    /// CJK ideographs (U+4000 to U+9FFF).
    han,
    /// Hangul (U+A000 to U+DFFF).
    hangul,
    /// Full-width forms and private use (U+E000 to U+FFFF).
    full_width,
    /// Characters of four bytes: emoji, rare ideographs.
    four_byte,
}

impl Features {
    /// Counts the classes of `text`.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let mut features = Self {
            bytes: text.len() as u64,
            ..Self::default()
        };
        if text.len() < SHORT {
            features.count_one_by_one(text);
            return features;
        }
        // The first chunk has nothing before it and the last one is short: both pass by a copy.
        features.count_short(&[], text.get(..CHUNK).unwrap_or(text));
        let mut at = CHUNK;
        while let Some(window) = text.get(at - LEAD..).and_then(<[u8]>::first_chunk) {
            features.count(window);
            at += CHUNK;
        }
        if let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            features.count_short(text.get(at - LEAD..at).unwrap_or_default(), rest);
        }
        features
    }

    /// Counts a short text.
    fn count_one_by_one(&mut self, text: &[u8]) {
        let mut before = NO_CLASS;
        let mut run = 0;
        for (i, &byte) in text.iter().enumerate() {
            let is_letter = letter(byte);
            run = (run + 1) * usize::from(is_letter);
            self.stretches += u64::from(i % STRETCH == STRETCH - 1 && run >= STRETCH);
            self.letters += u64::from(is_letter);
            self.words += u64::from(is_letter & !letter(before));
            self.capitals += u64::from(capital(byte));
            self.digits += u64::from(digit(byte));
            self.numbers += u64::from(digit(byte) & !digit(before));
            self.spaces += u64::from(blank(byte) & u8::from(byte != b'\n'));
            self.newlines += u64::from(byte == b'\n');
            self.gaps += u64::from(blank(byte) & !blank(before));
            self.punctuation += u64::from(1 & !(is_letter | digit(byte) | blank(byte) | byte >> 7));
            match byte {
                0..=0xC1 | 0xF5.. => {}
                0xC2..=0xCA => self.latin += 1,
                0xCB..=0xDF => self.two_byte += 1,
                0xE0..=0xE1 => self.brahmic += 1,
                0xE2 => self.symbols += 1,
                0xE3 => self.kana += 1,
                0xE4..=0xE9 => self.han += 1,
                0xEA..=0xED => self.hangul += 1,
                0xEE..=0xEF => self.full_width += 1,
                0xF0..=0xF4 => self.four_byte += 1,
            }
            before = byte;
        }
    }

    /// Counts a chunk shorter than [`CHUNK`], after `lead`.
    fn count_short(&mut self, lead: &[u8], rest: &[u8]) {
        let mut window: Window = [NO_CLASS; LEAD + CHUNK];
        let (before, chunk) = window.split_at_mut(LEAD);
        for (to, from) in before.iter_mut().rev().zip(lead.iter().rev()) {
            *to = *from;
        }
        for (to, from) in chunk.iter_mut().zip(rest) {
            *to = *from;
        }
        self.count(&window);
    }

    /// Counts the classes of a window's chunk.
    #[expect(
        clippy::indexing_slicing,
        clippy::needless_range_loop,
        reason = "arrays of one length, by indices below it"
    )]
    #[inline]
    fn count(&mut self, window: &Window) {
        const END: usize = LEAD + CHUNK;
        let mut is_letter = [0u8; END];
        for i in 0..END {
            is_letter[i] = letter(window[i]);
        }

        let (mut letters, mut words, mut capitals) = (0u8, 0u8, 0u8);
        for i in LEAD..END {
            letters = letters.wrapping_add(is_letter[i]);
            words = words.wrapping_add(is_letter[i] & !is_letter[i - 1]);
            capitals = capitals.wrapping_add(capital(window[i]));
        }
        let (mut digits, mut numbers, mut blanks, mut gaps) = (0u8, 0u8, 0u8, 0u8);
        for i in LEAD..END {
            let (digit, blank) = (digit(window[i]), blank(window[i]));
            digits = digits.wrapping_add(digit);
            numbers = numbers.wrapping_add(digit & !self::digit(window[i - 1]));
            blanks = blanks.wrapping_add(blank);
            gaps = gaps.wrapping_add(blank & !self::blank(window[i - 1]));
        }
        let (mut newlines, mut beyond) = (0u8, 0u8);
        for i in LEAD..END {
            newlines = newlines.wrapping_add(u8::from(window[i] == b'\n'));
            beyond = beyond.wrapping_add(window[i] >> 7);
        }

        self.letters += u64::from(letters);
        self.words += u64::from(words);
        self.capitals += u64::from(capitals);
        self.digits += u64::from(digits);
        self.numbers += u64::from(numbers);
        self.spaces += u64::from(blanks - newlines);
        self.gaps += u64::from(gaps);
        self.newlines += u64::from(newlines);
        self.punctuation += u64::from(CHUNK as u8 - letters - digits - blanks - beyond);
        self.stretches += stretches(&is_letter);
        if beyond > 0 {
            self.count_multibyte(window);
        }
    }

    /// Counts the classes of characters beyond ASCII, by their first bytes.
    fn count_multibyte(&mut self, window: &Window) {
        let (_, chunk) = window.split_at(LEAD);
        let count = |first: u8, last: u8| {
            let hits = chunk.iter().fold(0u8, |sum, byte| {
                sum.wrapping_add(u8::from(byte.wrapping_sub(first) <= last - first))
            });
            u64::from(hits)
        };
        self.latin += count(0xC2, 0xCA);
        self.two_byte += count(0xCB, 0xDF);
        self.brahmic += count(0xE0, 0xE1);
        self.symbols += count(0xE2, 0xE2);
        self.kana += count(0xE3, 0xE3);
        self.han += count(0xE4, 0xE9);
        self.hangul += count(0xEA, 0xED);
        self.full_width += count(0xEE, 0xEF);
        self.four_byte += count(0xF0, 0xF4);
    }
}

/// Stretches of a chunk that are all letters.
fn stretches(is_letter: &Window) -> u64 {
    let (_, chunk) = is_letter.split_at(LEAD);
    chunk
        .chunks_exact(STRETCH)
        .map(|stretch| u64::from(stretch == [1; STRETCH]))
        .sum()
}

fn letter(byte: u8) -> u8 {
    u8::from((byte | 0x20).wrapping_sub(b'a') < 26)
}

fn capital(byte: u8) -> u8 {
    u8::from(byte.wrapping_sub(b'A') < 26)
}

fn digit(byte: u8) -> u8 {
    u8::from(byte.wrapping_sub(b'0') < 10)
}

fn blank(byte: u8) -> u8 {
    u8::from(byte <= b' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definitions of the classes, a byte at a time.
    fn one_by_one(text: &[u8]) -> Features {
        let mut features = Features {
            bytes: text.len() as u64,
            ..Features::default()
        };
        let mut run = 0;
        for (i, &byte) in text.iter().enumerate() {
            let before = i
                .checked_sub(1)
                .and_then(|i| text.get(i))
                .copied()
                .unwrap_or(0x80);
            let starts = |class: fn(&u8) -> bool| u64::from(class(&byte) && !class(&before));
            let blank = |byte: &u8| *byte <= b' ';
            // 0x7F, the one control character above the letters, passes for punctuation.
            let mark = |byte: &u8| byte.is_ascii_punctuation() || *byte == 0x7F;
            run = if byte.is_ascii_alphabetic() {
                run + 1
            } else {
                0
            };
            features.letters += u64::from(byte.is_ascii_alphabetic());
            features.words += starts(u8::is_ascii_alphabetic);
            features.capitals += u64::from(byte.is_ascii_uppercase());
            let stretch_ends = i % STRETCH == STRETCH - 1;
            features.stretches += u64::from(stretch_ends && run >= STRETCH);
            features.digits += u64::from(byte.is_ascii_digit());
            features.numbers += starts(u8::is_ascii_digit);
            features.punctuation += u64::from(mark(&byte));
            features.newlines += u64::from(byte == b'\n');
            features.spaces += u64::from(blank(&byte) && byte != b'\n');
            features.gaps += starts(blank);
            let of = |first, last| u64::from((first..=last).contains(&byte));
            features.latin += of(0xC2, 0xCA);
            features.two_byte += of(0xCB, 0xDF);
            features.brahmic += of(0xE0, 0xE1);
            features.symbols += of(0xE2, 0xE2);
            features.kana += of(0xE3, 0xE3);
            features.han += of(0xE4, 0xE9);
            features.hangul += of(0xEA, 0xED);
            features.full_width += of(0xEE, 0xEF);
            features.four_byte += of(0xF0, 0xF4);
        }
        features
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            "[a-zA-Z]{1,40}",
            "[0-9]{1,8}",
            "[ \\n\\t]{1,3}",
            "[!-/:-@]{1,4}",
            "[é你カ한，🎉ж]{1,5}",
        ];
        let words = proptest::collection::vec(word, 0..120).prop_map(|words| words.concat());
        prop_oneof![
            words.prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..1000),
        ]
    }

    proptest! {
        #[test]
        fn chunks_count_as_one_by_one(text in text()) {
            prop_assert_eq!(Features::of(&text), one_by_one(&text));
        }
    }

    #[test]
    fn classes_at_a_glance() {
        let features = Features::of("getUserName(42, 你好) é — intercontinentalities\n".as_bytes());
        assert_eq!(features.words, 2);
        assert_eq!(features.capitals, 2);
        assert_eq!(features.stretches, 1);
        assert_eq!((features.digits, features.numbers), (2, 1));
        assert_eq!(features.punctuation, 3);
        assert_eq!((features.han, features.latin, features.symbols), (2, 1, 1));
        assert_eq!((features.spaces, features.newlines), (4, 1));
        assert_eq!(Features::of(&[b'x'; 100]).stretches, 6);
    }
}
