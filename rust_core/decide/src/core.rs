//! The core: what all requests share, and what it is told of replicas, requests and settings.

use crate::admission::{Admission, Doors};
use crate::assigning::{Assigning, AssignmentStatus};
use crate::clock::{Clock, WallClock};
use crate::cutting::Cutting;
use crate::drains::Drains;
use crate::foreign::Means;
use crate::health::{HealthChange, HealthSetting, Observation, Watch};
use crate::log::DecisionLog;
use crate::memory::Memory;
use crate::metering::{Metering, Observer, Settled};
use crate::models::Models;
use crate::objectives::Wanted;
use crate::observing::Observing;
use crate::outbox::Outbox;
use crate::refusal::Refusal;
use crate::seeking::Seeking;
use crate::settings::{Placing, ReplicaSetting, ReplicaState, Settings, SettingsError};
use crate::shards::hash;
use crate::span::{Span, TraceParent};
use crate::steps;
use crate::tally::Tallies;
use crate::ticket::Ticket;
use crate::tokenizers;
use crate::unseen::Unseen;
use crate::usage_log::UsageRecord;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weighbridge_learn::predict::Predictor;
use weighbridge_place::{Decision, Pool, Registry, Replica, ReplicaSpec};
use weighbridge_weigh::{Body, Endpoint};

/// What is known of a request when it is to be decided.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// `x-request-id`.
    pub request_id: &'a str,
    /// Which form its body has.
    pub endpoint: Endpoint,
    /// The session that a header names.
    pub session: Option<&'a str>,
    /// The tenant, as a trusted header or a verified claim names it.
    pub tenant: Option<&'a str>,
    /// The priority that a header asks for.
    pub priority: Option<&'a str>,
    /// The objectives that headers ask for.
    pub wanted: Wanted<'a>,
    /// Endpoints that the gateway allows.
    pub subset: Option<&'a [String]>,
    /// `content-encoding` of the body.
    pub content_encoding: Option<&'a str>,
    /// The span that its decision is to be a child of.
    pub parent: Option<TraceParent>,
    /// The body, as sent.
    pub body: Body<'a>,
}

/// The longest that a request is believed to be under way, µs: a context of 128 Ki tokens, written at
/// ten tokens a second. Envoy's idle timeout ends those that stand still long before.
const LONGEST_LIFE_US: u64 = 4 * 3600 * 1_000_000;

/// Profiles, replicas, ledgers, prefix index and counters: shared by all requests.
pub struct Core {
    settings: Settings,
    pub(crate) models: Models,
    pub(crate) registry: Registry,
    /// The replicas as they were set, before health and drains have their say; locked while a pool is published.
    replicas: Mutex<Vec<ReplicaSetting>>,
    drains: Mutex<Drains>,
    pub(crate) watch: Watch,
    pub(crate) assigning: Assigning,
    pub(crate) placing: ArcSwap<Placing>,
    pub(crate) doors: Doors,
    pub(crate) admits: AtomicBool,
    pub(crate) observes_only: AtomicBool,
    pub(crate) observing: Observing,
    pub(crate) metering: Metering,
    pub(crate) seeking: Seeking,
    pub(crate) unseen: Unseen,
    pub(crate) cutting: Arc<Cutting>,
    pub(crate) tallies: Tallies,
    memory: Arc<Memory>,
    pub(crate) log: DecisionLog,
    pub(crate) spans: Outbox<Span>,
    pub(crate) numbers: AtomicU64,
    /// Placings so far: each has a seed of its own.
    pub(crate) seeds: AtomicU64,
    turns: AtomicUsize,
    reaped: AtomicU64,
    clock: Arc<dyn Clock>,
}

impl Core {
    /// A core without replicas, on the time of this machine.
    ///
    /// # Errors
    /// When a profile contradicts itself or another, or a tokenizer cannot be loaded.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        Self::with_clock(settings, Arc::<WallClock>::default())
    }

    /// A core without replicas, on `clock`.
    ///
    /// # Errors
    /// As [`Core::new`].
    pub fn with_clock(
        mut settings: Settings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SettingsError> {
        let tokenizers = tokenizers::load(&settings.tokenizers)?;
        let models = Models::new(std::mem::take(&mut settings.profiles), tokenizers)?;
        let admission = std::mem::take(&mut settings.admission);
        let predictor = Predictor::new(weighbridge_learn::predict::Settings {
            prior_tokens: settings.default_output_tokens,
            ..weighbridge_learn::predict::Settings::default()
        });
        let names = || models.names().into_iter();
        Ok(Self {
            doors: Doors::new(names(), &admission)?,
            admits: AtomicBool::new(admission.enabled),
            observes_only: AtomicBool::new(false),
            observing: Observing::default(),
            metering: {
                let (records, tenants) = (settings.usage_records, settings.counted_tenants);
                let metering = Metering::new(names(), predictor, records, tenants);
                metering.tenants.list(admission.tenants.keys());
                metering
            },
            seeking: Seeking::default(),
            unseen: Unseen::default(),
            cutting: Cutting::new(admission.cut_sheddable),
            models,
            registry: Registry::default(),
            replicas: Mutex::default(),
            watch: Watch::new(std::mem::take(&mut settings.health)),
            drains: Mutex::default(),
            assigning: Assigning::default(),
            placing: ArcSwap::from_pointee(settings.placing.clone()),
            tallies: Tallies::default(),
            memory: Memory::new(settings.held_body_bytes),
            log: DecisionLog::new(settings.decision_log),
            spans: Outbox::new(settings.spans),
            numbers: AtomicU64::new(0),
            seeds: AtomicU64::new(0),
            turns: AtomicUsize::new(0),
            reaped: AtomicU64::new(0),
            clock,
            settings,
        })
    }

    /// What it was set to, without the profiles.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// µs on the core's clock: the time that transports pass to the state machine.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The same, finer: to measure decisions with.
    #[must_use]
    pub fn elapsed(&self) -> std::time::Duration {
        self.clock.elapsed()
    }

    /// Replaces the replicas and takes slices off those that must not serve; ledgers, caches and
    /// health of endpoints that stay are kept. The new pool's number.
    ///
    /// # Errors
    /// When a replica names a profile or model that is unknown; then nothing is changed.
    pub fn set_replicas(&self, replicas: Vec<ReplicaSetting>) -> Result<u64, SettingsError> {
        let mut current = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let specs = self.specs(&replicas)?;
        self.drains().follow(&specs, self.now_us());
        let number = self.publish(specs);
        let pool = self.registry.pool_full();
        self.watch.follow(&pool, &self.kinds(&replicas));
        self.metering.follow(&pool);
        self.tallies.follow(&pool);
        self.react();
        *current = replicas;
        Ok(number)
    }

    /// Has a replica drained, or takes that back: it gets no new session, its sessions leave it at
    /// their next turn, and what is in flight ends there. Returns whether there is such a replica.
    ///
    /// # Errors
    /// Never, as far as the replicas were accepted when they were set.
    pub fn drain(&self, endpoint: &str, on: bool) -> Result<bool, SettingsError> {
        let current = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.drains().set(endpoint, on);
        if changed == Some(true) {
            self.publish(self.specs(&current)?);
            self.react();
        }
        Ok(changed.is_some())
    }

    /// Publishes a pool of these replicas, drained where an operator says so. To be called with the lock on
    /// `replicas` held.
    fn publish(&self, mut specs: Vec<ReplicaSpec>) -> u64 {
        let drains = self.drains();
        specs.iter_mut().for_each(|spec| drains.amend(spec));
        let number = self.registry.replace(specs);
        self.doors
            .set_pool(&self.registry.pool_full(), self.now_us());
        number
    }

    fn drains(&self) -> MutexGuard<'_, Drains> {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn specs(&self, replicas: &[ReplicaSetting]) -> Result<Vec<ReplicaSpec>, SettingsError> {
        replicas.iter().map(|replica| self.spec(replica)).collect()
    }

    /// Takes slices off those that must not serve.
    fn react(&self) {
        loop {
            self.assigning
                .react(&self.registry.pool_full(), &self.placing.load());
            if !self.assigning.is_due() {
                return;
            }
        }
    }

    /// Of each endpoint, the requests that fill it and the number of those that are like it.
    fn kinds(&self, replicas: &[ReplicaSetting]) -> HashMap<String, (f64, u32)> {
        let kind = |replica: &ReplicaSetting| {
            let batch = self
                .models
                .profile(&replica.profile)
                .map_or(1.0, |profile| profile.reference_batch);
            #[allow(clippy::cast_possible_truncation)]
            let group = hash(&replica.profile) as u32;
            (replica.endpoint.clone(), (batch, group))
        };
        replicas.iter().map(kind).collect()
    }

    /// Takes in what was seen of replicas from outside their requests.
    pub fn hear(&self, observations: &[Observation], now_us: u64) {
        let pool = self.registry.pool_full();
        let means = self.mean_mu(&pool);
        self.watch
            .hear(observations, &pool, |model| means.of(model), now_us);
        // The pool may be another by now.
        let _published = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        self.doors.set_pool(&self.registry.pool_full(), now_us);
    }

    /// Judges the replicas' health by what was heard up to `now_us`, and lets the ill have less. To
    /// be called about once a second. The changes of state.
    ///
    /// # Errors
    /// Never, as far as the replicas were accepted when they were set.
    pub fn judge(&self, now_us: u64) -> Result<Vec<HealthChange>, SettingsError> {
        self.reap(now_us);
        self.metering.outrun(now_us);
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = self.registry.pool_full();
        let (changes, moved) = self.watch.round(&pool, now_us);
        if moved {
            self.publish(self.specs(&replicas)?);
            self.react();
        } else {
            // Foreign load may have expired.
            self.doors.set_pool(&pool, now_us);
        }
        Ok(changes)
    }

    /// Ends requests that have been under way for longer than any route lets them, as those whose
    /// connection is dead without anyone having noticed. To be called about once a second.
    fn reap(&self, now_us: u64) {
        let Some(before_us) = now_us.checked_sub(LONGEST_LIFE_US) else {
            return;
        };
        for life in self.metering.open.begun_before(before_us) {
            if life.end(now_us).is_some() {
                self.reaped.fetch_add(1, Relaxed);
                let settled = self.metering.ended(&life, now_us);
                self.correct_heat(settled, now_us);
            }
        }
    }

    /// Requests ended because they had been under way for too long.
    #[must_use]
    pub fn reaped(&self) -> u64 {
        self.reaped.load(Relaxed)
    }

    /// Requests in flight by endpoint, at the replicas that have any.
    #[must_use]
    pub fn in_flight(&self) -> HashMap<String, i64> {
        let pool = self.registry.pool_full();
        let at = |replica: &Replica| (replica.spec.endpoint.clone(), replica.load.own().requests);
        let busy = pool.replicas().map(|replica| at(replica));
        busy.filter(|(_, requests)| *requests != 0).collect()
    }

    /// Judges health by other settings from now on.
    pub fn set_health(&self, setting: HealthSetting) {
        self.watch.set(setting);
    }

    #[allow(clippy::cast_precision_loss)]
    fn mean_mu(&self, pool: &Pool) -> Means {
        let mut means = Means::default();
        for replica in pool.replicas() {
            let tally = self.tallies.replica(&replica.spec.endpoint);
            let mu = tally.micro_mu.load(Relaxed) as f64 / 1e6;
            let requests = tally.requests.load(Relaxed) as f64;
            means.add(&replica.spec.model, requests, mu);
        }
        means
    }

    /// Changes tenants' terms and what may wait, from now on.
    ///
    /// # Errors
    /// When terms or settings cannot be; then nothing is changed.
    pub fn set_admission(&self, admission: &Admission) -> Result<(), SettingsError> {
        self.doors.set(admission, self.now_us())?;
        self.metering.tenants.list(admission.tenants.keys());
        self.admits.store(admission.enabled, Relaxed);
        self.cutting.set(admission.cut_sheddable);
        Ok(())
    }

    /// Lets time pass for those who wait for admission, and for prompts whose end is not seen. To be
    /// called at [`Core::next_event_us`].
    pub fn advance(&self, now_us: u64) {
        self.unseen.advance(now_us);
        self.doors.advance(now_us);
    }

    /// When [`Core::advance`] has something to do next, µs, if nothing else happens.
    #[must_use]
    pub fn next_event_us(&self) -> Option<u64> {
        let next = [self.unseen.next_us(), self.doors.next_event_us()];
        next.into_iter().flatten().min()
    }

    pub(crate) fn doors(&self) -> &Doors {
        &self.doors
    }

    pub(crate) fn metering(&self) -> &Metering {
        &self.metering
    }

    /// Takes up to so many usage records, oldest first.
    #[must_use]
    pub fn take_usage(&self, most: usize) -> Vec<UsageRecord> {
        self.metering.log.take(most)
    }

    /// Whether decisions become spans.
    #[must_use]
    pub fn traces(&self) -> bool {
        self.spans.is_kept()
    }

    /// Takes up to so many spans, oldest first.
    #[must_use]
    pub fn take_spans(&self, most: usize) -> Vec<Span> {
        self.spans.take(most)
    }

    /// A stream is going to observe the reply to the request that has [`Ticket::join`] on it, or where
    /// nothing is, this `x-request-id`; `None` where no such request is under way, or it is observed
    /// already.
    #[must_use]
    pub fn observe(&self, join: Option<u64>, request_id: Option<&str>) -> Option<Observer> {
        self.metering.observe(join, request_id)
    }

    /// The stream that routes a request is going to see its reply, too; `None` where another stream
    /// observes it.
    #[must_use]
    pub fn observe_own(&self, ticket: &Ticket) -> Option<Observer> {
        Observer::of(Arc::clone(ticket.life()))
    }

    /// The reply was observed to its end, or as much of it as there will be.
    pub fn observed(&self, observer: Observer, now_us: u64) {
        let settled = self.metering.observed(observer, now_us);
        self.correct_heat(settled, now_us);
    }

    /// One round of the assigner, with what was placed up to `now_us`. To be called every few
    /// seconds.
    pub fn assign(&self, now_us: u64) {
        self.assigning.round(
            &self.registry.pool_full(),
            &self.placing.load(),
            now_us / 1000,
        );
        if self.assigning.is_due() {
            self.react();
        }
    }

    /// Changes how replicas are chosen, from the next request on.
    pub fn set_placing(&self, placing: Placing) {
        self.placing.store(Arc::new(placing));
    }

    /// Whether decisions are only recorded: the gateway is told nothing, nobody waits, and nothing is
    /// refused.
    pub fn set_observe_only(&self, observe_only: bool) {
        self.observes_only.store(observe_only, Relaxed);
    }

    /// As [`Core::set_observe_only`] has said.
    #[must_use]
    pub fn observes_only(&self) -> bool {
        self.observes_only.load(Relaxed)
    }

    /// What observing came to.
    #[must_use]
    pub fn observing(&self) -> &Observing {
        &self.observing
    }

    /// How replicas are chosen now.
    #[must_use]
    pub fn placing(&self) -> Arc<Placing> {
        self.placing.load_full()
    }

    /// The assignment and what the assigner has done.
    #[must_use]
    pub fn assignment(&self) -> AssignmentStatus {
        self.assigning.status()
    }

    fn spec(&self, replica: &ReplicaSetting) -> Result<ReplicaSpec, SettingsError> {
        let Some(profile) = self.models.profile(&replica.profile) else {
            return Err(SettingsError::UnknownProfile {
                endpoint: replica.endpoint.clone(),
                profile: replica.profile.clone(),
            });
        };
        let asked = replica
            .model
            .clone()
            .or_else(|| profile.models.first().cloned())
            .unwrap_or_default();
        let Some(model) = self.models.get(&asked) else {
            return Err(SettingsError::UnknownModel {
                endpoint: replica.endpoint.clone(),
                model: asked,
            });
        };
        let standing = self.watch.standing(&replica.endpoint);
        Ok(ReplicaSpec {
            endpoint: replica.endpoint.clone(),
            model: model.name.to_string(),
            adapters: replica.adapters.clone(),
            capacity_mu_per_min: profile.capacity_mu_per_min,
            kv_tokens: profile.kv_tokens,
            steps: steps::of(profile),
            domain: replica.domain.clone(),
            // What was set to be out of service stays so, however well it is.
            state: match replica.state {
                ReplicaState::Healthy => standing.state,
                other => other.into(),
            },
            share: replica.share * standing.share,
        })
    }

    /// The first response byte has come, with `status`; `served` is the endpoint that the gateway
    /// says gave it, where it says so.
    pub fn first_byte(&self, ticket: &mut Ticket, status: u16, served: Option<&str>, now_us: u64) {
        let pool = self.registry.pool();
        let mut signs = None;
        if let Some(replica) = served.and_then(|endpoint| pool.endpoint(endpoint)) {
            let observed = ticket.take_observed();
            if let Some(observed) = &observed {
                self.observing
                    .served(observed, status, ticket.endpoint(), replica, &pool);
            }
            ticket.move_to(replica);
            signs = self.watch.signs(replica.id);
        }
        if let Some(response) = ticket.sought().filter(|_| status == 404) {
            self.seeking.not_found(response, now_us);
        }
        ticket.first_byte(status, signs, now_us);
        if status >= 500 {
            self.tallies
                .replica(ticket.endpoint())
                .failures
                .fetch_add(1, Relaxed);
        }
    }

    /// The request has ended: what was charged is released, and the KV memory that it held while
    /// it ran counts as its slice's heat. Dropping the ticket does the former alone, without a bill.
    pub fn end(&self, ticket: Ticket, now_us: u64) {
        let life = Arc::clone(ticket.life());
        let Some(ended) = life.end(now_us) else {
            return;
        };
        if let Some(slices) = self.assigning.current().model(ticket.model()) {
            slices.record_kv(ticket.key(), ended.kv_token_ms);
        }
        let facts = &life.facts;
        let waited_us = now_us.saturating_sub(facts.origin.at_us);
        // An answer that is not streamed has no first byte before its last.
        let awaits = facts.ask.stream && !ended.has_begun;
        if awaits && waited_us >= self.watch.first_byte_us() {
            life.late(now_us);
        }
        let settled = self.metering.ended(&life, now_us);
        self.correct_heat(settled, now_us);
    }

    /// The request was cut: it ends as if it had not happened. What its client is told.
    pub fn cut(&self, ticket: Ticket, now_us: u64) -> Refusal {
        let life = Arc::clone(ticket.life());
        let refusal = life.cut();
        self.end(ticket, now_us);
        refusal
    }

    /// Corrects a slice's heat by what a request really took: nothing, where it did not happen.
    #[allow(clippy::cast_precision_loss)]
    fn correct_heat(&self, settled: Option<Settled>, now_us: u64) {
        let Some(Settled { life, took }) = settled else {
            return;
        };
        let origin = &life.facts.origin;
        let assignment = self.assigning.current();
        let Some(slices) = assignment.model(&origin.model) else {
            return;
        };
        let passed_s = now_us.saturating_sub(origin.at_us) as f64 / 1e6;
        let left = (-passed_s / self.placing.load().heat_memory_s.max(1e-3)).exp();
        slices.correct(origin.key, life.placed(), took, left);
    }

    /// Counts a refusal that the state machine made itself or got from [`Core::decide`].
    pub fn count_refusal(&self, refusal: &Refusal) {
        if self.observes_only() {
            self.observing.would_refuse();
        }
        self.tallies.count_refusal(refusal.code);
    }

    /// The counters.
    #[must_use]
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// What bodies may hold, of all requests together.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Longest that a request may wait for admission, ms.
    #[must_use]
    pub fn longest_wait_ms(&self) -> u64 {
        self.doors.longest_wait_ms()
    }

    /// The latest decisions.
    #[must_use]
    pub fn log(&self) -> &DecisionLog {
        &self.log
    }

    /// The replicas as they are now.
    #[must_use]
    pub fn pool(&self) -> Arc<Pool> {
        self.registry.pool_full()
    }

    /// How many replicas a choice names after the chosen one: fewer where no others may serve.
    #[must_use]
    pub fn fallback_count(&self) -> usize {
        self.placing.load().fallbacks
    }

    /// A number that is another at each call, for turns between equals.
    pub(crate) fn next_turn(&self) -> usize {
        self.turns.fetch_add(1, Relaxed)
    }

    /// Endpoints to retry on, in order.
    pub(crate) fn fallbacks<'p>(
        &self,
        decision: &Decision,
        pool: &'p Pool,
    ) -> impl Iterator<Item = &'p str> {
        let most = self.fallback_count();
        let ids = decision.fallbacks.iter().take(most);
        ids.filter_map(|id| pool.replica(*id).map(|other| other.spec.endpoint.as_str()))
    }
}
