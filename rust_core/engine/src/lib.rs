//! A model of one TensorRT-LLM engine under a clock that its caller owns.
//!
//! The engine schedules iteration by iteration, as the real one does: every
//! iteration mixes context chunks with one token for each running request,
//! within a token budget, a batch limit and the blocks of the KV cache. It does
//! no I/O, reads no clock and starts no thread: [`Engine::step`] is told when an
//! iteration starts and answers when it ends and what it produced. A live server
//! waits for that moment; a simulator jumps to it.
#![deny(clippy::indexing_slicing)]

mod cache;
mod cost;
mod engine;
#[cfg(test)]
mod histories;
mod index;
mod list;
mod noise;
#[cfg(test)]
mod order;
mod outlook;
mod pool;
mod profile;
mod quiet;
mod request;
mod schedule;
mod silicon;
mod spread;
mod step;

pub use cache::{CacheEvent, KvStats};
pub use engine::{Engine, Load};
pub use outlook::Expected;
pub use profile::{CapacityPolicy, EngineProfile, ProfileError};
pub use request::{Accepted, RequestSpec, SubmitError};
pub use silicon::{named_profile, profile_names};
pub use step::{Finished, Started, Step};
