//! A decision laid open: the same weighing and placing, nothing charged.

use crate::core::{Core, Incoming};
use crate::refusal::Refusal;
use crate::weighed::Weighed;
use serde::Serialize;
use std::sync::atomic::Ordering::Relaxed;
use weighbridge_place::{Candidate, Decision, Pool, Verdict};
use weighbridge_weigh::{CostVector, PromptTokens};

/// Everything that led to a choice.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The base model.
    pub model: String,
    /// The profile that gave the costs.
    pub profile: String,
    /// Where the session's name came from.
    pub session_source: &'static str,
    /// The session.
    pub session: String,
    /// The key, 16 hexadecimal digits: workload, then session.
    pub key: String,
    /// Blocks of the prefix chain.
    pub prefix_blocks: usize,
    /// Where the tokens of the prompt's text are from: `tokenizer` or `estimate`.
    pub tokens_from: &'static str,
    /// The prompt's tokens by part.
    pub tokens: Tokens,
    /// Output tokens predicted, of all answers.
    pub output_tokens: u64,
    /// MU by term on the replica chosen: what is charged.
    pub cost: Cost,
    /// Replicas that have likely cached the longest beginnings of the prompt, longest first.
    pub cached: Vec<Cached>,
    /// Replicas looked at, best first.
    pub candidates: Vec<Considered>,
    /// The replica chosen.
    pub chosen: String,
    /// Others, in order of retry.
    pub fallbacks: Vec<String>,
    /// Why.
    pub reason: &'static str,
    /// First token that is in time for it, ms.
    pub objective_ttft_ms: f64,
    /// Time per token after it that is in time, ms.
    pub objective_tpot_ms: f64,
}

/// Tokens of a prompt by part; fractions where they are estimates.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Tokens {
    /// System and developer messages.
    pub system: f64,
    /// User messages.
    pub user: f64,
    /// Assistant messages.
    pub assistant: f64,
    /// Tool results.
    pub tool: f64,
    /// Tool definitions.
    pub tools: f64,
    /// Prompt of a completion or an embedding.
    pub prompt: f64,
    /// Given as token ids.
    pub explicit: f64,
    /// Images.
    pub images: f64,
    /// Audio.
    pub audio: f64,
    /// What the chat template adds.
    pub template: f64,
    /// What was not seen of a body cut off.
    pub missing: f64,
    /// All together, rounded.
    pub total: u64,
}

/// MU by term.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Prompt tokens that are not cached.
    pub prefill_mu: f64,
    /// Output tokens.
    pub decode_mu: f64,
    /// Image tiles.
    pub image_mu: f64,
    /// Seconds of audio.
    pub audio_mu: f64,
    /// Fixed.
    pub overhead_mu: f64,
    /// The sum.
    pub total_mu: f64,
    /// Prompt tokens taken to be cached.
    pub cached_tokens: u64,
    /// KV tokens held at the end.
    pub kv_tokens: u64,
}

/// What a replica has likely cached of the prompt.
#[derive(Clone, Debug, Serialize)]
pub struct Cached {
    /// `ip:port`.
    pub endpoint: String,
    /// Blocks of the prefix chain.
    pub blocks: u32,
    /// Prompt tokens.
    pub tokens: u64,
}

/// One replica looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Considered {
    /// `ip:port`.
    pub endpoint: String,
    /// Prompt tokens that it has likely cached.
    pub cached_tokens: u64,
    /// Prefill ahead of the request, ms.
    pub wait_ms: f64,
    /// Its own prefill, ms.
    pub prefill_ms: f64,
    /// Predicted time to the first token, ms.
    pub first_ms: f64,
    /// Predicted time per token after it, ms.
    pub tpot_ms: f64,
    /// What the request would cost those already there, in ms of a first token.
    pub others_ms: f64,
    /// What was compared: the lowest wins.
    pub score: f64,
    /// Why it was looked at.
    pub role: &'static str,
    /// What was found: `fit`, or what keeps it out.
    pub verdict: &'static str,
}

impl Explanation {
    /// Weighs and places `incoming` as [`Core::decide`] would at `now_us`, charging nothing.
    ///
    /// # Errors
    /// The refusal that the client would get.
    pub fn of(core: &Core, incoming: &Incoming<'_>, now_us: u64) -> Result<Self, Refusal> {
        let weighed = core.weigh(incoming)?;
        let pool = core.pool();
        let next = core.seeds.load(Relaxed);
        let (decision, replica) = core.place_by(&weighed, incoming, &pool, now_us, next)?;
        let cost = weighed.weighing.cost(decision.cached_blocks);
        let objectives = weighed.objectives;
        Ok(Self {
            model: weighed.model().to_owned(),
            profile: weighed.weighing.profile().name.clone(),
            session_source: weighed.session.source(),
            session: weighed.session.shown(),
            key: format!("{:016x}", weighed.key.bits()),
            prefix_blocks: weighed.chain.len(),
            tokens_from: if weighed.is_counted {
                "tokenizer"
            } else {
                "estimate"
            },
            tokens: Tokens::of(weighed.weighing.tokens()),
            output_tokens: cost.output_tokens,
            cost: Cost::of(&cost),
            cached: cached(&weighed, &pool),
            candidates: considered(&weighed, &decision, &pool),
            chosen: replica.spec.endpoint.clone(),
            fallbacks: core
                .fallbacks(&decision, &pool)
                .map(str::to_owned)
                .collect(),
            reason: decision.reason.as_str(),
            objective_ttft_ms: objectives.ttft_ms,
            objective_tpot_ms: objectives.tpot_ms,
        })
    }
}

/// How many replicas are named for what they have cached.
const MOST_CACHED: usize = 16;

fn cached(weighed: &Weighed, pool: &Pool) -> Vec<Cached> {
    let matches = pool.index().matches(&weighed.chain);
    let longest = matches.best(MOST_CACHED, weighed.key.bits());
    longest
        .into_iter()
        .filter_map(|(id, blocks)| {
            pool.in_slot(id).map(|replica| Cached {
                endpoint: replica.spec.endpoint.clone(),
                blocks,
                tokens: weighed.weighing.cost(blocks).cached_tokens,
            })
        })
        .collect()
}

fn considered(weighed: &Weighed, decision: &Decision, pool: &Pool) -> Vec<Considered> {
    let mut all: Vec<&Candidate> = decision.candidates.iter().collect();
    all.sort_by(|a, b| {
        (a.verdict != Verdict::Fit, a.outlook.score)
            .partial_cmp(&(b.verdict != Verdict::Fit, b.outlook.score))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    all.into_iter()
        .map(|candidate| Considered {
            endpoint: pool
                .replica(candidate.replica)
                .map(|replica| replica.spec.endpoint.clone())
                .unwrap_or_default(),
            cached_tokens: weighed.weighing.cost(candidate.cached_blocks).cached_tokens,
            wait_ms: candidate.outlook.wait_ms,
            prefill_ms: candidate.prospect.newcomer.prefill_ms,
            first_ms: candidate.outlook.forecast.first_ms,
            tpot_ms: candidate.outlook.forecast.tpot_ms,
            others_ms: candidate.outlook.others_ms,
            score: candidate.outlook.score,
            role: candidate.role.as_str(),
            verdict: candidate.verdict.as_str(),
        })
        .collect()
}

impl Tokens {
    fn of(tokens: &PromptTokens) -> Self {
        Self {
            system: tokens.system,
            user: tokens.user,
            assistant: tokens.assistant,
            tool: tokens.tool,
            tools: tokens.tools,
            prompt: tokens.prompt,
            explicit: tokens.explicit,
            images: tokens.images,
            audio: tokens.audio,
            template: tokens.template,
            missing: tokens.missing,
            total: tokens.total(),
        }
    }
}

impl Cost {
    fn of(cost: &CostVector) -> Self {
        Self {
            prefill_mu: cost.prefill_mu,
            decode_mu: cost.decode_mu,
            image_mu: cost.image_mu,
            audio_mu: cost.audio_mu,
            overhead_mu: cost.overhead_mu,
            total_mu: cost.total(),
            cached_tokens: cost.cached_tokens,
            kv_tokens: cost.kv_tokens,
        }
    }
}
