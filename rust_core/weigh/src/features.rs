//! Tokens of text, told from three bytes at a time without a tokenizer.
//!
//! Whether a token begins at a byte depends mostly on that byte and its neighbours: letters within a
//! word seldom begin one, letters after a space always do, and so on for each script. So each byte
//! is looked up with the byte before and the byte after it, in a table that says how many tokens of
//! each family begin there on average. The table is fitted to real tokenizers by `fit/fit.py`.
//!
//! The text passes in chunks of [`CHUNK`] bytes. Byte classes, runs and places in the table are
//! loops over a whole chunk, the shape that compilers turn into vector code on any target.

use std::ops::AddAssign;

use crate::families::{self, ALPHANUMERIC, CLASSES, DIGIT, LOWER, PER_TOKEN, RUNS, UPPER};

/// Bytes counted at a time.
const CHUNK: usize = 128;

/// Bytes before a chunk that its counts may depend on: a run in a character's third byte, in the
/// byte before the chunk.
const BEFORE: usize = 9;

/// Bytes after a chunk that its counts may depend on.
const AFTER: usize = 1;

/// A chunk with what stands around it; zeros stand for what is no text.
type Window = [u8; BEFORE + CHUNK + AFTER];

/// The classes of a chunk's bytes, of the one before and of the one after.
type Classes = [u8; 1 + CHUNK + AFTER];

/// Bytes of a stretch, which may be of one character or of encoded data.
const STRETCH: usize = 64;

/// Marks a class as that of a byte in a run; the other bits are the byte's own.
const RUN: u8 = 0x80;

/// What a text has that its tokens are told from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// Bytes of UTF-8.
    pub bytes: u64,
    /// Tokens of each family, in parts of a token.
    parts: [u64; families::COUNT],
}

impl AddAssign for Features {
    fn add_assign(&mut self, other: Self) {
        // Each count is at most some hundred times the bytes of a body, so that sums cannot overflow.
        self.bytes += other.bytes;
        for (sum, part) in self.parts.iter_mut().zip(other.parts) {
            *sum += part;
        }
    }
}

impl Features {
    /// Counts `text`.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let mut features = Self {
            bytes: text.len() as u64,
            ..Self::default()
        };
        each_chunk(text, |window, length| features.count(window, length));
        features
    }

    /// Tokens of the family at this place, at most one a byte.
    pub(crate) fn tokens(&self, family: usize) -> f64 {
        let parts = self.parts.get(family).copied().unwrap_or_default();
        (parts as f64 / f64::from(PER_TOKEN)).min(self.bytes as f64)
    }

    /// The rows of the table that `text` is counted by, each as often as it counts: what weights are
    /// fitted to. Rows of stretches stand at the end.
    #[must_use]
    pub fn rows(text: &[u8]) -> Vec<u16> {
        let (mut rows, mut of_stretches) = (Vec::new(), Vec::new());
        each_chunk(text, |window, length| {
            let classes = classes(window);
            rows.extend(places(&classes).iter().take(length));
            stretches(window, &classes, length, |row| of_stretches.push(row));
        });
        rows.extend(of_stretches);
        rows
    }

    /// Counts the first `length` bytes of a window's chunk.
    #[inline]
    fn count(&mut self, window: &Window, length: usize) {
        let classes = classes(window);
        // Four sums of sixteen bits each, which a chunk cannot overflow.
        let mut sums = 0u64;
        for &row in places(&classes).iter().take(length) {
            sums += families::packed(row);
        }
        for (part, sum) in self.parts.iter_mut().zip(families::unpack(sums)) {
            *part += u64::from(sum);
        }
        stretches(window, &classes, length, |row| {
            for (part, more) in self.parts.iter_mut().zip(families::of_stretch(row)) {
                *part += u64::from(more);
            }
        });
    }
}

/// Calls `count` with each chunk's window and the chunk's length.
#[inline]
fn each_chunk(text: &[u8], mut count: impl FnMut(&Window, usize)) {
    let mut at = 0;
    while at < text.len() {
        let inside = at
            .checked_sub(BEFORE)
            .and_then(|from| text.get(from..)?.first_chunk());
        if let Some(window) = inside {
            count(window, CHUNK);
        } else {
            // The first chunk has nothing before it and the last one is short: both pass by a copy.
            let mut window: Window = [0; BEFORE + CHUNK + AFTER];
            let from = text.get(at.saturating_sub(BEFORE)..).unwrap_or_default();
            let skipped = BEFORE.saturating_sub(at);
            for (to, byte) in window.iter_mut().skip(skipped).zip(from) {
                *to = *byte;
            }
            count(&window, (text.len() - at).min(CHUNK));
        }
        at += CHUNK;
    }
}

/// The class of each byte. A byte that continues a run (NUL excepted, since zeros stand for no text), the fourth of its kind or of the third
/// character of three bytes, has itself as its class.
#[expect(
    clippy::indexing_slicing,
    clippy::needless_range_loop,
    reason = "arrays of one length, by indices below it"
)]
#[inline]
fn classes(window: &Window) -> Classes {
    const END: usize = BEFORE + CHUNK + AFTER;
    let (mut again, mut third, mut beyond) = ([0u8; END], [0u8; END], 0u8);
    for i in 1..END {
        again[i] = u8::from(window[i] == window[i - 1]) & u8::from(window[i] != 0);
    }
    for i in 0..END {
        beyond |= window[i];
    }
    if beyond >= 0x80 {
        for i in 3..END {
            third[i] = u8::from(window[i] == window[i - 3]) & (window[i] >> 7);
        }
    }
    let mut classes = [0u8; 1 + CHUNK + AFTER];
    for (class, byte) in classes.iter_mut().zip(&window[BEFORE - 1..]) {
        *class = CLASSES[usize::from(*byte)];
    }
    let mut run = [0u8; 1 + CHUNK + AFTER];
    for i in 0..run.len() {
        let at = i + BEFORE - 1;
        run[i] = again[at] & again[at - 1] & again[at - 2];
    }
    if beyond >= 0x80 {
        for i in 0..run.len() {
            let at = i + BEFORE - 1;
            run[i] |= third[at]
                & third[at - 1]
                & third[at - 2]
                & third[at - 3]
                & third[at - 4]
                & third[at - 5];
        }
    }
    for i in 0..run.len() {
        let mask = run[i].wrapping_neg();
        classes[i] = (classes[i] & !mask) | ((window[i + BEFORE - 1] | RUN) & mask);
    }
    classes
}

/// The row of each of a chunk's bytes: within a run by the byte, elsewhere by the three classes.
#[expect(
    clippy::indexing_slicing,
    reason = "arrays of one length, by indices below it"
)]
#[inline]
fn places(classes: &Classes) -> [u16; CHUNK] {
    let mut places = [0u16; CHUNK];
    for i in 0..CHUNK {
        let [before, this, after] = [classes[i], classes[i + 1], classes[i + 2]];
        let hashed = families::row(before, this, after);
        let within = ((this & after) >> 7).wrapping_neg();
        let within = u16::from_ne_bytes([within, within]);
        places[i] = (hashed & !within) | ((RUNS + u16::from(this & !RUN)) & within);
    }
    places
}

/// Calls `found` with the row of each stretch of one character or of encoded data, aligned and whole.
#[inline]
fn stretches(window: &Window, classes: &Classes, length: usize, mut found: impl FnMut(u16)) {
    let (_, bytes) = window.split_at(BEFORE);
    let (_, classes) = classes.split_at(1);
    let whole = length / STRETCH;
    let stretches = bytes
        .chunks_exact(STRETCH)
        .zip(classes.chunks_exact(STRETCH));
    for (bytes, classes) in stretches.take(whole) {
        if classes.iter().fold(RUN, |all, class| all & class) == RUN {
            let last = bytes.last().copied().unwrap_or_default();
            found(families::STRETCHES + u16::from(last & !RUN));
            continue;
        }
        let within = |first: u8, last: u8| {
            classes.iter().fold(0u8, |sum, class| {
                sum + u8::from(class.wrapping_sub(first) <= last - first)
            })
        };
        if usize::from(within(1, ALPHANUMERIC)) == STRETCH
            && within(LOWER.0, LOWER.1) > 0
            && within(UPPER.0, UPPER.1) > 0
            && within(DIGIT, DIGIT) > 0
        {
            found(families::ENCODED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of a text's rows, a byte at a time.
    fn one_by_one(text: &[u8]) -> Vec<u16> {
        let at = |i: usize, back: usize| i.checked_sub(back).and_then(|i| text.get(i).copied());
        let again = |i, back| at(i, 0).is_some() && at(i, 0) == at(i, back);
        let runs = |i: usize| {
            let third = |i| again(i, 3) && text[i] >= 0x80;
            (i >= 3 && text[i] != 0 && (i - 2..=i).all(|i| again(i, 1)))
                || (i >= 8 && (i - 5..=i).all(third))
        };
        let class = |i: usize| match text.get(i) {
            Some(byte) if runs(i) => byte | RUN,
            Some(byte) => CLASSES[usize::from(*byte)],
            None => 0,
        };
        let mut rows: Vec<u16> = (0..text.len())
            .map(|i| {
                if runs(i) && i + 1 < text.len() && runs(i + 1) {
                    RUNS + u16::from(text[i] & 0x7F)
                } else {
                    let before = i.checked_sub(1).map_or(0, class);
                    families::row(before, class(i), class(i + 1))
                }
            })
            .collect();
        for from in (0..text.len() / STRETCH).map(|k| k * STRETCH) {
            let mut all = from..from + STRETCH;
            if all.clone().all(runs) {
                rows.push(families::STRETCHES + u16::from(text[from + STRETCH - 1] & 0x7F));
            } else if all.clone().all(|i| (1..=ALPHANUMERIC).contains(&class(i)))
                && all.clone().any(|i| (LOWER.0..=LOWER.1).contains(&class(i)))
                && all.clone().any(|i| (UPPER.0..=UPPER.1).contains(&class(i)))
                && all.any(|i| class(i) == DIGIT)
            {
                rows.push(families::ENCODED);
            }
        }
        rows
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            "[a-zA-Z]{1,40}",
            "[a-zA-Z0-9+/]{60,200}",
            "[0-9]{1,8}",
            "[ \\n\\t]{1,3}",
            "[!-/:-@]{1,4}",
            "[é你カ한，🎉ж]{1,5}",
            ("[-= .0a─é\\n\\x00]", 1..300usize).prop_map(|(one, times)| one.repeat(times)),
        ];
        let words = proptest::collection::vec(word, 0..60).prop_map(|words| words.concat());
        prop_oneof![
            words.prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..1000),
        ]
    }

    proptest! {
        #[test]
        fn chunks_count_as_one_by_one(text in text()) {
            prop_assert_eq!(Features::rows(&text), one_by_one(&text));
        }

        #[test]
        fn sums_are_of_the_rows(text in text()) {
            let features = Features::of(&text);
            let mut parts = [0; families::COUNT];
            for row in one_by_one(&text) {
                let tokens = if row < families::STRETCHES {
                    families::unpack(families::packed(row))
                } else {
                    families::of_stretch(row)
                };
                for (part, more) in parts.iter_mut().zip(tokens) {
                    *part += u64::from(more);
                }
            }
            prop_assert_eq!(features.parts, parts);
            prop_assert_eq!(features.bytes, text.len() as u64);
        }
    }

    #[test]
    fn every_byte_has_a_class() {
        assert!((1..=255).all(|byte| CLASSES[byte] != 0), "{CLASSES:?}");
        assert!(CLASSES.iter().all(|class| *class < RUN));
        assert_eq!(
            (CLASSES[usize::from(b'a')], CLASSES[usize::from(b'z')]),
            LOWER
        );
        assert!((b'A'..=b'Z').all(|c| (UPPER.0..=UPPER.1).contains(&CLASSES[usize::from(c)])));
        assert_eq!(CLASSES[usize::from(b'5')], DIGIT);
        assert_eq!(CLASSES[usize::from(b'/')], ALPHANUMERIC);
    }
}
