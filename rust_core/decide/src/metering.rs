//! Metering: what a request really took, once its reply has been seen, and what that teaches.

use crate::claims;
use crate::life::{Facts, Held, Life, Open};
use crate::measures::{Measures, MeasuresStatus, Times};
use crate::outbox::Outbox;
use crate::responses::{Kept, Responses};
use crate::shards::hash;
use crate::tally::TenantTallies;
use crate::usage_log::{UsageRecord, UsageSource};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use weighbridge_admit::Woken;
use weighbridge_learn::predict::{Ask, Predictor};
use weighbridge_learn::usage::{Reply, ReplyReader};
use weighbridge_learn::{CacheTrust, CacheVerdict, Panel};
use weighbridge_place::{MicroMu, Placed, Pool, Replica, ReplicaId};
use weighbridge_weigh::{Reading, Work};

/// Learns from replies, and settles bills.
pub(crate) struct Metering {
    pub(crate) predictor: Predictor,
    /// By base model.
    panels: HashMap<Arc<str>, Panel>,
    measures: HashMap<Arc<str>, Measures>,
    caches: Mutex<HashMap<u32, CacheTrust>>,
    pub(crate) open: Arc<Open>,
    pub(crate) log: Outbox<UsageRecord>,
    pub(crate) responses: Responses,
    pub(crate) tenants: TenantTallies,
}

/// A request whose bill is settled.
pub(crate) struct Settled {
    pub(crate) life: Arc<Life>,
    /// What it counts as in its slice now.
    pub(crate) took: Placed,
}

/// Reads a reply for the stream that sees it pass; [`crate::Core::observed`] ends it.
pub struct Observer {
    life: Arc<Life>,
    reader: Option<ReplyReader>,
    has_output: bool,
    /// Tokens of each answer from which on it is longer than expected.
    expected: u64,
}

impl Observer {
    /// Of a request under way that nobody observes yet.
    pub(crate) fn of(life: Arc<Life>) -> Option<Self> {
        let mut held = life.lock();
        if held.is_observed || held.ended_us.is_some() {
            return None;
        }
        held.is_observed = true;
        drop(held);
        let expected = life.expects();
        Some(Self {
            life,
            reader: None,
            has_output: false,
            expected,
        })
    }

    /// The reply begins with these headers' values.
    pub fn begin(&mut self, content_type: Option<&str>, content_encoding: Option<&str>) {
        self.reader = Some(ReplyReader::new(content_type, content_encoding));
    }

    /// A piece of its body has passed.
    pub fn body(&mut self, bytes: &[u8], now_us: u64) {
        if let Some(reader) = &mut self.reader {
            reader.feed(bytes, now_us);
            if !self.has_output && reader.has_output() {
                self.has_output = true;
                let woken = self.life.computed(&mut self.life.lock(), now_us);
                drop(woken);
            }
            let choices = u64::from(self.life.facts.work.choices.max(1));
            let tokens = reader.streamed_tokens() / choices;
            if tokens > self.expected {
                let mut held = self.life.lock();
                let woken = self.life.outrun(&mut held, tokens, now_us);
                drop(held);
                drop(woken);
                self.expected = self.life.expects().max(tokens);
            }
        }
    }
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer")
            .field("request_id", &self.life.facts.request_id)
            .finish_non_exhaustive()
    }
}

impl Metering {
    pub(crate) fn new(
        models: impl Iterator<Item = Arc<str>>,
        predictor: Predictor,
        log: usize,
        counted_tenants: usize,
    ) -> Self {
        let panels: HashMap<_, _> = models.map(|model| (model, Panel::new())).collect();
        Self {
            predictor,
            measures: panels
                .keys()
                .map(|model| (Arc::clone(model), Measures::default()))
                .collect(),
            panels,
            caches: Mutex::default(),
            open: Arc::default(),
            log: Outbox::new(log),
            responses: Responses::default(),
            tenants: TenantTallies::new(counted_tenants),
        }
    }

    /// Forgets what was learnt of replicas that have left.
    pub(crate) fn follow(&self, pool: &Pool) {
        let is_there = |replica: u32| pool.replica(ReplicaId(replica)).is_some();
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        caches.retain(|replica, _| is_there(*replica));
        drop(caches);
        for panel in self.panels.values() {
            panel.keep(is_there);
        }
    }

    /// What came of requests, by model.
    pub(crate) fn measures(&self) -> BTreeMap<String, MeasuresStatus> {
        self.measures
            .iter()
            .map(|(model, measures)| (model.to_string(), measures.look()))
            .collect()
    }

    /// The factor on a model's token estimates.
    pub(crate) fn factor(&self, model: &str) -> f64 {
        self.panels.get(model).map_or(1.0, Panel::factor)
    }

    /// What bears on a request's output.
    pub(crate) fn ask(model: &str, tenant: &str, reading: &Reading, prompt_tokens: u64) -> Ask {
        let model = hash(model);
        Ask {
            model,
            workload: hash((model, tenant)),
            prompt_tokens,
            max_tokens: reading.max_output_tokens,
            min_tokens: reading.min_output_tokens,
            stream: reading.stream,
            tools: reading.has_tools,
            runs_to_limit: reading.ignore_eos,
        }
    }

    /// A stream is going to observe the reply to this request.
    pub(crate) fn observe(&self, join: Option<u64>, request_id: Option<&str>) -> Option<Observer> {
        let life = match join {
            Some(join) => self.open.find(join),
            None => request_id.and_then(|id| self.open.find_named(id)),
        }?;
        Observer::of(life)
    }

    /// Lets answers of which nothing is seen as they are made count as they run: by the time, at the pace
    /// of a full replica on its profile.
    pub(crate) fn outrun(&self, now_us: u64) {
        for life in self.open.begun_before(now_us) {
            let mut held = life.lock();
            let facts = &life.facts;
            if held.is_observed && facts.ask.stream {
                continue; // its events tell
            }
            let Some(flight) = &held.flight else {
                continue; // nobody knows when it began to decode
            };
            let most = claims::longest_answer(&facts.profile, facts.max_output);
            let decoded_mu = flight.decoded_mu(now_us);
            let tokens = claims::tokens_for(&facts.profile, &facts.work, decoded_mu, most);
            let woken = life.outrun(&mut held, tokens, now_us);
            drop(held);
            drop(woken);
        }
    }

    /// The reply was seen to its end.
    pub(crate) fn observed(&self, mut observer: Observer, now_us: u64) -> Option<Settled> {
        let reader = observer.reader.take();
        let life = &observer.life;
        let mut held = life.lock();
        held.reply = reader.map(|reader| reader.reply());
        let facts = &life.facts;
        if let Some(response) = held.reply.as_ref().and_then(|reply| reply.response) {
            let kept = Kept {
                key: facts.origin.key,
                replica: held.replica.id,
            };
            self.responses.note(&facts.tenant, response, kept);
        }
        held.is_observed = false;
        let computed = held
            .first_byte_us
            .is_some()
            .then(|| life.computed(&mut held, now_us));
        let settled = held
            .ended_us
            .is_some()
            .then(|| self.settle(facts, &mut held, now_us));
        drop(held);
        drop(computed);
        settled.map(|(took, woken)| {
            drop(woken);
            let life = Arc::clone(life);
            Settled { life, took }
        })
    }

    /// The request has ended: [`Life::end`] was called.
    pub(crate) fn ended(&self, life: &Arc<Life>, now_us: u64) -> Option<Settled> {
        let mut held = life.lock();
        if !held.is_observed {
            let (took, woken) = self.settle(&life.facts, &mut held, now_us);
            drop(held);
            drop(woken);
            let life = Arc::clone(life);
            return Some(Settled { life, took });
        }
        let woken = held.pass.as_mut().map(|pass| pass.over(now_us));
        drop(held);
        drop(woken);
        None
    }

    fn settle(&self, facts: &Facts, state: &mut Held, now_us: u64) -> (Placed, Woken) {
        let (work, source) = self.actual(facts, state, now_us);
        let cost = facts.profile.cost(&work);
        let actual = MicroMu::from_mu(cost.total());
        let pass = state.pass.take();
        let woken = pass.map_or_else(Woken::default, |pass| pass.finish(actual, now_us));
        if let Some(mut charge) = state.charge.take() {
            let took = MicroMu::from_mu(cost.before_first_token());
            charge.correct((actual > MicroMu::ZERO).then_some(took));
        }
        let times = Times::of(facts, state, now_us);
        let [ttft_met, tpot_met] = in_time(facts, state, &times);
        if let Some(measures) = self.measures.get(&facts.origin.model) {
            measures.took(times);
            measures.judge(ttft_met, tpot_met);
            if source == UsageSource::Usage {
                let usage = state.reply.as_ref().map(|reply| &reply.usage);
                let reports_cache =
                    facts.is_steered && usage.is_some_and(|usage| usage.cached_tokens.is_some());
                measures.compare(&facts.work, &work, reports_cache);
            }
        }
        if let Some(flight) = state.flight.take() {
            let is_whole = state.reply.as_ref().is_some_and(|reply| reply.is_whole);
            flight.end(is_whole.then_some(cost.decode_mu), now_us);
        }
        if source == UsageSource::Usage {
            self.learn(facts, state, &work);
        }
        self.tenants
            .add(&facts.tenant, &facts.origin.model, &cost, actual);
        if self.log.is_kept() {
            let ended_us = state.ended_us.unwrap_or(now_us);
            self.log.push(UsageRecord {
                number: facts.number,
                request_id: Arc::clone(&facts.request_id),
                tenant: Arc::clone(&facts.tenant),
                model: Arc::clone(&facts.origin.model),
                replica: state.replica.spec.endpoint.clone(),
                status: state.status,
                prompt_tokens: cost.prompt_tokens,
                cached_tokens: cost.cached_tokens,
                output_tokens: cost.output_tokens,
                source,
                mu: actual.as_mu(),
                estimated_mu: facts.estimated.as_mu(),
                wait_ms: ms(facts.waited_us),
                // Headers may come long before: engines send them before the prompt is computed.
                first_token_ms: state
                    .reply
                    .and_then(|reply| reply.output_from_us)
                    .map(|at| ms(at.saturating_sub(facts.origin.at_us))),
                objective_ttft_ms: facts.objectives.ttft_ms,
                objective_tpot_ms: facts.objectives.tpot_ms,
                ttft_met,
                tpot_met,
                duration_ms: ms(ended_us.saturating_sub(facts.origin.at_us)),
                ended_us,
            });
        }
        let is_refused = state.status >= 400;
        let took = Placed {
            charged: actual,
            saved: if is_refused {
                MicroMu::ZERO
            } else {
                facts.saved
            },
        };
        (took, woken)
    }

    /// The work that was done, if it can be told and believed.
    fn actual(&self, facts: &Facts, state: &Held, now_us: u64) -> (Work, UsageSource) {
        let expected = &facts.work;
        let ended_us = state.ended_us.unwrap_or(now_us);
        if state.status >= 400 {
            // Refused by the engine: nothing was computed.
            let nothing = Work {
                prompt_tokens: 0,
                cached_tokens: 0,
                output_tokens: 0,
                image_tiles: 0,
                audio_seconds: 0.0,
                ..*expected
            };
            return (nothing, UsageSource::Observed);
        }
        let Some(reply) = &state.reply else {
            let output_tokens = if state.status > 0 {
                expected.output_tokens
            } else if facts.ask.stream {
                0 // No reply began; its prompt may have been computed.
            } else {
                Self::run(facts, state, ended_us)
            };
            let work = Work {
                output_tokens,
                ..*expected
            };
            return (work, UsageSource::Estimate);
        };
        let run_us = ended_us.saturating_sub(facts.origin.at_us);
        let max = facts.max_output;
        let (output, is_claimed) = claims::output(&facts.profile, expected, max, reply, run_us);
        let suspect = self
            .panels
            .get(&facts.origin.model)
            .is_some_and(|panel| panel.is_suspect(state.replica.id.0));
        let estimate = expected.prompt_tokens;
        let claim = reply.usage.prompt_tokens.filter(|_| !suspect);
        let prompt =
            claim.and_then(|claim| claims::prompt(&facts.profile, estimate, facts.is_whole, claim));
        let prompt_tokens = prompt.unwrap_or(estimate);
        let cached = reply.usage.cached_tokens.unwrap_or(expected.cached_tokens);
        let work = Work {
            prompt_tokens,
            cached_tokens: cached.min(prompt_tokens.saturating_sub(1)),
            output_tokens: output / u64::from(expected.choices.max(1)),
            ..*expected
        };
        let source = if prompt.is_some() && is_claimed {
            UsageSource::Usage
        } else {
            UsageSource::Observed
        };
        (work, source)
    }

    /// Tokens of each answer that a replica had decoded when the client of an answer that is not
    /// streamed went away: as many as the time until then bears.
    fn run(facts: &Facts, state: &Held, ended_us: u64) -> u64 {
        let run_us = ended_us.saturating_sub(facts.origin.at_us);
        let decode_mu = state.flight.as_ref().map_or_else(
            || claims::decoded_mu(&facts.profile, run_us) * f64::from(facts.work.choices.max(1)),
            |flight| flight.decoded_mu(ended_us),
        );
        let most = claims::longest_answer(&facts.profile, facts.max_output);
        let owed = claims::tokens_for(&facts.profile, &facts.work, decode_mu, most);
        // With few beside it, it was decoded faster than its part of a full replica.
        let others = state.replica.load.totals().requests.max(0);
        #[allow(clippy::cast_precision_loss)]
        let (sequences, run_ms) = (
            others as f64 + f64::from(facts.work.choices.max(1)),
            ms(run_us),
        );
        let alone = claims::tokens_in(&facts.profile, sequences, facts.work.prompt_tokens, run_ms);
        alone.map_or(owed, |alone| alone.max(owed).min(most))
    }

    /// Learns from a reply that carried its usage.
    fn learn(&self, facts: &Facts, state: &Held, work: &Work) {
        let Some(reply) = &state.reply else {
            return;
        };
        if reply.is_whole && !reply.is_error {
            self.predictor.observe(&facts.ask, work.output_tokens);
        }
        let (prompt, replica) = (work.prompt_tokens, &state.replica);
        let has_media = facts.work.image_tiles > 0 || facts.work.audio_seconds > 0.0;
        if facts.is_whole && !facts.is_counted && !has_media {
            if let Some(panel) = self.panels.get(&facts.origin.model) {
                panel.observe(replica.id.0, facts.work.prompt_tokens, prompt, facts.factor);
            }
        }
        if let Some(cached) = reply.usage.cached_tokens {
            self.learn_cache(facts, replica, prompt, cached);
        }
    }

    fn learn_cache(&self, facts: &Facts, replica: &Replica, prompt: u64, cached: u64) {
        if facts.promised_blocks == 0 || !facts.is_steered {
            return;
        }
        let expected = facts.work.cached_tokens.min(prompt);
        let promised = u64::from(facts.promised_blocks);
        let blocks = promised * cached.min(expected) / expected.max(1);
        // The engine's own blocks are larger or smaller than ours: one of ours is no breach.
        let is_kept = blocks + 1 >= promised;
        let blocks = if is_kept { promised } else { blocks };
        replica.cache.observe(
            facts.promised_blocks,
            u32::try_from(blocks).unwrap_or(facts.promised_blocks),
        );
        let whole = Self::before_doubt(expected, facts.believed_share).min(prompt);
        let cached = if is_kept && cached < expected {
            expected
        } else {
            cached
        };
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        let trust = caches.entry(replica.id.0).or_default();
        let verdict = trust.observe(whole, cached, facts.source.name);
        replica.cache.believe(trust.share());
        drop(caches);
        if verdict == CacheVerdict::Cold {
            replica.cache.clear();
        }
    }

    /// What the index promised, of which only `share` was counted on.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    fn before_doubt(tokens: u64, share: f64) -> u64 {
        (tokens as f64 / share.max(0.01)) as u64
    }
}

/// Whether a streamed answer met its objectives for first tokens and for tokens; `None` of
/// one that was not seen.
fn in_time(facts: &Facts, state: &Held, times: &Times) -> [Option<bool>; 2] {
    if !facts.ask.stream {
        return [None, None];
    }
    let ttft = times.first_token_us.map(ms);
    let tpot = state.reply.as_ref().and_then(Reply::us_per_token);
    let tpot = tpot.filter(|_| ttft.is_some()).map(|us| us / 1000.0);
    [
        ttft.map(|ms| ms <= facts.objectives.ttft_ms),
        tpot.map(|ms| ms <= facts.objectives.tpot_ms),
    ]
}

impl Times {
    fn of(facts: &Facts, state: &Held, now_us: u64) -> Self {
        let since = |at: u64| facts.waited_us + at.saturating_sub(facts.origin.at_us);
        let seen = state.reply.as_ref().and_then(|reply| reply.output_from_us);
        let answered = (200..300).contains(&state.status);
        Self {
            waited_us: facts.waited_us,
            first_token_us: seen.or(state.first_byte_us).filter(|_| answered).map(since),
            whole_us: since(state.ended_us.unwrap_or(now_us)),
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}
