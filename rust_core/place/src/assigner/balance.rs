//! Moving that pays: levelling, replicating what is too hot, drawing together what is too spread.

use super::Why;
use super::board::{Board, FEW, Need};
use super::place::{clear_seat, least_used_by, roomiest};
use super::swap::best_swap;

/// Slices of one replica that are tried for one move.
const TRIES: usize = 96;

/// A replicated slice loses a replica when the others would still be below this part of what made
/// it replicate.
const DEREPLICATE: f64 = 0.7;

/// Replicates slices that are too hot for their replicas and cannot be split; takes replicas from
/// those that have cooled down.
pub(super) fn replicate(board: &mut Board<'_>) {
    let hot = board.settings.replicate_share * board.mean_load;
    let deviations = board.settings.deviations;
    let mut hottest: Vec<(u64, u32)> = (0u32..)
        .zip(&board.pieces)
        .filter(|(_, piece)| piece.sure_share(deviations) > hot && piece.is_atom())
        .map(|(at, piece)| (piece.share().to_bits(), at))
        .collect();
    hottest.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, at) in hottest {
        while let Some(piece) = board.piece(at) {
            let price = piece.price / (piece.count() + 1.0);
            let enough =
                piece.sure_share(deviations) <= hot || piece.homes.len() >= board.seats.len();
            if enough || !board.affords(price) {
                break;
            }
            let Some(to) = roomiest(board, at) else { break };
            if board.footprint_cost(at, None, to, Need::Beyond).is_none() {
                break;
            }
            board.add_home(at, to, Why::Replicate);
        }
    }
    for at in 0..u32::try_from(board.pieces.len()).unwrap_or(u32::MAX) {
        while let Some(piece) = board.piece(at) {
            let fewer = piece.count() - 1.0;
            if fewer < 1.0 || piece.load / fewer > DEREPLICATE * hot {
                break;
            }
            let hottest = piece.homes.iter().copied().max_by(|a, b| {
                board
                    .used(*a, 0.0, 0.0)
                    .total_cmp(&board.used(*b, 0.0, 0.0))
                    .then(b.cmp(a))
            });
            let Some(from) = hottest.filter(|from| may_leave(board, at, *from)) else {
                break;
            };
            board.drop_home(at, from, Why::Dereplicate);
        }
    }
}

/// Whether a slice may give up a home without breaking its workload's hint or its two domains.
fn may_leave(board: &Board<'_>, at: u32, from: u32) -> bool {
    let Some(footprint) = board.footprint(at) else {
        return true;
    };
    let after = footprint.seats.len().saturating_sub(1);
    if footprint.seats.get(from) != 1 {
        return true;
    }
    if after < footprint.least() {
        return false;
    }
    let domain = board.seats.get(from as usize).map(|seat| seat.domain);
    let last = domain.is_some_and(|domain| footprint.domains.get(domain) == 1);
    after < 2 || footprint.domains.len() > 2 || !last
}

/// One move that was found to pay.
#[derive(Clone, Copy)]
struct Found {
    gain: f64,
    at: u32,
    from: u32,
    to: u32,
}

/// Moves slices off replicas above the range and to replicas below it, the farthest out first.
pub(super) fn level(board: &mut Board<'_>) {
    let mut stuck = vec![false; board.seats.len()];
    let free = |stuck: &[bool], seat: u32| !stuck.get(seat as usize).copied().unwrap_or(true);
    for step in 0..1024 + 2 * board.seats.len() {
        let hottest = board
            .order
            .iter()
            .rev()
            .find(|(_, _, seat)| free(&stuck, *seat));
        let coldest = board.order.iter().find(|(_, _, seat)| free(&stuck, *seat));
        let (Some(&(used, _, hot)), Some(&(unused, _, cold))) = (hottest, coldest) else {
            break;
        };
        let over = f64::from_bits(used) > board.hi;
        let under = f64::from_bits(unused) < board.least(cold);
        let moved = match (over, under) {
            (true, _) => relieve(board, hot, step),
            (false, true) => fill(board, cold, step),
            (false, false) => break,
        };
        if !moved {
            let tried = if over { hot } else { cold };
            stuck
                .iter_mut()
                .skip(tried as usize)
                .take(1)
                .for_each(|seat| *seat = true);
        }
    }
}

/// Takes load off a seat; false when nothing gains.
fn relieve(board: &mut Board<'_>, hot: u32, step: usize) -> bool {
    if let Some(found) = best_from(board, hot, step) {
        board.shift(found.at, Some(hot), found.to, Why::Hot);
        return true;
    }
    let Some(swap) = best_swap(board, hot) else {
        return false;
    };
    board.shift(swap.large, Some(hot), swap.cold, Why::Hot);
    board.shift(swap.small, Some(swap.cold), hot, Why::Hot);
    true
}

/// Brings load to a seat; false when nothing gains.
fn fill(board: &mut Board<'_>, cold: u32, step: usize) -> bool {
    let Some(found) = best_to(board, cold, step) else {
        return false;
    };
    board.shift(found.at, Some(found.from), cold, Why::Cold);
    true
}

/// The best move away from a seat: one that keeps workloads together, if any does.
fn best_from(board: &Board<'_>, from: u32, step: usize) -> Option<Found> {
    let within = || best_from_with(board, from, step, Need::Only);
    within().or_else(|| best_from_with(board, from, step, Need::Beyond))
}

fn best_from_with(board: &Board<'_>, from: u32, step: usize, need: Need) -> Option<Found> {
    let coldest: Vec<u32> = board.coldest(&[from]).take(4).collect();
    // Slices of one workload often follow one another: what was found for the last is kept.
    let mut near: (Option<u32>, Option<u32>) = (None, None);
    let mut best: Option<Found> = None;
    for at in tries(board, from, step) {
        let Some(piece) = board.piece(at) else {
            continue;
        };
        if !board.affords(piece.price / piece.count()) {
            continue;
        }
        let workload = piece.workload();
        if workload != near.0 {
            near = (workload, coldest_of(board, at, from));
        }
        let own = near.1.filter(|_| workload.is_some());
        for to in coldest.iter().copied().chain(own) {
            keep_better(board, &mut best, (at, from, to), need);
        }
    }
    best
}

/// The coldest other seat of a slice's workload, where those are few.
fn coldest_of(board: &Board<'_>, at: u32, from: u32) -> Option<u32> {
    let footprint = board
        .footprint(at)
        .filter(|footprint| footprint.seats.len() <= FEW)?;
    let others = footprint.seats.keys().filter(|seat| *seat != from);
    others.min_by(|a, b| {
        board
            .used(*a, 0.0, 0.0)
            .total_cmp(&board.used(*b, 0.0, 0.0))
            .then(a.cmp(b))
    })
}

/// The best move to a seat from the hottest ones.
fn best_to(board: &Board<'_>, to: u32, step: usize) -> Option<Found> {
    let within = || best_to_with(board, to, step, Need::Only);
    within().or_else(|| best_to_with(board, to, step, Need::Beyond))
}

fn best_to_with(board: &Board<'_>, to: u32, step: usize, need: Need) -> Option<Found> {
    let mut best: Option<Found> = None;
    let hottest: Vec<u32> = board
        .order
        .iter()
        .rev()
        .take(4)
        .map(|(_, _, seat)| *seat)
        .collect();
    for from in hottest.into_iter().filter(|from| *from != to) {
        for at in tries(board, from, step) {
            let Some(piece) = board.piece(at) else {
                continue;
            };
            if board.affords(piece.price / piece.count()) {
                keep_better(board, &mut best, (at, from, to), need);
            }
        }
    }
    best
}

fn keep_better(
    board: &Board<'_>,
    best: &mut Option<Found>,
    (at, from, to): (u32, u32, u32),
    need: Need,
) {
    let least = best.map_or(0.0, |found| found.gain);
    if let Some(gain) = board.gain(at, (from, to), need, least) {
        *best = Some(Found { gain, at, from, to });
    }
}

/// The slices of a seat, or a window of them that moves on with each step.
fn tries<'b>(board: &'b Board<'_>, seat: u32, step: usize) -> impl Iterator<Item = u32> + 'b {
    let pieces = board
        .seats
        .get(seat as usize)
        .map_or(&[][..], |seat| &seat.pieces[..]);
    let from = if pieces.len() > TRIES {
        step * TRIES % pieces.len()
    } else {
        0
    };
    pieces
        .iter()
        .cycle()
        .skip(from)
        .take(TRIES.min(pieces.len()))
        .copied()
}

/// How far above the mean a replica may get for the while when a workload is drawn together: among
/// level replicas none has room, so others' slices have to make way, by levelling.
const DRAWN: f64 = 1.12;

/// Takes workloads off replicas that their load does not need, one replica a round. One more than
/// needed may stay, so that a load at the edge does not come and go.
pub(super) fn draw_together(board: &mut Board<'_>) {
    let ceiling = board.mean * DRAWN;
    for place in 0..board.workloads.len() {
        let Some(footprint) = board.workloads.get(place) else {
            continue;
        };
        if footprint.seats.len() <= footprint.needed(board.mean_load) + 1 {
            continue;
        }
        let Some(seat) = least_used_by(board, place) else {
            continue;
        };
        let domain = board.seats.get(seat as usize).map(|seat| seat.domain);
        let last = domain.is_some_and(|domain| footprint.domains.get(domain) == 1);
        if last && footprint.domains.len() == 2 {
            continue;
        }
        if has_room(board, place, seat, ceiling) {
            clear_seat(board, place, seat, Why::Footprint, ceiling);
        }
    }
}

/// Whether a workload's other seats can take all it has on this one, and the budget its price.
fn has_room(board: &Board<'_>, place: usize, seat: u32, ceiling: f64) -> bool {
    let Some(footprint) = board.workloads.get(place) else {
        return false;
    };
    let here = footprint.pieces.iter().filter_map(|at| board.piece(*at));
    let here = || here.clone().filter(|piece| piece.homes.contains(&seat));
    if here().any(|piece| piece.homes.len() > 1) {
        return false; // It is here because it is too hot to be elsewhere alone.
    }
    let (load, price) = here().fold((0.0, 0.0), |(load, price), piece| {
        (load + piece.share(), price + piece.price)
    });
    let others = footprint.seats.keys().filter(|other| *other != seat);
    let room: f64 = others.map(|other| board.room(other, ceiling)).sum();
    load < 0.8 * room && board.affords(price)
}
