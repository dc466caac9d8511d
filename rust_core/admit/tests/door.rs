//! A door under threads: every wait ends, every hold is given back, whoever drops what when.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use weighbridge_admit::{Book, Capacity, Door, Entry, Gate, Offer, Priority, Settings};
use weighbridge_place::{Amount, MicroMu};

fn door(window_ms: f64) -> Arc<Door> {
    Door::new(Gate::new(
        Settings {
            window_ms,
            ..Settings::default()
        },
        Book::default(),
        Capacity {
            mu_per_ms: 1.0,
            kv_tokens: 1_000_000,
            ..Capacity::default()
        },
    ))
}

fn offer(mu: f64) -> Offer<'static> {
    Offer {
        tenant: "t",
        priority: None,
        cost: Amount {
            decode: MicroMu::from_mu(mu),
            sequences: 1,
            ..Amount::default()
        },
        deadline_us: u64::MAX,
        fit: None,
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn every_wait_ends_and_every_hold_is_given_back() {
    let door = door(20.0);
    let (clock, waited) = (AtomicU64::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for seed in 0..4u64 {
            let (door, clock, waited) = (&door, &clock, &waited);
            scope.spawn(move || {
                let mut state = seed + 1;
                let mut random = move || {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    state >> 33
                };
                for _ in 0..3_000 {
                    let now = clock.fetch_add(10, SeqCst);
                    let mut held = Vec::new();
                    for _ in 0..1 + random() % 4 {
                        match door.enter(&offer((random() % 30) as f64), now) {
                            Entry::Run(pass) => held.push(pass),
                            // A client that goes away.
                            Entry::Wait(turn) if random() % 3 == 0 => drop(turn),
                            Entry::Wait(turn) => {
                                waited.fetch_add(1, SeqCst);
                                held.clear();
                                held.push(block_on(turn).unwrap());
                            }
                            Entry::Shed(shed) => panic!("{shed:?}"),
                        }
                    }
                    for mut pass in held.drain(..) {
                        pass.prefill_done(now);
                        pass.decode_done(MicroMu::from_mu(3.0), now);
                        if random() % 2 == 0 {
                            pass.finish(MicroMu::from_mu(7.0), now);
                        }
                    }
                }
            });
        }
    });
    assert!(waited.into_inner() > 0, "the test must make some wait");
    door.look(|gate| {
        assert_eq!(gate.in_flight(), (0, MicroMu::ZERO));
        assert!(
            Priority::ALL
                .iter()
                .all(|class| gate.waiting(*class).0 == 0)
        );
    });
}

#[test]
fn a_place_given_up_after_it_was_called_costs_nothing() {
    let door = door(1.0);
    let Entry::Run(first) = door.enter(&offer(5.0), 0) else {
        panic!("there is room");
    };
    let Entry::Wait(turn) = door.enter(&offer(5.0), 0) else {
        panic!("it is full");
    };
    first.finish(MicroMu::from_mu(5.0), 1);
    assert_eq!(door.look(Gate::in_flight).0, 1);
    drop(turn);
    assert_eq!(door.look(Gate::in_flight), (0, MicroMu::ZERO));
    let billed = door.look(|gate| gate.standing("t").billed);
    assert_eq!(billed, MicroMu::from_mu(5.0));
}

#[test]
fn a_deadline_ends_a_wait() {
    let door = door(1.0);
    let _pass = door.enter(&offer(5.0), 0);
    let Entry::Wait(mut turn) = door.enter(
        &Offer {
            deadline_us: 700,
            ..offer(5.0)
        },
        0,
    ) else {
        panic!("it is full");
    };
    assert_eq!(door.next_event_us(), Some(700));
    door.advance(699);
    assert!(turn.take().is_none());
    door.advance(700);
    assert!(turn.take().unwrap().is_err());
}
