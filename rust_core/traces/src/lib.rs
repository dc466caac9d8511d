//! Traces of LLM traffic: loaded, generated, scaled, and materialised as request bodies.
//!
//! A [`Trace`] holds requests by time of arrival. Prompts are paths in a tree of messages, so that a
//! session's next turn extends the turn before it exactly, and messages are made of *contents*: equal
//! content gives equal words. A [`Replay`] is a trace at another rate; [`Replay::write_body`] makes
//! the bytes that a client would send, the same for the simulator and for live drivers.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod blocks;
mod body;
mod builder;
mod error;
mod format;
mod generate;
mod grow;
mod load;
mod replay;
mod save;
mod seed;
mod text;
mod timestamp;
mod trace;
mod workloads;

pub use body::{BodyOptions, ToldLength};
pub use builder::TraceBuilder;
pub use error::TraceError;
pub use format::Format;
pub use generate::{Agents, Bursts, Diurnal, Generator, Spread};
pub use load::{LoadOptions, load, read};
pub use replay::{Arrival, Replay, Scaling, Steady, Surge, Tenants};
pub use save::save;
pub use text::{TOKEN_BYTES, TextPool};
pub use trace::{Image, Kind, Message, MessageId, Piece, Request, Role, Trace};
pub use workloads::{generate, workload_names};
