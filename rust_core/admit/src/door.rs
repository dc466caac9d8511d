//! A door: a gate behind one mutex, with wake-ups for those who wait and holds that end themselves.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use weighbridge_place::{Amount, MicroMu};

use crate::gate::Gate;
use crate::outcome::{Event, Grant, Offer, Outcome, Shed};
use crate::waiters::WaitId;

/// A [`Gate`] that threads share. The mutex is held for a fraction of a microsecond.
#[derive(Debug)]
pub struct Door {
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    gate: Gate,
    turns: HashMap<WaitId, Arc<Place>>,
    events: Vec<Event>,
    now_us: u64,
}

/// Where a waiting request finds its answer.
#[derive(Debug, Default)]
struct Place(Mutex<Answer>);

#[derive(Debug, Default)]
enum Answer {
    /// Not there yet; who is to be woken.
    Open(Option<Waker>),
    Run(Grant),
    Shed(Shed),
    #[default]
    Taken,
}

/// What a door says to a request.
#[derive(Debug)]
pub enum Entry {
    /// It runs until the pass is dropped or finished.
    Run(Pass),
    /// It waits.
    Wait(Turn),
    /// It is refused.
    Shed(Shed),
}

impl Door {
    /// A door before a gate.
    #[must_use]
    pub fn new(gate: Gate) -> Arc<Self> {
        Arc::new(Self {
            inside: Mutex::new(Inside {
                gate,
                turns: HashMap::new(),
                events: Vec::new(),
                now_us: 0,
            }),
        })
    }

    /// Asks for a request to run.
    pub fn enter(self: &Arc<Self>, offer: &Offer<'_>, now_us: u64) -> Entry {
        self.with(now_us, |inside, events| {
            match inside.gate.offer(offer, now_us, events) {
                Outcome::Run(grant) => Entry::Run(self.pass(grant)),
                Outcome::Shed(shed) => Entry::Shed(shed),
                Outcome::Wait(id) => {
                    let place = Arc::new(Place(Mutex::new(Answer::Open(None))));
                    inside.turns.insert(id, Arc::clone(&place));
                    Entry::Wait(Turn {
                        door: Arc::clone(self),
                        id,
                        place,
                    })
                }
            }
        })
    }

    /// Lets time pass: deadlines expire and buckets refill.
    pub fn advance(&self, now_us: u64) {
        self.with(now_us, |inside, events| {
            inside.gate.advance(now_us, events);
        });
    }

    /// When [`Door::advance`] will have something to do, if nothing else happens; µs.
    #[must_use]
    pub fn next_event_us(&self) -> Option<u64> {
        self.lock().gate.next_event_us()
    }

    /// Looks at the gate.
    pub fn look<T>(&self, look: impl FnOnce(&Gate) -> T) -> T {
        look(&self.lock().gate)
    }

    /// Changes the gate: its capacity, its settings, its book.
    pub fn change<T>(
        &self,
        now_us: u64,
        change: impl FnOnce(&mut Gate, &mut Vec<Event>) -> T,
    ) -> T {
        self.with(now_us, |inside, events| change(&mut inside.gate, events))
    }

    fn pass(self: &Arc<Self>, grant: Grant) -> Pass {
        Pass {
            door: Arc::clone(self),
            grant: Some(grant),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something inside, and then wakes those whose wait it ended.
    fn with<T>(&self, now_us: u64, act: impl FnOnce(&mut Inside, &mut Vec<Event>) -> T) -> T {
        self.inside(now_us, act).0
    }

    /// Does something inside, and gives back those whose wait it ended.
    fn inside<T>(
        &self,
        now_us: u64,
        act: impl FnOnce(&mut Inside, &mut Vec<Event>) -> T,
    ) -> (T, Woken) {
        let mut guard = self.lock();
        let inside = &mut *guard;
        inside.now_us = inside.now_us.max(now_us);
        let mut events = std::mem::take(&mut inside.events);
        let result = act(inside, &mut events);
        let mut wakers = Vec::new();
        for event in events.drain(..) {
            let (id, answer) = match event {
                Event::Run(id, grant) => (id, Answer::Run(grant)),
                Event::Shed(id, shed) => (id, Answer::Shed(shed)),
            };
            if let Some(place) = inside.turns.remove(&id) {
                if let Answer::Open(Some(waker)) = place.put(answer) {
                    wakers.push(waker);
                }
            }
        }
        inside.events = events;
        drop(guard);
        (result, Woken(wakers))
    }

    /// The latest time it was told.
    fn now_us(&self) -> u64 {
        self.lock().now_us
    }

    fn release(&self, grant: Grant, actual: MicroMu, now_us: u64) {
        self.with(now_us, |inside, events| {
            inside.gate.release(grant, actual, now_us, events);
        });
    }
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, Answer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, answer: Answer) -> Answer {
        std::mem::replace(&mut *self.lock(), answer)
    }
}

/// Tasks whose wait has ended: they are woken when this is dropped. A caller with a lock drops that
/// first, since what wakes them may want locks of its own.
#[derive(Debug, Default)]
pub struct Woken(Vec<Waker>);

impl Drop for Woken {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

/// A running request's hold on a door. Dropped, it ends as if its estimate had been right.
#[derive(Debug)]
pub struct Pass {
    door: Arc<Door>,
    grant: Option<Grant>,
}

impl Pass {
    /// Its prefill is done.
    pub fn prefill_done(&mut self, now_us: u64) -> Woken {
        let Some(grant) = &mut self.grant else {
            return Woken::default();
        };
        let done = self.door.inside(now_us, |inside, events| {
            inside.gate.prefill_done(grant, now_us, events);
        });
        done.1
    }

    /// It turns out to be larger than it was offered: see [`Gate::grow`].
    pub fn grow(&mut self, cost: Amount, taken: MicroMu, now_us: u64) -> Woken {
        let Some(grant) = &mut self.grant else {
            return Woken::default();
        };
        let grown = self.door.inside(now_us, |inside, events| {
            inside.gate.grow(grant, cost, taken, now_us, events);
        });
        grown.1
    }

    /// A part of its decode is done.
    pub fn decode_done(&mut self, work: MicroMu, now_us: u64) {
        if let Some(grant) = &mut self.grant {
            self.door.with(now_us, |inside, events| {
                inside.gate.decode_done(grant, work, now_us, events);
            });
        }
    }

    /// It is over, but what it took is not known yet: it makes room for others.
    pub fn over(&mut self, now_us: u64) -> Woken {
        let Some(grant) = &mut self.grant else {
            return Woken::default();
        };
        let over = self.door.inside(now_us, |inside, events| {
            inside.gate.over(grant, now_us, events);
        });
        over.1
    }

    /// It has ended and took `actual` MU.
    pub fn finish(mut self, actual: MicroMu, now_us: u64) -> Woken {
        let Some(grant) = self.grant.take() else {
            return Woken::default();
        };
        let finished = self.door.inside(now_us, |inside, events| {
            inside.gate.release(grant, actual, now_us, events);
        });
        finished.1
    }

    /// Gives back what was claimed for it: it is placed now.
    pub fn unclaim(&mut self) {
        if let Some(grant) = &mut self.grant {
            grant.claim = None;
        }
    }

    /// What the gate holds for it.
    #[must_use]
    pub fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    /// The door it passed.
    #[must_use]
    pub fn door(&self) -> &Arc<Door> {
        &self.door
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(grant) = self.grant.take() {
            let charged = grant.charged();
            let now_us = self.door.now_us();
            self.door.release(grant, charged, now_us);
        }
    }
}

/// A place in the queue; dropped, it is given up. As a future it ends with a pass or a refusal.
#[derive(Debug)]
pub struct Turn {
    door: Arc<Door>,
    id: WaitId,
    place: Arc<Place>,
}

impl Turn {
    /// The answer, if it is there; it is given once.
    pub fn take(&mut self) -> Option<Result<Pass, Shed>> {
        let answer = {
            let mut answer = self.place.lock();
            if matches!(*answer, Answer::Open(_)) {
                return None;
            }
            std::mem::take(&mut *answer)
        };
        match answer {
            Answer::Run(grant) => Some(Ok(self.door.pass(grant))),
            Answer::Shed(shed) => Some(Err(shed)),
            Answer::Open(_) | Answer::Taken => None,
        }
    }

    /// Has `waker` called when the answer is there; at once, if it is.
    pub fn wake(&self, waker: Waker) {
        let mut answer = self.place.lock();
        if let Answer::Open(slot) = &mut *answer {
            *slot = Some(waker);
            return;
        }
        drop(answer);
        waker.wake();
    }
}

impl Future for Turn {
    type Output = Result<Pass, Shed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        {
            let mut answer = self.place.lock();
            if let Answer::Open(slot) = &mut *answer {
                *slot = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // The answer may have come meanwhile; under the door's lock it cannot change any more.
        let now_us = self.door.now_us();
        let answer = self.door.with(now_us, |inside, events| {
            if inside.turns.remove(&self.id).is_some() {
                inside.gate.cancel(self.id, now_us, events);
            }
            self.place.put(Answer::Taken)
        });
        if let Answer::Run(grant) = answer {
            self.door.release(grant, MicroMu::ZERO, now_us);
        }
    }
}
