//! Emulated replicas: trtllm-serve's HTTP interface in front of the engine model.
//!
//! One process carries dozens of replicas. Each listens on its own port and has
//! its own engine; one thread drives all engines, waking at the end of each
//! iteration, and a small runtime serves the connections.
#![deny(clippy::indexing_slicing)]

mod config;
mod emulator;
mod engines;
mod error;
mod interface;
mod replica;
mod server;
mod text;

pub use config::{EmulatorConfig, ProfileChoice};
pub use emulator::Emulator;
pub use error::Error;
pub use replica::counters::ReplicaCounters;
pub use replica::fault::{Fault, HangScope};
pub use text::tokenizer::tokenize;
