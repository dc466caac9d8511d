//! Weighbridge itself: the live core, which reads the bytes that a client would send.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use serde_json::{Map, Value, json};
use weighbridge_decide::{
    Begun, Clock, Core, EngineLook, Incoming, Observation, Probe, Refusal, ReplicaSetting,
    SetClock, Settings, Ticket, Waiting, Wanted,
};
use weighbridge_traces::{BodyOptions, Kind, TextPool};
use weighbridge_weigh::{Body, Endpoint, Profile};

use super::{Ask, Member, Policy, Standing, Usage, View};
use crate::error::SimulateError;
use crate::replica::Metrics;
use crate::scenario::Scenario;

/// From one round in which health is judged, and pages of health are asked for, to the next, ms.
const JUDGE_MS: f64 = 1000.0;
/// Rounds from one look at the engines' statistics to the next.
const LOOK_ROUNDS: u64 = 2;

/// The time to the first token that a batch asks for, ms.
const PATIENT_MS: f64 = 3_600_000.0;

/// The live core.
pub(super) struct Live {
    core: Core,
    clock: Arc<SetClock>,
    profiles: Vec<String>,
    body: BodyOptions,
    pool: TextPool,
    bytes: Vec<u8>,
    tickets: HashMap<usize, Ticket>,
    numbers: HashMap<String, usize>,
    endpoints: Vec<String>,
    reasons: BTreeMap<String, u64>,
    /// Requests that wait for admission, with their tenant.
    waiting: HashMap<usize, (Box<Waiting>, String)>,
    called: Arc<Called>,
    /// Requests for embeddings under way.
    embeds: HashSet<usize>,
    /// Rounds of health so far.
    rounds: u64,
    /// Rounds of health from one of the assigner to the next.
    assign_rounds: u64,
}

/// Requests whose answer is there.
#[derive(Default)]
struct Called(Mutex<Vec<usize>>);

/// Calls one request.
struct Bell(usize, Arc<Called>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.1.lock().push(self.0);
    }
}

impl Called {
    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    pub(super) fn new(scenario: &Scenario, profiles: &[Profile]) -> Result<Self, SimulateError> {
        let model = profiles.first().and_then(|profile| profile.models.first());
        let mut settings: Map<String, Value> = scenario.core.clone();
        settings.insert("profiles".to_owned(), json!([]));
        settings.insert("decision_log".to_owned(), json!(0));
        let mut settings: Settings =
            serde_json::from_value(Value::Object(settings)).map_err(refused)?;
        settings.profiles = profiles.to_vec();
        let clock = Arc::<SetClock>::default();
        Ok(Self {
            core: Core::with_clock(settings, Arc::clone(&clock) as Arc<dyn Clock>)
                .map_err(refused)?,
            clock,
            profiles: profiles
                .iter()
                .map(|profile| profile.name.clone())
                .collect(),
            body: BodyOptions {
                told_length: scenario.told_length,
                stream: scenario.streamed,
                ..BodyOptions::streamed(model.map_or("", String::as_str))
            },
            pool: TextPool::new(),
            bytes: Vec::new(),
            tickets: HashMap::new(),
            numbers: HashMap::new(),
            endpoints: Vec::new(),
            reasons: BTreeMap::new(),
            waiting: HashMap::new(),
            called: Arc::default(),
            embeds: HashSet::new(),
            rounds: 0,
            assign_rounds: assign_rounds(scenario.round_s),
        })
    }

    /// Sets the core's clock: in µs.
    fn at(&self, now_ms: f64) -> u64 {
        let now_us = micros(now_ms);
        self.clock.set(now_us);
        now_us
    }

    /// The next of the endpoints that were named when the request was placed, as Envoy retries.
    fn fallback(&self, ask: &Ask<'_>) -> Option<usize> {
        let endpoints = self.tickets.get(&ask.number)?.endpoints().split(',');
        let mut numbers = endpoints.filter_map(|endpoint| self.numbers.get(endpoint));
        numbers.find(|number| !ask.tried.contains(number)).copied()
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Option<usize> {
        let arrival = ask.workload.arrivals().get(ask.number)?;
        let replay = ask.workload.replay();
        self.bytes.clear();
        replay.write_body(arrival, &self.pool, &self.body, &mut self.bytes);
        let tenant = replay.tenant(arrival);
        let session = ask.session.map(|_| replay.session(arrival));
        let kind = ask.workload.kind(ask.number);
        if kind == Kind::Embeddings {
            self.embeds.insert(ask.number);
        }
        let now_us = self.at(ask.now_ms);
        self.core.advance(now_us);
        let incoming = Incoming {
            request_id: &request_id(ask.number),
            endpoint: endpoint(kind),
            session: session.as_deref(),
            tenant: Some(tenant.as_str()).filter(|tenant| !tenant.is_empty()),
            priority: None,
            wanted: wanted(kind),
            subset: None,
            content_encoding: None,
            parent: None,
            body: Body::whole(&self.bytes),
        };
        match self.core.begin(&incoming, now_us) {
            Ok(Begun::Waits(waiting)) => {
                let bell = Bell(ask.number, Arc::clone(&self.called));
                waiting.wake(Waker::from(Arc::new(bell)));
                self.waiting.insert(ask.number, (waiting, tenant));
                None
            }
            placed => self.placed(
                ask.number,
                placed.map(|begun| match begun {
                    Begun::Placed(ticket) => Some(ticket),
                    Begun::Waits(_) => None,
                }),
            ),
        }
    }

    fn placed(&mut self, number: usize, answer: Result<Option<Ticket>, Refusal>) -> Option<usize> {
        match answer {
            Ok(ticket) => {
                let ticket = ticket?;
                let replica = self.numbers.get(ticket.endpoint()).copied();
                self.tickets.insert(number, ticket);
                replica
            }
            Err(refusal) => {
                *self.reasons.entry(refusal.code.to_owned()).or_default() += 1;
                None
            }
        }
    }

    /// A request whose turn may have come: `None` while it still waits.
    fn turn(&mut self, number: usize, now_us: u64) -> Option<Option<usize>> {
        let (mut waiting, tenant) = self.waiting.remove(&number)?;
        let bell = Waker::from(Arc::new(Bell(number, Arc::clone(&self.called))));
        let Poll::Ready(answer) = waiting.poll(&mut Context::from_waker(&bell)) else {
            self.waiting.insert(number, (waiting, tenant));
            return None;
        };
        let incoming = Incoming {
            request_id: &request_id(number),
            endpoint: Endpoint::ChatCompletions,
            session: None,
            tenant: Some(tenant.as_str()).filter(|tenant| !tenant.is_empty()),
            priority: None,
            wanted: Wanted::default(),
            subset: None,
            content_encoding: None,
            // It was weighed when it came.
            parent: None,
            body: Body::whole(&[]),
        };
        let placed = self.core.resume(waiting, answer, &incoming, now_us);
        Some(self.placed(number, placed.map(Some)))
    }
}

impl Live {
    fn first_byte(&mut self, number: usize, replica: usize, now_ms: f64) {
        let served = self.endpoints.get(replica).map(String::as_str);
        let now_us = self.at(now_ms);
        if let Some(ticket) = self.tickets.get_mut(&number) {
            self.core.first_byte(ticket, 200, served, now_us);
        }
    }

    fn end(&mut self, number: usize, now_us: u64) {
        if let Some(ticket) = self.tickets.remove(&number) {
            self.core.end(ticket, now_us);
        }
    }
}

/// Rounds of the assigner in rounds of health.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn assign_rounds(round_s: f64) -> u64 {
    ((round_s * 1e3 / JUDGE_MS).round() as u64).max(1)
}

/// The engine's statistics as the sidecar reads them.
fn look(metrics: &Metrics) -> EngineLook {
    EngineLook {
        iteration: Some(metrics.iteration),
        requests: u64::from(metrics.requests),
        kv_tokens: metrics.kv_tokens,
    }
}

/// Which form the request's body has.
fn endpoint(kind: Kind) -> Endpoint {
    match kind {
        Kind::Chat | Kind::Batch => Endpoint::ChatCompletions,
        Kind::Embeddings => Endpoint::Embeddings,
    }
}

/// What the request's headers ask for: nobody waits for a batch's first token, and its client says so.
fn wanted(kind: Kind) -> Wanted<'static> {
    let ttft_ms = (kind == Kind::Batch).then_some(PATIENT_MS);
    Wanted {
        ttft_ms,
        ..Wanted::default()
    }
}

fn request_id(number: usize) -> String {
    number.to_string()
}

/// A streamed reply, with what the engine says of it at its end.
fn reply_of(usage: Usage) -> String {
    let text = json!({"choices": [{"delta": {"content": text(usage)}}]});
    let usage = json!({"choices": [], "usage": told(usage)});
    format!("data: {text}\n\ndata: {usage}\n\ndata: [DONE]\n\n")
}

/// A reply in one piece.
fn whole(usage: Usage) -> String {
    let choice = json!({"message": {"role": "assistant", "content": text(usage)}});
    json!({"object": "chat.completion", "choices": [choice], "usage": told(usage)}).to_string()
}

/// A byte for each token.
fn text(usage: Usage) -> String {
    let most = usize::try_from(usage.output_tokens).unwrap_or(0);
    "w".repeat(most.min(1 << 20))
}

/// Usage as the engine tells it.
fn told(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}

/// The reply to a request for embeddings, without them.
fn embedded(usage: Usage) -> String {
    let tokens = usage.prompt_tokens;
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    json!({"object": "list", "data": [], "usage": usage}).to_string()
}

impl Policy for Live {
    fn choose(&mut self, ask: &Ask<'_>, _view: &mut View<'_>) -> Option<usize> {
        if ask.tried.is_empty() {
            self.decide(ask)
        } else {
            self.fallback(ask)
        }
    }

    fn waits(&self, number: usize) -> bool {
        self.waiting.contains_key(&number)
    }

    fn resume(&mut self, now_ms: f64) -> Vec<(usize, Option<usize>)> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let now_us = self.at(now_ms);
        self.core.advance(now_us);
        let called = std::mem::take(&mut *self.called.lock());
        let answered = |number| self.turn(number, now_us).map(|replica| (number, replica));
        called.into_iter().filter_map(answered).collect()
    }

    fn next_event_ms(&self) -> Option<f64> {
        let next = self
            .core
            .next_event_us()
            .filter(|_| !self.waiting.is_empty());
        // The clock of the core is in whole µs.
        #[allow(clippy::cast_precision_loss)]
        next.map(|us| (us + 1) as f64 / 1000.0)
    }

    fn first_token(&mut self, number: usize, replica: usize, now_ms: f64) {
        self.first_byte(number, replica, now_ms);
    }

    fn finished(&mut self, number: usize, replica: usize, usage: Usage, now_ms: f64) {
        if !self.body.stream {
            self.first_byte(number, replica, now_ms);
        }
        let now_us = self.at(now_ms);
        let join = self.tickets.get(&number).and_then(Ticket::join);
        if let Some(mut observer) = self.core.observe(join, None) {
            let (form, body) = if self.embeds.remove(&number) {
                ("application/json", embedded(usage))
            } else if self.body.stream {
                ("text/event-stream", reply_of(usage))
            } else {
                ("application/json", whole(usage))
            };
            observer.begin(Some(form), None);
            observer.body(body.as_bytes(), now_us);
            self.core.observed(observer, now_us);
        }
        self.end(number, now_us);
    }

    fn dropped(&mut self, number: usize, now_ms: f64) {
        self.waiting.remove(&number);
        self.embeds.remove(&number);
        self.end(number, self.at(now_ms));
    }

    fn members(&mut self, members: &[Member], now_ms: f64) -> Result<(), SimulateError> {
        self.at(now_ms);
        let settings = members
            .iter()
            .filter(|member| member.standing != Standing::Gone)
            .map(|member| {
                serde_json::from_value::<ReplicaSetting>(json!({
                    "endpoint": member.endpoint,
                    "profile": self.profiles.get(member.group),
                    "domain": member.domain,
                    "state": match member.standing {
                        Standing::Draining => "draining",
                        _ => "healthy",
                    },
                }))
                .map_err(refused)
            })
            .collect::<Result<_, _>>()?;
        self.core.set_replicas(settings).map_err(refused)?;
        self.endpoints = members
            .iter()
            .map(|member| member.endpoint.clone())
            .collect();
        self.numbers = self.endpoints.iter().cloned().zip(0..).collect();
        Ok(())
    }

    fn tick(&mut self, now_ms: f64, view: &mut View<'_>) -> Result<(), SimulateError> {
        let now_us = self.at(now_ms);
        self.rounds += 1;
        let looks = self.rounds % LOOK_ROUNDS == 0;
        let seen: Vec<Observation> = self
            .endpoints
            .iter()
            .zip(view.replicas.iter_mut().zip(view.standing))
            .map(|(endpoint, (replica, standing))| {
                let is_there = *standing != Standing::Gone;
                Observation {
                    endpoint: endpoint.clone(),
                    probe: Some(if is_there {
                        Probe::Good
                    } else {
                        Probe::Refused
                    }),
                    outlier: None,
                    engine: (looks && is_there).then(|| look(&replica.metrics(now_ms))),
                }
            })
            .collect();
        self.core.hear(&seen, now_us);
        self.core.judge(now_us).map_err(refused)?;
        if self.rounds % self.assign_rounds == 0 {
            self.core.assign(now_us);
        }
        Ok(())
    }

    fn tick_ms(&self) -> Option<f64> {
        Some(JUDGE_MS)
    }

    fn spills(&self) -> u64 {
        let reasons = self.core.tallies().reasons();
        let spilt = reasons
            .iter()
            .filter(|(reason, _)| reason.starts_with("spill"));
        spilt.map(|(_, count)| count).sum()
    }

    fn slices_moved(&self) -> u64 {
        self.core.assignment().moves.values().sum()
    }

    fn reasons(&self) -> Vec<(String, u64)> {
        let reasons = self.core.tallies().reasons();
        let placed = reasons
            .iter()
            .map(|(reason, count)| ((*reason).to_owned(), *count));
        let refused = self
            .reasons
            .iter()
            .map(|(code, count)| (code.clone(), *count));
        placed.chain(refused).collect()
    }
}

fn refused(error: impl std::fmt::Display) -> SimulateError {
    SimulateError::Core(error.to_string())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn micros(now_ms: f64) -> u64 {
    (now_ms.max(0.0) * 1000.0) as u64
}
