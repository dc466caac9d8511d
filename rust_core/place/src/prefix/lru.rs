//! One replica's blocks in order of use: an open-addressed set whose slots are also the list.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

/// No slot.
const NONE: u32 = u32::MAX;

/// Slots at first use.
const FIRST_SLOTS: usize = 64;

/// Most slots: what a `u32` can name and memory may bear.
const MOST_SLOTS: usize = 1 << 28;

/// A block and its neighbours in order of use. 16 bytes.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The block's hash; zero where the slot is empty.
    block: u64,
    newer: u32,
    older: u32,
}

const EMPTY: Slot = Slot {
    block: 0,
    newer: NONE,
    older: NONE,
};

/// Blocks in order of use. Holds no block whose hash is zero.
///
/// Linear probing with backward shift: no tombstones, so probes stay short whatever the churn.
/// The slots are at most four fifths full: 20 to 30 bytes a block.
#[derive(Debug, Default)]
pub(super) struct Lru {
    slots: Vec<Slot>,
    len: usize,
    newest: u32,
    oldest: u32,
}

impl Lru {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of its slots.
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// Reads where searches for these blocks will begin, and does nothing with it: the cache misses
    /// of all overlap, where those of one [`Lru::touch`] after another would not.
    pub(super) fn look_at(&self, blocks: impl Iterator<Item = u64>) {
        let seen = blocks.fold(0, |seen, block| seen ^ self.at(self.home(block)).block);
        std::hint::black_box(seen);
    }

    /// Makes a block the most recent; true when it was not held before. When no memory is left
    /// for it nothing changes.
    pub(super) fn touch(&mut self, block: u64) -> bool {
        if let Some(slot) = self.find(block) {
            if slot != self.newest {
                self.unlink(slot);
                self.link_newest(slot);
            }
            return false;
        }
        if block == 0 || !self.make_room() {
            return false;
        }
        self.place(block);
        true
    }

    /// Whether a block is held.
    pub(super) fn holds(&self, block: u64) -> bool {
        self.find(block).is_some()
    }

    /// Takes out a block; true when it was held.
    pub(super) fn remove(&mut self, block: u64) -> bool {
        let slot = self.find(block);
        if let Some(slot) = slot {
            self.remove_slot(slot);
        }
        slot.is_some()
    }

    /// Takes out the least recent block.
    pub(super) fn pop_oldest(&mut self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let slot = self.oldest;
        let block = self.at(slot).block;
        self.remove_slot(slot);
        Some(block)
    }

    /// Empties it, giving back its memory.
    pub(super) fn take(&mut self) -> impl Iterator<Item = u64> + use<> {
        let slots = std::mem::take(self).slots;
        slots
            .into_iter()
            .map(|slot| slot.block)
            .filter(|block| *block != 0)
    }

    fn find(&self, block: u64) -> Option<u32> {
        if self.len == 0 || block == 0 {
            return None;
        }
        let mut slot = self.home(block);
        loop {
            match self.at(slot).block {
                held if held == block => return Some(slot),
                0 => return None,
                _ => slot = self.next(slot),
            }
        }
    }

    /// Puts a block that is not held into the first empty slot of its run, as the most recent.
    fn place(&mut self, block: u64) {
        let mut slot = self.home(block);
        while self.at(slot).block != 0 {
            slot = self.next(slot);
        }
        self.set(slot, Slot { block, ..EMPTY });
        self.link_newest(slot);
        self.len += 1;
    }

    fn make_room(&mut self) -> bool {
        if (self.len + 1) * 5 <= self.slots.len() * 4 {
            return true;
        }
        let more = (self.slots.len() + self.slots.len() / 2).max(FIRST_SLOTS);
        if more > MOST_SLOTS {
            return false;
        }
        let mut grown = Self {
            slots: vec![EMPTY; more],
            len: 0,
            newest: NONE,
            oldest: NONE,
        };
        let mut slot = if self.len == 0 { NONE } else { self.oldest };
        while slot != NONE {
            let held = self.at(slot);
            grown.place(held.block);
            slot = held.newer;
        }
        *self = grown;
        true
    }

    fn remove_slot(&mut self, slot: u32) {
        self.unlink(slot);
        self.len -= 1;
        let mut hole = slot;
        let mut probe = self.next(slot);
        loop {
            let held = self.at(probe);
            if held.block == 0 {
                break;
            }
            let home = self.home(held.block);
            if self.distance(home, probe) >= self.distance(hole, probe) {
                self.relocate(held, probe, hole);
                hole = probe;
            }
            probe = self.next(probe);
        }
        self.set(hole, EMPTY);
    }

    /// Moves a held slot, and tells its neighbours.
    fn relocate(&mut self, held: Slot, from: u32, to: u32) {
        self.set(to, held);
        self.set_older_of(held.newer, to);
        self.set_newer_of(held.older, to);
        debug_assert!(from != to);
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { newer, older, .. } = self.at(slot);
        self.set_older_of(newer, older);
        self.set_newer_of(older, newer);
    }

    fn link_newest(&mut self, slot: u32) {
        let before = if self.len == 0 { NONE } else { self.newest };
        if let Some(held) = self.slots.get_mut(slot as usize) {
            held.newer = NONE;
            held.older = before;
        }
        self.set_newer_of(before, slot);
        self.newest = slot;
    }

    /// What is older than `slot` becomes `older`; older than nothing is the newest of all.
    fn set_older_of(&mut self, slot: u32, older: u32) {
        match self.slots.get_mut(slot as usize) {
            Some(held) => held.older = older,
            None => self.newest = older,
        }
    }

    /// What is newer than `slot` becomes `newer`; newer than nothing is the oldest of all.
    fn set_newer_of(&mut self, slot: u32, newer: u32) {
        match self.slots.get_mut(slot as usize) {
            Some(held) => held.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn home(&self, block: u64) -> u32 {
        home(block, self.slots.len())
    }

    fn next(&self, slot: u32) -> u32 {
        if slot as usize + 1 >= self.slots.len() {
            0
        } else {
            slot + 1
        }
    }

    /// Steps from one slot to another, going forward and round.
    fn distance(&self, from: u32, to: u32) -> usize {
        let (from, to) = (from as usize, to as usize);
        if to >= from {
            to - from
        } else {
            to + self.slots.len() - from
        }
    }

    fn at(&self, slot: u32) -> Slot {
        self.slots.get(slot as usize).copied().unwrap_or(EMPTY)
    }

    fn set(&mut self, slot: u32, held: Slot) {
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = held;
        }
    }
}

/// The slot at which the search for a block begins, among so many slots.
#[allow(clippy::cast_possible_truncation)]
pub(super) fn home(block: u64, slots: usize) -> u32 {
    let spread = spread(block) >> 32;
    ((spread * slots as u64) >> 32) as u32
}

/// Spreads hashes by an odd factor drawn when the process starts: clients write the texts that are
/// hashed, and could search for some that would all stand in one place.
pub(super) fn spread(block: u64) -> u64 {
    static FACTOR: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(1) | 1);
    let drawn = block.wrapping_mul(*FACTOR);
    (drawn ^ (drawn >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// The same, slowly: oldest first.
    #[derive(Default)]
    struct Model(VecDeque<u64>);

    impl Model {
        fn touch(&mut self, block: u64) -> bool {
            let before = self.0.len();
            self.0.retain(|held| *held != block);
            let fresh = self.0.len() == before;
            self.0.push_back(block);
            fresh
        }
    }

    #[test]
    fn hashes_searched_to_stand_in_one_place_do_not() {
        // Their products with the factor that once was fixed begin alike.
        let inverse = (0..6).fold(1u64, |inverse, _| {
            inverse.wrapping_mul(2u64.wrapping_sub(inverse.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        });
        let searched = (1..=1_000u64).map(|i| i.wrapping_mul(inverse));
        let homes: std::collections::HashSet<u32> =
            searched.map(|block| home(block, 1 << 16)).collect();
        assert!(homes.len() > 500, "{}", homes.len());
    }

    proptest! {
        #[test]
        fn keeps_the_order_of_use(steps in prop::collection::vec((0u8..10, 1u64..400), 1..2_000)) {
            let mut lru = Lru::default();
            let mut model = Model::default();
            for (kind, block) in steps {
                prop_assert_eq!(lru.holds(block), model.0.contains(&block));
                if kind < 7 {
                    prop_assert_eq!(lru.touch(block), model.touch(block));
                } else if kind == 7 {
                    let before = model.0.len();
                    model.0.retain(|held| *held != block);
                    prop_assert_eq!(lru.remove(block), model.0.len() < before);
                } else {
                    prop_assert_eq!(lru.pop_oldest(), model.0.pop_front());
                }
                prop_assert_eq!(lru.len(), model.0.len());
            }
            while let Some(block) = model.0.pop_front() {
                prop_assert_eq!(lru.pop_oldest(), Some(block));
            }
            prop_assert_eq!(lru.pop_oldest(), None);
        }

        #[test]
        fn gives_up_all_it_holds(blocks in prop::collection::btree_set(1u64.., 0..500)) {
            let mut lru = Lru::default();
            for block in &blocks {
                lru.touch(*block);
            }
            let mut taken: Vec<u64> = lru.take().collect();
            taken.sort_unstable();
            prop_assert_eq!(taken, blocks.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(lru.len(), 0);
            prop_assert!(lru.touch(7));
        }
    }

    #[test]
    fn a_block_costs_at_most_thirty_bytes() {
        let mut lru = Lru::default();
        for block in 1..=20_000u64 {
            lru.touch(block.wrapping_mul(0x2545_f491_4f6c_dd1d));
        }
        assert!(
            lru.bytes() <= 30 * lru.len() + 64 * 16,
            "{} bytes",
            lru.bytes()
        );
    }
}
