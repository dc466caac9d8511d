//! Speed against the profile: what a replica owes is compared with what it takes, and nothing else.

#![allow(clippy::unwrap_used)]

use weighbridge_learn::health::{Report, Source, What};
use weighbridge_learn::{Flight, Owed, SpeedMeter};

const BATCH: f64 = 16.0;
const SOURCE: Source = Source { tenant: 1, name: 2 };

fn owed(first_ms: f64, most_decode_mu: f64, is_streamed: bool) -> Owed {
    Owed {
        first_ms,
        most_decode_mu,
        is_streamed,
    }
}

/// Time owed ÷ time taken, of all reports together.
fn ratio(reports: &[Report]) -> f64 {
    let (mut owed, mut took) = (0.0, 0.0);
    for report in reports {
        if let What::Took { owed_ms, took_ms } = report.what {
            owed += owed_ms;
            took += took_ms;
        }
    }
    owed / took
}

/// `n` requests at a time of 200 MU of decode each, on an engine `speed` times as fast as its
/// profile, for a minute; prompts take 100 ms ÷ speed.
fn run(n: usize, speed: f64, is_streamed: bool) -> Vec<Report> {
    let mut meter = SpeedMeter::new(1.0, BATCH);
    let each_ms = 200.0 * (n as f64).max(BATCH) / speed;
    let (mut now, mut reports) = (0, Vec::new());
    while now < 60_000_000 {
        let owed = owed(100.0, 4_000.0, is_streamed);
        let flights: Vec<Flight> = (0..n).map(|_| meter.placed(SOURCE, owed, now)).collect();
        now += (100_000.0 / speed) as u64;
        if is_streamed {
            reports.extend(
                flights
                    .iter()
                    .filter_map(|one| meter.first_output(*one, now)),
            );
        }
        now += (each_ms * 1000.0) as u64;
        reports.extend(
            flights
                .into_iter()
                .filter_map(|one| meter.end(one, Some(200.0), now)),
        );
        assert!(meter.overdue(now).is_empty());
    }
    reports
}

#[test]
fn a_tenth_of_the_speed_is_seen_however_busy_and_whether_streamed_or_not() {
    for is_streamed in [true, false] {
        for n in [1, 8, 40] {
            let well = ratio(&run(n, 1.0, is_streamed));
            assert!((well - 1.0).abs() < 0.2, "{n} {is_streamed}: {well}");
            let slow = ratio(&run(n, 0.1, is_streamed));
            assert!(slow < 0.2, "{n} {is_streamed}: {slow}");
        }
    }
}

#[test]
fn a_replica_that_hangs_is_seen_before_anything_ends() {
    let mut meter = SpeedMeter::new(1.0, BATCH);
    let decoding = meter.placed(SOURCE, owed(50.0, 100.0, true), 0);
    assert!(meter.first_output(decoding, 60_000).is_some());
    let silent = meter.placed(SOURCE, owed(50.0, 100.0, true), 100_000);
    let whole = meter.placed(SOURCE, owed(50.0, 100.0, false), 100_000);
    assert!(meter.overdue(200_000).is_empty());
    let overdue = meter.overdue(20_000_000);
    assert_eq!(overdue.len(), 3, "{overdue:?}");
    assert!(ratio(&overdue) < 0.15, "{overdue:?}");
    for flight in [silent, whole, decoding] {
        meter.void(flight, 20_000_000);
    }
    assert!(meter.overdue(90_000_000).is_empty());
}

#[test]
fn an_answer_that_is_not_streamed_is_owed_all_that_its_client_allows() {
    let mut meter = SpeedMeter::new(1.0, BATCH);
    // 4,000 MU at a sixteenth of the replica: 64 s.
    let patient = meter.placed(SOURCE, owed(20.0, 4_000.0, false), 0);
    for second in 1..64 {
        assert!(meter.overdue(second * 1_000_000).is_empty(), "{second}");
    }
    assert_eq!(
        meter.end(patient, None, 63_000_000),
        None,
        "its client left"
    );
    let patient = meter.placed(SOURCE, owed(20.0, 4_000.0, false), 63_000_000);
    assert_eq!(meter.overdue(163_000_000).len(), 1);
    let late = meter.end(patient, None, 163_000_000).unwrap();
    assert!(ratio(&[late]) < 0.7, "{late:?}");
}

#[test]
fn short_answers_of_an_idle_replica_are_not_slow_by_what_the_network_and_the_host_take() {
    for is_streamed in [true, false] {
        let mut meter = SpeedMeter::new(1.0, BATCH);
        let (mut now, mut reports) = (0, Vec::new());
        for _ in 0..50 {
            let flight = meter.placed(SOURCE, owed(3.0, 500.0, is_streamed), now);
            now += 60_000;
            reports.extend(meter.first_output(flight, now));
            now += 90_000;
            reports.extend(meter.end(flight, Some(4.0), now));
            now += 300_000;
        }
        assert!(ratio(&reports) > 0.6, "{is_streamed}: {}", ratio(&reports));
    }
}

#[test]
fn time_that_ran_is_counted_for_answers_that_nobody_waited_for() {
    let mut meter = SpeedMeter::new(1.0, BATCH);
    let flight = meter.placed(SOURCE, owed(1_000.0, 1e6, false), 0);
    let decoded = meter.decoded_mu(flight, 17_000_000);
    assert!((decoded - 16_000.0 / BATCH).abs() < 1.0, "{decoded}");
    let short = meter.placed(SOURCE, owed(0.0, 5.0, false), 17_000_000);
    assert!((meter.decoded_mu(short, 99_000_000) - 5.0).abs() < 1e-9);
    meter.void(flight, 99_000_000);
    meter.void(short, 99_000_000);
}
