//! The published assignment: requests look it up without waiting; who replaces it frees the old one.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use crate::slices::Assignment;

/// The present [`Assignment`], and the one before it, kept so that it is freed at the next change
/// and not by the last request that looked at it: 100,000 slices take a millisecond to free.
#[derive(Debug, Default)]
pub struct Published {
    current: ArcSwap<Assignment>,
    retired: Mutex<Option<Arc<Assignment>>>,
}

impl Published {
    /// The assignment for the length of a request's decision. Never waits.
    pub fn load(&self) -> Guard<Arc<Assignment>> {
        self.current.load()
    }

    /// The assignment, to keep.
    #[must_use]
    pub fn load_full(&self) -> Arc<Assignment> {
        self.current.load_full()
    }

    /// Publishes the next one.
    pub fn replace(&self, next: Assignment) {
        let before = self.current.swap(Arc::new(next));
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let freed = retired.replace(before);
        drop(retired);
        drop(freed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_request_that_looks_on_is_not_the_one_who_frees() {
        let published = Published::default();
        published.replace(Assignment::new(1, HashMap::new()));
        let looking = published.load_full();
        let watched = Arc::downgrade(&looking);
        published.replace(Assignment::new(2, HashMap::new()));
        drop(looking);
        assert!(watched.upgrade().is_some(), "the last look freed it");
        published.replace(Assignment::new(3, HashMap::new()));
        assert!(watched.upgrade().is_none(), "it is kept for ever");
        assert_eq!(published.load().number, 3);
    }
}
