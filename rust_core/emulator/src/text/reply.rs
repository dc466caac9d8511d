//! The text of a reply: one word or sign a token, so that it reads back as the same tokens.

use crate::text::tokenizer::token_id;

/// Ends a turn; it is a token without text.
pub(crate) const END_OF_TURN: u32 = 0xFFFF_FF02;

const WORDS: [&str; 64] = [
    "the", "road", "is", "long", "and", "every", "load", "has", "its", "weight", "we", "put",
    "each", "one", "on", "a", "scale", "then", "send", "it", "where", "there", "room", "to",
    "carry", "more", "than", "before", "while", "others", "wait", "for", "their", "turn", "at",
    "gate", "some", "are", "light", "but", "many", "heavy", "so", "count", "of", "trucks", "says",
    "little", "about", "work", "that", "bridge", "must", "bear", "when", "night", "comes", "they",
    "cross", "with", "care", "by", "lamp", "slow",
];

/// A reply of a known length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply {
    seed: u64,
    tokens: u32,
    stops: bool,
}

impl Reply {
    /// A reply of `tokens` tokens; if it `stops`, the last one ends the turn.
    pub(crate) fn new(seed: u64, tokens: u32, stops: bool) -> Self {
        Self {
            seed,
            tokens,
            stops,
        }
    }

    /// What its text follows from.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Why it ends.
    pub(crate) fn finish_reason(&self) -> &'static str {
        if self.stops { "stop" } else { "length" }
    }

    /// Appends the text of the token at `at`.
    pub(crate) fn write(&self, at: u32, text: &mut String) {
        if self.is_end(at) {
            return;
        }
        if at % 12 == 11 {
            text.push('.');
            return;
        }
        if at > 0 {
            text.push(' ');
        }
        text.push_str(self.word(at));
    }

    /// Hands over the id of every token.
    pub(crate) fn each_id(&self, mut sink: impl FnMut(u32)) {
        let mut text = String::new();
        for at in 0..self.tokens {
            if self.is_end(at) {
                sink(END_OF_TURN);
            } else {
                text.clear();
                self.write(at, &mut text);
                sink(token_id(&text));
            }
        }
    }

    /// The whole text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for at in 0..self.tokens {
            self.write(at, &mut text);
        }
        text
    }

    fn is_end(&self, at: u32) -> bool {
        self.stops && at + 1 == self.tokens
    }

    fn word(&self, at: u32) -> &'static str {
        let mixed = mix(self.seed.wrapping_add(u64::from(at)));
        let place = usize::try_from(mixed >> 58).unwrap_or(0);
        WORDS.get(place).copied().unwrap_or("the")
    }
}

/// An output length for a prompt: log-normal, the same for the same seed and prompt.
pub(crate) fn output_length(key: u64, median: f64, sigma: f64) -> u32 {
    let bits = mix(key);
    let sum = (bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) + ((bits >> 32) & 0xFFFF) + (bits >> 48);
    #[allow(clippy::cast_precision_loss)] // at most 2^18
    let bell = (sum as f64 / 65536.0 - 2.0) * 3.0_f64.sqrt();
    let length = (median.ln() + sigma * bell).exp().clamp(1.0, 1e6);
    // Between 1 and 10^6.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let length = length.round() as u32;
    length
}

pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::{END_OF_TURN, Reply, output_length};
    use crate::text::tokenizer::tokenize;

    #[test]
    fn a_reply_reads_back_as_the_tokens_that_made_it() {
        for (tokens, stops) in [(1, false), (1, true), (40, false), (300, true)] {
            let reply = Reply::new(9, tokens, stops);
            let mut made = Vec::new();
            reply.each_id(|id| made.push(id));
            assert_eq!(made.len(), tokens as usize);
            let mut read = Vec::new();
            tokenize(&reply.text(), |id| read.push(id));
            if stops {
                read.push(END_OF_TURN);
            }
            assert_eq!(made, read);
        }
    }

    #[test]
    fn lengths_spread_around_the_median() {
        let mut lengths: Vec<u32> = (0..2001).map(|k| output_length(k, 150.0, 0.7)).collect();
        lengths.sort_unstable();
        assert!((130..170).contains(&lengths[1000]), "{}", lengths[1000]);
        assert!(lengths[100] < 75 && lengths[1900] > 300);
        assert_eq!(output_length(7, 150.0, 0.0), 150);
    }
}
