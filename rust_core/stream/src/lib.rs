//! The per-request state machine: ext_proc messages in, replies out, no I/O.
//!
//! One [`Stream`] lives as long as one HTTP request (Envoy keeps the gRPC stream open until the
//! last response byte), so what was charged at the decision is released when it is dropped.

#![deny(clippy::indexing_slicing)]

mod explain;
mod gather;
mod head;
mod machine;
mod observe;
mod placed;
mod reply;
pub mod wire;

pub use explain::explain;
pub use machine::{LONGEST_HEAVY_WAIT_MS, Limits, Stream};
pub use reply::{Repeats, choice};
