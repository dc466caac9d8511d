//! A core with many replicas, a filled prefix index and requests in flight.

use crate::body::Conversation;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use weighbridge_decide::{Core, Incoming, Refusal, Settings, SettingsError, Ticket};
use weighbridge_weigh::{Body, Endpoint};

/// Requests in flight on each replica, on average.
const IN_FLIGHT: usize = 4;
/// Bytes of the bodies that fill the index: long conversations, as a busy cache holds.
const FILL_BYTES: usize = 8 << 10;
/// Tenants: enough to spread over all replicas.
const TENANTS: u64 = 1009;
/// Sessions between two looks at the index.
const FILL_BATCH: u64 = 512;
/// First session of those that fill the index; the measured ones come before.
const FILL_SESSIONS: u64 = 1 << 32;
/// Fewest and most distinct bodies measured, and their bytes in all.
const BODIES: std::ops::RangeInclusive<usize> = 4..=2048;
const BODIES_BYTES: usize = 32 << 20;

/// What is measured.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Bytes of a body, about.
    pub body_bytes: usize,
    /// Replicas, all of one model.
    pub replicas: usize,
    /// Blocks in the prefix index, about; each replica's share is within its KV memory.
    pub index_blocks: usize,
}

/// Why a scene cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum SceneError {
    /// The profile is none.
    #[error("profile: {0}")]
    Profile(&'static str),
    /// The core refuses the settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// JSON of the wrong shape.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A body of ours was refused.
    #[error("a request was refused: {0}")]
    Refused(String),
}

/// A core at work, and the bodies that will be asked about.
pub struct Scene {
    core: Core,
    model: String,
    bodies: Vec<Request>,
    next: usize,
    in_flight: VecDeque<Ticket>,
    most_in_flight: usize,
    now_us: u64,
}

/// A request that is measured.
struct Request {
    id: String,
    tenant: String,
    session: Option<String>,
    body: Vec<u8>,
}

impl Request {
    /// The request of one session, which names itself if `named`.
    fn new(model: &str, session: u64, named: bool, bytes: usize) -> Self {
        Self {
            id: format!("6f1c0d2e-0000-4000-8000-{session:012x}"),
            tenant: format!("tenant-{}", session % TENANTS),
            session: named.then(|| format!("session-{session}")),
            body: Conversation::new(session).body(model, bytes),
        }
    }
}

impl Scene {
    /// Sets up `case` with replicas of `profile` (a profile as JSON, whose KV memory is raised
    /// where the blocks would not fit).
    ///
    /// # Errors
    /// When the profile is refused.
    pub fn set(profile: &Value, case: Case) -> Result<Self, SceneError> {
        let mut scene = Self::empty(profile, case)?;
        scene.fill(case.index_blocks)?;
        let count = (BODIES_BYTES / case.body_bytes.max(1)).clamp(*BODIES.start(), *BODIES.end());
        scene.bodies = (0u64..)
            .take(count)
            .map(|session| Request::new(&scene.model, session, session % 2 == 0, case.body_bytes))
            .collect();
        for _ in 0..scene.most_in_flight.max(count) {
            scene.step()?;
        }
        Ok(scene)
    }

    /// The same without the bodies: replicas and nothing else.
    ///
    /// # Errors
    /// When the profile is refused.
    pub fn empty(profile: &Value, case: Case) -> Result<Self, SceneError> {
        let mut profile = profile.clone();
        let fields = profile
            .as_object_mut()
            .ok_or(SceneError::Profile("must be an object"))?;
        let needed = (case.index_blocks * 64 / case.replicas.max(1)) as u64 * 2;
        let kv_tokens = fields.get("kv_tokens").and_then(Value::as_u64).unwrap_or(0);
        fields.insert("kv_tokens".to_owned(), json!(kv_tokens.max(needed)));
        let name = text(fields.get("name"), "name: must be a string")?;
        let models = fields.get("models").and_then(Value::as_array);
        let model = text(
            models.and_then(|all| all.first()),
            "models: must name a model",
        )?;
        let settings: Settings = serde_json::from_value(json!({ "profiles": [profile] }))?;
        let core = Core::new(settings)?;
        let replicas: Vec<Value> = (0..case.replicas)
            .map(|at| {
                let endpoint = format!("10.{}.{}.{}:8000", at >> 16, (at >> 8) & 255, at & 255);
                json!({
                    "endpoint": endpoint, "profile": name, "domain": format!("rack-{}", at % 16)
                })
            })
            .collect();
        core.set_replicas(serde_json::from_value(Value::Array(replicas))?)?;
        Ok(Self {
            core,
            model,
            bodies: Vec::new(),
            next: 0,
            in_flight: VecDeque::new(),
            most_in_flight: case.replicas * IN_FLIGHT,
            now_us: 0,
        })
    }

    /// Decides on new sessions until the index holds about `blocks` blocks, or as many as the
    /// replicas have room for; each charge is released at once. How many sessions it took.
    ///
    /// # Errors
    /// When a body is refused.
    pub fn fill(&mut self, blocks: usize) -> Result<u64, SceneError> {
        let mut sessions = 0;
        let mut held = 0;
        while held < blocks {
            for _ in 0..FILL_BATCH {
                self.visit(FILL_SESSIONS + sessions, FILL_BYTES)?;
                sessions += 1;
            }
            let before = held;
            held = self.index_blocks();
            if held <= before {
                break;
            }
        }
        Ok(sessions)
    }

    /// Decides on one request of a session, which is answered at once.
    ///
    /// # Errors
    /// When the body is refused.
    pub fn visit(&mut self, session: u64, bytes: usize) -> Result<(), SceneError> {
        let request = Request::new(&self.model, session, true, bytes);
        self.now_us += 10;
        let mut ticket =
            decide(&self.core, &request, self.now_us).map_err(|refusal| refused(&refusal))?;
        self.core.first_byte(&mut ticket, 200, None, self.now_us);
        self.core.end(ticket, self.now_us);
        Ok(())
    }

    /// Blocks that all replicas hold.
    #[must_use]
    pub fn index_blocks(&self) -> usize {
        let pool = self.core.pool();
        pool.replicas().map(|replica| replica.cache.len()).sum()
    }

    /// One decision on the next body, and the end of the oldest request in flight.
    ///
    /// # Errors
    /// When the body is refused.
    pub fn step(&mut self) -> Result<(), SceneError> {
        let Some(request) = self.bodies.get(self.next) else {
            return Ok(());
        };
        self.next = (self.next + 1) % self.bodies.len();
        self.now_us += 10;
        let ticket =
            decide(&self.core, request, self.now_us).map_err(|refusal| refused(&refusal))?;
        self.in_flight.push_back(ticket);
        if self.in_flight.len() > self.most_in_flight {
            if let Some(mut answered) = self.in_flight.pop_front() {
                let now_us = self.now_us;
                self.core.first_byte(&mut answered, 200, None, now_us);
            }
        }
        Ok(())
    }

    /// Bytes of the bodies, on average.
    #[must_use]
    pub fn mean_body_bytes(&self) -> usize {
        let all: usize = self.bodies.iter().map(|request| request.body.len()).sum();
        all / self.bodies.len().max(1)
    }

    /// The bodies, in the order in which [`Scene::step`] asks about them.
    pub fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        self.bodies.iter().map(|request| request.body.as_slice())
    }
}

fn decide(core: &Core, request: &Request, now_us: u64) -> Result<Ticket, Refusal> {
    core.decide(
        &Incoming {
            request_id: &request.id,
            endpoint: Endpoint::ChatCompletions,
            session: request.session.as_deref(),
            tenant: Some(&request.tenant),
            priority: None,
            wanted: weighbridge_decide::Wanted::default(),
            subset: None,
            content_encoding: None,
            parent: None,
            body: Body::whole(&request.body),
        },
        now_us,
    )
}

fn refused(refusal: &Refusal) -> SceneError {
    SceneError::Refused(refusal.message.clone())
}

fn text(value: Option<&Value>, fault: &'static str) -> Result<String, SceneError> {
    let text = value.and_then(Value::as_str);
    text.map(str::to_owned).ok_or(SceneError::Profile(fault))
}
