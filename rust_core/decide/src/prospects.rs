//! Whether a replica would answer a request in time: of those that placing looked at.

use crate::core::Core;
use crate::weighed::Weighed;
use weighbridge_admit::{Fit, KeptFit};
use weighbridge_place::{
    Amount, Candidate, ChoiceSettings, Claim, CurrentPool, Decision, Limits, Prospect, Registry,
    ReplicaId, State, Verdict,
};

/// Replicas that a request which waits may go to: those with the lowest score when it came.
const MOST_KEPT: usize = 8;

/// A request that has been placed and asks for admission.
#[derive(Debug)]
pub(crate) struct Prospects<'a> {
    registry: &'a Registry,
    settings: ChoiceSettings,
    weighed: &'a Weighed,
    decision: &'a Decision,
}

impl<'a> Prospects<'a> {
    pub(crate) fn of(core: &'a Core, weighed: &'a Weighed, decision: &'a Decision) -> Self {
        Self {
            registry: &core.registry,
            settings: core.placing.load().choice(),
            weighed,
            decision,
        }
    }

    fn limits(&self) -> Limits {
        let objectives = self.weighed.objectives;
        Limits {
            first_ms: self.weighed.first_ms(),
            // Everybody's at most: what has patience waits at the gate, where others may pass it.
            ahead_ms: objectives.ttft_ms.min(self.settings.objectives.ttft_ms),
            tpot_ms: (self.weighed.weighing.cost(0).sequences > 0).then_some(objectives.tpot_ms),
        }
    }
}

impl Fit for Prospects<'_> {
    /// Of the replica that was chosen: where it would be late, the request waits for it rather than lose
    /// its cache elsewhere, unless another has become the better one meanwhile.
    fn fits(&self, share: f64) -> bool {
        let limits = part(self.limits(), share);
        let chosen = self.decision.candidate();
        chosen.is_none_or(|chosen| chosen.outlook.is_within(&limits))
    }

    fn keep(&self) -> Box<dyn KeptFit> {
        let weighing = &self.weighed.weighing;
        // What one replica alone keeps goes there, whatever its load.
        let is_bound = self.weighed.keeper == Some(self.decision.chosen);
        let is_fit = |one: &&Candidate| {
            if is_bound {
                one.replica == self.decision.chosen
            } else {
                one.verdict == Verdict::Fit
            }
        };
        let mut fit: Vec<&Candidate> = self.decision.candidates.iter().filter(is_fit).collect();
        fit.sort_by(|a, b| a.outlook.score.total_cmp(&b.outlook.score));
        let place = |one: &&Candidate| {
            let amount = weighing.amount(one.cached_blocks);
            (one.replica, one.prospect, amount)
        };
        Box::new(Kept {
            pool: self.registry.current(),
            settings: self.settings,
            places: fit.iter().take(MOST_KEPT).map(place).collect(),
            limits: self.limits(),
        })
    }
}

/// What is asked of a few replicas while a request waits.
#[derive(Debug)]
struct Kept {
    pool: CurrentPool,
    settings: ChoiceSettings,
    places: Vec<(ReplicaId, Prospect, Amount)>,
    limits: Limits,
}

impl KeptFit for Kept {
    /// Of the one that is best now.
    fn claim(&self, share: f64) -> Option<Claim> {
        let pool = self.pool.pool();
        let looked_at = self.places.iter().filter_map(|(id, prospect, amount)| {
            let replica = pool.replica(*id)?;
            let takes_more = match replica.spec.state {
                // One request at a time shows whether it is well again.
                State::Probing => replica.load.own().requests == 0,
                // What it alone keeps still goes there.
                State::Draining => self.places.len() == 1,
                state => state.is_open(),
            };
            takes_more.then(|| (replica, prospect.on(replica, &self.settings), amount))
        });
        let (replica, outlook, amount) =
            looked_at.min_by(|(_, a, _), (_, b, _)| a.score.total_cmp(&b.score))?;
        let is_in_time = outlook.is_within(&part(self.limits, share));
        is_in_time.then(|| Claim::new(&replica.load, *amount))
    }
}

/// These limits, of whose first a share alone may be taken.
fn part(limits: Limits, share: f64) -> Limits {
    Limits {
        first_ms: limits.first_ms * share,
        ahead_ms: limits.ahead_ms * share,
        ..limits
    }
}
