//! What is known of one replica, and the moves between its states.

use weighbridge_place::State;

use super::votes::{Failing, Votes};
use super::{Cause, Report, Settings, Sign, Standing, What};

/// Wellness below which a healthy replica is degraded, and above which it may be healthy again.
const DEGRADED_BELOW: f64 = 0.8;
const HEALTHY_ABOVE: f64 = 0.9;
/// Wellness below which a degraded replica is to be ejected.
const EJECTED_BELOW: f64 = 0.1;
/// Rounds that must agree before a replica is degraded, or ejected for its wellness.
const AGREEING_ROUNDS: u32 = 2;
/// Most that a share falls and rises in a round.
const STEP_DOWN: f64 = 0.25;
const STEP_UP: f64 = 0.1;
/// Share of a replica that should be ejected but may not, and after probing.
const LEAST_SHARE: f64 = 0.1;
/// µs without any word of its speed after which it is not known.
const SPEED_LASTS_US: u64 = 60_000_000;
/// Sources whose requests must fail while it is probed before that fails.
const FAILING_SOURCES: usize = 2;
/// µs of good health that halve the next time out.
const GOOD_TIME_US: u64 = 60_000_000;

/// One replica.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) group: u32,
    state: State,
    share: f64,
    wellness: f64,
    cause: Cause,
    votes: Votes,
    pub(crate) failing: Failing,
    /// Requests that are overdue at this moment.
    pub(crate) waiting: Vec<Report>,
    speed: Option<f64>,
    speed_at_us: u64,
    probe_failures: u32,
    is_outlier: bool,
    /// Rounds in a row that asked for the next state down.
    agreeing: u32,
    /// When the time out ends, and how often it has been out lately.
    out_until_us: u64,
    ejections: u32,
    healthy_since_us: u64,
    /// Signs since probing began.
    probing_good: u32,
    probing_bad: u32,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            group: 0,
            state: State::Healthy,
            share: 1.0,
            wellness: 1.0,
            cause: Cause::Nothing,
            votes: Votes::default(),
            failing: Failing::default(),
            waiting: Vec::new(),
            speed: None,
            speed_at_us: 0,
            probe_failures: 0,
            is_outlier: false,
            agreeing: 0,
            out_until_us: 0,
            ejections: 0,
            healthy_since_us: 0,
            probing_good: 0,
            probing_bad: 0,
        }
    }
}

impl Record {
    pub(crate) fn hear(&mut self, sign: Sign) {
        match sign {
            Sign::Probe(true) => {
                self.probe_failures = 0;
                self.probing_good = self.probing_good.saturating_add(1);
            }
            Sign::Probe(false) => {
                self.probe_failures = self.probe_failures.saturating_add(1);
                self.probing_bad = self.probing_bad.saturating_add(1);
            }
            Sign::Outlier(is_outlier) => self.is_outlier = is_outlier,
            Sign::Restarted => {
                self.forget();
                self.ejections = 0;
            }
        }
    }

    pub(crate) fn report(&mut self, report: &Report, now_us: u64) {
        if report.what == What::Answered {
            self.probing_good = self.probing_good.saturating_add(1);
        }
        self.votes.take(report, now_us);
    }

    pub(crate) fn votes(&self) -> &Votes {
        &self.votes
    }

    /// Takes its speed of its votes.
    pub(crate) fn measure(&mut self, now_us: u64) {
        self.votes.fade(now_us);
        if let Some(speed) = self.votes.speed(&self.waiting) {
            self.speed = Some(speed);
            self.speed_at_us = now_us;
        } else if now_us.saturating_sub(self.speed_at_us) >= SPEED_LASTS_US {
            self.speed = None;
        }
    }

    /// Voids what was heard; the state stays.
    fn forget(&mut self) {
        self.votes.clear();
        self.failing = Failing::default();
        self.waiting.clear();
        self.speed = None;
        self.probe_failures = 0;
        self.is_outlier = false;
        self.agreeing = 0;
    }

    pub(crate) fn standing(&self) -> Standing {
        Standing {
            state: self.state,
            share: self.share,
        }
    }

    pub(crate) fn wellness(&self) -> f64 {
        self.wellness
    }

    pub(crate) fn cause(&self) -> Cause {
        self.cause
    }

    pub(crate) fn speed(&self) -> Option<f64> {
        self.speed
    }

    pub(crate) fn is_out(&self) -> bool {
        matches!(self.state, State::Ejected | State::Probing)
    }

    fn wellness_now(&self, settings: &Settings, typical: f64) -> (f64, Cause) {
        if self.is_outlier {
            return (0.0, Cause::Outlier);
        }
        if self.probe_failures >= settings.probe_failures.max(1) {
            return (0.0, Cause::Probes);
        }
        // Where all of its like are slow, that is how they are.
        let speed = self.speed.map_or(1.0, |speed| speed / typical.max(1e-3));
        let failures = self.failing.share;
        let failing = fall(failures, settings.failures_well, settings.failures_worst);
        let slow = 1.0 - fall(speed, settings.speed_worst, settings.speed_well);
        if failing.min(slow) >= 1.0 {
            (1.0, Cause::Nothing)
        } else if failing <= slow {
            (failing, Cause::Failures)
        } else {
            (slow, Cause::Slow)
        }
    }

    /// Judges it anew; an ejection is for the pool to allow.
    pub(crate) fn judge(&mut self, settings: &Settings, typical: f64, now_us: u64) {
        (self.wellness, self.cause) = self.wellness_now(settings, typical);
        match self.state {
            State::Healthy => {
                if self.wellness < DEGRADED_BELOW {
                    self.agreeing += 1;
                    if self.agreeing >= AGREEING_ROUNDS || self.wellness <= 0.0 {
                        self.enter(State::Degraded);
                        self.follow(self.wellness);
                    }
                } else {
                    self.agreeing = 0;
                    self.share = 1.0;
                    if now_us.saturating_sub(self.healthy_since_us) >= GOOD_TIME_US {
                        self.healthy_since_us = now_us;
                        self.ejections = self.ejections.saturating_sub(1);
                    }
                }
            }
            State::Degraded => {
                self.follow(self.wellness);
                if self.wellness <= EJECTED_BELOW {
                    self.agreeing = self.agreeing.saturating_add(1);
                } else {
                    self.agreeing = 0;
                    if self.wellness >= HEALTHY_ABOVE && self.share >= 1.0 {
                        self.enter(State::Healthy);
                        self.healthy_since_us = now_us;
                    }
                }
            }
            State::Ejected => {
                // A probe that fails now keeps it out; nobody else asks it.
                if self.probe_failures >= settings.probe_failures.max(1) {
                    self.out_until_us = self.out_until_us.max(now_us);
                } else if now_us >= self.out_until_us && !self.is_outlier {
                    self.forget();
                    self.enter(State::Probing);
                    self.share = settings.probing_share.clamp(0.0, 1.0);
                    (self.probing_good, self.probing_bad) = (0, 0);
                }
            }
            State::Probing => {
                if self.probing_bad == 0 && self.probing_good >= settings.probe_successes {
                    self.forget();
                    self.wellness = 1.0;
                    self.enter(State::Degraded);
                    self.share = LEAST_SHARE;
                }
            }
            State::Draining => {}
        }
    }

    /// Whether it asks to be ejected.
    pub(crate) fn should_go(&self, settings: &Settings) -> bool {
        match self.state {
            State::Degraded => {
                let gone = self.probe_failures >= settings.probe_failures.max(1) || self.is_outlier;
                self.wellness <= EJECTED_BELOW && (gone || self.agreeing >= AGREEING_ROUNDS)
            }
            State::Probing => self.probing_bad > 0 || self.failing.sources >= FAILING_SOURCES,
            State::Healthy | State::Ejected | State::Draining => false,
        }
    }

    pub(crate) fn eject(&mut self, settings: &Settings, now_us: u64) {
        let doubled = settings
            .ejection_ms
            .saturating_mul(1 << self.ejections.min(20))
            .min(settings.longest_ejection_ms);
        self.out_until_us = now_us.saturating_add(doubled.saturating_mul(1000));
        self.ejections = self.ejections.saturating_add(1);
        self.enter(State::Ejected);
        self.share = 0.0;
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.agreeing = 0;
    }

    /// Moves the share a step towards where it should be.
    fn follow(&mut self, wellness: f64) {
        let target = if wellness >= HEALTHY_ABOVE {
            1.0
        } else {
            wellness.max(LEAST_SHARE)
        };
        self.share = target.clamp(self.share - STEP_DOWN, self.share + STEP_UP);
    }
}

/// 1 up to `from`, 0 from `to` on, a straight line between.
fn fall(value: f64, from: f64, to: f64) -> f64 {
    ((to - value) / (to - from).max(1e-9)).clamp(0.0, 1.0)
}
