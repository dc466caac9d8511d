//! A workload's footprint: on which replicas, and in which domains, its slices are.

use super::WorkloadHint;

/// Where one workload is. Slices that hold keys of several workloads belong to none.
#[derive(Debug)]
pub(super) struct Footprint {
    pub(super) workload: u32,
    pub(super) hint: Option<WorkloadHint>,
    /// MU per second of all its slices.
    pub(super) load: f64,
    /// Slices on each seat.
    pub(super) seats: Counts,
    /// Seats in each domain.
    pub(super) domains: Counts,
    /// Its slices, in the order of their keys.
    pub(super) pieces: Vec<u32>,
}

impl Footprint {
    pub(super) fn new(workload: u32, hint: Option<WorkloadHint>) -> Self {
        Self {
            workload,
            hint,
            load: 0.0,
            seats: Counts::default(),
            domains: Counts::default(),
            pieces: Vec::new(),
        }
    }

    /// Most replicas that its hint allows.
    pub(super) fn most(&self) -> usize {
        self.hint
            .map_or(usize::MAX, |hint| hint.most.max(1) as usize)
    }

    /// Fewest replicas that its hint allows.
    pub(super) fn least(&self) -> usize {
        self.hint
            .map_or(0, |hint| hint.least as usize)
            .min(self.most())
    }

    /// Replicas that its load needs, within its hint.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn needed(&self, mean_load: f64) -> usize {
        let needed = (self.load / mean_load.max(1e-9)).ceil().clamp(1.0, 1e6) as usize + 1;
        needed.max(self.least()).min(self.most())
    }

    /// The only domain that it is in, where it is in one.
    pub(super) fn alone(&self) -> Option<u32> {
        if self.domains.len() == 1 {
            self.domains.keys().next()
        } else {
            None
        }
    }

    /// One slice more, or less, on a seat.
    pub(super) fn count(&mut self, seat: u32, domain: u32, up: bool) {
        if up && self.seats.add(seat) == 1 {
            self.domains.add(domain);
        }
        if !up && self.seats.take(seat) == 0 {
            self.domains.take(domain);
        }
    }
}

/// Counts by number, in order: a few entries for most workloads, one a replica for the largest.
#[derive(Debug, Default)]
pub(super) struct Counts(Vec<(u32, u32)>);

impl Counts {
    pub(super) fn get(&self, of: u32) -> u32 {
        let place = self.0.binary_search_by_key(&of, |(of, _)| *of).ok();
        place
            .and_then(|at| self.0.get(at))
            .map_or(0, |(_, count)| *count)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|(of, _)| *of)
    }

    /// Counts one more; how many there are then.
    fn add(&mut self, of: u32) -> u32 {
        match self.0.binary_search_by_key(&of, |(of, _)| *of) {
            Ok(at) => self.0.get_mut(at).map_or(0, |(_, count)| {
                *count += 1;
                *count
            }),
            Err(at) => {
                self.0.insert(at, (of, 1));
                1
            }
        }
    }

    /// Counts one less; how many are left.
    fn take(&mut self, of: u32) -> u32 {
        let Ok(at) = self.0.binary_search_by_key(&of, |(of, _)| *of) else {
            return 0;
        };
        let left = self.0.get_mut(at).map_or(0, |(_, count)| {
            *count -= 1;
            *count
        });
        if left == 0 {
            self.0.remove(at);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_counts_as_long_as_a_seat_in_it_does() {
        let mut footprint = Footprint::new(7, None);
        footprint.count(3, 1, true);
        footprint.count(3, 1, true);
        footprint.count(9, 2, true);
        assert_eq!((footprint.seats.len(), footprint.domains.len()), (2, 2));
        footprint.count(3, 1, false);
        assert_eq!(footprint.seats.get(3), 1);
        footprint.count(3, 1, false);
        assert_eq!(footprint.alone(), Some(2));
        assert_eq!(footprint.seats.keys().collect::<Vec<_>>(), [9]);
    }
}
