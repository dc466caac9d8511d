//! Policies: who gets a request. Each module is one of them, or one family.

mod balance;
mod cache_aware;
mod dynamo;
mod foresight;
mod hashing;
mod maglev;
mod picker;
mod predicted;
mod prefixes;
mod ring;
mod scrapes;
mod weighbridge;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::Value;
use weighbridge_weigh::Profile;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::SimulateError;
use crate::replica::Replica;
use crate::scenario::Scenario;
use crate::sequence::Sequence;
use crate::workload::Workload;

/// A request that wants a replica.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// Its number in the workload.
    pub(crate) number: usize,
    pub(crate) now_ms: f64,
    pub(crate) workload: &'a Workload,
    pub(crate) sequence: &'a Sequence,
    /// Hash of the session that a header names.
    pub(crate) session: Option<u64>,
    /// Replicas that were tried in vain.
    pub(crate) tried: &'a [usize],
}

/// What a policy may look at. Most look at the first two alone.
pub(crate) struct View<'a> {
    /// Replicas that the router takes for open, by number.
    pub(crate) open: &'a [usize],
    /// Requests that the router has under way at each replica.
    pub(crate) in_flight: &'a [u32],
    /// The replicas themselves: for scrapes, and for those who know all.
    pub(crate) replicas: &'a mut [Replica],
    /// What is true of each of them.
    pub(crate) standing: &'a [Standing],
}

/// How a replica stands with the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Open,
    Draining,
    Gone,
}

/// A replica as the router knows it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) endpoint: String,
    pub(crate) group: usize,
    pub(crate) domain: String,
    pub(crate) standing: Standing,
}

/// What the replica's own usage says of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) output_tokens: u32,
}

/// Who gets a request.
pub(crate) trait Policy {
    /// The replica for a request; `None` where there is none to name.
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize>;

    /// Whether a request for which no replica was named waits for admission.
    fn waits(&self, _number: usize) -> bool {
        false
    }

    /// Requests that have waited, and what became of them: a replica, or `None` if refused.
    fn resume(&mut self, _now_ms: f64) -> Vec<(usize, Option<usize>)> {
        Vec::new()
    }

    /// When [`Policy::resume`] has something to do, if nothing else happens.
    fn next_event_ms(&self) -> Option<f64> {
        None
    }

    /// The replica was reached and has the request.
    fn sent(&mut self, _ask: &Ask<'_>, _replica: usize, _view: &View<'_>) {}

    /// The first token is out. Not told where answers are not streamed.
    fn first_token(&mut self, _number: usize, _replica: usize, _now_ms: f64) {}

    /// The answer is complete.
    fn finished(&mut self, _number: usize, _replica: usize, _usage: Usage, _now_ms: f64) {}

    /// The request was broken off with its replica, or found none.
    fn dropped(&mut self, _number: usize, _now_ms: f64) {}

    /// The replicas, or what the router knows of them, have changed.
    fn members(&mut self, _members: &[Member], _now_ms: f64) -> Result<(), SimulateError> {
        Ok(())
    }

    /// Called every so many ms, if it wants that.
    fn tick(&mut self, _now_ms: f64, _view: &mut View<'_>) -> Result<(), SimulateError> {
        Ok(())
    }

    fn tick_ms(&self) -> Option<f64> {
        None
    }

    /// Requests placed elsewhere than at home, where it has homes.
    fn spills(&self) -> u64 {
        0
    }

    /// Slices that got other replicas.
    fn slices_moved(&self) -> u64 {
        0
    }

    /// Requests by the reason of their placement, where it gives reasons.
    fn reasons(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    /// What it was asked, weighed and saw, in order, where it keeps that and the scenario asks.
    fn diary(&mut self) -> Vec<Value> {
        Vec::new()
    }
}

/// The policy that is the best of all others and of [`FORESIGHT`].
pub(crate) const ORACLE: &str = "oracle";

/// What the oracle tries besides the other policies, by the price of prefill.
pub(crate) const FORESIGHT: [(&str, f64); 2] = [("foresight-1", 1.0), ("foresight-8", 8.0)];

const NAMES: [&str; 13] = [
    "random",
    "round_robin",
    "least_request",
    "power_of_two",
    "ring_hash",
    "maglev",
    "bounded_hash",
    "cache_aware",
    "endpoint_picker",
    "dynamo_kv",
    "predicted_latency",
    "weighbridge",
    ORACLE,
];

/// The names of all policies.
#[must_use]
pub fn policy_names() -> Vec<&'static str> {
    NAMES.to_vec()
}

/// A policy by name, for a scenario.
pub(crate) fn named(
    name: &str,
    scenario: &Scenario,
    profiles: &[Profile],
    seed: u64,
) -> Result<Box<dyn Policy>, SimulateError> {
    let chance = ChaCha8Rng::seed_from_u64(xxh3_64_with_seed(name.as_bytes(), seed));
    Ok(match name {
        "random" => Box::new(balance::Random(chance)),
        "round_robin" => Box::new(balance::RoundRobin::new(chance)),
        "least_request" => Box::new(balance::LeastRequest(chance)),
        "power_of_two" => Box::new(balance::PowerOfTwo(chance)),
        "ring_hash" => Box::new(hashing::Hashing::new(ring::Ring::default(), None, chance)),
        "maglev" => Box::new(hashing::Hashing::new(
            maglev::Maglev::default(),
            None,
            chance,
        )),
        "bounded_hash" => {
            let bound = Some(hashing::BOUND);
            Box::new(hashing::Hashing::new(ring::Ring::default(), bound, chance))
        }
        "cache_aware" => Box::new(cache_aware::CacheAware::new(chance)),
        "endpoint_picker" => Box::new(picker::Picker::new(scenario, profiles, chance)),
        "dynamo_kv" => Box::new(dynamo::Dynamo::new(chance, scenario.with_diary)),
        "predicted_latency" => Box::new(predicted::Predicted::new(scenario, profiles, chance)),
        "weighbridge" => Box::new(weighbridge::Live::new(scenario, profiles)?),
        _ => {
            let known = FORESIGHT.iter().find(|(known, _)| *known == name);
            let (_, price) = known.ok_or_else(|| SimulateError::Policy(name.to_owned()))?;
            Box::new(foresight::Foresight::new(scenario, *price))
        }
    })
}

/// Open replicas that were not tried in vain.
fn fresh<'a>(ask: &'a Ask<'_>, view: &'a View<'_>) -> impl Iterator<Item = usize> + 'a {
    let open = view.open.iter().copied();
    open.filter(|replica| !ask.tried.contains(replica))
}

fn any_of(chance: &mut ChaCha8Rng, ask: &Ask<'_>, view: &View<'_>) -> Option<usize> {
    if ask.tried.is_empty() {
        let at = chance.random_range(0..view.open.len().max(1));
        return view.open.get(at).copied();
    }
    let left: Vec<usize> = fresh(ask, view).collect();
    let at = chance.random_range(0..left.len().max(1));
    left.get(at).copied()
}

fn in_flight(view: &View<'_>, replica: usize) -> u32 {
    view.in_flight.get(replica).copied().unwrap_or(0)
}

/// The replica with the lowest score; equals are drawn among.
fn lowest(chance: &mut ChaCha8Rng, scored: impl Iterator<Item = (usize, f64)>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    let mut equals = 0u32;
    for (replica, score) in scored {
        match best {
            Some((_, lowest)) if score > lowest => {}
            Some((_, lowest)) if score == lowest => {
                equals += 1;
                if chance.random_range(0..=equals) == 0 {
                    best = Some((replica, score));
                }
            }
            _ => {
                equals = 0;
                best = Some((replica, score));
            }
        }
    }
    best.map(|(replica, _)| replica)
}
