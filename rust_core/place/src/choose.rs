//! The choice: among the slice's replicas, the best cached and a few others, the soonest to answer.
//!
//! A candidate's score is in ms of a first token: what the request would get there, and what it would
//! cost the others there, by the step-time model of [`crate::forecast`]:
//!
//! ```text
//! score = (first · urgency + others · kept + late + room_weight · short · lost + adapter) · health
//! urgency = everybody's ttft objective ÷ its own
//! kept    = 1 + promise_weight · yields · share of its requests that came on promises
//! lost    = the prefill that the longest match of all would save and its own does not, ms
//! short   = min(1, reuse_ms ÷ the time in which its cache is filled again)²; 0 while it is not full
//! adapter = the time to load the adapter, where it lacks it
//! health  = degraded_factor where it is degraded, else 1
//! ```
//!
//! A copy of a prefix on a second replica takes the time of all who are there, which `others` counts,
//! and pushes other prefixes out where the cache is full of what will be used again, which `room_weight`
//! counts. KV memory that is full is a wait like any other, so pressure never makes a request forget
//! its cache.
//!
//! What a request without a promise does to those that have one counts many times: under pressure others
//! leave the replicas that promises use, and come back as these use them less.
//!
//! A request that goes on from a response which one replica alone keeps goes there. Of others,
//! the lowest score wins, but the replica that holds half of the prompt or more keeps the request,
//! and else home does, unless the winner beats it by the spill margin.
//! Candidates are the slice's replicas (home first, by rendezvous of key and replica), those with the
//! longest cached prefix, and a few of the pool, half of them the same each time for the same key.
//! Estimating latency per candidate rather than comparing loads is Prequal's lesson (Wydrowski et al.,
//! NSDI 2024); weighing a cached prefix against load is Preble's (Srivatsa et al., 2024).

use smallvec::SmallVec;

use crate::choice::{Ask, Candidate, Decision, FALLBACKS, NoReplica, Reason, Role, Verdict};
use crate::choice_settings::ChoiceSettings;
use crate::forecast::Newcomer;
use crate::key::mix;
use crate::mu::MicroMu;
use crate::prefix::Matches;
use crate::prospect::Prospect;
use crate::replica::{ModelPool, Pool, Replica, ReplicaId, State};
use crate::slices::Slices;

/// Pools up to this size are looked at whole.
const SMALL_POOL: usize = 8;

/// Replicas of a slice that are looked at.
const MOST_HOMES: usize = 4;

/// Candidates that there is room for without asking for more memory.
const MOST_LOOKED_AT: usize = 17;

/// What a ms of a request's own wait counts at least and at most, however long or short an objective it
/// has.
const LEAST_URGENCY: f64 = 0.01;
/// See [`LEAST_URGENCY`].
const MOST_URGENCY: f64 = 100.0;

/// Chooses a replica. `slices` are the model's in the current assignment; without them a key's home
/// is the first open replica on the hash ring. Charges nothing and records nothing.
///
/// # Errors
/// When no replica serves the model, or none of the allowed ones is ready.
pub fn choose(
    pool: &Pool,
    slices: Option<&Slices>,
    ask: &Ask<'_>,
    settings: &ChoiceSettings,
) -> Result<Decision, NoReplica> {
    let members = pool.model(ask.model).ok_or(NoReplica::UnknownModel)?;
    let allowed = ask.subset.map(|subset| resolve(pool, members, subset));
    let matches = pool.index().matches(ask.chain);
    let mut look = Look {
        pool,
        members,
        ask,
        settings,
        allowed: allowed.as_deref(),
        matches: &matches,
        candidates: Vec::with_capacity(MOST_LOOKED_AT),
        whole: Own::of(ask, 0),
        partly: None,
        least_prefill: 0.0,
    };
    look.least_prefill = look.own(matches.deepest()).prefill.as_mu();
    look.at_slice(slices);
    ask.keeper.iter().for_each(|id| look.add(*id, Role::Keeper));
    look.at_cached();
    look.at_others();
    look.decide()
}

/// The numbers of this model's replicas among these endpoints, in order.
fn resolve(pool: &Pool, members: &ModelPool, subset: &[&str]) -> Vec<ReplicaId> {
    let mut ids: Vec<ReplicaId> = subset
        .iter()
        .filter_map(|endpoint| pool.endpoint(endpoint))
        .filter(|replica| replica.spec.model == members.model)
        .map(|replica| replica.id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// What a request takes of a replica that has some of its blocks cached.
#[derive(Clone, Copy)]
struct Own {
    blocks: u32,
    prefill: MicroMu,
    /// KV tokens set aside.
    kv: u64,
}

impl Own {
    fn of(ask: &Ask<'_>, blocks: u32) -> Self {
        Self {
            blocks,
            prefill: (ask.prefill)(blocks),
            kv: (ask.kv)(blocks),
        }
    }
}

/// What is looked at for one request.
struct Look<'a> {
    pool: &'a Pool,
    members: &'a ModelPool,
    ask: &'a Ask<'a>,
    settings: &'a ChoiceSettings,
    allowed: Option<&'a [ReplicaId]>,
    matches: &'a Matches,
    candidates: Vec<Candidate>,
    /// With nothing cached…
    whole: Own,
    /// …and with as many blocks as were asked about last: candidates often hold as many.
    partly: Option<Own>,
    /// Prefill MU where most of the prompt is cached.
    least_prefill: f64,
}

impl Look<'_> {
    fn at_slice(&mut self, slices: Option<&Slices>) {
        let homes = slices
            .and_then(|slices| slices.find(self.ask.key))
            .map_or(&[][..], |s| s.homes);
        let rank = |id: &ReplicaId| mix(self.ask.key.bits(), u64::from(id.0));
        let known = homes.iter().filter(|id| self.member(**id).is_some());
        let home = known.max_by_key(|id| rank(id)).copied();
        let Some(home) = home.or_else(|| self.ring_home()) else {
            return;
        };
        self.add(home, Role::Home);
        if homes.len() <= MOST_HOMES {
            homes.iter().for_each(|id| self.add(*id, Role::Slice));
            return;
        }
        for turn in 1..MOST_HOMES {
            let at = pick(mix(self.ask.seed, turn as u64), homes.len());
            if let Some(id) = homes.get(at) {
                self.add(*id, Role::Slice);
            }
        }
    }

    fn at_cached(&mut self) {
        for (id, _) in self.matches.best(self.settings.cached, self.ask.seed) {
            if let Some(replica) = self.pool.in_slot(id) {
                self.add(replica.id, Role::Cached);
            }
        }
    }

    fn at_others(&mut self) {
        let members = self.members;
        if members.replicas.len() <= SMALL_POOL {
            members
                .replicas
                .iter()
                .for_each(|replica| self.add(replica.id, Role::Sampled));
            return;
        }
        let with_adapter = self
            .ask
            .adapter
            .and_then(|name| members.with_adapter.get(name));
        let open = with_adapter.unwrap_or(&members.open);
        let from = self.allowed.unwrap_or(open);
        for turn in 0..self.settings.samples {
            let seed = if turn % 2 == 0 {
                self.ask.key.bits()
            } else {
                self.ask.seed
            };
            // Salted by the turn: a seed that is the key gives other replicas, not the same again.
            if let Some(id) = from.get(pick(mix(seed, 0x0074_6865_7273 + turn as u64), from.len()))
            {
                self.add(*id, Role::Sampled);
            }
        }
    }

    fn at_all(&mut self) {
        let members = self.members;
        members
            .replicas
            .iter()
            .for_each(|replica| self.add(replica.id, Role::Sampled));
    }

    fn ring_home(&self) -> Option<ReplicaId> {
        let mut walk = self.members.ring.walk(mix(0, self.ask.key.bits()));
        let replica = |at: u32| self.members.replicas.get(at as usize);
        let open = walk.find_map(|at| replica(at).filter(|found| found.spec.state.is_open()));
        open.or_else(|| self.members.replicas.first())
            .map(|found| found.id)
    }

    /// The replica, if it still serves this model: the assignment may be older than the pool.
    fn member(&self, id: ReplicaId) -> Option<&Replica> {
        let known = self.pool.replica(id).filter(|_| self.members.has(id));
        known.map(|replica| &**replica)
    }

    fn add(&mut self, id: ReplicaId, role: Role) {
        if self.candidates.iter().any(|seen| seen.replica == id) {
            return;
        }
        let pool = self.pool;
        let known = pool.replica(id).filter(|_| self.members.has(id));
        if let Some(replica) = known {
            let candidate = self.weigh(replica, role);
            self.candidates.push(candidate);
        }
    }

    /// What it takes of a replica that has so many blocks cached.
    fn own(&mut self, cached_blocks: u32) -> Own {
        if cached_blocks == 0 {
            return self.whole;
        }
        match self.partly {
            Some(own) if own.blocks == cached_blocks => own,
            _ => *self.partly.insert(Own::of(self.ask, cached_blocks)),
        }
    }

    fn weigh(&mut self, replica: &Replica, role: Role) -> Candidate {
        let settings = self.settings;
        let cached_blocks = replica.cache.believed(self.matches.blocks(replica.id));
        let own = self.own(cached_blocks);
        let prefill = own.prefill.as_mu().max(0.0);
        let prefill_ms = prefill / replica.full_mu_per_ms();
        let newcomer = Newcomer {
            prefill_ms,
            decode_mu: self.ask.decode.as_mu(),
            kv_tokens: self.ask.kv_tokens as f64,
            kv_reserved: own.kv as f64,
            sequences: f64::from(self.ask.sequences),
            tpot_objective_ms: self.ask.objectives.map(|own| own.tpot_ms),
        };
        let lost_ms = (prefill - self.least_prefill).max(0.0) / replica.full_mu_per_ms();
        let refill = settings.reuse_ms * replica.cache.turnover() / settings.memory_ms.max(1.0);
        let short = (refill * refill).min(1.0);
        let adapter = self
            .ask
            .adapter
            .filter(|name| !replica.spec.has_adapter(name));
        let adapter_ms = adapter.map_or(0.0, |_| settings.adapter_ms);
        let urgency = self.ask.objectives.map_or(1.0, |own| {
            let ratio = settings.objectives.ttft_ms / own.ttft_ms.max(1e-3);
            ratio.clamp(LEAST_URGENCY, MOST_URGENCY)
        });
        let prospect = Prospect {
            newcomer,
            urgency,
            yields: settings.promise_weight * self.ask.yields,
            aside_ms: settings.room_weight * short * lost_ms + adapter_ms,
        };
        let outlook = prospect.on(replica, settings);
        Candidate {
            replica: replica.id,
            role,
            cached_blocks,
            prospect,
            outlook,
            verdict: self.verdict(replica),
        }
    }

    fn verdict(&self, replica: &Replica) -> Verdict {
        match replica.spec.state {
            _ if self
                .allowed
                .is_some_and(|ids| ids.binary_search(&replica.id).is_err()) =>
            {
                Verdict::NotInSubset
            }
            State::Ejected | State::Draining => Verdict::Unhealthy,
            // One request at a time shows whether it is well again.
            State::Probing if replica.load.own().requests > 0 => Verdict::Unhealthy,
            _ => Verdict::Fit,
        }
    }

    fn decide(mut self) -> Result<Decision, NoReplica> {
        let mut chosen = self.keeper().or_else(|| self.best_fit());
        if chosen.is_none() {
            self.at_all();
            chosen = self.best_fit();
        }
        let has_one = chosen.is_some();
        let chosen = chosen
            .or_else(|| self.draining().copied())
            .ok_or(match self.ask.subset {
                Some(_) => NoReplica::EmptySubset,
                None => NoReplica::NoneReady,
            })?;
        let prefill = self.own(chosen.cached_blocks).prefill;
        Ok(Decision {
            chosen: chosen.replica,
            fallbacks: self.fallbacks(&chosen),
            reason: self.reason(&chosen, has_one),
            cached_blocks: chosen.cached_blocks,
            prefill,
            saved: self.whole.prefill - prefill,
            pool: self.pool.number,
            candidates: self.candidates,
        })
    }

    /// Elsewhere the engine would not know what the request goes on from: neither load nor a drain
    /// is worth that.
    fn keeper(&self) -> Option<Candidate> {
        let id = self.ask.keeper?;
        let is_ejected = self.member(id)?.spec.state == State::Ejected;
        let found = self.candidates.iter().find(|one| one.replica == id);
        found
            .filter(|one| !is_ejected && one.verdict != Verdict::NotInSubset)
            .copied()
    }

    fn best_fit(&self) -> Option<Candidate> {
        let fit = self
            .candidates
            .iter()
            .filter(|candidate| candidate.verdict == Verdict::Fit);
        let best = fit.min_by(|a, b| self.order(a, b)).copied()?;
        let home = self
            .candidates
            .first()
            .filter(|home| home.verdict == Verdict::Fit);
        let keeps = |candidate: &Candidate| {
            best.outlook.score + self.margin(candidate) >= candidate.outlook.score
        };
        let mut first = [self.holder(), home.copied()].into_iter().flatten();
        first.find(keeps).or(Some(best))
    }

    /// The replica that holds most of the prompt, if that is half of it or more. A slice that has
    /// moved takes new sessions along; old ones stay with their cache.
    fn holder(&self) -> Option<Candidate> {
        let half = u32::try_from(self.ask.chain.len().div_ceil(2)).unwrap_or(u32::MAX);
        let holds = |candidate: &&Candidate| {
            candidate.verdict == Verdict::Fit && candidate.cached_blocks >= half.max(1)
        };
        // Many hold a system prompt that sessions share: home, if it is among them, is as good.
        let is_home = |candidate: &Candidate| candidate.role == Role::Home;
        let most = |a: &&Candidate, b: &&Candidate| {
            (a.cached_blocks.cmp(&b.cached_blocks))
                .then(is_home(a).cmp(&is_home(b)))
                .then_with(|| self.order(b, a))
        };
        self.candidates.iter().filter(holds).max_by(most).copied()
    }

    /// By score; equals by the hash of key and replica, so that no replica is favoured by its place.
    fn order(&self, a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
        let tie = |candidate: &Candidate| mix(self.ask.key.bits(), u64::from(candidate.replica.0));
        a.outlook
            .score
            .total_cmp(&b.outlook.score)
            .then_with(|| tie(a).cmp(&tie(b)))
    }

    /// Of the wait, and not of the score: the weighted prefill of a long prompt that home lacks as
    /// well must not hold it there.
    fn margin(&self, candidate: &Candidate) -> f64 {
        self.settings
            .spill_margin_ms
            .max(self.settings.spill_margin_share * candidate.outlook.wait_ms)
    }

    /// A drain is better than nothing.
    fn draining(&self) -> Option<&Candidate> {
        let last = self.candidates.iter().filter(|candidate| {
            let state = self
                .member(candidate.replica)
                .map(|replica| replica.spec.state);
            candidate.verdict == Verdict::Unhealthy
                && matches!(state, Some(State::Draining | State::Probing))
        });
        last.min_by(|a, b| self.order(a, b))
    }

    /// The next best; the last of them from another failure domain than the chosen
    /// one where all would be from its own.
    fn fallbacks(&self, chosen: &Candidate) -> SmallVec<[ReplicaId; FALLBACKS]> {
        let usable = |candidate: &&Candidate| {
            candidate.replica != chosen.replica && candidate.verdict == Verdict::Fit
        };
        let mut others: SmallVec<[&Candidate; 12]> =
            self.candidates.iter().filter(usable).collect();
        others.sort_by(|a, b| self.order(a, b));
        let domain = |id: ReplicaId| self.member(id).map(|replica| replica.spec.domain.as_str());
        let elsewhere = |candidate: &Candidate| domain(candidate.replica) != domain(chosen.replica);
        let (first, rest) = others.split_at(others.len().min(FALLBACKS));
        let mut named: SmallVec<[ReplicaId; FALLBACKS]> = first.iter().map(|c| c.replica).collect();
        if !first.iter().any(|candidate| elsewhere(candidate)) {
            if let (Some(last), Some(other)) = (
                named.last_mut(),
                rest.iter().find(|candidate| elsewhere(candidate)),
            ) {
                *last = other.replica;
            }
        }
        named
    }

    fn reason(&self, chosen: &Candidate, has_one: bool) -> Reason {
        if self.members.replicas.len() == 1 {
            return Reason::OnlyOne;
        }
        if !has_one {
            return Reason::Fallback;
        }
        let home = self
            .candidates
            .first()
            .map_or(Verdict::Fit, |home| home.verdict);
        match (chosen.role, home) {
            (Role::Home, _) => Reason::Home,
            (Role::Keeper, _) => Reason::Keeper,
            _ if self.ask.keeper == Some(chosen.replica) => Reason::Keeper,
            (_, Verdict::NotInSubset) => Reason::Subset,
            (_, Verdict::Unhealthy) => Reason::SpillHealth,
            (Role::Slice, _) => Reason::ReplicaOfSlice,
            (Role::Cached, _) => Reason::Cached,
            (Role::Sampled, _) => Reason::SpillLoad,
        }
    }
}

/// A place among so many, by a hash.
#[allow(clippy::cast_possible_truncation)]
fn pick(hash: u64, among: usize) -> usize {
    ((u128::from(hash) * among as u128) >> 64) as usize
}
