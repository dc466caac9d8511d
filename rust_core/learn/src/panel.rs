//! A factor on an estimate, learnt from what replicas report, that no single replica can run away
//! with.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use weighbridge_weigh::Correction;

/// Replicas whose factors are kept.
const MOST_REPLICAS: usize = 16_384;
/// Reports of a replica before its factor counts for the panel.
const ENOUGH: u64 = 16;
/// Reports between two looks at all factors.
const LOOK_EVERY: u64 = 32;
/// A replica whose factor is off the panel's by more than this ratio is not believed.
const SUSPECT: f64 = 1.35;

/// Each replica's own factor, and the panel's: the median of those that have reported enough, each
/// replica one vote. So a factor is off only when half of the replicas are, and a replica that
/// claims what nobody else does is known by it.
#[derive(Debug, Default)]
pub struct Panel {
    replicas: RwLock<BTreeMap<u32, Arc<Correction>>>,
    reports: AtomicU64,
    /// Bits of the panel's factor less those of 1.
    factor: AtomicU64,
    votes: AtomicU64,
}

impl Panel {
    /// A panel without reports.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The panel's factor, from 0.5 to 2; 1 before there are enough reports.
    #[must_use]
    pub fn factor(&self) -> f64 {
        f64::from_bits(self.factor.load(Relaxed) ^ 1f64.to_bits())
    }

    /// Takes in that `replica` reports `actual` where `estimate` was expected, made with the factor
    /// `used`.
    pub fn observe(&self, replica: u32, estimate: u64, actual: u64, used: f64) {
        if let Some(own) = self.own(replica) {
            own.observe(estimate, actual, used);
        }
        if self.reports.fetch_add(1, Relaxed) % LOOK_EVERY == LOOK_EVERY - 1 {
            self.look();
        }
    }

    /// Whether a replica's reports are far from what the others say of the same model. Of two that
    /// differ neither is believed less.
    #[must_use]
    pub fn is_suspect(&self, replica: u32) -> bool {
        let replicas = self.replicas.read().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = replicas.get(&replica) else {
            return false;
        };
        if self.votes.load(Relaxed) < 3 || own.observations() < ENOUGH {
            return false;
        }
        let ratio = own.factor() / self.factor();
        !(SUSPECT.recip()..=SUSPECT).contains(&ratio)
    }

    /// Forgets the replicas that are none of these any more.
    pub fn keep(&self, is_there: impl Fn(u32) -> bool) {
        let mut replicas = self
            .replicas
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = replicas.len();
        replicas.retain(|replica, _| is_there(*replica));
        let has_changed = replicas.len() < before;
        drop(replicas);
        if has_changed {
            self.look();
        }
    }

    fn own(&self, replica: u32) -> Option<Arc<Correction>> {
        let known = {
            let replicas = self.replicas.read().unwrap_or_else(PoisonError::into_inner);
            replicas.get(&replica).map(Arc::clone)
        };
        if known.is_some() {
            return known;
        }
        let mut replicas = self
            .replicas
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if replicas.len() >= MOST_REPLICAS && !replicas.contains_key(&replica) {
            return None;
        }
        Some(Arc::clone(replicas.entry(replica).or_default()))
    }

    /// Takes the median of all factors.
    fn look(&self) {
        let mut factors: Vec<f64> = {
            let replicas = self.replicas.read().unwrap_or_else(PoisonError::into_inner);
            replicas
                .values()
                .filter(|own| own.observations() >= ENOUGH)
                .map(|own| own.factor())
                .collect()
        };
        self.votes.store(factors.len() as u64, Relaxed);
        let middle = factors.len() / 2;
        let factor = if factors.is_empty() {
            1.0
        } else {
            *factors.select_nth_unstable_by(middle, f64::total_cmp).1
        };
        self.factor
            .store(factor.to_bits() ^ 1f64.to_bits(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(panel: &Panel, replica: u32, ratio: f64, times: usize) {
        for _ in 0..times {
            let used = panel.factor();
            panel.observe(
                replica,
                (1000.0 * used) as u64,
                (1000.0 * ratio) as u64,
                used,
            );
        }
    }

    #[test]
    fn what_all_say_is_believed() {
        let panel = Panel::new();
        assert!((panel.factor() - 1.0).abs() < 1e-12);
        for replica in 0..5 {
            report(&panel, replica, 1.2, 200);
        }
        assert!((panel.factor() - 1.2).abs() < 0.02, "{}", panel.factor());
        assert!((0..5).all(|replica| !panel.is_suspect(replica)));
    }

    #[test]
    fn a_liar_moves_nothing_and_is_known() {
        let panel = Panel::new();
        for _ in 0..100 {
            for replica in 0..4 {
                report(&panel, replica, 1.05, 1);
            }
            // It reports ten times as often, too.
            report(&panel, 9, 40.0, 10);
        }
        assert!((panel.factor() - 1.05).abs() < 0.02, "{}", panel.factor());
        assert!(panel.is_suspect(9) && !panel.is_suspect(0));
        panel.keep(|replica| replica != 9);
        assert!(!panel.is_suspect(9));
    }

    #[test]
    fn a_lone_replica_is_believed_within_bounds() {
        let panel = Panel::new();
        report(&panel, 0, 1e6, 5_000);
        assert!(panel.factor() <= 2.0 + 1e-9);
        assert!(!panel.is_suspect(0));
    }
}
