//! The table of tokens by class of three bytes, for each tokenizer family.
//!
//! `families.bin` is made by `fit/fit.py`: for each row the parts of a token of each family, one byte
//! each; then for each row of stretches the same in two bytes, the lower one first.

/// Families that the table has, in the order of its columns: llama3, qwen, o200k, tekken.
pub(crate) const COUNT: usize = 4;

/// Parts of a token, the unit of the table.
pub(crate) const PER_TOKEN: u16 = 255;

/// Rows for three classes, several combinations to a row.
const HASHED: usize = 1 << 14;

/// The first row for bytes within a run, by the byte's lower seven bits.
pub(crate) const RUNS: u16 = HASHED as u16;

/// The first row for stretches of one character, by the lower seven bits of its last byte.
pub(crate) const STRETCHES: u16 = RUNS + 128;

/// The row for stretches of encoded data.
pub(crate) const ENCODED: u16 = STRETCHES + 128;

const BYTES: &[u8; (HASHED + 128) * COUNT + 129 * COUNT * 2] = include_bytes!("families.bin");

/// The rows' four bytes, spread over sixteen bits each so that sums have room.
static TABLE: [u64; HASHED + 128] = table();

static OF_STRETCHES: [[u16; COUNT]; 129] = of_stretches();

/// First and last class of ASCII letters in lower case.
pub(crate) const LOWER: (u8, u8) = (1, 26);

/// First and last class of ASCII capitals.
pub(crate) const UPPER: (u8, u8) = (27, 31);

/// The class of ASCII digits.
pub(crate) const DIGIT: u8 = 32;

/// The last class of what encoded data is written in: letters, digits, `+`, `-`, `=`, `_` and `/`.
pub(crate) const ALPHANUMERIC: u8 = 35;

/// Bytes that are one class, in the order of classes after [`LOWER`]. NUL is class 0, and so is what
/// stands before and after a text.
const GROUPS: [&[u8]; 19] = [
    b"AEIOU",
    b"NRST",
    b"LDCM",
    b"PHGBFY",
    b"KWVXJQZ",
    b"0123456789",
    b"-=*#~+^",
    b"_",
    b"/",
    b" ",
    b"\n",
    b"\x01\x02\x03\x04\x05\x06\x07\x08\t\x0B\x0C\r\x0E\x0F\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1A\x1B\x1C\x1D\x1E\x1F\x7F",
    b".",
    b",;:!?",
    b"\\",
    b"\"'`",
    b"([{<",
    b")]}>",
    b"|&%$@",
];

/// The last byte of each class of bytes from 0xC0 on, which begin characters of one block or of a few.
const LEADS: [u8; 22] = [
    0xC3, 0xC5, 0xCB, 0xCD, 0xCF, 0xD0, 0xD1, 0xD3, 0xD6, 0xD7, 0xD8, 0xD9, 0xDF, 0xE0, 0xE1, 0xE2,
    0xE3, 0xE9, 0xED, 0xEE, 0xEF, 0xFF,
];

/// The class of each byte, below 0x80.
pub(crate) static CLASSES: [u8; 256] = classes();

/// The row of a byte between two others, by their classes.
#[inline]
pub(crate) fn row(before: u8, this: u8, after: u8) -> u16 {
    // These factors spread the combinations that occur in text best, of some that were tried.
    let sum = u16::from(before)
        .wrapping_mul(63013)
        .wrapping_add(u16::from(this).wrapping_mul(13035))
        .wrapping_add(u16::from(after).wrapping_mul(35339));
    sum >> 2
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

/// The parts of a token that a stretch adds, by family.
pub(crate) fn of_stretch(row: u16) -> [u16; COUNT] {
    row.checked_sub(STRETCHES)
        .and_then(|row| OF_STRETCHES.get(usize::from(row)))
        .copied()
        .unwrap_or_default()
}

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn table() -> [u64; HASHED + 128] {
    let mut table = [0; HASHED + 128];
    let mut row = 0;
    while row < table.len() {
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
const fn of_stretches() -> [[u16; COUNT]; 129] {
    let mut table = [[0; COUNT]; 129];
    let mut at = (HASHED + 128) * COUNT;
    let mut row = 0;
    while row < table.len() {
        let mut family = 0;
        while family < COUNT {
            table[row][family] = u16::from_le_bytes([BYTES[at], BYTES[at + 1]]);
            at += 2;
            family += 1;
        }
        row += 1;
    }
    table
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
