//! The prefix index: which replicas have likely cached which chained block.
//!
//! A block's hash is chained: it implies all blocks before it. So the replicas that hold block
//! `i + 1` are among those that hold block `i`, and one walk along the chain finds the longest match
//! of every replica. Chains must be seeded with what divides the engines' caches (model, adapter).
//!
//! Of long chains not every block is kept ([`PrefixIndex::sparse`]).
//!
//! Two halves: a common table (block → holders) in 64 shards, which readers use without a lock, and
//! each replica's [`ReplicaCache`] (its blocks in order of use) behind a lock that only writers of
//! that replica take. A table grows by replacing it, so memory follows what is held.

mod cache;
mod holders;
mod lru;
mod marks;
mod matches;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use smallvec::SmallVec;

pub use cache::ReplicaCache;
pub use matches::Matches;

use crate::replica::ReplicaId;
use holders::MOST_REPLICAS;
use marks::{Mark, Marks};
use table::{Probe, Table, Writer, normal};

/// Shards of the table: writers of different blocks rarely meet.
const SHARDS: usize = 64;

/// Blocks looked up at once, so that their cache misses overlap.
const WINDOW: usize = 16;

/// Which replicas hold which block.
#[derive(Debug)]
pub struct PrefixIndex {
    tables: ArcSwap<Vec<Arc<Table>>>,
    shards: Vec<Mutex<Writer>>,
    growing: Mutex<()>,
    marks: Marks,
}

/// How much an index holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexSize {
    /// Different blocks.
    pub blocks: usize,
    /// Bytes of the common table; the replicas' own parts are [`ReplicaCache::bytes`].
    pub bytes: usize,
}

impl PrefixIndex {
    /// An empty index that keeps every block.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::with_marks(Marks::All)
    }

    /// An empty index that keeps every block near a chain's root, and `per_doubling` blocks from any
    /// depth to twice that depth further down (rounded up to a power of two): matches there are
    /// found too short by up to so great a part of their length.
    #[must_use]
    pub fn sparse(per_doubling: u32) -> Arc<Self> {
        Self::with_marks(Marks::PerDoubling(
            per_doubling.clamp(1, 1 << 16).next_power_of_two(),
        ))
    }

    fn with_marks(marks: Marks) -> Arc<Self> {
        let tables: Vec<Arc<Table>> = (0..SHARDS).map(|_| Arc::new(Table::new(0, 0))).collect();
        let shards = tables
            .iter()
            .map(|table| Mutex::new(Writer::new(Arc::clone(table))))
            .collect();
        Arc::new(Self {
            tables: ArcSwap::from_pointee(tables),
            shards,
            growing: Mutex::new(()),
            marks,
        })
    }

    /// The longest match of all replicas for a chain of block hashes. Takes no lock.
    #[must_use]
    pub fn matches(&self, chain: &[u64]) -> Matches {
        let tables = self.tables.load();
        let mut matches = Matches::default();
        let mut scratch = Vec::new();
        let mut marks = self.marks.of(chain);
        loop {
            let probes: SmallVec<[(u32, Probe<'_>); WINDOW]> = marks
                .by_ref()
                .take(WINDOW)
                .map(|mark| (mark.depth, normal(mark.block)))
                .filter_map(|(depth, block)| {
                    Some((depth, Probe::start(tables.get(shard(block))?, block)))
                })
                .collect();
            if probes.is_empty() {
                return matches;
            }
            for (depth, probe) in probes {
                let narrowed = probe
                    .finish(&mut scratch)
                    .is_some_and(|found| matches.narrow(depth, found));
                if !narrowed {
                    return matches;
                }
            }
        }
    }

    /// The blocks of a chain that it keeps.
    fn marks<'c>(&self, chain: &'c [u64]) -> impl Iterator<Item = Mark> + use<'c> {
        self.marks.of(chain)
    }

    /// How much it holds now.
    #[must_use]
    pub fn size(&self) -> IndexSize {
        self.shards
            .iter()
            .map(lock)
            .fold(IndexSize::default(), |size, writer| IndexSize {
                blocks: size.blocks + writer.blocks(),
                bytes: size.bytes + writer.bytes(),
            })
    }

    fn hold(&self, block: u64, id: ReplicaId) {
        let at = shard(block);
        let Some(shard) = self.shards.get(at) else {
            return;
        };
        let mut writer = lock(shard);
        if let Some(grown) = writer.hold(block, id) {
            // Other shards may grow at the same moment: one after another, none lost.
            let _turn = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut tables = Vec::clone(&self.tables.load());
            if let Some(table) = tables.get_mut(at) {
                *table = grown;
            }
            self.tables.store(Arc::new(tables));
        }
    }

    fn release(&self, block: u64, id: ReplicaId) {
        if let Some(shard) = self.shards.get(shard(block)) {
            lock(shard).release(block, id);
        }
    }
}

fn lock(shard: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shard of a block, by bits that its place within the shard does not use.
#[allow(clippy::cast_possible_truncation)]
fn shard(block: u64) -> usize {
    (lru::spread(block) >> 26) as usize % SHARDS
}
