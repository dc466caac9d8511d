//! Placing that must be: slices without a home, workloads outside their hints or in one domain.

use super::Why;
use super::board::{Board, FEW, Need};

/// Gives every slice without a home one, the hottest first. Returns whether any had lost its own.
pub(super) fn house(board: &mut Board<'_>) -> bool {
    let mut homeless: Vec<(u64, u64, u32)> = (0u32..)
        .zip(&board.pieces)
        .filter(|(_, piece)| piece.homes.is_empty())
        .map(|(at, piece)| (piece.load.max(0.0).to_bits(), piece.start, at))
        .collect();
    homeless.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut any_lost = false;
    for (_, _, at) in homeless {
        let lost = board.piece(at).is_some_and(|piece| piece.lost.is_some());
        any_lost |= lost;
        if let Some(seat) = roomiest(board, at) {
            board.shift(at, None, seat, if lost { Why::Lost } else { Why::New });
        }
    }
    any_lost
}

/// The best seat for one more home of a slice: level load first, then where its workload is.
pub(super) fn roomiest(board: &Board<'_>, at: u32) -> Option<u32> {
    let piece = board.piece(at)?;
    let (load, kv) = (piece.share(), piece.warmth.kv_tokens / piece.count());
    let mut near: Vec<u32> = board.coldest(&piece.homes).take(4).collect();
    if let Some(footprint) = board.footprint(at) {
        if footprint.seats.len() <= FEW {
            near.extend(
                footprint
                    .seats
                    .keys()
                    .filter(|seat| !piece.homes.contains(seat)),
            );
        }
        if let Some(alone) = footprint.alone() {
            let elsewhere = |seat: &u32| domain(board, *seat) != Some(alone);
            near.extend(board.coldest(&piece.homes).find(elsewhere));
        }
    }
    let cost = |seat: u32| {
        let footprint = board.footprint_cost(at, None, seat, Need::Beyond)?;
        let strain = board.strain(seat, load, kv) - board.strain(seat, 0.0, 0.0);
        let pressure = load * board.used(seat, load, kv) / board.mean.max(1e-9);
        Some(strain + pressure + footprint)
    };
    let mut best: Option<(f64, u32)> = None;
    for seat in near {
        if let Some(cost) = cost(seat) {
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, seat));
            }
        }
    }
    // Where a hint leaves only the workload's own seats, and those were too many to look at.
    best.map(|(_, seat)| seat).or_else(|| {
        let all = board.coldest(&piece.homes);
        let mut allowed = all.filter(|seat| {
            board
                .footprint_cost(at, None, *seat, Need::Beyond)
                .is_some()
        });
        allowed
            .next()
            .or_else(|| board.coldest(&piece.homes).next())
    })
}

fn domain(board: &Board<'_>, seat: u32) -> Option<u32> {
    board.seats.get(seat as usize).map(|seat| seat.domain)
}

/// Brings workloads within their hints.
pub(super) fn keep_hints(board: &mut Board<'_>) {
    for place in board.hinted() {
        for _ in 0..board.seats.len() {
            let Some(footprint) = board.workloads.get(place) else {
                break;
            };
            let (count, least) = (
                footprint.seats.len(),
                footprint.least().min(board.seats.len()),
            );
            let changed = if count > footprint.most() {
                leave_one(board, place)
            } else {
                count > 0 && count < least && take_one(board, place)
            };
            if !changed {
                break;
            }
        }
    }
}

/// Takes a workload off the seat where it has least.
fn leave_one(board: &mut Board<'_>, place: usize) -> bool {
    let Some(seat) = least_used_by(board, place) else {
        return false;
    };
    clear_seat(board, place, seat, Why::Hint, f64::INFINITY)
}

/// The seat that carries least of a workload.
pub(super) fn least_used_by(board: &Board<'_>, place: usize) -> Option<u32> {
    let footprint = board.workloads.get(place)?;
    let mut loads: Vec<(u32, f64)> = footprint.seats.keys().map(|seat| (seat, 0.0)).collect();
    for piece in footprint.pieces.iter().filter_map(|at| board.piece(*at)) {
        for home in &piece.homes {
            if let Ok(at) = loads.binary_search_by_key(home, |(seat, _)| *seat) {
                if let Some((_, load)) = loads.get_mut(at) {
                    *load += piece.share();
                }
            }
        }
    }
    loads
        .into_iter()
        .min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)))
        .map(|(seat, _)| seat)
}

/// Moves all of a workload's slices from one seat to its others, coldest first, as long as none of
/// these gets above `ceiling`. Returns whether the seat is clear.
pub(super) fn clear_seat(
    board: &mut Board<'_>,
    place: usize,
    seat: u32,
    why: Why,
    ceiling: f64,
) -> bool {
    let Some(footprint) = board.workloads.get(place) else {
        return false;
    };
    let others: Vec<u32> = footprint
        .seats
        .keys()
        .filter(|other| *other != seat)
        .collect();
    let here: Vec<u32> = footprint
        .pieces
        .iter()
        .copied()
        .filter(|at| {
            board
                .piece(*at)
                .is_some_and(|piece| piece.homes.contains(&seat))
        })
        .collect();
    for at in here {
        let Some(piece) = board.piece(at) else {
            continue;
        };
        let (load, kv) = (piece.share(), piece.warmth.kv_tokens / piece.count());
        if piece.homes.len() > 1 {
            board.drop_home(at, seat, why);
            continue;
        }
        let price = piece.price;
        let fits = |other: &&u32| board.used(**other, load, kv) <= ceiling;
        let coldest = others.iter().filter(fits).min_by(|a, b| {
            board
                .used(**a, 0.0, 0.0)
                .total_cmp(&board.used(**b, 0.0, 0.0))
                .then(a.cmp(b))
        });
        match coldest.copied() {
            Some(other) if !why.is_voluntary() || board.affords(price) => {
                board.shift(at, Some(seat), other, why);
            }
            _ => return false,
        }
    }
    true
}

/// Gives a workload one seat more: its hottest slice among those that share a seat goes.
fn take_one(board: &mut Board<'_>, place: usize) -> bool {
    let Some(footprint) = board.workloads.get(place) else {
        return false;
    };
    let shared = |at: &&u32| {
        board.piece(**at).is_some_and(|piece| {
            let seats = |home: &u32| footprint.seats.get(*home) > 1;
            piece.homes.iter().all(seats)
        })
    };
    let load = |at: &u32| board.piece(*at).map_or(0.0, |piece| piece.load);
    let mut candidates: Vec<u32> = footprint.pieces.iter().filter(shared).copied().collect();
    candidates.sort_by(|a, b| load(b).total_cmp(&load(a)).then(a.cmp(b)));
    let Some(at) = candidates
        .first()
        .copied()
        .or_else(|| footprint.pieces.first().copied())
    else {
        return false;
    };
    let alone = footprint.alone();
    let taken: Vec<u32> = footprint.seats.keys().collect();
    let elsewhere = board
        .coldest(&taken)
        .find(|seat| alone.is_none_or(|a| domain(board, *seat) != Some(a)));
    let Some(to) = elsewhere.or_else(|| board.coldest(&taken).next()) else {
        return false;
    };
    let from = board
        .piece(at)
        .and_then(|piece| piece.homes.first().copied());
    match from {
        Some(from) if !candidates.is_empty() => board.shift(at, Some(from), to, Why::Hint),
        _ => board.add_home(at, to, Why::Hint),
    }
    true
}

/// No workload with two replicas or more stays in one domain while another has a replica.
pub(super) fn keep_domains(board: &mut Board<'_>) {
    if board.domains < 2 {
        return;
    }
    for place in 0..board.workloads.len() {
        let Some(footprint) = board.workloads.get(place) else {
            continue;
        };
        let Some(alone) = footprint.alone().filter(|_| footprint.seats.len() > 1) else {
            continue;
        };
        // The cheapest slice of a seat where it is the only one: the footprint stays as it is.
        let single = |at: &u32| {
            let home = board.piece(*at).and_then(|piece| piece.homes.first());
            home.is_some_and(|home| footprint.seats.get(*home) != 1)
        };
        let price = |at: &u32| {
            board
                .piece(*at)
                .map_or(0.0, |piece| piece.price / piece.count())
        };
        let cheapest = footprint.pieces.iter().copied().min_by(|a, b| {
            single(a)
                .cmp(&single(b))
                .then(price(a).total_cmp(&price(b)))
                .then(a.cmp(b))
        });
        let Some(at) = cheapest else { continue };
        let Some(from) = board
            .piece(at)
            .and_then(|piece| piece.homes.first().copied())
        else {
            continue;
        };
        let full = footprint.seats.len() >= footprint.most();
        if full && single(&at) {
            // One seat more would break the hint: a whole seat has to go over.
            swap_seat(board, place, alone);
            continue;
        }
        let to = board
            .coldest(&[])
            .find(|seat| domain(board, *seat) != Some(alone));
        if let Some(to) = to {
            board.shift(at, Some(from), to, Why::Domain);
        }
    }
}

/// Moves all of a workload's slices from its least used seat to one seat in another domain.
fn swap_seat(board: &mut Board<'_>, place: usize, alone: u32) {
    let Some(seat) = least_used_by(board, place) else {
        return;
    };
    let other = board
        .coldest(&[])
        .find(|other| domain(board, *other) != Some(alone));
    let Some(other) = other else { return };
    let Some(footprint) = board.workloads.get(place) else {
        return;
    };
    let here: Vec<u32> = footprint
        .pieces
        .iter()
        .copied()
        .filter(|at| {
            board
                .piece(*at)
                .is_some_and(|piece| piece.homes.contains(&seat))
        })
        .collect();
    for at in here {
        board.shift(at, Some(seat), other, Why::Domain);
    }
}
