//! What can be seen of a gate: where tenants stand, what waits, when to come back.

use weighbridge_place::MicroMu;

use crate::accounts::Account;
use crate::book::Priority;
use crate::gate::Gate;
use crate::outcome::{Grant, Shed, ShedReason, Standing};

/// How far requests yield to promises of others while the replicas have time for all.
const LEAST_YIELD: f64 = 0.1;

impl Gate {
    /// Where a tenant stands.
    #[must_use]
    pub fn standing(&self, tenant: &str) -> Standing {
        match self.accounts.find(tenant) {
            Some(account) => self.standing_of(account),
            None => Standing {
                limit_mu_per_min: self.capacity.mu_per_ms * 60_000.0,
                remaining_mu: self.full.free(&self.running, &self.promised).as_mu(),
                reset_ms: self.drained_in_ms(Priority::Standard),
                ..Standing::default()
            },
        }
    }

    /// How far a request of this tenant yields to promises of others, 0 to 1: not at all within its own,
    /// little while the replicas have time for all.
    #[must_use]
    pub fn yields(&self, tenant: &str) -> f64 {
        if self.is_within_promise(tenant) {
            return 0.0;
        }
        let pressure = self.demand.pressure(self.capacity.mu_per_ms, self.now_us);
        LEAST_YIELD + (1.0 - LEAST_YIELD) * pressure
    }

    /// Whether a request of this tenant would run on its promise now.
    #[must_use]
    pub fn is_within_promise(&self, tenant: &str) -> bool {
        let account = self.accounts.find(tenant);
        account.is_some_and(|account| account.bucket.is_ready(self.now_us))
    }

    /// All tenants seen, and where they stand. Names that were not kept apart come as "".
    pub fn standings(&self) -> impl Iterator<Item = (&str, Standing)> {
        self.accounts
            .iter()
            .map(|account| (&*account.name, self.standing_of(account)))
    }

    fn standing_of(&self, account: &Account) -> Standing {
        let free = self.full.free(&self.running, &self.promised).as_mu();
        let promised = account.bucket.promises();
        Standing {
            limit_mu_per_min: if promised {
                account.terms.guaranteed_mu_per_min
            } else {
                self.capacity.mu_per_ms * 60_000.0
            },
            remaining_mu: account.bucket.level_mu(self.now_us).max(free),
            reset_ms: if promised {
                account.bucket.refilled_in_us(self.now_us) / 1000
            } else {
                self.drained_in_ms(account.terms.priority)
            },
            running: account.running,
            waiting: account.waiting,
            billed: account.billed,
            started: account.started,
            waited: account.waited,
            shed: account.shed,
        }
    }

    /// Up to `most` tenants' standings as [`Gate::standings`] gives them, from the `first` on.
    pub fn some_standings(
        &self,
        first: usize,
        most: usize,
    ) -> impl Iterator<Item = (&str, Standing)> {
        let accounts = self.accounts.iter().skip(first).take(most);
        accounts.map(|account| (&*account.name, self.standing_of(account)))
    }

    /// Work in flight that counts as full, ms of the replicas' capacity.
    #[must_use]
    pub fn window_ms(&self) -> f64 {
        self.settings.window_ms
    }

    /// Whether in flight there is room for more that nobody was promised.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.full.is_open_to(&self.running, &self.promised)
    }

    /// Requests waiting in a class, and their MU.
    #[must_use]
    pub fn waiting(&self, priority: Priority) -> (u32, MicroMu) {
        self.classes
            .get(priority.slot())
            .map_or((0, MicroMu::ZERO), |class| (class.count, class.work))
    }

    /// Requests waiting in all classes.
    #[must_use]
    pub fn all_waiting(&self) -> u32 {
        self.classes.iter().map(|class| class.count).sum()
    }

    /// Requests in flight, and what still counts of their MU.
    #[must_use]
    pub fn in_flight(&self) -> (i64, MicroMu) {
        (self.running.requests, self.running.work)
    }

    /// Of [`Gate::in_flight`], what runs on promises.
    #[must_use]
    pub fn promised_in_flight(&self) -> (i64, MicroMu) {
        (self.promised.requests, self.promised.work)
    }

    /// MU per ms that it drains at while full, as far as is known.
    #[must_use]
    pub fn drain_mu_per_ms(&self) -> f64 {
        self.drain.mu_per_ms(self.capacity.mu_per_ms)
    }

    /// The refusal of a request that ran and was ended for a guarantee.
    #[must_use]
    pub fn preempted(&self, grant: &Grant) -> Shed {
        Shed {
            reason: ShedReason::Preempted,
            retry_after_ms: self.retry_after_ms(grant.account, grant.priority),
        }
    }

    /// When a request of this account and class would likely run, ms from now.
    pub(crate) fn retry_after_ms(&self, at: u32, priority: Priority) -> u64 {
        let drained = self.drained_in_ms(priority);
        let promised = self
            .accounts
            .get(at)
            .filter(|account| account.bucket.promises());
        let soonest = match promised {
            // Its turn comes once less is in flight on promises: before all classes.
            Some(account) if account.bucket.is_ready(self.now_us) => {
                self.promises_drained_in_ms().min(drained)
            }
            Some(account) => {
                let refilled = account.bucket.ready_at_us().saturating_sub(self.now_us) / 1000;
                refilled.min(drained)
            }
            None => drained,
        };
        soonest.max(1)
    }

    /// What is in flight on promises above what counts as full, and what waits within them.
    fn promises_drained_in_ms(&self) -> u64 {
        let waiting: MicroMu = self.accounts.iter().map(Account::waiting_on_promise).sum();
        self.in_ms(waiting + self.full.excess_alone(&self.promised))
    }

    /// What waits in this class and before it, and what is in flight too much, by the drain rate.
    fn drained_in_ms(&self, priority: Priority) -> u64 {
        let waiting: MicroMu = self
            .classes
            .iter()
            .take(priority.slot() + 1)
            .map(|class| class.work)
            .sum();
        self.in_ms(waiting + self.full.excess(&self.running, &self.promised))
    }

    /// Time in which so much is done, by the drain rate.
    fn in_ms(&self, ahead: MicroMu) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let ms = (ahead.as_mu() / self.drain_mu_per_ms()).ceil() as u64;
        ms.min(3_600_000)
    }
}
