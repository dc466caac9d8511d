//! What a workload is taken to answer before it has said enough itself: the middle of what the
//! model's other workloads do, each of them one vote.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{Prediction, Published};

/// Models that have a prior of their own.
const MOST_MODELS: usize = 1_024;
/// Workloads of a model that have a vote; the longest silent one gives way.
const MOST_VOTES: usize = 64;
/// Answers between two counts of the votes.
const COUNT_EVERY: u64 = 16;
/// Workloads that must have a vote before they are believed.
const ENOUGH: usize = 2;

/// All models' priors.
#[derive(Debug, Default)]
pub(super) struct Priors(RwLock<HashMap<u64, Arc<Prior>>>);

/// One model's prior.
#[derive(Debug, Default)]
pub(super) struct Prior {
    votes: Mutex<Votes>,
    published: Published,
}

#[derive(Debug, Default)]
struct Votes {
    answers: u64,
    votes: Vec<Vote>,
}

#[derive(Clone, Copy, Debug)]
struct Vote {
    workload: u64,
    says: Prediction,
    /// The number of its latest answer.
    latest: u64,
}

impl Priors {
    /// A model's prior, where it has one.
    pub(super) fn get(&self, model: u64) -> Option<Arc<Prior>> {
        let models = self.0.read().unwrap_or_else(PoisonError::into_inner);
        models.get(&model).map(Arc::clone)
    }

    /// A model's prior; `None` where there are too many models.
    pub(super) fn get_or_make(&self, model: u64) -> Option<Arc<Prior>> {
        if let Some(known) = self.get(model) {
            return Some(known);
        }
        let mut models = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if models.len() >= MOST_MODELS && !models.contains_key(&model) {
            return None;
        }
        Some(Arc::clone(models.entry(model).or_default()))
    }
}

impl Prior {
    /// The middle of what workloads say; `None` where too few do.
    pub(super) fn read(&self) -> Option<Prediction> {
        let middle = self.published.load();
        (middle.mean > 0.0).then_some(middle)
    }

    /// A workload says something else now.
    pub(super) fn vote(&self, workload: u64, says: Prediction) {
        let mut all = self.votes.lock().unwrap_or_else(PoisonError::into_inner);
        all.answers += 1;
        let latest = all.answers;
        let is_new = match all.votes.iter_mut().find(|vote| vote.workload == workload) {
            Some(vote) => {
                (vote.says, vote.latest) = (says, latest);
                false
            }
            None => {
                all.add(Vote {
                    workload,
                    says,
                    latest,
                });
                true
            }
        };
        if (is_new || latest % COUNT_EVERY == 0) && all.votes.len() >= ENOUGH {
            self.published.store(&all.middle());
        }
    }
}

impl Votes {
    fn add(&mut self, vote: Vote) {
        if self.votes.len() < MOST_VOTES {
            self.votes.push(vote);
        } else if let Some(oldest) = self.votes.iter_mut().min_by_key(|vote| vote.latest) {
            *oldest = vote;
        }
    }

    /// Number by number the middle vote; of an even number the lower one, so that of two workloads
    /// none can raise what is taken for granted of a third.
    fn middle(&self) -> Prediction {
        let middle = |number: fn(&Prediction) -> f64| {
            let mut numbers: Vec<f64> = self.votes.iter().map(|vote| number(&vote.says)).collect();
            let at = numbers.len().saturating_sub(1) / 2;
            if numbers.is_empty() {
                return 0.0;
            }
            *numbers.select_nth_unstable_by(at, f64::total_cmp).1
        };
        Prediction {
            // Nothing at all counts as no vote.
            mean: middle(|says| says.mean).max(1.0),
            p50: middle(|says| says.p50),
            p90: middle(|says| says.p90),
            p95: middle(|says| says.p95),
        }
    }
}
