//! Requests run where a replica would answer them in time, and wait where none would.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use proptest::prelude::*;
use std::sync::Arc;
use weighbridge_admit::{
    Book, Capacity, Event, Fit, Gate, Grant, KeptFit, Offer, Outcome, Settings, Terms, WaitId,
};
use weighbridge_place::{Amount, Claim, Load, MicroMu};

/// Prefill ahead that a replica may have where a request takes all of its time to the first token, MU.
const MOST_AHEAD: f64 = 1_000.0;

/// Fits one replica while little is ahead of it there.
#[derive(Clone, Debug)]
struct On {
    replica: Arc<Load>,
    amount: Amount,
}

impl On {
    fn is_free(&self, share: f64) -> bool {
        self.replica.totals().prefill.as_mu() < MOST_AHEAD * share
    }
}

impl Fit for On {
    fn fits(&self, share: f64) -> bool {
        self.is_free(share)
    }

    fn keep(&self) -> Box<dyn KeptFit> {
        Box::new(self.clone())
    }
}

impl KeptFit for On {
    fn claim(&self, share: f64) -> Option<Claim> {
        let is_free = self.is_free(share);
        is_free.then(|| Claim::new(&self.replica, self.amount))
    }
}

fn prompt(mu: f64) -> Amount {
    Amount {
        prefill: MicroMu::from_mu(mu),
        decode: MicroMu::from_mu(1.0),
        sequences: 1,
        ..Amount::default()
    }
}

fn gate(tenants: Vec<(&str, Terms)>, first_token_share: f64) -> Gate {
    Gate::new(
        Settings {
            first_token_share,
            queue_window_ms: 1e6,
            ..Settings::default()
        },
        Book::new(tenants, Terms::default()).unwrap(),
        Capacity {
            mu_per_ms: 2.0,
            replicas: 2,
            kv_tokens: 1 << 40,
            ..Capacity::default()
        },
    )
}

fn ask(gate: &mut Gate, tenant: &str, on: &On) -> Outcome {
    let offer = Offer {
        tenant,
        priority: None,
        cost: on.amount,
        deadline_us: u64::MAX,
        fit: Some(on),
    };
    gate.offer(&offer, 0, &mut Vec::new())
}

fn waits(outcome: Outcome) -> WaitId {
    match outcome {
        Outcome::Wait(id) => id,
        other => panic!("{other:?}"),
    }
}

fn on(replica: &Arc<Load>, mu: f64) -> On {
    On {
        replica: Arc::clone(replica),
        amount: prompt(mu),
    }
}

#[test]
fn a_request_waits_while_it_would_be_late_and_runs_once_it_would_not() {
    let replica = Arc::new(Load::default());
    let mut gate = gate(vec![], 0.5);
    let ahead = replica.charge(prompt(600.0));
    let id = waits(ask(&mut gate, "a", &on(&replica, 10.0)));
    let mut events = Vec::new();
    let again_us = gate.next_event_us().unwrap();
    assert!(again_us <= 20_000, "it is looked at again soon");
    gate.advance(again_us, &mut events);
    assert!(events.is_empty(), "{events:?}");
    drop(ahead);
    gate.advance(again_us * 2, &mut events);
    assert!(
        matches!(events[..], [Event::Run(ran, _)] if ran == id),
        "{events:?}"
    );
}

#[test]
fn those_that_come_together_do_not_all_go_where_there_is_room_for_one() {
    let replica = Arc::new(Load::default());
    let mut gate = gate(vec![], 0.5);
    let ahead = replica.charge(prompt(600.0));
    for _ in 0..5 {
        waits(ask(&mut gate, "a", &on(&replica, 300.0)));
    }
    drop(ahead);
    let before = replica.recent();
    let mut events = Vec::new();
    gate.advance(20_000, &mut events);
    // The first finds 0 ahead, the second 300; then there are 600.
    assert_eq!(events.len(), 2, "{events:?}");
    // Placed elsewhere, they leave nothing behind.
    drop(events);
    assert_eq!(replica.totals().prefill, MicroMu::ZERO);
    assert_eq!(replica.recent(), before);
}

#[test]
fn the_more_wait_here_the_less_may_wait_at_a_replica() {
    let (replica, full) = (Arc::new(Load::default()), Arc::new(Load::default()));
    let mut gate = gate(vec![], 0.5);
    let _ahead = replica.charge(prompt(300.0));
    let _full = full.charge(prompt(5_000.0));
    let one = on(&replica, 10.0);
    assert!(matches!(ask(&mut gate, "a", &one), Outcome::Run(_)));
    // Four for each replica.
    for _ in 0..8 {
        waits(ask(&mut gate, "a", &on(&full, 10.0)));
    }
    waits(ask(&mut gate, "a", &one));
}

#[test]
fn what_fits_nowhere_lets_others_pass() {
    let (busy, idle) = (Arc::new(Load::default()), Arc::new(Load::default()));
    let mut gate = gate(vec![], 0.5);
    let _ahead = busy.charge(prompt(5_000.0));
    waits(ask(&mut gate, "a", &on(&busy, 10.0)));
    assert!(matches!(
        ask(&mut gate, "a", &on(&idle, 10.0)),
        Outcome::Run(_)
    ));
}

#[test]
fn beside_a_guarantee_waits_at_replicas_are_half_as_long() {
    let gold = Terms {
        guaranteed_mu_per_min: 1_000.0,
        ..Terms::default()
    };
    let runs = |tenants, ahead| {
        let replica = Arc::new(Load::default());
        let _ahead = replica.charge(prompt(ahead));
        let mut gate = gate(tenants, 0.5);
        matches!(ask(&mut gate, "a", &on(&replica, 10.0)), Outcome::Run(_))
    };
    assert!(runs(vec![], 400.0));
    assert!(!runs(vec![("gold", gold.clone())], 400.0));
    assert!(runs(vec![("gold", gold)], 200.0));
}

#[test]
fn within_its_guarantee_a_tenant_does_not_wait_for_others() {
    let gold = Terms {
        guaranteed_mu_per_min: 60_000.0,
        ..Terms::default()
    };
    let replica = Arc::new(Load::default());
    let _ahead = replica.charge(prompt(5_000.0));
    let mut gate = gate(vec![("gold", gold)], 0.5);
    waits(ask(&mut gate, "other", &on(&replica, 10.0)));
    let runs = ask(&mut gate, "gold", &on(&replica, 10.0));
    assert!(matches!(runs, Outcome::Run(_)));
}

proptest! {
    /// Whatever comes and ends: nothing starts on a replica that has too much ahead, nothing waits for
    /// long beside one that has not, and in the end nothing is left.
    #[test]
    fn requests_wait_for_room_and_no_longer(
        steps in prop::collection::vec((0..3u8, 0..2usize, 1.0..400.0f64), 1..120),
    ) {
        let replicas = [Arc::new(Load::default()), Arc::new(Load::default())];
        let mut gate = gate(vec![], 0.5);
        let most = MOST_AHEAD * 0.5;
        let mut waiting: Vec<(WaitId, On)> = Vec::new();
        let mut running = Vec::new();
        let mut now_us = 0;
        for (what, which, mu) in steps {
            let one = on(&replicas[which], mu);
            let ahead = one.replica.totals().prefill.as_mu();
            let mut events: Vec<Event> = Vec::new();
            match what {
                0 => match ask(&mut gate, "a", &one) {
                    Outcome::Run(grant) => {
                        prop_assert!(ahead < most);
                        running.push((grant, one.replica.charge(one.amount)));
                    }
                    Outcome::Wait(id) => {
                        // As the queue fills, less may wait there.
                        let fill = waiting.len() as f64 / 8.0;
                        let least = most * (1.0 - 0.6 * fill.min(1.0));
                        prop_assert!(ahead >= least - 1e-3, "waits with {ahead} ahead");
                        waiting.push((id, one));
                    }
                    Outcome::Shed(shed) => prop_assert!(false, "{shed:?}"),
                },
                1 if !running.is_empty() => {
                    let at = which * (running.len() - 1);
                    let (grant, charge): (Grant, _) = running.swap_remove(at);
                    drop(charge);
                    let work = grant.charged();
                    gate.release(grant, work, now_us, &mut events);
                }
                _ => {
                    now_us += 10_000;
                    gate.advance(now_us, &mut events);
                }
            }
            for event in events {
                let Event::Run(id, grant) = event else {
                    return Err(TestCaseError::fail("refused"));
                };
                let at = waiting.iter().position(|(other, _)| *other == id).unwrap();
                let (_, one) = waiting.remove(at);
                drop(grant);
                running.push((ask_again(&mut gate, &one), one.replica.charge(one.amount)));
            }
        }
        for (grant, charge) in running {
            drop(charge);
            let work = grant.charged();
            gate.release(grant, work, now_us, &mut Vec::new());
        }
        for (id, _) in waiting {
            gate.cancel(id, now_us, &mut Vec::new());
        }
        for replica in &replicas {
            prop_assert_eq!(replica.totals().prefill, MicroMu::ZERO);
        }
    }
}

/// A grant of its own for a request that runs: the event's was dropped with its claim.
fn ask_again(gate: &mut Gate, one: &On) -> Grant {
    let offer = Offer {
        tenant: "a",
        priority: None,
        cost: one.amount,
        deadline_us: u64::MAX,
        fit: None,
    };
    match gate.offer(&offer, 0, &mut Vec::new()) {
        Outcome::Run(grant) => grant,
        other => panic!("{other:?}"),
    }
}
