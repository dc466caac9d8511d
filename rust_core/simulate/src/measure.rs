//! Follows every request, and sums up.

use std::collections::BTreeMap;

use weighbridge_traces::Kind;
use weighbridge_weigh::{Profile, Work};

use crate::report::{Detail, Minute, Outcome, Row, TenantDetail, percentile, percentiles, rounded};
use crate::scenario::{Scenario, Slo};
use crate::workload::Workload;

/// How far a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It has not arrived.
    #[default]
    Ahead,
    /// It waits for its first token.
    Waiting,
    /// It has its first token.
    Answering,
    Finished,
    Refused,
    Lost,
}

/// What is known of one request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Record {
    pub(crate) stage: Stage,
    pub(crate) replica: u32,
    pub(crate) attempts: u8,
    /// An engine started it: what it found cached is known.
    pub(crate) started: bool,
    /// It comes after the warm-up.
    pub(crate) measured: bool,
    /// Nobody waits for its first token.
    pub(crate) patient: bool,
    pub(crate) prompt_tokens: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) output_tokens: u32,
    pub(crate) arrived_ms: f64,
    pub(crate) first_ms: f64,
    pub(crate) done_ms: f64,
}

impl Record {
    /// Time to the first token; up to now where there is none.
    fn ttft_ms(&self, end_ms: f64) -> Option<f64> {
        match self.stage {
            Stage::Answering | Stage::Finished => Some(self.first_ms - self.arrived_ms),
            Stage::Waiting => Some(end_ms - self.arrived_ms),
            Stage::Ahead | Stage::Refused | Stage::Lost => None,
        }
    }

    fn tpot_ms(&self) -> Option<f64> {
        let more = self.output_tokens.saturating_sub(1);
        let finished = self.stage == Stage::Finished && more > 0;
        finished.then(|| (self.done_ms - self.first_ms) / f64::from(more))
    }
}

/// All requests of a run.
pub(crate) struct Measure<'a> {
    slo: Slo,
    warmup_ms: f64,
    duration_ms: f64,
    reference: &'a Profile,
    workload: &'a Workload,
    pub(crate) records: Vec<Record>,
    minutes: Vec<Minute>,
    /// Measured requests that missed an objective for sure.
    missed: usize,
    /// Measured requests that were refused.
    refused: usize,
    measured: usize,
}

const MINUTE_MS: f64 = 60_000.0;

/// More tenants than these are not told apart.
const MOST_TENANTS: usize = 32;

/// Later minutes are counted in this one: 45 days.
const MOST_MINUTES: usize = 1 << 16;

impl<'a> Measure<'a> {
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn new(scenario: &Scenario, workload: &'a Workload, reference: &'a Profile) -> Self {
        let warmup_ms = scenario.warmup_s * 1e3;
        // By the trace's time, so that all policies are measured by the same requests.
        let records: Vec<Record> = workload
            .arrivals()
            .iter()
            .enumerate()
            .map(|(number, arrival)| Record {
                measured: arrival.at_us as f64 / 1e3 >= warmup_ms,
                patient: workload.kind(number) == Kind::Batch,
                ..Record::default()
            })
            .collect();
        Self {
            slo: scenario.slo,
            warmup_ms,
            duration_ms: workload.replay().duration_us() as f64 / 1e3,
            reference,
            workload,
            measured: records.iter().filter(|record| record.measured).count(),
            records,
            minutes: Vec::new(),
            missed: 0,
            refused: 0,
        }
    }

    pub(crate) fn record(&mut self, number: usize) -> Option<&mut Record> {
        self.records.get_mut(number)
    }

    /// Whether nothing more will come of a request.
    pub(crate) fn has_ended(&self, number: usize) -> bool {
        let stage = self.records.get(number).map(|record| record.stage);
        matches!(stage, Some(Stage::Finished | Stage::Refused | Stage::Lost))
    }

    /// Whether the share of requests that may miss is used up, or one was refused.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn is_hopeless(&self) -> bool {
        self.refused > 0 || self.missed as f64 > (1.0 - self.slo.share) * self.measured as f64
    }

    pub(crate) fn arrived(&mut self, number: usize, at_ms: f64, prompt_tokens: u32) {
        if let Some(record) = self.records.get_mut(number) {
            record.stage = Stage::Waiting;
            record.arrived_ms = at_ms;
            record.replica = u32::MAX;
            record.prompt_tokens = prompt_tokens;
        }
        self.in_minute(at_ms, |minute| minute.arrived += 1);
    }

    pub(crate) fn first_token(&mut self, number: usize, now_ms: f64) {
        let Some(record) = self.records.get_mut(number) else {
            return;
        };
        record.stage = Stage::Answering;
        record.first_ms = now_ms;
        let record = *record;
        let work = Work {
            prompt_tokens: u64::from(record.prompt_tokens),
            cached_tokens: u64::from(record.cached_tokens),
            ..Work::default()
        };
        self.charge(record.replica, now_ms, self.reference.cost(&work).total());
        self.in_minute(now_ms, |minute| {
            minute.prompt_tokens += u64::from(record.prompt_tokens);
            minute.cached_tokens += u64::from(record.cached_tokens);
        });
        if self.is_late_first(&record) {
            self.note_miss(&record);
        }
    }

    pub(crate) fn finished(&mut self, number: usize, now_ms: f64, output_tokens: u32) {
        let Some(record) = self.records.get_mut(number) else {
            return;
        };
        record.stage = Stage::Finished;
        record.done_ms = now_ms;
        record.output_tokens = output_tokens;
        let record = *record;
        let work = Work {
            prompt_tokens: u64::from(record.prompt_tokens),
            cached_tokens: u64::from(record.prompt_tokens),
            output_tokens: u64::from(output_tokens),
            ..Work::default()
        };
        let mu = self.reference.cost(&work).decode_mu;
        self.charge(record.replica, now_ms, mu);
        let (first, others) = (self.is_late_first(&record), self.is_late_others(&record));
        if others && !first {
            self.note_miss(&record);
        }
        if !first && !others {
            self.in_minute(record.arrived_ms, |minute| minute.good += 1);
        }
    }

    /// The request will not be answered.
    pub(crate) fn failed(&mut self, number: usize, stage: Stage) {
        if let Some(record) = self.records.get_mut(number) {
            record.stage = stage;
            let record = *record;
            self.refused += usize::from(record.measured && stage == Stage::Refused);
            self.note_miss(&record);
        }
    }

    fn note_miss(&mut self, record: &Record) {
        self.missed += usize::from(record.measured);
    }

    fn is_late_first(&self, record: &Record) -> bool {
        if record.patient {
            return false;
        }
        let allowed =
            self.slo.ttft_ms + self.slo.ttft_ms_per_ktok * f64::from(record.prompt_tokens) / 1000.0;
        record
            .ttft_ms(f64::INFINITY)
            .is_none_or(|ttft| ttft > allowed)
    }

    fn is_late_others(&self, record: &Record) -> bool {
        record.tpot_ms().is_some_and(|tpot| tpot > self.slo.tpot_ms)
    }

    fn is_good(&self, record: &Record) -> bool {
        record.stage == Stage::Finished
            && !self.is_late_first(record)
            && !self.is_late_others(record)
    }

    #[allow(clippy::cast_possible_truncation)]
    fn charge(&mut self, replica: u32, now_ms: f64, mu: f64) {
        let replica = replica as usize;
        self.in_minute(now_ms, |minute| {
            if minute.mu.len() <= replica {
                minute.mu.resize(replica + 1, 0.0);
            }
            if let Some(sum) = minute.mu.get_mut(replica) {
                *sum += mu as f32;
            }
        });
    }

    fn in_minute(&mut self, now_ms: f64, change: impl FnOnce(&mut Minute)) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let at = ((now_ms.max(0.0) / MINUTE_MS) as usize).min(MOST_MINUTES);
        if self.minutes.len() <= at {
            self.minutes.resize(at + 1, Minute::default());
        }
        if let Some(minute) = self.minutes.get_mut(at) {
            change(minute);
        }
    }

    /// Sums up. `capacities` are those of all replicas that ever were, relative to the reference.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn outcome(mut self, policy: &str, end_ms: f64, capacities: &[f64]) -> Outcome {
        let measured: Vec<&Record> = self
            .records
            .iter()
            .filter(|record| record.measured)
            .collect();
        let count = |stage: Stage| measured.iter().filter(|r| r.stage == stage).count();
        let good = measured.iter().filter(|r| self.is_good(r)).count();
        let seconds = ((self.duration_ms - self.warmup_ms) / 1e3).max(1e-9);
        let ttft = sorted(measured.iter().filter_map(|r| r.ttft_ms(end_ms)));
        let tpot = sorted(measured.iter().filter_map(|r| r.tpot_ms()));
        let answered = measured
            .iter()
            .filter(|r| r.started && matches!(r.stage, Stage::Answering | Stage::Finished));
        let (prompt, cached) = answered.fold((0u64, 0u64), |(prompt, cached), r| {
            (
                prompt + u64::from(r.prompt_tokens),
                cached + u64::from(r.cached_tokens),
            )
        });
        let balance = self.balance(capacities);
        let of = |values: &[f64], share| percentile(values, share).map(rounded);
        let share = |part: usize| part as f64 / measured.len().max(1) as f64;
        let row = Row {
            policy: policy.to_owned(),
            replicas: 0,
            offered_rps: rounded(measured.len() as f64 / seconds),
            goodput_rps: rounded(good as f64 / seconds),
            slo_attainment: rounded(share(good)),
            ttft_p50_ms: of(&ttft, 0.5),
            ttft_p99_ms: of(&ttft, 0.99),
            tpot_p50_ms: of(&tpot, 0.5),
            tpot_p99_ms: of(&tpot, 0.99),
            cache_hit_ratio: rounded(cached as f64 / prompt.max(1) as f64),
            ideal_hit_ratio: 0.0,
            pooled_hit_ratio: 0.0,
            mu_max_over_mean: balance.mean.map(rounded),
            spills: 0,
            slices_moved: 0,
            wall_s: None,
        };
        let detail = Detail {
            tenants: self.tenants(end_ms),
            requests: measured.len(),
            finished: count(Stage::Finished),
            refused: count(Stage::Refused),
            lost: count(Stage::Lost),
            unfinished: count(Stage::Ahead) + count(Stage::Waiting) + count(Stage::Answering),
            retried: measured.iter().filter(|r| r.attempts > 1).count(),
            late_first: measured.iter().filter(|r| self.is_late_first(r)).count(),
            late_others: measured.iter().filter(|r| self.is_late_others(r)).count(),
            mu_max_over_mean_worst: balance.worst.map(rounded),
            mu: rounded(balance.mu),
            ttft_percentiles_ms: percentiles(&ttft),
            tpot_percentiles_ms: percentiles(&tpot),
            minutes: std::mem::take(&mut self.minutes),
            ..Detail::default()
        };
        Outcome { row, detail }
    }

    /// What became of each tenant's requests; nothing where there are very many.
    #[allow(clippy::cast_precision_loss)]
    fn tenants(&self, end_ms: f64) -> BTreeMap<String, TenantDetail> {
        let mut found: BTreeMap<String, (TenantDetail, Vec<f64>, Vec<f64>)> = BTreeMap::new();
        let seconds = ((self.duration_ms - self.warmup_ms) / 1e3).max(1e-9);
        for (record, arrival) in self.records.iter().zip(self.workload.arrivals()) {
            if !record.measured {
                continue;
            }
            let (tenant, ttft, tpot) = found
                .entry(self.workload.replay().tenant(arrival))
                .or_default();
            tenant.requests += 1;
            tenant.refused += usize::from(record.stage == Stage::Refused);
            tenant.good += usize::from(self.is_good(record));
            ttft.extend(record.ttft_ms(end_ms));
            tpot.extend(record.tpot_ms());
            if found.len() > MOST_TENANTS {
                return BTreeMap::new();
            }
        }
        let of = |values: &[f64], share| percentile(values, share).map(rounded);
        let summed =
            |(name, (tenant, ttft, tpot)): (String, (TenantDetail, Vec<f64>, Vec<f64>))| {
                let (ttft, tpot) = (sorted(ttft.into_iter()), sorted(tpot.into_iter()));
                let detail = TenantDetail {
                    goodput_rps: rounded(tenant.good as f64 / seconds),
                    ttft_p50_ms: of(&ttft, 0.5),
                    ttft_p99_ms: of(&ttft, 0.99),
                    tpot_p99_ms: of(&tpot, 0.99),
                    ..tenant
                };
                (name, detail)
            };
        found.into_iter().map(summed).collect()
    }

    /// How evenly the measured whole minutes' MU are spread; of less than a minute, the whole.
    #[allow(clippy::cast_precision_loss)]
    fn balance(&self, capacities: &[f64]) -> Balance {
        let whole = |at: usize| {
            let start = at as f64 * MINUTE_MS;
            start >= self.warmup_ms && start + MINUTE_MS <= self.duration_ms
        };
        let chosen = |all: bool| {
            let minutes = self.minutes.iter().enumerate();
            minutes.filter(move |(at, _)| all || whole(*at))
        };
        let none = chosen(false).next().is_none();
        let mut balance = Balance::default();
        let mut ratios = Vec::new();
        for (_, minute) in chosen(none) {
            let mut used: Vec<f64> = capacities
                .iter()
                .enumerate()
                .filter(|(_, capacity)| **capacity > 0.0)
                .map(|(at, capacity)| {
                    f64::from(minute.mu.get(at).copied().unwrap_or(0.0)) / capacity
                })
                .collect();
            balance.mu += minute.mu.iter().copied().map(f64::from).sum::<f64>();
            used.sort_by(f64::total_cmp);
            let mean = used.iter().sum::<f64>() / used.len().max(1) as f64;
            if let Some(highest) = used.last().filter(|_| mean > 0.0) {
                ratios.push(highest / mean);
            }
        }
        if !ratios.is_empty() {
            balance.mean = Some(ratios.iter().sum::<f64>() / ratios.len() as f64);
            balance.worst = ratios.iter().copied().max_by(f64::total_cmp);
        }
        balance
    }
}

#[derive(Default)]
struct Balance {
    mean: Option<f64>,
    worst: Option<f64>,
    mu: f64,
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}
