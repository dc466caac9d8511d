//! What a gate asks of the replicas: whether one would answer a request in time.

use std::fmt::Debug;

use weighbridge_place::Claim;

/// Whether a replica would answer a request in time, where its wait there may take a share of the time to
/// its first token that is in time.
pub trait Fit: Debug {
    /// Whether one would now.
    fn fits(&self, share: f64) -> bool;

    /// What is asked while the request waits.
    fn keep(&self) -> Box<dyn KeptFit>;
}

/// A [`Fit`] of a request that waits.
pub trait KeptFit: Debug + Send {
    /// Charges a replica that would answer it in time now, until it is placed.
    fn claim(&self, share: f64) -> Option<Claim>;
}
