//! Metering: what a request really took, once its reply has been seen, and what that teaches.

use crate::hold::Hold;
use crate::measures::{Measures, MeasuresStatus, Times};
use crate::outbox::Outbox;
use crate::responses::{Kept, Responses};
use crate::shards::{Shards, hash};
use crate::signs::Signs;
use crate::tally::TenantTallies;
use crate::ticket::Origin;
use crate::usage_log::{UsageRecord, UsageSource};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weighbridge_admit::Pass;
use weighbridge_learn::predict::{Ask, Predictor};
use weighbridge_learn::usage::{Reply, ReplyReader};
use weighbridge_learn::{CacheTrust, CacheVerdict, Flight, Panel};
use weighbridge_place::{MicroMu, Replica};
use weighbridge_weigh::{Profile, Reading, Work};

/// Prompts are believed to be off their estimate by this factor at most, and by this many tokens.
const MOST_OFF: u64 = 4;
const MOST_OFF_TOKENS: u64 = 64;
/// Answers longer than this are not believed where the client names no limit, tokens.
const LONGEST_ANSWER: u64 = 1 << 20;

/// Learns from replies, and settles bills.
pub(crate) struct Metering {
    pub(crate) predictor: Predictor,
    /// By base model.
    panels: HashMap<Arc<str>, Panel>,
    measures: HashMap<Arc<str>, Measures>,
    caches: Mutex<HashMap<u32, CacheTrust>>,
    open: Shards<HashMap<Arc<str>, Arc<Bill>>>,
    pub(crate) log: Outbox<UsageRecord>,
    pub(crate) responses: Responses,
    pub(crate) tenants: TenantTallies,
}

/// What is known of a request when it begins, for what is learnt when it ends.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) number: u64,
    pub(crate) request_id: Arc<str>,
    pub(crate) tenant: Arc<str>,
    pub(crate) origin: Origin,
    pub(crate) ask: Ask,
    pub(crate) profile: Arc<Profile>,
    /// As expected: prompt, cached and output tokens.
    pub(crate) work: Work,
    /// The factor on the token estimate that was used.
    pub(crate) factor: f64,
    /// Its whole text was seen, so that the prompt's tokens teach something.
    pub(crate) is_whole: bool,
    /// Its prompt was counted: a reply teaches nothing about estimates.
    pub(crate) is_counted: bool,
    pub(crate) max_output: Option<u64>,
    pub(crate) promised_blocks: u32,
    /// Share of what the index promised that these are.
    pub(crate) believed_share: f64,
    /// The choice was carried out; else another replica may have served, with another cache.
    pub(crate) is_steered: bool,
    pub(crate) estimated: MicroMu,
    /// Of these, for the answer.
    pub(crate) decode_mu: f64,
    pub(crate) waited_us: u64,
}

/// A request's bill, shared by the stream that routed it and the one that observes its reply.
#[derive(Debug)]
pub(crate) struct Bill {
    facts: Facts,
    hold: Hold,
    state: Mutex<BillState>,
}

#[derive(Debug)]
struct BillState {
    pass: Option<Pass>,
    replica: Arc<Replica>,
    /// How its speed is measured, by whom.
    flight: Option<(Arc<Signs>, Flight)>,
    status: u16,
    /// When the reply's headers came.
    first_byte_us: Option<u64>,
    /// Its prompt is computed, as far as can be seen.
    is_computed: bool,
    /// Somebody observes the reply and is not done.
    is_observed: bool,
    reply: Option<Reply>,
    ended_us: Option<u64>,
}

impl Bill {
    fn lock(&self) -> MutexGuard<'_, BillState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn first_byte(&self, status: u16, replica: &Arc<Replica>, now_us: u64) {
        let mut state = self.lock();
        state.status = status;
        let has_moved = state.replica.id != replica.id;
        if !Arc::ptr_eq(&state.replica, replica) {
            state.replica = Arc::clone(replica);
        }
        state.first_byte_us = state.first_byte_us.or(Some(now_us));
        if has_moved || status >= 400 {
            if let Some((signs, flight)) = state.flight.take() {
                signs.end(flight, None, now_us);
            }
        }
        // Engines send a stream's headers before they compute its prompt: whoever observes the reply
        // tells when its first output comes.
        if !state.is_observed || status >= 400 {
            self.computed(&mut state, now_us);
        }
    }

    /// The prompt is computed: what was charged for that is given back.
    fn computed(&self, state: &mut BillState, now_us: u64) {
        if std::mem::replace(&mut state.is_computed, true) {
            return;
        }
        self.hold.prefill_done();
        if let Some((signs, flight)) = &mut state.flight {
            signs.first_byte(flight, self.facts.decode_mu, now_us);
        }
        if let Some(pass) = &mut state.pass {
            pass.prefill_done(now_us);
        }
    }

    /// What it holds of its replica.
    pub(crate) fn hold(&self) -> &Hold {
        &self.hold
    }

    /// Whether the whole body was seen.
    pub(crate) fn is_whole(&self) -> bool {
        self.facts.is_whole
    }

    /// Whether a reply has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.lock().first_byte_us.is_some()
    }
}

/// Reads a copy of a reply for the stream that observes it; dropped, it has seen all it will see.
pub struct Observer {
    bill: Arc<Bill>,
    reader: Option<ReplyReader>,
    has_output: bool,
}

impl Observer {
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
                self.bill.computed(&mut self.bill.lock(), now_us);
            }
        }
    }
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer")
            .field("request_id", &self.bill.facts.request_id)
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
            open: Shards::default(),
            log: Outbox::new(log),
            responses: Responses::default(),
            tenants: TenantTallies::new(counted_tenants),
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

    fn shard(&self, request_id: &str) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Bill>>> {
        self.open.of(hash(request_id))
    }

    /// Opens a bill.
    pub(crate) fn open(
        facts: Facts,
        pass: Option<Pass>,
        replica: &Arc<Replica>,
        hold: Hold,
        flight: Option<(Arc<Signs>, Flight)>,
    ) -> Arc<Bill> {
        Arc::new(Bill {
            facts,
            hold,
            state: Mutex::new(BillState {
                pass,
                replica: Arc::clone(replica),
                flight,
                status: 0,
                first_byte_us: None,
                is_computed: false,
                is_observed: false,
                reply: None,
                ended_us: None,
            }),
        })
    }

    /// Lets a bill be found by its request's id until the request has ended.
    pub(crate) fn list(&self, bill: &Arc<Bill>) {
        let id = &bill.facts.request_id;
        if !id.is_empty() {
            self.shard(id).insert(Arc::clone(id), Arc::clone(bill));
        }
    }

    /// Somebody is going to observe the reply to this request.
    pub(crate) fn observe(&self, request_id: &str) -> Option<Observer> {
        let bill = self.shard(request_id).get(request_id).map(Arc::clone)?;
        let mut state = bill.lock();
        if state.is_observed || state.ended_us.is_some() {
            return None;
        }
        state.is_observed = true;
        drop(state);
        Some(Observer {
            bill,
            reader: None,
            has_output: false,
        })
    }

    /// The reply was seen to its end.
    pub(crate) fn observed(&self, observer: Observer, now_us: u64) {
        let mut state = observer.bill.lock();
        state.reply = observer.reader.map(|reader| reader.reply());
        let facts = &observer.bill.facts;
        if let Some(response) = state.reply.as_ref().and_then(|reply| reply.response) {
            let kept = Kept {
                key: facts.origin.key,
                replica: state.replica.id,
            };
            self.responses.note(&facts.tenant, response, kept);
        }
        state.is_observed = false;
        if state.first_byte_us.is_some() {
            observer.bill.computed(&mut state, now_us);
        }
        if state.ended_us.is_some() {
            self.settle(facts, &mut state, now_us);
        }
    }

    /// The request has ended.
    pub(crate) fn ended(&self, bill: &Arc<Bill>, now_us: u64) {
        let id = &*bill.facts.request_id;
        let mut shard = self.shard(id);
        // Another request may have come with the same id.
        if shard.get(id).is_some_and(|found| Arc::ptr_eq(found, bill)) {
            shard.remove(id);
        }
        drop(shard);
        let mut state = bill.lock();
        state.ended_us = Some(now_us);
        if !state.is_observed {
            self.settle(&bill.facts, &mut state, now_us);
        } else if let Some(pass) = &mut state.pass {
            pass.over(now_us);
        }
    }

    fn settle(&self, facts: &Facts, state: &mut BillState, now_us: u64) {
        let (work, source) = self.actual(facts, state);
        let cost = facts.profile.cost(&work);
        let actual = MicroMu::from_mu(cost.total());
        if let Some(pass) = state.pass.take() {
            pass.finish(actual, now_us);
        }
        if let Some(measures) = self.measures.get(&facts.origin.model) {
            measures.took(Times::of(facts, state, now_us));
            if source == UsageSource::Usage {
                let usage = state.reply.as_ref().map(|reply| &reply.usage);
                let reports_cache =
                    facts.is_steered && usage.is_some_and(|usage| usage.cached_tokens.is_some());
                measures.compare(&facts.work, &work, reports_cache);
            }
        }
        if let Some((signs, flight)) = state.flight.take() {
            let is_whole = state.reply.as_ref().is_some_and(|reply| reply.is_whole);
            signs.end(flight, is_whole.then_some(cost.decode_mu), now_us);
        }
        if source == UsageSource::Usage {
            self.learn(facts, state);
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
                duration_ms: ms(ended_us.saturating_sub(facts.origin.at_us)),
                ended_us,
            });
        }
    }

    /// The work that was done, as far as it can be told and believed.
    fn actual(&self, facts: &Facts, state: &BillState) -> (Work, UsageSource) {
        let expected = &facts.work;
        let choices = u64::from(expected.choices.max(1));
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
            let output_tokens = if state.status == 0 {
                0 // No reply began; its prompt may have been computed.
            } else {
                expected.output_tokens
            };
            let work = Work {
                output_tokens,
                ..*expected
            };
            return (work, UsageSource::Estimate);
        };
        let most = facts.max_output.unwrap_or(LONGEST_ANSWER);
        let output = reply.output_tokens().min(most.saturating_mul(choices));
        let estimate = expected.prompt_tokens;
        let believed = |tokens: u64| {
            tokens
                <= estimate
                    .saturating_mul(MOST_OFF)
                    .saturating_add(MOST_OFF_TOKENS)
                && tokens.saturating_add(MOST_OFF_TOKENS) >= estimate / MOST_OFF
        };
        let suspect = self
            .panels
            .get(&facts.origin.model)
            .is_some_and(|panel| panel.is_suspect(state.replica.id.0));
        let prompt = reply
            .usage
            .prompt_tokens
            .filter(|tokens| !suspect && (believed(*tokens) || !facts.is_whole));
        let prompt_tokens = prompt.unwrap_or(estimate);
        let cached = reply.usage.cached_tokens.unwrap_or(expected.cached_tokens);
        let work = Work {
            prompt_tokens,
            cached_tokens: cached.min(prompt_tokens.saturating_sub(1)),
            output_tokens: output / choices,
            ..*expected
        };
        let source = if prompt.is_some() && reply.usage.output_tokens.is_some() {
            UsageSource::Usage
        } else {
            UsageSource::Observed
        };
        (work, source)
    }

    /// Learns from a reply that carried its usage.
    fn learn(&self, facts: &Facts, state: &BillState) {
        let Some(reply) = &state.reply else {
            return;
        };
        let choices = u64::from(facts.work.choices.max(1));
        if reply.is_whole && !reply.is_error {
            let tokens = reply.output_tokens() / choices;
            self.predictor.observe(&facts.ask, tokens);
        }
        let (Some(prompt), replica) = (reply.usage.prompt_tokens, &state.replica) else {
            return;
        };
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
        let verdict = trust.observe(whole, cached);
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

impl Times {
    fn of(facts: &Facts, state: &BillState, now_us: u64) -> Self {
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
