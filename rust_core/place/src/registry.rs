//! The registry: publishes pools, and keeps ledgers and numbers of endpoints across them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use crate::bounded_hash::Ring;
use crate::ledger::Load;
use crate::prefix::{PrefixIndex, ReplicaCache};
use crate::replica::{ModelPool, Pool, Replica, ReplicaId, ReplicaSpec};

/// Tokens in one block of a prefix chain, where nothing else is configured.
pub const TOKENS_PER_BLOCK: u64 = 64;

/// Endpoints that left are remembered, beyond those with work in flight, up to this many plus a
/// quarter of the live ones: discovery flaps, and a returning replica's cache is still warm.
const REMEMBERED: usize = 16;

/// Publishes the current [`Pool`] and remembers what must outlive a snapshot.
#[derive(Debug)]
pub struct Registry {
    pool: ArcSwap<Pool>,
    known: Mutex<Known>,
    tokens_per_block: u64,
}

#[derive(Debug, Default)]
struct Known {
    number: u64,
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
        Self::new(TOKENS_PER_BLOCK)
    }
}

impl Registry {
    /// An empty registry, whose prefix chains are cut into blocks of this many tokens.
    #[must_use]
    pub fn new(tokens_per_block: u64) -> Self {
        let index = PrefixIndex::new();
        Self {
            pool: ArcSwap::from_pointee(Pool {
                number: 0,
                models: HashMap::new(),
                adapters: HashMap::new(),
                by_endpoint: HashMap::new(),
                by_id: Vec::new(),
                index,
            }),
            known: Mutex::new(Known::default()),
            tokens_per_block: tokens_per_block.max(1),
        }
    }

    /// The current pool, for the length of a request's decision. Never waits.
    pub fn pool(&self) -> Guard<Arc<Pool>> {
        self.pool.load()
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
        for spec in specs {
            let replica = self.remember(known, before.index(), spec);
            by_endpoint.insert(replica.spec.endpoint.clone(), Arc::new(replica));
        }
        let pool = build(known.number, by_endpoint, &before);
        let live = pool.len();
        self.pool.store(Arc::new(pool));
        drop(before);
        known.forget(live);
        known.number
    }

    fn remember(&self, known: &mut Known, index: &Arc<PrefixIndex>, spec: ReplicaSpec) -> Replica {
        let limit = usize::try_from(spec.kv_tokens / self.tokens_per_block).unwrap_or(usize::MAX);
        let number = known.number;
        if let Some(found) = known.endpoints.get_mut(&spec.endpoint) {
            found.seen = number;
            found.cache.set_limit(limit);
            let (id, load, cache) = (found.id, Arc::clone(&found.load), Arc::clone(&found.cache));
            return Replica {
                spec,
                id,
                load,
                cache,
            };
        }
        let id = known.free.pop().unwrap_or_else(|| {
            let id = ReplicaId(known.next);
            known.next += 1;
            id
        });
        let load = Arc::new(Load::default());
        let cache = Arc::new(ReplicaCache::new(Arc::clone(index), id, limit));
        known.endpoints.insert(
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
}

impl Known {
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
                self.free.push(known.id);
            }
        }
    }
}

/// Builds the snapshot; a model whose members are the same as before keeps its ring.
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
            let ring = before
                .models
                .get(&model)
                .filter(|old| same_members(&old.replicas, &replicas))
                .map_or_else(
                    || Arc::new(Ring::build(&replicas)),
                    |old| Arc::clone(&old.ring),
                );
            let open = replicas
                .iter()
                .filter(|replica| replica.spec.state.is_open());
            let mu_per_ms = open.map(|replica| replica.mu_per_ms()).sum();
            (
                model.clone(),
                Arc::new(ModelPool {
                    model,
                    replicas,
                    mu_per_ms,
                    ring,
                }),
            )
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

fn same_members(old: &[Arc<Replica>], new: &[Arc<Replica>]) -> bool {
    old.len() == new.len()
        && old
            .iter()
            .zip(new)
            .all(|(a, b)| a.spec.endpoint == b.spec.endpoint && a.id == b.id)
}
