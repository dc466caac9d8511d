//! Block → holders: an open-addressed table that readers never wait for.
//!
//! Writers of one table take turns (its shard's lock); readers take none. A slot is two words, the
//! block's hash and its holders. A reader loads the block, then the holders, then the block again:
//! a slot that was given to another block in between is noticed and looked up anew. Sets too large
//! for a word are rows of bits, checked the same way.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, OnceLock};

use super::holders::{Holders, INLINE, bits};
use super::lru::home;
use crate::replica::ReplicaId;

/// A slot without a block: searches end here.
const VACANT: u64 = 0;

/// A slot whose block is being moved: searches go on.
const MOVING: u64 = u64::MAX;

/// Rows made at a time.
const SEGMENT_ROWS: usize = 64;

/// A row with so few bits goes back to a packed set: below [`INLINE`], so that a set that swings
/// around it does not change its form each time.
const PACK_AT: usize = INLINE / 2;

#[derive(Debug, Default)]
struct Slot {
    block: AtomicU64,
    holders: AtomicU64,
}

/// A block's hash as the index knows it: never one of the two reserved values.
pub(super) const fn normal(block: u64) -> u64 {
    match block {
        VACANT => 1,
        MOVING => MOVING - 1,
        other => other,
    }
}

/// The slots of one shard at one size.
#[derive(Debug)]
pub(super) struct Table {
    slots: Box<[Slot]>,
    /// Words of a row: replica numbers up to 64 times this have a bit.
    width: usize,
    segments: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

/// What a reader found of a block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found<'a> {
    /// A packed set.
    Few(Holders),
    /// Words of bits.
    Many(&'a [u64]),
}

/// A search that has loaded its first slot, so that several can be under way in the memory system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe<'a> {
    table: &'a Table,
    block: u64,
    slot: u32,
    first: u64,
}

impl<'a> Probe<'a> {
    pub(super) fn start(table: &'a Table, block: u64) -> Self {
        let slot = home(block, table.slots.len());
        let first = table
            .slots
            .get(slot as usize)
            .map_or(VACANT, |slot| slot.block.load(Acquire));
        Self {
            table,
            block,
            slot,
            first,
        }
    }

    /// The block's holders, with a row's bits in `scratch`.
    pub(super) fn finish(self, scratch: &mut Vec<u64>) -> Option<Found<'_>> {
        // A slot that changes under three readings in a row: take the block for unknown.
        let mut from = (self.slot, self.first);
        for _ in 0..3 {
            let slot = self.table.search(self.block, from)?;
            let holders = Holders(slot.holders.load(Acquire));
            match holders.row() {
                None if slot.block.load(Acquire) == self.block => return Some(Found::Few(holders)),
                Some(row) => {
                    self.table.copy_row(row, scratch);
                    let same = slot.block.load(Acquire) == self.block
                        && slot.holders.load(Acquire) == holders.0;
                    if same {
                        return Some(Found::Many(scratch));
                    }
                }
                None => {}
            }
            let home = home(self.block, self.table.slots.len());
            let first = self.table.slots.get(home as usize)?.block.load(Acquire);
            from = (home, first);
        }
        None
    }
}

impl Table {
    /// An empty table of so many slots, for replica numbers below `replicas`.
    pub(super) fn new(slots: usize, replicas: u32) -> Self {
        let segments = slots.div_ceil(SEGMENT_ROWS);
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            width: (replicas as usize).div_ceil(64),
            segments: (0..segments).map(|_| OnceLock::new()).collect(),
        }
    }

    fn search(&self, block: u64, (mut at, mut held): (u32, u64)) -> Option<&Slot> {
        for _ in 0..self.slots.len() {
            let slot = self.slots.get(at as usize)?;
            if held == block {
                return Some(slot);
            }
            if held == VACANT {
                return None;
            }
            at = self.next(at);
            held = self.slots.get(at as usize)?.block.load(Acquire);
        }
        None
    }

    fn next(&self, slot: u32) -> u32 {
        if slot as usize + 1 >= self.slots.len() {
            0
        } else {
            slot + 1
        }
    }

    fn row(&self, row: u32) -> &[AtomicU64] {
        let (segment, at) = (row as usize / SEGMENT_ROWS, row as usize % SEGMENT_ROWS);
        let words = self.segments.get(segment).and_then(OnceLock::get);
        words
            .and_then(|w| w.get(at * self.width..(at + 1) * self.width))
            .unwrap_or(&[])
    }

    fn make_row(&self, row: u32) -> &[AtomicU64] {
        if let Some(segment) = self.segments.get(row as usize / SEGMENT_ROWS) {
            let words = SEGMENT_ROWS * self.width;
            segment.get_or_init(|| (0..words).map(|_| AtomicU64::new(0)).collect());
        }
        self.row(row)
    }

    fn copy_row(&self, row: u32, scratch: &mut Vec<u64>) {
        scratch.clear();
        scratch.extend(self.row(row).iter().map(|word| word.load(Acquire)));
    }

    fn bytes(&self) -> usize {
        let made = self
            .segments
            .iter()
            .filter(|segment| segment.get().is_some())
            .count();
        self.slots.len() * size_of::<Slot>()
            + self.segments.len() * size_of::<OnceLock<Box<[AtomicU64]>>>()
            + made * SEGMENT_ROWS * self.width * size_of::<u64>()
    }
}

/// The writing side of a shard.
#[derive(Debug)]
pub(super) struct Writer {
    table: Arc<Table>,
    used: usize,
    free_rows: Vec<u32>,
    rows: u32,
}

impl Writer {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            used: 0,
            free_rows: Vec::new(),
            rows: 0,
        }
    }

    /// Blocks in the table.
    pub(super) fn blocks(&self) -> usize {
        self.used
    }

    /// Bytes of slots and rows.
    pub(super) fn bytes(&self) -> usize {
        self.table.bytes() + self.free_rows.capacity() * size_of::<u32>()
    }

    /// Adds a holder. Returns the new table when it had to grow; the caller publishes it.
    pub(super) fn hold(&mut self, block: u64, id: ReplicaId) -> Option<Arc<Table>> {
        let grown = self.make_room(id);
        let table = Arc::clone(&self.table);
        if let Some(slot) = find(&table, block) {
            self.join(&table, slot, id);
        } else {
            self.place(
                &table,
                block,
                Holders::default().with(id).unwrap_or_default(),
            );
            self.used += 1;
        }
        grown.then_some(table)
    }

    /// Takes a holder away; a block without holders goes.
    pub(super) fn release(&mut self, block: u64, id: ReplicaId) {
        let table = Arc::clone(&self.table);
        let Some(at) = position(&table, block) else {
            return;
        };
        let Some(slot) = table.slots.get(at as usize) else {
            return;
        };
        let holders = Holders(slot.holders.load(Relaxed));
        let left = match holders.row() {
            None => holders.filter(|held| held != id),
            Some(row) => self.leave_row(&table, row, id, holders),
        };
        if left == holders {
            return;
        }
        if left.is_empty() {
            remove(&table, at);
            self.used -= 1;
        } else {
            slot.holders.store(left.0, Release);
        }
        self.free_rows.extend(holders.row());
    }

    fn join(&mut self, table: &Table, slot: &Slot, id: ReplicaId) {
        let holders = Holders(slot.holders.load(Relaxed));
        if let Some(row) = holders.row() {
            set_bit(table.row(row), id);
            return;
        }
        if holders.contains(id) {
            return;
        }
        let joined = holders.with(id).unwrap_or_else(|| {
            let row = self.new_row();
            let words = table.make_row(row);
            for word in words {
                word.store(0, Release);
            }
            for held in holders.ids() {
                set_bit(words, held);
            }
            set_bit(words, id);
            Holders::in_row(row)
        });
        slot.holders.store(joined.0, Release);
    }

    fn new_row(&mut self) -> u32 {
        self.free_rows.pop().unwrap_or_else(|| {
            self.rows += 1;
            self.rows - 1
        })
    }

    /// Clears the bit; the set that is left, packed when it has become small.
    fn leave_row(&self, table: &Table, row: u32, id: ReplicaId, holders: Holders) -> Holders {
        let words = table.row(row);
        if let Some(word) = words.get(id.slot() / 64) {
            word.fetch_and(!(1 << (id.slot() % 64)), Release);
        }
        let held: usize = words
            .iter()
            .map(|word| word.load(Relaxed).count_ones() as usize)
            .sum();
        if held > PACK_AT {
            return holders;
        }
        let left: Vec<u64> = words.iter().map(|word| word.load(Relaxed)).collect();
        bits(&left).fold(Holders::default(), |set, held| {
            set.with(held).unwrap_or(set)
        })
    }

    fn place(&self, table: &Table, block: u64, holders: Holders) {
        let mut at = home(block, table.slots.len());
        for _ in 0..table.slots.len() {
            let Some(slot) = table.slots.get(at as usize) else {
                return;
            };
            if slot.block.load(Relaxed) == VACANT {
                slot.holders.store(holders.0, Release);
                slot.block.store(block, Release);
                return;
            }
            at = table.next(at);
        }
    }

    /// Grows the slots beyond seven tenths full, the rows for a replica number beyond their width.
    fn make_room(&mut self, id: ReplicaId) -> bool {
        let slots = self.table.slots.len();
        let full = (self.used + 1) * 10 > slots * 7;
        let narrow = id.slot() >= self.table.width * 64;
        if !full && !narrow {
            return false;
        }
        let more = if full {
            (slots + slots / 2).max(SEGMENT_ROWS)
        } else {
            slots
        };
        let width = if narrow {
            (id.0 + 1).max(id.0 / 2 * 3)
        } else {
            self.replicas()
        };
        let mut grown = Self::new(Arc::new(Table::new(more, width)));
        for slot in &self.table.slots {
            let block = slot.block.load(Relaxed);
            if block != VACANT {
                grown.copy(&self.table, block, Holders(slot.holders.load(Relaxed)));
            }
        }
        *self = grown;
        true
    }

    fn replicas(&self) -> u32 {
        u32::try_from(self.table.width * 64).unwrap_or(u32::MAX)
    }

    fn copy(&mut self, from: &Table, block: u64, holders: Holders) {
        let table = Arc::clone(&self.table);
        let holders = holders.row().map_or(holders, |row| {
            let copy = self.new_row();
            for (to, word) in table.make_row(copy).iter().zip(from.row(row)) {
                to.store(word.load(Relaxed), Release);
            }
            Holders::in_row(copy)
        });
        self.place(&table, block, holders);
        self.used += 1;
    }
}

fn set_bit(words: &[AtomicU64], id: ReplicaId) {
    if let Some(word) = words.get(id.slot() / 64) {
        word.fetch_or(1 << (id.slot() % 64), Release);
    }
}

fn find(table: &Table, block: u64) -> Option<&Slot> {
    position(table, block).and_then(|at| table.slots.get(at as usize))
}

fn position(table: &Table, block: u64) -> Option<u32> {
    let mut at = home(block, table.slots.len());
    for _ in 0..table.slots.len() {
        match table.slots.get(at as usize)?.block.load(Relaxed) {
            held if held == block => return Some(at),
            VACANT => return None,
            _ => at = table.next(at),
        }
    }
    None
}

/// Empties a slot, moving back what its run had pushed beyond it, so that no search breaks off.
fn remove(table: &Table, at: u32) {
    let count = table.slots.len();
    let distance = |from: u32, to: u32| {
        let (from, to) = (from as usize, to as usize);
        if to >= from {
            to - from
        } else {
            to + count - from
        }
    };
    let mut hole = at;
    let mut probe = table.next(at);
    mark(table, hole, MOVING);
    for _ in 0..count {
        let Some(slot) = table.slots.get(probe as usize) else {
            break;
        };
        let block = slot.block.load(Relaxed);
        if block == VACANT {
            break;
        }
        if distance(home(block, count), probe) >= distance(hole, probe) {
            if let Some(to) = table.slots.get(hole as usize) {
                to.holders.store(slot.holders.load(Relaxed), Release);
                to.block.store(block, Release);
            }
            mark(table, probe, MOVING);
            hole = probe;
        }
        probe = table.next(probe);
    }
    mark(table, hole, VACANT);
}

fn mark(table: &Table, at: u32, mark: u64) {
    if let Some(slot) = table.slots.get(at as usize) {
        slot.block.store(mark, Release);
    }
}
