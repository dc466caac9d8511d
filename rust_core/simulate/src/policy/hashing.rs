//! Consistent hashing of the session, with or without a bound on requests in flight.
//!
//! The bound is that of Mirrokni, Thorup and Zadimoghaddam (2016) as Envoy's `hash_balance_factor`
//! and `KubeAI` have it: no replica above 1.25 × the mean of requests in flight; the next one that
//! the hash names is taken. Requests without a session go anywhere.

use rand_chacha::ChaCha8Rng;

use super::{Ask, Member, Policy, Standing, View, any_of, in_flight};
use crate::error::SimulateError;

/// How many times the mean a replica may be loaded.
pub(super) const BOUND: f64 = 1.25;

/// A table from hashes to replicas.
pub(super) trait Table {
    /// Rebuilds it for these replicas: number and endpoint.
    fn rebuild(&mut self, replicas: &[(usize, &str)]);

    /// The replicas that a hash names, the first choice first, perhaps with repeats.
    fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_;
}

/// Hashing by some table.
pub(super) struct Hashing<T> {
    table: T,
    bound: Option<f64>,
    chance: ChaCha8Rng,
    spills: u64,
}

impl<T: Table> Hashing<T> {
    pub(super) fn new(table: T, bound: Option<f64>, chance: ChaCha8Rng) -> Self {
        Self {
            table,
            bound,
            chance,
            spills: 0,
        }
    }

    /// Requests that a replica may have in flight, this one counted.
    #[allow(clippy::cast_precision_loss)]
    fn limit(&self, view: &View<'_>) -> f64 {
        let Some(bound) = self.bound else {
            return f64::INFINITY;
        };
        let all: u64 = view
            .open
            .iter()
            .map(|replica| u64::from(in_flight(view, *replica)))
            .sum();
        (bound * (all + 1) as f64 / view.open.len().max(1) as f64).ceil()
    }
}

impl<T: Table> Policy for Hashing<T> {
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize> {
        let Some(hash) = ask.session else {
            return any_of(&mut self.chance, ask, view);
        };
        let limit = self.limit(view);
        let mut named = self.table.walk(hash);
        let chosen = named.find(|replica| {
            !ask.tried.contains(replica) && f64::from(in_flight(view, *replica) + 1) <= limit
        });
        let home = self.table.walk(hash).next();
        self.spills += u64::from(chosen.is_some() && chosen != home);
        chosen
    }

    fn members(&mut self, members: &[Member], _now_ms: f64) -> Result<(), SimulateError> {
        let open: Vec<(usize, &str)> = members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.standing == Standing::Open)
            .map(|(number, member)| (number, member.endpoint.as_str()))
            .collect();
        self.table.rebuild(&open);
        Ok(())
    }

    fn spills(&self) -> u64 {
        self.spills
    }
}
