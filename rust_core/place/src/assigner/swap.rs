//! Swapping: where no slice can leave a hot replica alone, a large one changes places with a
//! smaller one of a colder replica.

use super::board::{Board, Need};

/// Large slices of the hot replica that are tried.
const LARGE: usize = 8;

/// Colder replicas that are tried.
const PARTNERS: usize = 8;

/// Slices of each that are tried.
const TRIES: usize = 64;

/// Two slices that change places.
#[derive(Clone, Copy)]
pub(super) struct Swap {
    pub(super) gain: f64,
    pub(super) large: u32,
    pub(super) small: u32,
    pub(super) hot: u32,
    pub(super) cold: u32,
}

/// The swap that gains most, if any gains.
pub(super) fn best_swap(board: &Board<'_>, hot: u32) -> Option<Swap> {
    let mut best: Option<Swap> = None;
    let partners: Vec<u32> = board.coldest(&[hot]).take(PARTNERS).collect();
    for large in largest(board, hot) {
        for cold in &partners {
            for small in slices_of(board, *cold).take(TRIES) {
                let swap = Swap {
                    gain: 0.0,
                    large,
                    small,
                    hot,
                    cold: *cold,
                };
                if let Some(gain) = gain(board, &swap) {
                    if gain > best.map_or(0.0, |best| best.gain) {
                        best = Some(Swap { gain, ..swap });
                    }
                }
            }
        }
    }
    best
}

fn largest(board: &Board<'_>, seat: u32) -> Vec<u32> {
    let share = |at: &u32| board.piece(*at).map_or(0.0, super::shape::Piece::share);
    let mut slices: Vec<u32> = slices_of(board, seat).collect();
    slices.sort_by(|a, b| share(b).total_cmp(&share(a)).then(a.cmp(b)));
    slices.truncate(LARGE);
    slices
}

fn slices_of<'b>(board: &'b Board<'_>, seat: u32) -> impl Iterator<Item = u32> + 'b {
    board
        .seats
        .get(seat as usize)
        .into_iter()
        .flat_map(|seat| seat.pieces.iter().copied())
}

fn gain(board: &Board<'_>, swap: &Swap) -> Option<f64> {
    let (large, small) = (board.piece(swap.large)?, board.piece(swap.small)?);
    let apart = large.workload().is_none() || large.workload() != small.workload();
    if !apart || large.homes.contains(&swap.cold) || small.homes.contains(&swap.hot) {
        return None;
    }
    let load = large.share() - small.share();
    let kv = large.warmth.kv_tokens / large.count() - small.warmth.kv_tokens / small.count();
    let strains =
        |load: f64, kv: f64| board.strain(swap.hot, -load, -kv) + board.strain(swap.cold, load, kv);
    let relief = strains(0.0, 0.0) - strains(load, kv);
    let price = large.price / large.count() + small.price / small.count();
    if relief <= 0.0 || !board.affords_swap(price) {
        return None;
    }
    let there = board.footprint_cost(swap.large, Some(swap.hot), swap.cold, Need::Only)?;
    let back = board.footprint_cost(swap.small, Some(swap.cold), swap.hot, Need::Only)?;
    let moved = board.move_cost(large.share() + small.share(), price);
    Some(relief - there - back - moved)
}
