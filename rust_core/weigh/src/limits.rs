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
            max_blocks: 1 << 16,
        }
    }
}
