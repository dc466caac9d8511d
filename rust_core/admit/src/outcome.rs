//! What a gate is asked and what it answers.

use weighbridge_place::{Amount, Claim, MicroMu};

use crate::book::Priority;
use crate::fit::Fit;
use crate::waiters::WaitId;

/// A weighed request that wants to run.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Its tenant; empty where none is named.
    pub tenant: &'a str,
    /// The class it asks for; its tenant's where that is lower or it asks for none.
    pub priority: Option<Priority>,
    /// What it is expected to take. Negative parts count as nothing.
    pub cost: Amount,
    /// When waiting is of no more use, µs on the gate's clock.
    pub deadline_us: u64,
    /// Whether a replica would answer it in time; none: what is in flight alone decides.
    pub fit: Option<&'a dyn Fit>,
}

/// The answer to an [`Offer`].
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It runs now.
    Run(Grant),
    /// It waits; an [`Event`] tells how that ends.
    Wait(WaitId),
    /// It is refused.
    Shed(Shed),
}

/// A running request's hold on the gate; to be given back with [`crate::Gate::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is not released counts as in flight for ever"]
pub struct Grant {
    pub(crate) account: u32,
    pub(crate) priority: Priority,
    pub(crate) promised: bool,
    /// What the tenant was charged.
    pub(crate) charged: MicroMu,
    /// What still counts as in flight.
    pub(crate) held: Amount,
    /// Nothing of it is in flight any more.
    pub(crate) over: bool,
    /// What is charged for it until it is placed, where it waited.
    pub(crate) claim: Option<Claim>,
}

impl Grant {
    /// MU charged to the tenant so far.
    #[must_use]
    pub fn charged(&self) -> MicroMu {
        self.charged
    }

    /// Whether it ran on its tenant's promise.
    #[must_use]
    pub fn is_promised(&self) -> bool {
        self.promised
    }

    /// The class it ran in.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.priority
    }
}

/// How waiting ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// It runs now.
    Run(WaitId, Grant),
    /// It is refused after all.
    Shed(WaitId, Shed),
}

/// A request refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shed {
    /// Why.
    pub reason: ShedReason,
    /// When it is likely to be taken, ms from now; 0 where that is never.
    pub retry_after_ms: u64,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShedReason {
    /// The queue is full of what comes before it.
    QueueFull,
    /// Its tenant has as many waiting as it may.
    TenantQueueFull,
    /// It had to make room for a request that comes before it.
    Displaced,
    /// Its deadline came while it waited.
    Deadline,
    /// It is larger than its tenant may ask for.
    TooLarge,
    /// No replica takes anything new.
    NoReplica,
    /// It ran, and was ended for a guarantee that would have been late.
    Preempted,
}

impl ShedReason {
    /// Its name in metrics and errors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TenantQueueFull => "tenant_queue_full",
            Self::Displaced => "displaced",
            Self::Deadline => "queue_deadline",
            Self::TooLarge => "request_too_large",
            Self::NoReplica => "no_replica",
            Self::Preempted => "preempted",
        }
    }
}

/// Where a tenant stands: what the `x-ratelimit-*` headers tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Standing {
    /// MU a minute: promised, or, where nothing is, what all replicas serve.
    pub limit_mu_per_min: f64,
    /// MU that it may take now without waiting.
    pub remaining_mu: f64,
    /// When all of that is there again, ms.
    pub reset_ms: u64,
    /// Requests of it in flight.
    pub running: u32,
    /// Requests of it that wait.
    pub waiting: u32,
    /// MU charged to it since it was first seen, trued up.
    pub billed: MicroMu,
    /// Requests that ran.
    pub started: u64,
    /// Requests that had to wait.
    pub waited: u64,
    /// Requests refused.
    pub shed: u64,
}
