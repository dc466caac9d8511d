//! One prefix cache for all: least recently used blocks go first, the ends of prompts before their
//! beginnings.

use std::collections::HashMap;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    hash: u64,
    /// Blocks that it stands for.
    weight: u32,
    newer: u32,
    older: u32,
}

/// Chained hashes in order of use, each standing for some blocks.
#[derive(Debug)]
pub(crate) struct PrefixLru {
    places: HashMap<u64, u32>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    weight: u64,
    capacity: u64,
}

impl PrefixLru {
    /// An empty cache of so many blocks.
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            places: HashMap::new(),
            nodes: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            weight: 0,
            capacity,
        }
    }

    pub(crate) fn holds(&self, hash: u64) -> bool {
        self.places.contains_key(&hash)
    }

    /// Makes a node the most recent one, adding it where it was not held.
    pub(crate) fn touch(&mut self, hash: u64, weight: u32) {
        if let Some(place) = self.places.get(&hash).copied() {
            self.unlink(place);
            self.link(place);
            return;
        }
        let node = Node {
            hash,
            weight,
            newer: NONE,
            older: NONE,
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.change(place, |old| *old = node);
                place
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
            }
        };
        self.places.insert(hash, place);
        self.link(place);
        self.weight += u64::from(weight);
        while self.weight > self.capacity && self.oldest != place {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let place = self.oldest;
        let Some(node) = self.node(place) else {
            return;
        };
        self.unlink(place);
        self.places.remove(&node.hash);
        self.weight -= u64::from(node.weight);
        self.free.push(place);
    }

    fn link(&mut self, place: u32) {
        let before = self.newest;
        self.change(place, |node| {
            node.newer = NONE;
            node.older = before;
        });
        self.change(before, |node| node.newer = place);
        self.newest = place;
        if self.oldest == NONE {
            self.oldest = place;
        }
    }

    fn unlink(&mut self, place: u32) {
        let Some(Node { newer, older, .. }) = self.node(place) else {
            return;
        };
        match newer {
            NONE => self.newest = older,
            newer => self.change(newer, |node| node.older = older),
        }
        match older {
            NONE => self.oldest = newer,
            older => self.change(older, |node| node.newer = newer),
        }
    }

    fn node(&self, place: u32) -> Option<Node> {
        self.nodes.get(place as usize).copied()
    }

    fn change(&mut self, place: u32, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(place as usize) {
            change(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PrefixLru;

    #[test]
    fn the_least_recent_goes_first() {
        let mut lru = PrefixLru::new(5);
        for hash in [1, 2, 3] {
            lru.touch(hash, 1);
        }
        lru.touch(1, 1);
        lru.touch(4, 3);
        let held: Vec<u64> = (1..=4).filter(|hash| lru.holds(*hash)).collect();
        assert_eq!(held, [1, 3, 4]);
        lru.touch(5, 9);
        let held: Vec<u64> = (1..=5).filter(|hash| lru.holds(*hash)).collect();
        assert_eq!(held, [5], "one that is too large is alone");
    }
}
