//! Drains: which replicas an operator has told to take nothing new.

use std::collections::HashSet;
use weighbridge_place::{ReplicaSpec, State};

/// The replicas known, and those of them that are drained.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    known: HashSet<String>,
    drained: HashSet<String>,
}

impl Drains {
    /// Takes in who there is now; the drain of a replica that has left is forgotten.
    pub(crate) fn follow(&mut self, specs: &[ReplicaSpec]) {
        self.known = specs.iter().map(|spec| spec.endpoint.clone()).collect();
        self.drained
            .retain(|endpoint| self.known.contains(endpoint));
    }

    /// Has a replica drained, or takes that back; `None` where there is no such replica, else
    /// whether that changes anything.
    pub(crate) fn set(&mut self, endpoint: &str, on: bool) -> Option<bool> {
        if !self.known.contains(endpoint) {
            return None;
        }
        Some(if on {
            self.drained.insert(endpoint.to_owned())
        } else {
            self.drained.remove(endpoint)
        })
    }

    /// Gives a replica the state that follows. Health keeps the last word: who is ejected does not
    /// serve, drained or not.
    pub(crate) fn amend(&self, spec: &mut ReplicaSpec) {
        if self.drained.contains(&spec.endpoint) && spec.state.is_open() {
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
    fn a_drain_lasts_until_it_is_taken_back_or_the_replica_leaves() {
        let mut drains = Drains::default();
        drains.follow(&specs(&[1, 2]));
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
        drains.follow(&specs(&[1, 2]));
        assert_eq!(state(&drains, State::Healthy), State::Draining);
        assert_eq!(drains.set("r1", false), Some(true));
        assert_eq!(state(&drains, State::Healthy), State::Healthy);
        assert_eq!(drains.set("r1", true), Some(true));
        drains.follow(&specs(&[2]));
        drains.follow(&specs(&[1, 2]));
        assert_eq!(state(&drains, State::Healthy), State::Healthy);
    }
}
