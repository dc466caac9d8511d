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

/// Bytes that are classified side by side.
const LANES: usize = 32;
/// Strides after which a lane's counts, each at most one a stride, still fit a byte.
const STRIDES: usize = 255;

impl Features {
    /// Counts the classes of `text`.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let mut features = Self::default();
        let Some((first, rest)) = text.split_first() else {
            return features;
        };
        features.count_byte(*first, 0);
        // Each byte beside the one before it, so that lanes need not wait for each other.
        let before = text.get(..rest.len()).unwrap_or_default();
        let most = LANES * STRIDES;
        for (bytes, before) in rest.chunks(most).zip(before.chunks(most)) {
            features.count_strides(bytes, before);
        }
        features
    }

    /// At most [`STRIDES`] strides, and what is left after the last full one.
    fn count_strides(&mut self, bytes: &[u8], before: &[u8]) {
        let mut lanes = Lanes::default();
        let mut strides = bytes.chunks_exact(LANES);
        let mut strides_before = before.chunks_exact(LANES);
        for (stride, before) in strides.by_ref().zip(strides_before.by_ref()) {
            if let (Ok(stride), Ok(before)) = (stride.try_into(), before.try_into()) {
                lanes.count(stride, before);
            }
        }
        let strides_bytes = bytes.len() - strides.remainder().len();
        lanes.add_to(self, strides_bytes);
        for (byte, before) in strides.remainder().iter().zip(strides_before.remainder()) {
            self.count_byte(*byte, *before);
        }
    }

    fn count_byte(&mut self, byte: u8, before: u8) {
        self.bytes += 1;
        self.letters += u64::from(is_letter(byte));
        self.words += u64::from(is_letter(byte) & !is_letter(before));
        self.digits += u64::from(is_digit(byte));
        self.spaces += u64::from(is_space(byte));
        self.newlines += u64::from(byte == b'\n');
        self.three_byte += u64::from(leads_three(byte));
        self.other_multibyte += u64::from(leads_any(byte) & !leads_three(byte));
    }
}

// Without branches, so that a compiler can do them for all lanes at once.

fn is_letter(byte: u8) -> bool {
    (byte | 0x20).wrapping_sub(b'a') < 26
}

fn is_digit(byte: u8) -> bool {
    byte.wrapping_sub(b'0') < 10
}

fn is_space(byte: u8) -> bool {
    (byte == b' ') | (byte == b'\t')
}

fn leads_three(byte: u8) -> bool {
    byte & 0xF0 == 0xE0
}

fn leads_any(byte: u8) -> bool {
    byte >= 0xC0
}

/// Counts by class, each in [`LANES`] lanes of a byte.
#[derive(Default)]
struct Lanes {
    letters: [u8; LANES],
    words: [u8; LANES],
    digits: [u8; LANES],
    spaces: [u8; LANES],
    newlines: [u8; LANES],
    three_byte: [u8; LANES],
    any_multibyte: [u8; LANES],
}

/// Adds one to each lane whose byte, and the byte before, are of a class.
fn tick(
    counts: &mut [u8; LANES],
    bytes: &[u8; LANES],
    before: &[u8; LANES],
    class: impl Fn(u8, u8) -> bool,
) {
    for ((count, byte), before) in counts.iter_mut().zip(bytes).zip(before) {
        *count = count.wrapping_add(u8::from(class(*byte, *before)));
    }
}

impl Lanes {
    fn count(&mut self, bytes: &[u8; LANES], before: &[u8; LANES]) {
        let tick =
            |counts: &mut _, class: fn(u8, u8) -> bool| tick(counts, bytes, before, class);
        tick(&mut self.letters, |byte, _| is_letter(byte));
        tick(&mut self.words, |byte, before| {
            is_letter(byte) & !is_letter(before)
        });
        tick(&mut self.digits, |byte, _| is_digit(byte));
        tick(&mut self.spaces, |byte, _| is_space(byte));
        tick(&mut self.newlines, |byte, _| byte == b'\n');
        tick(&mut self.three_byte, |byte, _| leads_three(byte));
        tick(&mut self.any_multibyte, |byte, _| leads_any(byte));
    }

    fn add_to(&self, features: &mut Features, bytes: usize) {
        let sum = |lanes: &[u8; LANES]| lanes.iter().map(|count| u64::from(*count)).sum::<u64>();
        features.bytes += bytes as u64;
        features.letters += sum(&self.letters);
        features.words += sum(&self.words);
        features.digits += sum(&self.digits);
        features.spaces += sum(&self.spaces);
        features.newlines += sum(&self.newlines);
        features.three_byte += sum(&self.three_byte);
        features.other_multibyte += sum(&self.any_multibyte) - sum(&self.three_byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same, byte by byte.
    fn slowly(text: &[u8]) -> Features {
        let mut features = Features::default();
        let mut before = 0;
        for byte in text {
            features.count_byte(*byte, before);
            before = *byte;
        }
        features
    }

    #[test]
    fn classes_are_told_apart() {
        let features = Features::of("Ab9 z\t\n@[`{/: é漢😀".as_bytes());
        let expected = Features {
            bytes: 23,
            letters: 3,
            digits: 1,
            spaces: 3,
            newlines: 1,
            words: 2,
            three_byte: 1,
            other_multibyte: 2,
        };
        assert_eq!(features, expected);
    }

    proptest! {
        #[test]
        fn lanes_count_as_single_bytes_do(
            piece in prop::collection::vec(any::<u8>(), 0..700), times in 0usize..40,
        ) {
            let text = piece.repeat(times);
            prop_assert_eq!(Features::of(&text), slowly(&text));
        }
    }
}
