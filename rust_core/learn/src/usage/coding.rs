//! A reply's content-encoding, undone piece by piece on the way to its parser.

use std::io::{self, Write};

use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use weighbridge_weigh::decode::is_zlib;

use super::Reply;
use super::parser::Parser;

/// Bytes that a reply may expand to before the rest is left unread: what a client reads too.
const MOST_BYTES: u64 = 256 << 20;
/// Largest zstd window, as a power of two: 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Bytes that brotli's output passes through.
const BROTLI_BUFFER: usize = 4096;

/// Reads a reply's body in the pieces in which it passes. Memory is bounded by the content-encoding's
/// window, and is a few hundred bytes where there is none.
pub struct ReplyReader {
    coding: Coding,
    /// Nothing more can be read.
    lost: bool,
    wire_bytes: u64,
    /// Of these, those that came until nothing more could be read.
    read_bytes: u64,
}

enum Coding {
    Plain(Box<Sink>),
    Gzip(Box<MultiGzDecoder<Sink>>),
    /// Whether it is wrapped as zlib is seen in its first bytes.
    DeflateUnseen(Box<Sink>),
    Zlib(Box<ZlibDecoder<Sink>>),
    Deflate(Box<DeflateDecoder<Sink>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Sink>>),
    Brotli(Box<brotli_decompressor::DecompressorWriter<Sink>>),
    /// Broken off while being changed; holds what was read.
    Gone,
}

/// A parser to be written to.
struct Sink {
    parser: Parser,
    bytes: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > MOST_BYTES {
            return Err(io::Error::other("too much"));
        }
        self.parser.feed(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ReplyReader {
    /// A reader for a body with these headers' values.
    #[must_use]
    pub fn new(content_type: Option<&str>, content_encoding: Option<&str>) -> Self {
        let sink = Sink {
            parser: Parser::new(content_type),
            bytes: 0,
        };
        let name = content_encoding.unwrap_or_default().trim();
        let mut lost = false;
        let coding = match name.to_ascii_lowercase().as_str() {
            "" | "identity" => Coding::Plain(Box::new(sink)),
            "gzip" | "x-gzip" => Coding::Gzip(Box::new(MultiGzDecoder::new(sink))),
            "deflate" => Coding::DeflateUnseen(Box::new(sink)),
            "br" => Coding::Brotli(Box::new(brotli_decompressor::DecompressorWriter::new(
                sink,
                BROTLI_BUFFER,
            ))),
            "zstd" => zstd_decoder(sink),
            _ => {
                lost = true;
                Coding::Plain(Box::new(sink))
            }
        };
        lost |= matches!(coding, Coding::Gone);
        Self {
            coding,
            lost,
            wire_bytes: 0,
            read_bytes: 0,
        }
    }

    /// Takes the next bytes, which came at `now_us` on the caller's clock.
    pub fn feed(&mut self, bytes: &[u8], now_us: u64) {
        self.wire_bytes = self.wire_bytes.saturating_add(bytes.len() as u64);
        if self.lost || bytes.is_empty() {
            return;
        }
        self.read_bytes = self.wire_bytes;
        self.look_at_deflate(bytes);
        if let Some(sink) = self.sink_mut() {
            sink.parser.now_us = now_us;
        }
        let written = match &mut self.coding {
            Coding::Plain(sink) | Coding::DeflateUnseen(sink) => sink.write_all(bytes),
            Coding::Gzip(decoder) => expand(decoder, bytes),
            Coding::Zlib(decoder) => expand(decoder, bytes),
            Coding::Deflate(decoder) => expand(decoder, bytes),
            Coding::Zstd(decoder) => expand(decoder, bytes),
            Coding::Brotli(decoder) => expand(decoder, bytes),
            Coding::Gone => Ok(()),
        };
        self.lost = written.is_err();
    }

    /// Whether output has been seen: of a stream its first piece, of anything else its first bytes.
    #[must_use]
    pub fn has_output(&self) -> bool {
        let seen = |sink: &Sink| sink.parser.has_output();
        (self.lost && self.wire_bytes > 0) || self.sink().is_some_and(seen)
    }

    /// Output tokens of a stream so far, of all its answers, as its events and text suggest; 0 of what
    /// is no stream or cannot be read.
    #[must_use]
    pub fn streamed_tokens(&self) -> u64 {
        self.sink().map_or(0, |sink| sink.parser.streamed_tokens())
    }

    /// What was seen so far; at the end of the body, all of it.
    #[must_use]
    pub fn reply(&self) -> Reply {
        let mut reply = self
            .sink()
            .map(|sink| sink.parser.reply())
            .unwrap_or_default();
        reply.is_unread = self.lost;
        if self.lost {
            reply.text_bytes = self.text_bytes(reply.text_bytes);
        }
        reply
    }

    /// Bytes of text in a reply that could be read in part: the rest has as many for each of its
    /// own. Of one that could not be read there is nothing better to estimate by than what passed.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    fn text_bytes(&self, read: u64) -> u64 {
        if read == 0 {
            return self.wire_bytes;
        }
        let all = self.wire_bytes as f64 / self.read_bytes.max(1) as f64;
        (read as f64 * all) as u64
    }

    fn look_at_deflate(&mut self, bytes: &[u8]) {
        let Coding::DeflateUnseen(_) = self.coding else {
            return;
        };
        if let Coding::DeflateUnseen(sink) = std::mem::replace(&mut self.coding, Coding::Gone) {
            self.coding = if is_zlib(bytes) {
                Coding::Zlib(Box::new(ZlibDecoder::new(*sink)))
            } else {
                Coding::Deflate(Box::new(DeflateDecoder::new(*sink)))
            };
        }
    }

    fn sink(&self) -> Option<&Sink> {
        match &self.coding {
            Coding::Plain(sink) | Coding::DeflateUnseen(sink) => Some(sink),
            Coding::Gzip(decoder) => Some(decoder.get_ref()),
            Coding::Zlib(decoder) => Some(decoder.get_ref()),
            Coding::Deflate(decoder) => Some(decoder.get_ref()),
            Coding::Zstd(decoder) => Some(decoder.get_ref()),
            Coding::Brotli(decoder) => Some(decoder.get_ref()),
            Coding::Gone => None,
        }
    }

    fn sink_mut(&mut self) -> Option<&mut Sink> {
        match &mut self.coding {
            Coding::Plain(sink) | Coding::DeflateUnseen(sink) => Some(sink),
            Coding::Gzip(decoder) => Some(decoder.get_mut()),
            Coding::Zlib(decoder) => Some(decoder.get_mut()),
            Coding::Deflate(decoder) => Some(decoder.get_mut()),
            Coding::Zstd(decoder) => Some(decoder.get_mut()),
            Coding::Brotli(decoder) => Some(decoder.get_mut()),
            Coding::Gone => None,
        }
    }
}

/// A decoder with a bounded window.
fn zstd_decoder(sink: Sink) -> Coding {
    match zstd::stream::write::Decoder::new(sink) {
        Ok(mut decoder) => match decoder.window_log_max(ZSTD_WINDOW_LOG_MAX) {
            Ok(()) => Coding::Zstd(Box::new(decoder)),
            Err(_) => Coding::Gone,
        },
        Err(_) => Coding::Gone,
    }
}

/// Writes all, and lets out at once what it expands to, so that events are seen when they come.
fn expand(decoder: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    decoder.write_all(bytes)?;
    decoder.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content_type: &str, body: &[u8]) -> Reply {
        let mut reader = ReplyReader::new(Some(content_type), None);
        reader.feed(body, 7);
        reader.reply()
    }

    #[test]
    fn an_unknown_encoding_is_estimated_by_its_bytes() {
        let mut reader = ReplyReader::new(Some("application/json"), Some("compress"));
        reader.feed(&[1; 400], 0);
        let reply = reader.reply();
        assert!(reply.is_unread);
        assert_eq!(reply.output_tokens(), 100);
    }

    #[test]
    fn what_could_not_be_read_is_as_dense_as_what_could() {
        let event = b"data: {\"choices\":[{\"delta\":{\"content\":\"four\"}}]}\n\n";
        let mut body = Vec::new();
        let level = flate2::Compression::default();
        let mut encoder = flate2::write::GzEncoder::new(&mut body, level);
        encoder.write_all(&event.repeat(100)).unwrap();
        // More white space than is read of any reply.
        for _ in 0..300 {
            encoder.write_all(&vec![b' '; 1 << 20]).unwrap();
        }
        encoder.finish().unwrap();
        let mut reader = ReplyReader::new(Some("text/event-stream"), Some("gzip"));
        for piece in body.chunks(4096) {
            reader.feed(piece, 0);
        }
        let reply = reader.reply();
        assert!(reply.is_unread);
        assert!((100..200).contains(&reply.output_tokens()), "{reply:?}");
    }

    #[test]
    fn broken_bytes_end_the_reading_and_nothing_else() {
        for name in ["gzip", "deflate", "zstd", "br"] {
            let mut reader = ReplyReader::new(None, Some(name));
            for _ in 0..4 {
                reader.feed(&[0xff; 300], 0);
            }
            assert!(reader.reply().is_unread, "{name}");
        }
    }

    #[test]
    fn a_reply_without_a_type_is_known_by_its_first_byte() {
        let json = read("", br#" {"usage":{"prompt_tokens":5}} "#);
        assert_eq!(json.usage.prompt_tokens, Some(5));
        let events = read("", b"\n: hi\ndata: {\"usage\":{\"prompt_tokens\":6}}\n\n");
        assert_eq!(events.usage.prompt_tokens, Some(6));
    }
}
