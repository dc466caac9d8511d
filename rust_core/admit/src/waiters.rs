//! The requests that wait: a slab of them, linked into one list for each account and class.

use std::collections::BTreeSet;

use weighbridge_place::{Amount, MicroMu};

use crate::book::Priority;
use crate::fit::KeptFit;

/// No waiter.
const NIL: u32 = u32::MAX;

/// One waiting request; an id that has ended is never taken for a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitId {
    slot: u32,
    generation: u32,
}

/// What is known of a waiting request.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) account: u32,
    pub(crate) priority: Priority,
    pub(crate) cost: Amount,
    pub(crate) deadline_us: u64,
    pub(crate) fit: Option<Box<dyn KeptFit>>,
}

impl Waiter {
    pub(crate) fn work(&self) -> MicroMu {
        self.cost.prefill + self.cost.decode
    }
}

/// The ends of one list, and its sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    head: u32,
    tail: u32,
    pub(crate) count: u32,
    pub(crate) work: MicroMu,
}

impl Default for List {
    fn default() -> Self {
        Self {
            head: NIL,
            tail: NIL,
            count: 0,
            work: MicroMu::ZERO,
        }
    }
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    waiter: Option<Waiter>,
    before: u32,
    after: u32,
}

/// All waiting requests.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    slots: Vec<Slot>,
    free: Vec<u32>,
    due: BTreeSet<(u64, WaitId)>,
}

impl Waiters {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// Appends a waiter to a list.
    pub(crate) fn push(&mut self, list: &mut List, waiter: Waiter) -> WaitId {
        let deadline_us = waiter.deadline_us;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                waiter: None,
                before: NIL,
                after: NIL,
            });
            u32::try_from(self.slots.len() - 1).unwrap_or(NIL)
        });
        let before = list.tail;
        self.link(before, |slot| &mut slot.after, &mut list.head, slot);
        list.tail = slot;
        list.count += 1;
        list.work += waiter.work();
        let generation = self.at(slot).map_or(0, |place| {
            place.generation = place.generation.wrapping_add(1);
            place.waiter = Some(waiter);
            place.before = before;
            place.after = NIL;
            place.generation
        });
        let id = WaitId { slot, generation };
        self.due.insert((deadline_us, id));
        id
    }

    /// Takes a waiter out of the list that it is in.
    pub(crate) fn remove(&mut self, list: &mut List, id: WaitId) -> Option<Waiter> {
        let slot = self.at(id.slot)?;
        if slot.generation != id.generation {
            return None;
        }
        let waiter = slot.waiter.take()?;
        let (before, after) = (slot.before, slot.after);
        self.link(before, |slot| &mut slot.after, &mut list.head, after);
        self.link(after, |slot| &mut slot.before, &mut list.tail, before);
        list.count -= 1;
        list.work -= waiter.work();
        self.free.push(id.slot);
        self.due.remove(&(waiter.deadline_us, id));
        Some(waiter)
    }

    /// What waits under an id.
    pub(crate) fn get(&self, id: WaitId) -> Option<&Waiter> {
        let slot = self.slots.get(id.slot as usize)?;
        slot.waiter
            .as_ref()
            .filter(|_| slot.generation == id.generation)
    }

    /// The oldest of a list.
    pub(crate) fn first(&self, list: &List) -> Option<(WaitId, &Waiter)> {
        self.named(list.head)
    }

    /// The newest of a list.
    pub(crate) fn last(&self, list: &List) -> Option<(WaitId, &Waiter)> {
        self.named(list.tail)
    }

    /// All of a list, the oldest first.
    pub(crate) fn of(&self, list: List) -> impl Iterator<Item = (WaitId, &Waiter)> + use<'_> {
        let next = move |(id, _): &(WaitId, &Waiter)| {
            let slot = self.slots.get(id.slot as usize)?;
            self.named(slot.after)
        };
        std::iter::successors(self.first(&list), next)
    }

    /// The one that came before in the same list.
    pub(crate) fn before(&self, id: WaitId) -> Option<(WaitId, &Waiter)> {
        let slot = self.slots.get(id.slot as usize)?;
        self.named(slot.before)
    }

    /// The earliest deadline.
    pub(crate) fn next_due_us(&self) -> Option<u64> {
        self.due.first().map(|(deadline, _)| *deadline)
    }

    /// A waiter whose deadline has come.
    pub(crate) fn overdue(&self, now_us: u64) -> Option<WaitId> {
        self.due
            .first()
            .filter(|(deadline, _)| *deadline <= now_us)
            .map(|(_, id)| *id)
    }

    fn named(&self, slot: u32) -> Option<(WaitId, &Waiter)> {
        let place = self.slots.get(slot as usize)?;
        let generation = place.generation;
        Some((WaitId { slot, generation }, place.waiter.as_ref()?))
    }

    fn at(&mut self, slot: u32) -> Option<&mut Slot> {
        self.slots.get_mut(slot as usize)
    }

    /// Lets the neighbour `at` (or, where there is none, the list's end) point to `target`.
    fn link(&mut self, at: u32, pointer: fn(&mut Slot) -> &mut u32, end: &mut u32, target: u32) {
        match self.at(at) {
            Some(slot) => *pointer(slot) = target,
            None => *end = target,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(mu: f64) -> Waiter {
        Waiter {
            account: 0,
            priority: Priority::Standard,
            cost: Amount {
                prefill: MicroMu::from_mu(mu),
                ..Amount::default()
            },
            deadline_us: 10,
            fit: None,
        }
    }

    #[test]
    fn any_of_a_list_may_leave_it() {
        let (mut waiters, mut list) = (Waiters::default(), List::default());
        let ids: Vec<WaitId> = (0..4)
            .map(|at| waiters.push(&mut list, waiter(f64::from(at))))
            .collect();
        waiters.remove(&mut list, ids[1]).unwrap();
        assert!(waiters.remove(&mut list, ids[1]).is_none());
        waiters.remove(&mut list, ids[3]).unwrap();
        assert_eq!(waiters.first(&list).unwrap().0, ids[0]);
        assert_eq!(waiters.last(&list).unwrap().0, ids[2]);
        waiters.remove(&mut list, ids[0]).unwrap();
        assert_eq!(waiters.first(&list).unwrap().0, ids[2]);
        assert_eq!((list.count, list.work.as_mu()), (1, 2.0));
        waiters.remove(&mut list, ids[2]).unwrap();
        assert!(waiters.first(&list).is_none() && waiters.last(&list).is_none());
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn an_id_that_ended_is_not_taken_for_a_later_one() {
        let (mut waiters, mut list) = (Waiters::default(), List::default());
        let old = waiters.push(&mut list, waiter(1.0));
        waiters.remove(&mut list, old).unwrap();
        let new = waiters.push(&mut list, waiter(2.0));
        assert!(waiters.get(old).is_none());
        assert!(waiters.remove(&mut list, old).is_none());
        assert!(waiters.get(new).is_some());
    }
}
