//! The roster: which replicas an operator drains, and which have just joined and warm up.

use std::collections::{HashMap, HashSet};
use weighbridge_place::{ReplicaSpec, State, WarmUp};

/// What becomes of replicas by an operator's word and by time, beside settings and health.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    known: HashSet<String>,
    drained: HashSet<String>,
    warming: HashMap<String, Warming>,
}

/// A replica that has joined others.
#[derive(Clone, Copy, Debug, Default)]
struct Warming {
    /// When it was first ticked, ms; nothing before.
    since_ms: Option<u64>,
    /// Its share of its capacity now, 0 to 1.
    share: f64,
}

impl Roster {
    /// Takes in who there is now. Who is new to a model that others serve already warms up; where
    /// all are new, all are equally cold and nobody could carry their part meanwhile.
    pub(crate) fn follow(&mut self, specs: &[ReplicaSpec], warm_up: &WarmUp) {
        let served: HashSet<&str> = specs
            .iter()
            .filter(|spec| self.is_warm(&spec.endpoint) && spec.state.is_open())
            .map(|spec| spec.model.as_str())
            .collect();
        let joins = |spec: &&ReplicaSpec| {
            served.contains(spec.model.as_str()) && !self.known.contains(&spec.endpoint)
        };
        let joined: Vec<String> = specs
            .iter()
            .filter(joins)
            .map(|spec| spec.endpoint.clone())
            .collect();
        self.known = specs.iter().map(|spec| spec.endpoint.clone()).collect();
        self.drained
            .retain(|endpoint| self.known.contains(endpoint));
        self.warming
            .retain(|endpoint, _| self.known.contains(endpoint));
        if warm_up.over_ms > 0 {
            let cold = Warming {
                since_ms: None,
                share: warm_up.share(0),
            };
            self.warming
                .extend(joined.into_iter().map(|endpoint| (endpoint, cold)));
        }
    }

    fn is_warm(&self, endpoint: &str) -> bool {
        self.known.contains(endpoint) && !self.warming.contains_key(endpoint)
    }

    /// Lets time pass; whether anyone's share has changed.
    pub(crate) fn tick(&mut self, now_ms: u64, warm_up: &WarmUp) -> bool {
        let any = !self.warming.is_empty();
        self.warming.retain(|_, warming| {
            let since_ms = *warming.since_ms.get_or_insert(now_ms);
            warming.share = warm_up.share(now_ms.saturating_sub(since_ms));
            warming.share < 1.0
        });
        any
    }

    /// Has a replica drained, or takes that back; `None` where there is no such replica, else
    /// whether that changes anything.
    pub(crate) fn drain(&mut self, endpoint: &str, on: bool) -> Option<bool> {
        if !self.known.contains(endpoint) {
            return None;
        }
        Some(if on {
            self.drained.insert(endpoint.to_owned())
        } else {
            self.drained.remove(endpoint)
        })
    }

    /// Gives a replica the state and share that follow. Health keeps the last word: who is ejected
    /// does not serve, drained or not.
    pub(crate) fn amend(&self, spec: &mut ReplicaSpec) {
        if self.drained.contains(&spec.endpoint) && spec.state.is_open() {
            spec.state = State::Draining;
        }
        if let Some(warming) = self.warming.get(&spec.endpoint) {
            spec.share *= warming.share;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARM_UP: WarmUp = WarmUp {
        first_share: 0.25,
        over_ms: 1_000,
    };

    fn specs(numbers: &[usize]) -> Vec<ReplicaSpec> {
        let spec = |number: &usize| ReplicaSpec {
            endpoint: format!("r{number}"),
            model: "m".to_owned(),
            ..ReplicaSpec::default()
        };
        numbers.iter().map(spec).collect()
    }

    fn shares(roster: &Roster, numbers: &[usize]) -> Vec<f64> {
        let amended = specs(numbers).into_iter().map(|mut spec| {
            roster.amend(&mut spec);
            spec.share
        });
        amended.collect()
    }

    #[test]
    fn who_joins_warms_up_from_the_first_tick_on() {
        let mut roster = Roster::default();
        roster.follow(&specs(&[1, 2]), &WARM_UP);
        assert_eq!(shares(&roster, &[1, 2]), [1.0, 1.0], "all are equally cold");
        roster.follow(&specs(&[1, 2, 3]), &WARM_UP);
        assert_eq!(shares(&roster, &[2, 3]), [1.0, 0.25]);
        assert!(roster.tick(50_000, &WARM_UP));
        assert_eq!(shares(&roster, &[3]), [0.25]);
        assert!(roster.tick(50_500, &WARM_UP));
        assert_eq!(shares(&roster, &[3]), [0.625]);
        assert!(roster.tick(51_000, &WARM_UP));
        assert_eq!(shares(&roster, &[3]), [1.0]);
        assert!(!roster.tick(52_000, &WARM_UP));
        roster.follow(&specs(&[1, 2]), &WARM_UP);
        roster.follow(&specs(&[1, 2, 3]), &WARM_UP);
        assert_eq!(shares(&roster, &[3]), [0.25], "it has come anew");
    }

    #[test]
    fn where_nobody_else_serves_nobody_is_held_back() {
        let mut roster = Roster::default();
        roster.follow(&specs(&[1]), &WARM_UP);
        roster.follow(&specs(&[2, 3]), &WARM_UP);
        assert_eq!(shares(&roster, &[2, 3]), [1.0, 1.0]);
    }

    #[test]
    fn a_drain_lasts_until_it_is_taken_back_or_the_replica_leaves() {
        let mut roster = Roster::default();
        roster.follow(&specs(&[1, 2]), &WARM_UP);
        assert_eq!(roster.drain("r3", true), None);
        assert_eq!(roster.drain("r1", true), Some(true));
        assert_eq!(roster.drain("r1", true), Some(false));
        let state = |roster: &Roster, state| {
            let mut spec = specs(&[1]).remove(0);
            spec.state = state;
            roster.amend(&mut spec);
            spec.state
        };
        assert_eq!(state(&roster, State::Healthy), State::Draining);
        assert_eq!(state(&roster, State::Ejected), State::Ejected);
        roster.follow(&specs(&[1, 2]), &WARM_UP);
        assert_eq!(state(&roster, State::Healthy), State::Draining);
        assert_eq!(roster.drain("r1", false), Some(true));
        assert_eq!(state(&roster, State::Healthy), State::Healthy);
        assert_eq!(roster.drain("r1", true), Some(true));
        roster.follow(&specs(&[2]), &WARM_UP);
        roster.follow(&specs(&[1, 2]), &WARM_UP);
        assert_eq!(state(&roster, State::Healthy), State::Healthy);
    }
}
