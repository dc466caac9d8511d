//! One decision from weighing to placing, and its settlement when the request ends.

#![deny(clippy::indexing_slicing)]

mod accounts;
mod admission;
mod assigning;
mod begin;
mod claims;
mod clock;
mod core;
mod cutting;
mod drains;
mod explain;
mod fit;
mod foreign;
mod health;
mod histogram;
mod keyspace;
mod life;
mod log;
mod measures;
mod memory;
mod metering;
mod models;
mod objectives;
mod observing;
mod outbox;
mod pick;
mod prospects;
mod refusal;
mod responses;
mod seeking;
mod session;
mod settings;
mod shards;
mod signs;
mod span;
mod status;
mod steps;
mod tally;
mod ticket;
mod tokenizers;
mod unseen;
mod usage_log;
mod weighed;
mod weighing;

pub use crate::core::{Core, Incoming};
pub use accounts::Accounts;
pub use admission::{Admission, DoorStatus, QueueStatus, TenantStatus};
pub use assigning::{AssignmentStatus, ModelReport};
pub use begin::{Begun, Traced, Turned, Waiting};
pub use clock::{Clock, SetClock};
pub use explain::{Considered, Cost, Explanation, Tokens};
pub use foreign::EngineLook;
pub use health::{HealthChange, HealthCounts, HealthSetting, HealthStatus, Observation, Probe};
pub use histogram::{Histogram, HistogramStatus};
pub use keyspace::{KeySpace, ModelSlices, MoveRecord, SliceView};
pub use log::{DecisionLog, Endpoints, Record};
pub use measures::{InTimeStatus, MeasuresStatus, PredictionStatus};
pub use memory::{Memory, Share};
pub use metering::Observer;
pub use objectives::{Objective, ObjectiveBook, Wanted, objective_ms};
pub use observing::{Observing, ObservingStatus};
pub use refusal::Refusal;
pub use session::Session;
pub use settings::{
    Claim, Placing, ReplicaSetting, ReplicaState, Settings, SettingsError, Unweighed,
    WorkloadSetting,
};
pub use span::{Span, SpanOutcome, TraceParent};
pub use status::{ForeignStatus, ReplicaStatus, Status, TenantUsage};
pub use tally::{Tallies, Tally, TenantTally};
pub use ticket::Ticket;
pub use usage_log::{UsageRecord, UsageSource};
pub use weighbridge_place::canonical_endpoint;
pub use weighed::Weighed;
pub use weighing::Weighing;
