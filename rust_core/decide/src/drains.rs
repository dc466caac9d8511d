//! Drains: which replicas an operator has told to take nothing new.

use std::collections::{HashMap, HashSet};
use weighbridge_place::{ReplicaSpec, State};

/// A drained replica that has left and comes back within this time is still drained, µs: discovery
/// flaps. Later it is another, at an address that was free.
const REMEMBERED_US: u64 = 600_000_000;

/// The replicas known, and those that are drained.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    known: HashSet<String>,
    /// With the time at which it was gone, µs, for one that has left.
    drained: HashMap<String, Option<u64>>,
}

impl Drains {
    /// Takes in who there is now.
    pub(crate) fn follow(&mut self, specs: &[ReplicaSpec], now_us: u64) {
        self.known = specs.iter().map(|spec| spec.endpoint.clone()).collect();
        let known = &self.known;
        self.drained.retain(|endpoint, left_us| {
            if known.contains(endpoint) {
                let is_back = left_us.take();
                return is_back.is_none_or(|at| now_us.saturating_sub(at) <= REMEMBERED_US);
            }
            let at = *left_us.get_or_insert(now_us);
            now_us.saturating_sub(at) <= REMEMBERED_US
        });
    }

    /// Starts a drain or ends it; `None` where there is no such replica, else whether that changes
    /// anything.
    pub(crate) fn set(&mut self, endpoint: &str, on: bool) -> Option<bool> {
        if !self.known.contains(endpoint) {
            return None;
        }
        Some(if on {
            self.drained.insert(endpoint.to_owned(), None).is_none()
        } else {
            self.drained.remove(endpoint).is_some()
        })
    }

    /// Gives a replica the state that follows. Health keeps the last word: an ejected one does not
    /// serve, drained or not.
    pub(crate) fn amend(&self, spec: &mut ReplicaSpec) {
        if self.drained.contains_key(&spec.endpoint) && spec.state.is_open() {
            spec.state = State::Draining;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(numbers: &[usize]) -> Vec<ReplicaSpec> {
        let spec = |number: &usize| ReplicaSpec {
            endpoint: format!("r{number}"),
            ..ReplicaSpec::default()
        };
        numbers.iter().map(spec).collect()
    }

    #[test]
    fn a_drain_lasts_until_it_is_taken_back_or_the_replica_has_long_left() {
        let mut drains = Drains::default();
        drains.follow(&specs(&[1, 2]), 0);
        assert_eq!(drains.set("r3", true), None);
        assert_eq!(drains.set("r1", true), Some(true));
        assert_eq!(drains.set("r1", true), Some(false));
        let state = |drains: &Drains, state| {
            let mut spec = specs(&[1]).remove(0);
            spec.state = state;
            drains.amend(&mut spec);
            spec.state
        };
        assert_eq!(state(&drains, State::Healthy), State::Draining);
        assert_eq!(state(&drains, State::Ejected), State::Ejected);
        drains.follow(&specs(&[1, 2]), 1);
        assert_eq!(state(&drains, State::Healthy), State::Draining);
        assert_eq!(drains.set("r1", false), Some(true));
        assert_eq!(state(&drains, State::Healthy), State::Healthy);
        assert_eq!(drains.set("r1", true), Some(true));
        // Discovery flaps.
        drains.follow(&specs(&[2]), 2);
        drains.follow(&specs(&[2]), REMEMBERED_US);
        drains.follow(&specs(&[1, 2]), REMEMBERED_US + 1);
        assert_eq!(state(&drains, State::Healthy), State::Draining);
        drains.follow(&specs(&[2]), 3 * REMEMBERED_US);
        drains.follow(&specs(&[1, 2]), 5 * REMEMBERED_US);
        assert_eq!(state(&drains, State::Healthy), State::Healthy);
    }
}
