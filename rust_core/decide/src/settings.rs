//! What an operator sets of the core, as the control plane hands it over.

use crate::admission::Admission;
use crate::health::HealthSetting;
use crate::objectives::ObjectiveBook;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use weighbridge_place::assigner::AssignerSettings;
use weighbridge_place::{ChoiceSettings, Objectives, State};
use weighbridge_weigh::{Profile, ProfileError};

/// Settings of one [`crate::Core`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// All profiles. The one marked as reference, or else the first that names a model, gives that
    /// model's costs; a replica's own profile gives its capacity.
    pub profiles: Vec<Profile>,
    /// Placing.
    #[serde(default)]
    pub placing: Placing,
    /// Request headers that may carry the session, lower case, the first found wins.
    #[serde(default = "default_session_headers")]
    pub session_headers: Vec<String>,
    /// Request header that names the tenant, lower case; whoever can set it is believed.
    #[serde(default = "default_tenant_header")]
    pub tenant_header: Option<String>,
    /// A claim that the gateway has verified and that names the tenant, instead of any header.
    #[serde(default)]
    pub tenant_claim: Option<Claim>,
    /// Tenants that are counted by name, besides those that are listed.
    #[serde(default = "default_counted_tenants")]
    pub counted_tenants: usize,
    /// Output tokens assumed of a request until a predictor knows better.
    #[serde(default = "default_output_tokens")]
    pub default_output_tokens: u64,
    /// Decisions kept for those who look.
    #[serde(default = "default_decision_log")]
    pub decision_log: usize,
    /// Bytes that a compressed body may expand to.
    #[serde(default = "default_expanded_bytes")]
    pub max_expanded_bytes: usize,
    /// Bytes of bodies that may be held at once, of all requests together.
    #[serde(default = "default_held_bytes")]
    pub held_body_bytes: usize,
    /// Tenants, their promises, and what may wait.
    #[serde(default)]
    pub admission: Admission,
    /// Request header that may ask for a lower priority, lower case.
    #[serde(default = "default_priority_header")]
    pub priority_header: String,
    /// Usage records kept until they are taken; 0 keeps none.
    #[serde(default)]
    pub usage_records: usize,
    /// Spans kept until they are taken; 0 traces nothing.
    #[serde(default)]
    pub spans: usize,
    /// What becomes of requests that are no inference.
    #[serde(default)]
    pub unweighed: Unweighed,
    /// How the replicas' health is judged.
    #[serde(default)]
    pub health: HealthSetting,
    /// By model, the `tokenizer.json` that counts its prompts' tokens; others are estimated.
    #[serde(default)]
    pub tokenizers: BTreeMap<String, String>,
    /// Largest body whose tokens are counted, bytes: counting holds up its thread.
    #[serde(default = "default_tokenizer_bytes")]
    pub tokenizer_max_bytes: usize,
}

/// What becomes of a request that is no inference, such as `GET /v1/models`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Unweighed {
    /// It passes unsteered: the gateway balances it.
    #[default]
    Pass,
    /// A replica is named for it too, as a gateway that balances nothing itself needs.
    Pick,
}

/// Where the gateway's metadata holds a claim that it has verified.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The metadata's namespace: the filter that verified it.
    pub namespace: String,
    /// The keys that lead to it.
    pub path: Vec<String>,
}

/// One replica, as the control plane hands it over.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaSetting {
    /// `ip:port`.
    pub endpoint: String,
    /// Name of its profile.
    pub profile: String,
    /// The model it serves; the profile's first where left out.
    #[serde(default)]
    pub model: Option<String>,
    /// LoRA adapters it has loaded.
    #[serde(default)]
    pub adapters: Vec<String>,
    /// Rack or zone.
    #[serde(default)]
    pub domain: String,
    /// Health.
    #[serde(default)]
    pub state: ReplicaState,
    /// Share of its capacity that it may be given now, 0 to 1.
    #[serde(default = "whole")]
    pub share: f64,
}

fn whole() -> f64 {
    1.0
}

/// A replica's health in settings and `status`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaState {
    /// Serves as its profile says.
    #[default]
    Healthy,
    /// Serves, but worse than its profile.
    Degraded,
    /// Gets nothing.
    Ejected,
    /// Gets a trickle.
    Probing,
    /// Finishes what it has.
    Draining,
}

impl ReplicaState {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Ejected => "ejected",
            Self::Probing => "probing",
            Self::Draining => "draining",
        }
    }
}

impl From<ReplicaState> for State {
    fn from(state: ReplicaState) -> Self {
        match state {
            ReplicaState::Healthy => Self::Healthy,
            ReplicaState::Degraded => Self::Degraded,
            ReplicaState::Ejected => Self::Ejected,
            ReplicaState::Probing => Self::Probing,
            ReplicaState::Draining => Self::Draining,
        }
    }
}

impl From<State> for ReplicaState {
    fn from(state: State) -> Self {
        match state {
            State::Healthy => Self::Healthy,
            State::Degraded => Self::Degraded,
            State::Ejected => Self::Ejected,
            State::Probing => Self::Probing,
            State::Draining => Self::Draining,
        }
    }
}

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The text is not what it should be; serde says where.
    #[error("settings: {0}")]
    Shape(#[from] serde_json::Error),
    /// A profile has a value that cannot be.
    #[error("profile {name}: {source}")]
    Profile {
        /// The profile.
        name: String,
        /// What is wrong.
        source: ProfileError,
    },
    /// The queue's settings cannot be.
    #[error("admission: queue: {0}")]
    Queue(#[from] weighbridge_admit::SettingsError),
    /// A tenant's terms cannot be.
    #[error("admission: {0}")]
    Tenants(#[from] weighbridge_admit::BookError),
    /// A model's tokenizer cannot be had.
    #[error("tokenizers.{model}: {reason}")]
    Tokenizer {
        /// The model.
        model: String,
        /// Why not.
        reason: String,
    },
    /// Two profiles have one name.
    #[error("profile {0} is given twice")]
    ProfileTwice(String),
    /// A model has two profiles that are marked as its reference.
    #[error("profiles {one} and {other}: both are marked as the reference of {model}")]
    TwoReferences {
        /// The model.
        model: String,
        /// One of them.
        one: String,
        /// The other.
        other: String,
    },
    /// A profile names no model.
    #[error("profile {0} names no model")]
    NamesNoModel(String),
    /// A replica's profile is unknown.
    #[error("replica {endpoint}: there is no profile {profile}")]
    UnknownProfile {
        /// The replica.
        endpoint: String,
        /// The profile.
        profile: String,
    },
    /// A replica's model is named by no profile.
    #[error("replica {endpoint}: no profile names the model {model}")]
    UnknownModel {
        /// The replica.
        endpoint: String,
        /// The model.
        model: String,
    },
}

/// How replicas are chosen, and how slices are assigned.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Placing {
    /// Endpoints named after the chosen one, for Envoy's retries.
    pub fallbacks: usize,
    /// Another replica must beat a key's home by this, ms…
    pub spill_margin_ms: f64,
    /// …and by this share of the wait there.
    pub spill_margin_share: f64,
    /// Replicas of the pool that are looked at beside the slice's own.
    pub samples: usize,
    /// Replicas with the longest cached prefix that are looked at.
    pub cached_candidates: usize,
    /// What a sequence that is stalled beside a prefill counts, beside a request that waits.
    pub stall_weight: f64,
    /// How often more the harm to others counts where all of these have promises, for a request without.
    pub promise_weight: f64,
    /// How often, beside its own time, a prefill counts that another's cache would have saved, where a copy
    /// takes room that is short.
    pub room_weight: f64,
    /// Room is short where a cache is filled again within this time, s.
    pub reuse_s: f64,
    /// A degraded replica's score is multiplied by this.
    pub degraded_factor: f64,
    /// Time to load a LoRA adapter, ms.
    pub adapter_ms: f64,
    /// Time to the first token that is in time, ms.
    pub objective_ttft_ms: f64,
    /// How much later it may come for each thousand tokens of the prompt, ms.
    pub objective_ttft_ms_per_ktok: f64,
    /// Time per token after it that is in time, ms.
    pub objective_tpot_ms: f64,
    /// The same of some models and tenants, and of requests that name one.
    pub objectives_of: ObjectiveBook,
    /// How far the assigner lets a replica be above the mean utilisation, as a share of it.
    pub load_tolerance: f64,
    /// Time between a session's turns, s: after it a moved session pays for its prefix again.
    pub turn_gap_s: f64,
    /// Time over which the price of a move is spread, s.
    pub horizon_s: f64,
    /// Share of all capacity that the moves of a round may cost.
    pub churn_share: f64,
    /// Time after which an old rate of a slice counts 1/e, s.
    pub heat_memory_s: f64,
    /// Wishes about some tenants' replicas.
    pub workloads: Vec<WorkloadSetting>,
}

/// A wish about one tenant's replicas, in each model.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSetting {
    /// The tenant; empty for requests that name none.
    pub tenant: String,
    /// At least so many replicas, as far as there are.
    #[serde(default)]
    pub min_replicas: u32,
    /// At most so many.
    #[serde(default = "unbounded")]
    pub max_replicas: u32,
}

fn unbounded() -> u32 {
    u32::MAX
}

impl Default for Placing {
    fn default() -> Self {
        let choice = ChoiceSettings::default();
        let assigner = AssignerSettings::default();
        Self {
            fallbacks: 2,
            spill_margin_ms: choice.spill_margin_ms,
            spill_margin_share: choice.spill_margin_share,
            samples: choice.samples,
            cached_candidates: choice.cached,
            stall_weight: choice.stall_weight,
            promise_weight: choice.promise_weight,
            room_weight: choice.room_weight,
            reuse_s: choice.reuse_ms / 1e3,
            degraded_factor: choice.degraded_factor,
            adapter_ms: choice.adapter_ms,
            objective_ttft_ms: choice.objectives.ttft_ms,
            objective_ttft_ms_per_ktok: 150.0,
            objective_tpot_ms: choice.objectives.tpot_ms,
            objectives_of: ObjectiveBook::default(),
            load_tolerance: assigner.tolerance,
            turn_gap_s: assigner.turn_gap_s,
            horizon_s: assigner.horizon_s,
            churn_share: assigner.churn_share,
            heat_memory_s: 30.0,
            workloads: Vec::new(),
        }
    }
}

impl Placing {
    pub(crate) fn objectives(&self) -> Objectives {
        Objectives {
            ttft_ms: self.objective_ttft_ms,
            tpot_ms: self.objective_tpot_ms,
        }
    }

    pub(crate) fn choice(&self) -> ChoiceSettings {
        ChoiceSettings {
            spill_margin_ms: self.spill_margin_ms,
            spill_margin_share: self.spill_margin_share,
            samples: self.samples,
            cached: self.cached_candidates,
            stall_weight: self.stall_weight,
            promise_weight: self.promise_weight,
            room_weight: self.room_weight,
            reuse_ms: self.reuse_s * 1e3,
            degraded_factor: self.degraded_factor,
            adapter_ms: self.adapter_ms,
            objectives: self.objectives(),
            memory_ms: self.heat_memory_s * 1e3,
        }
    }
}

fn default_session_headers() -> Vec<String> {
    [
        "x-session-id",
        "x-conversation-id",
        "session_id",
        "conversation_id",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[allow(clippy::unnecessary_wraps)] // serde wants the field's type
fn default_tenant_header() -> Option<String> {
    Some("x-tenant-id".to_owned())
}

fn default_counted_tenants() -> usize {
    1000
}

fn default_priority_header() -> String {
    "x-request-priority".to_owned()
}

fn default_output_tokens() -> u64 {
    256
}

fn default_decision_log() -> usize {
    1024
}

fn default_expanded_bytes() -> usize {
    16 << 20
}

fn default_held_bytes() -> usize {
    192 << 20
}

fn default_tokenizer_bytes() -> usize {
    16 << 10
}
