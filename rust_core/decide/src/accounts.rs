//! The accounts that requests are entered in while they run: all zero when no request is under way.

use crate::core::Core;
use serde::Serialize;
use weighbridge_place::Totals;

/// Sums over all requests under way, each from the account that holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Accounts {
    /// Requests on the replicas' ledgers.
    pub charged: i64,
    /// MU on the ledgers.
    pub charged_mu: f64,
    /// KV tokens on the ledgers.
    pub kv_tokens: i64,
    /// Requests that the gates hold to be running.
    pub running: i64,
    /// MU that the gates hold to be in flight.
    pub running_mu: f64,
    /// Requests that wait before the gates.
    pub waiting: u32,
    /// Requests that can be found by their id, to have their replies observed.
    pub open: usize,
    /// Requests whose speed is being measured.
    pub measured: usize,
}

impl Core {
    /// What the requests under way hold at this moment.
    #[must_use]
    pub fn accounts(&self) -> Accounts {
        let mut accounts = Accounts {
            open: self.metering().open.len(),
            measured: self.watch.flying(),
            ..Accounts::default()
        };
        for replica in self.pool().replicas() {
            let own: Totals = replica.load.own();
            accounts.charged += own.requests;
            accounts.charged_mu += own.work().as_mu();
            accounts.kv_tokens += own.kv_tokens;
        }
        for door in self.doors().all() {
            door.look(|gate| {
                let (running, mu) = gate.in_flight();
                accounts.running += running;
                accounts.running_mu += mu.as_mu();
                accounts.waiting += gate.all_waiting();
            });
        }
        accounts
    }
}
