//! Learns from replies: their usage, how long answers get, which estimates are off, which replicas ail.
//!
//! - [`usage`]: reads a reply as it passes, in any pieces.
//! - [`predict`]: how many tokens an answer will have.
//! - [`Panel`] and [`CacheTrust`]: how far estimates are off, whatever one replica claims.
//! - [`health`]: which replicas may be given how much.
//!
//! Nothing here reads a clock or starts a thread; times are µs on the caller's clock.

#![deny(clippy::indexing_slicing)]

mod cache_trust;
pub mod health;
mod panel;
pub mod predict;
mod speed;
pub mod usage;

pub use cache_trust::{CacheTrust, CacheVerdict};
pub use panel::Panel;
pub use speed::{Flight, Owed, SpeedMeter};
