//! Base64 text seen as the bytes it encodes, decoded only where looked at.

/// A view of base64 text, standard or URL-safe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base64<'a>(pub(crate) &'a [u8]);

impl Base64<'_> {
    /// Number of bytes encoded, as far as the text goes.
    pub(crate) fn len(&self) -> usize {
        let padding = self
            .0
            .iter()
            .rev()
            .take(2)
            .take_while(|&&byte| byte == b'=')
            .count();
        let text = self.0.len() - padding;
        text / 4 * 3 + text % 4 * 3 / 4
    }

    /// The byte at `at`, or `None` beyond the end or where the text is no base64.
    pub(crate) fn byte(&self, at: usize) -> Option<u8> {
        let quad = (at / 3).checked_mul(4)?;
        let sextet = |i: usize| self.0.get(quad + i).copied().and_then(sextet);
        match at % 3 {
            0 => Some(sextet(0)? << 2 | sextet(1)? >> 4),
            1 => Some(sextet(1)? << 4 | sextet(2)? >> 2),
            _ => Some(sextet(2)? << 6 | sextet(3)?),
        }
    }

    /// `N` bytes from `at`.
    pub(crate) fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = self.byte(at.checked_add(i)?)?;
        }
        Some(bytes)
    }

    /// Whether the bytes from `at` are `expected`.
    pub(crate) fn has(&self, at: usize, expected: &[u8]) -> bool {
        expected
            .iter()
            .enumerate()
            .all(|(i, &byte)| self.byte(at + i) == Some(byte))
    }

    /// Whether the text's beginning is all base64.
    pub(crate) fn is_likely(&self) -> bool {
        let (body, _) = self.0.split_at(self.0.len().min(256));
        body.iter()
            .all(|&byte| sextet(byte).is_some() || byte == b'=')
    }
}

fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Encodes, for tests.
    pub(crate) fn encode(bytes: &[u8]) -> Vec<u8> {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = Vec::new();
        for group in bytes.chunks(3) {
            let bits = group
                .iter()
                .fold(0u32, |bits, &byte| bits << 8 | u32::from(byte))
                << (8 * (3 - group.len()));
            for i in 0..4 {
                let sextet = (bits >> (18 - 6 * i) & 63) as usize;
                text.push(if i <= group.len() {
                    ALPHABET[sextet]
                } else {
                    b'='
                });
            }
        }
        text
    }

    #[test]
    fn the_standard_examples_are_read() {
        // RFC 4648, section 10.
        assert_eq!(encode(b"foobar"), b"Zm9vYmFy");
        assert_eq!(encode(b"foob"), b"Zm9vYg==");
        assert_eq!(Base64(b"Zm9vYg==").array(0), Some(*b"foob"));
        assert_eq!(Base64(b"Zm9vYg==").len(), 4);
        assert_eq!(Base64(b"Zm9vYg").len(), 4);
        assert_eq!(Base64(b"Zm9vYg==").byte(4), None);
    }

    proptest! {
        #[test]
        fn every_byte_is_seen(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let text = encode(&bytes);
            let view = Base64(&text);
            prop_assert_eq!(view.len(), bytes.len());
            prop_assert!(view.is_likely());
            for (i, byte) in bytes.iter().enumerate() {
                prop_assert_eq!(view.byte(i), Some(*byte));
            }
        }
    }
}
