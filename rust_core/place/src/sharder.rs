//! The sharder: publishes assignments, and keeps the heat from one round to the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use crate::assigner::{AssignerSettings, Member, Round, WorkloadHint, round};
use crate::heat::Heat;
use crate::replica::Pool;
use crate::slices::{Assignment, SliceSpec, Slices};

/// What rounds may be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SharderSettings {
    /// The assigner's.
    pub assigner: AssignerSettings,
    /// Milliseconds after which an old rate counts 1/e.
    pub memory_ms: f64,
}

impl Default for SharderSettings {
    fn default() -> Self {
        Self {
            assigner: AssignerSettings::default(),
            memory_ms: 60_000.0,
        }
    }
}

/// One model's round, with what it decided.
#[derive(Clone, Debug)]
pub struct ModelRound {
    /// The model.
    pub model: String,
    /// Its round; the slices are in the published assignment.
    pub round: Round,
    /// Whether its slices are other than before.
    pub changed: bool,
}

/// Publishes the current [`Assignment`]; one round after another makes the next.
///
/// Readers take no lock. A swap costs them nothing: the assignment before the current one is kept
/// until the next swap, so that no request has to free it.
#[derive(Debug, Default)]
pub struct Sharder {
    current: ArcSwap<Assignment>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    heats: HashMap<String, Heat>,
    retired: Option<Arc<Assignment>>,
}

impl Sharder {
    /// Without any slices yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The current assignment, for the length of a request's decision. Never waits.
    pub fn assignment(&self) -> Guard<Arc<Assignment>> {
        self.current.load()
    }

    /// The current assignment, to keep.
    #[must_use]
    pub fn assignment_full(&self) -> Arc<Assignment> {
        self.current.load_full()
    }

    /// One round for every model of the pool: takes in the heat since the last round, decides, and
    /// publishes what changed. Call it every few seconds, and at once on a change of membership or
    /// health. `hints` are by model. Rounds take turns.
    pub fn round(
        &self,
        pool: &Pool,
        hints: &HashMap<String, Vec<WorkloadHint>>,
        settings: &SharderSettings,
        now_ms: u64,
    ) -> Vec<ModelRound> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load_full();
        let mut names: Vec<&str> = pool
            .models()
            .map(|members| members.model.as_str())
            .collect();
        names.sort_unstable();
        let mut models = HashMap::with_capacity(names.len());
        let mut rounds = Vec::with_capacity(names.len());
        for name in names {
            let Some(members) = pool.model(name) else {
                continue;
            };
            let before = current.model(name).cloned().unwrap_or_default();
            let heat = state
                .heats
                .entry(name.to_owned())
                .or_insert_with(|| Heat::new(now_ms));
            let elapsed_ms = now_ms.saturating_sub(heat.at_ms());
            heat.absorb(&before, now_ms, settings.memory_ms);
            let hints = hints.get(name).map_or(&[][..], Vec::as_slice);
            #[allow(clippy::cast_precision_loss)]
            let elapsed_s = elapsed_ms as f64 / 1e3;
            let members = Member::of(members);
            let mut next = round(
                &before,
                heat,
                &members,
                hints,
                &settings.assigner,
                elapsed_s,
            );
            *heat = std::mem::take(&mut next.heat);
            let changed = !same(&before, &next.slices);
            let slices = std::mem::take(&mut next.slices);
            let slices = if changed {
                Arc::new(Slices::new(slices))
            } else {
                before
            };
            models.insert(name.to_owned(), slices);
            rounds.push(ModelRound {
                model: name.to_owned(),
                round: next,
                changed,
            });
        }
        state.heats.retain(|model, _| models.contains_key(model));
        let gone = current
            .models()
            .any(|(model, _)| !models.contains_key(model));
        if gone || rounds.iter().any(|round| round.changed) {
            self.current
                .store(Arc::new(Assignment::new(current.number + 1, models)));
            state.retired = Some(current);
        }
        rounds
    }

    /// Takes over an assignment that another sidecar has made. The heat measured so far is left
    /// behind where the slices of a model are other ones.
    pub fn adopt(&self, assignment: Assignment, now_ms: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load_full();
        for (model, slices) in assignment.models() {
            let kept = current
                .model(model)
                .is_some_and(|before| Arc::ptr_eq(before, slices));
            if !kept {
                state.heats.insert(model.to_owned(), Heat::new(now_ms));
            }
        }
        self.current.store(Arc::new(assignment));
        state.retired = Some(current);
    }

    /// A model's heat as of the last round.
    #[must_use]
    pub fn heat(&self, model: &str) -> Option<Heat> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.heats.get(model).cloned()
    }
}

fn same(before: &Slices, next: &[SliceSpec]) -> bool {
    before.len() == next.len()
        && before
            .iter()
            .zip(next)
            .all(|(old, new)| old.start == new.start && old.homes == new.homes.as_slice())
}
