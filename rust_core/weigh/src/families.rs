//! Tokens per byte class, by tokenizer family. Made by `fit/fit.py`; do not edit.

/// Tokens per unit of each class, in the order of [`crate::Features::NAMES`].
pub(crate) type Weights = &'static [f64];

/// Family `llama3`.
pub(crate) const LLAMA3: Weights = &[
    0.0000, // bytes
    0.0001, // letters
    0.6348, // words
    0.4672, // capitals
    7.9455, // stretches
    0.1444, // digits
    1.6024, // numbers
    0.4940, // punctuation
    0.0751, // spaces
    0.5566, // newlines
    0.3071, // gaps
    1.8023, // latin
    0.2903, // two_byte
    0.5169, // brahmic
    0.5362, // symbols
    0.7317, // kana
    0.7349, // han
    0.6320, // hangul
    1.7230, // full_width
    2.3797, // four_byte
];

/// Family `qwen`.
pub(crate) const QWEN: Weights = &[
    0.0000, // bytes
    0.0000, // letters
    0.5811, // words
    0.4644, // capitals
    7.9480, // stretches
    0.8169, // digits
    1.2097, // numbers
    0.4837, // punctuation
    0.0587, // spaces
    0.7000, // newlines
    0.3765, // gaps
    1.6809, // latin
    0.2615, // two_byte
    1.0346, // brahmic
    0.5724, // symbols
    0.6141, // kana
    0.6123, // han
    0.6787, // hangul
    1.0893, // full_width
    1.6735, // four_byte
];

/// Family `o200k`.
pub(crate) const O200K: Weights = &[
    0.0000, // bytes
    0.0309, // letters
    0.5596, // words
    0.3900, // capitals
    7.1972, // stretches
    0.1407, // digits
    1.6202, // numbers
    0.5141, // punctuation
    0.0773, // spaces
    0.5356, // newlines
    0.2375, // gaps
    0.1988, // latin
    0.2243, // two_byte
    0.2512, // brahmic
    0.9161, // symbols
    0.7640, // kana
    0.7044, // han
    0.6073, // hangul
    1.5017, // full_width
    1.5504, // four_byte
];

/// Family `tekken`.
pub(crate) const TEKKEN: Weights = &[
    0.0000, // bytes
    0.0133, // letters
    0.6210, // words
    0.4703, // capitals
    8.2294, // stretches
    0.7970, // digits
    1.2760, // numbers
    0.5153, // punctuation
    0.0577, // spaces
    0.8150, // newlines
    0.2823, // gaps
    0.6351, // latin
    0.2460, // two_byte
    0.3557, // brahmic
    0.7046, // symbols
    0.6833, // kana
    0.9842, // han
    0.5993, // hangul
    0.6819, // full_width
    3.6461, // four_byte
];

/// Family `default`.
pub(crate) const DEFAULT: Weights = &[
    0.0000, // bytes
    0.0111, // letters
    0.5991, // words
    0.4479, // capitals
    7.8300, // stretches
    0.4748, // digits
    1.4271, // numbers
    0.5018, // punctuation
    0.0672, // spaces
    0.6518, // newlines
    0.3008, // gaps
    1.0793, // latin
    0.2555, // two_byte
    0.5396, // brahmic
    0.6823, // symbols
    0.6983, // kana
    0.7590, // han
    0.6293, // hangul
    1.2490, // full_width
    2.3124, // four_byte
];
