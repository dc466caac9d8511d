//! What one request holds, from its placing to its end, in one object: whichever way it ends, all of
//! it is given back.

use crate::admission;
use crate::claims::longest_answer;
use crate::refusal::Refusal;
use crate::shards::{Shards, hash};
use crate::signs::{Measured, Signs};
use crate::ticket::Origin;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use weighbridge_admit::{Pass, Woken};
use weighbridge_learn::health::Source;
use weighbridge_learn::predict::Ask;
use weighbridge_learn::usage::Reply;
use weighbridge_place::{Amount, Charge, MicroMu, Objectives, Placed, Replica};
use weighbridge_weigh::{Profile, Work};

/// What is known of a request when it begins, for what is learnt when it ends.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) number: u64,
    pub(crate) request_id: Arc<str>,
    pub(crate) tenant: Arc<str>,
    /// Who speaks for or against a replica by it.
    pub(crate) source: Source,
    pub(crate) origin: Origin,
    /// First tokens and tokens that are in time.
    pub(crate) objectives: Objectives,
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
    /// Prefill MU that the cache was expected to save.
    pub(crate) saved: MicroMu,
    pub(crate) waited_us: u64,
    /// Joins the streams of the request: clients do not know it.
    pub(crate) join: u64,
}

/// The prompt that a request brings to its replica; dropped unanswered, it is not expected there.
#[derive(Debug)]
pub(crate) struct Brought {
    replica: Arc<Replica>,
    chain: Arc<[u64]>,
}

impl Brought {
    /// The replica will have this chain if the request is answered.
    pub(crate) fn new(replica: &Arc<Replica>, chain: &Arc<[u64]>) -> Self {
        replica.cache.expect(chain);
        Self {
            replica: Arc::clone(replica),
            chain: Arc::clone(chain),
        }
    }

    /// It was answered well by `served`, which has the chain now.
    fn answered(self, served: &Replica) {
        served.cache.record(&self.chain);
    }
}

impl Drop for Brought {
    fn drop(&mut self) {
        self.replica.cache.forget(&self.chain);
    }
}

/// Who began to answer a request.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) replica: &'a Arc<Replica>,
    /// What is gathered of that replica, where the gateway says that it was this one.
    pub(crate) signs: Option<Arc<Signs>>,
    /// Any of several replicas was asked: that one passed it on says nothing of it.
    pub(crate) is_sought: bool,
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
    /// Where it can be found, and whether by its `x-request-id` too.
    listed: Option<Weak<Open>>,
    is_named: bool,
    pub(crate) charge: Option<Charge>,
    pub(crate) pass: Option<Pass>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) flight: Option<Measured>,
    /// The prompt, until it is seen who answers.
    brought: Option<Brought>,
    pub(crate) status: u16,
    /// When the reply's headers came, µs.
    pub(crate) first_byte_us: Option<u64>,
    /// Its prompt is computed, if that can be seen.
    is_computed: bool,
    /// It counts as computed by the forecast, if that cannot be seen.
    pub(crate) is_foretold: bool,
    /// Tokens that each answer is expected to have, now.
    expected_output: u64,
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
        brought: Option<Brought>,
    ) -> Self {
        let expected_output = facts.work.output_tokens;
        Self {
            facts,
            held: Mutex::new(Held {
                listed: None,
                is_named: false,
                charge: Some(charge),
                pass,
                replica: Arc::clone(replica),
                flight,
                brought,
                status: 0,
                first_byte_us: None,
                is_computed: false,
                is_foretold: false,
                expected_output,
                is_observed: false,
                reply: None,
                ended_us: None,
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reply's headers are there.
    pub(crate) fn first_byte(&self, answer: &Answer<'_>, now_us: u64) {
        let Answer {
            status, replica, ..
        } = *answer;
        // Declared before the lock: others are woken after it is given back.
        let mut woken = Woken::default();
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
        let is_first = held.first_byte_us.is_none();
        held.first_byte_us = held.first_byte_us.or(Some(now_us));
        if let Some(brought) = held.brought.take().filter(|_| status < 400) {
            brought.answered(replica);
        }
        if let Some(flight) = held.flight.take() {
            if has_moved {
                // Envoy could not begin where it was sent.
                if !answer.is_sought {
                    flight.failed();
                }
            } else {
                if is_first {
                    flight.answered(status);
                }
                held.flight = Some(flight).filter(|_| status < 400);
            }
        }
        // Of a body that was seen in part it may be more than a replica takes.
        if is_first && self.facts.is_whole && (has_moved || !self.facts.is_steered) {
            if let Some(signs) = &answer.signs {
                signs.answered(self.facts.source, status);
            }
        }
        // Engines send a stream's headers before they compute its prompt: the observer of the reply
        // tells when its first output comes, or else the forecast.
        let tells_later = held.is_observed || (self.facts.ask.stream && held.is_foretold);
        if !tells_later || status >= 400 {
            woken = self.computed(&mut held, now_us);
        }
        drop(held);
        drop(woken);
    }

    /// The prompt is computed: what was charged for that is given back. Those that may run now are to
    /// be woken once the lock is.
    pub(crate) fn computed(&self, held: &mut Held, now_us: u64) -> Woken {
        if let Some(flight) = held.flight.as_mut().filter(|_| !held.is_computed) {
            flight.first_output(now_us);
        }
        Self::prefill_over(held, now_us)
    }

    fn prefill_over(held: &mut Held, now_us: u64) -> Woken {
        if std::mem::replace(&mut held.is_computed, true) {
            return Woken::default();
        }
        if let Some(charge) = &mut held.charge {
            charge.prefill_done();
        }
        let pass = held.pass.as_mut();
        pass.map_or_else(Woken::default, |pass| pass.prefill_done(now_us))
    }

    /// By the forecast its prompt is computed, which counts where nobody can see whether it is. Those that
    /// may run now are woken when what is returned is dropped.
    pub(crate) fn foretold(&self, now_us: u64) -> Woken {
        let mut held = self.lock();
        if held.is_computed || (self.facts.ask.stream && held.is_observed) {
            return Woken::default();
        }
        if let Some(flight) = &mut held.flight {
            flight.decodes(now_us);
        }
        Self::prefill_over(&mut held, now_us)
    }

    /// `tokens` of each answer are out. Where they are more than was expected, the answer counts
    /// as one that goes on for as long again, within what it may have: the longer it has been, the more
    /// is likely to come.
    pub(crate) fn outrun(&self, held: &mut Held, tokens: u64, now_us: u64) -> Woken {
        let facts = &self.facts;
        if tokens <= held.expected_output || held.ended_us.is_some() || held.status >= 400 {
            return Woken::default();
        }
        let most = longest_answer(&facts.profile, facts.max_output);
        let expected = tokens.saturating_mul(2).min(most);
        if expected <= held.expected_output {
            return Woken::default();
        }
        held.expected_output = expected;
        let work = |output_tokens| Work {
            output_tokens,
            ..facts.work
        };
        let cost = |tokens| {
            let work = work(tokens).within(facts.profile.longest_sequence());
            facts.profile.cost(&work)
        };
        let whole = cost(expected);
        let mut amount = Amount {
            decode: MicroMu::from_mu(whole.decode_mu),
            kv_tokens: whole.kv_tokens,
            sequences: whole.sequences,
            ..Amount::default()
        };
        if let Some(charge) = &mut held.charge {
            let now = charge.amount();
            amount.prefill = now.prefill;
            amount.kv_reserved = now.kv_reserved.max(amount.kv_tokens);
            charge.adjust(amount);
        }
        let taken = MicroMu::from_mu(cost(tokens.min(most)).total());
        let pass = held.pass.as_mut();
        pass.map_or_else(Woken::default, |pass| pass.grow(amount, taken, now_us))
    }

    /// Tokens of each answer from which on it is longer than expected.
    pub(crate) fn expects(&self) -> u64 {
        self.lock().expected_output
    }

    /// Prefill that its replica has not computed, while no answer has begun.
    pub(crate) fn prefill_left(&self) -> MicroMu {
        let held = self.lock();
        let charge = held.charge.as_ref();
        let charge = charge.filter(|_| held.first_byte_us.is_none() && held.ended_us.is_none());
        charge.map_or(MicroMu::ZERO, |charge| charge.amount().prefill)
    }

    /// It is cut before it was answered: it says nothing of its replica, and nobody pays for it.
    pub(crate) fn cut(&self) -> Refusal {
        let mut held = self.lock();
        held.flight = None;
        let shed = held.pass.as_ref().and_then(|pass| {
            let shed = pass
                .door()
                .look(|gate| pass.grant().map(|grant| gate.preempted(grant)));
            shed.map(|shed| admission::refusal(shed, pass.door(), &self.facts.tenant))
        });
        let refusal = shed.unwrap_or_else(Refusal::no_replica_at_all);
        held.status = refusal.status;
        refusal
    }

    /// The routing stream has ended: nothing is on the replica's ledger any more. `None` where it had
    /// ended before.
    pub(crate) fn end(&self, now_us: u64) -> Option<Ended> {
        let mut held = self.lock();
        if held.ended_us.is_some() {
            return None;
        }
        let listed = held.listed.take();
        held.brought = None;
        held.ended_us = Some(now_us);
        // The copy of its reply may end a second later.
        if let Some(flight) = &mut held.flight {
            flight.stopped(now_us);
        }
        let amount = held.charge.as_mut().map(Charge::over);
        let held_ms = now_us.saturating_sub(self.facts.origin.at_us) / 1000;
        // What an engine refuses has held nothing.
        let kv_tokens = amount
            .filter(|_| held.status < 400)
            .map_or(0, |amount| amount.kv_tokens);
        let is_named = held.is_named;
        let ended = Ended {
            kv_token_ms: kv_tokens.saturating_mul(held_ms),
            has_begun: held.first_byte_us.is_some(),
        };
        drop(held);
        self.unlist(listed, is_named);
        Some(ended)
    }

    /// What it was counted as in its slice when it was placed.
    pub(crate) fn placed(&self) -> Placed {
        Placed {
            charged: self.facts.estimated,
            saved: self.facts.saved,
        }
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
        held.brought = None;
        // Its observer settles it, if there is one.
        let is_observed = held.is_observed;
        let observed = held.pass.as_mut().filter(|_| is_observed);
        let woken = observed.map(|pass| pass.over(latest_us));
        let pass = held.pass.take_if(|_| !is_observed);
        let is_named = held.is_named;
        drop(held);
        drop((woken, pass));
        self.unlist(listed, is_named);
    }

    /// It ended unanswered, after it had waited for long: its replica's failure where that should have
    /// begun to answer.
    pub(crate) fn late(&self, now_us: u64) {
        let held = self.lock();
        if let Some(flight) = held.flight.as_ref().filter(|one| one.is_overdue(now_us)) {
            flight.failed();
        }
    }

    fn unlist(&self, listed: Option<Weak<Open>>, is_named: bool) {
        if let Some(open) = listed.and_then(|open| open.upgrade()) {
            open.remove(self, is_named);
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let held = self.held.get_mut();
        let held = held.unwrap_or_else(PoisonError::into_inner);
        let (listed, is_named) = (held.listed.take(), held.is_named);
        self.unlist(listed, is_named);
    }
}

/// Requests under way, for those that observe their replies.
///
/// A reply is joined to its request by a number that this process draws and puts on the request: a
/// client can neither choose nor guess it. Where the gateway has not shown one yet (it may take the
/// header off), `x-request-id` serves, if no two requests under way have the same.
#[derive(Debug, Default)]
pub(crate) struct Open {
    /// With keys of this process: what it draws cannot be foretold.
    random: RandomState,
    by_join: Shards<HashMap<u64, Joined>>,
    by_name: Shards<HashMap<Arc<str>, Named>>,
    /// Requests are seen with the number on them.
    is_joined: AtomicBool,
}

/// The request under way that has a number.
#[derive(Debug)]
struct Joined {
    life: Weak<Life>,
    /// When it was placed, µs.
    at_us: u64,
}

/// The requests under way that have one `x-request-id`.
#[derive(Debug)]
struct Named {
    life: Weak<Life>,
    count: u32,
}

impl Open {
    /// The number by which the streams of a request are joined, by the decision's number.
    pub(crate) fn draw(&self, number: u64) -> u64 {
        self.random.hash_one(number)
    }

    /// Lets a request be found until it has ended.
    pub(crate) fn list(self: &Arc<Self>, mut life: Life) -> Arc<Life> {
        // With numbers on them, only requests that get none need their name.
        let is_numbered = life.facts.is_steered && self.is_joined();
        let is_named = !life.facts.request_id.is_empty() && !is_numbered;
        let held = life.held.get_mut();
        let held = held.unwrap_or_else(PoisonError::into_inner);
        (held.listed, held.is_named) = (Some(Arc::downgrade(self)), is_named);
        let life = Arc::new(life);
        let join = life.facts.join;
        let joined = Joined {
            life: Arc::downgrade(&life),
            at_us: life.facts.origin.at_us,
        };
        self.by_join.of(join).insert(join, joined);
        if is_named {
            let id = &life.facts.request_id;
            let mut names = self.by_name.of(hash(id));
            let named = names.entry(Arc::clone(id)).or_insert_with(|| Named {
                life: Arc::downgrade(&life),
                count: 0,
            });
            named.count += 1;
        }
        life
    }

    /// The request under way that has this number on it.
    pub(crate) fn find(&self, join: u64) -> Option<Arc<Life>> {
        let found = self.by_join.of(join).get(&join)?.life.upgrade();
        if found.is_some() {
            self.is_joined.store(true, Relaxed);
        }
        found
    }

    /// The request under way of this `x-request-id`, if there is one alone, and its number does not
    /// get through.
    pub(crate) fn find_named(&self, request_id: &str) -> Option<Arc<Life>> {
        let names = self.by_name.of(hash(request_id));
        let named = names.get(request_id).filter(|named| named.count == 1)?;
        let life = named.life.upgrade()?;
        let joins = life.facts.is_steered && self.is_joined();
        (!joins).then_some(life)
    }

    /// Those that were placed before a time, µs.
    pub(crate) fn begun_before(&self, before_us: u64) -> Vec<Arc<Life>> {
        let of = |shard: MutexGuard<'_, HashMap<u64, Joined>>| {
            let old = shard.values().filter(|joined| joined.at_us < before_us);
            old.filter_map(|joined| joined.life.upgrade())
                .collect::<Vec<_>>()
        };
        self.by_join.all().flat_map(of).collect()
    }

    /// Whether replies are observed, by the numbers on their requests.
    pub(crate) fn is_joined(&self) -> bool {
        self.is_joined.load(Relaxed)
    }

    /// Requests listed.
    pub(crate) fn len(&self) -> usize {
        let joins: usize = self.by_join.all().map(|shard| shard.len()).sum();
        let names: usize = self.by_name.all().map(|shard| shard.len()).sum();
        joins.max(names)
    }

    fn remove(&self, life: &Life, is_named: bool) {
        let join = life.facts.join;
        self.by_join.of(join).remove(&join);
        if is_named {
            let id = &*life.facts.request_id;
            let mut names = self.by_name.of(hash(id));
            if let Some(named) = names.get_mut(id) {
                named.count = named.count.saturating_sub(1);
                if named.count == 0 {
                    names.remove(id);
                }
            }
        }
    }
}
