//! Admission: a door before each model's replicas, which keeps tenants' promises under pressure.

use crate::refusal::Refusal;
use crate::settings::SettingsError;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use weighbridge_admit::{Book, Capacity, Door, Entry, Fit, Gate, Offer, Priority, Standing, Terms};
use weighbridge_place::{Amount, MicroMu, ModelPool, Pool, State};

/// Who may have how much, and what may wait.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admission {
    /// Off: everything runs at once, whatever is in flight.
    pub enabled: bool,
    /// Requests of `sheddable` that no replica has begun to answer are ended where a guarantee would be
    /// late behind them.
    pub cut_sheddable: bool,
    /// The queue before each model's replicas.
    pub queue: weighbridge_admit::Settings,
    /// What tenants were promised and may ask for, of each model, by name.
    pub tenants: BTreeMap<String, Terms>,
    /// The terms of requests that name no tenant, or one that is not listed.
    pub default_tenant: Terms,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            enabled: true,
            cut_sheddable: false,
            queue: weighbridge_admit::Settings::default(),
            tenants: BTreeMap::new(),
            default_tenant: Terms::default(),
        }
    }
}

impl Admission {
    fn book(&self) -> Result<Book, SettingsError> {
        self.queue.check()?;
        let tenants = self
            .tenants
            .iter()
            .map(|(name, terms)| (name, terms.clone()));
        Ok(Book::new(tenants, self.default_tenant.clone())?)
    }
}

/// The doors, by model.
#[derive(Debug)]
pub(crate) struct Doors {
    by_model: HashMap<Arc<str>, Arc<Door>>,
    /// Beside the doors, which are held while they are looked at.
    longest_wait_ms: AtomicU64,
}

impl Doors {
    /// A door for each model; all shut until the pool is known.
    pub(crate) fn new(
        models: impl Iterator<Item = Arc<str>>,
        admission: &Admission,
    ) -> Result<Self, SettingsError> {
        let book = admission.book()?;
        let door = |model| {
            let gate = Gate::new(admission.queue, book.clone(), Capacity::default());
            (model, Door::new(gate))
        };
        Ok(Self {
            by_model: models.map(door).collect(),
            longest_wait_ms: AtomicU64::new(admission.queue.max_wait_ms),
        })
    }

    /// Takes new terms and settings; what runs, waits and is owed stays.
    pub(crate) fn set(&self, admission: &Admission, now_us: u64) -> Result<(), SettingsError> {
        let book = admission.book()?;
        (self.longest_wait_ms).store(admission.queue.max_wait_ms, Relaxed);
        for door in self.by_model.values() {
            door.change(now_us, |gate, events| {
                gate.set_book(book.clone(), now_us, events);
                gate.set_settings(admission.queue, now_us, events);
            });
        }
        Ok(())
    }

    /// Longest that a request may wait, of each model, ms.
    pub(crate) fn longest_wait_ms(&self) -> u64 {
        self.longest_wait_ms.load(Relaxed)
    }

    /// Takes the capacities of a pool.
    pub(crate) fn set_pool(&self, pool: &Pool, now_us: u64) {
        for (model, door) in &self.by_model {
            let members = pool.model(model);
            // Where all replicas drain, none will take what waits. Those that are ejected, or that
            // discovery has lost for a moment, come back.
            let is_over = members.is_some_and(|members| {
                let mut all = members.replicas.iter();
                all.all(|replica| replica.spec.state == State::Draining)
            });
            // Added up before the door is held: requests want it.
            let window_ms = door.look(Gate::window_ms);
            let capacity =
                members.map_or_else(Capacity::default, |members| capacity(members, window_ms));
            door.change(now_us, |gate, events| {
                gate.set_capacity(capacity, now_us, events);
                if is_over {
                    gate.shed_all(now_us, events);
                }
            });
        }
    }

    pub(crate) fn get(&self, model: &str) -> Option<&Arc<Door>> {
        self.by_model.get(model)
    }

    /// The doors of all models.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Door>> {
        self.by_model.values()
    }

    /// Lets time pass for those who wait.
    pub(crate) fn advance(&self, now_us: u64) {
        for door in self.by_model.values() {
            if door.next_event_us().is_some_and(|next| next <= now_us) {
                door.advance(now_us);
            }
        }
    }

    /// When [`Doors::advance`] has something to do next, µs.
    pub(crate) fn next_event_us(&self) -> Option<u64> {
        self.by_model
            .values()
            .filter_map(|door| door.next_event_us())
            .min()
    }

    /// What each door looks like now.
    pub(crate) fn status(&self) -> BTreeMap<String, DoorStatus> {
        self.by_model
            .iter()
            .map(|(model, door)| (model.to_string(), DoorStatus::of(door)))
            .collect()
    }
}

/// What a model's open replicas can do, and what others have them do.
fn capacity(members: &ModelPool, window_ms: f64) -> Capacity {
    let open = || {
        let all = members.replicas.iter();
        all.filter(|replica| replica.spec.state.is_open())
    };
    let mut foreign = Amount::default();
    for replica in open() {
        let (totals, own) = (replica.load.totals(), replica.load.own());
        // It fills this replica at most, not the others.
        let most = MicroMu::from_mu(replica.mu_per_ms() * window_ms);
        let work = (totals.decode - own.decode).max(MicroMu::ZERO);
        foreign.decode += work.min(most);
        let kv_tokens = u64::try_from(totals.kv_tokens - own.kv_tokens).unwrap_or(0);
        foreign.kv_tokens += kv_tokens.min(replica.spec.kv_tokens);
    }
    Capacity {
        mu_per_ms: members.mu_per_ms,
        replicas: u32::try_from(open().count()).unwrap_or(u32::MAX),
        kv_tokens: open().map(|replica| replica.spec.kv_tokens).sum(),
        slots: open().map(|replica| replica.spec.steps.slots).sum(),
        foreign,
    }
}

/// Asks a door for a request to run.
pub(crate) fn enter(
    door: &Arc<Door>,
    tenant: &str,
    priority: Option<Priority>,
    cost: Amount,
    fit: &dyn Fit,
    now_us: u64,
) -> Entry {
    let offer = Offer {
        tenant,
        priority,
        cost,
        deadline_us: u64::MAX,
        fit: Some(fit),
    };
    door.enter(&offer, now_us)
}

/// The refusal of a request that was shed, with where its tenant stands.
pub(crate) fn refusal(shed: weighbridge_admit::Shed, door: &Door, tenant: &str) -> Refusal {
    Refusal::shed(shed, &door.look(|gate| gate.standing(tenant)))
}

/// Tenants that are looked at before a door is let go.
const TENANTS_AT_ONCE: usize = 128;

/// Admission to one model at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct DoorStatus {
    /// Requests in flight.
    pub running: i64,
    /// MU in flight that are not done.
    pub running_mu: f64,
    /// Of these, on promises.
    pub promised_mu: f64,
    /// Whether nothing waits and there is room for more.
    pub open: bool,
    /// What waits, by priority.
    pub waiting: BTreeMap<&'static str, QueueStatus>,
    /// MU per ms at which what waits is served.
    pub drain_mu_per_ms: f64,
    /// Tenants seen; requests without one, and names that were too many, as "".
    pub tenants: Vec<TenantStatus>,
}

/// One priority's queue.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct QueueStatus {
    /// Requests.
    pub requests: u32,
    /// MU.
    pub mu: f64,
}

/// Where a tenant stands with one model.
#[derive(Clone, Debug, Serialize)]
pub struct TenantStatus {
    /// Its name.
    pub tenant: String,
    /// Requests in flight.
    pub running: u32,
    /// Requests that wait.
    pub waiting: u32,
    /// MU a minute promised, or what all replicas serve where nothing is.
    pub limit_mu_per_min: f64,
    /// MU that would run now without waiting.
    pub remaining_mu: f64,
    /// MU charged since start, trued up.
    pub billed_mu: f64,
    /// Requests that ran, since start.
    pub started: u64,
    /// Requests that had to wait.
    pub waited: u64,
    /// Requests refused.
    pub shed: u64,
}

impl DoorStatus {
    /// The door is let go between every few tenants: there may be thousands, and requests want it.
    fn of(door: &Door) -> Self {
        let mut status = door.look(Self::without_tenants);
        for first in (0..).step_by(TENANTS_AT_ONCE) {
            let is_last = door.look(|gate| {
                let mut seen = 0;
                for (name, standing) in gate.some_standings(first, TENANTS_AT_ONCE) {
                    seen += 1;
                    if standing != unused(&standing) {
                        status.tenants.push(TenantStatus::of(name, &standing));
                    }
                }
                seen < TENANTS_AT_ONCE
            });
            if is_last {
                break;
            }
        }
        status
    }

    fn without_tenants(gate: &Gate) -> Self {
        let (running, running_mu) = gate.in_flight();
        Self {
            running,
            running_mu: running_mu.as_mu(),
            promised_mu: gate.promised_in_flight().1.as_mu(),
            open: gate.is_open() && gate.all_waiting() == 0,
            waiting: Priority::ALL
                .into_iter()
                .map(|priority| {
                    let (requests, mu): (u32, MicroMu) = gate.waiting(priority);
                    let mu = mu.as_mu();
                    (priority.as_str(), QueueStatus { requests, mu })
                })
                .collect(),
            drain_mu_per_ms: gate.drain_mu_per_ms(),
            tenants: Vec::new(),
        }
    }
}

/// What a tenant's standing would be, had it never asked for anything.
fn unused(standing: &Standing) -> Standing {
    Standing {
        running: 0,
        waiting: 0,
        billed: MicroMu::ZERO,
        started: 0,
        waited: 0,
        shed: 0,
        ..*standing
    }
}

impl TenantStatus {
    fn of(tenant: &str, standing: &Standing) -> Self {
        Self {
            tenant: tenant.to_owned(),
            running: standing.running,
            waiting: standing.waiting,
            limit_mu_per_min: standing.limit_mu_per_min,
            remaining_mu: standing.remaining_mu,
            billed_mu: standing.billed.as_mu(),
            started: standing.started,
            waited: standing.waited,
            shed: standing.shed,
        }
    }
}
