//! A request's beginning: admitted or made to wait, placed, and charged.

use crate::admission;
use crate::claims::longest_answer;
use crate::core::{Core, Incoming};
use crate::life::{Brought, Facts, Life};
use crate::log::{Endpoints, Record};
use crate::observing::Observed;
use crate::prospects::Prospects;
use crate::refusal::Refusal;
use crate::shards::hash;
use crate::signs::Measured;
use crate::span::{Span, SpanOutcome, TraceParent};
use crate::ticket::{Origin, Ticket};
use crate::weighed::Weighed;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use weighbridge_admit::{Door, Entry, Grant, Pass, Priority, Shed, Turn};
use weighbridge_learn::Owed;
use weighbridge_learn::health::Source;
use weighbridge_place::{Decision, MicroMu, Placed, Pool, Replica};
use weighbridge_weigh::{Endpoint, Work};

/// What became of a request that asked for admission.
#[derive(Debug)]
pub enum Begun {
    /// It runs.
    Placed(Ticket),
    /// It waits for its turn.
    Waits(Box<Waiting>),
}

/// How a request's wait ended.
pub type Turned = Result<Pass, Shed>;

/// A request in the queue before a model's replicas; dropped, it gives up its place.
#[derive(Debug)]
pub struct Waiting {
    weighed: Weighed,
    door: Arc<Door>,
    turn: Turn,
    since_us: u64,
}

impl Waiting {
    /// The answer for [`Core::resume`], or else wakes `context` when it is there.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Turned> {
        Pin::new(&mut self.turn).poll(context)
    }

    /// Has `waker` called when the answer is there; at once, if it is.
    pub fn wake(&self, waker: Waker) {
        self.turn.wake(waker);
    }
}

/// As what a request was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// On its tenant's promise.
    Promised,
    /// In the order of its priority.
    Of(Priority),
}

impl Class {
    fn of(grant: &Grant) -> Self {
        if grant.is_promised() {
            Self::Promised
        } else {
            Self::Of(grant.priority())
        }
    }
}

/// A request's admission.
#[derive(Debug, Default)]
struct Admitted {
    pass: Option<Pass>,
    waited_us: u64,
}

/// Of a request, what its span tells besides the outcome.
#[derive(Clone, Copy, Debug)]
pub struct Traced<'a> {
    /// The span above; none: there is no span.
    pub parent: Option<TraceParent>,
    /// `x-request-id`.
    pub request_id: &'a str,
    /// Which form its body has.
    pub endpoint: Endpoint,
}

impl<'a> Traced<'a> {
    fn of(incoming: &Incoming<'a>) -> Self {
        Self {
            parent: incoming.parent,
            request_id: incoming.request_id,
            endpoint: incoming.endpoint,
        }
    }
}

impl Core {
    /// Weighs and places a request at `now_us` without asking for admission, and charges the
    /// replica chosen until the ticket is dropped.
    ///
    /// # Errors
    /// A refusal, to be sent to the client.
    pub fn decide(&self, incoming: &Incoming<'_>, now_us: u64) -> Result<Ticket, Refusal> {
        let weighed = self.weigh(incoming)?;
        let pool = self.registry.pool();
        let (decision, replica) = self.place(&weighed, incoming, &pool, now_us)?;
        let placed = (&decision, &replica);
        Ok(self.charge(
            &weighed,
            incoming,
            &pool,
            placed,
            Admitted::default(),
            now_us,
        ))
    }

    /// Weighs a request, asks for its admission, and places it or lets it wait.
    ///
    /// # Errors
    /// A refusal, to be sent to the client.
    pub fn begin(&self, incoming: &Incoming<'_>, now_us: u64) -> Result<Begun, Refusal> {
        let begun = self.begin_untraced(incoming, now_us);
        if let Err(refusal) = &begun {
            self.trace_refusal(&Traced::of(incoming), refusal, now_us, 0);
        }
        begun
    }

    fn begin_untraced(&self, incoming: &Incoming<'_>, now_us: u64) -> Result<Begun, Refusal> {
        let weighed = self.weigh(incoming)?;
        let pool = self.registry.pool();
        let (decision, replica) = self.place(&weighed, incoming, &pool, now_us)?;
        let door = self.doors.get(&weighed.model.name);
        let Some(door) = door.filter(|_| self.admits.load(Relaxed) && !self.observes_only()) else {
            let placed = (&decision, &replica);
            let admitted = Admitted::default();
            let ticket = self.charge(&weighed, incoming, &pool, placed, admitted, now_us);
            return Ok(Begun::Placed(ticket));
        };
        let amount = weighed.weighing.amount(decision.cached_blocks);
        let tenant = incoming.tenant.unwrap_or_default();
        let priority = self.priority(incoming, weighed.objectives.ttft_ms);
        let prospects = Prospects::of(self, &weighed, &decision);
        match admission::enter(door, tenant, priority, amount, &prospects, now_us) {
            Entry::Run(pass) => {
                let admitted = Admitted {
                    pass: Some(pass),
                    waited_us: 0,
                };
                let placed = (&decision, &replica);
                let ticket = self.charge(&weighed, incoming, &pool, placed, admitted, now_us);
                Ok(Begun::Placed(ticket))
            }
            Entry::Wait(turn) => Ok(Begun::Waits(Box::new(Waiting {
                weighed,
                door: Arc::clone(door),
                turn,
                since_us: now_us,
            }))),
            Entry::Shed(shed) => Err(admission::refusal(shed, door, tenant)),
        }
    }

    /// Places a request whose turn has come, or refuses it, as `answer` says.
    ///
    /// # Errors
    /// A refusal, to be sent to the client.
    pub fn resume(
        &self,
        waiting: Box<Waiting>,
        answer: Turned,
        incoming: &Incoming<'_>,
        now_us: u64,
    ) -> Result<Ticket, Refusal> {
        let since_us = waiting.since_us;
        let ticket = self.resume_untraced(waiting, answer, incoming, now_us);
        if let Err(refusal) = &ticket {
            let waited_us = now_us.saturating_sub(since_us);
            self.trace_refusal(&Traced::of(incoming), refusal, since_us, waited_us);
        }
        ticket
    }

    fn resume_untraced(
        &self,
        waiting: Box<Waiting>,
        answer: Turned,
        incoming: &Incoming<'_>,
        now_us: u64,
    ) -> Result<Ticket, Refusal> {
        let mut pass = answer.map_err(|shed| {
            admission::refusal(shed, &waiting.door, incoming.tenant.unwrap_or_default())
        })?;
        pass.unclaim();
        let weighed = &waiting.weighed;
        let pool = self.registry.pool();
        let (decision, replica) = match self.place(weighed, incoming, &pool, now_us) {
            Ok(placed) => placed,
            Err(refusal) => {
                pass.finish(MicroMu::ZERO, now_us);
                return Err(refusal);
            }
        };
        let admitted = Admitted {
            pass: Some(pass),
            waited_us: now_us.saturating_sub(waiting.since_us),
        };
        let placed = (&decision, &replica);
        let ticket = self.charge(weighed, incoming, &pool, placed, admitted, now_us);
        Ok(ticket)
    }

    /// How far a request of this tenant yields to promises of others, 0 to 1.
    pub(crate) fn yields(&self, model: &str, tenant: Option<&str>) -> f64 {
        let door = self.doors.get(model).filter(|_| self.admits.load(Relaxed));
        door.map_or(0.0, |door| {
            let tenant = tenant.unwrap_or_default();
            door.look(|gate| gate.yields(tenant))
        })
    }

    /// Makes a span of a refusal, where the request is traced: it came at `started_us` and waited
    /// for so long.
    pub fn trace_refusal(
        &self,
        traced: &Traced<'_>,
        refusal: &Refusal,
        started_us: u64,
        waited_us: u64,
    ) {
        let outcome = SpanOutcome::Refused {
            status: refusal.status,
            code: refusal.code,
        };
        self.trace(traced, outcome, started_us, waited_us);
    }

    /// The span above, where there is to be one below it.
    fn sampled(&self, parent: Option<TraceParent>) -> Option<TraceParent> {
        parent.filter(|parent| parent.is_sampled && self.spans.is_kept())
    }

    fn trace(&self, traced: &Traced<'_>, outcome: SpanOutcome, started_us: u64, waited_us: u64) {
        let Some(parent) = self.sampled(traced.parent) else {
            return;
        };
        self.spans.push(Span {
            parent,
            request_id: traced.request_id.to_owned(),
            endpoint: traced.endpoint.path(),
            started_us,
            ended_us: self.now_us().max(started_us.saturating_add(waited_us)),
            waited_us,
            outcome,
        });
    }

    fn charge(
        &self,
        weighed: &Weighed,
        incoming: &Incoming<'_>,
        pool: &Pool,
        (decision, replica): (&Decision, &Arc<Replica>),
        admitted: Admitted,
        now_us: u64,
    ) -> Ticket {
        let waited_us = admitted.waited_us;
        let work = weighed.weighing.work(decision.cached_blocks);
        let cost = weighed.weighing.profile().cost(&work);
        let amount = weighed.weighing.amount(decision.cached_blocks);
        let mut charge = replica.load.charge(amount);
        let class = admitted.pass.as_ref().and_then(Pass::grant).map(Class::of);
        if class == Some(Class::Promised) {
            charge.promise();
        }
        let steered = !self.observes_only();
        let reading = weighed.weighing.reading();
        let profile = weighed.weighing.profile();
        let tenant_name = incoming.tenant.unwrap_or_default();
        let source = Source {
            tenant: hash(tenant_name),
            name: weighed.key.bits(),
        };
        let flight = self
            .watch
            .signs(replica.id)
            // A body that was seen in part may be more than it seems.
            .filter(|_| steered && weighed.is_whole)
            .map(|signs| {
                // Were nothing batched: what an engine on its profile needs at most.
                let totals = replica.load.totals();
                let before = if reading.stream {
                    totals.work() - MicroMu::from_mu(cost.decode_mu)
                } else {
                    // The wait for others' answers is in the time of its own.
                    totals.prefill
                };
                let longest = Work {
                    output_tokens: longest_answer(profile, reading.max_output_tokens),
                    ..work
                };
                let owed = Owed {
                    first_ms: before.as_mu().max(0.0) / replica.full_mu_per_ms(),
                    most_decode_mu: profile.cost(&longest).decode_mu,
                    is_streamed: reading.stream,
                };
                Measured::begin(signs, source, owed, now_us)
            });
        let brought = steered.then(|| Brought::new(replica, &weighed.chain));
        if let Some(slices) = self.assigning.current().model(&weighed.model.name) {
            slices.record(
                weighed.key,
                Placed {
                    charged: MicroMu::from_mu(cost.total()),
                    saved: decision.saved,
                },
            );
        }
        let number = self.numbers.fetch_add(1, Relaxed) + 1;
        self.tallies.count_reason(decision.reason);
        let tally = self.tallies.replica(&replica.spec.endpoint);
        tally.requests.fetch_add(1, Relaxed);
        tally.micro_mu.fetch_add(
            MicroMu::from_mu(cost.total()).micro().max(0).unsigned_abs(),
            Relaxed,
        );
        tally.prompt_tokens.fetch_add(cost.prompt_tokens, Relaxed);
        tally.cached_tokens.fetch_add(cost.cached_tokens, Relaxed);
        let sought = weighed.sought.filter(|response| {
            self.fallback_count() > 0
                && !self.seeking.is_unknown(*response, now_us)
                && self.seeking.may(source.tenant, now_us)
        });
        let chosen = replica.spec.endpoint.as_str();
        let endpoints = if sought.is_some() {
            let others = self.others(&weighed.model.name, incoming.subset, chosen);
            Endpoints::new(chosen, others.iter().map(String::as_str))
        } else {
            Endpoints::new(chosen, self.fallbacks(decision, pool))
        };
        let request_id: Arc<str> = incoming.request_id.into();
        let tenant: Arc<str> = tenant_name.into();
        let origin = Origin {
            model: Arc::clone(&weighed.model.name),
            key: weighed.key,
            at_us: now_us,
        };
        let objectives = weighed.objectives;
        let facts = Facts {
            objectives,
            number,
            request_id: Arc::clone(&request_id),
            tenant: Arc::clone(&tenant),
            source,
            origin: origin.clone(),
            ask: weighed.ask,
            profile: Arc::clone(weighed.weighing.profile()),
            work,
            factor: weighed.factor,
            is_whole: weighed.is_whole,
            is_counted: weighed.is_counted,
            max_output: Some(reading.max_output_tokens.unwrap_or(weighed.model.longest)),
            promised_blocks: decision.cached_blocks,
            believed_share: replica.cache.believed_share(),
            is_steered: steered,
            estimated: MicroMu::from_mu(cost.total()),
            saved: decision.saved,
            waited_us,
            join: self.metering.open.draw(number),
        };
        let life = Life::new(facts, admitted.pass, replica, charge, flight, brought);
        let life = self.metering.open.list(life);
        let forecast = decision.candidate();
        if !(reading.stream && self.metering.open.is_joined())
            && let Some(forecast) = forecast
        {
            self.unseen
                .expect(&life, now_us, forecast.outlook.forecast.first_ms);
        }
        let mut ticket = Ticket::new(number, origin, replica, life, endpoints.clone());
        ticket.seek(sought);
        if let Some(class) = class.filter(|_| steered && self.cutting.is_on()) {
            let first_ms = forecast.map_or(0.0, |one| one.outlook.forecast.first_ms);
            let late_ms = waited_us as f64 / 1e3 + first_ms - weighed.first_ms();
            let late = MicroMu::from_mu(late_ms * replica.full_mu_per_ms());
            match class {
                Class::Promised => self.cutting.make_way(replica.id, late),
                Class::Of(Priority::Sheddable) => {
                    ticket.may_be_cut_as(self.cutting.list(replica.id, ticket.life()));
                }
                Class::Of(_) => {}
            }
        }
        if !steered {
            self.observing.decided();
            ticket.observe(Observed::new(weighed, decision.cached_blocks));
        }
        let is_traced = self.sampled(incoming.parent).is_some();
        if self.log.is_kept() || is_traced {
            let record = Arc::new(Record {
                number,
                request_id,
                session_source: weighed.session.source(),
                session: weighed.session.shown(),
                tenant,
                model: Arc::clone(&weighed.model.name),
                endpoints,
                reason: decision.reason.as_str(),
                steered,
                prompt_tokens: cost.prompt_tokens,
                cached_tokens: cost.cached_tokens,
                output_tokens: cost.output_tokens,
                mu: cost.total(),
                prefill_mu: cost.before_first_token(),
                decode_mu: cost.decode_mu,
                wait_ms: forecast.map_or(0.0, |one| one.outlook.wait_ms),
                objective_ttft_ms: objectives.ttft_ms,
                objective_tpot_ms: objectives.tpot_ms,
                pool: decision.pool,
                at_us: now_us,
            });
            if is_traced {
                let started_us = now_us.saturating_sub(waited_us);
                let outcome = SpanOutcome::Placed(Arc::clone(&record));
                self.trace(&Traced::of(incoming), outcome, started_us, waited_us);
            }
            if self.log.is_kept() {
                self.log.push(record);
            }
        }
        ticket
    }
}
