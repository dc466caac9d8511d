//! What counts as full: a flood leaves promises their part.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use weighbridge_admit::{Book, Capacity, Gate, Grant, Offer, Outcome, Settings, Terms};
use weighbridge_place::{Amount, MicroMu};

const REPLICAS: u32 = 4;
/// Of each replica.
const MU_PER_MS: f64 = 1.0;
const WINDOW_MS: f64 = 2_000.0;

/// A gate before four replicas, of whose capacity `gold` was promised a share.
fn gate(promised_share: f64) -> Gate {
    let capacity = f64::from(REPLICAS) * MU_PER_MS;
    let gold = Terms {
        guaranteed_mu_per_min: promised_share * capacity * 60_000.0,
        ..Terms::default()
    };
    Gate::new(
        Settings {
            window_ms: WINDOW_MS,
            ..Settings::default()
        },
        Book::new([("gold", gold)], Terms::default()).unwrap(),
        Capacity {
            mu_per_ms: capacity,
            replicas: REPLICAS,
            kv_tokens: 1 << 40,
            ..Capacity::default()
        },
    )
}

/// Asks for a request to run at time 0.
fn ask(gate: &mut Gate, tenant: &str, prefill: f64, decode: f64) -> Option<Grant> {
    let offer = Offer {
        tenant,
        priority: None,
        cost: Amount {
            prefill: MicroMu::from_mu(prefill),
            decode: MicroMu::from_mu(decode),
            kv_tokens: 1,
            sequences: u32::from(decode > 0.0),
            ..Amount::default()
        },
        deadline_us: u64::MAX,
        fit: None,
    };
    match gate.offer(&offer, 0, &mut Vec::new()) {
        Outcome::Run(grant) => Some(grant),
        Outcome::Wait(_) | Outcome::Shed(_) => None,
    }
}

#[test]
fn what_a_long_prompt_is_charged_is_all_of_it() {
    let mut gate = gate(0.0);
    let mut grant = ask(&mut gate, "a", 10_000.0, 5.0).unwrap();
    assert_eq!(grant.charged(), MicroMu::from_mu(10_005.0));
    assert_eq!(gate.in_flight().1, MicroMu::from_mu(WINDOW_MS + 5.0));
    gate.prefill_done(&mut grant, 0, &mut Vec::new());
    assert_eq!(gate.in_flight().1, MicroMu::from_mu(5.0));
    gate.release(grant, MicroMu::from_mu(10_005.0), 0, &mut Vec::new());
    assert_eq!(gate.in_flight(), (0, MicroMu::ZERO));
}

#[test]
fn a_new_promise_holds_for_what_comes() {
    let mut gate = gate(0.0);
    let full = 4.0 * WINDOW_MS;
    let _grant = ask(&mut gate, "a", 0.0, 0.7 * full).unwrap();
    assert!(gate.is_open());
    let gold = Terms {
        guaranteed_mu_per_min: 0.4 * 4.0 * 60_000.0,
        ..Terms::default()
    };
    let book = Book::new([("gold", gold)], Terms::default()).unwrap();
    gate.set_book(book, 0, &mut Vec::new());
    assert!(!gate.is_open());
    gate.set_book(Book::default(), 0, &mut Vec::new());
    assert!(gate.is_open());
}

proptest! {
    /// Whatever floods the gate, what a promise may have in flight stays free for it; and no more
    /// than that, up to half of all.
    #[test]
    fn a_flood_leaves_promises_their_part_and_takes_the_rest(
        share in 0.0..1.5f64,
        flood in prop::collection::vec((0.0..400.0f64, 0.0..400.0f64), 200),
    ) {
        let mut gate = gate(share);
        let full = f64::from(REPLICAS) * MU_PER_MS * WINDOW_MS;
        let kept = share.min(0.5);
        let mut decode = 0.0;
        for (a, b) in flood {
            let has_room = decode < full * (1.0 - kept) - 1e-3;
            let ran = ask(&mut gate, "flood", a, b).is_some();
            prop_assert!(ran || !has_room, "refused with {decode} in flight");
            if ran {
                decode += b;
            }
        }
        // It never had more than its part by more than its last request.
        prop_assert!(decode < full * (1.0 - kept) + 400.0);
        if share > 0.01 {
            prop_assert!(ask(&mut gate, "gold", 100.0, 100.0).is_some());
        }
    }

    /// What runs on promises uses what is kept for them, and takes nothing else from others.
    #[test]
    fn what_promises_have_in_flight_is_part_of_what_is_kept(
        used in 0.0..1.0f64,
        share in 0.05..0.5f64,
    ) {
        let full = f64::from(REPLICAS) * MU_PER_MS * WINDOW_MS;
        let open_until = |promised: f64| {
            let mut gate = gate(share);
            if promised > 0.0 {
                let grant = ask(&mut gate, "gold", 0.0, promised).unwrap();
                prop_assert!(grant.is_promised());
            }
            let mut work: f64 = 0.0;
            while ask(&mut gate, "flood", 0.0, 1.0).is_some() {
                work += 1.0;
            }
            Ok(work)
        };
        let (idle, busy) = (open_until(0.0)?, open_until(used * share * full)?);
        prop_assert!((idle - busy).abs() <= 2.0, "{idle}, {busy}");
        prop_assert!((idle - full * (1.0 - share)).abs() <= 2.0, "{idle}");
    }
}
