//! The live core before modelled engines, under a virtual clock.
//!
//! A [`Simulation`] replays a trace against a cluster of engines; a policy chooses the replica of
//! every request. Policies see what they would see in life: `weighbridge` is the live core and reads
//! the very bytes that a client would send; peers see requests in flight, hashes of the prompt, or
//! metrics as old as their last scrape; the `oracle` sees everything, and is never worse than any
//! other: where one did better than its own placements, it takes that one's. Nothing reads a clock, and all
//! that is random comes from a seed: equal settings give equal results, to the byte.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod agenda;
#[cfg(test)]
mod behaviour;
mod bounds;
mod curve;
mod error;
mod event;
mod goodput;
mod lru;
mod measure;
mod policy;
mod progress;
mod replica;
mod report;
mod scenario;
mod sequence;
mod simulation;
mod workload;
mod world;

pub use error::SimulateError;
pub use event::{Event, Target, What};
pub use goodput::{Found, Search, search};
pub use policy::policy_names;
pub use progress::Progress;
pub use report::{Detail, Minute, Outcome, Row};
pub use scenario::{EngineChoice, Group, Scenario, Slo};
pub use simulation::{Run, Simulation};
pub use weighbridge_engine::profile_names as engine_names;
