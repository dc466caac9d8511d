//! Slices: the immutable map from a model's keys to replicas, looked up without a lock.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::heat::{Cell, Placed};
use crate::key::Key;
use crate::replica::ReplicaId;
use crate::warmth::{Keys, PARTS};

/// Slices between two entries of the upper table: one cache line of starts.
const STRIDE: usize = 8;

/// A slice as it is written down: it begins here and ends where the next begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceSpec {
    /// Its first key.
    pub start: Key,
    /// Its replicas, the first ones first; none while no replica lives.
    pub homes: SmallVec<[ReplicaId; 2]>,
}

/// One model's slices: half-open ranges that cover its whole key space, each with its replicas.
///
/// Immutable but for the counters of what is placed in each slice, which are the request path's
/// side of the heat. 100,000 slices take some 11 MB, nearly all of it counters.
#[derive(Debug, Default)]
pub struct Slices {
    starts: Box<[u64]>,
    /// Every [`STRIDE`]th start: small enough to stay in a core's cache.
    upper: Box<[u64]>,
    /// Where each slice's homes begin in `homes`; one more than there are slices.
    offsets: Box<[u32]>,
    homes: Box<[ReplicaId]>,
    /// Bits by which a key's distance from its slice's start is shifted to get its part.
    shifts: Box<[u8]>,
    cells: Box<[Cell]>,
}

/// A slice as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice<'a> {
    /// Its place among the slices.
    pub at: usize,
    /// Its first key.
    pub start: Key,
    /// Its last key, which it includes.
    pub last: Key,
    /// Its replicas.
    pub homes: &'a [ReplicaId],
}

impl Slices {
    /// From slices in any order. Of two that begin at one key the later counts; the first is made
    /// to begin at key zero, so that all keys are covered.
    #[must_use]
    pub fn new(mut specs: Vec<SliceSpec>) -> Self {
        specs.sort_by_key(|spec| spec.start);
        specs.reverse();
        specs.dedup_by_key(|spec| spec.start);
        specs.reverse();
        if let Some(first) = specs.first_mut() {
            first.start = Key::default();
        }
        let starts: Box<[u64]> = specs.iter().map(|spec| spec.start.bits()).collect();
        let mut offsets = Vec::with_capacity(specs.len() + 1);
        let mut homes = Vec::with_capacity(specs.len());
        for spec in &specs {
            offsets.push(count(homes.len()));
            homes.extend_from_slice(&spec.homes);
        }
        offsets.push(count(homes.len()));
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([u64::MAX]);
        let shifts = starts
            .iter()
            .zip(ends)
            .map(|(start, last)| shift((*start, last)))
            .collect();
        Self {
            upper: starts.iter().copied().step_by(STRIDE).collect(),
            offsets: offsets.into(),
            homes: homes.into(),
            shifts,
            cells: starts.iter().map(|_| Cell::default()).collect(),
            starts,
        }
    }

    /// How many slices there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is none: no replica was ever known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The slice that a key is in.
    #[must_use]
    pub fn find(&self, key: Key) -> Option<Slice<'_>> {
        self.slice(self.position(key))
    }

    /// The slice at a place.
    #[must_use]
    pub fn slice(&self, at: usize) -> Option<Slice<'_>> {
        let start = *self.starts.get(at)?;
        let last = self.starts.get(at + 1).map_or(u64::MAX, |next| next - 1);
        let (from, to) = (
            *self.offsets.get(at)? as usize,
            *self.offsets.get(at + 1)? as usize,
        );
        Some(Slice {
            at,
            start: Key::from_bits(start),
            last: Key::from_bits(last),
            homes: self.homes.get(from..to)?,
        })
    }

    /// All slices in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = Slice<'_>> {
        (0..self.len()).filter_map(|at| self.slice(at))
    }

    /// Counts a placed request.
    pub fn record(&self, key: Key, placed: Placed) {
        if let Some((cell, part)) = self.cell(key) {
            cell.record(part, key, placed);
        }
    }

    /// Corrects what [`Slices::record`] counted as `was`, once it is known what it `is`: nothing,
    /// where the request did not happen. Of what was counted so long ago, `left` has not faded, 0 to 1.
    pub fn correct(&self, key: Key, was: Placed, is: Placed, left: f64) {
        if let Some((cell, part)) = self.cell(key).filter(|_| was != is) {
            cell.correct(part, key, was, is, left);
        }
    }

    /// The counters of a key's slice, and the part of it that the key is in.
    fn cell(&self, key: Key) -> Option<(&Cell, usize)> {
        let at = self.position(key);
        let cell = self.cells.get(at)?;
        let part = (key.bits() - self.starts.get(at)?) >> self.shifts.get(at)?;
        Some((cell, usize::try_from(part).unwrap_or(PARTS - 1)))
    }

    /// Counts the KV memory that a request held, when it ends: tokens × the milliseconds it held
    /// them.
    pub fn record_kv(&self, key: Key, token_ms: u64) {
        if let Some(cell) = self.cells.get(self.position(key)) {
            cell.record_kv(token_ms);
        }
    }

    /// The counters of each slice.
    pub(crate) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    fn position(&self, key: Key) -> usize {
        let key = key.bits();
        let line = self
            .upper
            .partition_point(|start| *start <= key)
            .saturating_sub(1)
            * STRIDE;
        let end = (line + STRIDE).min(self.starts.len());
        let starts = self.starts.get(line..end).unwrap_or(&[]);
        let within = starts.iter().filter(|start| **start <= key).count();
        line + within.saturating_sub(1)
    }
}

/// The shift by which a slice of these keys falls into at most [`PARTS`] parts of equal width.
pub(crate) fn shift((start, last): Keys) -> u8 {
    let bits = u64::BITS - last.saturating_sub(start).leading_zeros();
    u8::try_from(bits.saturating_sub(PARTS.trailing_zeros())).unwrap_or(u8::MAX)
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The slices of all models, numbered.
#[derive(Clone, Debug, Default)]
pub struct Assignment {
    /// Grows by one with every change.
    pub number: u64,
    pub(crate) models: HashMap<String, Arc<Slices>>,
}

impl Assignment {
    /// From each model's slices.
    #[must_use]
    pub fn new(number: u64, models: HashMap<String, Arc<Slices>>) -> Self {
        Self { number, models }
    }

    /// A model's slices, by its own name.
    #[must_use]
    pub fn model(&self, model: &str) -> Option<&Arc<Slices>> {
        self.models.get(model)
    }

    /// All models that have slices, in no order.
    pub fn models(&self) -> impl Iterator<Item = (&str, &Arc<Slices>)> {
        self.models
            .iter()
            .map(|(model, slices)| (model.as_str(), slices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mu::MicroMu;
    use proptest::prelude::*;

    fn slices(starts: &[u64]) -> Slices {
        let spec = |(at, start): (usize, &u64)| SliceSpec {
            start: Key::from_bits(*start),
            homes: (0..at % 3)
                .map(|home| ReplicaId((at * 3 + home) as u32))
                .collect(),
        };
        Slices::new(starts.iter().enumerate().map(spec).collect())
    }

    proptest! {
        #[test]
        fn every_key_is_in_the_slice_that_begins_last_before_it(
            starts in prop::collection::btree_set(any::<u64>(), 1..200),
            keys in prop::collection::vec(any::<u64>(), 1..100),
        ) {
            let mut starts: Vec<u64> = starts.into_iter().collect();
            let slices = slices(&starts);
            starts[0] = 0;
            prop_assert_eq!(slices.len(), starts.len());
            let edges = starts.iter().flat_map(|start| [*start, start.saturating_sub(1)]);
            for key in keys.into_iter().chain(edges).chain([0, u64::MAX]) {
                let expected = starts.partition_point(|start| *start <= key) - 1;
                let found = slices.find(Key::from_bits(key)).unwrap();
                prop_assert_eq!(found.at, expected);
                prop_assert!(found.start.bits() <= key && key <= found.last.bits());
                prop_assert_eq!(found.homes.len(), expected % 3);
                prop_assert!(found.homes.iter().all(|home| home.0 as usize / 3 == expected));
            }
        }

        #[test]
        fn parts_are_few_and_in_order(start in any::<u64>(), width in any::<u64>()) {
            let last = start.saturating_add(width);
            let shift = shift((start, last));
            let part = |key: u64| (key - start) >> shift;
            prop_assert!(part(last) < PARTS as u64);
            prop_assert!(width < 8 || last == u64::MAX || part(last) >= PARTS as u64 / 2);
        }
    }

    #[test]
    fn without_slices_nothing_is_found_and_nothing_breaks() {
        let none = Slices::default();
        assert_eq!(none.find(Key::from_bits(7)), None);
        none.record(
            Key::from_bits(7),
            Placed {
                charged: MicroMu::from_mu(1.0),
                ..Placed::default()
            },
        );
        none.record_kv(Key::from_bits(7), 1);
        let one = slices(&[u64::MAX]);
        assert_eq!(
            one.find(Key::from_bits(0)).map(|slice| slice.last.bits()),
            Some(u64::MAX)
        );
    }
}
