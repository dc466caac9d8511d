//! Tokens of text, told from three bytes at a time without a tokenizer.
//!
//! Whether a token begins at a byte depends mostly on that byte and its neighbours: letters within a
//! word seldom begin one, letters after a space always do, and so on for each script. So each byte
//! is looked up with the byte before and the byte after it, in a table that says how many tokens of
//! each family begin there on average. Where a character of three bytes begins, in scripts of few
//! letters, its third byte is looked at as well: so it is known by the letter and the one before. A run
//! of one character is counted as a whole, by the character and how often it comes. The tables are
//! fitted to real tokenizers by `fit/fit.py`.
//!
//! The text passes in chunks of [`CHUNK`] bytes. Byte classes, runs and places in the table are
//! loops over a whole chunk, the shape that compilers turn into vector code on any target.

use std::ops::AddAssign;

use crate::families::{
    self, ALPHANUMERIC, CLASSES, DIGIT, FEW_LETTERS, LONGEST, LOWER, PER_TOKEN, UPPER, WITHIN,
};

/// Bytes counted at a time.
const CHUNK: usize = 128;

/// Bytes before a chunk that its counts may depend on: a run in a character's third byte, in the
/// byte before the chunk.
const BEFORE: usize = 9;

/// Bytes after a chunk that its counts may depend on.
const AFTER: usize = 2;

/// A chunk with what stands around it; zeros stand for what is no text.
type Window = [u8; BEFORE + CHUNK + AFTER];

/// The classes of a chunk's bytes, of the one before and of those after.
type Classes = [u8; 1 + CHUNK + AFTER];

/// Bytes of a stretch, which may be of encoded data.
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
        let mut open = Run::default();
        each_chunk(text, |window, length| {
            features.count(window, length, &mut open);
        });
        open.end(last_two(text), 0, |row, times| {
            features.add_wide(row, times)
        });
        features
    }

    /// Tokens of the family at this place, at most one a byte.
    pub(crate) fn tokens(&self, family: usize) -> f64 {
        let parts = self.parts.get(family).copied().unwrap_or_default();
        (parts as f64 / f64::from(PER_TOKEN)).min(self.bytes as f64)
    }

    /// The rows of the table that `text` is counted by, each as often as it counts: what weights are
    /// fitted to. Rows of runs and of stretches stand at the end.
    #[must_use]
    pub fn rows(text: &[u8]) -> Vec<u32> {
        let (mut rows, mut of_runs, mut of_stretches) = (Vec::new(), Vec::new(), Vec::new());
        let mut open = Run::default();
        let add = |of_runs: &mut Vec<u32>, row, times: u64| {
            of_runs.extend((0..times).map(|_| row));
        };
        each_chunk(text, |window, length| {
            let classes = classes(window);
            let places = places(window, &classes);
            rows.extend(places.iter().take(length).map(|row| u32::from(*row)));
            runs(window, &classes, &mut open, |row, times| {
                add(&mut of_runs, row, times);
            });
            encoded(&classes, length, |row| of_stretches.push(row));
        });
        open.end(last_two(text), 0, |row, times| {
            add(&mut of_runs, row, times)
        });
        rows.extend(of_runs);
        rows.extend(of_stretches);
        rows
    }

    /// Counts the first `length` bytes of a window's chunk.
    #[inline]
    fn count(&mut self, window: &Window, length: usize, open: &mut Run) {
        let classes = classes(window);
        // Four sums of sixteen bits each, which a chunk cannot overflow.
        let mut sums = 0u64;
        for &row in places(window, &classes).iter().take(length) {
            sums += families::packed(row);
        }
        for (part, sum) in self.parts.iter_mut().zip(families::unpack(sums)) {
            *part += u64::from(sum);
        }
        runs(window, &classes, open, |row, times| {
            self.add_wide(row, times)
        });
        encoded(&classes, length, |row| self.add_wide(row, 1));
    }

    /// Adds a row of runs or stretches so many times.
    #[inline]
    fn add_wide(&mut self, row: u32, times: u64) {
        for (part, more) in self.parts.iter_mut().zip(families::of_wide(row)) {
            *part += u64::from(more) * times;
        }
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

/// The row of each of a chunk's bytes: [`WITHIN`] within a run, elsewhere by the classes around.
#[expect(
    clippy::indexing_slicing,
    reason = "arrays of one length, by indices below it"
)]
#[inline]
fn places(window: &Window, classes: &Classes) -> [u16; CHUNK] {
    let mut places = [0u16; CHUNK];
    for i in 0..CHUNK {
        let [before, this, after] = [classes[i], classes[i + 1], classes[i + 2]];
        places[i] = families::row(before, this, after);
    }
    if window.iter().fold(0, |all, byte| all | byte) >= 0x80 {
        for i in 0..CHUNK {
            let [this, third] = [classes[i + 1], classes[i + 3]];
            let begins =
                u8::from(this.wrapping_sub(FEW_LETTERS.0) <= FEW_LETTERS.1 - FEW_LETTERS.0);
            places[i] = families::letter(places[i], third & begins.wrapping_neg());
        }
    }
    if classes.iter().fold(0, |all, class| all | class) >= RUN {
        for i in 0..CHUNK {
            let within = ((classes[i + 1] & classes[i + 2]) >> 7).wrapping_neg();
            let within = u16::from_ne_bytes([within, within]);
            places[i] = (places[i] & !within) | (WITHIN & within);
        }
    }
    places
}

/// A run that goes on where a chunk begins or ends.
#[derive(Clone, Copy, Default)]
struct Run {
    /// Bytes that continue it so far.
    bytes: usize,
    /// The byte before its first, zero where the text begins.
    before: u8,
}

impl Run {
    /// Calls `found` with the rows of the run, now that its last two bytes and the one after are known,
    /// and with how often each counts. No run has none.
    #[inline]
    fn end(self, last: [u8; 2], after: u8, mut found: impl FnMut(u32, u64)) {
        if self.bytes == 0 {
            return;
        }
        let [_, least] = last;
        let length = if least < 0x80 {
            self.bytes
        } else {
            self.bytes / 3
        };
        let longest = length / LONGEST;
        let row = |length| families::run(last, length, self.before, after);
        if longest > 0 {
            found(row(LONGEST), longest as u64);
        }
        if length % LONGEST > 0 {
            found(row(length % LONGEST), 1);
        }
    }
}

/// The last two bytes of a text; zeros where it is shorter.
fn last_two(text: &[u8]) -> [u8; 2] {
    text.last_chunk().copied().unwrap_or_default()
}

/// Calls `found` with the rows of each run that ends before the chunk does, and how often each counts.
/// `open` is the run that goes on where the chunk begins, and afterwards the one where it ends.
#[inline]
fn runs(window: &Window, classes: &Classes, open: &mut Run, mut found: impl FnMut(u32, u64)) {
    let (_, inside) = classes.split_at(1);
    let any = inside
        .iter()
        .take(CHUNK)
        .fold(0, |all, class| all | (class & RUN));
    if any == 0 && open.bytes == 0 {
        return;
    }
    let byte = |at: usize| window.get(at).copied().unwrap_or_default();
    let mut left = mask(inside);
    let mut at = 0;
    while at < CHUNK {
        let apart = left.trailing_zeros() as usize;
        if apart > 0 && open.bytes > 0 {
            // The next character may begin as the run's does, and its first bytes then seem to be in it.
            let end = BEFORE + at;
            let inside = |at: usize| byte(at) & 0xC0 == 0x80;
            let over = (0..2).take_while(|back| inside(end - back)).count();
            let border = end - over;
            open.end([byte(border - 2), byte(border - 1)], byte(end), &mut found);
            open.bytes = 0;
        }
        if left == 0 {
            return;
        }
        at += apart;
        if open.bytes == 0 {
            // Three more come before those that continue it.
            open.before = byte(BEFORE + at - 4);
        }
        left >>= apart;
        let long = left.trailing_ones();
        open.bytes += long as usize;
        at += long as usize;
        left = left.checked_shr(long).unwrap_or(0);
    }
}

/// A bit for each of a chunk's bytes that is in a run, the first one lowest.
#[inline]
fn mask(inside: &[u8]) -> u128 {
    let mut mask = 0;
    for (at, eight) in inside.chunks_exact(8).enumerate().take(CHUNK / 8) {
        let eight = u64::from_le_bytes(eight.try_into().unwrap_or_default());
        let highest = eight & 0x8080_8080_8080_8080;
        // Gathers the highest bit of each byte in the highest byte.
        let gathered = highest.wrapping_mul(0x0002_0408_1020_4081) >> 56;
        mask |= u128::from(gathered) << (8 * at);
    }
    mask
}

/// Calls `found` with the row of each stretch of encoded data, aligned and whole.
#[inline]
fn encoded(classes: &Classes, length: usize, mut found: impl FnMut(u32)) {
    let (_, classes) = classes.split_at(1);
    for classes in classes.chunks_exact(STRETCH).take(length / STRETCH) {
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
    fn one_by_one(text: &[u8]) -> Vec<u32> {
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
        let mut rows: Vec<u32> = (0..text.len())
            .map(|i| {
                if runs(i) && i + 1 < text.len() && runs(i + 1) {
                    return u32::from(WITHIN);
                }
                let before = i.checked_sub(1).map_or(0, class);
                let row = families::row(before, class(i), class(i + 1));
                u32::from(if (FEW_LETTERS.0..=FEW_LETTERS.1).contains(&class(i)) {
                    families::letter(row, class(i + 2))
                } else {
                    row
                })
            })
            .collect();
        let mut i = 0;
        while i < text.len() {
            let bytes = (i..text.len()).take_while(|i| runs(*i)).count();
            i += bytes;
            if bytes > 0 {
                let before = (i - bytes).checked_sub(4).map_or(0, |at| text[at]);
                let after = text.get(i).copied().unwrap_or(0);
                let inside = |at: usize| text.get(at).is_some_and(|byte| byte & 0xC0 == 0x80);
                let border = i - (0..2).take_while(|back| inside(i - back)).count();
                let last = [text[border - 2], text[border - 1]];
                let length = if last[1] < 0x80 { bytes } else { bytes / 3 };
                let row = |n| families::run(last, n, before, after);
                rows.extend((0..length / LONGEST).map(|_| row(LONGEST)));
                if length % LONGEST > 0 {
                    rows.push(row(length % LONGEST));
                }
            }
            i += 1;
        }
        for from in (0..text.len() / STRETCH).map(|k| k * STRETCH) {
            let mut all = from..from + STRETCH;
            if all.clone().all(|i| (1..=ALPHANUMERIC).contains(&class(i)))
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
            "[é你カ한，🎉жฯაក]{1,5}",
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
                let tokens = match u16::try_from(row) {
                    Ok(row) => {
                        families::unpack(families::packed(row)).map(u32::from)
                    }
                    Err(_) => families::of_wide(row),
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
