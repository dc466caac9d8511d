//! The replicas' health: what requests, polls and Envoy show of each, judged about once a second.

use crate::foreign::{Bounds, EngineLook, Foreign};
use crate::settings::ReplicaState;
use crate::signs::Signs;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use weighbridge_learn::health::{Cause, Health, Settings as Judgement, Sign, Standing};
use weighbridge_place::{Pool, Replica, ReplicaId, State};

/// A share is published anew when it has moved by this much.
const STEP: f64 = 0.02;

/// How health is judged.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct HealthSetting {
    /// Off: every replica counts as healthy.
    pub enabled: bool,
    /// A streamed request that ends unanswered after so long, and is overdue, counts as a failure, ms.
    pub first_byte_ms: u64,
    /// Foreign load is believed up to so many ms of a replica's capacity.
    pub most_foreign_ms: f64,
    /// The bounds between well and ill.
    pub judgement: Judgement,
}

impl Default for HealthSetting {
    fn default() -> Self {
        Self {
            enabled: true,
            first_byte_ms: 30_000,
            most_foreign_ms: 30_000.0,
            judgement: Judgement::default(),
        }
    }
}

impl HealthSetting {
    fn first_byte_us(&self) -> u64 {
        self.first_byte_ms.saturating_mul(1000)
    }
}

/// How a poll of a replica's health page went. A poll that failed for a reason of one's own (no
/// descriptors, no name service) says nothing of the replica: it is not told at all.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// It says that it is well.
    Good,
    /// It says that it is not, or nothing.
    Bad,
    /// Nobody listens there: whatever it had cached is gone.
    Refused,
}

/// What was seen of one replica from outside its requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// `ip:port`; one that is not known is passed over.
    pub endpoint: String,
    /// Its health page.
    #[serde(default)]
    pub probe: Option<Probe>,
    /// Whether Envoy has taken it out.
    #[serde(default)]
    pub outlier: Option<bool>,
    /// Its engine.
    #[serde(default)]
    pub engine: Option<EngineLook>,
}

/// A replica that went from one state to another.
#[derive(Clone, Debug, Serialize)]
pub struct HealthChange {
    /// `ip:port`.
    pub endpoint: String,
    /// The state before.
    pub from: ReplicaState,
    /// The state now.
    pub to: ReplicaState,
    /// What weighed most.
    pub cause: Cause,
    /// Share of its capacity that it may be given now.
    pub share: f64,
}

/// A replica's health at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HealthStatus {
    /// 1 is well, 0 is ill.
    pub wellness: f64,
    /// What weighs most against it.
    pub cause: Cause,
    /// Speed against its profile, where known.
    pub speed: Option<f64>,
}

/// All replicas' health.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Beside the rest: a request that ends does not wait for a round over all replicas.
    first_byte_us: AtomicU64,
    by_id: RwLock<HashMap<ReplicaId, Arc<Signs>>>,
    judging: Mutex<Judging>,
}

#[derive(Debug)]
struct Judging {
    setting: HealthSetting,
    health: Health,
    foreign: HashMap<ReplicaId, Foreign>,
    by_endpoint: HashMap<String, ReplicaId>,
    /// As the pool has them.
    published: HashMap<ReplicaId, Standing>,
    changes: BTreeMap<(&'static str, &'static str), u64>,
    restarts: u64,
    round_us: u64,
}

impl Watch {
    pub(crate) fn new(setting: HealthSetting) -> Self {
        Self {
            first_byte_us: AtomicU64::new(setting.first_byte_us()),
            by_id: RwLock::default(),
            judging: Mutex::new(Judging {
                health: Health::new(setting.judgement),
                setting,
                foreign: HashMap::new(),
                by_endpoint: HashMap::new(),
                published: HashMap::new(),
                changes: BTreeMap::new(),
                restarts: 0,
                round_us: 0,
            }),
        }
    }

    pub(crate) fn set(&self, setting: HealthSetting) {
        let mut judging = self.judging();
        self.first_byte_us.store(setting.first_byte_us(), Relaxed);
        judging.health.set(setting.judgement);
        judging.setting = setting;
    }

    pub(crate) fn first_byte_us(&self) -> u64 {
        self.first_byte_us.load(Relaxed)
    }

    /// What is gathered of a replica; `None` where it has left.
    pub(crate) fn signs(&self, id: ReplicaId) -> Option<Arc<Signs>> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        by_id.get(&id).map(Arc::clone)
    }

    /// Requests whose speed is being measured, at all replicas.
    pub(crate) fn flying(&self) -> usize {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        by_id.values().map(|signs| signs.flying()).sum()
    }

    /// Watches the pool's replicas from now on; `kinds` says of each endpoint how many requests fill
    /// it and which are its like.
    pub(crate) fn follow(&self, pool: &Pool, kinds: &HashMap<String, (f64, u32)>) {
        let mut judging = self.judging();
        let mut next = HashMap::with_capacity(pool.len());
        let mut stay = Vec::new();
        let mut all = Vec::new();
        for replica in pool.replicas() {
            let endpoint = &replica.spec.endpoint;
            let (batch, group) = kinds.get(endpoint).copied().unwrap_or((1.0, 0));
            let known = self
                .signs(replica.id)
                .filter(|signs| signs.endpoint == *endpoint);
            if known.is_some() {
                stay.push((replica.id.0, group));
            }
            all.push((replica.id.0, group));
            let signs = known
                .unwrap_or_else(|| Arc::new(Signs::new(endpoint, replica.full_mu_per_ms(), batch)));
            next.insert(replica.id, signs);
        }
        // A number that went to another endpoint must not inherit anything: first it is forgotten.
        let stays: HashMap<u32, ()> = stay.iter().map(|(id, _)| (*id, ())).collect();
        judging.health.watch(stay);
        judging.health.watch(all);
        judging.foreign.retain(|id, _| stays.contains_key(&id.0));
        judging.published.retain(|id, _| stays.contains_key(&id.0));
        judging.by_endpoint = next
            .iter()
            .map(|(id, signs)| (signs.endpoint.clone(), *id))
            .collect();
        // Made before it is swapped in: requests ask for it.
        *self.by_id.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// What a replica may be given, as it was judged last.
    pub(crate) fn standing(&self, endpoint: &str) -> Standing {
        let judging = self.judging();
        let known = judging.by_endpoint.get(endpoint);
        known
            .and_then(|id| judging.published.get(id))
            .copied()
            .unwrap_or(WELL)
    }

    /// Takes in what was seen from outside. `mu_each` is the mean MU of a request to a model.
    pub(crate) fn hear(
        &self,
        observations: &[Observation],
        pool: &Pool,
        mu_each: impl Fn(&str) -> f64,
        now_us: u64,
    ) {
        let mut judging = self.judging();
        for seen in observations {
            let Some(replica) = pool.endpoint(&seen.endpoint) else {
                continue;
            };
            judging.hear(seen, replica);
            let is_gone = seen.probe == Some(Probe::Refused) && !replica.cache.is_empty();
            let is_new = seen.engine.as_ref().is_some_and(|look| {
                let bounds = Bounds {
                    mu_each: mu_each(&replica.spec.model),
                    most_ms: judging.setting.most_foreign_ms,
                };
                let foreign = judging.foreign.entry(replica.id).or_default();
                foreign.look(look, replica, &bounds, now_us)
            });
            if is_new {
                let id = replica.id.0;
                judging.health.hear(id, Sign::Restarted);
                if let Some(signs) = self.signs(replica.id) {
                    signs.begin_anew();
                }
            }
            if is_gone || is_new {
                judging.restarts += 1;
                replica.cache.clear();
            }
        }
    }

    /// Judges all replicas. The changes of state, and whether the pool is to be published anew.
    pub(crate) fn round(&self, pool: &Pool, now_us: u64) -> (Vec<HealthChange>, bool) {
        let mut judging = self.judging();
        judging.round_us = now_us;
        for replica in pool.replicas() {
            let Some(signs) = self.signs(replica.id) else {
                continue;
            };
            let (reports, overdue) = signs.take(now_us);
            for report in &reports {
                judging.health.report(replica.id.0, report, now_us);
            }
            judging.health.waiting(replica.id.0, overdue);
            if let Some(foreign) = judging.foreign.get_mut(&replica.id) {
                foreign.expire(replica, now_us);
            }
        }
        judging.health.round(now_us);
        let mut changes = Vec::new();
        let mut moved = false;
        for replica in pool.replicas() {
            let before = judging.published(replica.id);
            let now = judging.standing(replica.id);
            if before.state != now.state {
                if now.state == State::Probing {
                    if let Some(signs) = self.signs(replica.id) {
                        signs.begin_anew();
                    }
                }
                changes.push(judging.change(replica, before, now));
            }
            if before.state != now.state || (before.share - now.share).abs() >= STEP {
                judging.published.insert(replica.id, now);
                moved = true;
            }
        }
        (changes, moved)
    }

    pub(crate) fn status(&self, id: ReplicaId) -> HealthStatus {
        let judging = self.judging();
        HealthStatus {
            wellness: judging.health.wellness(id.0),
            cause: judging.health.cause(id.0),
            speed: judging.health.speed(id.0),
        }
    }

    pub(crate) fn counts(&self) -> HealthCounts {
        let judging = self.judging();
        let mut changes: BTreeMap<&'static str, BTreeMap<&'static str, u64>> = BTreeMap::new();
        for ((state, cause), count) in &judging.changes {
            changes.entry(state).or_default().insert(cause, *count);
        }
        HealthCounts {
            changes,
            restarts: judging.restarts,
            judged_at_us: judging.round_us,
        }
    }

    fn judging(&self) -> MutexGuard<'_, Judging> {
        self.judging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What judging has come to since start.
#[derive(Clone, Debug, Serialize)]
pub struct HealthCounts {
    /// Changes of state, by the state gone to and by cause.
    pub changes: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Restarts of replicas that were noticed.
    pub restarts: u64,
    /// When the last round was, µs on the core's clock.
    pub judged_at_us: u64,
}

const WELL: Standing = Standing {
    state: State::Healthy,
    share: 1.0,
};

impl Judging {
    fn published(&self, id: ReplicaId) -> Standing {
        self.published.get(&id).copied().unwrap_or(WELL)
    }

    fn standing(&self, id: ReplicaId) -> Standing {
        if self.setting.enabled {
            self.health.standing(id.0)
        } else {
            WELL
        }
    }

    fn hear(&mut self, seen: &Observation, replica: &Replica) {
        let id = replica.id.0;
        if let Some(probe) = seen.probe {
            let sign = Sign::Probe(probe == Probe::Good);
            self.health.hear(id, sign);
        }
        if let Some(is_outlier) = seen.outlier {
            self.health.hear(id, Sign::Outlier(is_outlier));
        }
    }

    fn change(&mut self, replica: &Replica, from: Standing, to: Standing) -> HealthChange {
        let cause = self.health.cause(replica.id.0);
        let state = ReplicaState::from(to.state);
        *self
            .changes
            .entry((state.as_str(), cause.as_str()))
            .or_default() += 1;
        HealthChange {
            endpoint: replica.spec.endpoint.clone(),
            from: from.state.into(),
            to: state,
            cause,
            share: to.share,
        }
    }
}
