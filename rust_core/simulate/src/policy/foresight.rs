//! What the oracle adds to the other policies: it knows every answer's length, every cache and all
//! that each engine has, and runs each candidate's engine ahead, with the request and without it.
//!
//! ```text
//! score = Σ over all requests there (lateness with it − lateness without it) + κ · own prefill in s
//! lateness = 10 if an objective is missed + (TTFT ÷ objective)² + (TPOT ÷ objective)²
//! ```
//! It does not know what will come, so κ counts the prefill that a cache would have saved for those
//! who will wait behind it. Of clusters above some size it looks at the best cached and the least
//! loaded.

use std::collections::HashMap;

use weighbridge_engine::{Expected, RequestSpec};

use super::{Ask, Policy, Usage, View, fresh, in_flight};
use crate::curve::prefill_ms;
use crate::scenario::{Scenario, Slo};

/// What a missed objective counts.
const MISS: f64 = 10.0;
/// Share of an objective above which it counts as missed: iterations' times are noisy.
const NEAR: f64 = 0.98;
/// How many times an objective counts at most: it is missed anyhow.
const MOST: f64 = 3.0;
/// Clusters up to this size are looked at whole.
const SMALL: usize = 12;
/// Of larger clusters, this many with the longest cached prefix, and this many with the fewest requests.
const SOME: usize = 6;

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Known {
    arrived_ms: f64,
    first_ms: Option<f64>,
    allowed_ms: f64,
    output_tokens: u32,
}

/// The policy that knows what is, and all answers' lengths.
pub(super) struct Foresight {
    slo: Slo,
    /// κ
    price: f64,
    known: HashMap<u64, Known>,
}

impl Foresight {
    pub(super) fn new(scenario: &Scenario, price: f64) -> Self {
        Self {
            slo: scenario.slo,
            price,
            known: HashMap::new(),
        }
    }

    /// Who is worth looking at.
    fn candidates(ask: &Ask<'_>, view: &View<'_>) -> Vec<usize> {
        let mut open: Vec<usize> = fresh(ask, view).collect();
        if open.len() <= SMALL {
            return open;
        }
        let cached = |replica: &usize| {
            view.replicas.get(*replica).map_or(0, |replica| {
                let engine = replica.engine();
                engine.cached_tokens(&ask.sequence.blocks, ask.sequence.prompt_tokens)
            })
        };
        open.sort_by_cached_key(|replica| std::cmp::Reverse(cached(replica)));
        let mut found: Vec<usize> = open.iter().copied().take(SOME).collect();
        open.sort_by_key(|replica| in_flight(view, *replica));
        found.extend(open.into_iter().take(SOME));
        found.sort_unstable();
        found.dedup();
        found
    }

    fn score(
        &self,
        ask: &Ask<'_>,
        spec: &RequestSpec,
        view: &mut View<'_>,
        number: usize,
    ) -> Option<f64> {
        let replica = view.replicas.get_mut(number)?;
        let (with, start_ms) = replica.outlook(Some(spec), ask.now_ms);
        let (without, _) = replica.outlook(None, ask.now_ms);
        let engine = replica.engine();
        let cached = engine.cached_tokens(&spec.block_hashes, spec.prompt_tokens);
        let own_s = prefill_ms(engine.profile(), spec.prompt_tokens, cached) / 1e3;
        let sum =
            |all: &[Expected]| -> f64 { all.iter().map(|one| self.lateness(one, start_ms)).sum() };
        Some(sum(&with) - sum(&without) + self.price * own_s * replica.slowdown())
    }

    fn lateness(&self, expected: &Expected, start_ms: f64) -> f64 {
        let Some(known) = self.known.get(&expected.id) else {
            return 0.0;
        };
        // One whose first token is out and not yet told has it at the iteration's end.
        let first_ms = known.first_ms.or(expected.first_ms).unwrap_or(start_ms);
        let ttft = (first_ms - known.arrived_ms) / known.allowed_ms;
        let more = f64::from(known.output_tokens.saturating_sub(1).max(1));
        let tpot = (expected.done_ms - first_ms) / more / self.slo.tpot_ms;
        let miss = if ttft > NEAR || tpot > NEAR {
            MISS
        } else {
            0.0
        };
        miss + ttft.min(MOST).powi(2) + tpot.min(MOST).powi(2)
    }
}

impl Policy for Foresight {
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize> {
        let slo = ask.workload.slo(ask.number, self.slo);
        let prompt = f64::from(ask.sequence.prompt_tokens);
        let known = Known {
            arrived_ms: ask.now_ms,
            first_ms: None,
            allowed_ms: (slo.ttft_ms + slo.ttft_ms_per_ktok * prompt / 1e3).max(1.0),
            output_tokens: ask.workload.output_tokens(ask.number),
        };
        let spec = ask.workload.spec(ask.number, ask.sequence);
        self.known.entry(spec.id).or_insert(known);
        let candidates = Self::candidates(ask, view);
        let scored = candidates
            .into_iter()
            .filter_map(|number| Some((number, self.score(ask, &spec, view, number)?)));
        let best = scored.min_by(|a, b| a.1.total_cmp(&b.1));
        best.map(|(number, _)| number)
    }

    fn first_token(&mut self, number: usize, _replica: usize, now_ms: f64) {
        if let Some(known) = self.known.get_mut(&(number as u64)) {
            known.first_ms = Some(now_ms);
        }
    }

    fn finished(&mut self, number: usize, _replica: usize, _usage: Usage, _now_ms: f64) {
        self.known.remove(&(number as u64));
    }

    fn dropped(&mut self, number: usize, _now_ms: f64) {
        self.known.remove(&(number as u64));
    }
}
