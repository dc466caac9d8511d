//! What the core looks like at one moment, for the admin endpoint and metrics.

use crate::admission::DoorStatus;
use crate::assigning::AssignmentStatus;
use crate::core::Core;
use crate::health::{HealthCounts, HealthStatus};
use crate::histogram::HistogramStatus;
use crate::measures::MeasuresStatus;
use crate::observing::ObservingStatus;
use crate::settings::ReplicaState;
use crate::tally::TenantTally;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use weighbridge_place::Replica;

/// A core at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// This moment, µs on the core's clock.
    pub now_us: u64,
    /// Number of the pool.
    pub pool: u64,
    /// ext_proc streams open.
    pub streams: u64,
    /// Slices and what the assigner has done.
    pub assignment: AssignmentStatus,
    /// Replicas by endpoint.
    pub replicas: Vec<ReplicaStatus>,
    /// Decisions by reason, since start.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Time that decisions took.
    pub decision: HistogramStatus,
    /// What came of requests, by model.
    pub measures: BTreeMap<String, MeasuresStatus>,
    /// Refusals by code, since start.
    pub errors: BTreeMap<&'static str, u64>,
    /// Admission, by model.
    pub admission: BTreeMap<String, DoorStatus>,
    /// What tenants took, since start.
    pub tenants: Vec<TenantUsage>,
    /// What judging the replicas' health has come to.
    pub health: HealthCounts,
    /// Whether decisions are only recorded.
    pub observe_only: bool,
    /// What observing came to.
    pub observed: ObservingStatus,
    /// Usage records lost because nobody took them.
    pub usage_records_lost: u64,
    /// Spans that nobody took in time.
    pub spans_lost: u64,
    /// Requests ended because they had been under way for too long.
    pub reaped: u64,
}

/// What one tenant took of one model, since start.
#[derive(Clone, Debug, Serialize)]
pub struct TenantUsage {
    /// Its name; empty for requests that name none.
    pub tenant: String,
    /// The model.
    pub model: String,
    /// What it took.
    #[serde(flatten)]
    pub took: TenantTally,
}

/// A replica at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaStatus {
    /// `ip:port`.
    pub endpoint: String,
    /// The model it serves.
    pub model: String,
    /// Rack or zone.
    pub domain: String,
    /// Health.
    pub state: ReplicaState,
    /// Share of its capacity that it may be given now.
    pub share: f64,
    /// Why it is in that state.
    pub health: HealthStatus,
    /// Requests in flight.
    pub requests: i64,
    /// Prefill MU in flight.
    pub prefill_mu: f64,
    /// Decode MU in flight.
    pub decode_mu: f64,
    /// KV tokens in flight.
    pub kv_tokens: i64,
    /// What came past this sidecar.
    pub foreign: ForeignStatus,
    /// KV tokens it can hold.
    pub kv_capacity_tokens: u64,
    /// MU it serves in a minute at saturation.
    pub capacity_mu_per_min: f64,
    /// Prefix blocks that it has likely cached.
    pub cached_blocks: usize,
    /// What it was given since start.
    pub served: Served,
}

/// Work at a replica that came past this sidecar.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ForeignStatus {
    /// Requests.
    pub requests: i64,
    /// MU.
    pub mu: f64,
    /// KV tokens.
    pub kv_tokens: i64,
}

/// What a replica was given since start.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Served {
    /// Requests.
    pub requests: u64,
    /// MU.
    pub mu: f64,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Of these, predicted to be cached.
    pub cached_tokens: u64,
    /// Responses with status 500 and above.
    pub failures: u64,
}

impl Status {
    /// Looks at a core.
    #[must_use]
    pub fn of(core: &Core) -> Self {
        let pool = core.pool();
        let mut replicas: Vec<_> = pool
            .replicas()
            .map(|replica| ReplicaStatus::of(core, replica))
            .collect();
        replicas.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        Self {
            now_us: core.now_us(),
            pool: pool.number,
            assignment: core.assignment(),
            streams: core.tallies().streams.load(Relaxed),
            replicas,
            reasons: core.tallies().reasons(),
            decision: core.tallies().decisions.look(),
            measures: core.metering().measures(),
            errors: core.tallies().refusals(),
            admission: core.doors().status(),
            tenants: core
                .metering()
                .tenants
                .all()
                .into_iter()
                .map(|(tenant, model, took)| TenantUsage {
                    tenant,
                    model,
                    took,
                })
                .collect(),
            health: core.watch.counts(),
            observe_only: core.observes_only(),
            observed: core.observing().look(),
            usage_records_lost: core.metering().log.dropped(),
            spans_lost: core.spans.dropped(),
            reaped: core.reaped(),
        }
    }
}

impl ReplicaStatus {
    #[allow(clippy::cast_precision_loss)]
    fn of(core: &Core, replica: &Replica) -> Self {
        let (totals, own) = (replica.load.totals(), replica.load.own());
        let tally = core.tallies().replica(&replica.spec.endpoint);
        Self {
            endpoint: replica.spec.endpoint.clone(),
            model: replica.spec.model.clone(),
            domain: replica.spec.domain.clone(),
            state: replica.spec.state.into(),
            share: replica.spec.share,
            health: core.watch.status(replica.id),
            requests: own.requests,
            prefill_mu: own.prefill.as_mu(),
            decode_mu: own.decode.as_mu(),
            kv_tokens: own.kv_tokens,
            foreign: ForeignStatus {
                requests: (totals.requests - own.requests).max(0),
                mu: (totals.decode - own.decode).as_mu().max(0.0),
                kv_tokens: (totals.kv_tokens - own.kv_tokens).max(0),
            },
            kv_capacity_tokens: replica.spec.kv_tokens,
            capacity_mu_per_min: replica.spec.capacity_mu_per_min,
            cached_blocks: replica.cache.len(),
            served: Served {
                requests: tally.requests.load(Relaxed),
                mu: tally.micro_mu.load(Relaxed) as f64 / 1e6,
                prompt_tokens: tally.prompt_tokens.load(Relaxed),
                cached_tokens: tally.cached_tokens.load(Relaxed),
                failures: tally.failures.load(Relaxed),
            },
        }
    }
}
