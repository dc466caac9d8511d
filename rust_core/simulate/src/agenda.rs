//! What happens when: a queue of moments, the earliest first.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A moment in ms, ordered like the number it is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Moment(f64);

impl Eq for Moment {}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Moment {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Things to do, each at its time; those of one time in the order in which they were put in.
#[derive(Debug)]
pub(crate) struct Agenda<T> {
    queue: BinaryHeap<Reverse<(Moment, u64, Entry<T>)>>,
    count: u64,
}

/// Never compared: the count before it is unique.
#[derive(Debug)]
struct Entry<T>(T);

impl<T> PartialEq for Entry<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self {
            queue: BinaryHeap::new(),
            count: 0,
        }
    }
}

impl<T> Agenda<T> {
    /// Puts something in.
    pub(crate) fn put(&mut self, at_ms: f64, what: T) {
        self.count += 1;
        self.queue
            .push(Reverse((Moment(at_ms), self.count, Entry(what))));
    }

    /// The time of what comes next.
    pub(crate) fn next_ms(&self) -> Option<f64> {
        self.queue.peek().map(|Reverse((at, _, _))| at.0)
    }

    /// Takes out what comes next.
    pub(crate) fn take(&mut self) -> Option<(f64, T)> {
        let Reverse((at, _, what)) = self.queue.pop()?;
        Some((at.0, what.0))
    }
}

#[cfg(test)]
mod tests {
    use super::Agenda;

    #[test]
    fn the_earliest_comes_first_and_equals_in_their_order() {
        let mut agenda = Agenda::default();
        for (at, what) in [(2.0, 'c'), (1.0, 'a'), (2.0, 'd'), (1.0, 'b'), (-1.0, '0')] {
            agenda.put(at, what);
        }
        assert_eq!(agenda.next_ms(), Some(-1.0));
        let order: String = std::iter::from_fn(|| agenda.take())
            .map(|(_, what)| what)
            .collect();
        assert_eq!(order, "0abcd");
    }
}
