//! The registry: publishes pools, and keeps ledgers and numbers of endpoints across them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use crate::address::canonical_endpoint;
use crate::ledger::Load;
use crate::prefix::{PrefixIndex, ReplicaCache};
use crate::replica::{ModelPool, Pool, Replica, ReplicaId, ReplicaSpec};
use crate::ring::Ring;

/// How large the prefix index may grow, and how finely it knows what replicas have cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexLimits {
    /// Tokens in one block of a prefix chain.
    pub tokens_per_block: u64,
    /// Of a long prompt so many blocks are kept from any depth to twice that depth.
    pub per_doubling: u32,
    /// Entries that all replicas together may have in the index, some 50 bytes each. Each has its
    /// part of them by its KV memory, and gives up what was used longest ago beyond that.
    pub most_marks: u64,
}

impl Default for IndexLimits {
    fn default() -> Self {
        Self {
            tokens_per_block: 64,
            per_doubling: 8,
            most_marks: 4_000_000,
        }
    }
}

/// What one replica may have in the index.
#[derive(Clone, Copy, Debug)]
struct Part {
    blocks: usize,
    marks: usize,
}

impl IndexLimits {
    /// The part of a replica with so many KV tokens in a pool that has `all` together.
    fn part(self, kv_tokens: u64, all: u64) -> Part {
        let marks = u128::from(self.most_marks) * u128::from(kv_tokens) / u128::from(all.max(1));
        Part {
            blocks: usize::try_from(kv_tokens / self.tokens_per_block.max(1)).unwrap_or(usize::MAX),
            marks: usize::try_from(marks).unwrap_or(usize::MAX),
        }
    }
}

/// Endpoints that left are remembered, beyond those with work in flight, up to this many plus a
/// quarter of the live ones: discovery flaps, and a returning replica's cache is still warm.
const REMEMBERED: usize = 16;

/// Publishes the current [`Pool`] and remembers what must outlive a snapshot.
#[derive(Debug)]
pub struct Registry {
    pool: Arc<ArcSwap<Pool>>,
    known: Mutex<Known>,
    limits: IndexLimits,
}

/// The pool that is current whenever it is asked for.
#[derive(Clone, Debug)]
pub struct CurrentPool(Arc<ArcSwap<Pool>>);

impl CurrentPool {
    /// The current pool. Never waits.
    pub fn pool(&self) -> Guard<Arc<Pool>> {
        self.0.load()
    }
}

#[derive(Debug, Default)]
struct Known {
    number: u64,
    /// The pool before the current one, kept so that it is freed here and not by the last request
    /// that looked at it.
    retired: Option<Arc<Pool>>,
    endpoints: HashMap<String, Remembered>,
    free: Vec<ReplicaId>,
    next: u32,
}

#[derive(Debug)]
struct Remembered {
    id: ReplicaId,
    load: Arc<Load>,
    cache: Arc<ReplicaCache>,
    /// The last pool that had it.
    seen: u64,
}

impl Remembered {
    /// Whether nobody else holds it: no pool, no charge, no request under way.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.load) == 1 && Arc::strong_count(&self.cache) == 1
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(IndexLimits::default())
    }
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(limits: IndexLimits) -> Self {
        let index = PrefixIndex::sparse(limits.per_doubling);
        Self {
            pool: Arc::new(ArcSwap::from_pointee(Pool {
                number: 0,
                models: HashMap::new(),
                adapters: HashMap::new(),
                by_endpoint: HashMap::new(),
                by_id: Vec::new(),
                index,
            })),
            known: Mutex::new(Known::default()),
            limits,
        }
    }

    /// The current pool, for the length of a request's decision. Never waits.
    pub fn pool(&self) -> Guard<Arc<Pool>> {
        self.pool.load()
    }

    /// The pool that is current whenever it is asked for, to keep.
    #[must_use]
    pub fn current(&self) -> CurrentPool {
        CurrentPool(Arc::clone(&self.pool))
    }

    /// The current pool, to keep.
    #[must_use]
    pub fn pool_full(&self) -> Arc<Pool> {
        self.pool.load_full()
    }

    /// Publishes a new pool of these replicas and returns its number. Endpoints that stay or come
    /// back keep number, ledger and cached blocks; of two specs with one endpoint the last counts.
    pub fn replace(&self, specs: Vec<ReplicaSpec>) -> u64 {
        let mut guard = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *guard;
        let before = self.pool.load_full();
        known.number += 1;
        let mut by_endpoint: HashMap<String, Arc<Replica>> = HashMap::with_capacity(specs.len());
        let held = specs
            .iter()
            .fold(0u64, |held, spec| held.saturating_add(spec.kv_tokens));
        for mut spec in specs {
            spec.endpoint = canonical_endpoint(&spec.endpoint).into_owned();
            let part = self.limits.part(spec.kv_tokens, held);
            let replica = known.remember(before.index(), spec, part);
            by_endpoint.insert(replica.spec.endpoint.clone(), Arc::new(replica));
        }
        let pool = build(known.number, by_endpoint, &before);
        let live = pool.len();
        self.pool.store(Arc::new(pool));
        known.retired = Some(before);
        known.forget(live);
        known.number
    }
}

impl Known {
    /// The replica of this spec, with what is known of its endpoint.
    fn remember(&mut self, index: &Arc<PrefixIndex>, spec: ReplicaSpec, part: Part) -> Replica {
        let number = self.number;
        if let Some(found) = self.endpoints.get_mut(&spec.endpoint) {
            found.seen = number;
            found.cache.set_limit(part.blocks);
            found.cache.set_most_marks(part.marks);
            let (id, load, cache) = (found.id, Arc::clone(&found.load), Arc::clone(&found.cache));
            return Replica {
                spec,
                id,
                load,
                cache,
            };
        }
        let id = self.free.pop().unwrap_or_else(|| {
            let id = ReplicaId(self.next);
            self.next += 1;
            id
        });
        let load = Arc::new(Load::default());
        let cache = Arc::new(ReplicaCache::new(Arc::clone(index), id, part.blocks));
        cache.set_most_marks(part.marks);
        self.endpoints.insert(
            spec.endpoint.clone(),
            Remembered {
                id,
                load: Arc::clone(&load),
                cache: Arc::clone(&cache),
                seen: number,
            },
        );
        Replica {
            spec,
            id,
            load,
            cache,
        }
    }

    /// Forgets the endpoints that left longest ago, as far as nobody holds them any more.
    fn forget(&mut self, live: usize) {
        let surplus = self
            .endpoints
            .len()
            .saturating_sub(live + live / 4 + REMEMBERED);
        if surplus == 0 {
            return;
        }
        let number = self.number;
        let mut gone: Vec<(u64, String)> = self
            .endpoints
            .iter()
            .filter(|(_, known)| known.seen < number && known.is_idle())
            .map(|(endpoint, known)| (known.seen, endpoint.clone()))
            .collect();
        gone.sort_unstable();
        for (_, endpoint) in gone.into_iter().take(surplus) {
            if let Some(known) = self.endpoints.remove(&endpoint) {
                known.cache.clear();
                self.free.push(known.id.next_generation());
            }
        }
    }
}

/// Builds the snapshot.
fn build(number: u64, by_endpoint: HashMap<String, Arc<Replica>>, before: &Pool) -> Pool {
    let mut ordered: Vec<&Arc<Replica>> = by_endpoint.values().collect();
    ordered.sort_unstable_by(|a, b| a.spec.endpoint.cmp(&b.spec.endpoint));
    let mut grouped: HashMap<String, Vec<Arc<Replica>>> = HashMap::new();
    let mut adapters = HashMap::new();
    let mut by_id: Vec<Option<Arc<Replica>>> = Vec::new();
    for replica in ordered {
        grouped
            .entry(replica.spec.model.clone())
            .or_default()
            .push(Arc::clone(replica));
        for adapter in &replica.spec.adapters {
            adapters
                .entry(adapter.clone())
                .or_insert_with(|| replica.spec.model.clone());
        }
        let slot = replica.id.slot();
        if by_id.len() <= slot {
            by_id.resize(slot + 1, None);
        }
        if let Some(place) = by_id.get_mut(slot) {
            *place = Some(Arc::clone(replica));
        }
    }
    let models = grouped
        .into_iter()
        .map(|(model, replicas)| {
            let old = before.models.get(&model).map(|old| &**old);
            (model.clone(), Arc::new(gather(model, replicas, old)))
        })
        .collect();
    Pool {
        number,
        models,
        adapters,
        by_endpoint,
        by_id,
        index: Arc::clone(&before.index),
    }
}

/// The replicas of one model; with the same members as before, they keep their ring.
fn gather(model: String, replicas: Vec<Arc<Replica>>, old: Option<&ModelPool>) -> ModelPool {
    let ring = old
        .filter(|old| same_members(&old.replicas, &replicas))
        .map_or_else(
            || Arc::new(Ring::build(&replicas)),
            |old| Arc::clone(&old.ring),
        );
    let mut with_adapter: HashMap<String, Vec<ReplicaId>> = HashMap::new();
    let mut open = Vec::with_capacity(replicas.len());
    let highest = replicas.iter().map(|replica| replica.id.slot()).max();
    let mut numbers: Box<[u64]> = vec![0; highest.map_or(0, |slot| slot / 64 + 1)].into();
    for replica in &replicas {
        if let Some(word) = numbers.get_mut(replica.id.slot() / 64) {
            *word |= 1 << (replica.id.slot() % 64);
        }
    }
    let mut mu_per_ms = 0.0;
    for replica in replicas
        .iter()
        .filter(|replica| replica.spec.state.is_open())
    {
        open.push(replica.id);
        mu_per_ms += replica.mu_per_ms();
        for adapter in &replica.spec.adapters {
            with_adapter
                .entry(adapter.clone())
                .or_default()
                .push(replica.id);
        }
    }
    ModelPool {
        model,
        replicas,
        mu_per_ms,
        ring,
        open,
        numbers,
        with_adapter,
    }
}

fn same_members(old: &[Arc<Replica>], new: &[Arc<Replica>]) -> bool {
    old.len() == new.len()
        && old
            .iter()
            .zip(new)
            .all(|(a, b)| a.spec.endpoint == b.spec.endpoint && a.id == b.id)
}
