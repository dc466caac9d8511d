//! Splitting and merging: slices as fine as the load asks for, at no cost in moved keys.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use smallvec::SmallVec;

use super::{AssignerSettings, Member, Move, Why, WorkloadHint};
use crate::heat::Heat;
use crate::key::Key;
use crate::replica::ReplicaId;
use crate::slices::{Slices, shift};
use crate::warmth::{Keys, Warmth, part_range, span};

/// Slices are not halved below so many keys: among 100,000 sessions of a workload, some 40,000 keys
/// lie between two.
const LEAST_KEYS: u64 = 1 << 12;

/// Load below which a slice has nothing that a replica could have cached: a fading rate is never
/// quite zero.
const IDLE_MU_PER_S: f64 = 1e-3;

/// Slices that may be split off in one round, the hottest first; what is left waits for the next round.
/// From nothing, the assigner would else split a thousand replicas' slices for longer than a tenth of a
/// second.
const MOST_SPLITS: usize = 20_000;

/// A slice on its way through a round.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) last: u64,
    pub(super) warmth: Warmth,
    /// MU per second, reservation counted.
    pub(super) load: f64,
    /// The variance that chance alone gives it, (MU/s)².
    pub(super) variance: f64,
    /// Prefill MU to be done again when the whole slice moves.
    pub(super) price: f64,
    /// Seats, by place among the members that serve.
    pub(super) homes: SmallVec<[u32; 2]>,
    /// A home that it lost in this round.
    pub(super) lost: Option<ReplicaId>,
    /// Keys that the load was measured over: below this, where the load is can only be guessed.
    measured: u64,
}

impl Piece {
    pub(super) fn keys(&self) -> Keys {
        (self.start, self.last)
    }

    /// The workload, where all keys are of one.
    pub(super) fn workload(&self) -> Option<u32> {
        let (first, last) = (Key::from_bits(self.start), Key::from_bits(self.last));
        (first.workload() == last.workload()).then_some(first.workload())
    }

    /// Load on each of its homes.
    pub(super) fn share(&self) -> f64 {
        self.load / self.count()
    }

    /// Load on each of its homes that it has for certain, as far as so many deviations make it so.
    pub(super) fn sure_share(&self, deviations: f64) -> f64 {
        (self.load - deviations * self.variance.sqrt()).max(0.0) / self.count()
    }

    /// Load on each of its homes, without the reservation.
    fn measured_share(&self) -> f64 {
        self.warmth.mu_per_s() / self.count()
    }

    /// Whether nothing was placed in it within memory.
    fn is_idle(&self) -> bool {
        self.warmth.mu_per_s() < IDLE_MU_PER_S
    }

    /// Homes, at least one.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn count(&self) -> f64 {
        self.homes.len().max(1) as f64
    }

    /// Whether it is too narrow to be split at any time.
    pub(super) fn is_atom(&self) -> bool {
        self.last - self.start < LEAST_KEYS
    }

    /// Whether its load can be told apart further by what is known now.
    pub(super) fn can_split(&self) -> bool {
        !self.is_atom() && self.last - self.start >= self.measured
    }
}

/// Slices after splitting and merging.
pub(super) struct Shaped {
    pub(super) pieces: Vec<Piece>,
    pub(super) splits: usize,
    pub(super) merges: usize,
    /// Idle keys that a merge brought to other replicas.
    pub(super) moves: Vec<Move>,
}

/// A stretch that makes its slice hot.
struct Hot {
    stretch: Keys,
    load: f64,
    measured: u64,
}

/// What does not change while a round's slices are shaped.
struct Shaper<'a> {
    settings: &'a AssignerSettings,
    /// MU per second that all keys together count beyond what was measured.
    reserved: f64,
    /// Seconds that the heat counts.
    counted_s: f64,
    /// Load above which a slice is split.
    hot: f64,
    /// Mean load of a replica.
    mean_load: f64,
    /// First keys of hinted workloads and of what follows them, in order.
    walls: Vec<u64>,
    least: usize,
    most: usize,
    /// Seats' replicas.
    ids: Vec<ReplicaId>,
}

pub(super) fn shape(
    previous: &Slices,
    heat: &Heat,
    seats: &[&Member],
    hints: &[WorkloadHint],
    settings: &AssignerSettings,
) -> Shaped {
    let measured = heat.mu_per_s();
    // Without any load all ranges are equal: the unit does not matter, only that there is some.
    let reserved = if measured > 0.0 {
        settings.reservation * measured
    } else {
        1.0
    };
    #[allow(clippy::cast_precision_loss)]
    let mean_load = (measured + reserved) / seats.len() as f64;
    let shaper = Shaper {
        settings,
        reserved,
        counted_s: heat.counted_s(),
        hot: settings.split_share * mean_load,
        mean_load,
        walls: walls(hints),
        least: settings.least_slices.saturating_mul(seats.len()),
        most: settings.most_slices.saturating_mul(seats.len()),
        ids: seats.iter().map(|seat| seat.id).collect(),
    };
    let pieces = shaper.pieces(previous, heat, seats);
    let before = pieces.len();
    let pieces = shaper.cut_at_walls(pieces);
    let mut pieces = shaper.give_parts(pieces, hints);
    shaper.cut_hot(&mut pieces);
    shaper.split(&mut pieces);
    let count = pieces.len();
    if count != before {
        pieces = in_order(pieces);
    }
    let (pieces, moves) = shaper.merge(pieces);
    Shaped {
        splits: count.saturating_sub(before),
        merges: count - pieces.len(),
        moves,
        pieces,
    }
}

/// Pieces in the order of their keys. They are large: each is moved once.
fn in_order(pieces: Vec<Piece>) -> Vec<Piece> {
    let starts = pieces.iter().map(|piece| piece.start);
    let mut order: Vec<(u64, usize)> = starts.zip(0..).collect();
    order.sort_unstable();
    let mut pieces: Vec<Option<Piece>> = pieces.into_iter().map(Some).collect();
    let taken = |(_, at): (u64, usize)| pieces.get_mut(at).and_then(Option::take);
    order.into_iter().filter_map(taken).collect()
}

fn walls(hints: &[WorkloadHint]) -> Vec<u64> {
    let stretch = |hint: &WorkloadHint| {
        let first = u64::from(hint.workload) << 32;
        [Some(first), first.checked_add(1 << 32)]
    };
    let mut walls: Vec<u64> = hints.iter().flat_map(stretch).flatten().collect();
    walls.sort_unstable();
    walls.dedup();
    walls
}

impl Shaper<'_> {
    /// The present slices, without the homes that must not serve.
    fn pieces(&self, previous: &Slices, heat: &Heat, seats: &[&Member]) -> Vec<Piece> {
        let mut by_id: Vec<(ReplicaId, u32)> = seats.iter().map(|seat| seat.id).zip(0..).collect();
        by_id.sort_unstable();
        let seat = |id: &ReplicaId| {
            let at = by_id.binary_search_by_key(id, |(id, _)| *id).ok()?;
            by_id.get(at).map(|(_, seat)| *seat)
        };
        if previous.is_empty() {
            return vec![self.piece((0, u64::MAX), Warmth::default(), 0)];
        }
        let rates = heat.rates().chain(std::iter::repeat(Warmth::default()));
        let pieces = previous.iter().zip(rates).map(|(slice, warmth)| {
            let keys = (slice.start.bits(), slice.last.bits());
            let part = 1u64.checked_shl(u32::from(shift(keys))).unwrap_or(u64::MAX);
            let mut piece = self.piece(keys, warmth, part);
            piece.homes = slice.homes.iter().filter_map(seat).collect();
            piece.lost = slice.homes.iter().find(|id| seat(id).is_none()).copied();
            piece
        });
        pieces.collect()
    }

    fn piece(&self, keys: Keys, warmth: Warmth, measured: u64) -> Piece {
        Piece {
            start: keys.0,
            last: keys.1,
            load: warmth.mu_per_s() + self.reserved * span(keys) / span((0, u64::MAX)),
            variance: warmth.variance(self.counted_s),
            price: warmth.saved * self.settings.turn_gap_s,
            warmth,
            homes: SmallVec::new(),
            lost: None,
            measured,
        }
    }

    /// A stretch of a piece, with its homes.
    fn child(&self, of: &Piece, keys: Keys) -> Piece {
        let child = self.piece(keys, of.warmth.cut(of.keys(), keys), of.measured);
        Piece {
            homes: of.homes.clone(),
            lost: of.lost,
            ..child
        }
    }

    /// No slice lies across the border of a hinted workload.
    fn cut_at_walls(&self, pieces: Vec<Piece>) -> Vec<Piece> {
        if self.walls.is_empty() {
            return pieces;
        }
        let mut cut = Vec::with_capacity(pieces.len() + self.walls.len());
        for piece in pieces {
            let from = self.walls.partition_point(|wall| *wall <= piece.start);
            let to = self.walls.partition_point(|wall| *wall <= piece.last);
            let mut start = piece.start;
            for wall in self.walls.get(from..to).unwrap_or(&[]) {
                cut.push(self.child(&piece, (start, wall - 1)));
                start = *wall;
            }
            if start == piece.start {
                cut.push(piece);
            } else {
                cut.push(self.child(&piece, (start, piece.last)));
            }
        }
        cut
    }

    /// A workload that must have several replicas has as many slices.
    fn give_parts(&self, pieces: Vec<Piece>, hints: &[WorkloadHint]) -> Vec<Piece> {
        if hints.iter().all(|hint| hint.least < 2) {
            return pieces;
        }
        let mut parted = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let hint = hints
                .iter()
                .rev()
                .find(|hint| Some(hint.workload) == piece.workload());
            let whole = piece.last - piece.start == u64::from(u32::MAX);
            match hint {
                Some(hint) if whole && hint.least > 1 => {
                    let parts = u64::from(hint.least.min(1 << 16)).next_power_of_two();
                    let width = (1u64 << 32) / parts;
                    for part in 0..parts {
                        let start = piece.start + part * width;
                        parted.push(self.child(&piece, (start, start + (width - 1))));
                    }
                }
                _ => parted.push(piece),
            }
        }
        parted
    }

    /// Gives what makes a slice hot a slice of its own: a workload among many, then a key. No halving
    /// would find them as fast.
    fn cut_hot(&self, pieces: &mut Vec<Piece>) {
        let mut at = 0;
        while let Some(piece) = pieces.get_mut(at) {
            let found = self.hot_workload(piece).or_else(|| self.hot_key(piece));
            match found {
                // The rest may hold another one, and a hot workload a hot key.
                Some(hot) => self.carve(at, hot, pieces),
                None => at += 1,
            }
        }
    }

    /// In a hot slice over many workloads the one that its leading key belongs to. All load of that
    /// key's part is taken for that workload's, and for evenly spread in it: sessions are hashed, so
    /// that is a good guess.
    fn hot_workload(&self, piece: &Piece) -> Option<Hot> {
        let first = u64::from(piece.warmth.hot?.key.workload()) << 32;
        let stretch = (first, first + u64::from(u32::MAX));
        let within = piece.start <= stretch.0 && stretch.1 <= piece.last;
        let hot = piece.workload().is_none() && piece.warmth.mu_per_s() > self.hot;
        (within && hot).then_some(Hot {
            stretch,
            load: f64::INFINITY,
            measured: 0,
        })
    }

    fn hot_key(&self, piece: &Piece) -> Option<Hot> {
        let key = piece.warmth.hot?.key.bits();
        let load = piece.warmth.hot_mu_per_s();
        let stands_out = load > self.hot && piece.warmth.stands_out();
        let hot = Hot {
            stretch: (key, key),
            load,
            measured: piece.measured,
        };
        (stands_out && piece.start < piece.last).then_some(hot)
    }

    /// Carves a stretch out of a slice; what is around it goes on to the end.
    fn carve(&self, at: usize, hot: Hot, pieces: &mut Vec<Piece>) {
        let Some(piece) = pieces.get_mut(at) else {
            return;
        };
        let mut whole = piece.clone();
        let inner = whole.warmth.carve(whole.keys(), hot.stretch, hot.load);
        let inner = self.piece(hot.stretch, inner, hot.measured);
        *piece = Piece {
            homes: whole.homes.clone(),
            lost: whole.lost,
            ..inner
        };
        if whole.start < hot.stretch.0 {
            pieces.push(self.child(&whole, (whole.start, hot.stretch.0 - 1)));
        }
        if hot.stretch.1 < whole.last {
            pieces.push(self.child(&whole, (hot.stretch.1 + 1, whole.last)));
        }
    }

    /// Splits the hottest first, then the largest until there are enough.
    fn split(&self, pieces: &mut Vec<Piece>) {
        let rank = |piece: &Piece| piece.share().max(0.0).to_bits();
        let few = pieces.len() < self.least;
        let most = self.most.min(pieces.len() + MOST_SPLITS);
        let mut heap: BinaryHeap<(u64, Reverse<usize>)> = pieces
            .iter()
            .enumerate()
            .filter(|(_, piece)| few || piece.measured_share() > self.hot)
            .map(|(at, piece)| (rank(piece), Reverse(at)))
            .collect();
        while let Some((_, Reverse(at))) = heap.pop() {
            let count = pieces.len();
            let Some(piece) = pieces.get_mut(at) else {
                break;
            };
            let few = count < self.least;
            let wanted = piece.measured_share() > self.hot && count < most;
            if !few && !wanted {
                break;
            }
            let fine = if few {
                !piece.is_atom()
            } else {
                piece.can_split()
            };
            if !fine {
                continue;
            }
            let middle = middle(piece);
            let right = self.child(piece, (middle, piece.last));
            let left = self.child(piece, (piece.start, middle - 1));
            heap.push((rank(&left), Reverse(at)));
            *piece = left;
            heap.push((rank(&right), Reverse(pieces.len())));
            pieces.push(right);
        }
    }

    /// Merges cold neighbours with the same homes, coldest pairs first; where slices are many, also
    /// idle ones into neighbours that have other homes.
    fn merge(&self, pieces: Vec<Piece>) -> (Vec<Piece>, Vec<Move>) {
        let crowded = pieces.len() > self.most - self.most / 8;
        let (share, target) = if crowded {
            (self.settings.split_share / 2.0, self.most - self.most / 4)
        } else {
            (self.settings.merge_share, self.least)
        };
        let cold = share * self.mean_load;
        let mut spare = pieces.len().saturating_sub(target);
        if spare == 0 {
            return (pieces, Vec::new());
        }
        let mut pairs: Vec<(u64, usize)> = (1..pieces.len())
            .filter_map(|at| {
                let (left, right) = (pieces.get(at - 1)?, pieces.get(at)?);
                let both = (left.load + right.load) / left.count();
                let may = both < cold && self.may_merge(left, right, crowded);
                may.then_some((both.to_bits(), at))
            })
            .collect();
        pairs.sort_unstable();
        // Each slice takes part in one merge a round: the pairs' sums stay true.
        let mut taken = vec![false; pieces.len() + 1];
        let mut joins = vec![false; pieces.len() + 1];
        for (_, at) in pairs {
            let free = taken
                .get(at - 1..=at)
                .is_some_and(|pair| !pair.contains(&true));
            if spare == 0 || !free {
                continue;
            }
            spare -= 1;
            taken
                .iter_mut()
                .skip(at - 1)
                .take(2)
                .for_each(|taken| *taken = true);
            joins
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|join| *join = true);
        }
        let mut moves = Vec::new();
        let mut merged: Vec<Piece> = Vec::with_capacity(pieces.len());
        for (right, join) in pieces.into_iter().zip(joins) {
            match merged.last_mut() {
                Some(left) if join => *left = self.join(left, &right, &mut moves),
                _ => merged.push(right),
            }
        }
        (merged, moves)
    }

    fn may_merge(&self, left: &Piece, right: &Piece, crowded: bool) -> bool {
        let housed = !left.homes.is_empty() && !right.homes.is_empty();
        let same = left.homes == right.homes;
        let idle = crowded && (left.is_idle() || right.is_idle());
        housed && (same || idle) && self.walls.binary_search(&right.start).is_err()
    }

    fn join(&self, left: &Piece, right: &Piece, moves: &mut Vec<Move>) -> Piece {
        let warmth = left.warmth.join(left.keys(), &right.warmth, right.keys());
        let measured = left.measured.max(right.measured);
        let joined = self.piece((left.start, right.last), warmth, measured);
        let (stays, goes) = if left.is_idle() {
            (right, left)
        } else {
            (left, right)
        };
        self.note_moves(stays, goes, moves);
        Piece {
            homes: stays.homes.clone(),
            lost: left.lost.or(right.lost),
            ..joined
        }
    }

    fn note_moves(&self, stays: &Piece, goes: &Piece, moves: &mut Vec<Move>) {
        let moved = |from: Option<u32>, to: Option<u32>| Move {
            start: Key::from_bits(goes.start),
            last: Key::from_bits(goes.last),
            from: from.and_then(|seat| self.ids.get(seat as usize).copied()),
            to: to.and_then(|seat| self.ids.get(seat as usize).copied()),
            why: Why::Merge,
            load: 0.0,
            price: 0.0,
        };
        let left = goes.homes.iter().filter(|home| !stays.homes.contains(home));
        moves.extend(left.map(|home| moved(Some(*home), None)));
        let joined = stays.homes.iter().filter(|home| !goes.homes.contains(home));
        moves.extend(joined.map(|home| moved(None, Some(*home))));
    }
}

/// The border between parts that halves the load best.
fn middle(piece: &Piece) -> u64 {
    let whole = piece.warmth.mu_per_s();
    let mut best = (
        f64::INFINITY,
        piece.start + (piece.last - piece.start) / 2 + 1,
    );
    let mut before = 0.0;
    for (part, rate) in piece.warmth.parts.iter().enumerate() {
        let (first, last) = part_range(piece.keys(), part);
        if first > last {
            break;
        }
        let off = (before - whole / 2.0).abs();
        if part > 0 && whole > 0.0 && off < best.0 {
            best = (off, first);
        }
        before += rate;
    }
    best.1
}
