//! One engine on the virtual clock: it leaps over stretches without an event.

use weighbridge_engine::{Engine, Expected, Finished, RequestSpec, Started, Step, SubmitError};

use crate::error::SimulateError;
use crate::scenario::EngineChoice;

/// What the engine is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Doing {
    Nothing,
    /// Adding tokens, with nothing else to happen before the second moment; the iterations up to
    /// the first were run.
    Quiet(f64, f64),
    /// In an iteration that was run and whose results come out at this moment.
    Busy(f64),
}

/// What came out of an engine at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) started: Vec<Started>,
    /// Requests with their first token (or, after a pause, one more).
    pub(crate) prefilled: Vec<u64>,
    pub(crate) finished: Vec<Finished>,
}

/// What a scrape finds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Metrics {
    /// Iterations since the engine's start.
    pub(crate) iteration: u64,
    /// Requests that run or wait.
    pub(crate) requests: u32,
    /// Tokens of the blocks that requests hold.
    pub(crate) kv_tokens: u64,
    /// Requests not started.
    pub(crate) waiting: u32,
    /// Share of the cache's blocks that requests hold.
    pub(crate) kv_share: f64,
}

/// One replica.
#[derive(Debug)]
pub(crate) struct Replica {
    engine: Engine,
    doing: Doing,
    step: Step,
    /// Grows when what the agenda knows of this replica is void.
    turn: u64,
    slowdown: f64,
    choice: EngineChoice,
}

impl Replica {
    pub(crate) fn new(choice: &EngineChoice, seed: u64) -> Result<Self, SimulateError> {
        Ok(Self {
            engine: Engine::new(choice.0.clone(), seed)?,
            doing: Doing::Nothing,
            step: Step::default(),
            turn: 0,
            slowdown: 1.0,
            choice: choice.clone(),
        })
    }

    /// The same replica after a restart.
    pub(crate) fn restarted(&self, seed: u64) -> Result<Self, SimulateError> {
        let mut again = Self::new(&self.choice, seed)?;
        again.turn = self.turn + 1;
        Ok(again)
    }

    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Hands a request in. Answers when to wake the replica, if that has changed.
    pub(crate) fn submit(
        &mut self,
        spec: RequestSpec,
        now_ms: f64,
    ) -> Result<Option<f64>, SubmitError> {
        self.settle(now_ms);
        self.engine.submit(spec, now_ms)?;
        match self.doing {
            Doing::Busy(_) => Ok(None),
            // Others that come at this very moment start with it.
            Doing::Nothing => Ok(Some(self.pause(now_ms))),
            // The iteration under way ends before the request can start.
            Doing::Quiet(reached, _) => Ok(Some(self.pause(reached.max(now_ms)))),
        }
    }

    /// Goes on at a moment that it asked for: hands out what is there, and answers when to wake it
    /// next.
    pub(crate) fn wake(&mut self, now_ms: f64, results: &mut Results) -> Option<f64> {
        results.started.clear();
        results.prefilled.clear();
        results.finished.clear();
        match self.doing {
            Doing::Nothing => return None,
            Doing::Quiet(..) => self.settle(now_ms),
            Doing::Busy(_) => {
                results.started.append(&mut self.step.started);
                results.prefilled.append(&mut self.step.prefilled);
                results.finished.append(&mut self.step.finished);
            }
        }
        self.go_on(now_ms)
    }

    /// Runs the iterations that start before `now_ms`.
    pub(crate) fn settle(&mut self, now_ms: f64) {
        if let Doing::Quiet(reached, until) = self.doing {
            if self
                .engine
                .step_many(reached, until.min(now_ms), &mut self.step)
            {
                self.doing = Doing::Quiet(self.step.ends_at_ms, until);
            }
        }
    }

    /// What a scrape at `now_ms` finds.
    pub(crate) fn metrics(&mut self, now_ms: f64) -> Metrics {
        self.settle(now_ms);
        let kv = self.engine.kv_stats();
        let load = self.engine.load();
        let per_block = self.engine.profile().tokens_per_block;
        Metrics {
            iteration: self.step.iteration,
            requests: load.waiting + load.prefilling + load.generating,
            kv_tokens: u64::from(kv.used_blocks) * u64::from(per_block),
            waiting: load.waiting,
            kv_share: f64::from(kv.used_blocks) / f64::from(kv.max_blocks.max(1)),
        }
    }

    /// What will become of all requests here, and of one more, if no others come; and when the next
    /// iteration starts, ms.
    pub(crate) fn outlook(
        &mut self,
        more: Option<&RequestSpec>,
        now_ms: f64,
    ) -> (Vec<Expected>, f64) {
        self.settle(now_ms);
        let start_ms = match self.doing {
            Doing::Nothing => now_ms,
            Doing::Quiet(reached, _) => reached.max(now_ms),
            Doing::Busy(until) => until,
        };
        (self.engine.outlook(more, start_ms), start_ms)
    }

    /// Makes every iteration from the next on take so many times its time. Answers when to wake the
    /// replica, if that has changed.
    pub(crate) fn slow(&mut self, factor: f64, now_ms: f64) -> Option<f64> {
        self.settle(now_ms);
        self.slowdown = factor;
        self.engine.set_slowdown(factor);
        let Doing::Quiet(reached, _) = self.doing else {
            return None;
        };
        Some(self.pause(reached.max(now_ms)))
    }

    pub(crate) fn slowdown(&self) -> f64 {
        self.slowdown
    }

    /// Does nothing more before `until_ms`, whatever was planned.
    fn pause(&mut self, until_ms: f64) -> f64 {
        self.turn += 1;
        self.doing = Doing::Quiet(until_ms, until_ms);
        until_ms
    }

    fn go_on(&mut self, now_ms: f64) -> Option<f64> {
        let quiet = self.engine.quiet_until(now_ms);
        if quiet > now_ms {
            self.doing = Doing::Quiet(now_ms, quiet);
            return Some(quiet);
        }
        if self.engine.step(now_ms, &mut self.step) {
            self.doing = Doing::Busy(self.step.ends_at_ms);
            return Some(self.step.ends_at_ms);
        }
        self.doing = Doing::Nothing;
        None
    }
}
