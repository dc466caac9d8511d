//! How many tokens an answer will have: decayed histograms of what answers had, per group of
//! requests, each leaning on its wider group while it has seen few.
//!
//! All groups are of one workload. What is taken for granted of a workload that has said little is
//! the middle of what others of its model do: none of them can move it by much.

mod groups;
mod histogram;
mod prior;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use groups::Groups;
use histogram::Histogram;
use prior::Priors;
use serde::{Deserialize, Serialize};

/// What an operator sets of a predictor.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Tokens taken for granted before anything was learnt.
    pub prior_tokens: u64,
    /// Answers after which an older one counts half.
    pub half_life: f64,
    /// Answers that a group must have seen to count as much as its wider group.
    pub trust: f64,
    /// Groups kept; the least used are forgotten.
    pub most_groups: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prior_tokens: 256,
            half_life: 2_000.0,
            trust: 20.0,
            most_groups: 16_384,
        }
    }
}

/// What is known of a request that bears on its answer's length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Hash of the model's name.
    pub model: u64,
    /// Hash of the workload: model and tenant.
    pub workload: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Most tokens that the client allows.
    pub max_tokens: Option<u64>,
    /// Fewest tokens that it wants.
    pub min_tokens: u64,
    /// The answer is streamed.
    pub stream: bool,
    /// Tools are offered.
    pub tools: bool,
    /// The answer runs to `max_tokens` whatever the model says.
    pub runs_to_limit: bool,
}

/// How long an answer will be, in tokens; never above what the client allows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The mean: what to charge.
    pub mean: f64,
    /// Half of the answers are no longer.
    pub p50: f64,
    /// 90 % are no longer.
    pub p90: f64,
    /// 95 % are no longer.
    pub p95: f64,
}

impl Prediction {
    fn all(tokens: f64) -> Self {
        Self {
            mean: tokens,
            p50: tokens,
            p90: tokens,
            p95: tokens,
        }
    }

    /// Goes a share of the way to another.
    fn towards(&self, other: &Self, share: f64) -> Self {
        let blend = |own: f64, other: f64| own + share * (other - own);
        Self {
            mean: blend(self.mean, other.mean),
            p50: blend(self.p50, other.p50),
            p90: blend(self.p90, other.p90),
            p95: blend(self.p95, other.p95),
        }
    }

    /// Keeps it within what the client asks for.
    fn within(self, ask: &Ask) -> Self {
        #[allow(clippy::cast_precision_loss)]
        let most = ask.max_tokens.map_or(f64::INFINITY, |most| most as f64);
        #[allow(clippy::cast_precision_loss)]
        let least = ask.min_tokens as f64;
        let clamp = |tokens: f64| tokens.max(least).min(most);
        Self {
            mean: clamp(self.mean),
            p50: clamp(self.p50),
            p90: clamp(self.p90),
            p95: clamp(self.p95),
        }
    }
}

/// What a group says at present, to be read without waiting for who writes it. The parts are read
/// one after another, so a reader may see two of an older and two of a newer moment.
#[derive(Debug, Default)]
struct Published {
    mean_p50: AtomicU64,
    p90_p95: AtomicU64,
}

impl Published {
    fn store(&self, prediction: &Prediction) {
        self.mean_p50
            .store(pack(prediction.mean, prediction.p50), Relaxed);
        self.p90_p95
            .store(pack(prediction.p90, prediction.p95), Relaxed);
    }

    fn load(&self) -> Prediction {
        let (mean, p50) = unpack(self.mean_p50.load(Relaxed));
        let (p90, p95) = unpack(self.p90_p95.load(Relaxed));
        Prediction {
            mean,
            p50,
            p90,
            p95,
        }
    }
}

#[allow(clippy::cast_possible_truncation)]
fn pack(high: f64, low: f64) -> u64 {
    u64::from((high as f32).to_bits()) << 32 | u64::from((low as f32).to_bits())
}

#[allow(clippy::cast_possible_truncation)]
fn unpack(bits: u64) -> (f64, f64) {
    let part = |bits: u64| f64::from(f32::from_bits(bits as u32));
    (part(bits >> 32), part(bits))
}

/// Predicts and learns; shared by all threads. A prediction takes a lookup or two.
#[derive(Debug)]
pub struct Predictor {
    settings: Settings,
    groups: Groups,
    priors: Priors,
}

impl Predictor {
    /// A predictor that has learnt nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            groups: Groups::new(settings.most_groups),
            priors: Priors::default(),
            settings,
        }
    }

    /// How long the answer will be.
    #[must_use]
    pub fn predict(&self, ask: &Ask) -> Prediction {
        if ask.runs_to_limit {
            if let Some(most) = ask.max_tokens {
                #[allow(clippy::cast_precision_loss)]
                return Prediction::all(most as f64);
            }
        }
        let keys = groups::keys(ask);
        let known = keys.iter().find_map(|key| self.groups.read(*key));
        let others = || self.priors.get(ask.model).and_then(|prior| prior.read());
        known
            .or_else(others)
            .unwrap_or_else(|| self.guess())
            .within(ask)
    }

    /// Learns that the answer to such a request had so many tokens.
    pub fn observe(&self, ask: &Ask, tokens: u64) {
        if ask.runs_to_limit {
            // It says nothing of how long answers get by themselves.
            return;
        }
        let prior = self.priors.get_or_make(ask.model);
        let others = prior.as_ref().and_then(|prior| prior.read());
        // The setting is only a guess.
        let (base, base_trust) = match others {
            Some(others) => (others, self.settings.trust),
            None => (self.guess(), 1.0),
        };
        let mut mix: Option<Histogram> = None;
        let mut share = 0.0;
        // From the widest group to the narrowest, each blended with what is wider.
        for key in groups::keys(ask).iter().rev() {
            self.groups.write(*key, |histogram| {
                histogram.add(tokens, self.settings.half_life);
                let mix = if let Some(mix) = &mut mix {
                    mix.lean(histogram, self.settings.trust);
                    mix
                } else {
                    let samples = histogram.samples();
                    share = samples / (samples + base_trust);
                    if let Some(prior) = &prior {
                        prior.vote(ask.workload, histogram.prediction());
                    }
                    mix.insert(histogram.clone())
                };
                base.towards(&mix.prediction(), share)
            });
        }
    }

    /// What the operator takes for granted.
    fn guess(&self) -> Prediction {
        #[allow(clippy::cast_precision_loss)]
        Prediction::all(self.settings.prior_tokens as f64)
    }

    /// Groups known at present.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups.len()
    }
}
