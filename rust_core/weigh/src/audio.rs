//! Seconds of audio, from the header or the usual bit rate of its format.

use crate::base64::Base64;

/// Seconds assumed of audio behind a URL.
pub(crate) const REMOTE_SECONDS: f64 = 30.0;

/// Audio of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Audio {
    /// Bytes of audio, headers included.
    pub(crate) bytes: usize,
    /// Bytes that make a second.
    pub(crate) bytes_per_second: f64,
    /// Whether the data itself told the rate.
    pub(crate) certain: bool,
}

impl Audio {
    /// Audio in base64 `data`, whose format may be known only from the data itself.
    pub(crate) fn inline(data: &[u8]) -> Self {
        let view = Base64(data);
        let (bytes_per_second, certain) = match told_rate(view) {
            Some(rate) => (rate, true),
            None => (usual_rate(b"mp3"), false),
        };
        Self {
            bytes: view.len(),
            bytes_per_second,
            certain,
        }
    }

    /// The same, now that the client has named the format.
    pub(crate) fn of_format(self, format: &[u8]) -> Self {
        if self.certain {
            return self;
        }
        Self {
            bytes_per_second: usual_rate(format),
            ..self
        }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.bytes as f64 / self.bytes_per_second
    }
}

/// Bytes of a second in the usual quality of a format.
fn usual_rate(format: &[u8]) -> f64 {
    match format {
        // 16 bit mono at 24 kHz, as the OpenAI API takes it.
        b"pcm16" | b"pcm" | b"wav" => 48_000.0,
        b"flac" => 60_000.0,
        b"opus" | b"ogg" | b"webm" => 4_000.0,
        b"g711_ulaw" | b"g711_alaw" => 8_000.0,
        // MP3, AAC and M4A at 128 kbit/s.
        _ => 16_000.0,
    }
}

/// Bytes of a second as the data itself tells them.
fn told_rate(data: Base64<'_>) -> Option<f64> {
    match data.array(0)? {
        [b'R', b'I', b'F', b'F'] if data.has(8, b"WAVE") => wav_rate(data),
        [b'f', b'L', b'a', b'C'] => Some(usual_rate(b"flac")),
        [b'O', b'g', b'g', b'S'] => Some(usual_rate(b"ogg")),
        _ => None,
    }
}

/// The byte rate of a WAV file, from its `fmt ` chunk.
fn wav_rate(data: Base64<'_>) -> Option<f64> {
    /// Chunks looked at before `fmt `.
    const MAX_CHUNKS: usize = 16;
    let mut at = 12usize;
    for _ in 0..MAX_CHUNKS {
        if data.has(at, b"fmt ") {
            let rate = u32::from_le_bytes(data.array(at + 16)?);
            return (rate > 0).then(|| f64::from(rate));
        }
        let size = u32::from_le_bytes(data.array(at.checked_add(4)?)?) as usize;
        // Chunks are padded to an even size.
        at = at
            .checked_add(8)?
            .checked_add(size)?
            .checked_add(size % 2)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base64::tests::encode;
    use proptest::prelude::*;

    fn wav(rate: u32, seconds: usize) -> Vec<u8> {
        let mut bytes = b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0\x01\0\x01\0".to_vec();
        bytes.extend(16_000u32.to_le_bytes());
        bytes.extend(rate.to_le_bytes());
        bytes.extend(vec![0; rate as usize * seconds]);
        bytes
    }

    #[test]
    fn a_wav_file_tells_its_rate() {
        let audio = Audio::inline(&encode(&wav(32_000, 3)));
        assert!(
            audio.certain && (audio.seconds() - 3.0).abs() < 0.01,
            "{audio:?}"
        );
        assert_eq!(audio.of_format(b"mp3"), audio);
    }

    #[test]
    fn other_formats_have_their_usual_rate() {
        let audio = Audio::inline(&encode(&[0; 48_000]));
        assert_eq!(audio.seconds(), 3.0);
        assert_eq!(audio.of_format(b"pcm16").seconds(), 1.0);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_length(
            wav in any::<bool>(), bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let head: &[u8] = if wav { b"RIFF\0\0\0\0WAVE" } else { b"" };
            let seconds = Audio::inline(&encode(&[head, &bytes].concat())).seconds();
            prop_assert!(seconds.is_finite() && seconds >= 0.0);
        }
    }
}
