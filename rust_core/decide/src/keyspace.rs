//! The key space as people look at it: slices with their replicas, and the latest moves.

use crate::core::Core;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use weighbridge_place::assigner::Move;
use weighbridge_place::{Key, Pool, ReplicaId, Slices};

/// Slices of a model that are shown; of more, these are spread evenly over the keys.
const MOST_SLICES: usize = 2_000;
/// Moves that are kept.
const MOST_MOVES: usize = 256;

/// All models' slices at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct KeySpace {
    /// Number of the assignment.
    pub number: u64,
    /// By model.
    pub models: BTreeMap<String, ModelSlices>,
    /// The latest moves, oldest first.
    pub moves: Vec<MoveRecord>,
}

/// One model's slices.
#[derive(Clone, Debug, Serialize)]
pub struct ModelSlices {
    /// How many there are.
    pub total: usize,
    /// In the order of their keys.
    pub slices: Vec<SliceView>,
}

/// One slice.
#[derive(Clone, Debug, Serialize)]
pub struct SliceView {
    /// Its first key, as a share of the key space, 0 to 1.
    pub start: f64,
    /// Its replicas' endpoints, the first first.
    pub homes: Vec<String>,
}

/// One change of a slice's replicas.
#[derive(Clone, Debug, Serialize)]
pub struct MoveRecord {
    /// Number of the assignment that it came with.
    pub number: u64,
    /// The model.
    pub model: String,
    /// The slice's first key, as a share of the key space.
    pub start: f64,
    /// Its last key, as a share of the key space.
    pub last: f64,
    /// The replica it left, where that is still known.
    pub from: Option<String>,
    /// The replica it came to.
    pub to: Option<String>,
    /// Why.
    pub why: &'static str,
}

/// The latest moves: a bounded ring.
#[derive(Debug, Default)]
pub(crate) struct Moves(VecDeque<MoveRecord>);

impl Moves {
    pub(crate) fn push(&mut self, number: u64, model: &str, step: &Move, pool: &Pool) {
        if self.0.len() >= MOST_MOVES {
            self.0.pop_front();
        }
        self.0.push_back(MoveRecord {
            number,
            model: model.to_owned(),
            start: share(step.start),
            last: share(step.last),
            from: step.from.and_then(|id| endpoint(pool, id)),
            to: step.to.and_then(|id| endpoint(pool, id)),
            why: step.why.as_str(),
        });
    }

    pub(crate) fn all(&self) -> Vec<MoveRecord> {
        self.0.iter().cloned().collect()
    }
}

impl KeySpace {
    /// Looks at a core.
    #[must_use]
    pub fn of(core: &Core) -> Self {
        let pool = core.pool();
        let assignment = core.assigning.current();
        Self {
            number: assignment.number,
            models: assignment
                .models()
                .map(|(model, slices)| (model.to_owned(), ModelSlices::of(slices, &pool)))
                .collect(),
            moves: core.assigning.moves(),
        }
    }
}

impl ModelSlices {
    fn of(slices: &Slices, pool: &Pool) -> Self {
        let total = slices.len();
        let step = total.div_ceil(MOST_SLICES).max(1);
        Self {
            total,
            slices: slices
                .iter()
                .step_by(step)
                .map(|slice| SliceView {
                    start: share(slice.start),
                    homes: slice
                        .homes
                        .iter()
                        .filter_map(|id| endpoint(pool, *id))
                        .collect(),
                })
                .collect(),
        }
    }
}

fn endpoint(pool: &Pool, id: ReplicaId) -> Option<String> {
    pool.replica(id)
        .map(|replica| replica.spec.endpoint.clone())
}

#[allow(clippy::cast_precision_loss)]
fn share(key: Key) -> f64 {
    key.bits() as f64 / 2f64.powi(64)
}
