//! The Gateway API's endpoint picker: prefix, queue and KV scorers, weighted 3, 2 and 2.
//!
//! As its plugins score: prefix is the share of the prompt's blocks (the first 256) that the replica
//! was sent before and that are still among its latest 31,250; queue is 1 for the shortest queue of
//! waiting requests and 0 for the longest; KV is the free share of the cache. Queues and caches are
//! as old as the last scrape. The highest sum wins, equals are drawn among.

use rand_chacha::ChaCha8Rng;
use weighbridge_weigh::Profile;

use super::prefixes::Prefixes;
use super::scrapes::Scrapes;
use super::{Ask, Policy, View, fresh, lowest};
use crate::replica::Metrics;
use crate::scenario::Scenario;

const PREFIX_WEIGHT: f64 = 3.0;
const QUEUE_WEIGHT: f64 = 2.0;
const KV_WEIGHT: f64 = 2.0;

/// The endpoint picker.
pub(super) struct Picker {
    prefixes: Prefixes,
    scrapes: Scrapes,
    chance: ChaCha8Rng,
}

impl Picker {
    pub(super) fn new(scenario: &Scenario, profiles: &[Profile], chance: ChaCha8Rng) -> Self {
        Self {
            prefixes: Prefixes::new(profiles),
            scrapes: Scrapes::new(scenario.telemetry_ms),
            chance,
        }
    }
}

impl Policy for Picker {
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize> {
        self.scrapes.scrape(view, ask.now_ms);
        let matched = self.prefixes.shares(ask);
        let of = |replica: usize| self.scrapes.of(replica);
        let queues = || fresh(ask, view).map(|replica| of(replica).waiting);
        let (shortest, longest) = (queues().min()?, queues().max()?);
        let score = |replica: usize| {
            let Metrics {
                waiting, kv_share, ..
            } = of(replica);
            let prefix = matched.of(replica);
            let queue = if longest == shortest {
                1.0
            } else {
                f64::from(longest - waiting) / f64::from(longest - shortest)
            };
            PREFIX_WEIGHT * prefix + QUEUE_WEIGHT * queue + KV_WEIGHT * (1.0 - kv_share)
        };
        let scored = fresh(ask, view).map(|replica| (replica, -score(replica)));
        lowest(&mut self.chance, scored)
    }

    fn sent(&mut self, ask: &Ask<'_>, replica: usize, _view: &View<'_>) {
        self.prefixes.record(ask, replica);
    }
}
