//! One replica's part of the prefix index: what it has likely cached, and how far to trust that.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::PrefixIndex;
use super::lru::Lru;
use super::table::normal;
use crate::replica::ReplicaId;

/// Trust lost by one broken promise. With [`TRUST_GAIN`] it settles where one promise in eleven is
/// broken: some are broken by timing alone (a prompt whose twin is still in prefill).
const TRUST_LOSS: f64 = 0.99;

/// Trust won by one kept promise.
const TRUST_GAIN: f64 = 0.001;

/// Trust never falls below this, so a replica that reports nonsense keeps a small index of its own.
const LEAST_TRUST: f64 = 1.0 / 16.0;

/// What a replica has likely cached: its blocks in order of use, at most as many as its KV memory
/// holds, the leaves of a chain given up before their prefix.
#[derive(Debug)]
pub struct ReplicaCache {
    id: ReplicaId,
    index: Arc<PrefixIndex>,
    blocks: Mutex<Blocks>,
    /// Share of what the index promises that is counted on, in 1/65,536.
    believed: AtomicU32,
}

/// The whole of a share.
const WHOLE: u32 = 1 << 16;

#[derive(Debug)]
struct Blocks {
    lru: Lru,
    /// Blocks its KV memory holds.
    limit: usize,
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
                limit,
                trust: 1.0,
            }),
            believed: AtomicU32::new(WHOLE),
        }
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

    /// Notes that this replica has, or is about to have, the whole chain in its cache. Returns how
    /// many of its blocks were not held before.
    ///
    /// Blocks are touched from the leaf to the root: a prefix is always more recent than what
    /// follows it, so the least recent block is a leaf.
    pub fn record(&self, chain: &[u64]) -> usize {
        if self.id.0 >= super::MOST_REPLICAS {
            return 0;
        }
        let mut guard = self.lock();
        let blocks = &mut *guard;
        let allowed = blocks.allowed();
        let mut fresh = 0;
        for block in chain.iter().take(allowed).rev() {
            let block = normal(*block);
            if blocks.lru.touch(block) {
                self.index.hold(block, self.id);
                fresh += 1;
            }
        }
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
        for block in blocks.lru.take() {
            self.index.release(block, self.id);
        }
        blocks.trust = 1.0;
        self.believed.store(WHOLE, Relaxed);
    }

    /// Sets how many blocks its KV memory holds.
    pub fn set_limit(&self, limit: usize) {
        let mut guard = self.lock();
        guard.limit = limit;
        let allowed = guard.allowed();
        self.shrink(&mut guard, allowed);
    }

    /// Blocks held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().lru.len()
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
        self.lock().lru.bytes()
    }

    fn shrink(&self, blocks: &mut Blocks, allowed: usize) {
        while blocks.lru.len() > allowed {
            let Some(block) = blocks.lru.pop_oldest() else {
                break;
            };
            self.index.release(block, self.id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
