//! What an operator sets of the core, as the control plane hands it over.

use serde::{Deserialize, Serialize};
use weighbridge_place::State;
use weighbridge_weigh::{Profile, ProfileError};

/// Settings of one [`crate::Core`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// All profiles. The first that names a model, or the one marked as reference, gives that
    /// model's costs; a replica's own profile gives its capacity.
    pub profiles: Vec<Profile>,
    /// Placing.
    #[serde(default)]
    pub placing: Placing,
    /// Request headers that may carry the session, lower case, the first found wins.
    #[serde(default = "default_session_headers")]
    pub session_headers: Vec<String>,
    /// Request header that names the tenant, lower case.
    #[serde(default = "default_tenant_header")]
    pub tenant_header: String,
    /// Output tokens assumed of a request until a predictor knows better.
    #[serde(default = "default_output_tokens")]
    pub default_output_tokens: u64,
    /// Decisions kept for those who look.
    #[serde(default = "default_decision_log")]
    pub decision_log: usize,
    /// Bytes that a compressed body may expand to.
    #[serde(default = "default_expanded_bytes")]
    pub max_expanded_bytes: usize,
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
    /// Two profiles have one name.
    #[error("profile {0} is given twice")]
    ProfileTwice(String),
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

/// How replicas are chosen.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Placing {
    /// ε of the load bound: no replica above (1 + ε) × the mean utilisation while another is below.
    pub load_tolerance: f64,
    /// Endpoints named after the chosen one, for Envoy's retries.
    pub fallbacks: usize,
}

impl Default for Placing {
    fn default() -> Self {
        Self {
            load_tolerance: 0.25,
            fallbacks: 2,
        }
    }
}

fn default_session_headers() -> Vec<String> {
    vec!["x-session-id".to_owned(), "x-conversation-id".to_owned()]
}

fn default_tenant_header() -> String {
    "x-tenant-id".to_owned()
}

fn default_output_tokens() -> u64 {
    256
}

fn default_decision_log() -> usize {
    1024
}

fn default_expanded_bytes() -> usize {
    64 << 20
}
