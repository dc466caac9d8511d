//! One decision from weighing to placing, and its settlement when the request ends.

#![deny(clippy::indexing_slicing)]

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
pub use explain::{Considered, Cost, Explanation, Tokens};
pub use log::{DecisionLog, Record};
pub use refusal::Refusal;
pub use session::Session;
pub use settings::{Placing, ReplicaSetting, ReplicaState, Settings, SettingsError};
pub use status::{ReplicaStatus, Status};
pub use tally::{Tallies, Tally};
pub use ticket::Ticket;
pub use weighing::Weighing;
