//! Byte classes of text, counted without a tokenizer.

use std::ops::AddAssign;

/// How many bytes or characters of each class a text has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// Bytes of UTF-8.
    pub bytes: u64,
    /// ASCII letters.
    pub letters: u64,
    /// ASCII digits.
    pub digits: u64,
    /// Spaces and tabs.
    pub spaces: u64,
    /// Line feeds.
    pub newlines: u64,
    /// Starts of runs of ASCII letters.
    pub words: u64,
    /// First bytes of characters of three bytes (CJK among them).
    pub three_byte: u64,
    /// First bytes of characters of two or four bytes.
    pub other_multibyte: u64,
}

impl AddAssign for Features {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.letters += other.letters;
        self.digits += other.digits;
        self.spaces += other.spaces;
        self.newlines += other.newlines;
        self.words += other.words;
        self.three_byte += other.three_byte;
        self.other_multibyte += other.other_multibyte;
    }
}

impl Features {
    /// Counts the classes of `text`.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let mut features = Self {
            bytes: text.len() as u64,
            ..Self::default()
        };
        let mut previous = 0u8;
        for &byte in text {
            let letter = byte.is_ascii_alphabetic();
            features.letters += u64::from(letter);
            features.words += u64::from(letter && !previous.is_ascii_alphabetic());
            features.digits += u64::from(byte.is_ascii_digit());
            features.spaces += u64::from(byte == b' ' || byte == b'\t');
            features.newlines += u64::from(byte == b'\n');
            features.three_byte += u64::from((0xE0..0xF0).contains(&byte));
            features.other_multibyte += u64::from((0xC0..0xE0).contains(&byte) || byte >= 0xF0);
            previous = byte;
        }
        features
    }
}
