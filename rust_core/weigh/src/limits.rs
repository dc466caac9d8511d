//! What a reading may hold at most, whatever the body says.

/// Bounds on what [`crate::read`] keeps; the body's own size is the caller's to bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest `model` accepted, in bytes; a longer one is an error.
    pub max_model_bytes: usize,
    /// Longest session hint kept as it is, in bytes; a longer one is replaced by its hash.
    pub max_hint_bytes: usize,
    /// Most choices (`n`, `best_of`) accepted.
    pub max_choices: u32,
    /// Most images kept one by one; later ones are weighed like the last one kept.
    pub max_images: usize,
    /// Most messages, their keys and parts, prompts, tools and top-level keys together; more are an
    /// error.
    pub max_pieces: u32,
    /// Most tokens of prompts given as token ids; more are an error.
    pub max_token_ids: u64,
    /// Most frames of a video that a client may ask for; more count as that.
    pub max_video_frames: u32,
    /// Most blocks in a prefix chain; text beyond them is weighed, but is not part of the chain.
    pub max_blocks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_model_bytes: 512,
            max_hint_bytes: 256,
            max_choices: 128,
            max_images: 1024,
            max_pieces: 1 << 18,
            max_token_ids: 1 << 22,
            max_video_frames: 4096,
            max_blocks: 1 << 16,
        }
    }
}
