//! The words of contents: the same for the same identity, four bytes a token.
//!
//! Every word has three letters and a space after it, and is one token in common encodings and in
//! the emulator: so tokens, words and bytes can be counted in each other exactly, and a content can
//! be cut at any token. Words come from a pool that stays in the processor's cache; each stretch of
//! [`UNIT`] words begins with eight that spell its identity, so that no two contents are alike.

use rand::Rng;

use crate::seed::{mix, rng};
use crate::trace::Piece;

/// Bytes of a token.
pub const TOKEN_BYTES: usize = 4;

/// Words between two spellings of the identity.
const UNIT: u32 = 512;

/// Words that spell the identity.
const MARK: u32 = 8;

/// Words of the pool, without those that repeat its beginning at its end.
const POOL: usize = 1 << 14;

const WORDS: &[u8; 256 * 3] = b"\
aceactaddadoageagoaidaimairaleallampandantanyaptarcarearkarmartashaskateaweaxebadbagbanbarbatbay\
bedbeebegbetbidbigbinbitbobbogboobowboxboybudbugbunbusbutbuybyecabcancapcarcatcobcogconcopcotcow\
crycubcuecupcutdabdaddamdaydendewdiddiedigdimdindipdogdotdryduedugdyeeareateggegoelfelmenderaeve\
eyefanfarfatfaxfedfeefewfigfinfirfitfixfluflyfoefogforfoxfryfunfurgapgasgelgemgetgingodgotgumgun\
gutguygymhadhamhashathayhenherhidhimhiphishithoghophothowhubhughumhuticeicyillimpinkinnionitsivy\
jabjamjarjawjayjetjobjogjoyjugkeykidkinkitlabladlaglaplawlayledlegletlidlieliplitloglotlowmadman\
mapmatmaymenmetmidmixmobmommopmudmugnapnetnewnilnodnornotnownunnutoakoaroatoddoffoiloldoneoptore\
ouroutowlownpadpalpanpatpawpaypeapenpetpiepigpinpitpodpoppotpropubragranrapratseeshethetwowasyou";

/// Words to draw from.
#[derive(Debug)]
pub struct TextPool {
    bytes: Vec<u8>,
}

impl Default for TextPool {
    fn default() -> Self {
        Self::new()
    }
}

impl TextPool {
    /// The pool: always the same words.
    #[must_use]
    pub fn new() -> Self {
        let mut chance = rng(0x776f_7264, 0);
        let mut bytes = Vec::with_capacity((POOL + UNIT as usize) * TOKEN_BYTES);
        for _ in 0..POOL {
            bytes.extend_from_slice(&word(chance.random()));
        }
        bytes.extend_from_within(..UNIT as usize * TOKEN_BYTES);
        Self { bytes }
    }

    /// Appends the words of a piece, each with a space after it.
    pub(crate) fn write(&self, piece: Piece, out: &mut Vec<u8>) {
        let mut offset = piece.offset;
        let mut left = piece.tokens;
        while left > 0 {
            let within = offset % UNIT;
            let tokens = left.min(UNIT - within);
            self.write_unit(
                mix(piece.content, u64::from(offset / UNIT)),
                within,
                tokens,
                out,
            );
            offset += tokens;
            left -= tokens;
        }
    }

    fn write_unit(&self, identity: u64, within: u32, tokens: u32, out: &mut Vec<u8>) {
        let marked = MARK.saturating_sub(within).min(tokens);
        let marks = identity.to_le_bytes();
        for mark in marks.iter().skip(within as usize).take(marked as usize) {
            out.extend_from_slice(&word(*mark));
        }
        // The pool is as long as these bits can say.
        let start = (mix(identity, 1) % POOL as u64) as usize + (within + marked) as usize;
        let bytes = start * TOKEN_BYTES..(start + tokens as usize - marked as usize) * TOKEN_BYTES;
        out.extend_from_slice(self.bytes.get(bytes).unwrap_or_default());
    }
}

fn word(number: u8) -> [u8; TOKEN_BYTES] {
    let at = usize::from(number) * 3;
    match WORDS.get(at..at + 3) {
        Some(&[a, b, c]) => [a, b, c, b' '],
        _ => *b"the ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn text(content: u64, offset: u32, tokens: u32) -> String {
        let mut out = Vec::new();
        TextPool::new().write(
            Piece {
                content,
                offset,
                tokens,
            },
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_vocabulary_has_256_words() {
        let words: HashSet<[u8; 4]> = (0..=255).map(word).collect();
        assert_eq!(words.len(), 256);
        assert!(
            words
                .iter()
                .all(|word| word[..3].iter().all(u8::is_ascii_lowercase))
        );
    }

    #[test]
    fn contents_differ_from_their_first_words_on() {
        let openings: HashSet<String> = (0..10_000).map(|content| text(content, 0, 8)).collect();
        assert_eq!(openings.len(), 10_000);
    }

    proptest! {
        #[test]
        fn a_stretch_is_cut_out_of_the_whole(content: u64, offset in 0..3000u32, tokens in 0..3000u32) {
            let whole = text(content, 0, 6000);
            prop_assert_eq!(whole.split_whitespace().count(), 6000);
            let bytes = offset as usize * TOKEN_BYTES..(offset + tokens) as usize * TOKEN_BYTES;
            prop_assert_eq!(&whole[bytes], text(content, offset, tokens));
        }
    }
}
