//! Health by degrees: the ill are drained, the well stay, the pool is never emptied.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use weighbridge_learn::health::{Health, Report, Settings, Sign, Source, Standing, What};
use weighbridge_place::State;

const SECOND: u64 = 1_000_000;

fn health(replicas: u32) -> Health {
    let mut health = Health::new(Settings::default());
    health.watch((0..replicas).map(|id| (id, 0)));
    health
}

fn session(tenant: u64, number: u64) -> Source {
    Source {
        tenant,
        name: tenant << 32 | number,
    }
}

fn answer(source: Source, failed: bool) -> Report {
    let what = if failed { What::Failed } else { What::Answered };
    Report { source, what }
}

fn pace(source: Source, owed_ms: f64, took_ms: f64) -> Report {
    let what = What::Took { owed_ms, took_ms };
    Report { source, what }
}

fn all_are_well(health: &Health) -> bool {
    let well = Standing {
        state: State::Healthy,
        share: 1.0,
    };
    health.standings().all(|(_, standing)| standing == well)
}

/// A replica's behaviour for a second.
#[derive(Clone, Copy, Debug)]
enum Conduct {
    Well,
    Failing(f64),
    Slow(f64),
    Dead,
}

/// Lets replicas behave for some seconds; 20 requests a second each, in proportion to their share.
fn live(health: &mut Health, from: u64, seconds: u64, conduct: impl Fn(u32) -> Conduct) -> u64 {
    let ids: Vec<u32> = health.standings().map(|(id, _)| id).collect();
    for second in from..from + seconds {
        let now = second * SECOND;
        for id in &ids {
            let Standing { state, share } = health.standing(*id);
            let requests = if state == State::Ejected {
                0
            } else {
                (20.0 * share).ceil() as u32
            };
            let (failures, speed, probe) = match conduct(*id) {
                Conduct::Well => (0.0, Some(1.0), true),
                Conduct::Failing(part) => (part, Some(1.0), true),
                Conduct::Slow(speed) => (0.0, Some(speed), true),
                Conduct::Dead => (1.0, None, false),
            };
            for request in 0..requests {
                let source = session(0, u64::from(request));
                let failed = f64::from(request % 10) < failures * 10.0;
                health.report(*id, &answer(source, failed), now);
                if let Some(speed) = speed {
                    health.report(*id, &pace(source, 100.0, 100.0 / speed.max(0.01)), now);
                }
            }
            health.hear(*id, Sign::Probe(probe));
        }
        health.round(now);
    }
    from + seconds
}

fn only(id: u32, conduct: Conduct) -> impl Fn(u32) -> Conduct {
    move |at| if at == id { conduct } else { Conduct::Well }
}

#[test]
fn a_dead_replica_is_ejected_at_its_second_failed_probe_and_comes_back_by_degrees() {
    let mut health = health(4);
    let now = live(&mut health, 0, 5, |_| Conduct::Well);
    let now = live(&mut health, now, 2, only(1, Conduct::Dead));
    assert_eq!(
        health.standing(1),
        Standing {
            state: State::Ejected,
            share: 0.0
        }
    );
    let mut now = live(&mut health, now, 20, only(1, Conduct::Dead));
    assert_eq!(health.standing(1).state, State::Ejected);
    let mut seen = Vec::new();
    for _ in 0..30 {
        now = live(&mut health, now, 1, |_| Conduct::Well);
        let Standing { state, share } = health.standing(1);
        if seen.last().is_none_or(|(last, _)| *last != state) {
            seen.push((state, share));
        }
    }
    let states: Vec<State> = seen.iter().map(|(state, _)| *state).collect();
    assert_eq!(states, [State::Probing, State::Degraded, State::Healthy]);
    assert!(seen[1].1 < 0.2, "it begins with little: {seen:?}");
}

#[test]
fn a_gray_failure_is_drained_without_a_single_error() {
    let mut health = health(5);
    let now = live(&mut health, 0, 10, |_| Conduct::Well);
    let now = live(&mut health, now, 15, only(2, Conduct::Slow(0.35)));
    let Standing { state, share } = health.standing(2);
    assert_eq!(state, State::Degraded);
    assert!((0.2..0.7).contains(&share), "{share}");
    let mut now = now;
    let mut is_ejected = false;
    for _ in 0..15 {
        now = live(&mut health, now, 1, only(2, Conduct::Slow(0.1)));
        is_ejected |= health.standing(2).state == State::Ejected;
    }
    assert!(is_ejected);
    assert!(
        (0..5)
            .filter(|id| *id != 2)
            .all(|id| health.standing(id).state == State::Healthy)
    );
}

#[test]
fn a_wrong_profile_ejects_nobody() {
    let mut health = health(5);
    live(&mut health, 0, 60, |_| Conduct::Slow(0.1));
    assert!(
        health
            .standings()
            .all(|(_, standing)| standing.state == State::Healthy)
    );
}

#[test]
fn whatever_happens_some_are_left() {
    let mut health = health(6);
    live(&mut health, 0, 30, |_| Conduct::Dead);
    let out = health
        .standings()
        .filter(|(_, standing)| standing.state == State::Ejected)
        .count();
    assert_eq!(out, 3);
    assert!(
        health
            .standings()
            .all(|(_, s)| s.state == State::Ejected || s.share > 0.0)
    );
    let mut lone = Health::new(Settings::default());
    lone.watch([(7, 0)]);
    live(&mut lone, 0, 30, |_| Conduct::Dead);
    assert!(lone.standing(7).share > 0.0, "there is nobody else");
}

#[test]
fn an_outlier_of_envoys_is_out_as_long_as_envoy_says() {
    let mut health = health(3);
    health.hear(0, Sign::Outlier(true));
    health.round(0);
    assert_eq!(health.standing(0).state, State::Ejected);
    for second in 1..60 {
        health.round(second * SECOND);
    }
    assert_eq!(health.standing(0).state, State::Ejected);
    health.hear(0, Sign::Outlier(false));
    health.round(60 * SECOND);
    assert_eq!(health.standing(0).state, State::Probing);
}

#[test]
fn times_out_grow_while_it_ails_and_shrink_again() {
    let mut health = health(3);
    let mut now = 0;
    let mut outs = Vec::new();
    for _ in 0..4 {
        while health.standing(0).state != State::Ejected {
            now = live(&mut health, now, 1, only(0, Conduct::Failing(1.0)));
        }
        let from = now;
        while health.standing(0).state == State::Ejected {
            now = live(&mut health, now, 1, only(0, Conduct::Failing(1.0)));
        }
        outs.push(now - from);
    }
    assert!(outs.windows(2).all(|pair| pair[1] > pair[0]), "{outs:?}");
}

/// A second of good requests of tenant 1 at all replicas, twelve sessions each.
fn serve_others(health: &mut Health, replicas: u32, now: u64) {
    for id in 0..replicas {
        for number in 0..12 {
            let source = session(1, u64::from(id) * 12 + number);
            health.report(id, &answer(source, false), now);
            health.report(id, &pace(source, 120.0, 100.0), now);
        }
    }
}

#[test]
fn one_session_whose_requests_all_fail_costs_its_replica_nothing() {
    let mut health = health(4);
    for second in 0..60 {
        let now = second * SECOND;
        serve_others(&mut health, 4, now);
        for _ in 0..50 {
            health.report(2, &answer(session(1, 999), true), now);
        }
        health.round(now);
        assert!(all_are_well(&health), "second {second}");
    }
}

#[test]
fn one_tenant_s_failing_requests_cost_a_replica_nothing_that_serves_others_well() {
    let mut health = health(4);
    for second in 0..60 {
        let now = second * SECOND;
        serve_others(&mut health, 4, now);
        for number in 0..40 {
            let source = session(7, second * 40 + number);
            health.report(0, &answer(source, true), now);
        }
        health.round(now);
        assert!(all_are_well(&health), "second {second}");
    }
}

#[test]
fn prompts_that_fail_wherever_they_go_are_no_replica_s_fault() {
    let mut health = health(2);
    for second in 0..60 {
        let now = second * SECOND;
        for id in 0..2 {
            for number in 0..8 {
                // Prompts of their own, at one replica each, and a third of all requests.
                let bad = session(0, second * 100 + u64::from(id) * 10 + number);
                health.report(id, &answer(bad, number % 3 == 0), now);
            }
        }
        health.round(now);
        assert!(all_are_well(&health), "second {second}");
    }
}

#[test]
fn a_request_that_fails_at_every_replica_it_is_sent_on_to_counts_once_at_most() {
    let mut health = health(3);
    for second in 0..60 {
        let now = second * SECOND;
        serve_others(&mut health, 3, now);
        for number in 0..6 {
            for id in 0..2 {
                health.report(id, &answer(session(1, 500 + number), true), now);
            }
        }
        health.round(now);
        assert!(all_are_well(&health), "second {second}");
    }
}

#[test]
fn two_of_three_replicas_that_fail_are_both_found() {
    let mut health = health(3);
    for second in 0..6 {
        let now = second * SECOND;
        for number in 0..12 {
            let source = session(number % 3, number);
            for id in 0..3 {
                health.report(id, &answer(source, id != 1), now);
            }
        }
        health.round(now);
    }
    let share = |id| health.standing(id).share;
    assert_eq!(health.standing(1).state, State::Healthy);
    assert!(
        share(0) <= 0.25 && share(2) <= 0.25,
        "{} {}",
        share(0),
        share(2)
    );
}

#[test]
fn clients_that_read_slowly_make_no_replica_slow() {
    let mut health = health(3);
    for second in 0..60 {
        let now = second * SECOND;
        serve_others(&mut health, 3, now);
        for number in 0..40 {
            let source = session(7, number);
            health.report(1, &pace(source, 100.0, 5_000.0), now);
        }
        health.waiting(1, vec![pace(session(7, 41), 100.0, 60_000.0)]);
        health.round(now);
        assert!(all_are_well(&health), "second {second}");
    }
}

#[test]
fn one_client_s_failures_while_it_is_probed_keep_no_replica_out() {
    let mut health = health(3);
    health.hear(0, Sign::Outlier(true));
    health.round(0);
    health.hear(0, Sign::Outlier(false));
    let mut second = 0;
    while health.standing(0).state != State::Degraded {
        second += 1;
        assert!(second < 30, "{:?}", health.standing(0));
        if health.standing(0).state == State::Probing {
            health.report(0, &answer(session(7, 1), true), second * SECOND);
        }
        health.hear(0, Sign::Probe(true));
        health.round(second * SECOND);
    }
}

fn reports(tenant: u64) -> impl Strategy<Value = Vec<(u32, Report)>> {
    let what = prop_oneof![
        Just(What::Answered),
        Just(What::Failed),
        (0.0..1e7f64, 0.0..1e7f64).prop_map(|(owed_ms, took_ms)| What::Took { owed_ms, took_ms }),
    ];
    let report = (0u32..4, 0u64..200, what).prop_map(move |(id, number, what)| {
        let source = session(tenant, number);
        (id, Report { source, what })
    });
    prop::collection::vec(report, 0..60)
}

fn conduct() -> impl Strategy<Value = Conduct> {
    prop_oneof![
        4 => Just(Conduct::Well),
        1 => (0.0..1.0f64).prop_map(Conduct::Failing),
        1 => (0.0..2.0f64).prop_map(Conduct::Slow),
        1 => Just(Conduct::Dead),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_rules_hold_whatever_replicas_do(
        spans in prop::collection::vec(
            (1u64..20, prop::collection::vec(conduct(), 8)), 1..12),
        count in 2u32..8,
    ) {
        let run = || {
            let mut health = health(count);
            let mut now = 0;
            let mut trail = Vec::new();
            for (seconds, conducts) in &spans {
                for _ in 0..*seconds {
                    now = live(&mut health, now, 1, |id| conducts[id as usize]);
                    trail.push(health.standings().collect::<Vec<_>>());
                }
            }
            trail
        };
        let trail = run();
        prop_assert_eq!(&trail, &run(), "equal calls, equal states");
        for standings in &trail {
            let mut out = 0;
            for (_, Standing { state, share }) in standings {
                prop_assert!((0.0..=1.0).contains(share));
                match state {
                    State::Healthy => prop_assert_eq!(*share, 1.0),
                    State::Degraded => prop_assert!(*share > 0.0),
                    State::Ejected => prop_assert_eq!(*share, 0.0),
                    State::Probing => prop_assert!(*share > 0.0 && *share < 0.2),
                    State::Draining => prop_assert!(false),
                }
                out += u32::from(matches!(state, State::Ejected | State::Probing));
            }
            prop_assert!(out <= (count / 2).max(1), "{out} of {count} are out");
        }
    }

    /// A share falls by no more than a quarter of the whole in a round, unless nothing is left.
    #[test]
    fn drained_by_degrees(failing in 0.06..0.45f64) {
        let mut health = health(4);
        let mut now = live(&mut health, 0, 5, |_| Conduct::Well);
        let mut before = 1.0;
        for _ in 0..20 {
            now = live(&mut health, now, 1, only(0, Conduct::Failing(failing)));
            let share = health.standing(0).share;
            prop_assert!(before - share <= 0.25 + 1e-9);
            before = share;
        }
    }

    /// Ordinary noise moves nobody.
    #[test]
    fn the_well_stay_well(noise in prop::collection::vec((0u8..100, 0.75..1.3f64), 300)) {
        let mut health = health(5);
        for (second, (luck, speed)) in noise.iter().enumerate() {
            let now = second as u64 * SECOND;
            for id in 0..5 {
                let own = if id == 0 { *speed } else { 1.0 };
                for request in 0..20u8 {
                    let source = session(0, u64::from(request) + 20 * (second as u64 % 7));
                    let failed = request == 0 && *luck < 20;
                    health.report(id, &answer(source, failed), now);
                    health.report(id, &pace(source, 100.0 * own, 100.0), now);
                }
            }
            health.round(now);
            prop_assert!(health.standings().all(|(_, s)| s.state == State::Healthy));
        }
    }

    /// Once it is well for good, every replica is healthy again within the longest time out and a
    /// minute, whatever was before.
    #[test]
    fn everyone_recovers(conducts in prop::collection::vec(conduct(), 6), seconds in 1u64..40) {
        let mut health = health(6);
        let now = live(&mut health, 0, seconds, |id| conducts[id as usize]);
        live(&mut health, now, 360, |_| Conduct::Well);
        for (id, standing) in health.standings() {
            prop_assert_eq!(standing.state, State::Healthy, "{}: {:?}", id, conducts[id as usize]);
        }
    }

    /// Whatever becomes of one tenant's requests, from however many sessions, replicas that serve
    /// others well stay as they are.
    #[test]
    fn nothing_that_one_tenant_does_moves_a_replica(seconds in prop::collection::vec(reports(9), 40)) {
        let mut health = health(4);
        for (second, reports) in seconds.iter().enumerate() {
            let now = second as u64 * SECOND;
            serve_others(&mut health, 4, now);
            for (id, report) in reports {
                health.report(*id, report, now);
            }
            health.round(now);
            prop_assert!(all_are_well(&health), "second {}", second);
        }
    }

    /// Nor does anything that one session does, where nobody else asks.
    #[test]
    fn nothing_that_one_session_does_moves_a_replica(seconds in prop::collection::vec(reports(9), 40)) {
        let mut health = health(4);
        for (second, reports) in seconds.iter().enumerate() {
            let now = second as u64 * SECOND;
            for (id, report) in reports {
                let one = Report { source: session(9, 0), ..*report };
                health.report(*id, &one, now);
            }
            health.round(now);
            prop_assert!(all_are_well(&health), "second {}", second);
        }
    }
}
