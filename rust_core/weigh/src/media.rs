//! Images, videos, documents and audio as tokens and tiles.

use serde::{Deserialize, Serialize};

use crate::check::{counts, fault, not_negative};
use crate::image::{Detail, Image, Media};
use crate::profile::ProfileError;
use crate::reading::Reading;

/// How a model turns an image into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageRule {
    /// Every image has the same tokens.
    Fixed {
        /// Tokens of an image.
        tokens: f64,
    },
    /// An image is scaled down to fit, and cut into square tiles beside one overview.
    Tiles {
        /// Side of a tile, pixels.
        tile_px: u32,
        /// Tokens of the overview, all there is at low detail.
        base_tokens: f64,
        /// Tokens of a tile.
        tokens_per_tile: f64,
        /// Most tiles.
        max_tiles: u32,
        /// The longer side is scaled down to this, pixels; 0 for no limit.
        long_side_px: u32,
        /// Then the shorter side is scaled down to this, pixels; 0 for no limit.
        short_side_px: u32,
    },
    /// An image is cut into square patches, a token each, and scaled to have neither too few nor
    /// too many.
    Patches {
        /// Side of a patch, pixels.
        patch_px: u32,
        /// Fewest tokens, which is also what low detail has.
        min_tokens: u32,
        /// Most tokens.
        max_tokens: u32,
        /// Tokens that make a tile, the unit in which encoding is weighed.
        tokens_per_tile: u32,
    },
}

/// How images become tokens and tiles, and what is assumed of those whose header was not seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageRules {
    /// How the model does it.
    pub tokens: ImageRule,
    /// Width of an image whose header was not seen, such as a remote one, pixels.
    pub default_width: u32,
    /// Its height, pixels.
    pub default_height: u32,
    /// Frames of a video, each an image of the default size.
    pub video_frames: u32,
    /// Pages of a document, each an image of the default size.
    pub document_pages: u32,
}

impl Default for ImageRules {
    fn default() -> Self {
        Self {
            tokens: ImageRule::Tiles {
                tile_px: 512,
                base_tokens: 85.0,
                tokens_per_tile: 170.0,
                max_tiles: 16,
                long_side_px: 2048,
                short_side_px: 768,
            },
            default_width: 1024,
            default_height: 1024,
            video_frames: 16,
            document_pages: 4,
        }
    }
}

impl ImageRules {
    /// Tokens and tiles of all media of a request.
    pub(crate) fn weigh(&self, reading: &Reading) -> (f64, u64) {
        let mut sum = (0.0, 0u64);
        let mut last = (0.0, 0u64);
        for image in &reading.images {
            last = self.one(image, reading.video_frames);
            sum = (sum.0 + last.0, sum.1.saturating_add(last.1));
        }
        let tokens = last.0 * reading.more_images as f64;
        (
            sum.0 + tokens,
            sum.1
                .saturating_add(last.1.saturating_mul(reading.more_images)),
        )
    }

    fn one(&self, image: &Image, frames: u32) -> (f64, u64) {
        let default = (self.default_width, self.default_height);
        let times = match image.media {
            Media::Image => {
                return self
                    .tokens
                    .weigh(image.size.unwrap_or(default), image.detail);
            }
            Media::Video => self.video_frames.max(frames),
            Media::Document => self.document_pages,
        };
        let (tokens, tiles) = self.tokens.weigh(default, image.detail);
        (
            tokens * f64::from(times),
            tiles.saturating_mul(u64::from(times)),
        )
    }

    pub(crate) fn validate(&self) -> Result<(), ProfileError> {
        counts("images.default_width", u64::from(self.default_width))?;
        counts("images.default_height", u64::from(self.default_height))?;
        self.tokens.validate()
    }
}

impl ImageRule {
    /// Tokens and tiles of one image of `size` pixels.
    fn weigh(&self, size: (u32, u32), detail: Detail) -> (f64, u64) {
        let (width, height) = (f64::from(size.0.max(1)), f64::from(size.1.max(1)));
        match *self {
            Self::Fixed { tokens } => (tokens, 1),
            Self::Tiles { base_tokens, .. } if detail == Detail::Low => (base_tokens, 1),
            Self::Tiles {
                tile_px,
                base_tokens,
                tokens_per_tile,
                max_tiles,
                long_side_px,
                short_side_px,
            } => {
                let long = shrink(width.max(height), long_side_px);
                let short = shrink(width.min(height) * long, short_side_px);
                let side = f64::from(tile_px);
                let tiles = |pixels: f64| (pixels * long * short / side).ceil().max(1.0);
                let tiles = (tiles(width) * tiles(height)).min(f64::from(max_tiles));
                (base_tokens + tokens_per_tile * tiles, tiles as u64)
            }
            Self::Patches {
                patch_px,
                min_tokens,
                max_tokens,
                tokens_per_tile,
            } => {
                let side = f64::from(patch_px);
                let patches = (width / side).ceil() * (height / side).ceil();
                let most = if detail == Detail::Low {
                    min_tokens
                } else {
                    max_tokens
                };
                let tokens = patches.clamp(f64::from(min_tokens), f64::from(most.max(min_tokens)));
                (tokens, (tokens / f64::from(tokens_per_tile)).ceil() as u64)
            }
        }
    }

    fn validate(&self) -> Result<(), ProfileError> {
        match *self {
            Self::Fixed { tokens } => not_negative("images.tokens.tokens", tokens),
            Self::Tiles {
                tile_px,
                base_tokens,
                tokens_per_tile,
                max_tiles,
                ..
            } => {
                counts("images.tokens.tile_px", u64::from(tile_px))?;
                counts("images.tokens.max_tiles", u64::from(max_tiles))?;
                not_negative("images.tokens.base_tokens", base_tokens)?;
                not_negative("images.tokens.tokens_per_tile", tokens_per_tile)
            }
            Self::Patches {
                patch_px,
                min_tokens,
                max_tokens,
                tokens_per_tile,
            } => {
                counts("images.tokens.patch_px", u64::from(patch_px))?;
                counts("images.tokens.tokens_per_tile", u64::from(tokens_per_tile))?;
                if min_tokens > max_tokens {
                    return fault("images.tokens.min_tokens", "must be at most max_tokens");
                }
                Ok(())
            }
        }
    }
}

/// The factor that scales a side of `pixels` down to `most`; never up.
fn shrink(pixels: f64, most: u32) -> f64 {
    if most == 0 {
        1.0
    } else {
        (f64::from(most) / pixels).min(1.0)
    }
}

/// How audio becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AudioRules {
    /// Tokens of a second of audio.
    pub tokens_per_second: f64,
}

impl Default for AudioRules {
    fn default() -> Self {
        Self {
            tokens_per_second: 25.0,
        }
    }
}

impl AudioRules {
    pub(crate) fn tokens(&self, seconds: f64) -> f64 {
        self.tokens_per_second * seconds
    }

    pub(crate) fn validate(&self) -> Result<(), ProfileError> {
        not_negative("audio.tokens_per_second", self.tokens_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: u32, height: u32, detail: Detail) -> Image {
        Image {
            size: Some((width, height)),
            detail,
            ..Image::default()
        }
    }

    #[test]
    fn tiles_follow_the_published_examples() {
        // The examples of OpenAI's vision guide.
        let rules = ImageRules::default();
        assert_eq!(rules.one(&image(1024, 1024, Detail::High), 0), (765.0, 4));
        assert_eq!(rules.one(&image(2048, 4096, Detail::High), 0), (1105.0, 6));
        assert_eq!(rules.one(&image(4096, 8192, Detail::Low), 0), (85.0, 1));
    }

    #[test]
    fn patches_are_bounded() {
        let tokens = ImageRule::Patches {
            patch_px: 28,
            min_tokens: 4,
            max_tokens: 1280,
            tokens_per_tile: 256,
        };
        let rules = ImageRules {
            tokens,
            ..ImageRules::default()
        };
        assert_eq!(rules.one(&image(280, 560, Detail::Auto), 0), (200.0, 1));
        assert_eq!(rules.one(&image(1, 1, Detail::Auto), 0), (4.0, 1));
        assert_eq!(rules.one(&image(9000, 9000, Detail::Auto), 0), (1280.0, 5));
        assert_eq!(rules.one(&image(9000, 9000, Detail::Low), 0), (4.0, 1));
    }

    #[test]
    fn images_not_kept_weigh_like_the_last_one() {
        let reading = Reading {
            images: vec![image(512, 512, Detail::High), image(10, 10, Detail::Low)],
            more_images: 3,
            ..Reading::default()
        };
        assert_eq!(
            ImageRules::default().weigh(&reading),
            (255.0 + 4.0 * 85.0, 5)
        );
    }
}
