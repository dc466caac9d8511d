//! Emulated replicas: trtllm-serve's HTTP interface in front of the engine model.
//!
//! One process carries dozens of replicas. Each listens on its own port and has
//! its own engine; one thread drives all engines, waking at the end of each
//! iteration, and a small runtime serves the connections.
#![deny(clippy::indexing_slicing)]

mod config;
mod connection;
mod control;
mod counters;
mod driver;
mod embeddings;
mod emulator;
mod error;
mod fault;
mod generate;
mod hints;
mod lane;
mod openai;
mod picture;
mod progress;
mod records;
mod render;
mod replica;
mod reply;
mod respond;
mod responses;
mod responses_stream;
mod routes;
mod sequence;
mod store;
mod stream;
mod tokenizer;

pub use config::{EmulatorConfig, ProfileChoice};
pub use counters::ReplicaCounters;
pub use emulator::Emulator;
pub use error::Error;
pub use fault::{Fault, HangScope};
pub use tokenizer::tokenize;
