//! The assigner: from the present slices, their heat and the replicas' health to the next slices.
//!
//! One call of [`round`] is one round for one model. It keeps no state and draws no randomness:
//! equal input gives equal output. In order it
//!
//! 1. takes slices off replicas that are gone or must not serve,
//! 2. splits what is hot (children keep their homes, so a split costs nothing), first at the
//!    boundaries of the workload that makes it hot, and merges what is cold,
//! 3. gives a home to slices without one, keeps workloads within their hints and, where they have
//!    two replicas or more, in more than one failure domain,
//! 4. replicates what is too hot for one replica and cannot be split, and takes that back when cold,
//! 5. draws together workloads that sit on more replicas than their load needs,
//! 6. moves slices from the hottest replicas, and to replicas with too little, one by one, as long
//!    as each move gains more than it costs and the round's churn budget lasts; where no single move
//!    gains, two slices change places.
//!
//! In a round that had to house lost slices, replicas up to 15 % above the mean are left in peace and
//! nothing is drawn together: on the loss of a replica its slices move, and no others.
//!
//! # Objective
//!
//! Load is in MU per second. With `C` a replica's capacity (warm-up share counted), `L` the load of
//! its slices (a slice with n homes gives 1/n to each), `K` their KV tokens and `M` its KV memory,
//!
//! ```text
//! u    = max(L ÷ C, K ÷ M)                      utilisation, two dimensions
//! mean = max(ΣL ÷ ΣC, ΣK ÷ ΣM)
//! off  = max(slack, deviations · √(n · V) ÷ ΣC)
//! hi   = max((1 + tolerance) · mean, mean + off)
//! lo   = min((1 − 2 · tolerance) · mean, mean − off)
//!
//! strain = C · [16 · (u ÷ hi)² · (u − hi)⁺ + 4 · (1 + (lo − u)⁺ ÷ lo)² · (lo − u)⁺]
//! ```
//!
//! `V` is the variance that chance alone gives ΣL: requests come when they like, each weighs what it
//! weighs, and the heat remembers only so many. Each of n replicas has an nth of it. Replicas that
//! differ by no more than that are level: to move slices between them would be for nothing. For the
//! same reason a slice counts as too hot for one replica only by what its load is for certain.
//!
//! A move of a slice with load δ is made when it lowers the sum of strains by more than
//!
//! ```text
//! cost  = price ÷ horizon + 0.02 · δ + footprint
//! price = saved MU/s · turn gap                 prefill to be done again, in MU
//! footprint = 0     where the workload is on the target already or leaves its source by this
//!             0.1·δ where its load needs one replica more
//!             1·δ   where it does not
//! ```
//!
//! `saved` is what cached prefixes save this slice now. A live session comes back after about the
//! turn gap, and then pays once for the prefix that the new home lacks: that is the price of a move,
//! known from the prefix index and not a constant share of the load. The prices of a round's
//! voluntary moves (4, 5, 6) add up to at most
//!
//! ```text
//! budget = churn_share · ΣC · elapsed + Σ (L − C)⁺ · horizon
//! ```
//!
//! or to one single move. The second term is work that replicas beyond their capacity would not
//! get done within the horizon: to spend as much on moving it is no loss.
//!
//! Needed replicas: `⌈workload's load ÷ mean load of a replica⌉ + 1`, within the hint. An idle key
//! range counts as if it had its part of `reservation` of all load, so that idle ranges are spread.
//!
//! # Sources
//!
//! Rounds, split before replicate, the forms and weights of over- and undershoot, uniform
//! reservation: Databricks' Dicer, after Google's Slicer (Adya et al., OSDI 2016). Ours: load in MU
//! with memory as second dimension, the price of a move, footprints by demand, failure domains.

mod balance;
mod board;
mod footprint;
mod place;
mod shape;
mod swap;

use smallvec::SmallVec;

use crate::heat::Heat;
use crate::key::Key;
use crate::replica::{ModelPool, ReplicaId, State};
use crate::slices::{SliceSpec, Slices};
use board::Board;

/// What the assigner may be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AssignerSettings {
    /// How far a replica may be above the mean utilisation, as a share of it.
    pub tolerance: f64,
    /// The same as a share of capacity: at low load, differences below it do not matter.
    pub slack: f64,
    /// The same in standard deviations of what chance alone does to a replica's measured load.
    pub deviations: f64,
    /// Seconds until a session's next turn.
    pub turn_gap_s: f64,
    /// Seconds over which a move's price is spread: how long the new place is expected to serve.
    pub horizon_s: f64,
    /// Share of all capacity that a round's voluntary moves may cost, where no replica is beyond
    /// its capacity.
    pub churn_share: f64,
    /// Share of all load that idle key ranges are credited with.
    pub reservation: f64,
    /// A slice with more than this share of a replica's mean load is split.
    pub split_share: f64,
    /// Two neighbours with less than this share together are merged.
    pub merge_share: f64,
    /// A slice that cannot be split is replicated above this share of a replica's mean load.
    pub replicate_share: f64,
    /// Slices per replica, at least.
    pub least_slices: usize,
    /// Slices per replica, at most.
    pub most_slices: usize,
}

impl Default for AssignerSettings {
    fn default() -> Self {
        Self {
            tolerance: 0.03,
            slack: 0.01,
            deviations: 2.0,
            turn_gap_s: 30.0,
            horizon_s: 60.0,
            churn_share: 0.1,
            reservation: 0.01,
            split_share: 0.03,
            merge_share: 0.01,
            replicate_share: 0.25,
            least_slices: 16,
            most_slices: 100,
        }
    }
}

/// A wish about one workload's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkloadHint {
    /// The high bits of its keys.
    pub workload: u32,
    /// At least so many replicas, as far as there are.
    pub least: u32,
    /// At most so many.
    pub most: u32,
}

/// A replica as the assigner sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its number.
    pub id: ReplicaId,
    /// MU per second that it may be given, warm-up share counted.
    pub mu_per_s: f64,
    /// KV tokens that its memory holds.
    pub kv_tokens: f64,
    /// Its failure domain; empty where unknown.
    pub domain: String,
    /// Whether slices may be on it.
    pub serves: bool,
}

impl Member {
    /// The members of a pool.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn of(pool: &ModelPool) -> Vec<Self> {
        let member = |replica: &std::sync::Arc<crate::replica::Replica>| Self {
            id: replica.id,
            mu_per_s: replica.mu_per_ms() * 1e3,
            kv_tokens: replica.spec.kv_tokens.max(1) as f64,
            domain: replica.spec.domain.clone(),
            serves: matches!(replica.spec.state, State::Healthy | State::Degraded),
        };
        pool.replicas.iter().map(member).collect()
    }
}

/// Why a slice got or lost a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// It had none yet.
    New,
    /// Its replica is gone or must not serve.
    Lost,
    /// Its replica was too hot, or it made room for a slice of one that was.
    Hot,
    /// The new replica had too little.
    Cold,
    /// Its workload had fewer or more replicas than its hint allows.
    Hint,
    /// Its workload was in one failure domain alone.
    Domain,
    /// It was too hot for its replicas, and could not be split.
    Replicate,
    /// It was cold again.
    Dereplicate,
    /// Its workload was on more replicas than its load needs.
    Footprint,
    /// It was idle, and merged into its neighbour to make room for others.
    Merge,
}

impl Why {
    /// Its name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Lost => "lost",
            Self::Hot => "hot",
            Self::Cold => "cold",
            Self::Hint => "hint",
            Self::Domain => "domain",
            Self::Replicate => "replicate",
            Self::Dereplicate => "dereplicate",
            Self::Footprint => "footprint",
            Self::Merge => "merge",
        }
    }

    /// Whether the churn budget bounds it.
    #[must_use]
    pub const fn is_voluntary(self) -> bool {
        matches!(
            self,
            Self::Hot | Self::Cold | Self::Replicate | Self::Footprint
        )
    }
}

/// One change of a slice's replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    /// The slice's first key.
    pub start: Key,
    /// The slice's last key.
    pub last: Key,
    /// The replica it left.
    pub from: Option<ReplicaId>,
    /// The replica it came to.
    pub to: Option<ReplicaId>,
    /// Why.
    pub why: Why,
    /// MU per second that moved.
    pub load: f64,
    /// Prefill MU that must be done again.
    pub price: f64,
}

/// What a round came to.
#[derive(Clone, Debug)]
pub struct Round {
    /// The next slices, in the order of their keys.
    pub slices: Vec<SliceSpec>,
    /// The heat, over those slices.
    pub heat: Heat,
    /// Every change of a slice's replicas, in the order made.
    pub moves: Vec<Move>,
    /// Slices that were split off.
    pub splits: usize,
    /// Slices that were merged away.
    pub merges: usize,
    /// What voluntary moves could cost, in MU.
    pub budget: f64,
    /// What they cost, in MU.
    pub spent: f64,
    /// Highest utilisation that the new slices lead to, reservation counted.
    pub highest: f64,
    /// Mean utilisation.
    pub mean: f64,
}

/// One round for one model: `heat` must be the heat of `previous`. `elapsed_s` is the time since
/// the last round, for which the churn budget is reckoned.
///
/// Without a replica that may serve, slices stay as they are.
#[must_use]
pub fn round(
    previous: &Slices,
    heat: &Heat,
    members: &[Member],
    hints: &[WorkloadHint],
    settings: &AssignerSettings,
    elapsed_s: f64,
) -> Round {
    let seats: Vec<&Member> = members.iter().filter(|member| member.serves).collect();
    if seats.is_empty() {
        return unchanged(previous, heat);
    }
    let shaped = shape::shape(previous, heat, &seats, hints, settings);
    let (splits, merges, mut moves) = (shaped.splits, shaped.merges, shaped.moves);
    let mut board = Board::new(&seats, shaped.pieces, hints, settings, elapsed_s);
    let lost = place::house(&mut board);
    if lost {
        board.leave_in_peace();
    }
    place::keep_hints(&mut board);
    place::keep_domains(&mut board);
    balance::replicate(&mut board);
    if !lost {
        balance::draw_together(&mut board);
    }
    balance::level(&mut board);
    let (highest, mean) = (board.highest(), board.mean);
    moves.append(&mut board.moves);
    let slices = board.pieces.iter().map(|piece| SliceSpec {
        start: Key::from_bits(piece.start),
        homes: piece
            .homes
            .iter()
            .filter_map(|seat| board.id(*seat))
            .collect(),
    });
    Round {
        slices: slices.collect(),
        heat: heat.over(board.pieces.iter().map(|piece| piece.warmth)),
        moves,
        splits,
        merges,
        budget: board.budget,
        spent: board.spent,
        highest,
        mean,
    }
}

fn unchanged(previous: &Slices, heat: &Heat) -> Round {
    let slices = previous.iter().map(|slice| SliceSpec {
        start: slice.start,
        homes: SmallVec::from_slice(slice.homes),
    });
    Round {
        slices: slices.collect(),
        heat: heat.clone(),
        moves: Vec::new(),
        splits: 0,
        merges: 0,
        budget: 0.0,
        spent: 0.0,
        highest: 0.0,
        mean: 0.0,
    }
}
