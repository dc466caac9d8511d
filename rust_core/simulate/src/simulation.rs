//! A simulation: a trace before a cluster, run with any policy at any rate.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use weighbridge_traces::{Replay, Scaling, Trace};
use weighbridge_weigh::Profile;

use crate::bounds::Bounds;
use crate::error::SimulateError;
use crate::goodput::{Found, Search, search};
use crate::policy::{FORESIGHT, ORACLE, named, policy_names};
use crate::progress::Progress;
use crate::report::{Outcome, rounded};
use crate::scenario::Scenario;
use crate::workload::Workload;
use crate::world::World;

/// Replays of different rates or seeds that are kept ready.
const KEPT: usize = 2;

/// A trace before a cluster.
#[derive(Debug)]
pub struct Simulation {
    scenario: Scenario,
    profiles: Vec<Profile>,
    trace: Arc<Trace>,
    scaling: Scaling,
    ready: Mutex<VecDeque<(Scaling, Arc<Ready>)>>,
    done: Mutex<HashMap<Done, Outcome>>,
}

/// One run to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Run<'a> {
    /// The policy.
    pub policy: &'a str,
    /// Requests a second; `None`: as the trace is scaled.
    pub rate: Option<f64>,
    /// Added to the scenario's seed.
    pub seed: u64,
    /// Whether to break off when too many requests have missed their objectives.
    pub until_hopeless: bool,
    /// Whether to compute the hits that no router can beat.
    pub with_bounds: bool,
}

/// A run that was done: its policy, the bits of its rate, its seed, and whether it might be broken
/// off. Runs are kept for the oracle, which takes the best of them.
type Done = (String, Option<u64>, u64, bool);

/// A replay, and what no router can beat on it.
#[derive(Debug)]
struct Ready {
    workload: Workload,
    bounds: OnceLock<Bounds>,
}

/// What makes one outcome better than another on the same requests.
fn merit(outcome: &Outcome) -> (bool, f64) {
    (!outcome.detail.broken_off, outcome.row.slo_attainment)
}

impl Simulation {
    /// A simulation of `scenario` with `trace`, scaled. Requests longer than every replica takes
    /// are left out of the trace.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(
        scenario: Scenario,
        trace: Arc<Trace>,
        scaling: Scaling,
    ) -> Result<Self, SimulateError> {
        scenario.validate()?;
        let profiles = scenario.profiles()?;
        let longest = scenario.longest_sequence();
        let scaling = Scaling {
            most_tokens: Some(scaling.most_tokens.unwrap_or(longest).min(longest)),
            ..scaling
        };
        Ok(Self {
            scenario,
            profiles,
            trace,
            scaling,
            ready: Mutex::new(VecDeque::new()),
            done: Mutex::default(),
        })
    }

    /// The scenario.
    #[must_use]
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Requests of a run at this rate with this seed.
    ///
    /// # Errors
    /// The trace cannot be scaled so.
    pub fn requests(&self, rate: Option<f64>, seed: u64) -> Result<usize, SimulateError> {
        Ok(self.ready(rate, seed)?.workload.arrivals().len())
    }

    /// Does one run.
    ///
    /// # Errors
    /// There is no such policy, or the trace cannot be scaled so.
    pub fn run(&self, run: &Run<'_>, progress: &Progress) -> Result<Outcome, SimulateError> {
        let mut outcome = if run.policy == ORACLE {
            self.best(run, progress)?
        } else {
            self.known(run, progress)?
        };
        if run.with_bounds {
            let ready = self.ready(run.rate, run.seed)?;
            let bounds = *ready.bounds.get_or_init(|| self.bounds(&ready.workload));
            outcome.row.ideal_hit_ratio = rounded(bounds.ideal);
            outcome.row.pooled_hit_ratio = rounded(bounds.pooled);
        }
        Ok(outcome)
    }

    /// The best of the oracle's own placements and all other policies' on the same requests.
    fn best(&self, run: &Run<'_>, progress: &Progress) -> Result<Outcome, SimulateError> {
        let own = FORESIGHT.iter().map(|(name, _)| *name);
        let others = policy_names().into_iter().filter(|name| *name != ORACLE);
        let mut best: Option<Outcome> = None;
        for policy in own.chain(others) {
            let tried = self.known(
                &Run {
                    policy,
                    ..run.clone()
                },
                progress,
            )?;
            let is_better = best.as_ref().is_none_or(|best| merit(&tried) > merit(best));
            if is_better {
                best = Some(tried);
            }
            let enough = |best: &Outcome| {
                let whole = !best.detail.broken_off && best.detail.refused == 0;
                let share = if run.until_hopeless {
                    self.scenario.slo.share
                } else {
                    1.0
                };
                whole && best.row.slo_attainment >= share
            };
            if progress.is_stopped() || best.as_ref().is_some_and(enough) {
                break;
            }
        }
        let mut best = best.ok_or_else(|| SimulateError::Policy(ORACLE.to_owned()))?;
        best.detail.placed_by = Some(std::mem::replace(&mut best.row.policy, ORACLE.to_owned()));
        Ok(best)
    }

    /// A run, done unless it was done before.
    fn known(&self, run: &Run<'_>, progress: &Progress) -> Result<Outcome, SimulateError> {
        let rate = run.rate.map(f64::to_bits);
        let key = |broken| (run.policy.to_owned(), rate, run.seed, broken);
        let lock = || self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let found = {
            let done = lock();
            let short = || run.until_hopeless.then(|| done.get(&key(true))).flatten();
            done.get(&key(false)).or_else(short).cloned()
        };
        if let Some(outcome) = found {
            return Ok(outcome);
        }
        let outcome = self.play(run, progress)?;
        if !progress.is_stopped() {
            lock().insert(key(outcome.detail.broken_off), outcome.clone());
        }
        Ok(outcome)
    }

    fn play(&self, run: &Run<'_>, progress: &Progress) -> Result<Outcome, SimulateError> {
        let seed = self.scenario.seed.wrapping_add(run.seed);
        let ready = self.ready(run.rate, run.seed)?;
        let workload = &ready.workload;
        progress.expect(workload.arrivals().len() as u64);
        let policy = named(run.policy, &self.scenario, &self.profiles, seed)?;
        let Some(reference) = self.profiles.first() else {
            return Err(SimulateError::Setting("there is no replica".to_owned()));
        };
        let mut world = World::new(&self.scenario, workload, policy, reference, seed)?;
        let (end_ms, broken_off) = world.run(run.until_hopeless, progress)?;
        let capacities = world.capacities(&self.profiles);
        let (spills, slices_moved, reasons, diary) = {
            let policy = world.policy();
            let (spills, moved) = (policy.spills(), policy.slices_moved());
            (spills, moved, policy.reasons(), policy.diary())
        };
        let mut outcome = world.measure.outcome(run.policy, end_ms, &capacities);
        outcome.row.replicas = self.scenario.replica_count();
        outcome.row.spills = spills;
        outcome.row.slices_moved = slices_moved;
        outcome.detail.reasons = reasons;
        outcome.detail.diary = diary;
        outcome.detail.seed = seed;
        outcome.detail.broken_off = broken_off;
        Ok(outcome)
    }

    /// Searches for a policy's goodput with one seed.
    ///
    /// # Errors
    /// As [`Simulation::run`].
    pub fn goodput(
        &self,
        policy: &str,
        seed: u64,
        settings: &Search,
        progress: &Progress,
    ) -> Result<Found, SimulateError> {
        let share = self.scenario.slo.share;
        search(settings, |rate| {
            let run = Run {
                policy,
                rate: Some(rate),
                seed,
                until_hopeless: true,
                with_bounds: false,
            };
            let outcome = self.run(&run, progress)?;
            let whole = !outcome.detail.broken_off && outcome.detail.refused == 0;
            Ok(whole && outcome.row.slo_attainment >= share)
        })
    }

    /// A rate that the cluster would about sustain if it cached nothing, requests a second.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn capacity_rps(&self) -> f64 {
        let Some(reference) = self.profiles.first() else {
            return 1.0;
        };
        let cost = |request: &weighbridge_traces::Request| {
            let work = weighbridge_weigh::Work {
                prompt_tokens: u64::from(request.input_tokens),
                output_tokens: u64::from(request.output_tokens),
                ..weighbridge_weigh::Work::default()
            };
            reference.cost(&work).total()
        };
        let most = self.scaling.most_tokens.unwrap_or(u32::MAX);
        let fits = |request: &&weighbridge_traces::Request| {
            request.input_tokens.saturating_add(request.output_tokens) <= most
        };
        let costs: Vec<f64> = self
            .trace
            .requests()
            .iter()
            .filter(fits)
            .map(cost)
            .collect();
        let mean = costs.iter().sum::<f64>() / costs.len().max(1) as f64;
        let groups = self.scenario.replicas.iter().zip(&self.profiles);
        let mu_per_s: f64 = groups
            .map(|(group, profile)| group.count as f64 * profile.capacity_mu_per_min / 60.0)
            .sum();
        mu_per_s / mean.max(1e-9)
    }

    fn bounds(&self, workload: &Workload) -> Bounds {
        let engines = self.scenario.replicas.iter();
        let pool = Bounds::pool(engines.map(|group| (&group.engine.0, group.count)));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let from_us = (self.scenario.warmup_s * 1e6) as u64;
        Bounds::of(workload, pool, from_us)
    }

    fn ready(&self, rate: Option<f64>, seed: u64) -> Result<Arc<Ready>, SimulateError> {
        let scaling = Scaling {
            rate: rate.or(self.scaling.rate),
            seed: self.scaling.seed.wrapping_add(seed),
            ..self.scaling.clone()
        };
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = ready.iter().find(|(known, _)| *known == scaling) {
            return Ok(Arc::clone(found));
        }
        let replay = Replay::new(Arc::clone(&self.trace), &scaling)?;
        let made = Arc::new(Ready {
            workload: Workload::new(
                replay,
                self.scenario.tokens_per_block(),
                self.scenario.answers_quoted,
            ),
            bounds: OnceLock::new(),
        });
        ready.push_back((scaling, Arc::clone(&made)));
        if ready.len() > KEPT {
            ready.pop_front();
        }
        Ok(made)
    }
}
