//! The set of replicas that hold one block, packed into one word while it is small.

use crate::replica::ReplicaId;

/// Replicas that fit into one word.
pub(super) const INLINE: usize = 4;

/// Bits of one packed replica number; zero is "none", so numbers are stored plus one.
const FIELD_BITS: u32 = 15;
const FIELD: u64 = (1 << FIELD_BITS) - 1;

/// Replica numbers from here on are not indexed: they do not fit a field.
pub(super) const MOST_REPLICAS: u32 = (1 << FIELD_BITS) - 1;

/// Set in a word that names a row of bits and is no packed set.
const ROW: u64 = 1 << 63;

/// A word that stands for a set: up to four numbers, or the row where the bits are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holders(pub(super) u64);

impl Holders {
    /// The set whose bits are in this row.
    pub(super) const fn in_row(row: u32) -> Self {
        Self(ROW | row as u64)
    }

    /// The row, where the set is not packed.
    #[allow(clippy::cast_possible_truncation)]
    pub(super) const fn row(self) -> Option<u32> {
        if self.0 & ROW == 0 {
            None
        } else {
            Some(self.0 as u32)
        }
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The numbers of a packed set.
    pub(super) fn ids(self) -> impl Iterator<Item = ReplicaId> {
        let mut rest = if self.row().is_some() { 0 } else { self.0 };
        std::iter::from_fn(move || {
            let field = rest & FIELD;
            rest >>= FIELD_BITS;
            (field != 0).then(|| number(field))
        })
    }

    pub(super) fn contains(self, id: ReplicaId) -> bool {
        self.ids().any(|held| held == id)
    }

    /// With one more; `None` when it is full. Must not hold it already.
    pub(super) fn with(self, id: ReplicaId) -> Option<Self> {
        let held = self.ids().count();
        if held >= INLINE {
            return None;
        }
        Some(Self(self.0 | field(id) << (FIELD_BITS as usize * held)))
    }

    /// Only those for which `keep` holds.
    pub(super) fn filter(self, keep: impl Fn(ReplicaId) -> bool) -> Self {
        self.ids()
            .filter(|id| keep(*id))
            .fold(Self::default(), |set, id| set.with(id).unwrap_or(set))
    }
}

fn field(id: ReplicaId) -> u64 {
    (id.slot() as u64 + 1) & FIELD
}

#[allow(clippy::cast_possible_truncation)]
const fn number(field: u64) -> ReplicaId {
    ReplicaId(field as u32 - 1)
}

/// The numbers whose bits are set in these words.
pub(super) fn bits(words: &[u64]) -> impl Iterator<Item = ReplicaId> + '_ {
    (0u32..).zip(words).flat_map(|(at, word)| {
        let mut rest = *word;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let bit = rest.trailing_zeros();
            rest &= rest - 1;
            Some(ReplicaId(at * 64 + bit))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_the_smallest_and_the_largest_number() {
        let ids = [0, MOST_REPLICAS - 1, 7, 64].map(ReplicaId);
        let full = ids
            .iter()
            .try_fold(Holders::default(), |set, id| set.with(*id))
            .unwrap();
        assert_eq!(full.ids().collect::<Vec<_>>(), ids);
        assert_eq!(full.row(), None);
        assert_eq!(full.with(ReplicaId(9)), None);
        let odd = full.filter(|id| id.0 % 2 == 1);
        assert_eq!(odd.ids().collect::<Vec<_>>(), [ReplicaId(7)]);
        assert!(full.filter(|_| false).is_empty());
    }

    #[test]
    fn a_row_is_no_packed_set() {
        let row = Holders::in_row(u32::MAX);
        assert_eq!(row.row(), Some(u32::MAX));
        assert_eq!(row.ids().count(), 0);
        assert!(!row.is_empty());
    }

    #[test]
    fn walks_the_bits_of_words() {
        let found: Vec<u32> = bits(&[1, 0, 1 << 63 | 2]).map(|id| id.0).collect();
        assert_eq!(found, [0, 129, 191]);
    }
}
