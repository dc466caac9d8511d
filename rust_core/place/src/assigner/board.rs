//! The board: slices on replicas, their sums, and what a change would gain.

use std::collections::{BTreeSet, HashMap};

use smallvec::SmallVec;

use super::footprint::Footprint;
use super::shape::Piece;
use super::{AssignerSettings, Member, Move, Why, WorkloadHint};
use crate::key::{Key, mix};
use crate::replica::ReplicaId;

/// Workloads on more replicas than this are not searched seat by seat.
pub(super) const FEW: usize = 16;

/// Part of the load that any move costs, so that none is made for nothing.
const MOVE_COST: f64 = 0.02;

/// Part of the load that a further replica for a workload costs where its load needs one.
const NEEDED_COST: f64 = 0.1;

/// The same where its load does not.
const SPREAD_COST: f64 = 1.0;

/// Whether a workload may come to more replicas than its load needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Only to as many as it needs.
    Only,
    /// Beyond, at a cost.
    Beyond,
}

/// A replica with its sums.
#[derive(Debug)]
pub(super) struct Seat {
    id: ReplicaId,
    mu_per_s: f64,
    kv_capacity: f64,
    pub(super) domain: u32,
    load: f64,
    kv: f64,
    pub(super) pieces: Vec<u32>,
    /// Settles ties: by hash, not by place.
    tie: u32,
}

/// Everything a round decides on.
pub(super) struct Board<'a> {
    pub(super) settings: &'a AssignerSettings,
    pub(super) seats: Vec<Seat>,
    pub(super) pieces: Vec<Piece>,
    /// Where each workload is, in the order of their keys.
    pub(super) workloads: Vec<Footprint>,
    /// The place among these of each slice's workload.
    workload_of: Vec<Option<u32>>,
    /// Seats by utilisation, coldest first.
    pub(super) order: BTreeSet<(u64, u32, u32)>,
    pub(super) domains: usize,
    /// Mean utilisation, and the range that is wanted.
    pub(super) mean: f64,
    pub(super) hi: f64,
    pub(super) lo: f64,
    /// Mean load of a replica, MU per second.
    pub(super) mean_load: f64,
    pub(super) budget: f64,
    pub(super) spent: f64,
    voluntary: usize,
    pub(super) moves: Vec<Move>,
}

impl<'a> Board<'a> {
    pub(super) fn new(
        members: &[&Member],
        pieces: Vec<Piece>,
        hints: &[WorkloadHint],
        settings: &'a AssignerSettings,
        elapsed_s: f64,
    ) -> Self {
        let (seats, domains) = seats(members);
        let capacity: f64 = seats.iter().map(|seat| seat.mu_per_s).sum();
        let memory: f64 = seats.iter().map(|seat| seat.kv_capacity).sum();
        let load: f64 = pieces.iter().map(|piece| piece.load).sum();
        let variance: f64 = pieces.iter().map(|piece| piece.variance).sum();
        let held: f64 = pieces.iter().map(|piece| piece.warmth.kv_tokens).sum();
        let mean = (load / capacity).max(held / memory);
        #[allow(clippy::cast_precision_loss)]
        let chance = (variance * seats.len() as f64).max(0.0).sqrt() / capacity;
        let slack = settings.slack.max(settings.deviations * chance);
        let tolerance = settings.tolerance;
        let (workloads, workload_of) = workloads(&pieces, hints);
        #[allow(clippy::cast_precision_loss)]
        let mean_load = load / seats.len().max(1) as f64;
        let mut board = Self {
            settings,
            order: BTreeSet::new(),
            seats,
            pieces,
            workloads,
            workload_of,
            domains,
            mean,
            hi: (mean * (1.0 + tolerance)).max(mean + slack),
            lo: (mean * (1.0 - 2.0 * tolerance)).min(mean - slack).max(0.0),
            mean_load,
            budget: settings.churn_share * capacity * elapsed_s.clamp(0.0, 60.0),
            spent: 0.0,
            voluntary: 0,
            moves: Vec::new(),
        };
        for at in 0..u32::try_from(board.pieces.len()).unwrap_or(u32::MAX) {
            board.account(at, 1.0);
        }
        board.order = (0u32..)
            .zip(&board.seats)
            .map(|(at, seat)| (seat.rank(), seat.tie, at))
            .collect();
        let beyond = |seat: &Seat| (seat.load - seat.mu_per_s).max(0.0);
        board.budget += settings.horizon_s * board.seats.iter().map(beyond).sum::<f64>();
        board
    }

    pub(super) fn piece(&self, at: u32) -> Option<&Piece> {
        self.pieces.get(at as usize)
    }

    pub(super) fn id(&self, seat: u32) -> Option<ReplicaId> {
        self.seats.get(seat as usize).map(|seat| seat.id)
    }

    pub(super) fn footprint(&self, at: u32) -> Option<&Footprint> {
        let place = (*self.workload_of.get(at as usize)?)?;
        self.workloads.get(place as usize)
    }

    /// Places among the workloads of those with a hint.
    pub(super) fn hinted(&self) -> Vec<usize> {
        let hinted = self
            .workloads
            .iter()
            .enumerate()
            .filter(|(_, f)| f.hint.is_some());
        hinted.map(|(place, _)| place).collect()
    }

    /// Utilisation of a seat, with so much more.
    pub(super) fn used(&self, seat: u32, load: f64, kv: f64) -> f64 {
        self.seats.get(seat as usize).map_or(0.0, |seat| {
            ((seat.load + load) / seat.mu_per_s)
                .max((seat.kv + kv) / seat.kv_capacity)
                .max(0.0)
        })
    }

    /// Widens the wanted range: what is not far out stays where it is.
    pub(super) fn leave_in_peace(&mut self) {
        self.hi = self.hi.max(self.mean * 1.15);
        self.lo = self.lo.min(self.mean * 0.85);
    }

    /// MU per second that a seat has below a utilisation.
    pub(super) fn room(&self, seat: u32, ceiling: f64) -> f64 {
        let used = self.used(seat, 0.0, 0.0);
        self.seats
            .get(seat as usize)
            .map_or(0.0, |s| (ceiling - used).max(0.0) * s.mu_per_s)
    }

    pub(super) fn highest(&self) -> f64 {
        self.order
            .last()
            .map_or(0.0, |(used, _, _)| f64::from_bits(*used))
    }

    /// Coldest first, without those where the slice is already.
    pub(super) fn coldest(&self, except: &[u32]) -> impl Iterator<Item = u32> {
        self.order
            .iter()
            .map(|(_, _, seat)| *seat)
            .filter(move |seat| !except.contains(seat))
    }

    /// The wanted least of a seat: one without any slice should at least begin to serve.
    pub(super) fn least(&self, seat: u32) -> f64 {
        let empty = self
            .seats
            .get(seat as usize)
            .is_some_and(|seat| seat.pieces.is_empty());
        if empty {
            self.lo.max(self.mean / 2.0)
        } else {
            self.lo
        }
    }

    /// The strain of a seat with so much more load, in MU per second. See the module's formulas.
    pub(super) fn strain(&self, seat: u32, load: f64, kv: f64) -> f64 {
        let used = self.used(seat, load, kv);
        let capacity = self
            .seats
            .get(seat as usize)
            .map_or(0.0, |seat| seat.mu_per_s);
        let over = (used - self.hi).max(0.0);
        let least = self.least(seat);
        let under = (least - used).max(0.0);
        let above = 16.0 * (used / self.hi).powi(2) * over;
        let below = if under > 0.0 {
            4.0 * (1.0 + under / least).powi(2) * under
        } else {
            0.0
        };
        capacity * (above + below)
    }

    /// What it costs that a slice's workload comes to this seat, in MU per second; `None` where its
    /// hint or the spread over domains forbids it.
    pub(super) fn footprint_cost(
        &self,
        at: u32,
        from: Option<u32>,
        to: u32,
        need: Need,
    ) -> Option<f64> {
        let piece = self.piece(at)?;
        let Some(footprint) = self.footprint(at) else {
            return Some(0.0);
        };
        let leaves = from.is_some_and(|from| footprint.seats.get(from) == 1);
        let comes = footprint.seats.get(to) == 0;
        let after = footprint.seats.len() + usize::from(comes) - usize::from(leaves);
        let grows = comes && !leaves;
        let shrinks = leaves && !comes;
        if (grows && after > footprint.most()) || (shrinks && after < footprint.least()) {
            return None;
        }
        if after > 1
            && self.gets_alone(
                footprint,
                from.filter(|_| leaves),
                Some(to).filter(|_| comes),
            )
        {
            return None;
        }
        if !grows {
            return Some(0.0);
        }
        let needed = after <= footprint.needed(self.mean_load);
        match (needed, need) {
            (true, _) => Some(NEEDED_COST * piece.share()),
            (false, Need::Beyond) => Some(SPREAD_COST * piece.share()),
            (false, Need::Only) => None,
        }
    }

    /// Whether a workload would be in one domain alone that was not, once it has left a seat and
    /// come to another.
    fn gets_alone(&self, footprint: &Footprint, left: Option<u32>, joined: Option<u32>) -> bool {
        let already = footprint.domains.len() == 1 && footprint.seats.len() > 1;
        if self.domains < 2 || already {
            return false;
        }
        let domain = |seat: u32| self.seats.get(seat as usize).map(|seat| seat.domain);
        let (left, joined) = (left.and_then(domain), joined.and_then(domain));
        let emptied =
            left.filter(|left| footprint.domains.get(*left) == 1 && joined != Some(*left));
        let new = joined.filter(|joined| footprint.domains.get(*joined) == 0);
        let after = footprint.domains.len() + usize::from(new.is_some());
        after - usize::from(emptied.is_some()) == 1
    }

    /// What moving one home of a slice gains, in MU per second; `None` where it must not move, or
    /// gains no more than `least`.
    pub(super) fn gain(
        &self,
        at: u32,
        (from, to): (u32, u32),
        need: Need,
        least: f64,
    ) -> Option<f64> {
        let piece = self.piece(at)?;
        if piece.homes.contains(&to) {
            return None;
        }
        let (load, kv) = (piece.share(), piece.warmth.kv_tokens / piece.count());
        let cost = self.move_cost(load, piece.price / piece.count());
        let before = self.strain(from, 0.0, 0.0) + self.strain(to, 0.0, 0.0);
        let enough = |gain: &f64| *gain > least;
        // The cheapest to know comes first: each further term only lowers the gain.
        Some(before - cost).filter(enough)?;
        let after = self.strain(from, -load, -kv) + self.strain(to, load, kv);
        let gain = Some(before - after - cost).filter(enough)?;
        let footprint = self.footprint_cost(at, Some(from), to, need)?;
        Some(gain - footprint).filter(enough)
    }

    /// What moving so much load at this price costs, in MU per second.
    pub(super) fn move_cost(&self, load: f64, price: f64) -> f64 {
        price / self.settings.horizon_s + MOVE_COST * load
    }

    /// Whether a voluntary change of this price is within the budget: the first always is.
    pub(super) fn affords(&self, price: f64) -> bool {
        self.voluntary == 0 || self.spent + price <= self.budget
    }

    /// The same for two moves at once: these are never one single move.
    pub(super) fn affords_swap(&self, price: f64) -> bool {
        self.spent + price <= self.budget
    }

    /// Moves one home of a slice, or gives it its first.
    pub(super) fn shift(&mut self, at: u32, from: Option<u32>, to: u32, why: Why) {
        let Some(piece) = self.piece(at) else { return };
        let price = if from.is_some() {
            piece.price / piece.count()
        } else {
            0.0
        };
        let mut homes = piece.homes.clone();
        match from.and_then(|from| homes.iter_mut().find(|home| **home == from)) {
            Some(home) => *home = to,
            None => homes.push(to),
        }
        self.change(at, homes, (from, Some(to)), why, price);
    }

    /// Gives a slice one more home.
    pub(super) fn add_home(&mut self, at: u32, to: u32, why: Why) {
        let Some(piece) = self.piece(at) else { return };
        // Of n + 1 homes the new one will serve its part of the sessions, without their prefixes.
        let price = piece.price / (piece.count() + 1.0);
        let mut homes = piece.homes.clone();
        homes.push(to);
        self.change(at, homes, (None, Some(to)), why, price);
    }

    /// Takes one of several homes from a slice.
    pub(super) fn drop_home(&mut self, at: u32, from: u32, why: Why) {
        let Some(piece) = self.piece(at) else { return };
        let price = piece.price / piece.count();
        let homes = piece
            .homes
            .iter()
            .copied()
            .filter(|home| *home != from)
            .collect();
        self.change(at, homes, (Some(from), None), why, price);
    }

    fn change(
        &mut self,
        at: u32,
        homes: SmallVec<[u32; 2]>,
        (from, to): (Option<u32>, Option<u32>),
        why: Why,
        price: f64,
    ) {
        let Some(piece) = self.piece(at) else { return };
        let (start, last) = (Key::from_bits(piece.start), Key::from_bits(piece.last));
        let from = from
            .and_then(|seat| self.id(seat))
            .or(piece.lost.filter(|_| why == Why::Lost));
        self.moves.push(Move {
            start,
            last,
            from,
            to: to.and_then(|seat| self.id(seat)),
            why,
            load: piece.share(),
            price,
        });
        if why.is_voluntary() {
            self.voluntary += 1;
            self.spent += price;
        }
        self.put(at, homes);
    }

    /// Sets a slice's homes, and all sums with them.
    fn put(&mut self, at: u32, homes: SmallVec<[u32; 2]>) {
        let Some(piece) = self.pieces.get_mut(at as usize) else {
            return;
        };
        let mut touched = piece.homes.clone();
        touched.extend(
            homes
                .iter()
                .copied()
                .filter(|home| !piece.homes.contains(home)),
        );
        for home in &touched {
            if let Some(seat) = self.seats.get(*home as usize) {
                self.order.remove(&(seat.rank(), seat.tie, *home));
            }
        }
        self.account(at, -1.0);
        if let Some(piece) = self.pieces.get_mut(at as usize) {
            piece.homes = homes;
        }
        self.account(at, 1.0);
        for home in touched {
            if let Some(seat) = self.seats.get(home as usize) {
                self.order.insert((seat.rank(), seat.tie, home));
            }
        }
    }

    /// Adds a slice's part to its homes' sums, or takes it away.
    fn account(&mut self, at: u32, sign: f64) {
        let Some(piece) = self.pieces.get(at as usize) else {
            return;
        };
        let (load, kv) = (
            piece.share() * sign,
            piece.warmth.kv_tokens / piece.count() * sign,
        );
        let place = self.workload_of.get(at as usize).copied().flatten();
        let mut footprint = place.and_then(|place| self.workloads.get_mut(place as usize));
        for home in &piece.homes {
            let Some(seat) = self.seats.get_mut(*home as usize) else {
                continue;
            };
            seat.load += load;
            seat.kv += kv;
            if sign > 0.0 {
                seat.pieces.push(at);
            } else if let Some(place) = seat.pieces.iter().position(|held| *held == at) {
                seat.pieces.swap_remove(place);
            }
            if seat.pieces.is_empty() {
                // Rounding must not make an empty seat look used.
                (seat.load, seat.kv) = (0.0, 0.0);
            }
            if let Some(footprint) = footprint.as_deref_mut() {
                footprint.count(*home, seat.domain, sign > 0.0);
            }
        }
    }
}

/// The workloads of slices in the order of their keys, and each slice's place among them.
fn workloads(pieces: &[Piece], hints: &[WorkloadHint]) -> (Vec<Footprint>, Vec<Option<u32>>) {
    let hints: HashMap<u32, WorkloadHint> =
        hints.iter().map(|hint| (hint.workload, *hint)).collect();
    let mut workloads: Vec<Footprint> = Vec::new();
    let mut places = Vec::with_capacity(pieces.len());
    for (at, piece) in (0u32..).zip(pieces) {
        let Some(workload) = piece.workload() else {
            places.push(None);
            continue;
        };
        if workloads
            .last()
            .is_none_or(|last| last.workload != workload)
        {
            workloads.push(Footprint::new(workload, hints.get(&workload).copied()));
        }
        if let Some(footprint) = workloads.last_mut() {
            footprint.load += piece.load;
            footprint.pieces.push(at);
        }
        places.push(u32::try_from(workloads.len() - 1).ok());
    }
    (workloads, places)
}

impl Seat {
    fn rank(&self) -> u64 {
        (self.load / self.mu_per_s)
            .max(self.kv / self.kv_capacity)
            .max(0.0)
            .to_bits()
    }
}

/// Seats for the members that serve, and how many domains they are in.
fn seats(members: &[&Member]) -> (Vec<Seat>, usize) {
    let names: BTreeSet<&str> = members
        .iter()
        .map(|member| member.domain.as_str())
        .collect();
    let domain: HashMap<&str, u32> = names.iter().copied().zip(0u32..).collect();
    let seat = |member: &&Member| Seat {
        id: member.id,
        mu_per_s: if member.mu_per_s.is_finite() {
            member.mu_per_s.max(1e-6)
        } else {
            1e-6
        },
        kv_capacity: if member.kv_tokens.is_finite() {
            member.kv_tokens.max(1.0)
        } else {
            1.0
        },
        domain: domain
            .get(member.domain.as_str())
            .copied()
            .unwrap_or_default(),
        load: 0.0,
        kv: 0.0,
        pieces: Vec::new(),
        #[allow(clippy::cast_possible_truncation)]
        tie: mix(0x0074_6965, u64::from(member.id.0)) as u32,
    };
    (members.iter().map(seat).collect(), names.len())
}
