//! What is shared about one replica: its name, its condition, its counts and records.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};
use weighbridge_engine::EngineProfile;

use crate::replica::commands::{Driver, Order};
use crate::replica::counters::ReplicaCounters;
use crate::replica::fault::Health;
use crate::replica::latencies::Latencies;
use crate::replica::records::{EventRecord, IterationRecord, RequestRecord, Ring};
use crate::replica::store::Store;

/// One emulated replica, as everyone but the driver sees it.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) index: usize,
    pub(crate) address: SocketAddr,
    pub(crate) model: String,
    pub(crate) profile: EngineProfile,
    pub(crate) health: Health,
    pub(crate) driver: Driver,
    /// Takes the listener down and up.
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    /// Rung when `books` may have something for a route that waits.
    pub(crate) news: Notify,
    books: Mutex<Books>,
    /// Answers that later requests may go on from.
    responses: Mutex<Store>,
    /// Seconds from this server's clock to that of a disaggregated server, as bits.
    clock_offset: AtomicU64,
    refused: AtomicU64,
    control_requests: AtomicU64,
}

/// What the driver writes down and the statistics routes hand out.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) counters: ReplicaCounters,
    pub(crate) iterations: Ring<IterationRecord>,
    pub(crate) last_iteration: Option<IterationRecord>,
    pub(crate) requests: Ring<RequestRecord>,
    pub(crate) events: Ring<EventRecord>,
    pub(crate) latencies: Latencies,
}

/// How much a replica keeps for its statistics routes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) iterations: usize,
    pub(crate) requests: usize,
    pub(crate) events: usize,
}

impl Books {
    pub(crate) fn new(keep: Keep, kv_blocks: u32) -> Self {
        Self {
            counters: ReplicaCounters {
                kv_max_blocks: kv_blocks,
                ..ReplicaCounters::default()
            },
            iterations: Ring::new(keep.iterations),
            last_iteration: None,
            requests: Ring::new(keep.requests),
            events: Ring::new(keep.events),
            latencies: Latencies::default(),
        }
    }
}

/// What a replica is made of.
pub(crate) struct Parts {
    pub(crate) index: usize,
    pub(crate) address: SocketAddr,
    pub(crate) model: String,
    pub(crate) profile: EngineProfile,
    pub(crate) health: Health,
    pub(crate) driver: Driver,
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    pub(crate) keep: Keep,
}

impl Replica {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            responses: Mutex::default(),
            clock_offset: AtomicU64::new(0.0_f64.to_bits()),
            books: Mutex::new(Books::new(parts.keep, parts.profile.kv_blocks)),
            index: parts.index,
            address: parts.address,
            model: parts.model,
            profile: parts.profile,
            health: parts.health,
            driver: parts.driver,
            orders: parts.orders,
            news: Notify::new(),
            refused: AtomicU64::new(0),
            control_requests: AtomicU64::new(0),
        }
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn responses(&self) -> MutexGuard<'_, Store> {
        self.responses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn clock_offset(&self) -> f64 {
        f64::from_bits(self.clock_offset.load(Ordering::Relaxed))
    }

    pub(crate) fn set_clock_offset(&self, seconds: f64) {
        self.clock_offset
            .store(seconds.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_control_request(&self) {
        self.control_requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counters(&self) -> ReplicaCounters {
        ReplicaCounters {
            refused: self.refused.load(Ordering::Relaxed),
            control_requests: self.control_requests.load(Ordering::Relaxed),
            ..self.books().counters
        }
    }
}
