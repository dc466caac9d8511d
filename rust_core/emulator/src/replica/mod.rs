//! What is shared about one replica: its name, its condition, its counts and records.

pub(crate) mod commands;
pub(crate) mod counters;
pub(crate) mod fault;
pub(crate) mod latencies;
pub(crate) mod progress;
pub(crate) mod records;
pub(crate) mod state;
pub(crate) mod store;
