//! Maglev's table (Eisenbud et al., NSDI 2016), of the size that Envoy gives it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::hashing::Table;

/// A prime: every skip visits every place.
const SIZE: usize = 65_537;

/// Each place's replica.
#[derive(Debug, Default)]
pub(super) struct Maglev {
    places: Vec<usize>,
}

/// A replica's permutation of the places, as far as it was followed.
struct Turn {
    replica: usize,
    offset: u64,
    skip: u64,
    next: u64,
}

impl Turn {
    fn new((replica, endpoint): (usize, &str)) -> Self {
        let size = SIZE as u64;
        Self {
            replica,
            offset: xxh3_64_with_seed(endpoint.as_bytes(), 0) % size,
            skip: xxh3_64_with_seed(endpoint.as_bytes(), 1) % (size - 1) + 1,
            next: 0,
        }
    }

    #[allow(clippy::cast_possible_truncation)]
    fn take(&mut self) -> usize {
        let place = (self.offset + self.next * self.skip) % SIZE as u64;
        self.next += 1;
        place as usize
    }
}

impl Table for Maglev {
    fn rebuild(&mut self, replicas: &[(usize, &str)]) {
        let mut places: Vec<Option<usize>> = vec![None; SIZE];
        let mut turns: Vec<Turn> = replicas.iter().copied().map(Turn::new).collect();
        let mut left = if turns.is_empty() { 0 } else { SIZE };
        while left > 0 {
            for turn in &mut turns {
                if left == 0 {
                    break;
                }
                let free = std::iter::repeat_with(|| turn.take())
                    .take(SIZE)
                    .find(|place| places.get(*place).is_some_and(Option::is_none));
                if let Some(place) = free.and_then(|place| places.get_mut(place)) {
                    *place = Some(turn.replica);
                    left -= 1;
                }
            }
        }
        self.places = places.into_iter().flatten().collect();
    }

    #[allow(clippy::cast_possible_truncation)]
    fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let start = (hash % SIZE as u64) as usize;
        let (before, after) = self
            .places
            .split_at_checked(start)
            .unwrap_or((&self.places, &[]));
        after.iter().chain(before).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::Maglev;
    use crate::policy::hashing::Table;
    use std::collections::HashMap;

    fn table(names: &[String]) -> Maglev {
        let replicas: Vec<(usize, &str)> = names.iter().map(String::as_str).enumerate().collect();
        let mut table = Maglev::default();
        table.rebuild(&replicas);
        table
    }

    #[test]
    fn places_are_shared_out_evenly() {
        let names: Vec<String> = (0..64).map(|n| format!("10.0.0.{n}:8000")).collect();
        let table = table(&names);
        let mut counts: HashMap<usize, usize> = HashMap::new();
        for replica in &table.places {
            *counts.entry(*replica).or_default() += 1;
        }
        assert_eq!(counts.values().sum::<usize>(), 65_537);
        assert_eq!(counts.values().min(), Some(&1024));
        assert_eq!(counts.values().max(), Some(&1025));
    }

    #[test]
    fn few_sessions_move_when_a_replica_leaves() {
        let mut names: Vec<String> = (0..32).map(|n| format!("10.0.0.{n}:8000")).collect();
        let before = table(&names);
        names.pop();
        let after = table(&names);
        let homes = |table: &Maglev| -> Vec<usize> {
            (0..10_000u64)
                .filter_map(|key| table.walk(key * 7919).next())
                .collect()
        };
        let pairs = homes(&before).into_iter().zip(homes(&after));
        let moved = pairs.filter(|(a, b)| a != b && *a != 31).count();
        assert!(moved < 300, "{moved}");
    }

    #[test]
    fn without_replicas_there_is_nobody() {
        assert_eq!(table(&[]).walk(7).next(), None);
    }
}
