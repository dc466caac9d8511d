//! Tokens per byte class, by tokenizer family. Made by `fit/fit.py`; do not edit.

use crate::features::Features;

/// Tokens per unit of each class, in the order of [`Features::NAMES`].
pub(crate) type Weights = [f64; Features::NAMES.len()];

/// Family `llama3`.
pub(crate) const LLAMA3: Weights = [
    0.0000, // bytes
    0.0000, // letters
    0.5990, // words
    0.5344, // joints
    0.3471, // capitals
    0.5079, // tails
    0.1371, // digits
    1.5923, // numbers
    0.3583, // punctuation
    0.2173, // marks
    0.0835, // spaces
    0.4330, // newlines
    0.3304, // gaps
    1.8316, // latin
    0.2833, // two_byte
    0.5094, // brahmic
    1.0902, // symbols
    0.7285, // kana
    0.7322, // han
    0.6183, // hangul
    1.7645, // full_width
    1.5261, // four_byte
];

/// Family `qwen`.
pub(crate) const QWEN: Weights = [
    0.0000, // bytes
    0.0000, // letters
    0.5433, // words
    0.3387, // joints
    0.3975, // capitals
    0.5093, // tails
    0.8131, // digits
    1.1816, // numbers
    0.3359, // punctuation
    0.2411, // marks
    0.0637, // spaces
    0.5949, // newlines
    0.3992, // gaps
    1.6998, // latin
    0.2549, // two_byte
    1.0281, // brahmic
    1.0052, // symbols
    0.6171, // kana
    0.6090, // han
    0.6658, // hangul
    1.1289, // full_width
    1.4055, // four_byte
];

/// Family `o200k`.
pub(crate) const O200K: Weights = [
    0.0000, // bytes
    0.0000, // letters
    0.6209, // words
    0.8387, // joints
    0.2389, // capitals
    0.4912, // tails
    0.1362, // digits
    1.5335, // numbers
    0.3944, // punctuation
    0.2165, // marks
    0.0942, // spaces
    0.3291, // newlines
    0.2875, // gaps
    0.2438, // latin
    0.2111, // two_byte
    0.2353, // brahmic
    1.9346, // symbols
    0.7610, // kana
    0.7002, // han
    0.5818, // hangul
    1.5740, // full_width
    0.0769, // four_byte
];

/// Family `tekken`.
pub(crate) const TEKKEN: Weights = [
    0.0000, // bytes
    0.0000, // letters
    0.6237, // words
    0.6360, // joints
    0.3427, // capitals
    0.5397, // tails
    0.7986, // digits
    1.1945, // numbers
    0.3599, // punctuation
    0.2614, // marks
    0.0678, // spaces
    0.6483, // newlines
    0.3243, // gaps
    0.6455, // latin
    0.2350, // two_byte
    0.3433, // brahmic
    0.9437, // symbols
    0.6828, // kana
    0.9807, // han
    0.5780, // hangul
    0.7328, // full_width
    3.2123, // four_byte
];

/// Family `default`.
pub(crate) const DEFAULT: Weights = [
    0.0000, // bytes
    0.0000, // letters
    0.5967, // words
    0.5869, // joints
    0.3316, // capitals
    0.5120, // tails
    0.4712, // digits
    1.3755, // numbers
    0.3621, // punctuation
    0.2341, // marks
    0.0773, // spaces
    0.5013, // newlines
    0.3353, // gaps
    1.1052, // latin
    0.2461, // two_byte
    0.5290, // brahmic
    1.2434, // symbols
    0.6974, // kana
    0.7555, // han
    0.6110, // hangul
    1.3000, // full_width
    1.5552, // four_byte
];
