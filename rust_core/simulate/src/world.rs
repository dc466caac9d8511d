//! One run: arrivals, replicas and events on one clock, and the policy in their midst.

use std::collections::{HashSet, VecDeque};

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use weighbridge_weigh::Profile;
use xxhash_rust::xxh3::xxh3_64;

use crate::agenda::Agenda;
use crate::error::SimulateError;
use crate::event::{Event, Target, What};
use crate::measure::{Measure, Stage};
use crate::policy::{Ask, Member, Policy, Standing, Usage, View};
use crate::progress::Progress;
use crate::replica::{Replica, Results};
use crate::scenario::Scenario;
use crate::sequence::Sequence;
use crate::workload::Workload;

/// Replicas that are tried for one request, as Envoy is set up.
const ATTEMPTS: u8 = 3;

/// Arrivals between two looks at who wants to know how far the run is.
const PROGRESS: usize = 256;

/// What is to happen.
#[derive(Clone, Copy, Debug)]
enum Due {
    /// A replica goes on; void if its turn is another by now.
    Wake(usize, u64),
    /// An event of the scenario.
    Happen(usize),
    /// Replicas that an event had changed are as they were.
    Undo(usize),
    /// The router learns who is there.
    Notice,
    /// The policy's own clock.
    Tick,
    /// A wait for admission may end.
    Turn,
}

/// One run.
pub(crate) struct World<'a> {
    scenario: &'a Scenario,
    workload: &'a Workload,
    policy: Box<dyn Policy>,
    pub(crate) measure: Measure<'a>,
    agenda: Agenda<Due>,
    replicas: Vec<Replica>,
    /// What is true of each replica; the router learns it later.
    standing: Vec<Standing>,
    members: Vec<Member>,
    open: Vec<usize>,
    in_flight: Vec<u32>,
    /// What each event changed.
    changed: Vec<Vec<usize>>,
    chance: ChaCha8Rng,
    seed: u64,
    now_ms: f64,
    under_way: usize,
    results: Results,
    /// When the next [`Due::Turn`] is, ms.
    turn_ms: f64,
    /// Requests whose time has come, but not the end of the turn before them.
    held: HashSet<usize>,
    /// Those of them whose turn before has ended.
    freed: VecDeque<usize>,
}

impl<'a> World<'a> {
    pub(crate) fn new(
        scenario: &'a Scenario,
        workload: &'a Workload,
        policy: Box<dyn Policy>,
        reference: &'a Profile,
        seed: u64,
    ) -> Result<Self, SimulateError> {
        let mut world = Self {
            scenario,
            workload,
            measure: Measure::new(scenario, workload, reference),
            agenda: Agenda::default(),
            replicas: Vec::new(),
            standing: Vec::new(),
            members: Vec::new(),
            open: Vec::new(),
            in_flight: Vec::new(),
            changed: vec![Vec::new(); scenario.events.len()],
            chance: ChaCha8Rng::seed_from_u64(seed ^ 0x0065_7665_6e74),
            seed,
            policy,
            now_ms: 0.0,
            under_way: 0,
            results: Results::default(),
            turn_ms: f64::INFINITY,
            held: HashSet::new(),
            freed: VecDeque::new(),
        };
        for (group, replicas) in scenario.replicas.iter().enumerate() {
            for number in 0..replicas.count {
                world.add(group, number % replicas.domains)?;
            }
        }
        world.notice()?;
        for (number, event) in scenario.events.iter().enumerate() {
            world.agenda.put(event.at_s * 1e3, Due::Happen(number));
        }
        if let Some(interval) = world.policy.tick_ms() {
            world.agenda.put(interval, Due::Tick);
        }
        Ok(world)
    }

    /// Runs to the end, or until too many requests have missed their objectives if that is to end
    /// it. Answers when it ended, and whether it was broken off.
    pub(crate) fn run(
        &mut self,
        until_hopeless: bool,
        progress: &Progress,
    ) -> Result<(f64, bool), SimulateError> {
        #[allow(clippy::cast_precision_loss)]
        let last_ms = self.workload.replay().duration_us() as f64 / 1e3;
        let end_ms = last_ms + self.scenario.grace_s * 1e3;
        let mut next = 0;
        loop {
            let arrival = self.workload.arrivals().get(next);
            #[allow(clippy::cast_precision_loss)]
            let arrival_ms = arrival.map(|arrival| arrival.at_us as f64 / 1e3);
            if arrival_ms.is_none() && self.under_way == 0 {
                progress.advance((next % PROGRESS) as u64);
                return Ok((self.now_ms, false));
            }
            let due_ms = self.agenda.next_ms().unwrap_or(f64::INFINITY);
            match arrival_ms {
                // Arrivals come before what is due at the same moment, so that all of them take
                // part in an iteration that starts then.
                Some(at_ms) if at_ms <= due_ms => {
                    self.now_ms = at_ms;
                    self.come_up(next);
                    self.go_on();
                    next += 1;
                    if next % PROGRESS == 0 {
                        progress.advance(PROGRESS as u64);
                        let hopeless = until_hopeless && self.measure.is_hopeless();
                        if hopeless || progress.is_stopped() {
                            return Ok((self.now_ms, true));
                        }
                    }
                }
                _ => {
                    if due_ms > end_ms {
                        return Ok((end_ms, false));
                    }
                    let Some((at_ms, due)) = self.agenda.take() else {
                        return Ok((self.now_ms, false));
                    };
                    self.now_ms = at_ms;
                    self.come(due)?;
                    self.go_on();
                }
            }
        }
    }

    pub(crate) fn policy(&mut self) -> &mut dyn Policy {
        &mut *self.policy
    }

    /// The capacity of each replica relative to the reference; 0 of those that are gone.
    pub(crate) fn capacities(&self, profiles: &[Profile]) -> Vec<f64> {
        let reference = profiles.first().map_or(1.0, |p| p.capacity_mu_per_min);
        let standing = self.members.iter().zip(&self.standing);
        standing
            .map(|(member, standing)| match standing {
                Standing::Gone => 0.0,
                _ => profiles
                    .get(member.group)
                    .map_or(1.0, |profile| profile.capacity_mu_per_min / reference),
            })
            .collect()
    }

    fn come(&mut self, due: Due) -> Result<(), SimulateError> {
        match due {
            Due::Wake(replica, turn) => self.wake(replica, turn),
            Due::Happen(number) => self.happen(number)?,
            Due::Undo(number) => self.undo(number)?,
            Due::Notice => self.notice()?,
            Due::Turn => self.turn_ms = f64::INFINITY,
            Due::Tick => {
                let mut view = View {
                    open: &self.open,
                    in_flight: &self.in_flight,
                    replicas: &mut self.replicas,
                    standing: &self.standing,
                };
                self.policy.tick(self.now_ms, &mut view)?;
                if let Some(interval) = self.policy.tick_ms() {
                    self.agenda.put(self.now_ms + interval, Due::Tick);
                }
            }
        }
        Ok(())
    }

    /// A request's time has come. It is sent once the turn before it has ended, as clients do.
    fn come_up(&mut self, number: usize) {
        let before = self.workload.turn_before(number);
        if before.is_some_and(|before| !self.measure.has_ended(before)) {
            self.held.insert(number);
        } else {
            self.arrive(number);
        }
    }

    /// The request has ended, in whatever way: the turn after it may be sent.
    fn ended(&mut self, number: usize) {
        self.under_way -= 1;
        let after = self.workload.turn_after(number);
        self.freed
            .extend(after.filter(|after| self.held.remove(after)));
    }

    /// Sends on what may be sent now.
    fn go_on(&mut self) {
        loop {
            while let Some(number) = self.freed.pop_front() {
                self.arrive(number);
            }
            self.resume();
            if self.freed.is_empty() {
                break;
            }
        }
    }

    fn arrive(&mut self, number: usize) {
        let sequence = self.workload.sequence(number);
        self.measure
            .arrived(number, self.now_ms, sequence.prompt_tokens);
        self.under_way += 1;
        self.place(number, &sequence, Vec::new());
    }

    /// Finds a replica for a request, trying again where one is gone.
    fn place(&mut self, number: usize, sequence: &Sequence, mut tried: Vec<usize>) {
        let session = self.scenario.session_header.then(|| {
            let arrival = self.workload.arrivals().get(number);
            let name = arrival.map(|arrival| self.workload.replay().session(arrival));
            xxh3_64(name.unwrap_or_default().as_bytes())
        });
        loop {
            let attempts = self.measure.record(number).map_or(ATTEMPTS, |record| {
                record.attempts += 1;
                record.attempts
            });
            let ask = Ask {
                number,
                now_ms: self.now_ms,
                workload: self.workload,
                sequence,
                session,
                tried: &tried,
            };
            let mut view = View {
                open: &self.open,
                in_flight: &self.in_flight,
                replicas: &mut self.replicas,
                standing: &self.standing,
            };
            let chosen = self.policy.choose(&ask, &mut view);
            if chosen.is_none() && self.policy.waits(number) {
                return;
            }
            let Some(replica) = chosen.filter(|_| attempts <= ATTEMPTS) else {
                return self.give_up(number, Stage::Refused);
            };
            if self.standing.get(replica) == Some(&Standing::Gone) {
                tried.push(replica);
                continue;
            }
            self.policy.sent(&ask, replica, &view);
            return self.send(number, sequence, replica);
        }
    }

    /// Hands a request to a replica that is there.
    fn send(&mut self, number: usize, sequence: &Sequence, replica: usize) {
        let spec = self.workload.spec(number, sequence);
        let Some(engine) = self.replicas.get_mut(replica) else {
            return self.give_up(number, Stage::Refused);
        };
        let Ok(wake) = engine.submit(spec, self.now_ms) else {
            return self.give_up(number, Stage::Refused);
        };
        let turn = engine.turn();
        self.count(replica, true);
        if let Some(record) = self.measure.record(number) {
            record.replica = u32::try_from(replica).unwrap_or(u32::MAX);
        }
        if let Some(at_ms) = wake {
            self.agenda.put(at_ms, Due::Wake(replica, turn));
        }
    }

    /// Sends on what has waited for admission and may run, or was refused.
    fn resume(&mut self) {
        loop {
            let resumed = self.policy.resume(self.now_ms);
            if resumed.is_empty() {
                break;
            }
            for (number, replica) in resumed {
                let sequence = self.workload.sequence(number);
                match replica {
                    None => self.give_up(number, Stage::Refused),
                    Some(gone) if self.standing.get(gone) == Some(&Standing::Gone) => {
                        self.place(number, &sequence, vec![gone]);
                    }
                    Some(replica) => self.send(number, &sequence, replica),
                }
            }
        }
        if let Some(at_ms) = self.policy.next_event_ms() {
            if at_ms < self.turn_ms {
                self.turn_ms = at_ms;
                self.agenda.put(at_ms.max(self.now_ms), Due::Turn);
            }
        }
    }

    fn give_up(&mut self, number: usize, stage: Stage) {
        self.measure.failed(number, stage);
        self.policy.dropped(number, self.now_ms);
        self.ended(number);
    }

    fn count(&mut self, replica: usize, more: bool) {
        if let Some(count) = self.in_flight.get_mut(replica) {
            *count = if more {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
        }
    }

    fn wake(&mut self, replica: usize, turn: u64) {
        let Some(engine) = self.replicas.get_mut(replica) else {
            return;
        };
        if engine.turn() != turn {
            return;
        }
        let mut results = std::mem::take(&mut self.results);
        let wake = engine.wake(self.now_ms, &mut results);
        if let Some(at_ms) = wake {
            self.agenda.put(at_ms, Due::Wake(replica, turn));
        }
        self.take(replica, &results);
        self.results = results;
    }

    fn take(&mut self, replica: usize, results: &Results) {
        for started in &results.started {
            if let Some(record) = self.measure.record(number(started.id)) {
                if !record.started {
                    record.started = true;
                    record.cached_tokens = started.cached_tokens;
                }
            }
        }
        for id in &results.prefilled {
            let number = number(*id);
            let stage = self.measure.record(number).map(|record| record.stage);
            if stage == Some(Stage::Waiting) {
                self.measure.first_token(number, self.now_ms);
                if self.scenario.streamed {
                    self.policy.first_token(number, replica, self.now_ms);
                }
            }
        }
        for finished in &results.finished {
            let number = number(finished.id);
            self.measure
                .finished(number, self.now_ms, finished.output_tokens);
            let usage = self.measure.record(number).map(|record| Usage {
                prompt_tokens: record.prompt_tokens,
                cached_tokens: record.cached_tokens,
                output_tokens: record.output_tokens,
            });
            if let Some(usage) = usage {
                self.policy.finished(number, replica, usage, self.now_ms);
            }
            self.count(replica, false);
            self.ended(number);
        }
    }

    fn happen(&mut self, number: usize) -> Result<(), SimulateError> {
        let Some(Event { what, for_s, .. }) = self.scenario.events.get(number).copied() else {
            return Ok(());
        };
        let which = match what {
            What::Kill(target) => self.pick(target, |standing| standing != Standing::Gone),
            What::Drain(target) => self.pick(target, |standing| standing == Standing::Open),
            What::Slow(target, _) => self.pick(target, |standing| standing != Standing::Gone),
            What::Restore(Target::Number(number)) => vec![number],
            What::Restore(Target::Count(count)) => {
                let gone = (0..self.standing.len())
                    .filter(|at| self.standing.get(*at) != Some(&Standing::Open));
                gone.take(count).collect()
            }
            What::Add(count) => (0..count)
                .map(|_| self.add(0, 0))
                .collect::<Result<_, _>>()?,
        };
        match what {
            What::Kill(_) => which.iter().for_each(|replica| self.kill(*replica)),
            What::Drain(_) => {
                for replica in &which {
                    self.stand(*replica, Standing::Draining);
                }
            }
            What::Slow(_, factor) => {
                for replica in &which {
                    self.slow(*replica, factor);
                }
            }
            What::Restore(_) => {
                for replica in &which {
                    self.restore(*replica)?;
                }
            }
            What::Add(_) => {}
        }
        let late = matches!(what, What::Kill(_));
        let after_ms = if late { self.scenario.detect_ms } else { 0.0 };
        self.agenda.put(self.now_ms + after_ms, Due::Notice);
        if let Some(changed) = self.changed.get_mut(number) {
            *changed = which;
        }
        if let Some(span) = for_s {
            self.agenda.put(self.now_ms + span * 1e3, Due::Undo(number));
        }
        Ok(())
    }

    fn undo(&mut self, number: usize) -> Result<(), SimulateError> {
        let changed = self.changed.get_mut(number).map(std::mem::take);
        let what = self.scenario.events.get(number).map(|event| event.what);
        for replica in changed.unwrap_or_default() {
            match what {
                Some(What::Slow(..)) => self.slow(replica, 1.0),
                _ => self.restore(replica)?,
            }
        }
        self.notice()
    }

    fn pick(&mut self, target: Target, fits: impl Fn(Standing) -> bool) -> Vec<usize> {
        match target {
            Target::Number(number) => vec![number],
            Target::Count(count) => {
                let mut all: Vec<usize> = (0..self.standing.len())
                    .filter(|at| self.standing.get(*at).is_some_and(|s| fits(*s)))
                    .collect();
                all.shuffle(&mut self.chance);
                all.truncate(count);
                all
            }
        }
    }

    fn add(&mut self, group: usize, domain: usize) -> Result<usize, SimulateError> {
        let number = self.replicas.len();
        if let Some(like) = self.scenario.replicas.get(group) {
            let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number as u64;
            self.replicas.push(Replica::new(&like.engine, seed)?);
            self.standing.push(Standing::Open);
            self.in_flight.push(0);
            let (high, low) = (number / 250, number % 250);
            self.members.push(Member {
                endpoint: format!("10.{group}.{high}.{low}:8000"),
                group,
                domain: format!("d{domain}"),
                standing: Standing::Open,
            });
        }
        Ok(number)
    }

    /// The replica is gone. Requests that had not begun to answer are sent again.
    fn kill(&mut self, replica: usize) {
        if !matches!(self.standing.get(replica), Some(s) if *s != Standing::Gone) {
            return;
        }
        self.stand(replica, Standing::Gone);
        let seed = self.chance.random();
        if let Some(engine) = self.replicas.get_mut(replica) {
            if let Ok(again) = engine.restarted(seed) {
                *engine = again;
            }
        }
        if let Some(count) = self.in_flight.get_mut(replica) {
            *count = 0;
        }
        let here = u32::try_from(replica).unwrap_or(u32::MAX);
        let broken: Vec<(usize, Stage)> = self
            .measure
            .records
            .iter()
            .enumerate()
            .filter(|(_, record)| record.replica == here)
            .map(|(number, record)| (number, record.stage))
            .collect();
        for (number, stage) in broken {
            match stage {
                Stage::Waiting => {
                    if let Some(record) = self.measure.record(number) {
                        record.started = false;
                    }
                    let sequence = self.workload.sequence(number);
                    self.place(number, &sequence, vec![replica]);
                }
                Stage::Answering => self.give_up(number, Stage::Lost),
                Stage::Ahead | Stage::Finished | Stage::Refused | Stage::Lost => {}
            }
        }
    }

    fn restore(&mut self, replica: usize) -> Result<(), SimulateError> {
        match self.standing.get(replica) {
            Some(Standing::Gone) => {
                let seed = self.chance.random();
                if let Some(engine) = self.replicas.get_mut(replica) {
                    *engine = engine.restarted(seed)?;
                }
            }
            Some(Standing::Draining) => {}
            Some(Standing::Open) | None => return Ok(()),
        }
        self.stand(replica, Standing::Open);
        Ok(())
    }

    fn slow(&mut self, replica: usize, factor: f64) {
        if let Some(engine) = self.replicas.get_mut(replica) {
            let wake = engine.slow(factor, self.now_ms);
            let turn = engine.turn();
            if let Some(at_ms) = wake {
                self.agenda.put(at_ms, Due::Wake(replica, turn));
            }
        }
    }

    fn stand(&mut self, replica: usize, standing: Standing) {
        if let Some(known) = self.standing.get_mut(replica) {
            *known = standing;
        }
    }

    /// The router learns what is true.
    fn notice(&mut self) -> Result<(), SimulateError> {
        for (member, standing) in self.members.iter_mut().zip(&self.standing) {
            member.standing = *standing;
        }
        self.open = (0..self.standing.len())
            .filter(|at| self.standing.get(*at) == Some(&Standing::Open))
            .collect();
        self.policy.members(&self.members, self.now_ms)
    }
}

fn number(id: u64) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}
