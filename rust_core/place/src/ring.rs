//! A hash ring over the replicas of one model.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::replica::Replica;

/// Points that each replica has on the ring.
const POINTS: u64 = 64;

/// A hash ring over the replicas of one model: points and the position of their replica.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// The ring of these replicas; positions refer to this slice.
    #[must_use]
    pub(crate) fn build(replicas: &[Arc<Replica>]) -> Self {
        let mut points: Vec<(u64, u32)> = (0u32..)
            .zip(replicas)
            .flat_map(|(position, replica)| {
                let endpoint = replica.spec.endpoint.as_bytes();
                (0..POINTS).map(move |point| (xxh3_64_with_seed(endpoint, point), position))
            })
            .collect();
        points.sort_unstable();
        Self { points }
    }

    /// Positions in ring order from this hash on, with repeats.
    pub(crate) fn walk(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        let start = self.points.partition_point(|(point, _)| *point < hash);
        let (before, after) = self
            .points
            .split_at_checked(start)
            .unwrap_or((&self.points, &[]));
        after.iter().chain(before).map(|(_, position)| *position)
    }
}
