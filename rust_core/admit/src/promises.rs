//! Tenants with a promise and something waiting: who is within it, and whose turn it is of those.

use std::collections::BTreeSet;

use weighbridge_place::MicroMu;

use crate::accounts::{Account, Accounts};
use crate::class::Virtual;

/// Where an account stands in the order of promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It waits for nothing, or was promised nothing.
    #[default]
    Out,
    /// Its bucket is empty until that moment, µs.
    Later(u64),
    /// It is within its promise; its next request starts at that virtual time.
    Ready(Virtual),
}

/// The order of promises. Where those within theirs are more than can be served, the capacity is
/// divided as it was promised: start-time fair queueing, with promises as weights.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    later: BTreeSet<(u64, u32)>,
    ready: BTreeSet<(Virtual, u32)>,
    virtual_now: Virtual,
}

impl Promises {
    /// Whose turn it is of those within their promise.
    pub(crate) fn next(&self) -> Option<u32> {
        self.ready.first().map(|(_, account)| *account)
    }

    /// When the next bucket is not empty any more, µs.
    pub(crate) fn next_refill_us(&self) -> Option<u64> {
        self.later.first().map(|(ready, _)| *ready)
    }

    /// Looks at the clock: true if someone is newly within its promise.
    pub(crate) fn advance(&mut self, accounts: &mut Accounts, now_us: u64) -> bool {
        let mut any = false;
        while let Some((_, at)) = self.later.first().filter(|(ready, _)| *ready <= now_us) {
            let at = *at;
            let Some(account) = accounts.get_mut(at) else {
                break;
            };
            self.sort(at, account, now_us);
            any = true;
        }
        any
    }

    /// Puts an account where it belongs.
    pub(crate) fn sort(&mut self, at: u32, account: &mut Account, now_us: u64) {
        let new = if account.waiting == 0 || !account.bucket.promises() {
            Standing::Out
        } else if !account.bucket.is_ready(now_us) {
            Standing::Later(account.bucket.ready_at_us())
        } else {
            if !matches!(account.promise, Standing::Ready(_)) {
                account.promise_start = account.promise_start.max(self.virtual_now);
            }
            Standing::Ready(account.promise_start)
        };
        if new == account.promise {
            return;
        }
        match account.promise {
            Standing::Out => {}
            Standing::Later(ready) => drop(self.later.remove(&(ready, at))),
            Standing::Ready(start) => drop(self.ready.remove(&(start, at))),
        }
        match new {
            Standing::Out => {}
            Standing::Later(ready) => drop(self.later.insert((ready, at))),
            Standing::Ready(start) => drop(self.ready.insert((start, at))),
        }
        account.promise = new;
    }

    /// Draws a request that runs from its account's promise. The caller sorts it afterwards.
    pub(crate) fn charge(&mut self, account: &mut Account, work: MicroMu, now_us: u64) {
        let start = match account.promise {
            Standing::Ready(start) => start,
            Standing::Out | Standing::Later(_) => account.promise_start.max(self.virtual_now),
        };
        self.virtual_now = self.virtual_now.max(start);
        account.promise_start = start;
        draw(account, work, now_us);
    }
}

/// Draws an amount from an account's promise, or gives it back.
pub(crate) fn draw(account: &mut Account, change: MicroMu, now_us: u64) {
    account.bucket.draw(change, now_us);
    account.promise_start += Virtual::from(account.bucket.refill_ns(change));
}
