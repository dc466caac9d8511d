//! Policies that know no caches: random, in turn, and by requests in flight.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Ask, Policy, View, any_of, fresh, in_flight, lowest};

/// Any replica.
pub(super) struct Random(pub(super) ChaCha8Rng);

impl Policy for Random {
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize> {
        any_of(&mut self.0, ask, view)
    }
}

/// One after another, from a place drawn at the start.
pub(super) struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    pub(super) fn new(mut chance: ChaCha8Rng) -> Self {
        Self {
            next: chance.random_range(0..1 << 20),
        }
    }
}

impl Policy for RoundRobin {
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize> {
        for _ in view.open {
            let at = self.next % view.open.len().max(1);
            self.next = self.next.wrapping_add(1);
            let replica = view.open.get(at).copied()?;
            if !ask.tried.contains(&replica) {
                return Some(replica);
            }
        }
        None
    }
}

/// The one with the fewest requests in flight of all.
pub(super) struct LeastRequest(pub(super) ChaCha8Rng);

impl Policy for LeastRequest {
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize> {
        let scored = fresh(ask, view).map(|replica| (replica, f64::from(in_flight(view, replica))));
        lowest(&mut self.0, scored)
    }
}

/// The one with fewer requests in flight of two.
pub(super) struct PowerOfTwo(pub(super) ChaCha8Rng);

impl Policy for PowerOfTwo {
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize> {
        let first = any_of(&mut self.0, ask, view)?;
        let second = any_of(&mut self.0, ask, view)?;
        if in_flight(view, second) < in_flight(view, first) {
            Some(second)
        } else {
            Some(first)
        }
    }
}
