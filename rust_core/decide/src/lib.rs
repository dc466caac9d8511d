//! One decision from weighing to placing, and its settlement when the request ends.

#![deny(clippy::indexing_slicing)]

mod assigning;
mod core;
mod explain;
mod log;
mod models;
mod refusal;
mod session;
mod settings;
mod status;
mod tally;
mod ticket;
mod weighing;

pub use crate::core::{Core, Incoming, Weighed};
pub use assigning::{AssignmentStatus, ModelReport};
pub use explain::{Considered, Cost, Explanation, Tokens};
pub use log::{DecisionLog, Record};
pub use refusal::Refusal;
pub use session::Session;
pub use settings::{
    Placing, ReplicaSetting, ReplicaState, Settings, SettingsError, WorkloadSetting,
};
pub use status::{ReplicaStatus, Status};
pub use tally::{Tallies, Tally};
pub use ticket::Ticket;
pub use weighing::Weighing;
