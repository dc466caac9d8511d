//! Room in the queue: who has to go when it is full.

use weighbridge_place::MicroMu;

use crate::book::Priority;
use crate::class::{Class, Virtual, normalised};
use crate::gate::Gate;
use crate::outcome::{Event, ShedReason};
use crate::promises::Standing;
use crate::waiters::{WaitId, Waiter};

/// Waiting requests that one newcomer may displace.
const MOST_DISPLACED: usize = 16;

/// What the queue may have no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// Places, which are one another's.
    Places,
    /// Time in which what waits is served.
    Time,
}

/// Whether what waits of `other` delays a request of `priority`. Nobody waits for `batch`, which may
/// therefore wait much longer, and is served after the others.
fn queues_with(priority: Priority, other: Priority) -> bool {
    (priority == Priority::Batch) == (other == Priority::Batch)
}

/// A request for which there may be no room.
#[derive(Clone, Copy, Debug)]
struct Newcomer {
    account: u32,
    priority: Priority,
    work: MicroMu,
    within_promise: bool,
}

/// What counts of a waiting request that may have to go.
#[derive(Clone, Copy, Debug)]
struct Victim {
    account: u32,
    priority: Priority,
    work: MicroMu,
}

impl Victim {
    fn of(waiter: &Waiter) -> Self {
        Self {
            account: waiter.account,
            priority: waiter.priority,
            work: waiter.work(),
        }
    }
}

/// Waiting requests that would have to go, and how the queue would be without them.
#[derive(Debug, Default)]
struct Gone {
    ids: Vec<WaitId>,
    /// Requests and MU, by class.
    classes: [(u32, MicroMu); Priority::ALL.len()],
    /// MU by account and class, and the last of its list that went.
    flows: Vec<(u32, Priority, MicroMu, WaitId)>,
}

impl Gone {
    fn class(&self, priority: Priority) -> (u32, MicroMu) {
        let sums = self.classes.get(priority.slot());
        sums.copied().unwrap_or_default()
    }

    fn flow(&self, account: u32, priority: Priority) -> Option<(MicroMu, WaitId)> {
        let mut flows = self.flows.iter();
        let found = flows.find(|flow| (flow.0, flow.1) == (account, priority));
        found.map(|flow| (flow.2, flow.3))
    }

    fn add(&mut self, id: WaitId, waiter: Victim) {
        self.ids.push(id);
        if let Some((count, work)) = self.classes.get_mut(waiter.priority.slot()) {
            *count += 1;
            *work += waiter.work;
        }
        let mut flows = self.flows.iter_mut();
        match flows.find(|flow| (flow.0, flow.1) == (waiter.account, waiter.priority)) {
            Some((_, _, work, last)) => {
                *work += waiter.work;
                *last = id;
            }
            None => {
                let flow = (waiter.account, waiter.priority, waiter.work, id);
                self.flows.push(flow);
            }
        }
    }
}

impl Gate {
    /// Displaces others where `work` of this account and class comes before them. False, and nobody
    /// has to go, where that would not make room for it.
    pub(crate) fn make_room(
        &mut self,
        account: u32,
        priority: Priority,
        work: MicroMu,
        within_promise: bool,
        events: &mut Vec<Event>,
    ) -> bool {
        let mut gone = Gone::default();
        let newcomer = Newcomer {
            account,
            priority,
            work,
            within_promise,
        };
        while let Some(lack) = self.lack(priority, &gone) {
            if gone.ids.len() == MOST_DISPLACED {
                return false;
            }
            let victim = self.victim(&newcomer, lack, &gone);
            let Some((id, waiter)) = victim else {
                return false;
            };
            gone.add(id, waiter);
        }
        for id in gone.ids {
            self.shed_waiting(id, ShedReason::Displaced, events);
        }
        true
    }

    /// What the queue has no more of for a request of this class.
    fn lack(&self, priority: Priority, gone: &Gone) -> Option<Lack> {
        let waiting = self.waiters.len().saturating_sub(gone.ids.len());
        if waiting >= self.settings.queue_requests as usize {
            return Some(Lack::Places);
        }
        let (mut before, mut work) = (0, MicroMu::ZERO);
        for (other, class) in Priority::ALL.into_iter().zip(&self.classes) {
            if queues_with(priority, other) {
                let (less, less_work) = gone.class(other);
                before += class.count.saturating_sub(less) as usize;
                work += class.work - less_work;
            }
        }
        (before >= self.full.places && work >= self.full.queue(priority)).then_some(Lack::Time)
    }

    /// The next that has to make room: of the lowest class that must, the newest of the account that
    /// has most waiting.
    fn victim(&self, newcomer: &Newcomer, lack: Lack, gone: &Gone) -> Option<(WaitId, Victim)> {
        let priority = newcomer.priority;
        let own = self.classes.get(priority.slot())?;
        let entitled = newcomer.within_promise || !self.exceeds_its_places(own, priority, 1, gone);
        let own_backlog = {
            let account = self.accounts.get(newcomer.account)?;
            let waiting = account.waiting_in(priority).work + newcomer.work;
            normalised(waiting, self.accounts.weight(account))
        };
        for (lower, class) in Priority::ALL.into_iter().zip(&self.classes).rev() {
            if lack == Lack::Time && !queues_with(priority, lower) {
                continue;
            }
            if class.count == gone.class(lower).0 || !self.exceeds_its_places(class, lower, 0, gone)
            {
                continue;
            }
            let yields = entitled || lower > priority;
            if !yields && lower < priority {
                return None;
            }
            let Some((backlog, account, waiter)) = self.longest(class, lower, gone) else {
                continue;
            };
            // Of its own class it displaces only an account that has more waiting for its weight.
            if yields || (account != newcomer.account && backlog > own_backlog) {
                return Some(waiter);
            }
        }
        None
    }

    /// The account of a class that has most waiting for its weight, and is not within its promise;
    /// how much that is, and the newest of it.
    fn longest(
        &self,
        class: &Class,
        priority: Priority,
        gone: &Gone,
    ) -> Option<(Virtual, u32, (WaitId, Victim))> {
        let mut longest: Option<(Virtual, u32, (WaitId, Victim))> = None;
        for (backlog, at) in class.longest() {
            // Without what is gone a backlog is only less.
            if longest.as_ref().is_some_and(|(most, ..)| *most >= backlog) {
                break;
            }
            let Some(account) = self.accounts.get(at) else {
                continue;
            };
            if matches!(account.promise, Standing::Ready(_)) {
                continue; // within its promise
            }
            let flow = gone.flow(at, priority);
            let newest = match flow {
                Some((_, last)) => self.waiters.before(last),
                None => self.waiters.last(&account.waiting_in(priority)),
            };
            let Some((id, waiter)) = newest else {
                continue;
            };
            let less = flow.map_or(MicroMu::ZERO, |(work, _)| work);
            let backlog = backlog - normalised(less, self.accounts.weight(account));
            if longest.as_ref().is_none_or(|(most, ..)| backlog > *most) {
                longest = Some((backlog, at, (id, Victim::of(waiter))));
            }
        }
        longest
    }

    /// Whether a class has more in the queue, with `more` requests, than is kept free for it.
    fn exceeds_its_places(
        &self,
        class: &Class,
        priority: Priority,
        more: u32,
        gone: &Gone,
    ) -> bool {
        if priority == Priority::Sheddable {
            return true;
        }
        let (count, work) = gone.class(priority);
        let share = self.settings.min_share;
        let places = f64::from(self.settings.queue_requests) * share;
        f64::from(class.count.saturating_sub(count) + more) > places
            || (class.work - work).as_mu() > self.full.queue(priority).as_mu() * share
    }
}
