//! Records on their way out of the core: a bounded queue to whoever takes them.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Records that were not taken yet.
#[derive(Debug)]
pub(crate) struct Outbox<T> {
    most: usize,
    records: Mutex<Pending<T>>,
}

#[derive(Debug)]
struct Pending<T> {
    records: VecDeque<T>,
    dropped: u64,
}

impl<T> Outbox<T> {
    /// Keeps at most so many; 0 keeps none.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            records: Mutex::new(Pending {
                records: VecDeque::new(),
                dropped: 0,
            }),
        }
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.most > 0
    }

    pub(crate) fn push(&self, record: T) {
        let mut pending = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.records.len() >= self.most {
            // Nobody takes them: the oldest are lost, and counted.
            pending.records.pop_front();
            pending.dropped += 1;
        }
        pending.records.push_back(record);
    }

    /// Takes up to so many, oldest first.
    pub(crate) fn take(&self, most: usize) -> Vec<T> {
        let mut pending = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let count = most.min(pending.records.len());
        pending.records.drain(..count).collect()
    }

    /// Records lost because nobody took them.
    pub(crate) fn dropped(&self) -> u64 {
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .dropped
    }
}
