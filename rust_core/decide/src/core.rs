//! The core: what all requests share, and the decision on one of them.

use crate::assigning::{Assigning, AssignmentStatus};
use crate::log::{DecisionLog, Record};
use crate::models::{Model, Models};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::settings::{Placing, ReplicaSetting, Settings, SettingsError};
use crate::tally::Tallies;
use crate::ticket::{Origin, Ticket};
use crate::weighing::Weighing;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use weighbridge_place::{
    Amount, Ask, Decision, Key, MicroMu, NoReplica, Pool, Registry, Replica, ReplicaSpec, choose,
};
use weighbridge_weigh::decode::{Decoded, decode};
use weighbridge_weigh::{Body, Endpoint, Limits};

/// What is known of a request when it is to be decided.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// `x-request-id`.
    pub request_id: &'a str,
    /// Which form its body has.
    pub endpoint: Endpoint,
    /// The session that a header names.
    pub session: Option<&'a str>,
    /// The tenant that a header names.
    pub tenant: Option<&'a str>,
    /// Endpoints that the gateway allows.
    pub subset: Option<&'a [String]>,
    /// `content-encoding` of the body.
    pub content_encoding: Option<&'a str>,
    /// The body, as sent.
    pub body: Body<'a>,
}

/// Profiles, replicas, ledgers, prefix index and counters: shared by all requests.
pub struct Core {
    settings: Settings,
    models: Models,
    registry: Registry,
    assigning: Assigning,
    placing: ArcSwap<Placing>,
    tallies: Tallies,
    log: DecisionLog,
    numbers: AtomicU64,
    start: Instant,
}

impl Core {
    /// A core without replicas.
    ///
    /// # Errors
    /// When a profile contradicts itself or another.
    pub fn new(mut settings: Settings) -> Result<Self, SettingsError> {
        let profiles = std::mem::take(&mut settings.profiles);
        Ok(Self {
            models: Models::new(profiles)?,
            registry: Registry::default(),
            assigning: Assigning::default(),
            placing: ArcSwap::from_pointee(settings.placing.clone()),
            tallies: Tallies::default(),
            log: DecisionLog::new(settings.decision_log),
            numbers: AtomicU64::new(0),
            start: Instant::now(),
            settings,
        })
    }

    /// What it was set to, without the profiles.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// µs since the core was made: the clock that transports pass to the state machine.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Replaces the replicas and takes slices off those that must not serve; ledgers and caches of endpoints that stay are kept. The new pool's
    /// number.
    ///
    /// # Errors
    /// When a replica names a profile or model that is unknown; then nothing is changed.
    pub fn set_replicas(&self, replicas: Vec<ReplicaSetting>) -> Result<u64, SettingsError> {
        let specs = replicas
            .into_iter()
            .map(|replica| self.spec(replica))
            .collect::<Result<_, _>>()?;
        let number = self.registry.replace(specs);
        self.assigning
            .react(&self.registry.pool_full(), &self.placing.load());
        Ok(number)
    }

    /// One round of the assigner, with what was placed up to `now_us`. To be called every few
    /// seconds.
    pub fn assign(&self, now_us: u64) {
        self.assigning.round(
            &self.registry.pool_full(),
            &self.placing.load(),
            now_us / 1000,
        );
    }

    /// Changes how replicas are chosen, from the next request on.
    pub fn set_placing(&self, placing: Placing) {
        self.placing.store(Arc::new(placing));
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

    fn spec(&self, replica: ReplicaSetting) -> Result<ReplicaSpec, SettingsError> {
        let Some(profile) = self.models.profile(&replica.profile) else {
            return Err(SettingsError::UnknownProfile {
                endpoint: replica.endpoint,
                profile: replica.profile,
            });
        };
        let asked = replica
            .model
            .or_else(|| profile.models.first().cloned())
            .unwrap_or_default();
        let Some(model) = self.models.get(&asked) else {
            return Err(SettingsError::UnknownModel {
                endpoint: replica.endpoint,
                model: asked,
            });
        };
        Ok(ReplicaSpec {
            endpoint: replica.endpoint,
            model: model.name.to_string(),
            adapters: replica.adapters,
            capacity_mu_per_min: profile.capacity_mu_per_min,
            kv_tokens: profile.kv_tokens,
            domain: replica.domain,
            state: replica.state.into(),
            share: replica.share,
        })
    }

    /// Weighs and places a request at `now_us`, and charges the replica chosen until the ticket is
    /// dropped.
    ///
    /// # Errors
    /// A refusal, to be sent to the client.
    pub fn decide(&self, incoming: &Incoming<'_>, now_us: u64) -> Result<Ticket, Refusal> {
        let weighed = self.weigh(incoming)?;
        let pool = self.registry.pool();
        let (decision, replica) = self.place(&weighed, incoming, &pool, now_us)?;
        Ok(self.charge(&weighed, incoming, &pool, &decision, &replica, now_us))
    }

    /// The first response byte has come, with `status`; `served` is the endpoint that the gateway
    /// says gave it, where it says so.
    pub fn first_byte(&self, ticket: &mut Ticket, status: u16, served: Option<&str>, _now_us: u64) {
        if let Some(endpoint) = served.filter(|endpoint| *endpoint != ticket.endpoint()) {
            if let Some(replica) = self.registry.pool().endpoint(endpoint) {
                ticket.move_to(replica);
            }
        }
        ticket.first_byte();
        if status >= 500 {
            self.tallies
                .replica(ticket.endpoint())
                .failures
                .fetch_add(1, Relaxed);
        }
    }

    /// The request has ended: what was charged is released, and the KV memory that it held while
    /// it ran counts as its slice's heat. Dropping the ticket does the former alone.
    pub fn end(&self, ticket: Ticket, now_us: u64) {
        if let Some(slices) = self.assigning.current().model(ticket.model()) {
            slices.record_kv(ticket.key(), ticket.kv_token_ms(now_us));
        }
    }

    /// Counts a refusal that the state machine made itself or got from [`Core::decide`].
    pub fn count_refusal(&self, refusal: &Refusal) {
        self.tallies.count_refusal(refusal.code);
    }

    /// The counters.
    #[must_use]
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
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

    /// Reads and weighs a request, before any replica is looked at.
    ///
    /// # Errors
    /// A refusal: unreadable, or a model that is not known.
    pub fn weigh(&self, incoming: &Incoming<'_>) -> Result<Weighed<'_>, Refusal> {
        let decoded = self.expand(incoming)?;
        let body = decoded.body();
        if body.complete && body.bytes.is_empty() {
            return Err(Refusal::empty_body());
        }
        let reading = weighbridge_weigh::read(incoming.endpoint, body, &Limits::default())
            .map_err(|error| Refusal::unreadable(&error))?;
        let model = if reading.model.is_empty() && !body.complete {
            self.models
                .only()
                .ok_or_else(|| Refusal::model_out_of_sight(body.bytes.len()))?
        } else {
            self.models
                .get(&reading.model)
                .ok_or_else(|| Refusal::unknown_model(&reading.model))?
        };
        let session = Session::of(incoming, &reading);
        let tenant = incoming.tenant.unwrap_or_default();
        Ok(Weighed {
            key: Key::of(tenant, session.bytes().as_ref()),
            chain: reading
                .prefix
                .blocks()
                .iter()
                .map(|block| block.hash)
                .collect(),
            weighing: Weighing::new(
                &model.reference,
                reading,
                self.settings.default_output_tokens,
            ),
            model,
            session,
        })
    }

    /// The body as JSON text, its content-encoding undone.
    fn expand<'a>(&self, incoming: &Incoming<'a>) -> Result<Decoded<'a>, Refusal> {
        decode(
            incoming.content_encoding.unwrap_or_default(),
            incoming.body,
            self.settings.max_expanded_bytes,
        )
        .map_err(|error| Refusal::undecodable(&error))
    }

    /// Chooses a replica for a weighed request, charging nothing.
    ///
    /// # Errors
    /// A refusal when no replica can take it.
    pub fn place(
        &self,
        weighed: &Weighed<'_>,
        incoming: &Incoming<'_>,
        pool: &Pool,
        now_us: u64,
    ) -> Result<(Decision, Arc<Replica>), Refusal> {
        let subset: Option<Vec<&str>> = incoming
            .subset
            .map(|all| all.iter().map(String::as_str).collect());
        let prefill = |blocks: u32| MicroMu::from_mu(weighed.weighing.prefill_mu(blocks));
        let ask = Ask {
            model: &weighed.model.name,
            adapter: weighed
                .model
                .is_adapter
                .then_some(weighed.weighing.reading().model.as_str()),
            key: weighed.key,
            chain: &weighed.chain,
            prefill: &prefill,
            decode: MicroMu::from_mu(weighed.weighing.decode_mu()),
            kv_tokens: weighed.weighing.kv_tokens(),
            subset: subset.as_deref(),
            now_ms: now_us / 1000,
            seed: self.numbers.load(Relaxed),
        };
        let none = || Refusal::no_replica(&weighed.model.name);
        let assignment = self.assigning.current();
        let slices = assignment.model(&weighed.model.name);
        let choice = self.placing.load().choice();
        let decision =
            choose(pool, slices.map(Arc::as_ref), &ask, &choice).map_err(|error| match error {
                NoReplica::UnknownModel | NoReplica::NoneReady | NoReplica::EmptySubset => none(),
            })?;
        let replica = pool.replica(decision.chosen).cloned().ok_or_else(none)?;
        Ok((decision, replica))
    }

    /// Endpoints to retry on, in order.
    pub(crate) fn fallbacks(&self, decision: &Decision, pool: &Pool) -> Vec<String> {
        decision
            .fallbacks
            .iter()
            .take(self.placing.load().fallbacks)
            .filter_map(|id| pool.replica(*id).map(|other| other.spec.endpoint.clone()))
            .collect()
    }

    fn charge(
        &self,
        weighed: &Weighed<'_>,
        incoming: &Incoming<'_>,
        pool: &Pool,
        decision: &Decision,
        replica: &Arc<Replica>,
        now_us: u64,
    ) -> Ticket {
        let cost = weighed.weighing.cost(decision.cached_blocks);
        let charge = replica.load.charge(Amount {
            prefill: decision.prefill,
            decode: MicroMu::from_mu(cost.decode_mu),
            kv_tokens: cost.kv_tokens,
        });
        replica.cache.record(&weighed.chain);
        if let Some(slices) = self.assigning.current().model(&weighed.model.name) {
            slices.record(weighed.key, MicroMu::from_mu(cost.total()), decision.saved);
        }
        let number = self.numbers.fetch_add(1, Relaxed) + 1;
        self.tallies.count_reason(decision.reason.as_str());
        let tally = self.tallies.replica(&replica.spec.endpoint);
        tally.requests.fetch_add(1, Relaxed);
        tally.micro_mu.fetch_add(
            MicroMu::from_mu(cost.total()).micro().max(0).unsigned_abs(),
            Relaxed,
        );
        tally.prompt_tokens.fetch_add(cost.prompt_tokens, Relaxed);
        tally.cached_tokens.fetch_add(cost.cached_tokens, Relaxed);
        let fallbacks = self.fallbacks(decision, pool);
        let origin = Origin {
            model: Arc::clone(&weighed.model.name),
            key: weighed.key,
            at_us: now_us,
        };
        let ticket = Ticket::new(number, origin, charge, replica, &fallbacks);
        if self.log.is_kept() {
            self.log.push(Record {
                number,
                request_id: incoming.request_id.to_owned(),
                session_source: weighed.session.source(),
                session: weighed.session.shown(),
                tenant: incoming.tenant.unwrap_or_default().to_owned(),
                model: weighed.model.name.to_string(),
                replica: replica.spec.endpoint.clone(),
                fallbacks,
                reason: decision.reason.as_str(),
                prompt_tokens: cost.prompt_tokens,
                cached_tokens: cost.cached_tokens,
                output_tokens: cost.output_tokens,
                mu: cost.total(),
                prefill_mu: cost.before_first_token(),
                decode_mu: cost.decode_mu,
                wait_ms: decision
                    .candidates
                    .iter()
                    .find(|candidate| candidate.replica == decision.chosen)
                    .map_or(0.0, |candidate| candidate.wait_ms),
                pool: decision.pool,
                at_us: now_us,
            });
        }
        ticket
    }
}

/// A request read and weighed, not yet placed.
pub struct Weighed<'a> {
    pub(crate) model: &'a Model,
    /// What its body says, and its costs.
    pub weighing: Weighing,
    /// Where it stands in its model's key space.
    pub key: Key,
    /// The session that the key was made of.
    pub session: Session,
    /// Chained hashes of its prefix blocks.
    pub chain: Vec<u64>,
}

impl Weighed<'_> {
    /// The base model's name.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model.name
    }
}
