//! llm-d's predicted-latency scheduling, as its router's filters and scorer are published.
//!
//! Its predictor is trained online, from what each pod shows; here it is the engine's own curve, which
//! is as well as it could learn. Then, with its defaults:
//! 1. Replicas that hold at least 0.8 of the prompt are kept alone, unless the best first token among
//!    them is more than 5 s behind the best of the others.
//! 2. Of these, all that are predicted to meet both objectives; once in a hundred times the others.
//! 3. Each gets a weight: headroom of the first token counts 0.8, that of further tokens 0.2, both
//!    relative to the range among the candidates, and *least* headroom is best. Where none has
//!    headroom: idle ones alone, else those that miss further tokens only, else the first only.
//! 4. One is drawn by weight.

use std::collections::HashMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use weighbridge_engine::EngineProfile;
use weighbridge_weigh::Profile;

use super::prefixes::{Prefixes, Shares};
use super::scrapes::Scrapes;
use super::{Ask, Policy, Usage, View, fresh};
use crate::curve::{prefill_ms, step_ms};
use crate::scenario::{Scenario, Slo};

/// Share of a prompt at which a replica is kept for its cache.
const AFFINITY: f64 = 0.8;
/// How much later its first token may be.
const PENALTY_MS: f64 = 5000.0;
/// How often those without headroom are tried.
const EXPLORE: f64 = 0.01;
const TTFT_WEIGHT: f64 = 0.8;
const TPOT_WEIGHT: f64 = 0.2;
/// The highest weight, but for one.
const MOST: f64 = 100.0;
/// Time over which the share of prefill is taken.
const MEMORY_MS: f64 = 10_000.0;

/// What the router knows of one replica from its own requests.
#[derive(Clone, Copy, Debug, Default)]
struct Pod {
    dispatched: u32,
    prefill_ms: f64,
    /// Prefill that was sent lately, ms, fading.
    lately_ms: f64,
    seen_ms: f64,
    /// Of those, which have their first token.
    answering: u32,
    /// Prompts of all that were dispatched, tokens.
    context: u64,
    /// How long answers take, ms.
    stay_ms: f64,
}

impl Pod {
    fn fade(&mut self, now_ms: f64) {
        self.lately_ms *= (-(now_ms - self.seen_ms).max(0.0) / MEMORY_MS).exp();
        self.seen_ms = now_ms;
    }
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    pod: usize,
    prompt: u32,
    prefill_ms: f64,
    first_ms: Option<f64>,
}

/// What is left of the objectives, ms; below 0 where they are missed.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    replica: usize,
    ttft_ms: f64,
    first: f64,
    others: f64,
    is_idle: bool,
}

impl Candidate {
    fn is_well(&self) -> bool {
        self.first >= 0.0 && self.others >= 0.0
    }
}

/// llm-d's policy.
pub(super) struct Predicted {
    slo: Slo,
    prefixes: Prefixes,
    scrapes: Scrapes,
    pods: Vec<Pod>,
    under_way: HashMap<usize, Sent>,
    chance: ChaCha8Rng,
}

impl Predicted {
    pub(super) fn new(scenario: &Scenario, profiles: &[Profile], chance: ChaCha8Rng) -> Self {
        Self {
            slo: scenario.slo,
            prefixes: Prefixes::new(profiles),
            scrapes: Scrapes::new(scenario.telemetry_ms),
            pods: Vec::new(),
            under_way: HashMap::new(),
            chance,
        }
    }

    /// The prefill that a replica would compute of a prompt, ms.
    fn own_ms(ask: &Ask<'_>, share: f64, profile: &EngineProfile) -> f64 {
        let prompt = ask.sequence.prompt_tokens;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let cached = (f64::from(prompt) * share.min(1.0)) as u32;
        prefill_ms(profile, prompt, cached.min(prompt.saturating_sub(1)))
    }

    fn candidate(
        &self,
        ask: &Ask<'_>,
        view: &View<'_>,
        shares: &Shares,
        replica: usize,
    ) -> Option<Candidate> {
        let profile = view.replicas.get(replica)?.engine().profile();
        let mut pod = self.pods.get(replica).copied().unwrap_or_default();
        pod.fade(ask.now_ms);
        let own_ms = Self::own_ms(ask, shares.of(replica), profile);
        let prompt = u64::from(ask.sequence.prompt_tokens);
        let step = step_ms(profile, pod.dispatched + 1, pod.context + prompt);
        let chunk_ms = prefill_ms(profile, profile.max_num_tokens, 0).max(1.0);
        let ahead = pod.prefill_ms + own_ms;
        let waiting = f64::from(self.scrapes.of(replica).waiting);
        let memory = waiting * pod.stay_ms / f64::from(pod.answering.max(1));
        let ttft_ms = ahead + step * (1.5 + ahead / chunk_ms) + memory;
        let busy = ((pod.lately_ms + own_ms) / MEMORY_MS).min(0.9);
        let tpot_ms = step / (1.0 - busy);
        let slo = ask.workload.slo(ask.number, self.slo);
        let allowed =
            slo.ttft_ms + slo.ttft_ms_per_ktok * f64::from(ask.sequence.prompt_tokens) / 1e3;
        Some(Candidate {
            replica,
            ttft_ms,
            first: allowed - ttft_ms,
            others: slo.tpot_ms - tpot_ms,
            is_idle: pod.dispatched == 0,
        })
    }

    /// Step 1.
    fn keep_caches(all: Vec<Candidate>, shares: &Shares) -> Vec<Candidate> {
        let (kept, others): (Vec<_>, Vec<_>) = all
            .iter()
            .copied()
            .partition(|one| shares.of(one.replica) >= AFFINITY);
        let best = |some: &[Candidate]| {
            some.iter()
                .map(|one| one.ttft_ms)
                .fold(f64::INFINITY, f64::min)
        };
        if kept.is_empty() || best(&kept) > best(&others) + PENALTY_MS {
            all
        } else {
            kept
        }
    }

    /// Steps 2 and 3, up to the weights.
    fn tier(&mut self, all: Vec<Candidate>) -> Vec<Candidate> {
        let (well, late): (Vec<_>, Vec<_>) = all.into_iter().partition(Candidate::is_well);
        if late.is_empty() || (!well.is_empty() && self.chance.random::<f64>() >= EXPLORE) {
            return well;
        }
        let some = |fits: &dyn Fn(&&Candidate) -> bool| {
            let some: Vec<Candidate> = late.iter().filter(fits).copied().collect();
            (!some.is_empty()).then_some(some)
        };
        some(&|one| one.is_idle)
            .or_else(|| some(&|one| one.first >= 0.0))
            .or_else(|| some(&|one| one.others >= 0.0))
            .unwrap_or(late)
    }

    fn draw(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let first = Range::of(candidates.iter().map(|one| one.first.abs()));
        let others = Range::of(candidates.iter().map(|one| one.others.abs()));
        let (alpha, beta) = match (first.is_flat(), others.is_flat()) {
            (true, false) => (0.0, 1.0),
            (false, true) => (1.0, 0.0),
            _ => (TTFT_WEIGHT, TPOT_WEIGHT),
        };
        let weight = |one: &Candidate| {
            let used = alpha * first.place(one.first.abs()) + beta * others.place(one.others.abs());
            ((1.0 - used) * MOST).floor() + 1.0
        };
        let sum: f64 = candidates.iter().map(weight).sum();
        let mut left = self.chance.random::<f64>() * sum;
        for one in candidates {
            left -= weight(one);
            if left < 0.0 {
                return Some(one.replica);
            }
        }
        candidates.last().map(|one| one.replica)
    }

    fn free(&mut self, number: usize, now_ms: f64) {
        let Some(sent) = self.under_way.remove(&number) else {
            return;
        };
        let Some(pod) = self.pods.get_mut(sent.pod) else {
            return;
        };
        pod.dispatched -= 1;
        pod.prefill_ms -= sent.prefill_ms;
        pod.context -= u64::from(sent.prompt);
        if let Some(first_ms) = sent.first_ms {
            pod.answering -= 1;
            pod.stay_ms += (now_ms - first_ms - pod.stay_ms) / 16.0;
        }
        if pod.dispatched == 0 {
            // What was rounded off.
            pod.prefill_ms = 0.0;
        }
    }
}

/// From the least to the most.
#[derive(Clone, Copy, Debug)]
struct Range(f64, f64);

impl Range {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let ends = (f64::INFINITY, f64::NEG_INFINITY);
        let (least, most) = values.fold(ends, |(least, most), value| {
            (least.min(value), most.max(value))
        });
        Self(least, most)
    }

    fn is_flat(self) -> bool {
        self.1 - self.0 <= 1e-9
    }

    fn place(self, value: f64) -> f64 {
        if self.is_flat() {
            0.5
        } else {
            (value - self.0) / (self.1 - self.0)
        }
    }
}

impl Policy for Predicted {
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize> {
        self.scrapes.scrape(view, ask.now_ms);
        let shares = self.prefixes.shares(ask);
        let all: Vec<Candidate> = fresh(ask, view)
            .filter_map(|replica| self.candidate(ask, view, &shares, replica))
            .collect();
        let kept = Self::keep_caches(all, &shares);
        let tier = self.tier(kept);
        self.draw(&tier)
    }

    fn sent(&mut self, ask: &Ask<'_>, replica: usize, view: &View<'_>) {
        self.free(ask.number, ask.now_ms);
        let share = self.prefixes.shares(ask).of(replica);
        self.prefixes.record(ask, replica);
        while self.pods.len() <= replica {
            self.pods.push(Pod::default());
        }
        let (Some(pod), Some(target)) = (self.pods.get_mut(replica), view.replicas.get(replica))
        else {
            return;
        };
        let prefill_ms = Self::own_ms(ask, share, target.engine().profile());
        pod.fade(ask.now_ms);
        pod.dispatched += 1;
        pod.context += u64::from(ask.sequence.prompt_tokens);
        pod.prefill_ms += prefill_ms;
        pod.lately_ms += prefill_ms;
        self.under_way.insert(
            ask.number,
            Sent {
                pod: replica,
                prompt: ask.sequence.prompt_tokens,
                prefill_ms,
                first_ms: None,
            },
        );
    }

    fn first_token(&mut self, number: usize, _replica: usize, now_ms: f64) {
        let Some(sent) = self.under_way.get_mut(&number) else {
            return;
        };
        sent.first_ms = Some(now_ms);
        let done_ms = std::mem::take(&mut sent.prefill_ms);
        if let Some(pod) = self.pods.get_mut(sent.pod) {
            pod.prefill_ms = (pod.prefill_ms - done_ms).max(0.0);
            pod.answering += 1;
        }
    }

    fn finished(&mut self, number: usize, _replica: usize, _usage: Usage, now_ms: f64) {
        self.free(number, now_ms);
    }

    fn dropped(&mut self, number: usize, now_ms: f64) {
        self.free(number, now_ms);
    }
}
