//! Heat: the decayed MU rate of each slice, counted without a lock where requests are placed.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::key::Key;
use crate::mu::MicroMu;
use crate::slices::Slices;
use crate::warmth::{HotKey, PARTS, Warmth};

/// What was placed in a slice since the last round.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    /// µMU charged, by part. Below zero, what was taken back is more than what came.
    parts: [AtomicI64; PARTS],
    /// µMU that cached prefixes saved.
    saved: AtomicI64,
    /// KV tokens × milliseconds.
    token_ms: AtomicI64,
    /// Squares of what each request was charged, 1/1,000 MU².
    squares: AtomicI64,
    /// The key that may be bringing most of the load…
    leader: AtomicU64,
    /// …and µMU by which it leads all others together.
    lead: AtomicU64,
    /// The hot key as the last round left it; zero where none was.
    hot: AtomicU64,
    /// µMU taken back of what rounds have counted as that key's.
    hot_less: AtomicI64,
}

/// What a placed request counts as in its slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// MU charged.
    pub charged: MicroMu,
    /// Prefill MU that a cached prefix saved.
    pub saved: MicroMu,
}

impl Cell {
    pub(crate) fn record(&self, part: usize, key: Key, placed: Placed) {
        let micro = unsigned(placed.charged);
        if let Some(counter) = self.parts.get(part) {
            add(counter, signed(micro));
        }
        if placed.saved > MicroMu::ZERO {
            add(&self.saved, signed(unsigned(placed.saved)));
        }
        add(&self.squares, square(micro));
        self.vote(key.bits(), micro);
    }

    /// Corrects what was recorded as `was`, `left` of which has not faded, to what it `is`.
    pub(crate) fn correct(&self, part: usize, key: Key, was: Placed, is: Placed, left: f64) {
        let (before, now) = (unsigned(was.charged), unsigned(is.charged));
        if let Some(counter) = self.parts.get(part) {
            add(counter, share(signed(now) - signed(before), left));
        }
        let saved = signed(unsigned(is.saved)) - signed(unsigned(was.saved));
        add(&self.saved, share(saved, left));
        add(&self.squares, share(square(now) - square(before), left));
        if now < before {
            self.take_back(key.bits(), share(signed(before - now), left));
        }
    }

    /// Takes a key's lead back: what has come since the last round, then what rounds have seen.
    fn take_back(&self, key: u64, micro: i64) {
        let mut gone = u64::try_from(micro).unwrap_or(0);
        if self.leader.load(Relaxed) == key {
            let lead = self.lead.load(Relaxed);
            self.lead.store(lead.saturating_sub(gone), Relaxed);
            gone = gone.saturating_sub(lead);
        }
        if self.hot.load(Relaxed) == key {
            add(&self.hot_less, signed(gone));
        }
    }

    /// Boyer and Moore's majority vote, weighted. Two threads may cross here and lose a vote: the
    /// leader is a hint, and the counters above are what is summed.
    fn vote(&self, key: u64, micro: u64) {
        let lead = self.lead.load(Relaxed);
        if self.leader.load(Relaxed) == key {
            self.lead.store(lead.saturating_add(micro), Relaxed);
        } else if lead >= micro {
            self.lead.store(lead - micro, Relaxed);
        } else {
            self.leader.store(key, Relaxed);
            self.lead.store(micro - lead, Relaxed);
        }
    }

    pub(crate) fn record_kv(&self, token_ms: u64) {
        add(&self.token_ms, signed(token_ms));
    }
}

/// Adds without ever going round: sums of outliers stay at their end.
fn add(counter: &AtomicI64, change: i64) {
    if change != 0 {
        let grown = |sum: i64| Some(sum.saturating_add(change));
        // The function always gives a value, so this cannot fail.
        let _ = counter.fetch_update(Relaxed, Relaxed, grown);
    }
}

/// 1/1,000 MU². Below 0.03 MU it is nothing, beside what is above it.
fn square(micro: u64) -> i64 {
    let milli = micro / 1_000;
    signed(milli.saturating_mul(milli) / 1_000)
}

/// At most half of what fits, so that the difference of two fits as well.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX).min(i64::MAX / 2)
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn share(change: i64, left: f64) -> i64 {
    (change as f64 * left.clamp(0.0, 1.0)) as i64
}

fn unsigned(mu: MicroMu) -> u64 {
    u64::try_from(mu.micro()).unwrap_or(0)
}

/// The decayed rates of all slices of one assignment of a model.
#[derive(Clone, Debug, Default)]
pub struct Heat {
    slices: Vec<Memory>,
    at_ms: u64,
    /// Share of a full memory that everything rests on, 0 to 1, and its time constant.
    filled: f64,
    memory_s: f64,
}

/// What is remembered of one slice: sums that are too low by the share that the memory is filled.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    /// MU per second of the whole slice.
    sum: f64,
    /// Its parts are filled by `parts_filled`, all else by `filled`.
    rates: Warmth,
}

impl Memory {
    fn fade(&mut self, keep: f64) {
        self.sum *= keep;
        self.rates = self.rates.scaled(keep);
        self.rates.filled = self.rates.filled * keep + (1.0 - keep);
        self.rates.parts_filled = self.rates.parts_filled * keep + (1.0 - keep);
    }

    /// As if the memory were full.
    fn full(&self) -> Warmth {
        let per = |filled: f64| if filled > 0.0 { 1.0 / filled } else { 0.0 };
        let mut full = self.rates.scaled(per(self.rates.filled));
        let divided: f64 = self.rates.mu_per_s();
        let scale = self.sum * per(self.rates.filled) * per(divided);
        full.parts = self.rates.parts.map(|rate| rate * scale);
        full
    }

    fn of(full: &Warmth) -> Self {
        let mut rates = full.scaled(full.filled);
        rates.parts = full.parts.map(|rate| rate * full.parts_filled);
        Self {
            sum: full.mu_per_s() * full.filled,
            rates,
        }
    }
}

impl Heat {
    /// Nothing known yet, as of `now_ms`.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self {
            at_ms: now_ms,
            ..Self::default()
        }
    }

    /// Takes in what was placed since the last call. `memory_ms` is the time after which an old
    /// rate counts 1/e. An empty interval changes nothing.
    #[allow(clippy::cast_precision_loss)]
    pub fn absorb(&mut self, slices: &Slices, now_ms: u64, memory_ms: f64) {
        self.slices.resize(slices.len(), Memory::default());
        let elapsed_ms = now_ms.saturating_sub(self.at_ms) as f64;
        if elapsed_ms <= 0.0 {
            return;
        }
        self.at_ms = now_ms;
        let keep = (-elapsed_ms / memory_ms.max(1.0)).exp();
        let per_s = |micro: f64| micro / 1e3 / elapsed_ms * (1.0 - keep);
        self.memory_s = memory_ms.max(1.0) / 1e3;
        self.filled = self.filled * keep + (1.0 - keep);
        for (memory, cell) in self.slices.iter_mut().zip(slices.cells()) {
            memory.fade(keep);
            let rates = &mut memory.rates;
            let before = memory.sum;
            for (rate, counter) in rates.parts.iter_mut().zip(&cell.parts) {
                let fresh = per_s(take(counter)).max(-*rate);
                *rate += fresh;
                memory.sum = (memory.sum + fresh).max(0.0);
            }
            let grown = |rate: f64, fresh: f64| (rate + fresh).max(0.0);
            rates.saved = grown(rates.saved, per_s(take(&cell.saved)));
            let squares = take(&cell.squares) / elapsed_ms * (1.0 - keep);
            rates.squares = grown(rates.squares, squares);
            let tokens = take(&cell.token_ms) / elapsed_ms * (1.0 - keep);
            rates.kv_tokens = grown(rates.kv_tokens, tokens);
            let less = per_s(take(&cell.hot_less));
            rates.hot = rates.hot.and_then(|hot| hot.less(less));
            let lead = match cell.lead.load(Relaxed) {
                0 => 0.0,
                _ => per_s(cell.lead.swap(0, Relaxed) as f64),
            };
            if memory.sum > before {
                let key = Key::from_bits(cell.leader.load(Relaxed));
                rates.hot = Some(follow(rates.hot, key, lead));
            }
            let hot = rates.hot.map_or(0, |hot| hot.key.bits());
            if cell.hot.load(Relaxed) != hot {
                cell.hot.store(hot, Relaxed);
            }
        }
    }

    /// Each slice's rates, as if every memory were full.
    pub(crate) fn rates(&self) -> impl Iterator<Item = Warmth> + '_ {
        self.slices.iter().map(Memory::full)
    }

    /// The same memory over other slices, whose rates are as [`Heat::rates`] gives them.
    pub(crate) fn over(&self, rates: impl Iterator<Item = Warmth>) -> Self {
        Self {
            slices: rates.map(|full| Memory::of(&full)).collect(),
            at_ms: self.at_ms,
            filled: self.filled,
            memory_s: self.memory_s,
        }
    }

    /// MU per second of all slices.
    #[must_use]
    pub fn mu_per_s(&self) -> f64 {
        let sum = |memory: &Memory| match memory.rates.filled {
            filled if filled > 0.0 => memory.sum / filled,
            _ => 0.0,
        };
        self.slices.iter().map(sum).sum()
    }

    /// Seconds that the rates count for. A fading memory counts for twice its time constant once it
    /// is full.
    pub(crate) fn counted_s(&self) -> f64 {
        2.0 * self.memory_s * self.filled / (2.0 - self.filled)
    }

    /// The rates of the slice at a place.
    #[must_use]
    pub fn slice(&self, at: usize) -> Option<Warmth> {
        self.slices.get(at).map(Memory::full)
    }

    /// When it last took anything in.
    #[must_use]
    pub fn at_ms(&self) -> u64 {
        self.at_ms
    }
}

impl HotKey {
    /// Less so much a second; none where that leaves it no lead: which other one has it is not known.
    fn less(self, mu_per_s: f64) -> Option<Self> {
        let surplus = self.surplus - mu_per_s;
        (mu_per_s <= 0.0 || surplus > 0.0).then_some(Self { surplus, ..self })
    }
}

/// The hot key after an interval that another, or the same, has led.
fn follow(before: Option<HotKey>, key: Key, lead: f64) -> HotKey {
    match before {
        Some(hot) if hot.key == key => HotKey {
            key,
            surplus: hot.surplus + lead,
        },
        Some(hot) if hot.surplus > lead => HotKey {
            surplus: hot.surplus - lead,
            ..hot
        },
        Some(hot) => HotKey {
            key,
            surplus: lead - hot.surplus,
        },
        None => HotKey { key, surplus: lead },
    }
}

#[allow(clippy::cast_precision_loss)]
fn take(counter: &AtomicI64) -> f64 {
    // A plain load first: most of 100,000 slices were not touched, and a swap dirties their lines.
    if counter.load(Relaxed) == 0 {
        0.0
    } else {
        counter.swap(0, Relaxed) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slices::SliceSpec;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-6 * (1.0 + a.abs().max(b.abs()))
    }

    fn two() -> Slices {
        let spec = |start| SliceSpec {
            start: Key::from_bits(start),
            homes: Default::default(),
        };
        Slices::new(vec![spec(0), spec(1 << 63)])
    }

    fn place(slices: &Slices, key: u64, mu: f64) {
        slices.record(Key::from_bits(key), brought(mu));
    }

    fn brought(mu: f64) -> Placed {
        Placed {
            charged: MicroMu::from_mu(mu),
            saved: MicroMu::from_mu(mu / 2.0),
        }
    }

    #[test]
    fn a_steady_rate_is_known_from_the_first_round_on() {
        let slices = two();
        let mut heat = Heat::new(0);
        for round in 1..=100u64 {
            place(&slices, 5, 300.0);
            slices.record_kv(Key::from_bits(5), 2_000_000);
            heat.absorb(&slices, round * 1_000, 30_000.0);
            let rates: Vec<Warmth> = heat.rates().collect();
            assert!(
                close(rates[0].mu_per_s(), 300.0),
                "round {round}: {rates:?}"
            );
            assert!(close(rates[0].saved, 150.0));
            assert!(close(rates[0].kv_tokens, 2_000.0));
            assert!(close(rates[0].hot_mu_per_s(), 300.0));
            assert_eq!(rates[1].mu_per_s(), 0.0);
        }
    }

    #[test]
    fn an_old_rate_fades() {
        let slices = two();
        let mut heat = Heat::new(0);
        for round in 1..=200u64 {
            place(&slices, u64::MAX, if round <= 100 { 100.0 } else { 0.0 });
            heat.absorb(&slices, round * 1_000, 20_000.0);
        }
        assert!(heat.mu_per_s() < 1.0, "{}", heat.mu_per_s());
    }

    #[test]
    fn the_part_and_the_key_that_are_hot_are_known() {
        let slices = two();
        let mut heat = Heat::new(0);
        let hot = (1 << 63) + (3 << 60);
        for other in 0..100u64 {
            place(&slices, hot, 7.0);
            place(&slices, (1 << 63) + (other << 50), 3.0);
        }
        heat.absorb(&slices, 1_000, 30_000.0);
        let rates = heat.rates().nth(1).unwrap();
        assert!(close(rates.parts[3], 700.0), "{rates:?}");
        assert_eq!(rates.hot.map(|hot| hot.key.bits()), Some(hot));
        let known = rates.hot_mu_per_s();
        assert!((650.0..750.0).contains(&known), "{known}");
    }

    #[test]
    fn of_many_equal_keys_none_stands_out() {
        let slices = two();
        let mut heat = Heat::new(0);
        for round in 0..20u64 {
            for key in 0..50u64 {
                place(&slices, key << 40, 1.0);
            }
            heat.absorb(&slices, (round + 1) * 1_000, 30_000.0);
        }
        let rates = heat.rates().next().unwrap();
        assert!(rates.hot.is_none_or(|hot| hot.surplus < 3.0), "{rates:?}");
    }

    #[test]
    fn what_did_not_happen_is_taken_back_before_and_after_a_round() {
        let slices = two();
        let mut heat = Heat::new(0);
        for round in 1..=4u64 {
            place(&slices, 5, 300.0);
            let at = Key::from_bits(7);
            if round == 2 {
                slices.record(at, brought(1e6));
                slices.correct(at, brought(1e6), Placed::default(), 1.0);
            }
            if round == 3 {
                slices.record(at, brought(1e6));
            }
            heat.absorb(&slices, round * 1_000, 30_000.0);
            if round == 3 {
                let left = (-1.0 / 30.0_f64).exp();
                slices.correct(at, brought(1e6), Placed::default(), left);
            }
        }
        let rate = heat.rates().next().unwrap();
        assert!((rate.mu_per_s() - 300.0).abs() < 1.0, "{rate:?}");
        assert!((rate.saved - 150.0).abs() < 1.0, "{rate:?}");
    }

    #[test]
    fn a_key_that_only_a_refused_claim_made_hot_is_not_hot_after_it() {
        let slices = two();
        let mut heat = Heat::new(0);
        let (claims, at) = (Key::from_bits(7), Key::from_bits(5));
        let hot = |heat: &Heat| heat.slice(0).and_then(|rates| rates.hot);
        for round in 1..=3u64 {
            place(&slices, at.bits(), 300.0);
            if round == 2 {
                slices.record(claims, brought(1e6));
            }
            heat.absorb(&slices, round * 1_000, 30_000.0);
        }
        assert_eq!(hot(&heat).map(|hot| hot.key), Some(claims));
        // The engine refused it two rounds ago, and a round that sees nothing else follows.
        let left = (-1.0 / 30.0_f64).exp();
        slices.correct(claims, brought(1e6), Placed::default(), left);
        heat.absorb(&slices, 4_000, 30_000.0);
        assert!(
            hot(&heat).is_none_or(|hot| hot.surplus < 1.0),
            "{:?}",
            hot(&heat)
        );
        for round in 5..=8u64 {
            place(&slices, at.bits(), 300.0);
            heat.absorb(&slices, round * 1_000, 30_000.0);
        }
        assert_eq!(hot(&heat).map(|hot| hot.key), Some(at));
    }

    #[test]
    fn a_hot_key_that_took_less_than_was_charged_is_less_hot() {
        let slices = two();
        let mut heat = Heat::new(0);
        let key = Key::from_bits(7);
        for round in 1..=60u64 {
            slices.record(key, brought(400.0));
            heat.absorb(&slices, round * 1_000, 10_000.0);
            let left = (-0.1_f64).exp();
            slices.correct(key, brought(400.0), brought(300.0), left);
        }
        let rate = heat.slice(0).unwrap();
        let known = rate.hot_mu_per_s();
        assert!((rate.mu_per_s() - known).abs() < 10.0, "{rate:?}");
        assert!((290.0..350.0).contains(&known), "{known}");
    }

    #[test]
    fn outliers_never_wrap_a_sum() {
        let slices = two();
        let mut heat = Heat::new(0);
        for _ in 0..100 {
            place(&slices, 5, 8e8);
            slices.record_kv(Key::from_bits(5), u64::MAX);
        }
        place(&slices, u64::MAX, 300.0);
        heat.absorb(&slices, 1_000, 30_000.0);
        let rates: Vec<Warmth> = heat.rates().collect();
        assert!(rates[0].squares > 1e6 * rates[1].squares, "{rates:?}");
        assert!(rates[0].kv_tokens > 0.0 && rates[1].kv_tokens == 0.0);
    }
}
