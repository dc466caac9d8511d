//! A hash ring, as in ketama: each replica has 160 points on it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::hashing::Table;

const POINTS: u64 = 160;

/// Points in order, each with its replica.
#[derive(Debug, Default)]
pub(super) struct Ring {
    points: Vec<(u64, usize)>,
}

impl Table for Ring {
    fn rebuild(&mut self, replicas: &[(usize, &str)]) {
        self.points.clear();
        for (number, endpoint) in replicas {
            let point = |point| (xxh3_64_with_seed(endpoint.as_bytes(), point), *number);
            self.points.extend((0..POINTS).map(point));
        }
        self.points.sort_unstable();
    }

    fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let start = self.points.partition_point(|(point, _)| *point < hash);
        let (before, after) = self
            .points
            .split_at_checked(start)
            .unwrap_or((&self.points, &[]));
        after.iter().chain(before).map(|(_, number)| *number)
    }
}
