//! Runs the assigner's rounds: heat in, the next assignment out, published for all requests.

use crate::keyspace::{MoveRecord, Moves};
use crate::settings::Placing;
use arc_swap::Guard;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use weighbridge_place::assigner::{AssignerSettings, Member, Round, WorkloadHint, round};
use weighbridge_place::key::workload_hash;
use weighbridge_place::{Assignment, Heat, Pool, Published, Slices};

/// The present assignment, and what the next round starts from.
#[derive(Debug, Default)]
pub(crate) struct Assigning {
    current: Published,
    rounds: Mutex<Rounds>,
    /// A reaction was wanted while a round was under way.
    is_due: AtomicBool,
    /// What the last round came to, to be read while another one is under way.
    report: Mutex<Report>,
    latest: Mutex<Moves>,
}

#[derive(Clone, Debug, Default)]
struct Report {
    rounded_at_ms: u64,
    models: BTreeMap<String, ModelReport>,
    moves: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default)]
struct Rounds {
    heats: HashMap<String, Heat>,
    /// When the last round with new heat was, ms on the core's clock.
    last_ms: u64,
    report: Report,
}

/// The assigner's work since start, and what its last round came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AssignmentStatus {
    /// Number of the assignment.
    pub number: u64,
    /// When the last round with new heat ended, ms on the core's clock.
    pub rounded_at_ms: u64,
    /// By model.
    pub models: BTreeMap<String, ModelReport>,
    /// Changes of slices' replicas since start, by reason.
    pub moves: BTreeMap<&'static str, u64>,
}

/// What the last round came to for one model.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ModelReport {
    /// Slices.
    pub slices: usize,
    /// Homes of all slices together.
    pub homes: usize,
    /// MU placed a second, decayed.
    pub mu_per_s: f64,
    /// Highest utilisation that the slices lead to, 1 is capacity.
    pub highest: f64,
    /// Mean utilisation.
    pub mean: f64,
    /// Prefill MU that the round's voluntary moves cost.
    pub spent_mu: f64,
}

impl Assigning {
    /// The assignment for the length of a request's decision. Never waits.
    pub(crate) fn current(&self) -> Guard<Arc<Assignment>> {
        self.current.load()
    }

    /// A round with the heat up to `now_ms`.
    pub(crate) fn round(&self, pool: &Pool, placing: &Placing, now_ms: u64) {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed_s = Self::seconds(now_ms.saturating_sub(rounds.last_ms));
        rounds.last_ms = now_ms;
        rounds.report.rounded_at_ms = now_ms;
        let keep = (-elapsed_s / placing.heat_memory_s.max(1e-3)).exp();
        for replica in pool.replicas() {
            replica.load.fade(keep);
            replica.cache.fade(keep);
        }
        self.run(&mut rounds, pool, placing, Some(now_ms), elapsed_s);
    }

    /// A round at once, on a change of replicas or their health: what must move moves, and no time
    /// has passed for which anything else could. While another round is under way it is put off:
    /// the thread that runs that asks [`Assigning::is_due`] afterwards. So a round that hangs
    /// holds up neither health nor discovery.
    pub(crate) fn react(&self, pool: &Pool, placing: &Placing) {
        // Before the lock is tried: either we get it, or its holder sees this.
        self.is_due.store(true, SeqCst);
        let mut rounds = match self.rounds.try_lock() {
            Ok(rounds) => rounds,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.is_due.store(false, SeqCst);
        self.run(&mut rounds, pool, placing, None, 0.0);
    }

    /// Whether a reaction was put off, and no round is under way that will see it.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due.load(SeqCst) && !matches!(self.rounds.try_lock(), Err(TryLockError::WouldBlock))
    }

    #[allow(clippy::cast_precision_loss)]
    fn seconds(ms: u64) -> f64 {
        ms as f64 / 1e3
    }

    fn run(
        &self,
        rounds: &mut Rounds,
        pool: &Pool,
        placing: &Placing,
        absorb_at_ms: Option<u64>,
        elapsed_s: f64,
    ) {
        let before = self.current.load_full();
        let settings = assigner_settings(placing);
        let hints = hints(placing);
        let none = Arc::new(Slices::default());
        let mut models = HashMap::new();
        let mut changed = false;
        for members in pool.models() {
            let name = &members.model;
            let slices = before.model(name).unwrap_or(&none);
            let last_ms = rounds.last_ms;
            let heat = rounds
                .heats
                .entry(name.clone())
                .or_insert_with(|| Heat::new(last_ms));
            if let Some(now_ms) = absorb_at_ms {
                heat.absorb(slices, now_ms, placing.heat_memory_s * 1e3);
            }
            let result = round(
                slices,
                heat,
                &Member::of(members),
                &hints,
                &settings,
                elapsed_s,
            );
            rounds
                .report
                .models
                .insert(name.clone(), ModelReport::of(&result, heat));
            for step in &result.moves {
                self.latest().push(before.number + 1, name, step, pool);
                *rounds.report.moves.entry(step.why.as_str()).or_default() += 1;
            }
            // Slices that stay as they are keep their counters, and the number does not change.
            if result.moves.is_empty() && result.splits + result.merges == 0 {
                models.insert(name.clone(), Arc::clone(slices));
                continue;
            }
            changed = true;
            *heat = result.heat;
            models.insert(name.clone(), Arc::new(Slices::new(result.slices)));
        }
        rounds.heats.retain(|model, _| models.contains_key(model));
        rounds
            .report
            .models
            .retain(|model, _| models.contains_key(model));
        if changed || before.models().count() != models.len() {
            self.current
                .replace(Assignment::new(before.number + 1, models));
        }
        *self.report() = rounds.report.clone();
    }

    fn latest(&self) -> MutexGuard<'_, Moves> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest moves, oldest first.
    pub(crate) fn moves(&self) -> Vec<MoveRecord> {
        self.latest().all()
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn status(&self) -> AssignmentStatus {
        let report = self.report().clone();
        AssignmentStatus {
            number: self.current.load().number,
            rounded_at_ms: report.rounded_at_ms,
            models: report.models,
            moves: report.moves,
        }
    }
}

impl ModelReport {
    fn of(round: &Round, heat: &Heat) -> Self {
        Self {
            slices: round.slices.len(),
            homes: round.slices.iter().map(|slice| slice.homes.len()).sum(),
            mu_per_s: heat.mu_per_s(),
            highest: round.highest,
            mean: round.mean,
            spent_mu: round.spent,
        }
    }
}

fn assigner_settings(placing: &Placing) -> AssignerSettings {
    AssignerSettings {
        tolerance: placing.load_tolerance,
        turn_gap_s: placing.turn_gap_s,
        horizon_s: placing.horizon_s,
        churn_share: placing.churn_share,
        ..AssignerSettings::default()
    }
}

fn hints(placing: &Placing) -> Vec<WorkloadHint> {
    let hint = |hint: &crate::settings::WorkloadSetting| WorkloadHint {
        workload: workload_hash(&hint.tenant),
        least: hint.min_replicas,
        most: hint.max_replicas,
    };
    placing.workloads.iter().map(hint).collect()
}
