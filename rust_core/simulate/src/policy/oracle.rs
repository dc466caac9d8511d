//! The oracle: knows every answer's length and every cache exactly, and what each engine has before
//! it. It decides request by request, so it is no proof of the best there could be; but no router
//! that must guess these things can be expected to do better.
//!
//! ```text
//! score = prefill ahead + kv wait + (1 + κ) · own prefill + δ · decode under way + ω · broken
//! ```
//! in ms. A prefill is computed for all to wait behind it, so κ counts its price for the others; δ
//! spreads the answers, whose number slows every engine's step; `broken` counts the answers under
//! way that this prefill would push over their objective, and this request if it came too late.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weighbridge_engine::{EngineProfile, Load};
use weighbridge_place::{PrefixIndex, ReplicaCache, ReplicaId};
use weighbridge_weigh::Profile;

use super::{Ask, Policy, Usage, View, fresh};
use crate::replica::Replica;
use crate::scenario::{Scenario, Slo};

/// δ
const DECODE_PRICE: f64 = 0.25;

/// ω
const BREACH_PRICE_MS: f64 = 2000.0;

/// Clusters up to this size are looked at whole.
const SMALL: usize = 128;
/// Of larger ones, so many with the least work,
const LEAST: usize = 24;
/// and so many with the longest cached prefix.
const CACHED: usize = 8;

/// The batch among which a step's base is shared when work is reckoned.
const BATCH: f64 = 32.0;

/// What a replica has before it.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    prefill_ms: f64,
    decode_ms: f64,
    kv_tokens: f64,
}

/// What one request is of that.
#[derive(Clone, Copy, Debug)]
struct Share {
    replica: usize,
    ahead: Ahead,
}

/// An answer under way.
#[derive(Clone, Copy, Debug)]
struct Answer {
    first_ms: f64,
    output_tokens: u32,
}

/// The policy that knows all.
pub(super) struct Oracle {
    slo: Slo,
    /// κ
    prefill_price: f64,
    ahead: Vec<Ahead>,
    /// By replica, then by request.
    answers: Vec<BTreeMap<usize, Answer>>,
    lengths: HashMap<usize, u32>,
    shares: HashMap<usize, Share>,
    index: Arc<PrefixIndex>,
    caches: Vec<ReplicaCache>,
    kv_blocks: usize,
}

impl Oracle {
    pub(super) fn new(scenario: &Scenario, _profiles: &[Profile]) -> Self {
        let engines = scenario
            .replicas
            .iter()
            .map(|group| group.engine.0.kv_blocks);
        Self {
            slo: scenario.slo,
            prefill_price: scenario.oracle_prefill_price,
            ahead: Vec::new(),
            answers: Vec::new(),
            lengths: HashMap::new(),
            shares: HashMap::new(),
            index: PrefixIndex::new(),
            caches: Vec::new(),
            kv_blocks: engines.max().unwrap_or(0) as usize / STRIDE,
        }
    }

    fn ahead(&self, replica: usize) -> Ahead {
        self.ahead.get(replica).copied().unwrap_or_default()
    }

    /// Who is worth looking at.
    fn candidates(&self, ask: &Ask<'_>, view: &View<'_>) -> Vec<usize> {
        let mut open: Vec<usize> = fresh(ask, view).collect();
        if open.len() <= SMALL {
            return open;
        }
        let work = |replica: &usize| {
            let ahead = self.ahead(*replica);
            ahead.prefill_ms + DECODE_PRICE * ahead.decode_ms
        };
        let matches = self.index.matches(&sampled(ask));
        let cached = matches.best(CACHED, ask.number as u64);
        let cached = cached.into_iter().map(|(id, _)| id.slot());
        let mut found: Vec<usize> = cached.filter(|replica| open.contains(replica)).collect();
        open.select_nth_unstable_by(LEAST, |a, b| work(a).total_cmp(&work(b)));
        found.extend(open.into_iter().take(LEAST));
        found.sort_unstable();
        found.dedup();
        found
    }

    fn share(&self, ask: &Ask<'_>, number: usize, replica: &Replica) -> Ahead {
        let profile = replica.engine().profile();
        let prompt = ask.sequence.prompt_tokens;
        let cached = replica.engine().cached_tokens(&ask.sequence.blocks, prompt);
        let output = ask.workload.output_tokens(number);
        let slow = replica.slowdown();
        Ahead {
            prefill_ms: prefill_ms(profile, prompt, cached) * slow,
            decode_ms: decode_ms(profile, prompt, output) * slow,
            kv_tokens: f64::from(prompt) + f64::from(ask.workload.max_tokens(number)),
        }
    }

    fn score(&self, ask: &Ask<'_>, number: usize, replica: &Replica) -> f64 {
        let own = self.share(ask, ask.number, replica);
        let ahead = self.ahead(number);
        let profile = replica.engine().profile();
        let memory = f64::from(profile.kv_blocks) * f64::from(profile.tokens_per_block);
        let over = (ahead.kv_tokens + own.kv_tokens - memory).max(0.0);
        // Memory comes free as fast as the answers under way hold it.
        let kv_ms = over / memory * ahead.decode_ms.max(1000.0) * BATCH;
        let prompt = f64::from(ask.sequence.prompt_tokens);
        let allowed = self.slo.ttft_ms + self.slo.ttft_ms_per_ktok * prompt / 1000.0;
        let late = ahead.prefill_ms + kv_ms + own.prefill_ms > allowed;
        let broken = f64::from(u8::from(late)) + self.broken(number, replica, own, ask.now_ms);
        ahead.prefill_ms
            + kv_ms
            + (1.0 + self.prefill_price) * own.prefill_ms
            + DECODE_PRICE * ahead.decode_ms
            + BREACH_PRICE_MS * broken
    }

    /// Answers under way that keep their objective now and would not after this prefill.
    #[allow(clippy::cast_precision_loss)]
    fn broken(&self, number: usize, replica: &Replica, own: Ahead, now_ms: f64) -> f64 {
        let Some(answers) = self.answers.get(number) else {
            return 0.0;
        };
        let engine = replica.engine();
        let step_ms = step_ms(engine.profile(), engine.load()) * replica.slowdown();
        let breaks = |answer: &&Answer| {
            let more = f64::from(answer.output_tokens.saturating_sub(1));
            let since_ms = now_ms - answer.first_ms;
            // All but the delay that is known of, spread over the answer.
            let expected_ms = since_ms.max(more * step_ms);
            let slack_ms = self.slo.tpot_ms * more - expected_ms;
            more > 0.0 && slack_ms > 0.0 && slack_ms < own.prefill_ms
        };
        answers.values().filter(breaks).count() as f64
    }

    fn release(&mut self, number: usize) {
        self.lengths.remove(&number);
        if let Some(share) = self.shares.remove(&number) {
            self.change(share.replica, share.ahead, -1.0);
            if let Some(answers) = self.answers.get_mut(share.replica) {
                answers.remove(&number);
            }
        }
    }

    fn change(&mut self, replica: usize, by: Ahead, sign: f64) {
        if self.ahead.len() <= replica {
            self.ahead.resize(replica + 1, Ahead::default());
        }
        if let Some(ahead) = self.ahead.get_mut(replica) {
            ahead.prefill_ms += sign * by.prefill_ms;
            ahead.decode_ms += sign * by.decode_ms;
            ahead.kv_tokens += sign * by.kv_tokens;
        }
    }
}

impl Policy for Oracle {
    fn choose(&mut self, ask: &Ask<'_>, view: &mut View<'_>) -> Option<usize> {
        let replicas = &*view.replicas;
        let scored = self.candidates(ask, view).into_iter().filter_map(|number| {
            let replica = replicas.get(number)?;
            Some((number, self.score(ask, number, replica)))
        });
        let best = scored.min_by(|a, b| a.1.total_cmp(&b.1))?;
        let share = Share {
            replica: best.0,
            ahead: self.share(ask, ask.number, replicas.get(best.0)?),
        };
        self.release(ask.number);
        self.shares.insert(ask.number, share);
        self.lengths
            .insert(ask.number, ask.workload.output_tokens(ask.number));
        self.change(share.replica, share.ahead, 1.0);
        Some(best.0)
    }

    fn sent(&mut self, ask: &Ask<'_>, replica: usize) {
        while self.caches.len() <= replica {
            let id = ReplicaId(u32::try_from(self.caches.len()).unwrap_or(u32::MAX));
            let cache = ReplicaCache::new(Arc::clone(&self.index), id, self.kv_blocks);
            self.caches.push(cache);
        }
        if let Some(cache) = self.caches.get(replica) {
            cache.record(&sampled(ask));
        }
    }

    fn first_token(&mut self, number: usize, replica: usize, now_ms: f64) {
        let Some(share) = self.shares.get_mut(&number) else {
            return;
        };
        let done = Ahead {
            prefill_ms: std::mem::take(&mut share.ahead.prefill_ms),
            ..Ahead::default()
        };
        self.change(replica, done, -1.0);
        while self.answers.len() <= replica {
            self.answers.push(BTreeMap::new());
        }
        if let (Some(answers), Some(length)) =
            (self.answers.get_mut(replica), self.lengths.get(&number))
        {
            let answer = Answer {
                first_ms: now_ms,
                output_tokens: *length,
            };
            answers.insert(number, answer);
        }
    }

    fn finished(&mut self, number: usize, _usage: Usage, _now_ms: f64) {
        self.release(number);
    }

    fn dropped(&mut self, number: usize, _now_ms: f64) {
        self.release(number);
    }
}

/// Blocks between two that are kept of a prompt: who may have it cached is looked up by these, and
/// then asked of the engine.
const STRIDE: usize = 8;

fn sampled(ask: &Ask<'_>) -> Vec<u64> {
    let blocks = ask.sequence.blocks.iter().skip(STRIDE - 1);
    blocks.step_by(STRIDE).copied().collect()
}

fn prefill_ms(profile: &EngineProfile, prompt: u32, cached: u32) -> f64 {
    let (p, c) = (f64::from(prompt), f64::from(cached));
    profile.prefill_base_ms
        + profile.prefill_ms_per_token * (p - c)
        + profile.prefill_ms_per_token2 * (p * p - c * c)
}

/// What an iteration takes that adds a token to each answer under way.
fn step_ms(profile: &EngineProfile, load: Load) -> f64 {
    let generating = f64::from(load.generating);
    let experts = profile.moe_ms * (1.0 - (-generating / profile.moe_batch).exp());
    #[allow(clippy::cast_precision_loss)]
    let context = load.generating_context as f64 / 1000.0;
    profile.step_overhead_ms
        + profile.decode_base_ms
        + experts
        + profile.decode_ms_per_seq * generating
        + profile.decode_ms_per_ktoken * context
}

fn decode_ms(profile: &EngineProfile, prompt: u32, output: u32) -> f64 {
    let experts = profile.moe_ms * (1.0 - (-BATCH / profile.moe_batch).exp());
    let base = (profile.step_overhead_ms + profile.decode_base_ms + experts) / BATCH;
    let context = (f64::from(prompt) + f64::from(output) / 2.0) / 1000.0;
    f64::from(output) * (base + profile.decode_ms_per_seq + profile.decode_ms_per_ktoken * context)
}
