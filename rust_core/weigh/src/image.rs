//! Images and other media in a request; an image's size is read from the header of its inline data.

use crate::base64::Base64;

/// How closely the client wants an image looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Detail {
    /// The model decides.
    #[default]
    Auto,
    /// One small overview.
    Low,
    /// As many tiles as the image fills.
    High,
}

/// What kind of medium it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Media {
    /// One still image.
    #[default]
    Image,
    /// A video.
    Video,
    /// A document (PDF and the like).
    Document,
}

/// One image, video or document of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Image {
    /// What it is.
    pub media: Media,
    /// Width and height in pixels, where an inline header tells them.
    pub size: Option<(u32, u32)>,
    /// The `detail` asked for.
    pub detail: Detail,
    /// Bytes of inline data, encoded as they stand; 0 for a remote URL.
    pub bytes: u64,
}

impl Image {
    /// The medium at a URL, `data:` or remote, that stands where `media` is expected.
    pub(crate) fn at_url(url: &[u8], media: Media) -> Self {
        match inline_data(url) {
            Some((_, data)) => Self::inline(data, media),
            None => Self {
                media,
                ..Self::default()
            },
        }
    }

    /// The medium in base64 `data`. A document's place may hold an image, and the other way round.
    pub(crate) fn inline(data: &[u8], media: Media) -> Self {
        let view = Base64(data);
        let size = size(view);
        let media = if media != Media::Video && view.has(0, b"%PDF") {
            Media::Document
        } else if media == Media::Document && size.is_some() {
            Media::Image
        } else {
            media
        };
        Self {
            media,
            size,
            bytes: data.len() as u64,
            detail: Detail::default(),
        }
    }
}

/// Media type and base64 text of a `data:` URL.
pub(crate) fn inline_data(url: &[u8]) -> Option<(&[u8], &[u8])> {
    /// Longest media type with its parameters, in bytes.
    const MAX_TYPE: usize = 256;
    let rest = url.strip_prefix(b"data:")?;
    let comma = rest.iter().take(MAX_TYPE).position(|&byte| byte == b',')?;
    let (media_type, data) = rest.split_at_checked(comma)?;
    Some((media_type, data.get(1..)?))
}

/// Width and height of a PNG, JPEG, GIF, WebP or BMP image, from its first bytes.
fn size(data: Base64<'_>) -> Option<(u32, u32)> {
    let size = match data.array(0)? {
        [0x89, b'P', b'N', b'G'] => png(data),
        [0xFF, 0xD8, 0xFF, _] => jpeg(data),
        [b'G', b'I', b'F', b'8'] => Some((le16(data, 6)?, le16(data, 8)?)),
        [b'R', b'I', b'F', b'F'] if data.has(8, b"WEBP") => webp(data),
        [b'B', b'M', _, _] => {
            let side = |at| Some(i32::from_le_bytes(data.array(at)?).unsigned_abs());
            Some((side(18)?, side(22)?))
        }
        _ => None,
    };
    size.filter(|&(width, height)| width > 0 && height > 0)
}

fn png(data: Base64<'_>) -> Option<(u32, u32)> {
    if !data.has(12, b"IHDR") {
        return None;
    }
    Some((
        u32::from_be_bytes(data.array(16)?),
        u32::from_be_bytes(data.array(20)?),
    ))
}

fn jpeg(data: Base64<'_>) -> Option<(u32, u32)> {
    /// Segments looked at: real files have a few dozen at most before the frame.
    const MAX_SEGMENTS: usize = 512;
    let mut at = 2usize;
    for _ in 0..MAX_SEGMENTS {
        let [mark, kind, high, low] = data.array(at)?;
        match (mark, kind) {
            // Fill bytes, and markers without a length.
            (0xFF, 0xFF) => at += 1,
            (0xFF, 0x01 | 0xD0..=0xD8) => at += 2,
            // Frames of any coding; C4, C8 and CC are tables.
            (0xFF, 0xC0..=0xCF) if !matches!(kind, 0xC4 | 0xC8 | 0xCC) => {
                return Some((be16(data, at + 7)?, be16(data, at + 5)?));
            }
            (0xFF, _) => at += 2 + usize::from(u16::from_be_bytes([high, low]).max(2)),
            _ => return None,
        }
    }
    None
}

fn webp(data: Base64<'_>) -> Option<(u32, u32)> {
    match &data.array(12)? {
        b"VP8 " if data.has(23, &[0x9D, 0x01, 0x2A]) => {
            Some((le16(data, 26)? & 0x3FFF, le16(data, 28)? & 0x3FFF))
        }
        b"VP8L" if data.has(20, &[0x2F]) => {
            let bits = u32::from_le_bytes(data.array(21)?);
            Some(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        }
        b"VP8X" => {
            let side = |at| {
                let [low, middle, high] = data.array(at)?;
                Some(u32::from_le_bytes([low, middle, high, 0]) + 1)
            };
            Some((side(24)?, side(27)?))
        }
        _ => None,
    }
}

fn be16(data: Base64<'_>, at: usize) -> Option<u32> {
    data.array(at)
        .map(|bytes| u32::from(u16::from_be_bytes(bytes)))
}

fn le16(data: Base64<'_>, at: usize) -> Option<u32> {
    data.array(at)
        .map(|bytes| u32::from(u16::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base64::tests::encode;
    use proptest::prelude::*;

    fn size_of(bytes: &[u8]) -> Option<(u32, u32)> {
        size(Base64(&encode(bytes)))
    }

    #[test]
    fn headers_tell_the_size() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\x80\0\0\x01\xe0\x08\x02";
        assert_eq!(size_of(png), Some((640, 480)));
        assert_eq!(size_of(b"GIF89a\x40\x01\xc8\0"), Some((320, 200)));
        let lossy = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a\x20\x03\x58\x02";
        assert_eq!(size_of(lossy), Some((800, 600)));
        let lossless = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f\x1f\xc3\x95\0\0";
        assert_eq!(size_of(lossless), Some((800, 600)));
        let extended = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x1f\x03\0\x57\x02\0";
        assert_eq!(size_of(extended), Some((800, 600)));
        let mut bmp = b"BM".to_vec();
        bmp.extend([0; 16]);
        bmp.extend(64i32.to_le_bytes());
        bmp.extend((-48i32).to_le_bytes());
        assert_eq!(size_of(&bmp), Some((64, 48)));
    }

    #[test]
    fn a_jpegs_size_stands_behind_its_metadata() {
        let mut jpeg = vec![0xFF, 0xD8, 0xFF, 0xE1, 0xFF, 0xFF];
        jpeg.extend(vec![0; 65_533]);
        jpeg.extend([0xFF, 0xC4, 0, 9, 8, 9, 9, 9, 9, 9, 9]);
        jpeg.extend([
            0xFF, 0xDB, 0, 4, 1, 2, 0xFF, 0xFF, 0xC2, 0, 17, 8, 0x04, 0x38, 0x07, 0x80,
        ]);
        assert_eq!(size_of(&jpeg), Some((1920, 1080)));
        jpeg.truncate(60_000);
        assert_eq!(size_of(&jpeg), None);
    }

    #[test]
    fn a_places_medium_is_told_by_its_data() {
        let pdf = encode(b"%PDF-1.7 and so on");
        assert_eq!(Image::inline(&pdf, Media::Image).media, Media::Document);
        let gif = encode(b"GIF89a\x40\x01\xc8\0");
        assert_eq!(Image::inline(&gif, Media::Document).media, Media::Image);
        let url = [b"data:image/gif;base64,".as_slice(), &gif].concat();
        assert_eq!(Image::at_url(&url, Media::Image).size, Some((320, 200)));
        let remote = Image::at_url(b"https://example.com/a.png", Media::Image);
        assert_eq!((remote.size, remote.bytes), (None, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_size_or_none(
            kind in 0usize..6, bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let heads: [&[u8]; 6] =
                [b"", b"\x89PNG", b"\xFF\xD8\xFF", b"GIF8", b"RIFF\0\0\0\0WEBPVP8", b"BM"];
            let found = size_of(&[heads[kind], &bytes].concat());
            prop_assert!(found.is_none_or(|(width, height)| width > 0 && height > 0));
        }
    }
}
