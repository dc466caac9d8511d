//! Consistent hashing with bounded load, where load is MU ÷ capacity.
//!
//! After "Consistent Hashing with Bounded Loads" (Mirrokni, Thorup, Zadimoghaddam, 2016): a key goes
//! to the first replica on the ring after it whose load stays within (1 + ε) × the mean. There the
//! load is a count; here it is `ledger MU ÷ capacity`, this request's own cost counted in both the
//! replica's load and the mean.

use std::sync::Arc;

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::choice::{Ask, Candidate, Decision, FALLBACKS, NoReplica, Reason, Role, Verdict};
use crate::key::mix;
use crate::mu::MicroMu;
use crate::prefix::Matches;
use crate::replica::{ModelPool, Pool, Replica, State};

/// Points that each replica has on the ring.
const POINTS: u64 = 64;

/// How far above the mean a replica may be loaded, and how full its KV memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// ε: load may reach (1 + ε) × the mean.
    pub epsilon: f64,
    /// Highest share of KV memory, 0 to 1.
    pub kv_share: f64,
}

impl Default for Bound {
    fn default() -> Self {
        Self {
            epsilon: 0.25,
            kv_share: 0.95,
        }
    }
}

/// A hash ring over the replicas of one model: points and the position of their replica.
#[derive(Debug, Default)]
pub struct Ring {
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// The ring of these replicas; positions refer to this slice.
    #[must_use]
    pub fn build(replicas: &[Arc<Replica>]) -> Self {
        let mut points: Vec<(u64, u32)> = (0u32..)
            .zip(replicas)
            .flat_map(|(position, replica)| {
                let endpoint = replica.spec.endpoint.as_bytes();
                (0..POINTS).map(move |point| (xxh3_64_with_seed(endpoint, point), position))
            })
            .collect();
        points.sort_unstable();
        Self { points }
    }

    /// Positions in ring order from this hash on, with repeats.
    pub(crate) fn walk(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        let start = self.points.partition_point(|(point, _)| *point < hash);
        let (before, after) = self
            .points
            .split_at_checked(start)
            .unwrap_or((&self.points, &[]));
        after.iter().chain(before).map(|(_, position)| *position)
    }
}

/// Chooses by bounded-load hashing. Deterministic: the seed is not used.
///
/// # Errors
/// When no replica serves the model, or none of the allowed ones is ready.
pub fn choose_bounded_hash(
    pool: &Pool,
    ask: &Ask<'_>,
    bound: Bound,
) -> Result<Decision, NoReplica> {
    let members = pool.model(ask.model).ok_or(NoReplica::UnknownModel)?;
    let matches = pool.index().matches(ask.chain);
    let walk = Walk::new(members, ask, &matches, bound);
    walk.run(pool.number)
}

/// One walk round the ring.
struct Walk<'a> {
    members: &'a ModelPool,
    ask: &'a Ask<'a>,
    matches: &'a Matches,
    bound: Bound,
    /// Mean of MU ÷ capacity over the allowed replicas before this request, in ms.
    carried: MicroMu,
    mu_per_ms: f64,
}

impl<'a> Walk<'a> {
    fn new(members: &'a ModelPool, ask: &'a Ask<'a>, matches: &'a Matches, bound: Bound) -> Self {
        let ready = members
            .replicas
            .iter()
            .filter(|replica| verdict_of(replica, ask).is_none());
        let (carried, mu_per_ms) = ready.fold((MicroMu::ZERO, 0.0), |(work, rate), replica| {
            (
                work + replica.load.totals().work(),
                rate + replica.mu_per_ms(),
            )
        });
        Self {
            members,
            ask,
            matches,
            bound,
            carried,
            mu_per_ms,
        }
    }

    fn run(&self, number: u64) -> Result<Decision, NoReplica> {
        let count = self.members.replicas.len();
        let mut seen = vec![false; count];
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut chosen: Option<Candidate> = None;
        let mut after = 0;
        let hash = mix(0, self.ask.key.bits());
        for position in self.members.ring.walk(hash) {
            let position = position as usize;
            match seen.get_mut(position) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            let Some(replica) = self.members.replicas.get(position) else {
                continue;
            };
            let role = if candidates.is_empty() {
                Role::Home
            } else {
                Role::Sampled
            };
            let candidate = self.weigh(replica, role);
            candidates.push(candidate);
            if chosen.is_some() {
                after += usize::from(usable(&candidate));
            } else if candidate.verdict == Verdict::Fit {
                chosen = Some(candidate);
            }
            if chosen.is_some() && after >= FALLBACKS {
                break;
            }
        }
        let fit = chosen.is_some();
        let chosen = chosen
            .or_else(|| least(&candidates))
            .ok_or(match self.ask.subset {
                Some(_) => NoReplica::EmptySubset,
                None => NoReplica::NoneReady,
            })?;
        Ok(Decision {
            chosen: chosen.replica,
            fallbacks: fallbacks(&candidates, &chosen),
            reason: self.reason(&candidates, &chosen, fit),
            cached_blocks: chosen.cached_blocks,
            prefill: (self.ask.prefill)(chosen.cached_blocks),
            saved: (self.ask.prefill)(0) - (self.ask.prefill)(chosen.cached_blocks),
            pool: number,
            candidates,
        })
    }

    fn weigh(&self, replica: &Replica, role: Role) -> Candidate {
        let cached_blocks = self.matches.blocks(replica.id);
        let prefill = (self.ask.prefill)(cached_blocks);
        let own = prefill + self.ask.decode;
        let work = replica.load.totals().work();
        let score = replica.ms_for(work + own);
        let mean = (self.carried + own).as_mu() / self.mu_per_ms.max(1e-6);
        let verdict = verdict_of(replica, self.ask).unwrap_or_else(|| {
            if replica.kv_share((self.ask.kv)(cached_blocks)) > self.bound.kv_share {
                Verdict::KvFull
            } else if self.over(replica, work, own, mean) {
                Verdict::Loaded
            } else {
                Verdict::Fit
            }
        });
        Candidate {
            replica: replica.id,
            role,
            cached_blocks,
            wait_ms: replica.ms_for(work),
            prefill_ms: replica.ms_for(prefill),
            late_ms: 0.0,
            busy: 0.0,
            score,
            verdict,
        }
    }

    /// Beyond the bound, unless it is idle: one request alone is larger than any small mean.
    fn over(&self, replica: &Replica, work: MicroMu, own: MicroMu, mean: f64) -> bool {
        work > MicroMu::ZERO && replica.ms_for(work + own) > (1.0 + self.bound.epsilon) * mean
    }

    fn reason(&self, candidates: &[Candidate], chosen: &Candidate, fit: bool) -> Reason {
        if self.members.replicas.len() == 1 {
            return Reason::OnlyOne;
        }
        if !fit {
            return Reason::Fallback;
        }
        match candidates.first() {
            Some(home) if home.replica != chosen.replica => match home.verdict {
                Verdict::NotInSubset => Reason::Subset,
                Verdict::Unhealthy => Reason::SpillHealth,
                Verdict::KvFull => Reason::SpillKv,
                Verdict::Loaded | Verdict::Fit => Reason::SpillLoad,
            },
            _ => Reason::Home,
        }
    }
}

/// What excludes a replica whatever its load: the subset hint and its state.
fn verdict_of(replica: &Replica, ask: &Ask<'_>) -> Option<Verdict> {
    if ask
        .subset
        .is_some_and(|allowed| !allowed.contains(&replica.spec.endpoint.as_str()))
    {
        return Some(Verdict::NotInSubset);
    }
    let open = replica.spec.state.is_open() && replica.spec.state != State::Probing;
    (!open).then_some(Verdict::Unhealthy)
}

fn usable(candidate: &Candidate) -> bool {
    !matches!(candidate.verdict, Verdict::Unhealthy | Verdict::NotInSubset)
}

/// The least loaded of those that only load or memory keeps out.
fn least(candidates: &[Candidate]) -> Option<Candidate> {
    candidates
        .iter()
        .filter(|c| usable(c))
        .min_by(|a, b| a.score.total_cmp(&b.score))
        .copied()
}

/// The fit ones in ring order, then the loaded ones, without the chosen.
fn fallbacks(
    candidates: &[Candidate],
    chosen: &Candidate,
) -> SmallVec<[crate::replica::ReplicaId; FALLBACKS]> {
    let others = || {
        candidates
            .iter()
            .filter(|c| c.replica != chosen.replica && usable(c))
    };
    let fit = others().filter(|c| c.verdict == Verdict::Fit);
    let rest = others().filter(|c| c.verdict != Verdict::Fit);
    fit.chain(rest).map(|c| c.replica).take(FALLBACKS).collect()
}
