//! The choice: home while it pays, elsewhere when that is clearly better, and always somewhere.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use weighbridge_place::{
    Amount, Ask, Candidate, Charge, ChoiceSettings, Decision, Key, MicroMu, NoReplica, Pool,
    Reason, Registry, ReplicaId, ReplicaSpec, Role, SliceSpec, Slices, State, StepTimes, Verdict,
    choose,
};

fn spec(at: usize) -> ReplicaSpec {
    ReplicaSpec {
        endpoint: endpoint(at),
        model: "m".into(),
        // What decodes beside a prompt takes no time, unless a test says so.
        steps: StepTimes {
            base_ms: 0.0,
            per_seq_ms: 0.0,
            per_ktok_ms: 0.0,
            ..StepTimes::default()
        },
        domain: format!("rack-{}", at % 4),
        ..ReplicaSpec::default()
    }
}

fn endpoint(at: usize) -> String {
    format!("10.0.0.{at}:8000")
}

/// A fleet and slices that give every key the same homes.
struct Fleet {
    registry: Registry,
    specs: Vec<ReplicaSpec>,
    slices: Slices,
    charges: Vec<Charge>,
}

impl Fleet {
    fn new(count: usize, homes: &[usize]) -> Self {
        let specs: Vec<ReplicaSpec> = (0..count).map(spec).collect();
        let registry = Registry::default();
        registry.replace(specs.clone());
        let mut fleet = Self {
            registry,
            specs,
            slices: Slices::default(),
            charges: Vec::new(),
        };
        let homes = homes.iter().map(|at| fleet.id(*at)).collect();
        fleet.slices = Slices::new(vec![SliceSpec {
            start: Key::default(),
            homes,
        }]);
        fleet
    }

    fn id(&self, at: usize) -> ReplicaId {
        self.registry.pool().endpoint(&endpoint(at)).unwrap().id
    }

    fn change(&mut self, at: usize, change: impl FnOnce(&mut ReplicaSpec)) {
        change(&mut self.specs[at]);
        self.registry.replace(self.specs.clone());
    }

    /// Puts this much prefill on a replica, for as long as the fleet lives.
    fn load(&mut self, at: usize, mu: f64) {
        self.charge(
            at,
            Amount {
                prefill: MicroMu::from_mu(mu),
                ..Amount::default()
            },
        );
    }

    /// Lets `count` requests decode on a replica, for as long as the fleet lives.
    fn decode(&mut self, at: usize, count: usize) {
        for _ in 0..count {
            let amount = Amount {
                decode: MicroMu::from_mu(30.0),
                kv_tokens: 1_000,
                kv_reserved: 1_000,
                sequences: 1,
                ..Amount::default()
            };
            self.charge(at, amount);
        }
    }

    fn charge(&mut self, at: usize, amount: Amount) {
        let pool = self.registry.pool_full();
        self.charges
            .push(pool.endpoint(&endpoint(at)).unwrap().load.charge(amount));
    }

    fn cache(&self, at: usize, chain: &[u64]) {
        self.registry
            .pool()
            .endpoint(&endpoint(at))
            .unwrap()
            .cache
            .record(chain);
    }

    /// Counts waits alone: those who decode beside a prompt are not counted.
    fn choose(&self, ask: &Ask<'_>) -> Result<Decision, NoReplica> {
        let waits = ChoiceSettings {
            stall_weight: 0.0,
            ..ChoiceSettings::default()
        };
        self.choose_with(ask, &waits)
    }

    /// As shipped.
    fn shipped(&self, ask: &Ask<'_>) -> (ReplicaId, Reason) {
        let decision = self.choose_with(ask, &ChoiceSettings::default()).unwrap();
        (decision.chosen, decision.reason)
    }

    fn choose_with(&self, ask: &Ask<'_>, settings: &ChoiceSettings) -> Result<Decision, NoReplica> {
        choose(&self.registry.pool(), Some(&self.slices), ask, settings)
    }

    fn chosen(&self, ask: &Ask<'_>) -> (ReplicaId, Reason) {
        let decision = self.choose(ask).unwrap();
        (decision.chosen, decision.reason)
    }
}

const CHAIN: [u64; 10] = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20];

/// 400 MU without, 40 less for each cached block.
fn prefill(blocks: u32) -> MicroMu {
    MicroMu::from_mu(400.0 - 40.0 * f64::from(blocks))
}

fn ask() -> Ask<'static> {
    Ask {
        model: "m",
        adapter: None,
        key: Key::new(5, 77),
        chain: &CHAIN,
        prefill: &prefill,
        decode: MicroMu::from_mu(100.0),
        sequences: 1,
        kv: &|_| 1_000,
        kv_tokens: 1_000,
        objectives: None,
        yields: 1.0,
        subset: None,
        keeper: None,
        now_ms: 0,
        seed: 42,
    }
}

fn candidate(decision: &Decision, id: ReplicaId) -> &Candidate {
    decision
        .candidates
        .iter()
        .find(|candidate| candidate.replica == id)
        .unwrap()
}

#[test]
fn home_keeps_its_requests_until_another_is_better_by_the_margin() {
    let mut fleet = Fleet::new(6, &[3]);
    assert_eq!(fleet.chosen(&ask()), (fleet.id(3), Reason::Home));
    // Home would have the prompt done 15 ms, then some 80 ms, later than an idle one.
    fleet.load(3, 15.0);
    assert_eq!(fleet.chosen(&ask()).1, Reason::Home);
    fleet.load(3, 65.0);
    let decision = fleet.choose(&ask()).unwrap();
    assert_eq!(decision.reason, Reason::SpillLoad);
    assert_ne!(decision.chosen, fleet.id(3));
    let home = candidate(&decision, fleet.id(3));
    assert_eq!(
        (
            home.role,
            home.outlook.wait_ms,
            home.prospect.newcomer.prefill_ms
        ),
        (Role::Home, 80.0, 400.0)
    );
}

#[test]
fn a_cached_prefix_is_worth_its_prefill_and_no_more() {
    let mut fleet = Fleet::new(20, &[3]);
    fleet.cache(9, &CHAIN[..8]);
    let decision = fleet.choose(&ask()).unwrap();
    assert_eq!(
        (decision.chosen, decision.reason),
        (fleet.id(9), Reason::Cached)
    );
    assert_eq!(
        (decision.cached_blocks, decision.prefill),
        (8, MicroMu::from_mu(80.0))
    );
    assert_eq!(decision.saved, MicroMu::from_mu(320.0));
    // 320 ms saved: the holder keeps the request until it is later by more than the margin, which is
    // half of what waits there.
    fleet.load(9, 620.0);
    assert_eq!(fleet.chosen(&ask()), (fleet.id(9), Reason::Cached));
    fleet.load(9, 40.0);
    assert_eq!(fleet.chosen(&ask()), (fleet.id(3), Reason::Home));
}

#[test]
fn a_prompt_goes_where_it_stalls_few_sequences() {
    let mut fleet = Fleet::new(6, &[3]);
    for at in 0..6 {
        fleet.change(at, |spec| spec.steps = StepTimes::default());
        fleet.decode(at, if at == 4 { 10 } else { 100 });
    }
    let (chosen, reason) = fleet.shipped(&ask());
    assert_eq!((chosen, reason), (fleet.id(4), Reason::SpillLoad));
    // Where the cache has most of it there is little to stall them with.
    fleet.cache(3, &CHAIN[..9]);
    assert_eq!(fleet.shipped(&ask()), (fleet.id(3), Reason::Home));
}

#[test]
fn a_request_leaves_its_cache_where_no_slot_is_free() {
    let mut fleet = Fleet::new(6, &[3]);
    fleet.cache(3, &CHAIN[..9]);
    for at in 0..6 {
        fleet.change(at, |spec| {
            spec.steps = StepTimes {
                slots: 64.0,
                ..StepTimes::default()
            };
        });
        fleet.decode(at, if at == 3 { 50 } else { 40 });
    }
    assert_eq!(fleet.shipped(&ask()), (fleet.id(3), Reason::Home));
    // Nobody waits for prefill there, but for the answers of others to end.
    fleet.decode(3, 200);
    let decision = fleet
        .choose_with(&ask(), &ChoiceSettings::default())
        .unwrap();
    assert_eq!(decision.reason, Reason::SpillLoad);
    assert!(candidate(&decision, fleet.id(3)).outlook.forecast.first_ms > 2_000.0);
}

#[test]
fn under_pressure_others_leave_the_replicas_that_promises_use() {
    let mut fleet = Fleet::new(6, &[3]);
    for at in 0..6 {
        fleet.change(at, |spec| spec.steps = StepTimes::default());
    }
    // All requests at home run on promises, and elsewhere none do.
    let mut serve = |at, promised| {
        fleet.decode(at, 20);
        for charge in fleet.charges.iter_mut().rev().take(20) {
            if promised {
                charge.promise();
            }
        }
    };
    serve(3, true);
    for at in [0, 1, 2, 4, 5] {
        serve(at, false);
    }
    let others = ask();
    let promised = Ask {
        yields: 0.0,
        ..ask()
    };
    assert_eq!(fleet.shipped(&promised), (fleet.id(3), Reason::Home));
    assert_eq!(fleet.shipped(&others).1, Reason::SpillLoad);
    // What they no longer use is lent again: it fades with the requests that used it.
    fleet.charges.clear();
    let pool = fleet.registry.pool_full();
    pool.replicas().for_each(|replica| replica.load.fade(1e-4));
    assert_eq!(fleet.shipped(&others), (fleet.id(3), Reason::Home));
}

#[test]
fn under_pressure_a_cache_is_worth_more_than_a_shorter_wait() {
    let mut fleet = Fleet::new(6, &[3]);
    fleet.cache(3, &CHAIN[..9]);
    for at in 0..6 {
        fleet.change(at, |spec| spec.steps = StepTimes::default());
    }
    fleet.load(3, 1_500.0);
    assert_eq!(
        fleet.shipped(&ask()).1,
        Reason::SpillLoad,
        "others are idle"
    );
    for at in 0..6 {
        fleet.decode(at, 60);
    }
    assert_eq!(fleet.shipped(&ask()), (fleet.id(3), Reason::Home));
}

#[test]
fn memory_that_is_full_is_a_wait_that_a_cache_can_be_worth() {
    let mut fleet = Fleet::new(6, &[3]);
    for at in 0..6 {
        fleet.change(at, |spec| {
            spec.steps = StepTimes::default();
            spec.kv_tokens = 20_000;
        });
    }
    fleet.decode(3, 20);
    let decision = fleet.choose(&ask()).unwrap();
    assert_eq!(decision.reason, Reason::SpillLoad);
    let home = candidate(&decision, fleet.id(3));
    assert!(home.outlook.forecast.first_ms > 600.0, "{home:?}");
    for at in (0..6).filter(|at| *at != 3) {
        fleet.decode(at, 20);
    }
    fleet.cache(3, &CHAIN[..9]);
    assert_eq!(fleet.shipped(&ask()), (fleet.id(3), Reason::Home));
}

#[test]
fn where_a_copy_would_push_out_what_is_needed_a_cached_prefix_holds_a_request_longer() {
    let mut fleet = Fleet::new(20, &[3]);
    fleet.cache(9, &CHAIN[..8]);
    fleet.load(9, 3_000.0);
    let chosen = |fleet: &Fleet, room_weight| {
        let settings = ChoiceSettings {
            samples: 0,
            room_weight,
            ..ChoiceSettings::default()
        };
        fleet.choose_with(&ask(), &settings).unwrap().chosen
    };
    let pool = fleet.registry.pool_full();
    let home = &pool.replica(fleet.id(3)).unwrap().cache;
    let others: Vec<u64> = (1_000..1_010).collect();
    home.record(&others);
    home.fade(1.0);
    assert_eq!(chosen(&fleet, 40.0), fleet.id(3), "home has room to spare");
    home.set_limit(10);
    home.fade(1.0);
    assert_eq!(
        chosen(&fleet, 40.0),
        fleet.id(9),
        "filled within half a minute"
    );
    assert_eq!(chosen(&fleet, 0.0), fleet.id(3));
    home.fade(0.02);
    home.fade(1.0);
    assert_eq!(
        chosen(&fleet, 40.0),
        fleet.id(3),
        "full, but of what is old"
    );
}

#[test]
fn of_those_that_hold_a_shared_prefix_home_keeps_its_sessions() {
    let mut fleet = Fleet::new(6, &[3]);
    (0..6).for_each(|at| fleet.cache(at, &CHAIN[..8]));
    // Less than the margin, and more than a tie.
    fleet.load(3, 15.0);
    for seed in 0..50 {
        let ask = Ask { seed, ..ask() };
        assert_eq!(fleet.chosen(&ask), (fleet.id(3), Reason::Home));
    }
}

#[test]
fn a_session_keeps_to_one_of_its_slices_replicas_while_they_are_equal() {
    let fleet = Fleet::new(20, &[2, 5, 11]);
    let mut homes: BTreeMap<ReplicaId, u32> = BTreeMap::new();
    for session in 0..300 {
        let ask = |seed| Ask {
            key: Key::new(5, session * 1_000_003),
            seed,
            ..ask()
        };
        let first = fleet.chosen(&ask(1));
        assert_eq!(first.1, Reason::Home);
        assert!((2..9).all(|seed| fleet.chosen(&ask(seed)) == first));
        *homes.entry(first.0).or_default() += 1;
    }
    assert_eq!(homes.len(), 3);
    assert!(
        homes.values().all(|count| (60..140).contains(count)),
        "{homes:?}"
    );
}

#[test]
fn another_replica_of_the_slice_helps_out_first() {
    let mut fleet = Fleet::new(20, &[2, 5]);
    let home = fleet.chosen(&ask()).0;
    let (at, other) = if home == fleet.id(2) {
        (2, fleet.id(5))
    } else {
        (5, fleet.id(2))
    };
    let rest: Vec<usize> = (0..20).filter(|busy| fleet.id(*busy) != other).collect();
    for busy in rest {
        fleet.load(busy, if busy == at { 900.0 } else { 500.0 });
    }
    assert_eq!(fleet.chosen(&ask()), (other, Reason::ReplicaOfSlice));
}

#[test]
fn health_keeps_requests_away_and_the_reason_says_so() {
    let mut fleet = Fleet::new(12, &[3]);
    for state in [State::Ejected, State::Draining] {
        fleet.change(3, |spec| spec.state = state);
        let decision = fleet.choose(&ask()).unwrap();
        assert_eq!(decision.reason, Reason::SpillHealth);
        assert!(!decision.fallbacks.contains(&fleet.id(3)));
    }
    fleet.change(3, |spec| *spec = self::spec(3));
    assert_eq!(fleet.choose(&ask()).unwrap().reason, Reason::Home);
}

#[test]
fn a_degraded_replica_must_win_clearly() {
    let mut fleet = Fleet::new(4, &[3]);
    fleet.change(3, |spec| spec.state = State::Degraded);
    assert_eq!(fleet.chosen(&ask()).1, Reason::SpillLoad);
    fleet.cache(3, &CHAIN[..7]);
    assert_eq!(fleet.chosen(&ask()), (fleet.id(3), Reason::Home));
}

#[test]
fn a_probing_replica_gets_one_request_at_a_time() {
    let mut fleet = Fleet::new(4, &[3]);
    fleet.change(3, |spec| spec.state = State::Probing);
    assert_eq!(fleet.chosen(&ask()).0, fleet.id(3));
    fleet.load(3, 1.0);
    assert_eq!(fleet.chosen(&ask()).1, Reason::SpillHealth);
    fleet.charges.clear();
    assert_eq!(fleet.chosen(&ask()).0, fleet.id(3));
}

#[test]
fn a_draining_replica_serves_when_nobody_else_does() {
    let mut fleet = Fleet::new(3, &[0]);
    fleet.change(0, |spec| spec.state = State::Ejected);
    fleet.change(1, |spec| spec.state = State::Draining);
    fleet.change(2, |spec| spec.state = State::Ejected);
    assert_eq!(fleet.chosen(&ask()), (fleet.id(1), Reason::Fallback));
    fleet.change(1, |spec| spec.state = State::Ejected);
    assert_eq!(fleet.choose(&ask()).unwrap_err(), NoReplica::NoneReady);
}

#[test]
fn a_warming_replica_gets_its_share_of_load() {
    let mut fleet = Fleet::new(2, &[0, 1]);
    fleet.change(1, |spec| spec.share = 0.25);
    let mut counts = [0, 0];
    for session in 0..400u32 {
        let ask = Ask {
            key: Key::new(5, session.wrapping_mul(0x9e37_79b9)),
            chain: &[],
            ..ask()
        };
        let chosen = fleet.chosen(&ask).0;
        let at = usize::from(chosen == fleet.id(1));
        counts[at] += 1;
        fleet.load(at, 20.0);
    }
    assert!((70..140).contains(&counts[1]), "{counts:?}");
}

#[test]
fn a_subset_hint_is_kept_to_whatever_it_costs() {
    let mut fleet = Fleet::new(40, &[3]);
    fleet.load(17, 5_000.0);
    fleet.load(18, 5_000.0);
    let (a, b) = (endpoint(17), endpoint(18));
    let subset = [a.as_str(), b.as_str(), "10.9.9.9:1"];
    let hinted = Ask {
        subset: Some(&subset),
        ..ask()
    };
    let decision = fleet.choose(&hinted).unwrap();
    assert_eq!(decision.reason, Reason::Subset);
    let allowed = [fleet.id(17), fleet.id(18)];
    assert!(allowed.contains(&decision.chosen));
    assert!(decision.fallbacks.iter().all(|id| allowed.contains(id)));
    let nobody = Ask {
        subset: Some(&[]),
        ..ask()
    };
    assert_eq!(fleet.choose(&nobody).unwrap_err(), NoReplica::EmptySubset);
}

#[test]
fn what_goes_on_from_a_response_goes_where_it_is_kept() {
    let mut fleet = Fleet::new(40, &[3]);
    let going_on = Ask {
        keeper: Some(fleet.id(17)),
        ..ask()
    };
    fleet.load(17, 50_000.0);
    assert_eq!(fleet.chosen(&going_on), (fleet.id(17), Reason::Keeper));
    fleet.change(17, |spec| spec.state = State::Draining);
    assert_eq!(fleet.chosen(&going_on), (fleet.id(17), Reason::Keeper));
    fleet.change(17, |spec| spec.state = State::Ejected);
    assert_eq!(fleet.chosen(&going_on), (fleet.id(3), Reason::Home));
    let elsewhere = endpoint(5);
    let subset = [elsewhere.as_str()];
    let hinted = Ask {
        subset: Some(&subset),
        keeper: Some(fleet.id(18)),
        ..ask()
    };
    assert_eq!(fleet.chosen(&hinted), (fleet.id(5), Reason::Subset));
    let at_home = Ask {
        keeper: Some(fleet.id(3)),
        ..ask()
    };
    assert_eq!(fleet.chosen(&at_home), (fleet.id(3), Reason::Home));
}

#[test]
fn an_adapters_requests_go_where_it_is_loaded() {
    let mut fleet = Fleet::new(30, &[3]);
    for at in [12, 25] {
        fleet.change(at, |spec| spec.adapters.push("tuned".into()));
    }
    let tuned = Ask {
        model: "tuned",
        adapter: Some("tuned"),
        ..ask()
    };
    let with = [fleet.id(12), fleet.id(25)];
    assert!(with.contains(&fleet.chosen(&tuned).0));
    // Not at any price: loading it elsewhere takes half a second.
    fleet.load(12, 2_000.0);
    fleet.load(25, 2_000.0);
    assert_eq!(fleet.chosen(&tuned).0, fleet.id(3));
}

#[test]
fn one_fallback_is_in_another_domain() {
    let mut fleet = Fleet::new(8, &[0]);
    for at in 0..8 {
        let domain = if at < 6 { "here" } else { "there" };
        fleet.change(at, |spec| spec.domain = domain.into());
        fleet.load(at, if at < 6 { 10.0 } else { 200.0 });
    }
    let decision = fleet.choose(&ask()).unwrap();
    assert_eq!(decision.fallbacks.len(), 3);
    let pool = fleet.registry.pool();
    let domain = |id: &ReplicaId| pool.replica(*id).unwrap().spec.domain.clone();
    assert_eq!(domain(&decision.chosen), "here");
    assert_eq!(domain(decision.fallbacks.last().unwrap()), "there");
}

#[test]
fn equal_replicas_share_by_hash() {
    let fleet = Fleet::new(6, &[]);
    let mut counts: BTreeMap<ReplicaId, u32> = BTreeMap::new();
    for session in 0..1_200u32 {
        let ask = Ask {
            key: Key::new(5, session.wrapping_mul(0x9e37_79b9)),
            ..ask()
        };
        *counts.entry(fleet.chosen(&ask).0).or_default() += 1;
    }
    assert_eq!(counts.len(), 6);
    assert!(
        counts.values().all(|count| (120..290).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn nobody_is_favoured_for_its_place_in_a_list() {
    let mut fleet = Fleet::new(7, &[0]);
    fleet.change(0, |spec| spec.state = State::Ejected);
    let mut counts: BTreeMap<ReplicaId, u32> = BTreeMap::new();
    for session in 0..1_200u32 {
        let ask = Ask {
            key: Key::new(5, session.wrapping_mul(0x9e37_79b9)),
            ..ask()
        };
        let (chosen, reason) = fleet.chosen(&ask);
        assert_eq!(reason, Reason::SpillHealth);
        *counts.entry(chosen).or_default() += 1;
    }
    assert_eq!(counts.len(), 6);
    assert!(
        counts.values().all(|count| (130..280).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn the_last_one_that_lives_is_found_among_many() {
    let mut fleet = Fleet::new(60, &[3]);
    for at in (0..60).filter(|at| *at != 31) {
        fleet.specs[at].state = State::Ejected;
    }
    fleet.registry.replace(fleet.specs.clone());
    for seed in 0..50 {
        let ask = Ask {
            seed,
            key: Key::new(9, seed as u32),
            ..ask()
        };
        assert_eq!(fleet.chosen(&ask), (fleet.id(31), Reason::SpillHealth));
    }
}

#[test]
fn an_assignment_older_than_the_pool_does_no_harm() {
    let mut fleet = Fleet::new(10, &[3]);
    let gone = fleet.id(3);
    fleet.specs.remove(3);
    fleet.registry.replace(fleet.specs.clone());
    assert_ne!(fleet.chosen(&ask()).0, gone);
    // Its number may come to a replica of another model: that is nobody for this request.
    for round in 0..60 {
        let mut specs = fleet.specs.clone();
        let other = format!("10.2.0.{round}:1");
        specs.push(ReplicaSpec {
            endpoint: other,
            model: "other".into(),
            ..spec(0)
        });
        fleet.registry.replace(specs);
        let pool = fleet.registry.pool_full();
        assert_eq!(
            pool.replica(fleet.chosen(&ask()).0).unwrap().spec.model,
            "m"
        );
    }
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        5 => Just(State::Healthy),
        1 => Just(State::Degraded),
        2 => Just(State::Ejected),
        1 => Just(State::Probing),
        1 => Just(State::Draining),
    ]
}

fn serves(pool: &Pool, id: ReplicaId) -> bool {
    pool.replica(id)
        .is_some_and(|replica| replica.spec.state != State::Ejected)
}

/// Sends requests of one session, each of which sets aside `kv` tokens, and counts them by replica.
fn spread(count: usize, requests: usize, kv_capacity: u64, kv: &dyn Fn(u32) -> u64) -> Vec<usize> {
    let mut fleet = Fleet::new(count, &[0]);
    for spec in &mut fleet.specs {
        spec.steps = StepTimes::default();
        spec.kv_tokens = kv_capacity;
    }
    fleet.registry.replace(fleet.specs.clone());
    let asked = Ask { kv, ..ask() };
    let mut counts = vec![0; count];
    for _ in 0..requests {
        let pool = fleet.registry.pool_full();
        let decision = choose(
            &pool,
            Some(&fleet.slices),
            &asked,
            &ChoiceSettings::default(),
        )
        .unwrap();
        let replica = pool.replica(decision.chosen).unwrap();
        replica.cache.record(&CHAIN);
        let at = (0..count)
            .find(|at| endpoint(*at) == replica.spec.endpoint)
            .unwrap();
        counts[at] += 1;
        fleet.charges.push(replica.load.charge(Amount {
            decode: MicroMu::from_mu(100.0),
            sequences: 1,
            kv_tokens: 1_000,
            kv_reserved: kv(decision.cached_blocks),
            ..Amount::default()
        }));
    }
    counts
}

#[test]
fn what_the_engine_sets_aside_decides_where_there_is_room() {
    // An engine of this size runs 7 of them at once.
    let unbounded = |blocks: u32| 131_072 - u64::from(blocks);
    assert_eq!(spread(2, 7, 993_196, &unbounded), [7, 0]);
    assert_eq!(spread(2, 12, 993_196, &unbounded), [7, 5]);
    // More than all engines run at once: none of them waits much longer than another.
    let counts = spread(3, 60, 993_196, &unbounded);
    assert!(counts.iter().all(|of| (18..=22).contains(of)), "{counts:?}");
}

#[test]
fn a_request_that_fills_an_idle_replica_fits_it() {
    let counts = spread(2, 2, 100_000, &|_| 100_000);
    assert_eq!(counts, [1, 1]);
}

#[test]
fn a_prefix_that_is_there_counts_once() {
    // 25 agents with one prompt of 10,000 tokens, and answers of 500: 22,500 tokens in all.
    let shared = |blocks: u32| 10_500 - 1_000 * u64::from(blocks);
    assert_eq!(spread(2, 25, 50_000, &shared), [25, 0]);
    assert!(spread(2, 25, 50_000, &|_| 10_500)[1] > 0);
}

proptest! {
    #[test]
    fn whoever_lives_is_found_and_the_answer_is_sound(
        states in prop::collection::vec(state(), 1..40),
        homes in prop::collection::vec(0usize..40, 0..7),
        loads in prop::collection::vec((0usize..40, 0.0..5_000.0f64), 0..60),
        cached in prop::collection::vec((0usize..40, 1usize..10), 0..10),
        subset in prop::option::of(prop::collection::vec(0usize..44, 0..30)),
        key in any::<u64>(),
        seed in any::<u64>(),
        kv_tokens in 0u64..2_000_000,
    ) {
        let count = states.len();
        let mut fleet = Fleet::new(count, &[]);
        fleet.specs.iter_mut().zip(&states).for_each(|(spec, state)| spec.state = *state);
        fleet.registry.replace(fleet.specs.clone());
        let homes: BTreeSet<usize> = homes.into_iter().filter(|at| *at < count).collect();
        let homes = homes.into_iter().map(|at| fleet.id(at)).collect();
        fleet.slices = Slices::new(vec![SliceSpec { start: Key::default(), homes }]);
        for (at, mu) in loads.into_iter().filter(|(at, _)| *at < count) {
            fleet.load(at, mu);
        }
        for (at, blocks) in cached.into_iter().filter(|(at, _)| *at < count) {
            fleet.cache(at, &CHAIN[..blocks]);
        }
        let names: Option<Vec<String>> =
            subset.map(|subset| subset.into_iter().map(endpoint).collect());
        let names: Option<Vec<&str>> =
            names.as_ref().map(|names| names.iter().map(String::as_str).collect());
        let ask =
            Ask { key: Key::from_bits(key), seed, kv: &|_| kv_tokens, subset: names.as_deref(), ..ask() };
        let pool = fleet.registry.pool_full();
        let allowed = |id: ReplicaId| {
            let endpoint = &pool.replica(id).unwrap().spec.endpoint;
            names.as_ref().is_none_or(|names| names.contains(&endpoint.as_str()))
        };
        let open = pool.replicas().any(|replica| serves(&pool, replica.id) && allowed(replica.id));
        match fleet.choose(&ask) {
            Err(refusal) => {
                prop_assert!(!open, "{refusal:?} though one could serve");
                let expected = match names {
                    Some(_) => NoReplica::EmptySubset,
                    None => NoReplica::NoneReady,
                };
                prop_assert_eq!(refusal, expected);
            }
            Ok(decision) => {
                prop_assert!(serves(&pool, decision.chosen) && allowed(decision.chosen));
                let mut named: Vec<ReplicaId> = decision.fallbacks.to_vec();
                named.push(decision.chosen);
                prop_assert_eq!(named.iter().collect::<BTreeSet<_>>().len(), named.len());
                prop_assert!(named.iter().all(|id| serves(&pool, *id) && allowed(*id)));
                let looked: BTreeSet<ReplicaId> =
                    decision.candidates.iter().map(|candidate| candidate.replica).collect();
                prop_assert_eq!(looked.len(), decision.candidates.len());
                prop_assert!(named.iter().all(|id| looked.contains(id)));
                // The best of the fit ones, but for the margin of home and of who holds the prompt.
                let own = candidate(&decision, decision.chosen);
                let fit = decision.candidates.iter().filter(|c| c.verdict == Verdict::Fit);
                let least = fit.clone().map(|c| c.outlook.score).fold(f64::INFINITY, f64::min);
                prop_assert_eq!(own.verdict == Verdict::Fit, fit.clone().count() > 0);
                let kept = own.role == Role::Home || 2 * own.cached_blocks as usize >= CHAIN.len();
                let margin = if kept { f64::max(20.0, 0.5 * own.outlook.wait_ms) } else { 0.0 };
                prop_assert!(own.verdict != Verdict::Fit || own.outlook.score <= least + margin + 1e-9);
                prop_assert_eq!(decision.prefill, prefill(decision.cached_blocks));
                prop_assert_eq!(decision.prefill + decision.saved, prefill(0));
                let again = fleet.choose(&ask).unwrap();
                prop_assert_eq!(again.chosen, decision.chosen);
                prop_assert_eq!(again.fallbacks, decision.fallbacks);
            }
        }
    }
}
