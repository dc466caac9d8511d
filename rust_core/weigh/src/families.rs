//! The table of tokens by class of three bytes, for each tokenizer family.
//!
//! `families.bin` is made by `fit/fit.py`. One byte for each family: for each row of bytes the parts of a
//! token, then for each row of runs half tokens; at the end, in two bytes, the lower one first, the parts
//! of a token of the row of encoded data.

/// Families that the table has, in the order of its columns: llama3, qwen, o200k, tekken.
pub(crate) const COUNT: usize = 4;

/// Parts of a token, the unit of the table.
pub(crate) const PER_TOKEN: u16 = 255;

/// Rows for classes of neighbours, several combinations to a row: as many as sixteen bits can tell.
const HASHED: usize = 1 << 16;

/// The row of a byte within a run, which by itself is nothing: the run counts as a whole. No neighbours
/// that occur in text have this row, and no three of one class.
pub(crate) const WITHIN: u16 = 186;

/// The first row for runs: by mark, then by what stands before and after, then by length.
pub(crate) const RUNS: u32 = HASHED as u32;

/// A longer run is several.
pub(crate) const LONGEST: usize = 128;

/// ASCII characters whose runs have rows of their own.
const MARKS: &[u8; 35] = b"-=*_#~.+/<>^%$&@!?|:;,'`\"\\()[]{} \n\t";

/// What stands before a run (a space, another mark, anything else) and after it (a line's end or not).
const AROUND: usize = 6;

/// Digits, small letters, capitals, everything else in ASCII, and so many kinds of longer characters
/// have runs that are counted alike wherever they stand.
const OTHERS: usize = 4 + LONGER;
const LONGER: usize = 128;

const RUN_ROWS: usize = (MARKS.len() * AROUND + OTHERS) * LONGEST;

/// The row for stretches of encoded data.
pub(crate) const ENCODED: u32 = RUNS + RUN_ROWS as u32;

const BYTES: &[u8; (HASHED + RUN_ROWS + 2) * COUNT] = include_bytes!("families.bin");

/// The rows' four bytes, spread over sixteen bits each so that sums have room.
static TABLE: [u64; HASHED] = table();

/// The place of each ASCII byte in [`MARKS`], or in [`OTHERS`] beyond them.
static MARK: [u8; 256] = marks();

/// First and last class of ASCII letters in lower case.
pub(crate) const LOWER: (u8, u8) = (1, 26);

/// First and last class of ASCII capitals.
pub(crate) const UPPER: (u8, u8) = (27, 42);

/// The class of ASCII digits.
pub(crate) const DIGIT: u8 = 43;

/// The last class of what encoded data is written in: letters, digits, `+`, `-`, `=`, `_` and `/`, and a
/// few marks that seldom stand alone among those.
pub(crate) const ALPHANUMERIC: u8 = 48;

/// Bytes that are one class, in the order of classes after [`LOWER`]. NUL is class 0, and so is what
/// stands before and after a text.
const GROUPS: [&[u8]; 36] = [
    b"A",
    b"E",
    b"I",
    b"O",
    b"S",
    b"T",
    b"R",
    b"N",
    b"C",
    b"L",
    b"D",
    b"M",
    b"P",
    b"UY",
    b"BFGH",
    b"KWVXJQZ",
    b"0123456789",
    b"-",
    b"=+",
    b"*#~^",
    b"_",
    b"/",
    b" ",
    b"\n",
    b"\x01\x02\x03\x04\x05\x06\x07\x08\t",
    b"\x0B\x0C\r\x0E\x0F\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1A\x1B\x1C\x1D\x1E\x1F\x7F",
    b".",
    b",;",
    b":",
    b"!?",
    b"\\",
    b"\"'`",
    b"([{<",
    b")]}>",
    b"|&",
    b"%$@",
];

/// The last byte of each class of bytes from 0xC0 on, which begin characters of one block or of a few.
const LEADS: [u8; 22] = [
    0xC3, 0xC5, 0xCB, 0xCD, 0xCF, 0xD0, 0xD1, 0xD3, 0xD6, 0xD7, 0xD8, 0xD9, 0xDF, 0xE0, 0xE1, 0xE2,
    0xE3, 0xE9, 0xED, 0xEE, 0xEF, 0xFF,
];

/// The class of each byte, below 0x80.
pub(crate) static CLASSES: [u8; 256] = classes();

/// The first and last class of bytes that begin characters of three bytes in scripts of few letters.
pub(crate) const FEW_LETTERS: (u8, u8) = few_letters();

/// The row of a byte between two others, by their classes.
#[inline]
pub(crate) fn row(before: u8, this: u8, after: u8) -> u16 {
    // Of the factors that were tried, these leave those together in a row that begin tokens alike.
    u16::from(before)
        .wrapping_mul(60991)
        .wrapping_add(u16::from(this).wrapping_mul(21820))
        .wrapping_add(u16::from(after).wrapping_mul(17571))
}

/// The row of a byte that begins a character, by the class of the character's third byte as well.
#[inline]
pub(crate) fn letter(row: u16, third: u8) -> u16 {
    row ^ u16::from(third).wrapping_mul(36544)
}

/// The row of a run with these last two bytes and this many bytes or characters beyond its first
/// three, 1 to [`LONGEST`], between two others; zeros where the text begins or ends.
pub(crate) fn run(last: [u8; 2], length: usize, before: u8, after: u8) -> u32 {
    let mark = |byte: u8| {
        MARK.get(usize::from(byte))
            .map_or(0, |mark| usize::from(*mark))
    };
    let kind = match (last, mark(last[1])) {
        ([_, 0..0x80], of) if of < MARKS.len() => {
            let other = match mark(before) {
                _ if before == b' ' => 1,
                mark if mark < MARKS.len() && !before.is_ascii_whitespace() => 2,
                _ => 0,
            };
            of * AROUND + 2 * other + usize::from(matches!(after, b'\n' | b'\r'))
        }
        ([_, 0..0x80], of) => of - MARKS.len() + MARKS.len() * AROUND,
        ([one, two], _) => {
            // This factor gives those that are drawn with most often kinds of their own.
            let mixed = (usize::from(one & 0x3F) << 6 | usize::from(two & 0x3F)) * 815;
            MARKS.len() * AROUND + 4 + (mixed >> 5) % LONGER
        }
    };
    let at = kind * LONGEST + length.clamp(1, LONGEST) - 1;
    RUNS + u32::try_from(at).unwrap_or_default()
}

/// A row's parts of a token, sixteen bits for each family.
#[inline]
pub(crate) fn packed(row: u16) -> u64 {
    TABLE.get(usize::from(row)).copied().unwrap_or_default()
}

/// What [`packed`] packed, by family.
#[inline]
pub(crate) fn unpack(sums: u64) -> [u16; COUNT] {
    [0, 16, 32, 48].map(|shift| (sums >> shift) as u16)
}

/// The parts of a token that a run or a stretch of encoded data adds, by family.
#[inline]
pub(crate) fn of_wide(row: u32) -> [u32; COUNT] {
    let at = row as usize * COUNT;
    if row >= ENCODED {
        let mut parts = [0; COUNT];
        let pairs = BYTES.get(at..).unwrap_or_default().chunks_exact(2);
        for (part, pair) in parts.iter_mut().zip(pairs) {
            *part = pair
                .iter()
                .rev()
                .fold(0, |all, byte| all << 8 | u32::from(*byte));
        }
        return parts;
    }
    let halves: Option<&[u8; COUNT]> = BYTES.get(at..).and_then(<[u8]>::first_chunk);
    halves.map_or([0; COUNT], |halves| {
        halves.map(|half| u32::from(half) * u32::from(PER_TOKEN) / 2)
    })
}

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn table() -> [u64; HASHED] {
    let mut table = [0; HASHED];
    let mut row = 0;
    while row < HASHED {
        let at = row * COUNT;
        table[row] = BYTES[at] as u64
            | (BYTES[at + 1] as u64) << 16
            | (BYTES[at + 2] as u64) << 32
            | (BYTES[at + 3] as u64) << 48;
        row += 1;
    }
    table
}

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn marks() -> [u8; 256] {
    let first = MARKS.len() as u8;
    let mut marks = [first + 3; 256];
    let mut byte = 0;
    while byte < 128 {
        let at = byte as u8;
        if at.is_ascii_digit() {
            marks[byte] = first;
        } else if at.is_ascii_lowercase() {
            marks[byte] = first + 1;
        } else if at.is_ascii_uppercase() {
            marks[byte] = first + 2;
        }
        byte += 1;
    }
    let mut mark = 0;
    while mark < MARKS.len() {
        marks[MARKS[mark] as usize] = mark as u8;
        mark += 1;
    }
    marks
}

const fn few_letters() -> (u8, u8) {
    let classes = classes();
    (classes[0xE0], classes[0xE3])
}

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = b'a';
    while byte <= b'z' {
        classes[byte as usize] = LOWER.0 + (byte - b'a');
        byte += 1;
    }
    let mut class = LOWER.1;
    let mut group = 0;
    while group < GROUPS.len() {
        class += 1;
        let mut at = 0;
        while at < GROUPS[group].len() {
            classes[GROUPS[group][at] as usize] = class;
            at += 1;
        }
        group += 1;
    }
    // Bytes that continue a character, two to a class.
    let mut byte = 0x80;
    while byte < 0xC0 {
        classes[byte] = class + 1 + ((byte - 0x80) / 2) as u8;
        byte += 1;
    }
    class += 33;
    let mut lead = 0;
    while byte < 256 {
        if byte > LEADS[lead] as usize {
            lead += 1;
            class += 1;
        }
        classes[byte] = class;
        byte += 1;
    }
    classes
}
