//! Undoes a body's content-encoding, within bounds, as far as the bytes go.
//!
//! A body that is cut off yields what its beginning expands to. Work is bounded by what was sent: a
//! body may expand to [`FREE_BYTES`] and [`MOST_RATIO`] times its length, and to the caller's limit.
//! Memory is bounded by the same, and by the formats' own windows: 32 KiB for gzip and deflate, 8 MiB
//! for zstd (larger windows are refused), 16 MiB for brotli.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};

use thiserror::Error;

use crate::reading::Body;

/// Bytes that any body may expand to, however short it is.
pub const FREE_BYTES: usize = 256 * 1024;

/// How many times its length a body may expand to beside that. Chats as JSON reach 3 to 30.
pub const MOST_RATIO: usize = 100;

/// Largest zstd window, as a power of two: 8 MiB, what `zstd --ultra` needs and browsers accept.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Members of a gzip body. Tools that compress in blocks write one for each 64 KiB.
const MOST_MEMBERS: usize = 1024;

/// Largest part of the limit that is set aside before anything is expanded.
const FIRST_RESERVE: usize = 64 * 1024;

/// Why a content-encoding could not be undone.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A coding that is not known.
    #[error("The content-encoding '{coding}' is not supported; use gzip, deflate, zstd or br.")]
    Unsupported {
        /// The coding, cut to 32 characters.
        coding: String,
    },
    /// A coding on top of another.
    #[error("The request body has more than one content-encoding.")]
    TooManyCodings,
    /// The body expands to more than is allowed.
    #[error("The request body expands to more than the {limit} bytes that its length allows.")]
    TooLarge {
        /// Bytes allowed to a body of this length.
        limit: usize,
    },
    /// The bytes are not what the coding says.
    #[error("The request body is not valid {coding}: {reason}.")]
    Corrupt {
        /// The coding.
        coding: &'static str,
        /// What the decoder found.
        reason: String,
    },
}

impl DecodeError {
    /// The HTTP status that says so.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Unsupported { .. } | Self::TooManyCodings => 415,
            Self::TooLarge { .. } => 413,
            Self::Corrupt { .. } => 400,
        }
    }

    /// A stable word for the fault, as OpenAI's `error.code`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsupported { .. } => "unsupported_content_encoding",
            Self::TooManyCodings => "too_many_content_encodings",
            Self::TooLarge { .. } => "body_too_large",
            Self::Corrupt { .. } => "invalid_content_encoding",
        }
    }
}

/// A body with its content-encoding undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The expanded bytes, or the body's own where there was nothing to undo.
    pub bytes: Cow<'a, [u8]>,
    /// Whether `bytes` is the whole body.
    pub complete: bool,
    /// Length of the whole body in bytes where known; for a cut compressed body an estimate, as if
    /// the rest were as dense as the beginning.
    pub total_bytes: Option<u64>,
}

impl Decoded<'_> {
    /// The body, to be read.
    #[must_use]
    pub fn body(&self) -> Body<'_> {
        Body {
            bytes: &self.bytes,
            complete: self.complete,
            total_bytes: self.total_bytes,
        }
    }
}

/// A coding that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Zstd,
    Brotli,
}

impl Coding {
    /// The coding of that name, or `None` for `identity`.
    fn named(name: &str) -> Result<Option<Self>, DecodeError> {
        match name.to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "deflate" => Ok(Some(Self::Deflate)),
            "zstd" => Ok(Some(Self::Zstd)),
            "br" => Ok(Some(Self::Brotli)),
            _ => Err(DecodeError::Unsupported {
                coding: name.chars().take(32).collect(),
            }),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
            Self::Brotli => "br",
        }
    }

    /// Expands `bytes`; the flag tells whether the stream's end was reached.
    fn expand(self, bytes: &[u8], limit: usize) -> (Vec<u8>, Result<(), Fault>) {
        match self {
            Self::Gzip => gunzip(bytes, limit),
            Self::Deflate if is_zlib(bytes) => drain(flate2::read::ZlibDecoder::new(bytes), limit),
            Self::Deflate => drain(flate2::read::DeflateDecoder::new(bytes), limit),
            Self::Brotli => {
                let mut rest = bytes;
                let decoder = brotli_decompressor::Decompressor::new(&mut rest, 4096);
                match drain(decoder, limit) {
                    // This decoder calls an early end invalid data as well.
                    (bytes, Err(Fault::Corrupt(_))) if rest.is_empty() => (bytes, Err(Fault::Cut)),
                    drained => drained,
                }
            }
            Self::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(bytes);
                let bounded = decoder.and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                    Ok(decoder)
                });
                match bounded {
                    Ok(decoder) => drain(decoder, limit),
                    Err(error) => (Vec::new(), Err(Fault::of(&error))),
                }
            }
        }
    }
}

/// Whether a deflate stream that begins so is wrapped as zlib, as the standard wants and some forget.
#[must_use]
pub fn is_zlib(bytes: &[u8]) -> bool {
    match bytes {
        [first, second, ..] => first & 0x0F == 8 && u16::from_be_bytes([*first, *second]) % 31 == 0,
        _ => true,
    }
}

/// Why a stream could not be drained.
enum Fault {
    TooLarge,
    /// It ends too early.
    Cut,
    Corrupt(String),
}

impl Fault {
    fn of(error: &std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Cut,
            _ => Self::Corrupt(error.to_string()),
        }
    }
}

/// Everything that a decoder yields, up to `limit`, and how it ended.
fn drain(mut decoder: impl Read, limit: usize) -> (Vec<u8>, Result<(), Fault>) {
    let mut bytes = Vec::with_capacity(limit.min(FIRST_RESERVE));
    let end = drain_to(&mut bytes, &mut decoder, limit);
    (bytes, end)
}

fn drain_to(bytes: &mut Vec<u8>, decoder: &mut impl Read, limit: usize) -> Result<(), Fault> {
    let mut piece = [0u8; 16 * 1024];
    loop {
        match decoder.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                let read = piece.get(..read).unwrap_or_default();
                if bytes.len() + read.len() > limit {
                    return Err(Fault::TooLarge);
                }
                bytes.extend_from_slice(read);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::of(&error)),
        }
    }
}

/// The members of a gzip body, one after the other. To begin one takes far longer than its 20 bytes
/// take to send.
fn gunzip(mut rest: &[u8], limit: usize) -> (Vec<u8>, Result<(), Fault>) {
    let mut bytes = Vec::with_capacity(limit.min(FIRST_RESERVE));
    for _ in 0..MOST_MEMBERS {
        let mut member = flate2::bufread::GzDecoder::new(rest);
        let end = drain_to(&mut bytes, &mut member, limit);
        rest = member.into_inner();
        if end.is_err() || rest.is_empty() {
            return (bytes, end);
        }
    }
    let reason = format!("it has more than {MOST_MEMBERS} members");
    (bytes, Err(Fault::Corrupt(reason)))
}

/// Undoes `content_encoding` (the header's value) of a body, whole or cut off.
///
/// # Errors
/// When a coding is unknown or there are two, when the body expands to more than `max_bytes` or than
/// its length allows, or when a whole body is not what its coding says. The beginning of a body is
/// never faulted for ending early.
pub fn decode<'a>(
    content_encoding: &str,
    body: Body<'a>,
    max_bytes: usize,
) -> Result<Decoded<'a>, DecodeError> {
    let mut coding = None;
    for name in content_encoding.split(',') {
        if let Some(next) = Coding::named(name.trim())? {
            if coding.replace(next).is_some() {
                return Err(DecodeError::TooManyCodings);
            }
        }
    }
    match coding {
        Some(coding) => undo(coding, body, max_bytes),
        None => Ok(Decoded {
            bytes: Cow::Borrowed(body.bytes),
            complete: body.complete,
            total_bytes: body.total_bytes,
        }),
    }
}

fn undo(coding: Coding, body: Body<'_>, max_bytes: usize) -> Result<Decoded<'static>, DecodeError> {
    let allowed = body.bytes.len().saturating_mul(MOST_RATIO);
    let limit = max_bytes.min(allowed.saturating_add(FREE_BYTES));
    let (bytes, end) = coding.expand(body.bytes, limit);
    let corrupt = |reason: String| DecodeError::Corrupt {
        coding: coding.name(),
        reason,
    };
    match end {
        Err(Fault::TooLarge) => return Err(DecodeError::TooLarge { limit }),
        Err(Fault::Corrupt(reason)) => return Err(corrupt(reason)),
        Err(Fault::Cut) if body.complete => {
            return Err(corrupt("it ends too early".to_owned()));
        }
        Ok(()) | Err(Fault::Cut) => {}
    }
    let total_bytes = if body.complete {
        Some(bytes.len() as u64)
    } else {
        let ratio = bytes.len() as f64 / body.bytes.len().max(1) as f64;
        body.total_bytes.map(|total| (total as f64 * ratio) as u64)
    };
    Ok(Decoded {
        bytes: Cow::Owned(bytes),
        complete: body.complete,
        total_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    const LIMIT: usize = 1 << 20;

    fn encode(coding: &str, bytes: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::default();
        match coding {
            "gzip" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            "deflate" => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            "raw deflate" => {
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            "zstd" => zstd::stream::encode_all(bytes, 3).unwrap(),
            "br" => {
                let mut encoded = Vec::new();
                let params = brotli::enc::BrotliEncoderParams::default();
                brotli::BrotliCompress(&mut &bytes[..], &mut encoded, &params).unwrap();
                encoded
            }
            _ => bytes.to_vec(),
        }
    }

    fn text() -> Vec<u8> {
        (0..4000)
            .flat_map(|i| format!("message {i} of {}; ", i * 7919 % 1009).into_bytes())
            .collect()
    }

    #[test]
    fn every_coding_is_undone() {
        let text = text();
        for coding in ["gzip", "deflate", "raw deflate", "zstd", "br", "identity"] {
            let encoded = encode(coding, &text);
            let header = coding.trim_start_matches("raw ");
            let decoded = decode(header, Body::whole(&encoded), LIMIT).unwrap();
            assert_eq!(decoded.bytes, text, "{coding}");
            assert_eq!(decoded.total_bytes, Some(text.len() as u64));
            assert!(decoded.complete);
        }
        let named_twice = encode("gzip", &text);
        let decoded = decode("identity, GZIP", Body::whole(&named_twice), LIMIT).unwrap();
        assert_eq!(decoded.bytes, text);
        let members = [encode("gzip", &text), encode("gzip", &text)].concat();
        assert_eq!(
            decode("gzip", Body::whole(&members), LIMIT).unwrap().bytes,
            text.repeat(2)
        );
    }

    #[test]
    fn a_cut_body_yields_its_beginning() {
        let text = text();
        for coding in ["gzip", "deflate", "raw deflate", "zstd", "br"] {
            let encoded = encode(coding, &text);
            let header = coding.trim_start_matches("raw ");
            for share in [3, 5, 9] {
                let cut = &encoded[..encoded.len() * share / 10];
                let total = Some(encoded.len() as u64);
                let decoded = decode(header, Body::beginning(cut, total), LIMIT).unwrap();
                assert!(text.starts_with(&decoded.bytes), "{coding}");
                assert!(!decoded.complete);
                if !decoded.bytes.is_empty() {
                    let total = decoded.total_bytes.unwrap() as f64 / text.len() as f64;
                    assert!((0.4..2.5).contains(&total), "{coding} {share}: {total}");
                }
                let whole = decode(header, Body::whole(cut), LIMIT).unwrap_err();
                assert_eq!(whole.code(), "invalid_content_encoding", "{coding}");
            }
        }
    }

    #[test]
    fn expansion_is_bounded_by_what_was_sent() {
        let zeros = vec![0u8; 4 << 20];
        for coding in ["gzip", "deflate", "zstd", "br"] {
            let bomb = encode(coding, &zeros);
            for complete in [true, false] {
                let body = Body {
                    bytes: &bomb,
                    complete,
                    total_bytes: None,
                };
                let error = decode(coding, body, 64 << 20).unwrap_err();
                let limit = FREE_BYTES + bomb.len() * MOST_RATIO;
                assert_eq!(error, DecodeError::TooLarge { limit }, "{coding}");
                assert_eq!(error.status(), 413);
            }
            let small = encode(coding, &zeros[..FREE_BYTES]);
            assert!(decode(coding, Body::whole(&small), LIMIT).is_ok());
        }
        let exactly = encode("gzip", &zeros[..5000]);
        assert!(decode("gzip", Body::whole(&exactly), 5000).is_ok());
        assert!(decode("gzip", Body::whole(&exactly), 4999).is_err());
        assert_eq!(
            decode("compress", Body::whole(b""), 9)
                .unwrap_err()
                .status(),
            415
        );
    }

    #[test]
    fn members_of_a_gzip_body_are_bounded_in_number() {
        let (text, empty) = (encode("gzip", &text()), encode("gzip", b""));
        let body = |members: usize| [empty.repeat(members - 1), text.clone()].concat();
        assert!(decode("gzip", Body::whole(&body(MOST_MEMBERS)), LIMIT).is_ok());
        for body in [body(MOST_MEMBERS + 1), empty.repeat(100_000)] {
            let error = decode("gzip", Body::whole(&body), LIMIT).unwrap_err();
            assert_eq!(error.code(), "invalid_content_encoding");
            assert!(error.to_string().contains("1024 members"), "{error}");
        }
    }

    #[test]
    fn a_second_coding_is_refused() {
        let twice = encode("br", &encode("gzip", &text()));
        for header in ["gzip, br", "gzip,gzip", "br , x-gzip"] {
            let error = decode(header, Body::whole(&twice), LIMIT).unwrap_err();
            assert_eq!(error, DecodeError::TooManyCodings, "{header}");
            assert_eq!(error.status(), 415);
        }
    }

    #[test]
    fn a_zstd_window_beyond_the_bound_is_refused() {
        // An empty frame that asks for a window of 2^log bytes.
        let frame = |log: u8| {
            [
                0x28,
                0xB5,
                0x2F,
                0xFD,
                0x00,
                (log - 10) << 3,
                0x01,
                0x00,
                0x00,
            ]
        };
        assert!(decode("zstd", Body::whole(&frame(23)), LIMIT).is_ok());
        let error = decode("zstd", Body::whole(&frame(24)), LIMIT).unwrap_err();
        assert_eq!(error.code(), "invalid_content_encoding");
    }

    proptest! {
        #[test]
        fn any_bytes_are_expanded_or_refused(
            coding in prop_oneof!["gzip", "deflate", "zstd", "br", "gzip, br"],
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            complete in any::<bool>(),
        ) {
            let body = Body { bytes: &bytes, complete, total_bytes: Some(600) };
            if let Ok(decoded) = decode(&coding, body, 4096) {
                prop_assert!(decoded.bytes.len() <= 4096);
            }
        }
    }
}
