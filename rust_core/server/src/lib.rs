//! The native transport: a tonic ext_proc server that drives the state machine on its own threads.

#![deny(clippy::indexing_slicing)]

mod clock;
mod codec;
mod ext_proc;
mod listen;
mod server;
mod socket;

pub use clock::keep_time;
pub use ext_proc::{Constant, Machine, Process};
pub use listen::ListenError;
pub use server::{Options, Server};
