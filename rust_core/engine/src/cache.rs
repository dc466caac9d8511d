//! What is told of the cache: its events and its counts.

/// What the cache did, for those who follow it from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheEvent {
    /// A request's consecutive blocks became findable.
    Stored {
        /// The request that filled them.
        request: u64,
        /// Hash of the block before the first, if there is one.
        parent: Option<u64>,
        /// Position of the first block in the request's sequence.
        first_block: u32,
        /// Their hashes, in order.
        hashes: Vec<u64>,
    },
    /// A block is no longer held at any level.
    Removed {
        /// Its hash.
        hash: u64,
    },
    /// A block moved between the device (level 0) and the host (level 1).
    Moved {
        /// Its hash.
        hash: u64,
        /// The level it left.
        from: u8,
        /// The level it is at now.
        to: u8,
    },
}

/// The cache's counts, named as the engine's own statistics name them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvStats {
    /// Blocks on the device.
    pub max_blocks: u32,
    /// Device blocks that no request holds; some still carry reusable content.
    pub free_blocks: u32,
    /// Device blocks that requests hold.
    pub used_blocks: u32,
    /// Free device blocks with reusable content.
    pub cached_blocks: u32,
    /// Host blocks in use.
    pub host_blocks: u32,
    /// Blocks handed to requests since the start, reused ones included.
    pub alloc_total: u64,
    /// Blocks handed out empty since the start.
    pub alloc_new: u64,
    /// Blocks found by prefix since the start.
    pub reused: u64,
    /// Whole prompt blocks not found since the start.
    pub missed: u64,
    /// Nodes whose content was given up since the start.
    pub evicted: u64,
}
