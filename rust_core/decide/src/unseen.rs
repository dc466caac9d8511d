//! Prompts whose end nobody sees. The first byte of an answer that is not streamed comes with its last;
//! the headers of one that is streamed come at once, and nothing may observe the rest.
//!
//! Such a prompt counts as computed after twice the time to its first token that was forecast. Did it
//! count until the whole answer is there, replicas that decode long answers would seem to have no
//! room for prompts; did it end with the headers, replicas would never seem to have any to compute.
//! The forecast alone would be too soon: an engine that is slower would be sent ever more.

use crate::life::Life;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Times the forecast after which a prompt counts as computed: engines are seldom half as fast as their
/// profile, and where answers are short their end is seen before.
const TIMES: f64 = 2.0;

/// No prompt is due.
const NEVER: u64 = u64::MAX;

/// The requests whose prompts are being computed unseen.
#[derive(Debug)]
pub(crate) struct Unseen {
    /// By when the first token is due, µs, and the decision's number.
    due: Mutex<BTreeMap<(u64, u64), Weak<Life>>>,
    /// When the first of them is due, µs.
    next_us: AtomicU64,
}

impl Default for Unseen {
    fn default() -> Self {
        Self {
            due: Mutex::default(),
            next_us: AtomicU64::new(NEVER),
        }
    }
}

impl Unseen {
    /// The first token of this request should be there `first_ms` after `now_us`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(crate) fn expect(&self, life: &Arc<Life>, now_us: u64, first_ms: f64) {
        let due_us = now_us.saturating_add((TIMES * first_ms.max(0.0) * 1e3) as u64);
        life.lock().is_foretold = true;
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.insert((due_us, life.facts.number), Arc::downgrade(life));
        self.next_us.fetch_min(due_us, Relaxed);
    }

    /// Lets time pass up to `now_us`.
    pub(crate) fn advance(&self, now_us: u64) {
        if self.next_us.load(Relaxed) > now_us {
            return;
        }
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let later = due.split_off(&(now_us.saturating_add(1), 0));
        let computed = std::mem::replace(&mut *due, later);
        let next = due.first_key_value().map_or(NEVER, |((next, _), _)| *next);
        self.next_us.store(next, Relaxed);
        drop(due);
        for life in computed.values().filter_map(Weak::upgrade) {
            drop(life.foretold(now_us));
        }
    }

    /// When [`Unseen::advance`] has something to do next, µs.
    pub(crate) fn next_us(&self) -> Option<u64> {
        let next = self.next_us.load(Relaxed);
        (next != NEVER).then_some(next)
    }
}
