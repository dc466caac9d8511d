//! One replica's part of the prefix index: what it has likely cached, and how far to trust that.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::PrefixIndex;
use super::lru::Lru;
use super::marks::Mark;
use super::table::normal;
use crate::replica::ReplicaId;

/// Trust lost by one broken promise. With [`TRUST_GAIN`] it settles where one promise in eleven is
/// broken: some are broken by timing alone (a prompt whose twin is still in prefill).
const TRUST_LOSS: f64 = 0.99;

/// Trust won by one kept promise.
const TRUST_GAIN: f64 = 0.001;

/// Trust never falls below this, so a replica that reports nonsense keeps a small index of its own.
const LEAST_TRUST: f64 = 1.0 / 16.0;

/// A cache counts as full from this share of what it may hold on.
const FULL: f64 = 0.9;

/// What a replica has likely cached: the marks of its chains in order of use. They stand for at most
/// as many blocks as its KV memory holds; the leaves of a chain are given up before their prefix.
#[derive(Debug)]
pub struct ReplicaCache {
    id: ReplicaId,
    index: Arc<PrefixIndex>,
    blocks: Mutex<Blocks>,
    /// Share of what the index promises that is counted on, in 1/65,536.
    believed: AtomicU32,
    /// Blocks recorded of late ÷ those it may hold, in 1/65,536.
    turnover: AtomicU32,
}

/// Of what a cache may hold, the part that is expected of requests on their way, one in so many; and
/// fewest marks of such.
const EXPECTED_PART: usize = 8;
const LEAST_EXPECTED: usize = 64;

/// The whole of a share.
const WHOLE: u32 = 1 << 16;

#[derive(Debug)]
struct Blocks {
    lru: Lru,
    /// Marks of requests that have not been answered yet, none of which is among the above. They push
    /// out none of those.
    expected: Lru,
    /// Blocks that the marks held stand for.
    held: f64,
    /// Blocks recorded that were not held, as far as they have not faded.
    recent: f64,
    /// Blocks its KV memory holds.
    limit: usize,
    /// Marks it may hold at most, whatever they stand for.
    most_marks: usize,
    /// Share of the limit that its reports have borne out, up to 1.
    trust: f64,
}

impl Blocks {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    fn allowed(&self) -> usize {
        (self.limit as f64 * self.trust) as usize
    }

    /// Gives up the least recent mark. Of how many blocks it stood for is not remembered: it counts
    /// as the mean of those held.
    #[allow(clippy::cast_precision_loss)]
    fn pop(&mut self) -> Option<u64> {
        let mean = self.held / self.lru.len().max(1) as f64;
        let block = self.lru.pop_oldest()?;
        self.held -= mean;
        if self.lru.len() == 0 {
            self.held = 0.0; // Rounding must not add up.
        }
        Some(block)
    }

    #[allow(clippy::cast_precision_loss)]
    fn is_beyond(&self, allowed: usize) -> bool {
        // Half a block of rounding is none.
        self.held >= allowed as f64 + 0.5 || self.lru.len() > self.most_marks
    }
}

impl ReplicaCache {
    /// An empty cache of at most `limit` blocks.
    #[must_use]
    pub fn new(index: Arc<PrefixIndex>, id: ReplicaId, limit: usize) -> Self {
        Self {
            id,
            index,
            blocks: Mutex::new(Blocks {
                lru: Lru::default(),
                expected: Lru::default(),
                held: 0.0,
                recent: 0.0,
                limit,
                most_marks: usize::MAX,
                trust: 1.0,
            }),
            believed: AtomicU32::new(WHOLE),
            turnover: AtomicU32::new(0),
        }
    }

    /// Lets what was recorded of late fade to a share of it, 0 to 1, and takes the turnover anew.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss
    )]
    pub fn fade(&self, keep: f64) {
        let mut blocks = self.lock();
        let allowed = blocks.allowed().max(1) as f64;
        // What has room to spare pushes nothing out.
        let is_full = blocks.held >= FULL * allowed || blocks.lru.len() >= blocks.most_marks;
        let share = if is_full {
            blocks.recent / allowed
        } else {
            0.0
        };
        blocks.recent *= keep.clamp(0.0, 1.0);
        self.turnover
            .store((share * f64::from(WHOLE)) as u32, Relaxed);
    }

    /// The share of what it may hold that was filled anew of late, as far as that has not faded;
    /// 0 while there is room to spare.
    #[must_use]
    pub fn turnover(&self) -> f64 {
        f64::from(self.turnover.load(Relaxed)) / f64::from(WHOLE)
    }

    /// Sets the share, 0 to 1, of promised blocks to count on, as the replica's reports bear out.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn believe(&self, share: f64) {
        let share = (share.clamp(0.0, 1.0) * f64::from(WHOLE)) as u32;
        self.believed.store(share, Relaxed);
    }

    /// The share that is counted on.
    #[must_use]
    pub fn believed_share(&self) -> f64 {
        f64::from(self.believed.load(Relaxed)) / f64::from(WHOLE)
    }

    /// How many of so many promised blocks are counted on.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn believed(&self, promised: u32) -> u32 {
        (u64::from(promised) * u64::from(self.believed.load(Relaxed)) / u64::from(WHOLE)) as u32
    }

    /// Notes that this replica is about to have the whole chain in its cache, if a request that is
    /// on its way there is answered: others with the same prefix are drawn there already. To be
    /// followed by [`ReplicaCache::record`] or [`ReplicaCache::forget`].
    pub fn expect(&self, chain: &[u64]) {
        if self.id.0 >= super::MOST_REPLICAS {
            return;
        }
        let mut guard = self.lock();
        let blocks = &mut *guard;
        let allowed = blocks.allowed();
        let most = (allowed.min(blocks.most_marks) / EXPECTED_PART).max(LEAST_EXPECTED);
        let fits = chain.get(..allowed).unwrap_or(chain);
        let marks: SmallVec<[Mark; 64]> = self.index.marks(fits).take(most).collect();
        for mark in marks.iter().rev() {
            let block = normal(mark.block);
            if blocks.lru.holds(block) {
                continue;
            }
            if blocks.expected.touch(block) {
                self.index.hold(block, self.id);
            }
        }
        while blocks.expected.len() > most {
            let Some(block) = blocks.expected.pop_oldest() else {
                break;
            };
            self.index.release(block, self.id);
        }
    }

    /// Takes back [`ReplicaCache::expect`]: the request was not answered here.
    pub fn forget(&self, chain: &[u64]) {
        let mut guard = self.lock();
        let blocks = &mut *guard;
        if blocks.expected.len() == 0 {
            return;
        }
        for mark in self.index.marks(chain) {
            let block = normal(mark.block);
            if blocks.expected.remove(block) {
                self.index.release(block, self.id);
            }
        }
    }

    /// Notes that this replica has the whole chain in its cache. Returns how many of its blocks were
    /// not held before.
    ///
    /// Blocks are touched from the leaf to the root: a prefix is always more recent than what
    /// follows it, so the least recent block is a leaf.
    #[allow(clippy::cast_precision_loss)]
    pub fn record(&self, chain: &[u64]) -> usize {
        if self.id.slot() >= super::MOST_REPLICAS as usize {
            return 0;
        }
        let mut guard = self.lock();
        let blocks = &mut *guard;
        let allowed = blocks.allowed();
        let fits = chain.get(..allowed).unwrap_or(chain);
        let marks: SmallVec<[Mark; 64]> = self.index.marks(fits).collect();
        blocks
            .lru
            .look_at(marks.iter().map(|mark| normal(mark.block)));
        let mut fresh = 0;
        for mark in marks.iter().rev() {
            let block = normal(mark.block);
            blocks.expected.remove(block);
            if blocks.lru.touch(block) {
                self.index.hold(block, self.id);
                blocks.held += f64::from(mark.blocks);
                fresh += mark.blocks as usize;
            }
        }
        blocks.recent += fresh as f64;
        self.shrink(blocks, allowed);
        fresh
    }

    /// Trues the estimate up to what the engine reported: it found `cached` blocks of a prompt of
    /// which this index had promised `promised`. A replica that breaks promises has less room than
    /// its KV memory (requests in flight hold some), and is believed to hold less from now on.
    pub fn observe(&self, promised: u32, cached: u32) {
        let mut blocks = self.lock();
        let trust = match promised {
            _ if cached < promised => blocks.trust * TRUST_LOSS,
            0 => blocks.trust,
            _ => blocks.trust + TRUST_GAIN,
        };
        blocks.trust = trust.clamp(LEAST_TRUST, 1.0);
    }

    /// Forgets everything: the replica was restarted.
    pub fn clear(&self) {
        let mut blocks = self.lock();
        let expected: Vec<u64> = blocks.expected.take().collect();
        for block in blocks.lru.take().chain(expected) {
            self.index.release(block, self.id);
        }
        blocks.held = 0.0;
        blocks.recent = 0.0;
        blocks.trust = 1.0;
        self.turnover.store(0, Relaxed);
        self.believed.store(WHOLE, Relaxed);
    }

    /// Sets how many blocks its KV memory holds.
    pub fn set_limit(&self, limit: usize) {
        let mut guard = self.lock();
        guard.limit = limit;
        let allowed = guard.allowed();
        self.shrink(&mut guard, allowed);
    }

    /// Sets how many marks it may hold, whatever they stand for: its part of the index's memory.
    pub fn set_most_marks(&self, most: usize) {
        let mut guard = self.lock();
        guard.most_marks = most;
        let allowed = guard.allowed();
        self.shrink(&mut guard, allowed);
    }

    /// Blocks it likely holds now.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn len(&self) -> usize {
        self.lock().held.round().max(0.0) as usize
    }

    /// Entries that it has in the index for them.
    #[must_use]
    pub fn marks(&self) -> usize {
        let blocks = self.lock();
        blocks.lru.len() + blocks.expected.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Blocks it may hold: its limit, as far as it is trusted.
    #[must_use]
    pub fn allowed(&self) -> usize {
        self.lock().allowed()
    }

    /// Bytes of memory behind it, its share of the common table not counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let blocks = self.lock();
        blocks.lru.bytes() + blocks.expected.bytes()
    }

    fn shrink(&self, blocks: &mut Blocks, allowed: usize) {
        while blocks.is_beyond(allowed) {
            let Some(block) = blocks.pop() else {
                break;
            };
            self.index.release(block, self.id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
