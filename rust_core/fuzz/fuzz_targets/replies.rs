//! Any bytes as a reply, in any pieces, type and content-encoding: what is billed and learnt of it is
//! borne by what was seen of it, and nothing stays open.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use weighbridge_decide::{Begun, Core, Incoming, UsageSource};
use weighbridge_fuzz::{PROFILE_OF_TARGETS, check_accounts, core};
use weighbridge_weigh::{Body, Endpoint};

const TYPES: [&str; 4] = ["application/json", "text/event-stream", "", "text/plain; x"];
const ENCODINGS: [&str; 6] = ["", "gzip", "deflate", "zstd", "br", "x-unknown"];
/// Requests of two tenants: what the first is told must not move what the second is expected to take.
const BODIES: [&str; 4] = [
    r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#,
    r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hello"}]}"#,
    r#"{"model":"m","n":3,"max_tokens":50,"messages":[{"role":"user","content":"hello"}]}"#,
    r#"{"model":"m","max_tokens":50,"messages":[{"role":"user","content":"hello"}]}"#,
];

#[derive(Arbitrary, Debug)]
struct Told {
    body: u8,
    kind: u8,
    encoding: u8,
    status: Option<bool>,
    run_ms: u16,
    observer_last: bool,
    pieces: Vec<Vec<u8>>,
}

fn incoming<'a>(tenant: &'a str, body: &'a str) -> Incoming<'a> {
    Incoming {
        request_id: "r",
        endpoint: Endpoint::ChatCompletions,
        session: None,
        tenant: Some(tenant),
        priority: None,
        wanted: weighbridge_decide::Wanted::default(),
        subset: None,
        content_encoding: None,
        parent: None,
        body: Body::whole(body.as_bytes()),
    }
}

fn expected_of_another(core: &Core) -> u64 {
    let ticket = core.decide(&incoming("another", BODIES[0]), 0).expect("a replica is ready");
    drop(ticket);
    core.log().after(0).last().expect("it was logged").output_tokens
}

fuzz_target!(|told: Told| {
    let core = core();
    let before = expected_of_another(&core);
    let body = BODIES[usize::from(told.body) % BODIES.len()];
    let now_us = 1_000_000;
    let Ok(Begun::Placed(mut ticket)) = core.begin(&incoming("told", body), now_us) else {
        panic!("nothing else is in flight");
    };
    let mut observer = core.observe(ticket.join(), Some("r")).expect("it is under way");
    let status = told.status.map(|is_good| if is_good { 200 } else { 500 });
    if let Some(status) = status {
        core.first_byte(&mut ticket, status, None, now_us);
        let kind = TYPES[usize::from(told.kind) % TYPES.len()];
        let encoding = ENCODINGS[usize::from(told.encoding) % ENCODINGS.len()];
        observer.begin(Some(kind), Some(encoding));
        for piece in &told.pieces {
            observer.body(piece, now_us);
        }
    }
    let end_us = now_us + u64::from(told.run_ms) * 1_000;
    if told.observer_last {
        core.end(ticket, end_us);
        core.observed(observer, end_us);
    } else {
        core.observed(observer, end_us);
        core.end(ticket, end_us);
    }
    let records = core.take_usage(16);
    let record = records.last().expect("it is billed");
    assert!(record.mu.is_finite() && record.mu >= 0.0, "{record:?}");
    assert!(record.cached_tokens <= record.prompt_tokens, "{record:?}");
    let profile = &*PROFILE_OF_TARGETS;
    let longest = profile.longest_sequence();
    assert!(record.prompt_tokens <= longest && record.output_tokens <= 3 * longest);
    if status == Some(500) {
        // Nothing was computed: a refusal costs a request's fixed part.
        assert!(record.mu <= profile.cost.overhead && record.output_tokens == 0, "{record:?}");
    }
    let wire: u64 = told.pieces.iter().map(|piece| piece.len() as u64).sum();
    if status == Some(200) && told.encoding % 6 == 0 && record.source != UsageSource::Estimate {
        // 1,000 MU a second for 32, up to four times that for one alone, 1 MU a token and more.
        let in_time = u64::from(told.run_ms) / 8 + 1;
        let borne = (wire + 48).max(3 * in_time);
        assert!(record.output_tokens <= borne, "{record:?}: {wire} bytes");
    }
    assert_eq!(expected_of_another(&core), before, "one tenant's replies are no other's");
    check_accounts(&core);
});
