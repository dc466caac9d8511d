//! Admits requests in model units: promises kept, the rest shared fairly, bounded queues with deadlines.
//!
//! A [`Gate`] stands before the replicas of one model. It is a plain state machine: requests and the
//! time (µs on any monotonic clock) go in, and what may run comes out. A [`Door`] puts one mutex
//! around a gate, wakes those who wait and gives back what a dropped request held.
//!
//! # The order under pressure
//! 1. While a replica would answer a request in time ([`Fit`]) it runs at once: nothing waits or is
//!    shed. What nobody was promised leaves room for promises: engines do not let a prompt pass an
//!    earlier one, so their queues must not be filled. The more wait here, the less may wait there.
//! 2. A tenant within its promise runs at once even then, unless promised work alone fills the
//!    capacity (then it is divided as it was promised). A promise is a bucket of `burst_mu` that
//!    `guaranteed_mu_per_min` refills; it counts as kept to while it is not empty, so one request may
//!    overdraw it and the next ones wait.
//! 3. The rest waits: by priority class, and within a class by start-time fair queueing in MU per
//!    weight. Each class below the one that is served earns `min_share` of the MU served and runs
//!    its next request as soon as that is covered, so no class starves.
//! 4. Where the queue is full, the lowest class loses its newest request, of the flow with most MU
//!    waiting for its weight; a class keeps `min_share` of the places whatever the others do (not
//!    `sheddable`, which has no place of its own).
//!
//! Estimates are charged when a request starts to run and trued up when it ends: what it cost more
//! or less moves the tenant's bucket, or its place in the fair order.

#![deny(clippy::indexing_slicing)]

mod accounts;
mod book;
mod bucket;
mod class;
mod demand;
mod door;
mod drain;
mod fit;
mod gate;
mod look;
mod outcome;
mod promises;
mod room;
mod running;
mod settings;
mod waiters;

pub use book::{Book, BookError, MOST_TENANTS, Priority, Terms};
pub use door::{Door, Entry, Pass, Turn, Woken};
pub use fit::{Fit, KeptFit};
pub use gate::Gate;
pub use outcome::{Event, Grant, Offer, Outcome, Shed, ShedReason, Standing};
pub use running::Capacity;
pub use settings::{Settings, SettingsError};
pub use waiters::WaitId;
