//! The native transport: a tonic ext_proc server that drives the state machine on its own threads.

#![deny(clippy::indexing_slicing)]

mod clock;
mod codec;
mod ext_proc;
mod listen;
mod messages;
mod reflection;
mod server;
mod socket;
mod tls;

pub use clock::keep_time;
pub use ext_proc::{Constant, Machine, Process};
pub use listen::ListenError;
pub use reflection::EXT_PROC_DESCRIPTORS;
pub use server::{Options, Server};
pub use tls::{TlsError, TlsFiles};
