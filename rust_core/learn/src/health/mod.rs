//! Which replicas may be given how much: drained by degrees, never flipped.
//!
//! A [`Health`] hears what became of requests and of probes. Once in a while [`Health::round`] moves
//! each replica along
//!
//! ```text
//! healthy ⇄ degraded ─▶ ejected ─▶ probing ─▶ degraded ─▶ healthy
//!                          ▲──────────┘ (ails still: longer next time)
//! ```
//!
//! *Wellness* is 1 for a replica as its profile says and falls to 0 with the share of sources whose
//! requests fail there and not elsewhere, or with its speed against that of its like (so that a wrong
//! profile ejects nobody), or with failed probes. Nothing that one client does moves it. Its share of the load follows wellness by steps, downwards faster than upwards, and it
//! takes more to be called healthy again than to stay so. At most a set part of the replicas is
//! ejected at once; the worst are. Nothing depends on anything but the calls and their times.

mod record;
mod votes;

use std::collections::BTreeMap;

use record::Record;
use serde::{Deserialize, Serialize};
use votes::Votes;
use weighbridge_place::State;

/// How a replica's health is judged.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Share of failures that is still well.
    pub failures_well: f64,
    /// Share of failures at which nothing is to be given any more.
    pub failures_worst: f64,
    /// Fewest requests that a share of failures is taken of.
    pub least_requests: f64,
    /// Speed against its like that is still well.
    pub speed_well: f64,
    /// Speed against its like at which nothing is to be given any more.
    pub speed_worst: f64,
    /// Failed probes in a row that mean a replica is gone.
    pub probe_failures: u32,
    /// Largest part of the replicas that may be out (ejected or probing) at once; one always may,
    /// of two or more.
    pub most_ejected: f64,
    /// First time out, ms; it doubles each time, up to `longest_ejection_ms`.
    pub ejection_ms: u64,
    /// See `ejection_ms`.
    pub longest_ejection_ms: u64,
    /// Successes that end probing.
    pub probe_successes: u32,
    /// Share that a replica gets while probing.
    pub probing_share: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures_well: 0.05,
            failures_worst: 0.5,
            least_requests: 4.0,
            speed_well: 0.6,
            speed_worst: 0.15,
            probe_failures: 2,
            most_ejected: 0.5,
            ejection_ms: 5_000,
            longest_ejection_ms: 300_000,
            probe_successes: 3,
            probing_share: 0.05,
        }
    }
}

/// What is heard of a replica besides its requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sign {
    /// A probe of its health was answered well or not.
    Probe(bool),
    /// Envoy's own outlier detection has ejected it, or has not.
    Outlier(bool),
    /// It has been restarted: what was held against it is void.
    Restarted,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Hash of the tenant's name.
    pub tenant: u64,
    /// Hash of the tenant and the session, or where there is no session the prompt's beginning.
    pub name: u64,
}

/// What became of one request, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Where it came from.
    pub source: Source,
    /// What became of it.
    pub what: What,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// It was answered.
    Answered,
    /// It failed: reset, refused, answered with a 5xx, or silent for too long.
    Failed,
    /// It took `took_ms`, where a replica on its profile takes `owed_ms` at most.
    Took {
        /// ms that it is owed.
        owed_ms: f64,
        /// ms that it took.
        took_ms: f64,
    },
}

/// What a replica may be given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Its state.
    pub state: State,
    /// Share of its capacity, 0 to 1.
    pub share: f64,
}

/// A replica's number, as the pool has it.
pub type Id = u32;

/// What weighs most against a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Nothing does.
    Nothing,
    /// Its health page does not answer well.
    Probes,
    /// Envoy has found it out.
    Outlier,
    /// Too many of its requests fail.
    Failures,
    /// It is slower than its like.
    Slow,
}

impl Cause {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Probes => "probes",
            Self::Outlier => "outlier",
            Self::Failures => "failures",
            Self::Slow => "slow",
        }
    }
}

/// The health of all replicas.
#[derive(Debug)]
pub struct Health {
    settings: Settings,
    records: BTreeMap<Id, Record>,
}

impl Health {
    /// Knows no replica yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            records: BTreeMap::new(),
        }
    }

    /// Watches these replicas, each with the number of the group of its like: replicas of one
    /// profile. Those known stay as they are; others are forgotten.
    pub fn watch(&mut self, replicas: impl IntoIterator<Item = (Id, u32)>) {
        let mut records = BTreeMap::new();
        for (id, group) in replicas {
            let mut record = self.records.remove(&id).unwrap_or_default();
            record.group = group;
            records.insert(id, record);
        }
        self.records = records;
    }

    /// Hears a sign. Signs of replicas that are not watched are void.
    pub fn hear(&mut self, id: Id, sign: Sign) {
        if let Some(record) = self.records.get_mut(&id) {
            record.hear(sign);
        }
    }

    /// Hears what became of a request that was placed since the replica last began to be probed.
    pub fn report(&mut self, id: Id, report: &Report, now_us: u64) {
        if let Some(record) = self.records.get_mut(&id) {
            record.report(report, now_us);
        }
    }

    /// Requests that are overdue at this moment, in place of those told before.
    pub fn waiting(&mut self, id: Id, overdue: Vec<Report>) {
        if let Some(record) = self.records.get_mut(&id) {
            record.waiting = overdue;
        }
    }

    /// Judges by other settings from now on; what is known stays.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Judges all replicas; to be called about once a second. True if anything has changed.
    pub fn round(&mut self, now_us: u64) -> bool {
        self.take_evidence(now_us);
        let typical = self.typical_speeds();
        let settings = &self.settings;
        let mut changed = false;
        let mut to_eject = Vec::new();
        let mut out = 0usize;
        for (id, record) in &mut self.records {
            let typical = typical.get(&record.group).copied().unwrap_or(1.0);
            let before = record.standing();
            record.judge(settings, typical, now_us);
            let goes = record.should_go(settings);
            if record.is_out() {
                out += 1;
                if goes {
                    record.eject(settings, now_us);
                }
            } else if goes {
                to_eject.push((*id, record.wellness()));
            }
            changed |= record.standing() != before;
        }
        let room = self.most_ejected().saturating_sub(out);
        to_eject.sort_by(|(a, wellness_a), (b, wellness_b)| {
            wellness_a.total_cmp(wellness_b).then(a.cmp(b))
        });
        for (id, _) in to_eject.into_iter().take(room) {
            if let Some(record) = self.records.get_mut(&id) {
                record.eject(&self.settings, now_us);
                changed = true;
            }
        }
        changed
    }

    /// What a replica may be given; all of it where it is not watched.
    #[must_use]
    pub fn standing(&self, id: Id) -> Standing {
        self.records.get(&id).map_or(
            Standing {
                state: State::Healthy,
                share: 1.0,
            },
            Record::standing,
        )
    }

    /// All replicas and what they may be given, by number.
    pub fn standings(&self) -> impl Iterator<Item = (Id, Standing)> {
        self.records
            .iter()
            .map(|(id, record)| (*id, record.standing()))
    }

    /// How well a replica is, 0 to 1, as of the last round.
    #[must_use]
    pub fn wellness(&self, id: Id) -> f64 {
        self.records.get(&id).map_or(1.0, Record::wellness)
    }

    /// What weighed most against a replica in the last round.
    #[must_use]
    pub fn cause(&self, id: Id) -> Cause {
        self.records.get(&id).map_or(Cause::Nothing, Record::cause)
    }

    /// A replica's speed against its profile, as far as known.
    #[must_use]
    pub fn speed(&self, id: Id) -> Option<f64> {
        self.records.get(&id).and_then(Record::speed)
    }

    /// Replicas that may be ejected at once.
    fn most_ejected(&self) -> usize {
        let count = self.records.len();
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let part = (count as f64 * self.settings.most_ejected.clamp(0.0, 1.0)) as usize;
        part.max(usize::from(count > 1))
    }

    /// Takes of each group's votes how far its replicas fail, and how fast they are.
    fn take_evidence(&mut self, now_us: u64) {
        let mut groups: BTreeMap<u32, Vec<Id>> = BTreeMap::new();
        for (id, record) in &mut self.records {
            record.measure(now_us);
            groups.entry(record.group).or_default().push(*id);
        }
        for ids in groups.values() {
            let votes: Vec<&Votes> = ids
                .iter()
                .filter_map(|id| self.records.get(id))
                .map(Record::votes)
                .collect();
            let failing = votes::failing(&votes, &self.settings);
            for (id, failing) in ids.iter().zip(failing) {
                if let Some(record) = self.records.get_mut(id) {
                    record.failing = failing;
                }
            }
        }
    }

    /// The middle speed of each group, 1 at most; of two known, the faster. A replica with others
    /// like it of which none is known is as fast as its like.
    fn typical_speeds(&self) -> BTreeMap<u32, f64> {
        let mut groups: BTreeMap<u32, (usize, Vec<f64>)> = BTreeMap::new();
        for record in self.records.values() {
            let (members, speeds) = groups.entry(record.group).or_default();
            *members += 1;
            // What serves, and of whose speed nothing is heard, is not slow.
            let serves = || record.votes().serves().then_some(1.0);
            speeds.extend(record.speed().or_else(serves));
        }
        groups
            .into_iter()
            .filter(|(_, (members, speeds))| *members > 1 && !speeds.is_empty())
            .map(|(group, (_, mut speeds))| {
                let middle = speeds.len() / 2;
                let (_, median, _) = speeds.select_nth_unstable_by(middle, f64::total_cmp);
                (group, median.min(1.0))
            })
            .collect()
    }
}
