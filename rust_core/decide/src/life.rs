//! What one request holds, from its placing to its end, in one object: whichever way it ends, all of
//! it is given back.

use crate::shards::{Shards, hash};
use crate::signs::Signs;
use crate::ticket::Origin;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use weighbridge_admit::Pass;
use weighbridge_learn::Flight;
use weighbridge_learn::predict::Ask;
use weighbridge_learn::usage::Reply;
use weighbridge_place::{Charge, MicroMu, Replica};
use weighbridge_weigh::{Profile, Work};

/// What is known of a request when it begins, for what is learnt when it ends.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) number: u64,
    pub(crate) request_id: Arc<str>,
    pub(crate) tenant: Arc<str>,
    pub(crate) origin: Origin,
    pub(crate) ask: Ask,
    pub(crate) profile: Arc<Profile>,
    /// As expected: prompt, cached and output tokens.
    pub(crate) work: Work,
    /// The factor on the token estimate that was used.
    pub(crate) factor: f64,
    /// Its whole text was seen, so that the prompt's tokens teach something.
    pub(crate) is_whole: bool,
    /// Its prompt was counted: a reply teaches nothing about estimates.
    pub(crate) is_counted: bool,
    pub(crate) max_output: Option<u64>,
    pub(crate) promised_blocks: u32,
    /// Share of what the index promised that these are.
    pub(crate) believed_share: f64,
    /// The choice was carried out; else another replica may have served, with another cache.
    pub(crate) is_steered: bool,
    pub(crate) estimated: MicroMu,
    /// Of these, for the answer.
    pub(crate) decode_mu: f64,
    pub(crate) waited_us: u64,
}

/// A request under way, shared by the stream that routes it and the one that observes its reply.
///
/// What it holds of others goes back when the last of them drops it: the ledger's charge, its pass,
/// the measuring of its speed, and its place among the requests that are open. [`Life::end`] and
/// [`Life::abandon`] give back what only the routing stream needs, without waiting for the other.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) facts: Facts,
    held: Mutex<Held>,
}

/// What a [`Life`] holds, behind its lock.
#[derive(Debug)]
pub(crate) struct Held {
    /// Where it can be found by its id.
    listed: Option<Weak<Open>>,
    charge: Option<Charge>,
    pub(crate) pass: Option<Pass>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) flight: Option<Measured>,
    pub(crate) status: u16,
    /// When the reply's headers came, µs.
    pub(crate) first_byte_us: Option<u64>,
    /// Its prompt is computed, if that can be seen.
    is_computed: bool,
    /// A stream observes the reply and is not done.
    pub(crate) is_observed: bool,
    pub(crate) reply: Option<Reply>,
    /// When its stream ended, µs.
    pub(crate) ended_us: Option<u64>,
}

/// What a request left behind on its replica when it ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// KV tokens held, times the ms since it was placed.
    pub(crate) kv_token_ms: u64,
    /// A reply had begun.
    pub(crate) has_begun: bool,
}

impl Life {
    /// A request that begins on `replica` and holds all this of it.
    pub(crate) fn new(
        facts: Facts,
        pass: Option<Pass>,
        replica: &Arc<Replica>,
        charge: Charge,
        flight: Option<Measured>,
    ) -> Self {
        Self {
            facts,
            held: Mutex::new(Held {
                listed: None,
                charge: Some(charge),
                pass,
                replica: Arc::clone(replica),
                flight,
                status: 0,
                first_byte_us: None,
                is_computed: false,
                is_observed: false,
                reply: None,
                ended_us: None,
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the whole body was seen.
    pub(crate) fn is_whole(&self) -> bool {
        self.facts.is_whole
    }

    /// The reply's headers are there, from `replica`.
    pub(crate) fn first_byte(&self, status: u16, replica: &Arc<Replica>, now_us: u64) {
        let mut held = self.lock();
        held.status = status;
        let has_moved = held.replica.id != replica.id;
        if has_moved {
            if let Some(charge) = &mut held.charge {
                charge.move_to(&replica.load);
            }
        }
        if !Arc::ptr_eq(&held.replica, replica) {
            held.replica = Arc::clone(replica);
        }
        held.first_byte_us = held.first_byte_us.or(Some(now_us));
        if has_moved || status >= 400 {
            if let Some(flight) = held.flight.take() {
                flight.end(None, now_us);
            }
        }
        // Engines send a stream's headers before they compute its prompt: the observer of the reply
        // tells when its first output comes.
        if !held.is_observed || status >= 400 {
            self.computed(&mut held, now_us);
        }
    }

    /// The prompt is computed: what was charged for that is given back.
    pub(crate) fn computed(&self, held: &mut Held, now_us: u64) {
        if std::mem::replace(&mut held.is_computed, true) {
            return;
        }
        if let Some(charge) = &mut held.charge {
            charge.prefill_done();
        }
        if let Some(flight) = &mut held.flight {
            flight.first_byte(self.facts.decode_mu, now_us);
        }
        if let Some(pass) = &mut held.pass {
            pass.prefill_done(now_us);
        }
    }

    /// The routing stream has ended: nothing is on the replica's ledger any more.
    pub(crate) fn end(&self, now_us: u64) -> Ended {
        let mut held = self.lock();
        let listed = held.listed.take();
        held.ended_us = held.ended_us.or(Some(now_us));
        let amount = held.charge.take().map(|charge| charge.amount());
        let held_ms = now_us.saturating_sub(self.facts.origin.at_us) / 1000;
        let kv_tokens = amount.map_or(0, |amount| amount.kv_tokens);
        let ended = Ended {
            kv_token_ms: kv_tokens.saturating_mul(held_ms),
            has_begun: held.first_byte_us.is_some(),
        };
        drop(held);
        self.unlist(listed);
        ended
    }

    /// The routing stream is gone without having ended it.
    pub(crate) fn abandon(&self) {
        let mut held = self.lock();
        if held.ended_us.is_some() {
            return;
        }
        let listed = held.listed.take();
        let latest_us = held.first_byte_us.unwrap_or(self.facts.origin.at_us);
        held.ended_us = Some(latest_us);
        held.charge = None;
        held.flight = None;
        if held.is_observed {
            // Its observer settles it.
            if let Some(pass) = &mut held.pass {
                pass.over(latest_us);
            }
        } else {
            held.pass = None;
        }
        drop(held);
        self.unlist(listed);
    }

    fn unlist(&self, listed: Option<Weak<Open>>) {
        if let Some(open) = listed.and_then(|open| open.upgrade()) {
            open.remove(self);
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let held = self.held.get_mut();
        let listed = held.unwrap_or_else(PoisonError::into_inner).listed.take();
        self.unlist(listed);
    }
}

/// Requests under way, by id, for those that observe their replies.
#[derive(Debug, Default)]
pub(crate) struct Open(Shards<HashMap<Arc<str>, Weak<Life>>>);

impl Open {
    /// Lets a request be found by its id until it has ended.
    pub(crate) fn list(self: &Arc<Self>, mut life: Life) -> Arc<Life> {
        if life.facts.request_id.is_empty() {
            return Arc::new(life);
        }
        let held = life.held.get_mut();
        held.unwrap_or_else(PoisonError::into_inner).listed = Some(Arc::downgrade(self));
        let life = Arc::new(life);
        let id = &life.facts.request_id;
        self.shard(id).insert(Arc::clone(id), Arc::downgrade(&life));
        life
    }

    /// The request of this id, if it is under way.
    pub(crate) fn find(&self, request_id: &str) -> Option<Arc<Life>> {
        self.shard(request_id).get(request_id)?.upgrade()
    }

    /// Requests listed.
    pub(crate) fn len(&self) -> usize {
        self.0.all().map(|shard| shard.len()).sum()
    }

    fn remove(&self, life: &Life) {
        let id = &*life.facts.request_id;
        let mut shard = self.shard(id);
        // Another request may have come with the same id.
        if shard
            .get(id)
            .is_some_and(|found| std::ptr::eq(found.as_ptr(), life))
        {
            shard.remove(id);
        }
    }

    fn shard(&self, request_id: &str) -> MutexGuard<'_, HashMap<Arc<str>, Weak<Life>>> {
        self.0.of(hash(request_id))
    }
}

/// A request's part in the measuring of its replica's speed; dropped, it counts as broken off.
#[derive(Debug)]
pub(crate) struct Measured {
    signs: Arc<Signs>,
    flight: Option<Flight>,
    /// The latest time it was told, µs.
    at_us: u64,
}

impl Measured {
    /// It is placed; its first byte is expected in `expected_ms`.
    pub(crate) fn begin(signs: Arc<Signs>, expected_ms: f64, now_us: u64) -> Self {
        let flight = Some(signs.placed(expected_ms, now_us));
        Self {
            signs,
            flight,
            at_us: now_us,
        }
    }

    /// Its first output is there; `decode_mu` follows.
    pub(crate) fn first_byte(&mut self, decode_mu: f64, now_us: u64) {
        self.at_us = now_us;
        if let Some(flight) = &mut self.flight {
            self.signs.first_byte(flight, decode_mu, now_us);
        }
    }

    /// It has ended, having taken `decode_mu` where that is known.
    pub(crate) fn end(mut self, decode_mu: Option<f64>, now_us: u64) {
        if let Some(flight) = self.flight.take() {
            self.signs.end(flight, decode_mu, now_us);
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.signs.end(flight, None, self.at_us);
        }
    }
}
