//! How many tiles an image in a URL takes, from the first bytes of its data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Base64 characters that are looked at: sizes stand near the beginning, after thumbnails.
const HEAD: usize = 128 << 10;
/// Side of a tile, pixels.
const TILE: usize = 512;
/// The most tiles of one image; larger ones are scaled down.
const MOST: usize = 16;

/// Tiles of an image: 1 when its size is not to be seen in the URL.
pub(crate) fn tiles(url: &str) -> u32 {
    let Some((width, height)) = size(url) else {
        return 1;
    };
    let tiles = width.div_ceil(TILE).saturating_mul(height.div_ceil(TILE));
    u32::try_from(tiles.clamp(1, MOST)).unwrap_or(1)
}

fn size(url: &str) -> Option<(usize, usize)> {
    let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
    if !head.ends_with(";base64") {
        return None;
    }
    let length = data.len().min(HEAD) / 4 * 4;
    let bytes = STANDARD.decode(data.as_bytes().get(..length)?).ok()?;
    let size = imagesize::blob_size(&bytes).ok()?;
    Some((size.width, size.height))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::tiles;

    /// The head of a GIF of this size.
    fn gif(width: u16, height: u16) -> String {
        let mut bytes = b"GIF89a".to_vec();
        bytes.extend(width.to_le_bytes());
        bytes.extend(height.to_le_bytes());
        bytes.extend([0; 20]);
        format!("data:image/gif;base64,{}", STANDARD.encode(bytes))
    }

    #[test]
    fn tiles_cover_the_image() {
        assert_eq!(tiles(&gif(512, 512)), 1);
        assert_eq!(tiles(&gif(513, 1024)), 4);
        assert_eq!(tiles(&gif(60_000, 60_000)), 16);
        assert_eq!(tiles("https://example.org/a.png"), 1);
        assert_eq!(tiles("data:image/png;base64,%%%"), 1);
    }
}
