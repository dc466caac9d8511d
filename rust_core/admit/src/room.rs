//! Room in the queue: who has to go when it is full.

use weighbridge_place::MicroMu;

use crate::book::Priority;
use crate::class::{Class, normalised};
use crate::gate::Gate;
use crate::outcome::{Event, ShedReason};
use crate::promises::Standing;
use crate::waiters::WaitId;

/// Waiting requests that one newcomer may displace.
const MOST_DISPLACED: usize = 16;

impl Gate {
    /// Displaces others as far as `work` of this account and class comes before them. False when
    /// there is no room for it.
    pub(crate) fn make_room(
        &mut self,
        account: u32,
        priority: Priority,
        work: MicroMu,
        within_promise: bool,
        events: &mut Vec<Event>,
    ) -> bool {
        for _ in 0..MOST_DISPLACED {
            if !self.is_queue_full() {
                return true;
            }
            let Some(victim) = self.victim(account, priority, work, within_promise) else {
                return false;
            };
            self.shed_waiting(victim, ShedReason::Displaced, events);
        }
        !self.is_queue_full()
    }

    fn is_queue_full(&self) -> bool {
        let work: MicroMu = self.classes.iter().map(|class| class.work).sum();
        let waiting = self.waiters.len();
        waiting >= self.settings.queue_requests as usize
            || (waiting >= self.full.places && work >= self.full.queue)
    }

    /// Who has to make room: of the lowest class that must, the newest of who has most waiting.
    fn victim(
        &mut self,
        newcomer: u32,
        priority: Priority,
        work: MicroMu,
        within_promise: bool,
    ) -> Option<WaitId> {
        let own = self.classes.get(priority.slot())?;
        let entitled = within_promise || !self.exceeds_its_places(own, priority, 1);
        let weight = self
            .accounts
            .get(newcomer)
            .map_or(1.0, |account| self.accounts.weight(account));
        let waiting = self.accounts.get_mut(newcomer)?.flow(priority).list.work;
        let own_backlog = normalised(waiting + work, weight);
        for (lower, class) in Priority::ALL.into_iter().zip(&self.classes).rev() {
            if class.is_empty() || !self.exceeds_its_places(class, lower, 0) {
                continue;
            }
            let yields = entitled || lower > priority;
            if !yields && lower < priority {
                return None;
            }
            for (backlog, account) in class.longest() {
                // Of its own class it displaces only who has more waiting for its weight.
                if !yields && (account == newcomer || backlog <= own_backlog) {
                    break;
                }
                let Some(holder) = self.accounts.get_mut(account) else {
                    continue;
                };
                if matches!(holder.promise, Standing::Ready(_)) {
                    continue; // within its promise
                }
                let list = holder.flow(lower).list;
                return self.waiters.last(&list).map(|(id, _)| id);
            }
        }
        None
    }

    /// Whether a class has more in the queue, with `more` requests, than is kept free for it.
    fn exceeds_its_places(&self, class: &Class, priority: Priority, more: u32) -> bool {
        if priority == Priority::Sheddable {
            return true;
        }
        let share = self.settings.min_share;
        let places = f64::from(self.settings.queue_requests) * share;
        f64::from(class.count + more) > places
            || class.work.as_mu() > self.full.queue.as_mu() * share
    }
}
