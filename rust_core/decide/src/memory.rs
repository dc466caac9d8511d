//! Bytes of bodies that are held at once, of all requests together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What may be held, and what is.
#[derive(Debug)]
pub struct Memory {
    most: usize,
    held: AtomicUsize,
}

impl Memory {
    /// Room for `most` bytes.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            held: AtomicUsize::new(0),
        })
    }

    /// Bytes held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// A share of it that holds nothing yet.
    #[must_use]
    pub fn share(self: &Arc<Self>) -> Share {
        Share {
            memory: Arc::clone(self),
            bytes: AtomicUsize::new(0),
        }
    }

    fn take(&self, bytes: usize) -> bool {
        let before = self.held.fetch_add(bytes, Relaxed);
        let fits = before
            .checked_add(bytes)
            .is_some_and(|after| after <= self.most);
        if !fits {
            self.held.fetch_sub(bytes, Relaxed);
        }
        fits
    }
}

/// What one holder has of the [`Memory`]; dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    memory: Arc<Memory>,
    bytes: AtomicUsize,
}

impl Share {
    /// Takes `bytes` more. False, and nothing taken, where there is no room for them.
    #[must_use]
    pub fn add(&self, bytes: usize) -> bool {
        let fits = self.memory.take(bytes);
        if fits {
            self.bytes.fetch_add(bytes, Relaxed);
        }
        fits
    }

    /// Bytes that it has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Gives everything back.
    pub fn clear(&self) {
        let bytes = self.bytes.swap(0, Relaxed);
        self.memory.held.fetch_sub(bytes, Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}
