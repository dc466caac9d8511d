//! One slice's rates, and how they are divided when the slice is.

use crate::key::Key;
use crate::slices::shift;

/// Parts of a slice that are counted apart, so that a split knows where the load is.
pub(crate) const PARTS: usize = 8;

/// How full a memory counts that was guessed by evenness: what is measured next outweighs the guess
/// soon.
pub(crate) const GUESS: f64 = 0.15;

/// A key stands out when its lead is this share of its slice's load: when it brings three fifths.
const STANDS_OUT: f64 = 0.2;

/// Keys from one to another, both included.
pub(crate) type Keys = (u64, u64);

/// A key that brings more load to its slice than all others together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HotKey {
    /// The key.
    pub key: Key,
    /// MU per second that it brings beyond what all others of the slice bring.
    pub surplus: f64,
}

/// A slice's rates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Warmth {
    /// MU per second of each part, from the slice's start on. A part is 2^`shift` keys wide.
    pub(crate) parts: [f64; PARTS],
    /// MU per second that cached prefixes save.
    pub(crate) saved: f64,
    /// KV tokens held on average.
    pub(crate) kv_tokens: f64,
    /// Squares of its requests' charges, MU² per second.
    pub(crate) squares: f64,
    /// The key that leads, where one does.
    pub(crate) hot: Option<HotKey>,
    /// Share of a full memory that the sum rests on, 0 to 1.
    pub(crate) filled: f64,
    /// The same of how the sum is divided among the parts.
    pub(crate) parts_filled: f64,
}

impl Warmth {
    /// MU per second of the whole slice.
    #[must_use]
    pub fn mu_per_s(&self) -> f64 {
        self.parts.iter().sum()
    }

    /// MU per second that cached prefixes save.
    #[must_use]
    pub fn saved_mu_per_s(&self) -> f64 {
        self.saved
    }

    /// The variance that chance alone gives its load, (MU/s)²: requests come when they like (Poisson)
    /// and weigh what they weigh, and so few of them come in the seconds that are counted.
    pub(crate) fn variance(&self, counted_s: f64) -> f64 {
        if counted_s > 0.0 {
            self.squares / counted_s
        } else {
            0.0
        }
    }

    /// KV tokens that its requests hold on average.
    #[must_use]
    pub fn kv_tokens(&self) -> f64 {
        self.kv_tokens
    }

    /// MU per second of the hot key: of a slice with load l and surplus s it brings (l + s) ÷ 2.
    pub(crate) fn hot_mu_per_s(&self) -> f64 {
        self.hot
            .map_or(0.0, |hot| (self.mu_per_s() + hot.surplus) / 2.0)
    }

    /// All rates multiplied.
    pub(crate) fn scaled(&self, by: f64) -> Self {
        Self {
            parts: self.parts.map(|rate| rate * by),
            saved: self.saved * by,
            kv_tokens: self.kv_tokens * by,
            squares: self.squares * by,
            hot: self.hot.map(|hot| HotKey {
                surplus: hot.surplus * by,
                ..hot
            }),
            ..*self
        }
    }

    /// The warmth of a stretch of this slice. Within a part load counts as even.
    #[must_use]
    pub(crate) fn cut(&self, of: Keys, to: Keys) -> Self {
        let filled = if self.is_exact(of, to) {
            self.parts_filled
        } else {
            GUESS
        };
        let mut cut = Self {
            filled: filled.min(self.filled),
            parts_filled: GUESS.min(self.parts_filled),
            ..Self::default()
        };
        self.pour(of, &mut cut, to);
        let whole = self.mu_per_s();
        let share = if whole > 0.0 {
            cut.mu_per_s() / whole
        } else {
            span(to) / span(of)
        };
        cut.saved = self.saved * share;
        cut.kv_tokens = self.kv_tokens * share;
        cut.squares = self.squares * share;
        self.settle_hot(&mut cut, to);
        cut
    }

    /// Hands the hot key on to a stretch of this slice that holds it, and where it stands out its
    /// load to its part there: evenness is no guess for what is known.
    fn settle_hot(&self, stretch: &mut Self, keys: Keys) {
        let Some(hot) = self.hot.filter(|hot| holds(keys, hot.key.bits())) else {
            return;
        };
        stretch.hot = Some(hot);
        let whole = stretch.mu_per_s();
        let load = self.hot_mu_per_s().min(whole);
        if !self.stands_out() || whole <= 0.0 {
            return;
        }
        let rest = (whole - load) / whole;
        stretch.parts = stretch.parts.map(|rate| rate * rest);
        let part = usize::try_from((hot.key.bits() - keys.0) >> shift(keys)).unwrap_or(PARTS);
        if let Some(rate) = stretch.parts.get_mut(part) {
            *rate += load;
        }
        stretch.hot = Some(HotKey {
            surplus: 2.0 * load - whole,
            ..hot
        });
    }

    /// Whether one key brings clearly more than all others together.
    pub(crate) fn stands_out(&self) -> bool {
        self.hot
            .is_some_and(|hot| hot.surplus > STANDS_OUT * self.mu_per_s())
    }

    /// Whether a stretch is made of whole parts.
    fn is_exact(&self, of: Keys, to: Keys) -> bool {
        let mask = (1u64 << shift(of)) - 1;
        let border = |key: u64| (key - of.0) & mask == 0;
        border(to.0) && (to.1 == of.1 || border(to.1 + 1))
    }

    /// Takes a stretch with so much load out of this slice. What the stretch's part has beyond it
    /// stays, and belongs to the keys around.
    pub(crate) fn carve(&mut self, of: Keys, stretch: Keys, mu_per_s: f64) -> Self {
        let before = *self;
        let whole = self.mu_per_s();
        let part = usize::try_from((stretch.0 - of.0) >> shift(of)).unwrap_or(PARTS);
        let taken = self.parts.get_mut(part).map_or(0.0, |rate| {
            let taken = mu_per_s.clamp(0.0, *rate);
            *rate -= taken;
            taken
        });
        let share = if whole > 0.0 { taken / whole } else { 0.0 };
        let mut inner = Self {
            filled: self.filled,
            parts_filled: GUESS.min(self.parts_filled),
            ..Self::default()
        };
        inner.saved = self.saved * share;
        inner.kv_tokens = self.kv_tokens * share;
        inner.squares = self.squares * share;
        self.saved -= inner.saved;
        self.kv_tokens -= inner.kv_tokens;
        self.squares -= inner.squares;
        for (at, rate) in inner.parts.iter_mut().enumerate() {
            *rate = taken * span(part_range(stretch, at)) / span(stretch);
        }
        before.settle_hot(&mut inner, stretch);
        self.hot = self.hot.filter(|_| inner.hot.is_none());
        inner
    }

    /// The warmth of two neighbours as one slice.
    #[must_use]
    pub(crate) fn join(&self, own: Keys, other: &Self, next: Keys) -> Self {
        let surplus = |warmth: &Self| warmth.hot.map_or(0.0, |hot| hot.surplus);
        let hotter = if surplus(other) > surplus(self) {
            other.hot
        } else {
            self.hot
        };
        let mut joined = Self {
            saved: self.saved + other.saved,
            kv_tokens: self.kv_tokens + other.kv_tokens,
            squares: self.squares + other.squares,
            hot: hotter,
            filled: self.filled.min(other.filled),
            parts_filled: self.parts_filled.min(other.parts_filled),
            ..Self::default()
        };
        self.pour(own, &mut joined, (own.0, next.1));
        other.pour(next, &mut joined, (own.0, next.1));
        joined
    }

    /// Adds this slice's rates to another's parts where their keys overlap.
    fn pour(&self, of: Keys, into: &mut Self, to: Keys) {
        let parts: [Keys; PARTS] = std::array::from_fn(|part| part_range(to, part));
        for (at, rate) in self
            .parts
            .iter()
            .enumerate()
            .filter(|(_, rate)| **rate > 0.0)
        {
            let from = part_range(of, at);
            if from.1 < to.0 || to.1 < from.0 {
                continue;
            }
            for (part, place) in parts.iter().zip(&mut into.parts) {
                let both = (part.0.max(from.0), part.1.min(from.1));
                if both.0 <= both.1 {
                    *place += rate * span(both) / span(from).max(1.0);
                }
            }
        }
    }
}

fn holds(keys: Keys, key: u64) -> bool {
    keys.0 <= key && key <= keys.1
}

/// The keys of a part; the first above the last where the part is empty.
pub(crate) fn part_range(keys: Keys, part: usize) -> Keys {
    let offset = |parts: usize| (parts as u128) << shift(keys);
    let first = u128::from(keys.0) + offset(part);
    let end = (u128::from(keys.0) + offset(part + 1) - 1).min(u128::from(keys.1));
    match u64::try_from(first) {
        Ok(first) if first <= keys.1 => (first, u64::try_from(end).unwrap_or(keys.1)),
        _ => (1, 0),
    }
}

/// How many keys these are.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn span(keys: Keys) -> f64 {
    if keys.0 > keys.1 {
        0.0
    } else {
        (keys.1 - keys.0) as f64 + 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-6 * (1.0 + a.abs().max(b.abs()))
    }

    fn warmth() -> impl Strategy<Value = Warmth> {
        (
            prop::array::uniform8(0.0..100.0f64),
            0.0..50.0f64,
            0.0..1e6f64,
        )
            .prop_map(|(parts, saved, kv_tokens)| Warmth {
                parts,
                saved,
                kv_tokens,
                ..Warmth::default()
            })
    }

    /// Without load in parts that a slice of these keys does not have.
    fn within(mut warmth: Warmth, keys: Keys) -> Warmth {
        for (at, rate) in warmth.parts.iter_mut().enumerate() {
            let part = part_range(keys, at);
            if part.0 > part.1 {
                *rate = 0.0;
            }
        }
        warmth
    }

    proptest! {
        #[test]
        fn cutting_and_joining_lose_no_load(
            warmth in warmth(),
            start in any::<u64>(),
            width in 64u64..,
            at in 0.01..0.99f64,
        ) {
            let last = start.saturating_add(width);
            prop_assume!(last - start >= 64);
            let keys = (start, last);
            let warmth = within(warmth, keys);
            let middle = start + ((last - start) as f64 * at) as u64;
            prop_assume!(start < middle && middle <= last);
            let left = warmth.cut(keys, (start, middle - 1));
            let right = warmth.cut(keys, (middle, last));
            let sum = left.mu_per_s() + right.mu_per_s();
            prop_assert!(close(sum, warmth.mu_per_s()), "{sum} {}", warmth.mu_per_s());
            prop_assert!(close(left.saved + right.saved, warmth.saved));
            prop_assert!(close(left.kv_tokens + right.kv_tokens, warmth.kv_tokens));
            let joined = left.join((start, middle - 1), &right, (middle, last));
            prop_assert!(close(joined.mu_per_s(), warmth.mu_per_s()));
        }

        #[test]
        fn carving_loses_no_load(
            warmth in warmth(),
            start in 0u64..1 << 40,
            at in 0u64..1 << 40,
            width in 0u64..1 << 30,
            mu_per_s in 0.0..200.0f64,
        ) {
            let keys = (start, start + (1 << 41));
            let warmth = within(warmth, keys);
            let stretch = (start + at, start + at + width);
            let mut rest = warmth;
            let inner = rest.carve(keys, stretch, mu_per_s);
            prop_assert!(inner.mu_per_s() <= mu_per_s * (1.0 + 1e-9));
            prop_assert!(close(inner.mu_per_s() + rest.mu_per_s(), warmth.mu_per_s()));
            prop_assert!(close(inner.saved + rest.saved, warmth.saved));
            prop_assert!(rest.parts.iter().all(|rate| *rate >= 0.0));
        }
    }

    #[test]
    fn whole_parts_are_known_and_others_are_guessed() {
        let warmth = Warmth {
            parts: [1.0; PARTS],
            filled: 1.0,
            parts_filled: 0.8,
            ..Warmth::default()
        };
        let keys = (80, 80 + 8 * 16 - 1);
        assert_eq!(warmth.cut(keys, (80 + 32, 80 + 63)).filled, 0.8);
        assert_eq!(warmth.cut(keys, (80 + 32, keys.1)).filled, 0.8);
        assert_eq!(warmth.cut(keys, (80 + 30, 80 + 63)).filled, GUESS);
        assert_eq!(warmth.cut(keys, (80 + 32, 80 + 63)).parts_filled, GUESS);
    }

    #[test]
    fn a_hot_keys_load_stays_with_it_however_the_slice_is_cut() {
        let key = Key::from_bits(1_000);
        let mut warmth = Warmth {
            hot: Some(HotKey { key, surplus: 60.0 }),
            ..Warmth::default()
        };
        warmth.parts[0] = 100.0;
        let keys = (0, (1 << 20) - 1);
        let within = (512, 1_535);
        let cut = warmth.cut(keys, within);
        assert!(cut.mu_per_s() < 1.0, "evenness alone: {}", cut.mu_per_s());
        let mut rest = warmth;
        let carved = rest.carve(keys, within, 90.0);
        assert!(
            close(carved.hot_mu_per_s(), 80.0),
            "{}",
            carved.hot_mu_per_s()
        );
        let part = (1_000 - 512) >> shift(within);
        assert!(carved.parts[part as usize] > 80.0);
        assert!(close(carved.mu_per_s(), 90.0) && rest.hot.is_none());
    }
}
