//! One priority class: whose turn it is by virtual time, and who has most waiting.

use std::collections::BTreeSet;

use weighbridge_place::MicroMu;

use crate::waiters::List;

/// Virtual time: millionths of a MU for a weight of one.
pub(crate) type Virtual = i128;

/// MU at a weight, as virtual time.
pub(crate) fn normalised(work: MicroMu, weight: f64) -> Virtual {
    // A weight is 0.001 to 1000; its millionths are exact enough and let sums stay whole.
    #[allow(clippy::cast_possible_truncation)]
    let micro_weight = (weight * 1e6).round().clamp(1.0, 1e9) as i128;
    Virtual::from(work.micro()) * 1_000_000 / micro_weight
}

/// What one account has waiting in one class.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flow {
    pub(crate) list: List,
    /// Virtual time at which its next request starts, unless the class is further already.
    pub(crate) next_start: Virtual,
    /// Its place in the order, while something waits.
    start: Virtual,
    /// Its place among those with most waiting, while something waits.
    backlog: Virtual,
    queued: bool,
}

/// One class: the order among flows with something waiting, and the class's own share.
#[derive(Debug, Default)]
pub(crate) struct Class {
    order: BTreeSet<(Virtual, u32)>,
    longest: BTreeSet<(Virtual, u32)>,
    /// Start of the latest request that ran.
    virtual_now: Virtual,
    /// What it earned of what was served before it, while it waited.
    pub(crate) credit: MicroMu,
    /// MU waiting.
    pub(crate) work: MicroMu,
    /// Requests waiting.
    pub(crate) count: u32,
}

impl Class {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Accounts with something waiting, in the order of their turns.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = u32> + '_ {
        self.order.iter().map(|(_, account)| *account)
    }

    /// The account whose turn it is.
    pub(crate) fn next(&self) -> Option<u32> {
        self.in_order().next()
    }

    /// Accounts with something waiting, the one with most for its weight first, and how much.
    pub(crate) fn longest(&self) -> impl Iterator<Item = (Virtual, u32)> + '_ {
        self.longest.iter().rev().copied()
    }

    /// Puts the flow where it belongs after its list or its virtual time has changed.
    pub(crate) fn sort(&mut self, account: u32, flow: &mut Flow, weight: f64) {
        if flow.queued {
            self.order.remove(&(flow.start, account));
            self.longest.remove(&(flow.backlog, account));
        } else if flow.list.count > 0 {
            // It was idle: time that went by without it is gone.
            flow.next_start = flow.next_start.max(self.virtual_now);
        }
        flow.queued = flow.list.count > 0;
        if flow.queued {
            flow.start = flow.next_start;
            flow.backlog = normalised(flow.list.work, weight);
            self.order.insert((flow.start, account));
            self.longest.insert((flow.backlog, account));
        }
    }

    /// Charges a flow for a request that runs. The caller sorts it afterwards.
    pub(crate) fn charge(&mut self, flow: &mut Flow, work: MicroMu, weight: f64) {
        let start = if flow.queued {
            flow.start
        } else {
            flow.next_start.max(self.virtual_now)
        };
        self.virtual_now = self.virtual_now.max(start);
        flow.next_start = start + normalised(work, weight);
    }

    /// Whether `flow` owes more than others that could be served.
    pub(crate) fn owes(&self, flow: &Flow) -> bool {
        flow.next_start > self.virtual_now
    }
}
