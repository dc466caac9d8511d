//! The paged KV cache: blocks found again by prefix, reused least recently used first.
//!
//! A block with content that others may find is a *node*, known by the hash of
//! its whole prefix. Blocks being filled, or whose content has no hash, are
//! *private* and are merely counted. Whoever holds a node holds its ancestors
//! too and lets go of leaves first, so a free node never outlives its parent in
//! the queue: what is found by walking from the root is exactly what is there.

use crate::cache::{CacheEvent, KvStats};
use crate::index::Index;
use crate::list::{Links, List, NONE};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Device,
    Host,
}

#[derive(Debug, Clone)]
struct Node {
    holders: u32,
    level: Level,
}

/// The blocks of a prefix that are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Blocks from the root that are there, at either level.
    pub(crate) blocks: u32,
    /// Of these, on the device and held by a running request.
    pub(crate) held: u32,
}

/// The blocks of one engine.
#[derive(Debug)]
pub(crate) struct Pool {
    nodes: Vec<Node>,
    links: Links,
    vacant: Vec<u32>,
    index: Index,
    device_blocks: u32,
    host_blocks: u32,
    /// Device blocks without content.
    blank: u32,
    /// Device blocks that requests hold without a node.
    private: u32,
    device_free: List,
    host_free: List,
    stats: KvStats,
    events: Option<Vec<CacheEvent>>,
}

impl Pool {
    pub(crate) fn new(device_blocks: u32, host_blocks: u32) -> Self {
        Self {
            nodes: Vec::new(),
            links: Links::default(),
            vacant: Vec::new(),
            index: Index::new(),
            device_blocks,
            host_blocks,
            blank: device_blocks,
            private: 0,
            device_free: List::default(),
            host_free: List::default(),
            stats: KvStats::default(),
            events: None,
        }
    }

    /// Starts keeping events for [`Pool::take_events`].
    pub(crate) fn record_events(&mut self) {
        self.events.get_or_insert_with(Vec::new);
    }

    pub(crate) fn take_events(&mut self) -> Vec<CacheEvent> {
        self.events.as_mut().map_or_else(Vec::new, std::mem::take)
    }

    /// Device blocks that can be handed out now.
    pub(crate) fn available(&self) -> u32 {
        self.blank + self.device_free.len()
    }

    pub(crate) fn stats(&self) -> KvStats {
        let free = self.available();
        KvStats {
            max_blocks: self.device_blocks,
            free_blocks: free,
            used_blocks: self.device_blocks - free,
            cached_blocks: self.device_free.len(),
            host_blocks: self.host_free.len(),
            ..self.stats
        }
    }

    /// The longest prefix of `hashes` that is there; `each` is given its nodes.
    pub(crate) fn find(&self, hashes: &[u64], mut each: impl FnMut(u32)) -> Found {
        let mut found = Found::default();
        for hash in hashes {
            let Some(key) = self.index.get(*hash) else {
                break;
            };
            let holders = self.node(key).map_or(0, |node| node.holders);
            found.blocks += 1;
            found.held += u32::from(holders > 0);
            each(key);
        }
        found
    }

    /// Holds nodes that [`Pool::find`] has just given. Answers how many came from the host;
    /// the caller has made sure that as many device blocks as are not held yet are available.
    pub(crate) fn claim(&mut self, found: &[u32]) -> u32 {
        for key in found {
            self.pin(*key);
        }
        // Only now: making room for the first from the host must not evict the last.
        let onboarded = found.iter().map(|key| u32::from(self.onboard(*key))).sum();
        let count = u64::try_from(found.len()).unwrap_or(0);
        self.stats.reused += count;
        self.stats.alloc_total += count;
        onboarded
    }

    /// Hands out `count` device blocks without content, evicting what was used longest ago.
    /// Answers how many there were.
    pub(crate) fn take(&mut self, count: u32) -> u32 {
        let blank = count.min(self.blank);
        self.blank -= blank;
        let mut taken = blank;
        while taken < count && self.evict() {
            taken += 1;
        }
        self.private += taken;
        self.stats.alloc_total += u64::from(taken);
        self.stats.alloc_new += u64::from(taken);
        taken
    }

    /// Takes back `count` blocks that never became nodes.
    pub(crate) fn put(&mut self, count: u32) {
        debug_assert!(count <= self.private);
        self.private -= count;
        self.blank += count;
    }

    pub(crate) fn count_missed(&mut self, count: u32) {
        self.stats.missed += u64::from(count);
    }

    /// Turns the holder's private blocks into nodes, appended to `held`. A block whose
    /// content is there already is given back and the other held instead.
    pub(crate) fn publish(&mut self, request: u64, hashes: &[u64], held: &mut Vec<u32>) {
        let mut fresh: Vec<u64> = Vec::new();
        let mut first_fresh = held.len();
        for hash in hashes {
            if let Some(key) = self.index.get(*hash) {
                self.stored(request, &mut fresh, first_fresh, held);
                self.adopt(key);
                held.push(key);
                first_fresh = held.len();
            } else {
                let key = self.insert(*hash);
                self.private -= 1;
                held.push(key);
                if self.events.is_some() {
                    fresh.push(*hash);
                }
            }
        }
        self.stored(request, &mut fresh, first_fresh, held);
    }

    /// Lets go of nodes, the last first, so that leaves are evicted before their parents.
    pub(crate) fn release(&mut self, held: &mut Vec<u32>) {
        while let Some(key) = held.pop() {
            let Some(node) = self.nodes.get_mut(to_index(key)) else {
                continue;
            };
            node.holders = node.holders.saturating_sub(1);
            if node.holders == 0 {
                self.links.push_back(&mut self.device_free, key);
            }
        }
    }

    /// Gives up the free blocks of a prefix beyond its first `keep`, the last first, up to one that
    /// is held. Answers how many.
    pub(crate) fn truncate(&mut self, hashes: &[u64], keep: usize) -> u32 {
        let mut given_up = 0;
        for hash in hashes.get(keep..).unwrap_or_default().iter().rev() {
            let Some(key) = self.index.get(*hash) else {
                continue;
            };
            let Some(node) = self.node(key).filter(|node| node.holders == 0) else {
                break;
            };
            match node.level {
                Level::Device => {
                    self.links.remove(&mut self.device_free, key);
                    self.blank += 1;
                }
                Level::Host => self.links.remove(&mut self.host_free, key),
            }
            self.forget(key);
            given_up += 1;
        }
        given_up
    }

    /// Holds a node that may lie in either queue, leaving it at its level.
    fn pin(&mut self, key: u32) {
        let Some(node) = self.nodes.get_mut(to_index(key)) else {
            return;
        };
        if node.holders == 0 {
            let list = match node.level {
                Level::Device => &mut self.device_free,
                Level::Host => &mut self.host_free,
            };
            self.links.remove(list, key);
        }
        node.holders += 1;
    }

    /// Brings a pinned node to the device; whether it had to move.
    fn onboard(&mut self, key: u32) -> bool {
        if self.node(key).is_none_or(|n| n.level == Level::Device) {
            return false;
        }
        if self.blank > 0 {
            self.blank -= 1;
        } else if !self.evict() {
            return false;
        }
        self.move_to_device(key);
        true
    }

    /// The holder's private block gives way to a node with the same content.
    fn adopt(&mut self, key: u32) {
        self.pin(key);
        self.private -= 1;
        if self.node(key).is_some_and(|n| n.level == Level::Host) {
            // The private block is the device's copy of it.
            self.move_to_device(key);
        } else {
            self.blank += 1;
        }
    }

    fn move_to_device(&mut self, key: u32) {
        if let Some(node) = self.nodes.get_mut(to_index(key)) {
            node.level = Level::Device;
            let hash = self.index.hash(key).unwrap_or(0);
            self.record(CacheEvent::Moved {
                hash,
                from: 1,
                to: 0,
            });
        }
    }

    /// Frees the device block used longest ago: to the host if there is one, else for good.
    fn evict(&mut self) -> bool {
        let Some(key) = self.links.pop_front(&mut self.device_free) else {
            return false;
        };
        self.stats.evicted += 1;
        if self.host_blocks == 0 {
            self.forget(key);
            return true;
        }
        while self.host_free.len() >= self.host_blocks {
            let Some(oldest) = self.links.pop_front(&mut self.host_free) else {
                break;
            };
            self.forget(oldest);
        }
        if let Some(node) = self.nodes.get_mut(to_index(key)) {
            node.level = Level::Host;
            let hash = self.index.hash(key).unwrap_or(0);
            self.links.push_back(&mut self.host_free, key);
            self.record(CacheEvent::Moved {
                hash,
                from: 0,
                to: 1,
            });
        }
        true
    }

    fn insert(&mut self, hash: u64) -> u32 {
        let node = Node {
            holders: 1,
            level: Level::Device,
        };
        let key = if let Some(key) = self.vacant.pop() {
            if let Some(slot) = self.nodes.get_mut(to_index(key)) {
                *slot = node;
            }
            key
        } else {
            // A profile has at most 2 · 2^24 blocks, so the count fits.
            let key = u32::try_from(self.nodes.len()).unwrap_or(NONE);
            self.nodes.push(node);
            self.links.grow();
            key
        };
        self.index.insert(key, hash);
        key
    }

    fn forget(&mut self, key: u32) {
        if let Some(hash) = self.index.hash(key) {
            self.index.remove(key);
            self.vacant.push(key);
            self.record(CacheEvent::Removed { hash });
        }
    }

    fn stored(&mut self, request: u64, fresh: &mut Vec<u64>, first: usize, held: &[u32]) {
        if fresh.is_empty() {
            return;
        }
        let parent = first
            .checked_sub(1)
            .and_then(|i| held.get(i))
            .and_then(|key| self.index.hash(*key));
        let hashes = std::mem::take(fresh);
        self.record(CacheEvent::Stored {
            request,
            parent,
            first_block: u32::try_from(first).unwrap_or(u32::MAX),
            hashes,
        });
    }

    fn record(&mut self, event: CacheEvent) {
        if let Some(events) = &mut self.events {
            events.push(event);
        }
    }

    fn node(&self, key: u32) -> Option<&Node> {
        self.nodes.get(to_index(key))
    }
}

fn to_index(key: u32) -> usize {
    usize::try_from(key).unwrap_or(usize::MAX)
}

#[cfg(test)]
impl Pool {
    /// Every block is in exactly one place, and no free node lacks its parent's content.
    pub(crate) fn check(&self) {
        let hashes = self.index.hashes();
        let held = hashes
            .iter()
            .filter(|hash| self.nodes[to_index(self.index.get(**hash).unwrap())].holders > 0)
            .count() as u32;
        assert_eq!(
            self.blank + self.private + self.device_free.len() + held,
            self.device_blocks
        );
        assert!(self.host_free.len() <= self.host_blocks.max(1));
        assert_eq!(hashes.len() + self.vacant.len(), self.nodes.len());
        assert_eq!(
            hashes.len() as u32,
            held + self.device_free.len() + self.host_free.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{CacheEvent, Found, Pool};

    fn look(pool: &Pool, hashes: &[u64]) -> Found {
        pool.find(hashes, |_| {})
    }

    /// Fills and frees the blocks of one request.
    fn run(pool: &mut Pool, hashes: &[u64]) -> u32 {
        let mut held = Vec::new();
        let found = pool.find(hashes, |key| held.push(key));
        pool.claim(&held);
        let rest = hashes.len() as u32 - found.blocks;
        assert_eq!(pool.take(rest), rest);
        pool.publish(1, &hashes[found.blocks as usize..], &mut held);
        pool.release(&mut held);
        pool.check();
        found.blocks
    }

    #[test]
    fn leaves_go_before_their_parents_and_the_oldest_first() {
        let mut pool = Pool::new(4, 0);
        run(&mut pool, &[1, 2]);
        run(&mut pool, &[5, 6]);
        // One block too many: 2, the leaf of the older chain, gives way.
        assert_eq!(run(&mut pool, &[9]), 0);
        assert_eq!(look(&pool, &[1, 2]), Found { blocks: 1, held: 0 });
        assert_eq!(look(&pool, &[5, 6]).blocks, 2);
    }

    #[test]
    fn a_prefix_is_cut_short_where_nobody_holds_it() {
        let mut pool = Pool::new(8, 2);
        run(&mut pool, &[1, 2, 3, 4]);
        let mut held = Vec::new();
        pool.find(&[1, 2], |key| held.push(key));
        pool.claim(&held);
        assert_eq!(pool.truncate(&[1, 2, 3, 4], 3), 1);
        assert_eq!(look(&pool, &[1, 2, 3, 4]).blocks, 3);
        assert_eq!(pool.truncate(&[1, 2, 3, 4], 0), 1);
        assert_eq!(look(&pool, &[1, 2, 3, 4]).blocks, 2);
        pool.release(&mut held);
        pool.check();
        // What lies with the host goes as well.
        run(&mut pool, &[11, 12, 13, 14, 15, 16, 17]);
        assert_eq!(pool.truncate(&[1, 2], 0), 2);
        pool.check();
        assert_eq!(look(&pool, &[1, 2]).blocks, 0);
    }

    #[test]
    fn equal_content_is_held_once() {
        let mut pool = Pool::new(4, 0);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        assert_eq!(pool.take(4), 4);
        pool.publish(1, &[1, 2], &mut a);
        pool.publish(2, &[1, 2], &mut b);
        assert_eq!(a, b);
        assert_eq!(pool.available(), 2);
        pool.release(&mut a);
        assert_eq!(look(&pool, &[1, 2]), Found { blocks: 2, held: 2 });
        pool.release(&mut b);
        pool.check();
        assert_eq!(pool.available(), 4);
    }

    #[test]
    fn the_host_keeps_what_the_device_gives_up() {
        let mut pool = Pool::new(2, 2);
        pool.record_events();
        run(&mut pool, &[1, 2]);
        run(&mut pool, &[3, 4]);
        assert_eq!(look(&pool, &[1, 2]).blocks, 2);
        let mut held = Vec::new();
        pool.find(&[1, 2], |key| held.push(key));
        assert_eq!(pool.claim(&held), 2);
        pool.release(&mut held);
        pool.check();
        // What made room for them went to the host in turn.
        assert_eq!(look(&pool, &[3, 4]).blocks, 2);
        let events = pool.take_events();
        assert!(events.contains(&CacheEvent::Moved {
            hash: 1,
            from: 1,
            to: 0
        }));
        assert!(
            !events
                .iter()
                .any(|e| matches!(e, CacheEvent::Removed { .. }))
        );
    }

    #[test]
    fn events_rebuild_the_index() {
        let mut pool = Pool::new(6, 2);
        pool.record_events();
        let mut mirror = std::collections::HashSet::new();
        for i in 0..50_u64 {
            let root = i % 3 + 1;
            let middle = root * 100 + i % 7;
            run(&mut pool, &[root, middle, middle * 1000 + i]);
            for event in pool.take_events() {
                match event {
                    CacheEvent::Stored { hashes, .. } => mirror.extend(hashes),
                    CacheEvent::Removed { hash } => {
                        assert!(mirror.remove(&hash));
                    }
                    CacheEvent::Moved { hash, .. } => assert!(mirror.contains(&hash)),
                }
            }
            let index: std::collections::HashSet<u64> = pool.index.hashes().into_iter().collect();
            assert_eq!(index, mirror);
        }
    }

    #[test]
    fn stored_names_the_parent_of_the_first_block() {
        let mut pool = Pool::new(8, 0);
        run(&mut pool, &[1, 2]);
        pool.record_events();
        run(&mut pool, &[1, 2, 3, 4]);
        assert_eq!(
            pool.take_events(),
            vec![CacheEvent::Stored {
                request: 1,
                parent: Some(2),
                first_block: 2,
                hashes: vec![3, 4]
            }]
        );
    }
}
