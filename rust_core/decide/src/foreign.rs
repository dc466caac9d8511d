//! Foreign load: work at a replica that came past this sidecar, as its engine tells.

use serde::Deserialize;
use std::collections::HashMap;
use weighbridge_place::{MicroMu, Replica};

/// Looks of which the least counts: an engine's count and our ledger are never of one moment, and
/// what is only a matter of timing is soon contradicted.
const LOOKS: usize = 3;
/// An engine that says nothing for so long is believed to have no foreign work, µs.
const STALE_US: u64 = 15_000_000;
/// Requests under way are half done on average.
const LEFT: f64 = 0.5;

/// What an engine says of its work at one moment.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct EngineLook {
    /// Iterations since its start.
    #[serde(default)]
    pub iteration: Option<u64>,
    /// Requests that run or wait.
    pub requests: u64,
    /// KV tokens that they hold.
    #[serde(default)]
    pub kv_tokens: u64,
}

/// The latest looks at one replica's engine.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    surplus: [u64; LOOKS],
    at: usize,
    seen_us: u64,
    iteration: u64,
}

impl Foreign {
    /// Takes in a look; true where the engine has begun anew since the last.
    pub(crate) fn look(
        &mut self,
        look: &EngineLook,
        replica: &Replica,
        bounds: &Bounds,
        now_us: u64,
    ) -> bool {
        let own = u64::try_from(replica.load.own().requests).unwrap_or(0);
        if let Some(slot) = self.surplus.get_mut(self.at % LOOKS) {
            *slot = look.requests.saturating_sub(own);
        }
        self.at = self.at.wrapping_add(1);
        self.seen_us = now_us;
        let least = self.surplus.iter().copied().min().unwrap_or(0);
        bounds.charge(replica, least, look);
        let Some(iteration) = look.iteration else {
            return false;
        };
        let is_new = iteration < self.iteration;
        self.iteration = iteration;
        is_new
    }

    /// Takes foreign work off the ledger of a replica that tells of none any more.
    pub(crate) fn expire(&mut self, replica: &Replica, now_us: u64) {
        if self.seen_us > 0 && now_us.saturating_sub(self.seen_us) > STALE_US {
            self.seen_us = 0;
            self.surplus = [0; LOOKS];
            replica.load.set_foreign(MicroMu::ZERO, 0, 0);
        }
    }
}

/// What foreign requests count as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// MU of a request, as ours are on average.
    pub(crate) mu_each: f64,
    /// No more than so many ms of the replica's capacity is believed.
    pub(crate) most_ms: f64,
}

impl Bounds {
    #[allow(clippy::cast_precision_loss)]
    fn charge(&self, replica: &Replica, requests: u64, look: &EngineLook) {
        let mu = (requests as f64 * self.mu_each * LEFT)
            .min(self.most_ms * replica.full_mu_per_ms())
            .max(0.0);
        // Its KV memory is held by all alike; no more than it has is believed.
        let share = requests as f64 / look.requests.max(1) as f64;
        let held = look.kv_tokens.min(replica.spec.kv_tokens) as f64 * share;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        replica.load.set_foreign(
            MicroMu::from_mu(mu),
            held.max(0.0) as u64,
            requests.min(1 << 20),
        );
    }
}

/// The mean MU of our own requests, by model.
#[derive(Debug, Default)]
pub(crate) struct Means(HashMap<String, (f64, f64)>);

impl Means {
    /// Adds what one replica of the model was given.
    pub(crate) fn add(&mut self, model: &str, requests: f64, mu: f64) {
        let sums = self.0.entry(model.to_owned()).or_default();
        sums.0 += requests;
        sums.1 += mu;
    }

    /// The mean; 0 where there was none.
    pub(crate) fn of(&self, model: &str) -> f64 {
        self.0
            .get(model)
            .map_or(0.0, |(requests, mu)| mu / requests.max(1.0))
    }
}
