//! What sources say of one replica: each counts for itself, none for more than a little.
//!
//! A client can make requests fail, take long, or be read slowly. So a replica is judged by how many
//! *sources* (a tenant's session or prompt) fare badly there and well elsewhere, never by how many
//! requests do.

use std::collections::{BTreeMap, BTreeSet};

use super::{Report, Settings, Source, What};

/// µs after which a vote counts half, and one on speed a quarter.
const HALF_LIFE_US: f64 = 10e6;
/// Sources kept of a replica; the lightest gives way.
const MOST_SOURCES: usize = 128;
/// Requests of one source that count.
const MOST_OF_SOURCE: f64 = 3.0;
/// ms of one source that count for speed.
const MOST_MS_OF_SOURCE: f64 = 2_000.0;
/// ms that must be known before anything is said of speed.
const ENOUGH_MS: f64 = 500.0;
/// A vote below this is forgotten.
const FADED: f64 = 0.05;
/// Sources that must fare badly before that is the replica's.
const LEAST_SOURCES: usize = 2;
/// Share of its requests that must fail before a source counts as failing.
const FAILS: f64 = 0.5;
/// Good requests that a share of failures is taken with besides: few votes say little.
const DOUBT: f64 = 2.0;
/// Of the sources' speeds the one that this part of them is below.
const SPEED_AT: f64 = 0.5;
/// No answer counts as faster than this.
const FASTEST: f64 = 4.0;

/// One source's requests at one replica, older ones counting less.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Vote {
    tenant: u64,
    good: f64,
    bad: f64,
    owed_ms: f64,
    took_ms: f64,
}

impl Vote {
    fn requests(&self) -> f64 {
        self.good + self.bad
    }

    fn weight(&self) -> f64 {
        self.requests().min(MOST_OF_SOURCE)
    }

    fn failing(&self) -> f64 {
        self.bad / self.requests().max(1e-9)
    }

    fn size(&self) -> f64 {
        self.requests() + self.took_ms / 1000.0
    }

    fn pace(&mut self, owed_ms: f64, took_ms: f64) {
        let took_ms = took_ms.clamp(0.0, 1e9);
        self.owed_ms += owed_ms.clamp(0.0, took_ms * FASTEST);
        self.took_ms += took_ms;
    }
}

/// One replica's votes.
#[derive(Clone, Debug, Default)]
pub(super) struct Votes {
    sources: BTreeMap<u64, Vote>,
    faded_at_us: u64,
}

impl Votes {
    pub(super) fn take(&mut self, report: &Report, now_us: u64) {
        self.fade(now_us);
        let Source { tenant, name } = report.source;
        if self.sources.len() >= MOST_SOURCES && !self.sources.contains_key(&name) {
            let sizes = self.sources.iter().map(|(name, vote)| (*name, vote.size()));
            let lightest = sizes.min_by(|(_, a), (_, b)| a.total_cmp(b));
            if let Some((lightest, _)) = lightest {
                self.sources.remove(&lightest);
            }
        }
        let vote = self.sources.entry(name).or_default();
        vote.tenant = tenant;
        match report.what {
            What::Answered => vote.good += 1.0,
            What::Failed => vote.bad += 1.0,
            What::Took { owed_ms, took_ms } => vote.pace(owed_ms, took_ms),
        }
    }

    /// Older votes count less, from now on.
    pub(super) fn fade(&mut self, now_us: u64) {
        let passed = now_us.saturating_sub(self.faded_at_us);
        if passed == 0 {
            return;
        }
        self.faded_at_us += passed;
        #[allow(clippy::cast_precision_loss)]
        let keep = (-(passed as f64) / HALF_LIFE_US).exp2();
        self.sources.retain(|_, vote| {
            vote.good *= keep;
            vote.bad *= keep;
            vote.owed_ms *= keep * keep;
            vote.took_ms *= keep * keep;
            vote.size() >= FADED
        });
    }

    pub(super) fn clear(&mut self) {
        self.sources.clear();
    }

    /// How fast it serves against what its profile owes, by most of its sources; `None` where too
    /// little is known. `waiting` are requests that are overdue at this moment.
    pub(super) fn speed(&self, waiting: &[Report]) -> Option<f64> {
        let mut all = self.sources.clone();
        for report in waiting {
            if let What::Took { owed_ms, took_ms } = report.what {
                let vote = all.entry(report.source.name).or_default();
                vote.tenant = report.source.tenant;
                vote.pace(owed_ms, took_ms);
            }
        }
        let votes: Vec<&Vote> = all.values().filter(|vote| vote.took_ms > 0.0).collect();
        let tenants: BTreeSet<u64> = votes.iter().map(|vote| vote.tenant).collect();
        let of_tenant = |tenant: &u64| {
            let own = votes.iter().filter(|vote| vote.tenant == *tenant);
            middle_speed(own.copied())
        };
        // One tenant's clients cannot make it slow for the others.
        let best = tenants.iter().filter_map(of_tenant).max_by(f64::total_cmp);
        best.or_else(|| middle_speed(votes.iter().copied()))
    }

    /// Whether it answers.
    pub(super) fn serves(&self) -> bool {
        self.sources.values().any(|vote| vote.good >= FAILS)
    }

    /// Failing shares by tenant, beside what the same sources meet elsewhere.
    fn shares(&self, at: usize, elsewhere: &Elsewhere) -> BTreeMap<u64, Share> {
        let mut shares: BTreeMap<u64, Share> = BTreeMap::new();
        for (name, vote) in &self.sources {
            let weight = vote.weight();
            let fails = (vote.failing() - elsewhere.failing(*name, at)).max(0.0);
            let share = shares.entry(vote.tenant).or_default();
            share.weight += weight;
            share.bad += weight * fails;
            share.sources += usize::from(fails >= FAILS);
        }
        shares
    }
}

/// Speed of those that [`SPEED_AT`] of these are below, each by what is known of it.
fn middle_speed<'v>(votes: impl Iterator<Item = &'v Vote>) -> Option<f64> {
    let mut speeds: Vec<(f64, f64)> = votes
        .map(|vote| {
            let weight = vote.took_ms.min(MOST_MS_OF_SOURCE);
            (vote.owed_ms / vote.took_ms.max(1e-9), weight)
        })
        .collect();
    let known: f64 = speeds.iter().map(|(_, weight)| weight).sum();
    if speeds.len() < LEAST_SOURCES || known < ENOUGH_MS {
        return None;
    }
    speeds.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut below = 0.0;
    speeds.into_iter().find_map(|(speed, weight)| {
        below += weight;
        (below >= SPEED_AT * known - 1e-9).then_some(speed)
    })
}

/// A tenant's votes at one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Share {
    weight: f64,
    bad: f64,
    /// Sources that fail.
    sources: usize,
}

/// Of each source that fails somewhere, the two replicas of the group at which it fails least: its
/// share there, and which replica.
#[derive(Debug, Default)]
struct Elsewhere(BTreeMap<u64, [(f64, usize); 2]>);

impl Elsewhere {
    fn of(group: &[&Votes]) -> Self {
        const NOWHERE: (f64, usize) = (f64::INFINITY, usize::MAX);
        let failing = group.iter().flat_map(|votes| &votes.sources);
        let failing = failing.filter(|(_, vote)| vote.bad > 0.0);
        let mut least: BTreeMap<u64, [(f64, usize); 2]> =
            failing.map(|(name, _)| (*name, [NOWHERE; 2])).collect();
        if least.is_empty() {
            return Self::default();
        }
        for (at, votes) in group.iter().enumerate() {
            for (name, vote) in &votes.sources {
                let Some([first, second]) = least.get_mut(name) else {
                    continue;
                };
                if vote.requests() < FADED {
                    continue;
                }
                let found = (vote.failing(), at);
                if found.0 < first.0 {
                    (*first, *second) = (found, *first);
                } else if found.0 < second.0 {
                    *second = found;
                }
            }
        }
        Self(least)
    }

    /// Share of a source's requests that fail where it fares best, but for the replica `at`.
    fn failing(&self, name: u64, at: usize) -> f64 {
        let found = self.0.get(&name).into_iter().flatten();
        let mut others = found.filter(|(share, other)| *other != at && share.is_finite());
        others.next().map_or(0.0, |(share, _)| *share)
    }
}

/// How far requests fail at a replica and not at its like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Failing {
    /// Share of its sources' requests, 0 to 1.
    pub(super) share: f64,
    /// Sources that fail there.
    pub(super) sources: usize,
}

/// How far requests fail at each replica of a group and not at its like, in the order given.
pub(super) fn failing(group: &[&Votes], settings: &Settings) -> Vec<Failing> {
    let elsewhere = Elsewhere::of(group);
    if elsewhere.0.is_empty() {
        return vec![Failing::default(); group.len()];
    }
    let shares: Vec<_> = group
        .iter()
        .enumerate()
        .map(|(at, votes)| votes.shares(at, &elsewhere))
        .collect();
    // Each tenant's failing shares at all replicas, the lowest first.
    let mut by_tenant: BTreeMap<u64, Vec<(f64, usize)>> = BTreeMap::new();
    for (at, own) in shares.iter().enumerate() {
        for (tenant, share) in own {
            // With little to go by, more of it counts as the tenant's own way.
            let usual = (share.bad + DOUBT / 2.0) / (share.weight + DOUBT);
            if share.weight >= 1.0 {
                by_tenant.entry(*tenant).or_default().push((usual, at));
            }
        }
    }
    for usual in by_tenant.values_mut() {
        usual.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    }
    let usual = |tenant: u64, at: usize| {
        let all = by_tenant.get(&tenant).map_or(&[][..], Vec::as_slice);
        let others = all.iter().filter(|(_, other)| *other != at);
        let count = others.clone().count();
        // The lower quarter: where half of the replicas are ill, that is no tenant's way.
        let lower = others.map(|(share, _)| *share).nth(count / 4);
        lower.unwrap_or(0.0)
    };
    shares
        .iter()
        .enumerate()
        .map(|(at, own)| {
            let own = own.iter().map(|(tenant, share)| {
                let fails = share.bad / (share.weight + DOUBT);
                let excess = (fails - usual(*tenant, at)).max(0.0) * (share.weight + DOUBT);
                (*share, excess.min(share.weight))
            });
            of_replica(own, settings)
        })
        .collect()
}

/// A replica's failures, of tenants' shares and what of each is more than elsewhere.
fn of_replica(own: impl Iterator<Item = (Share, f64)> + Clone, settings: &Settings) -> Failing {
    let (mut weight, mut bad, mut sources) = (0.0, 0.0, 0);
    let mut worst = (Share::default(), 0.0);
    for (share, excess) in own {
        weight += share.weight;
        bad += excess;
        if excess > 0.0 {
            sources += share.sources;
            if excess > worst.1 {
                worst = (share, excess);
            }
        }
    }
    if sources < LEAST_SOURCES || weight < settings.least_requests {
        return Failing {
            share: 0.0,
            sources,
        };
    }
    let all = bad / weight;
    // Where others say enough, what one tenant says is not needed.
    let others = weight - worst.0.weight;
    let share = if others >= settings.least_requests {
        all.min((bad - worst.1) / others)
    } else {
        all
    };
    Failing { share, sources }
}
