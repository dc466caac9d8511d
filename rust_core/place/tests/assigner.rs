//! The assigner over long histories of load, failures, joins and leaves.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use weighbridge_place::assigner::{
    AssignerSettings, Member, Move, Round, Why, WorkloadHint, round,
};
use weighbridge_place::{Heat, Key, MicroMu, Placed, ReplicaId, SliceSpec, Slices};

const ROUND_MS: u64 = 2_000;

/// Load comes in requests of so many MU at most: what is meant to be steady must not look random.
const REQUEST_MU: f64 = 2.0;

fn random(seed: u64, at: u64) -> u64 {
    let mut z = seed ^ at.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A workload's place in the key space.
fn hash(tenant: u32) -> u32 {
    random(1, u64::from(tenant)) as u32
}

/// One model's keys with their load, its replicas, and the assigner's state.
struct World {
    settings: AssignerSettings,
    members: Vec<Member>,
    hints: Vec<WorkloadHint>,
    /// MU per second of each key.
    load: BTreeMap<Key, f64>,
    /// What cached prefixes save, as a share of the load.
    saved: f64,
    slices: Slices,
    heat: Heat,
    now_ms: u64,
}

impl World {
    fn new(members: Vec<Member>) -> Self {
        Self {
            settings: AssignerSettings::default(),
            members,
            hints: Vec::new(),
            load: BTreeMap::new(),
            saved: 0.3,
            slices: Slices::default(),
            heat: Heat::new(0),
            now_ms: 0,
        }
    }

    /// Sessions of one tenant, by rank ever fewer: rank^-skew of `total` MU per second.
    fn sessions(&mut self, tenant: u32, count: u64, skew: f64, total: f64) {
        let weights: Vec<f64> = (1..=count).map(|rank| (rank as f64).powf(-skew)).collect();
        let sum: f64 = weights.iter().sum();
        for (rank, weight) in (0u64..).zip(weights) {
            let session = random(u64::from(tenant), rank) as u32;
            self.load
                .insert(Key::new(hash(tenant), session), total * weight / sum);
        }
    }

    fn place_load(&mut self) {
        let seconds = ROUND_MS as f64 / 1e3;
        self.now_ms += ROUND_MS;
        for (key, rate) in &self.load {
            let mu = rate * seconds;
            let requests = (mu / REQUEST_MU).ceil().max(1.0);
            for _ in 0..requests as u64 {
                self.place(*key, mu / requests);
            }
        }
        self.heat.absorb(&self.slices, self.now_ms, 10_000.0);
    }

    fn place(&self, key: Key, mu: f64) {
        let (charged, saved) = (MicroMu::from_mu(mu), MicroMu::from_mu(mu * self.saved));
        self.slices.record(key, Placed { charged, saved });
    }

    fn decide(&self) -> Round {
        let elapsed = ROUND_MS as f64 / 1e3;
        round(
            &self.slices,
            &self.heat,
            &self.members,
            &self.hints,
            &self.settings,
            elapsed,
        )
    }

    /// One round of load and its assignment.
    fn step(&mut self) -> Round {
        self.place_load();
        let next = self.decide();
        check(self, &next);
        self.slices = Slices::new(next.slices.clone());
        self.heat = next.heat.clone();
        next
    }

    fn steps(&mut self, count: usize) -> Round {
        (1..count).for_each(|_| drop(self.step()));
        self.step()
    }

    fn serving(&self) -> BTreeSet<ReplicaId> {
        self.members
            .iter()
            .filter(|member| member.serves)
            .map(|member| member.id)
            .collect()
    }

    /// Highest ÷ mean utilisation by the true load of each key.
    fn imbalance(&self) -> f64 {
        let used = self.used();
        let mean = used.iter().map(|(load, _)| load).sum::<f64>()
            / used.iter().map(|(_, capacity)| capacity).sum::<f64>();
        used.iter()
            .map(|(load, capacity)| load / capacity)
            .fold(0.0, f64::max)
            / mean
    }

    fn used(&self) -> Vec<(f64, f64)> {
        let mut used: BTreeMap<ReplicaId, f64> = BTreeMap::new();
        for (key, rate) in &self.load {
            let homes = self.slices.find(*key).unwrap().homes;
            for home in homes {
                *used.entry(*home).or_default() += rate / homes.len() as f64;
            }
        }
        let load = |member: &Member| used.get(&member.id).copied().unwrap_or_default();
        let serving = self.members.iter().filter(|member| member.serves);
        serving
            .map(|member| (load(member), member.mu_per_s))
            .collect()
    }

    fn replicas_of(&self, tenant: u32) -> BTreeSet<ReplicaId> {
        let keys = self
            .load
            .keys()
            .filter(|key| key.workload() == hash(tenant));
        keys.flat_map(|key| self.slices.find(*key).unwrap().homes.to_vec())
            .collect()
    }

    fn domains_of(&self, tenant: u32) -> BTreeSet<&str> {
        let replicas = self.replicas_of(tenant);
        let inside = self
            .members
            .iter()
            .filter(|member| replicas.contains(&member.id));
        inside.map(|member| member.domain.as_str()).collect()
    }
}

fn members(count: u32) -> Vec<Member> {
    (0..count)
        .map(|id| Member {
            id: ReplicaId(id),
            mu_per_s: 1_000.0,
            kv_tokens: 1e6,
            domain: format!("rack-{}", id % 4),
            serves: true,
        })
        .collect()
}

/// The homes of every stretch of keys between the borders of both, before and after.
fn stretches(before: &Slices, after: &[SliceSpec]) -> Vec<(Key, Vec<ReplicaId>, Vec<ReplicaId>)> {
    let next = Slices::new(after.to_vec());
    let starts: BTreeSet<Key> = before
        .iter()
        .map(|slice| slice.start)
        .chain(next.iter().map(|slice| slice.start))
        .collect();
    let homes = |slices: &Slices, key: Key| {
        slices
            .find(key)
            .map(|slice| slice.homes.to_vec())
            .unwrap_or_default()
    };
    starts
        .into_iter()
        .map(|key| (key, homes(before, key), homes(&next, key)))
        .collect()
}

/// What must hold after every round, whatever came before it.
fn check(world: &World, next: &Round) {
    let serving = world.serving();
    let previous = &world.slices;
    if serving.is_empty() {
        assert!(next.moves.is_empty());
        return;
    }
    assert_eq!(
        next.slices.first().map(|slice| slice.start),
        Some(Key::default())
    );
    assert!(next.slices.is_sorted_by(|a, b| a.start < b.start));
    // Every key has a live replica, and only live ones, each once.
    for slice in &next.slices {
        assert!(!slice.homes.is_empty());
        assert!(slice.homes.iter().all(|home| serving.contains(home)));
        let distinct: BTreeSet<ReplicaId> = slice.homes.iter().copied().collect();
        assert_eq!(distinct.len(), slice.homes.len());
    }
    // No slice moves without a reason: each change of a key's replicas is among the moves.
    for (key, before, after) in stretches(previous, &next.slices) {
        let covers = |moved: &&Move| moved.start <= key && key <= moved.last;
        for gone in before
            .iter()
            .filter(|home| !after.contains(home) && serving.contains(home))
        {
            let left = |moved: &Move| moved.from == Some(*gone);
            assert!(
                next.moves.iter().filter(covers).any(left),
                "{key:?} left {gone:?} silently"
            );
        }
        for new in after.iter().filter(|home| !before.contains(home)) {
            let came = |moved: &Move| moved.to == Some(*new);
            assert!(
                next.moves.iter().filter(covers).any(came),
                "{key:?} got {new:?} silently"
            );
        }
    }
    for moved in &next.moves {
        match moved.why {
            Why::Lost => assert!(moved.from.is_some_and(|from| !serving.contains(&from))),
            Why::New => assert!(previous.is_empty() || moved.from.is_none()),
            _ => assert!(moved.from.or(moved.to).is_some()),
        }
    }
    // Movement within the budget, or one single move.
    let voluntary = next.moves.iter().filter(|moved| moved.why.is_voluntary());
    let (count, price) = voluntary.fold((0, 0.0), |(n, sum), moved| (n + 1, sum + moved.price));
    assert!((price - next.spent).abs() <= 1e-6 * (1.0 + price));
    assert!(
        count <= 1 || price <= next.budget * (1.0 + 1e-9),
        "{price} > {}",
        next.budget
    );
    // A workload on two replicas or more is in two domains, as far as there are.
    let after = Slices::new(next.slices.clone());
    let mut placed: BTreeMap<u32, BTreeSet<ReplicaId>> = BTreeMap::new();
    let whole = after
        .iter()
        .filter(|slice| slice.start.workload() == slice.last.workload());
    for slice in whole {
        placed
            .entry(slice.start.workload())
            .or_default()
            .extend(slice.homes);
    }
    let domain = |id: &ReplicaId| {
        world
            .members
            .iter()
            .find(|member| member.id == *id)
            .map(|member| member.domain.as_str())
    };
    let domains: BTreeSet<_> = serving.iter().map(domain).collect();
    for (workload, replicas) in &placed {
        let own: BTreeSet<_> = replicas.iter().map(domain).collect();
        let spread = replicas.len() < 2 || domains.len() < 2 || own.len() >= 2;
        assert!(spread, "{workload} alone in one domain on {replicas:?}");
    }
    // Hints hold wherever they can.
    for hint in &world.hints {
        let stretch =
            |slice: &weighbridge_place::Slice<'_>| slice.start.workload() == hint.workload;
        let homes: BTreeSet<ReplicaId> = after
            .iter()
            .filter(stretch)
            .flat_map(|slice| slice.homes.to_vec())
            .collect();
        let most = hint.most.max(1) as usize;
        let least = (hint.least as usize).min(most).min(serving.len());
        let last = Key::new(hint.workload, u32::MAX);
        assert_eq!(after.find(last).unwrap().last, last, "a wall is missing");
        assert!(
            (least..=most).contains(&homes.len()),
            "{hint:?}: {}",
            homes.len()
        );
    }
}

#[test]
fn skewed_sessions_become_level_and_stay_so() {
    let mut world = World::new(members(16));
    world.sessions(1, 3_000, 0.8, 5_000.0);
    world.sessions(2, 2_000, 1.0, 3_000.0);
    for tenant in 10..60 {
        world.sessions(tenant, 20, 0.5, 40.0);
    }
    let mut rounds = 0;
    while rounds < 12 || world.imbalance() > 1.10 {
        world.step();
        rounds += 1;
        assert!(rounds < 30, "after {rounds} rounds: {}", world.imbalance());
    }
    let mut moved = 0.0;
    for _ in 0..20 {
        let next = world.step();
        moved += next.moves.iter().map(|moved| moved.load).sum::<f64>();
        assert!(world.imbalance() <= 1.10, "{}", world.imbalance());
    }
    let total = world.load.values().sum::<f64>();
    assert!(
        moved <= 0.01 * total,
        "{moved} of {total} moved for no change"
    );
    let footprints: Vec<usize> = (10..60)
        .map(|tenant| world.replicas_of(tenant).len())
        .collect();
    let mean = footprints.iter().sum::<usize>() as f64 / footprints.len() as f64;
    assert!(
        mean <= 1.6 && footprints.iter().all(|count| *count <= 3),
        "{footprints:?}"
    );
}

/// Few requests of very different weight, each of a session of its own: at any moment some replicas
/// have had more than others, and there is nothing to gain by moving slices.
#[test]
fn chance_alone_moves_next_to_nothing() {
    let mut world = World::new(members(16));
    let mut number = 0;
    let (mut moved, mut placed) = (0.0, 0.0);
    for round in 0..60 {
        for _ in 0..32 {
            number += 1;
            let heavy = random(3, number) % 10 == 0;
            let mu = if heavy { 2_000.0 } else { 200.0 };
            let key = Key::new(random(4, number) as u32, random(5, number) as u32);
            world.place(key, mu);
            placed += mu;
        }
        let next = world.step();
        if round >= 10 {
            let voluntary = next.moves.iter().filter(|moved| moved.why.is_voluntary());
            moved += voluntary.map(|moved| moved.load).sum::<f64>();
        }
    }
    let rate = placed / 60.0 / (ROUND_MS as f64 / 1e3);
    assert!(
        moved / 50.0 <= 0.06 * rate,
        "{moved} in 50 rounds of {rate}"
    );
}

/// What may befall a fleet.
#[derive(Clone, Debug)]
enum Event {
    Load {
        tenant: u32,
        sessions: u64,
        skew: f64,
        total: f64,
    },
    Quiet(u32),
    Fail(usize),
    Recover(usize),
    Join,
    Leave(usize),
    LoseDomain(u32),
    RegainAll,
    Hint {
        tenant: u32,
        least: u32,
        more: u32,
    },
    Unhint,
    Pass(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let load = (0u32..12, 1u64..200, 0.0..1.5f64, 1.0..6_000.0f64);
    prop_oneof![
        6 => load.prop_map(|(tenant, sessions, skew, total)| {
            Event::Load { tenant, sessions, skew, total }
        }),
        1 => (0u32..12).prop_map(Event::Quiet),
        3 => (0usize..64).prop_map(Event::Fail),
        3 => (0usize..64).prop_map(Event::Recover),
        2 => Just(Event::Join),
        1 => (0usize..64).prop_map(Event::Leave),
        1 => (0u32..4).prop_map(Event::LoseDomain),
        1 => Just(Event::RegainAll),
        2 => (0u32..12, 0u32..5, 0u32..5).prop_map(|(tenant, least, more)| {
            Event::Hint { tenant, least, more }
        }),
        1 => Just(Event::Unhint),
        4 => (1usize..4).prop_map(Event::Pass),
    ]
}

impl World {
    fn befall(&mut self, event: &Event) {
        let count = self.members.len();
        match event {
            Event::Load {
                tenant,
                sessions,
                skew,
                total,
            } => {
                self.load.retain(|key, _| key.workload() != hash(*tenant));
                self.sessions(*tenant, *sessions, *skew, *total);
            }
            Event::Quiet(tenant) => self.load.retain(|key, _| key.workload() != hash(*tenant)),
            Event::Fail(at) if count > 0 => self.members[at % count].serves = false,
            Event::Recover(at) if count > 0 => self.members[at % count].serves = true,
            Event::Join => {
                let id = self
                    .members
                    .iter()
                    .map(|member| member.id.0 + 1)
                    .max()
                    .unwrap_or(0);
                let mu_per_s = 500.0 * f64::from(1 + id % 3);
                let member = Member {
                    id: ReplicaId(id),
                    mu_per_s,
                    ..members(1).remove(0)
                };
                self.members.push(Member {
                    domain: format!("rack-{}", id % 4),
                    ..member
                });
            }
            Event::Leave(at) if count > 1 => drop(self.members.remove(at % count)),
            Event::LoseDomain(domain) => {
                let name = format!("rack-{domain}");
                let inside = self
                    .members
                    .iter_mut()
                    .filter(|member| member.domain == name);
                inside.for_each(|member| member.serves = false);
            }
            Event::RegainAll => self
                .members
                .iter_mut()
                .for_each(|member| member.serves = true),
            Event::Hint {
                tenant,
                least,
                more,
            } => {
                self.hints.retain(|hint| hint.workload != hash(*tenant));
                let (workload, most) = (hash(*tenant), (least + more).max(1));
                self.hints.push(WorkloadHint {
                    workload,
                    least: *least,
                    most,
                });
            }
            Event::Unhint => self.hints.clear(),
            Event::Pass(_) | Event::Fail(_) | Event::Recover(_) | Event::Leave(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_long_history_keeps_every_promise(
        start in 1u32..24,
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut world = World::new(members(start));
        for event in &events {
            world.befall(event);
            let rounds = if let Event::Pass(rounds) = event { *rounds } else { 1 };
            for _ in 0..rounds {
                world.place_load();
                let (next, again) = (world.decide(), world.decide());
                prop_assert_eq!(&next.slices, &again.slices);
                prop_assert_eq!(&next.moves, &again.moves);
                check(&world, &next);
                world.slices = Slices::new(next.slices.clone());
                world.heat = next.heat;
            }
        }
    }
}

#[test]
fn losing_one_replica_moves_its_slices_and_no_more() {
    let mut world = World::new(members(20));
    for tenant in 0..30 {
        world.sessions(tenant, 400, 0.3, 300.0);
    }
    world.steps(15);
    let before = Slices::new(world.step().slices);
    let (lost, total) = (ReplicaId(7), world.load.values().sum::<f64>());
    world.members[7].serves = false;
    let next = world.step();
    for moved in &next.moves {
        assert_eq!((moved.why, moved.from), (Why::Lost, Some(lost)));
    }
    let mut share = 0.0;
    for (key, rate) in &world.load {
        let (old, new) = (
            before.find(*key).unwrap().homes,
            world.slices.find(*key).unwrap().homes,
        );
        if old != new {
            assert_eq!(old, [lost]);
            share += rate / total;
        }
    }
    assert!(share <= 1.05 / 20.0, "{share}");
    assert!(world.imbalance() <= 1.15, "{}", world.imbalance());
    assert!(world.steps(3).highest <= 1.10 * next.mean);
}

#[test]
fn a_lost_domain_is_levelled_over_the_rest() {
    let mut world = World::new(members(16));
    for tenant in 0..20 {
        world.sessions(tenant, 300, 0.3, 400.0);
    }
    world.steps(12);
    for tenant in 0..20 {
        let (replicas, domains) = (world.replicas_of(tenant), world.domains_of(tenant));
        assert!(replicas.len() < 2 || domains.len() >= 2);
    }
    for member in world
        .members
        .iter_mut()
        .filter(|member| member.domain == "rack-2")
    {
        member.serves = false;
    }
    let next = world.step();
    assert!(
        next.moves
            .iter()
            .all(|moved| matches!(moved.why, Why::Lost | Why::Hot | Why::Merge))
    );
    assert!(world.imbalance() <= 1.15, "{}", world.imbalance());
    world.steps(4);
    assert!(world.imbalance() <= 1.10, "{}", world.imbalance());
}

#[test]
fn a_new_replica_gets_just_enough() {
    let mut world = World::new(members(10));
    for tenant in 0..20 {
        world.sessions(tenant, 300, 0.3, 300.0);
    }
    world.steps(15);
    let fresh = Member {
        id: ReplicaId(10),
        domain: "rack-1".into(),
        ..world.members[0].clone()
    };
    world.members.push(fresh);
    let (mut fresh, mut others) = (0.0, 0.0);
    for _ in 0..20 {
        for moved in &world.step().moves {
            assert_ne!(moved.why, Why::Lost);
            let to_fresh = moved.to == Some(ReplicaId(10));
            *(if to_fresh { &mut fresh } else { &mut others }) += moved.load;
        }
    }
    let mean = world.load.values().sum::<f64>() / 11.0;
    assert!(
        (0.85 * mean..1.2 * mean).contains(&fresh),
        "{fresh} of {mean}"
    );
    assert!(others <= 0.5 * mean, "{others} moved among the others");
    assert!(world.imbalance() <= 1.10, "{}", world.imbalance());
}

#[test]
fn a_key_too_hot_for_one_replica_is_replicated_and_taken_back() {
    let mut world = World::new(members(8));
    for tenant in 0..10 {
        world.sessions(tenant, 100, 0.2, 100.0);
    }
    world.sessions(99, 1, 0.0, 2_000.0);
    world.steps(20);
    let replicas = world.replicas_of(99).len();
    assert!((4..=8).contains(&replicas), "{replicas}");
    let level = world.imbalance();
    assert!(level <= 1.2, "{level}");
    world.sessions(99, 1, 0.0, 10.0);
    world.steps(35);
    assert_eq!(world.replicas_of(99).len(), 1);
}

#[test]
fn memory_counts_as_much_as_work() {
    let mut world = World::new(members(4));
    world.sessions(1, 400, 0.0, 400.0);
    world.sessions(2, 400, 0.0, 400.0);
    for _ in 0..12 {
        // Long contexts at little work: tenant 2 holds nearly all memory.
        for (key, _) in world
            .load
            .iter()
            .filter(|(key, _)| key.workload() == hash(2))
        {
            world.slices.record_kv(*key, 6_000 * ROUND_MS);
        }
        world.step();
    }
    let mut held: BTreeMap<ReplicaId, f64> = BTreeMap::new();
    for key in world.load.keys().filter(|key| key.workload() == hash(2)) {
        *held
            .entry(world.slices.find(*key).unwrap().homes[0])
            .or_default() += 6_000.0;
    }
    let most = held.values().copied().fold(0.0, f64::max);
    assert!(most <= 1.1 * 400.0 * 6_000.0 / 4.0, "{held:?}");
}

#[test]
fn a_workload_grows_and_shrinks_with_its_load() {
    let mut world = World::new(members(16));
    for tenant in 0..40 {
        world.sessions(tenant, 50, 0.2, 150.0);
    }
    world.sessions(99, 500, 0.2, 60.0);
    world.steps(10);
    assert!(world.replicas_of(99).len() <= 2);
    world.sessions(99, 500, 0.2, 3_000.0);
    world.steps(25);
    let grown = world.replicas_of(99).len();
    assert!((5..=9).contains(&grown), "{grown}");
    world.sessions(99, 500, 0.2, 60.0);
    world.steps(60);
    let shrunk = world.replicas_of(99).len();
    assert!(shrunk <= 3, "{shrunk}");
}

#[test]
fn with_nobody_left_slices_wait_for_their_return() {
    let mut world = World::new(members(3));
    world.sessions(1, 50, 0.0, 500.0);
    world.steps(4);
    let specs = |slice: weighbridge_place::Slice<'_>| SliceSpec {
        start: slice.start,
        homes: slice.homes.into(),
    };
    let before: Vec<SliceSpec> = world.slices.iter().map(specs).collect();
    world
        .members
        .iter_mut()
        .for_each(|member| member.serves = false);
    assert_eq!(world.step().slices, before);
    world
        .members
        .iter_mut()
        .for_each(|member| member.serves = true);
    assert!(
        world
            .step()
            .moves
            .iter()
            .all(|moved| moved.why != Why::Lost)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_steady_load_becomes_level_in_bounded_rounds(
        capacities in prop::collection::vec(0.7..1.5f64, 2..32),
        tenants in prop::collection::vec((100u64..400, 0.0..1.0f64, 0.01..1.0f64), 1..12),
        used in 0.2..0.9f64,
    ) {
        let count = capacities.len() as u32;
        let mut world = World::new(members(count));
        for (member, capacity) in world.members.iter_mut().zip(&capacities) {
            member.mu_per_s *= capacity;
        }
        let room: f64 = world.members.iter().map(|member| member.mu_per_s).sum();
        let parts: f64 = tenants.iter().map(|(_, _, part)| part).sum();
        for (tenant, (sessions, skew, part)) in (0u32..).zip(&tenants) {
            world.sessions(tenant, *sessions, *skew, used * room * part / parts);
        }
        world.steps(30);
        let level = world.imbalance();
        prop_assert!(level <= 1.10, "{level}");
    }
}

#[test]
fn large_slices_change_places_where_none_can_move_alone() {
    let mut world = World::new(members(2));
    world.saved = 0.0;
    world.settings.replicate_share = 10.0;
    let loads = [
        (0u64, 500.0, 0),
        (1, 550.0, 0),
        (2, 450.0, 1),
        (3, 500.0, 1),
    ];
    let slice = |(quarter, _, home): &(u64, f64, u32)| SliceSpec {
        start: Key::from_bits(quarter << 62),
        homes: [ReplicaId(*home)].into_iter().collect(),
    };
    world.slices = Slices::new(loads.iter().map(slice).collect());
    for (quarter, load, _) in loads {
        world
            .load
            .insert(Key::from_bits((quarter << 62) + (1 << 40)), load);
    }
    assert!(world.imbalance() > 1.04);
    world.steps(12);
    assert!(world.imbalance() < 1.01, "{}", world.imbalance());
}
