//! What a gate keeps of each tenant: its bucket, its flows and its sums. Bounded in number.

use std::collections::HashMap;
use std::sync::Arc;

use weighbridge_place::MicroMu;

use crate::book::{Book, Priority, Terms};
use crate::bucket::Bucket;
use crate::class::{Class, Flow, Virtual};
use crate::promises::Standing;
use crate::waiters::List;

/// The account of requests that name no tenant.
const NAMELESS: u32 = 0;
/// The account that unknown names share when there are too many of them.
const OVERFLOW: u32 = 1;
/// Longer names share the overflow account, bytes.
const LONGEST_NAME: usize = 256;
/// Accounts looked at to find one to forget.
const LOOKED_AT: usize = 16;

/// One tenant at one gate.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) name: Box<str>,
    pub(crate) terms: Arc<Terms>,
    /// Its name is not in the book: it shares the default tenant's weight with others like it.
    pub(crate) unknown: bool,
    pub(crate) bucket: Bucket,
    pub(crate) flows: [Flow; Priority::ALL.len()],
    pub(crate) running: u32,
    pub(crate) waiting: u32,
    /// MU charged, trued up.
    pub(crate) billed: MicroMu,
    pub(crate) started: u64,
    pub(crate) waited: u64,
    pub(crate) shed: u64,
    /// Where it stands in the order of promises.
    pub(crate) promise: Standing,
    /// Virtual time at which its next request on its promise starts.
    pub(crate) promise_start: Virtual,
}

impl Account {
    fn new(name: &str, terms: &Arc<Terms>, unknown: bool) -> Self {
        Self {
            name: name.into(),
            bucket: bucket(terms, unknown),
            terms: Arc::clone(terms),
            unknown,
            flows: [Flow::default(); Priority::ALL.len()],
            running: 0,
            waiting: 0,
            billed: MicroMu::ZERO,
            started: 0,
            waited: 0,
            shed: 0,
            promise: Standing::Out,
            promise_start: 0,
        }
    }

    /// Its flow in a class.
    pub(crate) fn flow(&mut self, priority: Priority) -> &mut Flow {
        let [critical, standard, batch, sheddable] = &mut self.flows;
        match priority {
            Priority::Critical => critical,
            Priority::Standard => standard,
            Priority::Batch => batch,
            Priority::Sheddable => sheddable,
        }
    }

    /// What it has waiting in a class.
    pub(crate) fn waiting_in(&self, priority: Priority) -> List {
        let [critical, standard, batch, sheddable] = &self.flows;
        match priority {
            Priority::Critical => critical.list,
            Priority::Standard => standard.list,
            Priority::Batch => batch.list,
            Priority::Sheddable => sheddable.list,
        }
    }

    /// MU that it has waiting within its promise.
    pub(crate) fn waiting_on_promise(&self) -> MicroMu {
        match self.promise {
            Standing::Ready(_) => self.flows.iter().map(|flow| flow.list.work).sum(),
            Standing::Out | Standing::Later(_) => MicroMu::ZERO,
        }
    }

    /// The highest class in which it has something waiting.
    pub(crate) fn first_waiting(&self) -> Option<Priority> {
        Priority::ALL
            .into_iter()
            .zip(&self.flows)
            .find(|(_, flow)| flow.list.count > 0)
            .map(|(priority, _)| priority)
    }

    fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting == 0
    }
}

/// Only whom the book names, or who names nobody, is promised anything.
fn bucket(terms: &Terms, unknown: bool) -> Bucket {
    if unknown {
        Bucket::new(&Terms::default())
    } else {
        Bucket::new(terms)
    }
}

/// All tenants of a gate.
#[derive(Debug)]
pub(crate) struct Accounts {
    book: Book,
    by_name: HashMap<Box<str>, u32>,
    slots: Vec<Account>,
    /// Slots of unknown names, in the order in which they may be forgotten.
    unknown: Vec<u32>,
    /// Slots that no name has at present.
    spare: Vec<u32>,
    hand: usize,
    most_unknown: usize,
    /// Unknown names with something running or waiting.
    busy_unknown: u32,
}

impl Accounts {
    pub(crate) fn new(book: Book, most_unknown: usize) -> Self {
        let terms = book.default_terms();
        let slots = vec![
            Account::new("", terms, false),
            Account::new("", terms, true),
        ];
        Self {
            by_name: HashMap::new(),
            slots,
            unknown: Vec::new(),
            spare: Vec::new(),
            hand: 0,
            most_unknown,
            busy_unknown: 0,
            book,
        }
    }

    /// The account of a tenant, opened when it is seen first.
    pub(crate) fn open(&mut self, tenant: &str, classes: &[Class]) -> u32 {
        if tenant.is_empty() {
            return NAMELESS;
        }
        if let Some(at) = self.by_name.get(tenant) {
            return *at;
        }
        if let Some(terms) = self.book.named(tenant) {
            let account = Account::new(tenant, &Arc::clone(terms), false);
            return self.insert(account);
        }
        if tenant.len() > LONGEST_NAME {
            return OVERFLOW;
        }
        let account = Account::new(tenant, self.book.default_terms(), true);
        if self.unknown.len() < self.most_unknown {
            let at = self.insert(account);
            self.unknown.push(at);
            return at;
        }
        if self.unknown.len() > self.most_unknown {
            return OVERFLOW;
        }
        let Some(at) = self.forgettable(classes) else {
            return OVERFLOW;
        };
        if let Some(place) = self.slots.get_mut(at as usize) {
            self.by_name.remove(&place.name);
            self.by_name.insert(account.name.clone(), at);
            *place = account;
        }
        at
    }

    /// Keeps so many unknown names apart from now on. Those too many are forgotten once they are
    /// idle.
    pub(crate) fn set_most_unknown(&mut self, most: usize) {
        self.most_unknown = most;
        let mut excess = self.unknown.len().saturating_sub(most);
        let slots = &mut self.slots;
        let (by_name, spare) = (&mut self.by_name, &mut self.spare);
        self.unknown.retain(|at| {
            let slot = slots.get_mut(*at as usize);
            let Some(account) = slot.filter(|account| excess > 0 && account.is_idle()) else {
                return true;
            };
            excess -= 1;
            by_name.remove(&account.name);
            *account = Account::new("", &Arc::clone(&account.terms), true);
            spare.push(*at);
            false
        });
    }

    fn insert(&mut self, account: Account) -> u32 {
        if let Some(at) = self.spare.pop() {
            if let Some(place) = self.slots.get_mut(at as usize) {
                self.by_name.insert(account.name.clone(), at);
                *place = account;
                return at;
            }
        }
        let at = u32::try_from(self.slots.len()).unwrap_or(OVERFLOW);
        self.by_name.insert(account.name.clone(), at);
        self.slots.push(account);
        at
    }

    /// An unknown name's account that holds nothing and owes nothing.
    fn forgettable(&mut self, classes: &[Class]) -> Option<u32> {
        for _ in 0..LOOKED_AT.min(self.unknown.len()) {
            self.hand = (self.hand + 1) % self.unknown.len();
            let at = self.unknown.get(self.hand).copied()?;
            let account = self.slots.get(at as usize)?;
            let owes = || {
                classes
                    .iter()
                    .zip(&account.flows)
                    .any(|(class, flow)| class.owes(flow))
            };
            if account.is_idle() && !owes() {
                return Some(at);
            }
        }
        None
    }

    /// An account that was opened. (Slots never shrink, so it is always there.)
    pub(crate) fn get(&self, at: u32) -> Option<&Account> {
        self.slots.get(at as usize)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut Account> {
        self.slots.get_mut(at as usize)
    }

    /// The account of a tenant, if it has one of its own.
    pub(crate) fn find(&self, tenant: &str) -> Option<&Account> {
        if tenant.is_empty() {
            return self.slots.first();
        }
        self.by_name.get(tenant).and_then(|at| self.get(*at))
    }

    /// The weight of an account's flows now.
    pub(crate) fn weight(&self, account: &Account) -> f64 {
        if account.unknown {
            account.terms.weight / f64::from(self.busy_unknown.max(1))
        } else {
            account.terms.weight
        }
    }

    /// Counts an account's requests running and waiting.
    pub(crate) fn count(&mut self, at: u32, running: i32, waiting: i32) {
        let Some(account) = self.slots.get_mut(at as usize) else {
            return;
        };
        let was_idle = account.is_idle();
        account.running = account.running.saturating_add_signed(running);
        account.waiting = account.waiting.saturating_add_signed(waiting);
        if account.unknown && was_idle != account.is_idle() {
            if was_idle {
                self.busy_unknown += 1;
            } else {
                self.busy_unknown -= 1;
            }
        }
    }

    /// Its tenants' terms.
    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    /// Takes a new book; what is running, waiting and owed stays.
    pub(crate) fn set_book(&mut self, book: Book, now_us: u64) {
        self.unknown.clear();
        self.busy_unknown = 0;
        for (at, account) in self.slots.iter_mut().enumerate() {
            let at = u32::try_from(at).unwrap_or(OVERFLOW);
            let named = book.named(&account.name);
            account.unknown = at != NAMELESS && named.is_none();
            account.terms = Arc::clone(named.unwrap_or_else(|| book.default_terms()));
            if account.unknown {
                account.bucket.set(&Terms::default(), now_us);
                if at != OVERFLOW && !self.spare.contains(&at) {
                    self.unknown.push(at);
                }
                self.busy_unknown += u32::from(!account.is_idle());
            } else {
                account.bucket.set(&account.terms, now_us);
            }
        }
        self.book = book;
    }

    /// All accounts, to be looked at.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Account> {
        self.slots.iter()
    }

    /// The numbers of all accounts.
    pub(crate) fn numbers(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.slots.len()).unwrap_or(0)
    }
}
