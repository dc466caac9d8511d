//! The gate before the replicas of one model: who runs, who waits, who is refused.

use weighbridge_place::{Amount, Claim, MicroMu};

use crate::accounts::Accounts;
use crate::book::{Book, Priority};
use crate::class::{Class, normalised};
use crate::demand::Demand;
use crate::drain::Drain;
use crate::fit::Fit;
use crate::outcome::{Event, Grant, Offer, Outcome, Shed, ShedReason};
use crate::promises::{Promises, draw};
use crate::running::{Capacity, Full, Running};
use crate::settings::Settings;
use crate::waiters::{WaitId, Waiter, Waiters};

/// Admission to one model's replicas; see the crate's head for the order it keeps.
///
/// Every call takes the time; a clock that steps back stands still here. Waits that end in a call
/// are appended to its `events`.
#[derive(Debug)]
pub struct Gate {
    pub(crate) settings: Settings,
    pub(crate) capacity: Capacity,
    pub(crate) full: Full,
    pub(crate) accounts: Accounts,
    pub(crate) waiters: Waiters,
    pub(crate) classes: [Class; Priority::ALL.len()],
    pub(crate) running: Running,
    pub(crate) promised: Running,
    promises: Promises,
    pub(crate) drain: Drain,
    pub(crate) now_us: u64,
    pub(crate) demand: Demand,
}

/// How often requests that wait are held against the replicas again, if nothing else happens, µs.
const AGAIN_US: u64 = 10_000;

/// Part of a wait at the replicas that is left where the queue here is full.
const FULL_SHARE: f64 = 0.4;

/// Waiting requests that are held against the replicas at once, in the order of their turns…
const MOST_LOOKED_AT: usize = 16;
/// …and of one account and class.
const MOST_OF_ONE: usize = 8;

impl Gate {
    /// A gate with nothing in flight. Settings out of range act as their nearest limit would.
    #[must_use]
    pub fn new(settings: Settings, book: Book, capacity: Capacity) -> Self {
        let mut gate = Self {
            full: Full::default(),
            accounts: Accounts::new(book, settings.unknown_tenants),
            waiters: Waiters::default(),
            classes: std::array::from_fn(|_| Class::default()),
            running: Running::default(),
            promised: Running::default(),
            promises: Promises::default(),
            drain: Drain::default(),
            now_us: 0,
            demand: Demand::default(),
            capacity,
            settings,
        };
        gate.measure();
        gate
    }

    /// Asks for a request to run.
    pub fn offer(&mut self, offer: &Offer<'_>, now_us: u64, events: &mut Vec<Event>) -> Outcome {
        self.settle(now_us, events);
        let at = self.accounts.open(offer.tenant, &self.classes);
        let cost = Amount {
            prefill: offer.cost.prefill.max(MicroMu::ZERO),
            decode: offer.cost.decode.max(MicroMu::ZERO),
            ..offer.cost
        };
        let work = cost.prefill + cost.decode;
        let Some(account) = self.accounts.get(at) else {
            return Outcome::Shed(never(ShedReason::TooLarge));
        };
        let terms = &account.terms;
        if terms.max_request_mu.is_some_and(|most| work.as_mu() > most) {
            return Outcome::Shed(self.count_shed(at, never(ShedReason::TooLarge)));
        }
        self.demand.asked(work, self.now_us);
        let priority = offer
            .priority
            .map_or(terms.priority, |asked| asked.max(terms.priority));
        let within_promise = account.bucket.is_ready(self.now_us);
        if within_promise && self.full.has_room(&self.promised) {
            return Outcome::Run(self.start(at, priority, cost, true));
        }
        let share = self.first_token_share();
        if self.is_open() && offer.fit.is_none_or(|fit| fit.fits(share)) {
            return Outcome::Run(self.start(at, priority, cost, false));
        }
        let shed = |reason| Shed {
            reason,
            retry_after_ms: self.retry_after_ms(at, priority),
        };
        if terms.max_queued.is_some_and(|most| account.waiting >= most) {
            let shed = shed(ShedReason::TenantQueueFull);
            return Outcome::Shed(self.count_shed(at, shed));
        }
        let longest = self.now_us.saturating_add(self.settings.max_wait_ms * 1000);
        let deadline_us = offer.deadline_us.min(longest);
        if deadline_us <= self.now_us {
            let shed = shed(ShedReason::Deadline);
            return Outcome::Shed(self.count_shed(at, shed));
        }
        if !self.make_room(at, priority, work, within_promise, events) {
            let shed = Shed {
                reason: ShedReason::QueueFull,
                retry_after_ms: self.retry_after_ms(at, priority),
            };
            return Outcome::Shed(self.count_shed(at, shed));
        }
        Outcome::Wait(self.enqueue(Waiter {
            account: at,
            priority,
            cost,
            deadline_us,
            fit: offer.fit.map(Fit::keep),
        }))
    }

    /// A request is over, but what it took is not known yet: nothing of it is in flight any more.
    /// [`Gate::release`] follows.
    pub fn over(&mut self, grant: &mut Grant, now_us: u64, events: &mut Vec<Event>) {
        self.pass_time(now_us, events);
        self.take_off(grant);
        self.dispatch(events);
    }

    /// Ends a request that took `actual` MU: what was charged is trued up.
    pub fn release(
        &mut self,
        mut grant: Grant,
        actual: MicroMu,
        now_us: u64,
        events: &mut Vec<Event>,
    ) {
        self.pass_time(now_us, events);
        self.take_off(&mut grant);
        self.true_up(&grant, actual);
        self.accounts.count(grant.account, -1, 0);
        if self.waiters.len() > 0 {
            self.drain.drained(actual.as_mu());
            self.dispatch(events);
        }
    }

    /// A request's prefill is done: it no longer counts as in flight, its decode does.
    pub fn prefill_done(&mut self, grant: &mut Grant, now_us: u64, events: &mut Vec<Event>) {
        let prefill = std::mem::take(&mut grant.held.prefill);
        self.work_done(grant, prefill, MicroMu::ZERO, now_us, events);
    }

    /// A running request turns out to be larger than it was offered: it counts as `cost` in flight, its
    /// prefill as before, and its tenant is charged at least the `taken` MU that it has had by now.
    pub fn grow(
        &mut self,
        grant: &mut Grant,
        cost: Amount,
        taken: MicroMu,
        now_us: u64,
        events: &mut Vec<Event>,
    ) {
        self.pass_time(now_us, events);
        if grant.over {
            return;
        }
        let held = self.full.counted(cost);
        let held = Amount {
            prefill: grant.held.prefill,
            decode: held.decode.max(grant.held.decode),
            kv_tokens: held.kv_tokens.max(grant.held.kv_tokens),
            ..held
        };
        self.running.take(&grant.held);
        self.running.add(&held);
        if grant.promised {
            self.promised.take(&grant.held);
            self.promised.add(&held);
        }
        grant.held = held;
        if taken > grant.charged {
            self.true_up(grant, taken);
            grant.charged = taken;
        }
    }

    /// A part of a request's decode is done and no longer counts as in flight.
    pub fn decode_done(
        &mut self,
        grant: &mut Grant,
        work: MicroMu,
        now_us: u64,
        events: &mut Vec<Event>,
    ) {
        let work = work.max(MicroMu::ZERO).min(grant.held.decode);
        grant.held.decode -= work;
        self.work_done(grant, MicroMu::ZERO, work, now_us, events);
    }

    /// A waiting request is not wanted any more. False when it was not waiting.
    pub fn cancel(&mut self, id: WaitId, now_us: u64, events: &mut Vec<Event>) -> bool {
        self.settle(now_us, events);
        self.leave(id).is_some()
    }

    /// Lets time pass: deadlines expire and buckets refill.
    pub fn advance(&mut self, now_us: u64, events: &mut Vec<Event>) {
        self.settle(now_us, events);
    }

    /// When [`Gate::advance`] will have something to do, if nothing else happens; µs.
    #[must_use]
    pub fn next_event_us(&self) -> Option<u64> {
        let due = self.waiters.next_due_us();
        let refill = self.promises.next_refill_us();
        let again = (self.waiters.len() > 0).then(|| self.now_us + AGAIN_US);
        [due, refill, again].into_iter().flatten().min()
    }

    /// Takes a new capacity, of a new pool.
    pub fn set_capacity(&mut self, capacity: Capacity, now_us: u64, events: &mut Vec<Event>) {
        self.settle(now_us, events);
        if self.capacity == capacity {
            return;
        }
        self.capacity = capacity;
        self.measure();
        self.dispatch(events);
    }

    /// Works out anew what counts as full.
    fn measure(&mut self) {
        let before = self.full;
        let promised = self.accounts.book().promised_mu_per_min();
        self.full = Full::new(&self.capacity, &self.settings, promised);
        if self.capacity.mu_per_ms <= 0.0 {
            // Nobody can serve for a moment: those who wait may go on waiting.
            self.full.keep_queue(&before);
        }
    }

    /// Takes new settings; they hold for what comes.
    pub fn set_settings(&mut self, settings: Settings, now_us: u64, events: &mut Vec<Event>) {
        self.settings = settings;
        self.accounts.set_most_unknown(settings.unknown_tenants);
        self.settle(now_us, events);
        self.measure();
        self.dispatch(events);
    }

    /// Refuses all that wait: no replica will take them.
    pub fn shed_all(&mut self, now_us: u64, events: &mut Vec<Event>) {
        self.settle(now_us, events);
        while let Some(id) = self.waiters.overdue(u64::MAX) {
            self.shed_waiting(id, ShedReason::NoReplica, events);
        }
    }

    /// Takes a new book of tenants; what runs, waits and is owed stays.
    pub fn set_book(&mut self, book: Book, now_us: u64, events: &mut Vec<Event>) {
        self.settle(now_us, events);
        self.accounts.set_book(book, self.now_us);
        for at in self.accounts.numbers() {
            self.sort_promise(at);
        }
        self.measure();
        self.dispatch(events);
    }

    /// Lets time pass up to `now_us`, and runs what may run.
    fn settle(&mut self, now_us: u64, events: &mut Vec<Event>) {
        self.pass_time(now_us, events);
        self.dispatch(events);
    }

    /// Lets time pass up to `now_us`.
    fn pass_time(&mut self, now_us: u64, events: &mut Vec<Event>) {
        let passed = now_us.saturating_sub(self.now_us);
        self.now_us += passed;
        if self.waiters.len() == 0 {
            return;
        }
        self.drain.waited(passed);
        while let Some(id) = self.waiters.overdue(self.now_us) {
            self.shed_waiting(id, ShedReason::Deadline, events);
        }
        self.promises.advance(&mut self.accounts, self.now_us);
    }

    /// Runs what may run of those who wait.
    fn dispatch(&mut self, events: &mut Vec<Event>) {
        while self.waiters.len() > 0 {
            let next = self
                .next_promised()
                .or_else(|| self.next_covered())
                .or_else(|| self.next_that_fits());
            let Some(next) = next else {
                return;
            };
            let Some(waiter) = self.unlink(next.id) else {
                return;
            };
            let mut grant = self.start(
                waiter.account,
                waiter.priority,
                waiter.cost,
                next.is_promised,
            );
            grant.claim = next.claim;
            self.sort(waiter.account, waiter.priority);
            events.push(Event::Run(next.id, grant));
        }
    }

    /// Someone within its promise, if promised work leaves room for it.
    fn next_promised(&self) -> Option<Next> {
        if !self.full.has_room(&self.promised) {
            return None;
        }
        let account = self.accounts.get(self.promises.next()?)?;
        let priority = account.first_waiting()?;
        let (id, _) = self.waiters.first(&account.waiting_in(priority))?;
        Some(Next::at_once(id, true))
    }

    /// The next of a class that has earned it while others were served.
    fn next_covered(&self) -> Option<Next> {
        for (priority, class) in Priority::ALL.into_iter().zip(&self.classes) {
            if class.credit == MicroMu::ZERO {
                continue;
            }
            let account = self.accounts.get(class.next()?)?;
            let (id, waiter) = self.waiters.first(&account.waiting_in(priority))?;
            if waiter.work() <= class.credit {
                return Some(Next::at_once(id, false));
            }
        }
        None
    }

    /// The first, by class and then by turn, that a replica would answer in time, if there is room. What
    /// fits nowhere lets others pass: they go where it would not.
    fn next_that_fits(&self) -> Option<Next> {
        if !self.is_open() {
            return None;
        }
        let share = self.first_token_share();
        let classes = Priority::ALL.into_iter().zip(&self.classes);
        let in_turn = classes.flat_map(|(priority, class)| {
            let accounts = class
                .in_order()
                .filter_map(|account| self.accounts.get(account));
            accounts.flat_map(move |account| {
                let waiting = self.waiters.of(account.waiting_in(priority));
                waiting.take(MOST_OF_ONE)
            })
        });
        in_turn.take(MOST_LOOKED_AT).find_map(|(id, waiter)| {
            let Some(fit) = &waiter.fit else {
                return Some(Next::at_once(id, false));
            };
            let claim = fit.claim(share)?;
            Some(Next {
                claim: Some(claim),
                ..Next::at_once(id, false)
            })
        })
    }

    /// Share of the time to its first token that a request may take at a replica: the more wait here, the
    /// less, so that under lasting overload what is served comes in time. Nobody waits for `batch`.
    fn first_token_share(&self) -> f64 {
        let patient = self.waiting(Priority::Batch).0 as usize;
        let waiting = self.waiters.len().saturating_sub(patient);
        let waiting = waiting as f64 / self.full.places.max(1) as f64;
        let left = 1.0 - (1.0 - FULL_SHARE) * waiting.min(1.0);
        self.full.first_token_share() * left
    }

    /// Takes what a request holds out of what is in flight, once.
    fn take_off(&mut self, grant: &mut Grant) {
        grant.claim = None;
        if std::mem::replace(&mut grant.over, true) {
            return;
        }
        self.running.take(&grant.held);
        if grant.promised {
            self.promised.take(&grant.held);
        }
        grant.held = Amount::default();
    }

    /// Charges a request that runs now.
    fn start(&mut self, at: u32, priority: Priority, cost: Amount, promised: bool) -> Grant {
        let work = cost.prefill + cost.decode;
        let held = self.full.counted(cost);
        self.running.add(&held);
        self.earn(work, priority, promised);
        self.accounts.count(at, 1, 0);
        let now_us = self.now_us;
        let weight = self.weight(at);
        if let Some(account) = self.accounts.get_mut(at) {
            account.started += 1;
            account.billed += work;
            if promised {
                self.promises.charge(account, work, now_us);
            } else if let Some(class) = self.classes.get_mut(priority.slot()) {
                class.charge(account.flow(priority), work, weight);
                class.credit = (class.credit - work).max(MicroMu::ZERO);
            }
        }
        if promised {
            self.promised.add(&held);
            self.sort_promise(at);
        }
        Grant {
            account: at,
            priority,
            promised,
            charged: work,
            held,
            over: false,
            claim: None,
        }
    }

    /// What waits behind the request that runs earns a share of it.
    fn earn(&mut self, work: MicroMu, served: Priority, promised: bool) {
        if self.waiters.len() == 0 {
            return;
        }
        let share = MicroMu::from_mu(work.as_mu() * self.settings.min_share);
        for (priority, class) in Priority::ALL.into_iter().zip(&mut self.classes) {
            if !class.is_empty() && (promised || priority > served) {
                class.credit += share;
            }
        }
    }

    fn true_up(&mut self, grant: &Grant, actual: MicroMu) {
        let change = actual - grant.charged;
        if change == MicroMu::ZERO {
            return;
        }
        let (now_us, weight) = (self.now_us, self.weight(grant.account));
        let Some(account) = self.accounts.get_mut(grant.account) else {
            return;
        };
        account.billed += change;
        if grant.promised {
            draw(account, change, now_us);
            self.sort_promise(grant.account);
        } else {
            account.flow(grant.priority).next_start += normalised(change, weight);
            self.sort(grant.account, grant.priority);
        }
    }

    fn work_done(
        &mut self,
        grant: &Grant,
        prefill: MicroMu,
        decode: MicroMu,
        now_us: u64,
        events: &mut Vec<Event>,
    ) {
        self.pass_time(now_us, events);
        self.running.done(prefill, decode);
        if grant.promised {
            self.promised.done(prefill, decode);
        }
        self.dispatch(events);
    }

    fn enqueue(&mut self, waiter: Waiter) -> WaitId {
        let (at, priority) = (waiter.account, waiter.priority);
        self.accounts.count(at, 0, 1);
        let mut unlisted = crate::waiters::List::default();
        let list = match self.accounts.get_mut(at) {
            Some(account) => {
                account.waited += 1;
                &mut account.flow(priority).list
            }
            None => &mut unlisted,
        };
        let work = waiter.work();
        let id = self.waiters.push(list, waiter);
        if let Some(class) = self.classes.get_mut(priority.slot()) {
            class.count += 1;
            class.work += work;
        }
        self.sort(at, priority);
        self.sort_promise(at);
        id
    }

    /// Takes a waiter out of its list and the sums, leaving its flow to be sorted.
    fn unlink(&mut self, id: WaitId) -> Option<Waiter> {
        let (account, priority) = {
            let waiter = self.waiters.get(id)?;
            (waiter.account, waiter.priority)
        };
        let list = &mut self.accounts.get_mut(account)?.flow(priority).list;
        let waiter = self.waiters.remove(list, id)?;
        self.accounts.count(waiter.account, 0, -1);
        if let Some(class) = self.classes.get_mut(waiter.priority.slot()) {
            class.count -= 1;
            class.work -= waiter.work();
            if class.is_empty() {
                class.credit = MicroMu::ZERO;
            }
        }
        self.sort_promise(waiter.account);
        Some(waiter)
    }

    fn leave(&mut self, id: WaitId) -> Option<Waiter> {
        let waiter = self.unlink(id)?;
        self.sort(waiter.account, waiter.priority);
        Some(waiter)
    }

    pub(crate) fn shed_waiting(&mut self, id: WaitId, reason: ShedReason, events: &mut Vec<Event>) {
        let Some(waiter) = self.leave(id) else {
            return;
        };
        let shed = Shed {
            reason,
            retry_after_ms: self.retry_after_ms(waiter.account, waiter.priority),
        };
        events.push(Event::Shed(id, self.count_shed(waiter.account, shed)));
    }

    fn count_shed(&mut self, at: u32, shed: Shed) -> Shed {
        if let Some(account) = self.accounts.get_mut(at) {
            account.shed += 1;
        }
        shed
    }

    fn weight(&self, at: u32) -> f64 {
        self.accounts
            .get(at)
            .map_or(1.0, |account| self.accounts.weight(account))
    }

    /// Puts a flow where it belongs in its class.
    fn sort(&mut self, at: u32, priority: Priority) {
        let weight = self.weight(at);
        let account = self.accounts.get_mut(at);
        let class = self.classes.get_mut(priority.slot());
        if let (Some(account), Some(class)) = (account, class) {
            class.sort(at, account.flow(priority), weight);
        }
    }

    /// Puts an account where it belongs in the order of promises.
    fn sort_promise(&mut self, at: u32) {
        if let Some(account) = self.accounts.get_mut(at) {
            self.promises.sort(at, account, self.now_us);
        }
    }
}

/// A waiting request whose turn it is.
struct Next {
    id: WaitId,
    is_promised: bool,
    /// What is charged for it until it is placed.
    claim: Option<Claim>,
}

impl Next {
    fn at_once(id: WaitId, is_promised: bool) -> Self {
        Self {
            id,
            is_promised,
            claim: None,
        }
    }
}

/// A refusal that trying again does not change.
fn never(reason: ShedReason) -> Shed {
    Shed {
        reason,
        retry_after_ms: 0,
    }
}
