//! What clients do and what replies claim: neither moves a replica, a bill or a prediction by more
//! than was seen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::{Value, json};
use weighbridge_decide::{
    Begun, Core, Incoming, Observation, ReplicaState, Status, Ticket, UsageRecord, UsageSource,
};
use weighbridge_weigh::{Body, Endpoint};

const SECOND: u64 = 1_000_000;

fn core(replicas: usize) -> Core {
    let settings = json!({
        "profiles": [{
            "name": "p", "models": ["m"], "capacity_mu_per_min": 600_000.0, "kv_tokens": 1_000_000,
            "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192,
            "reference_batch": 32.0,
            "cost": {
                "prefill_per_tok": 0.1, "prefill_per_tok2_e6": 0.0,
                "decode_per_tok": 1.0, "decode_per_ktok_ctx": 0.0
            }
        }],
        "admission": {"enabled": false}, "usage_records": 10_000
    });
    let core = Core::new(serde_json::from_value(settings).unwrap()).unwrap();
    set_replicas(&core, 0..replicas);
    core
}

fn set_replicas(core: &Core, replicas: std::ops::Range<usize>) {
    let replicas: Vec<_> = replicas
        .map(|at| json!({"endpoint": endpoint(at), "profile": "p"}))
        .collect();
    let replicas = serde_json::from_value(json!(replicas)).unwrap();
    core.set_replicas(replicas).unwrap();
}

fn endpoint(at: usize) -> String {
    format!("10.0.0.{at}:8000")
}

fn chat(text: &str, more: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
    let all = body.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    body
}

#[derive(Clone, Copy)]
struct From<'a> {
    tenant: Option<&'a str>,
    session: Option<&'a str>,
}

const ANYBODY: From<'_> = From {
    tenant: None,
    session: None,
};

fn tenant(name: &str) -> From<'_> {
    From {
        tenant: Some(name),
        session: None,
    }
}

fn place(core: &Core, endpoint: Endpoint, body: &Value, from: From<'_>, now_us: u64) -> Ticket {
    let body = serde_json::to_vec(body).unwrap();
    let incoming = Incoming {
        request_id: "",
        endpoint,
        session: from.session,
        tenant: from.tenant,
        priority: None,
        wanted: weighbridge_decide::Wanted::default(),
        subset: None,
        content_encoding: None,
        parent: None,
        body: Body::whole(&body),
    };
    match core.begin(&incoming, now_us).unwrap() {
        Begun::Placed(ticket) => ticket,
        Begun::Waits(_) => panic!("it waits"),
    }
}

fn ask(core: &Core, body: &Value, from: From<'_>, now_us: u64) -> Ticket {
    place(core, Endpoint::ChatCompletions, body, from, now_us)
}

/// The request is answered with `status` and this reply, and ends.
fn answer(core: &Core, mut ticket: Ticket, status: u16, reply: &str, now_us: u64) {
    let mut observer = core.observe(ticket.join(), None).unwrap();
    core.first_byte(&mut ticket, status, None, now_us);
    observer.begin(Some("application/json"), None);
    observer.body(reply.as_bytes(), now_us);
    core.observed(observer, now_us);
    core.end(ticket, now_us);
}

fn reply(text: &str, prompt: u64, output: u64) -> String {
    json!({
        "choices": [{"message": {"content": text}}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": output}
    })
    .to_string()
}

fn usage(core: &Core) -> UsageRecord {
    core.take_usage(10_000).pop().unwrap()
}

fn states(core: &Core) -> Vec<(ReplicaState, f64)> {
    let status = Status::of(core);
    let all = status.replicas.iter();
    all.map(|one| (one.state, one.share)).collect()
}

fn all_are_well(core: &Core) -> bool {
    let states = states(core);
    states
        .iter()
        .all(|(state, share)| *state == ReplicaState::Healthy && *share >= 1.0)
}

/// A second of good, short requests of as many sessions: 20 of them, from `now_us` on.
fn serve_others(core: &Core, now_us: u64) {
    for number in 0..20 {
        let at = now_us + number * 45_000;
        let text = format!("question {number} of second {}", now_us / SECOND);
        let ticket = ask(core, &chat(&text, json!({"max_tokens": 20})), ANYBODY, at);
        answer(
            core,
            ticket,
            200,
            &reply("a short answer of few words", 12, 6),
            at + 40_000,
        );
    }
}

#[test]
fn clients_that_give_up_on_answers_that_are_not_streamed_have_nobody_ejected() {
    let core = core(4);
    let mut held = Vec::new();
    for second in 1..80 {
        let now = second * SECOND;
        serve_others(&core, now);
        if second < 30 {
            let text = format!("a long story, {second}");
            let body = chat(&text, json!({"max_tokens": 20_000}));
            held.push(ask(&core, &body, ANYBODY, now));
        }
        if second > 33 {
            if let Some(ticket) = held.pop() {
                core.end(ticket, now);
            }
        }
        core.judge(now + SECOND - 1).unwrap();
        assert!(all_are_well(&core), "second {second}: {:?}", states(&core));
    }
}

#[test]
fn who_hangs_up_early_says_nothing_however_late_the_copy_of_the_reply_ends() {
    let core = core(4);
    let mut copies = Vec::new();
    for second in 1..40 {
        let now = second * SECOND;
        serve_others(&core, now);
        for copy in copies.drain(..) {
            core.observed(copy, now);
        }
        for number in 0..20 {
            let (at, text) = (
                now + number * 45_000,
                format!("nevermind {number}, {second}"),
            );
            let body = chat(&text, json!({"max_tokens": 4, "stream": number % 2 == 0}));
            let ticket = ask(&core, &body, ANYBODY, at);
            if ticket.endpoint() == endpoint(0) {
                copies.push(core.observe(ticket.join(), None).unwrap());
            }
            core.end(ticket, at + 5_000);
        }
        core.judge(now + SECOND - 1).unwrap();
        assert!(all_are_well(&core), "second {second}: {:?}", states(&core));
    }
    let slowest = Status::of(&core).replicas.into_iter();
    let slowest = slowest
        .filter_map(|one| one.health.speed)
        .fold(9.0, f64::min);
    assert!(slowest > 0.8, "{slowest}");
}

#[test]
fn long_answers_that_are_not_streamed_make_no_replica_slow() {
    let core = core(4);
    let mut held = Vec::new();
    for second in 1..60 {
        let now = second * SECOND;
        serve_others(&core, now);
        if second % 12 == 1 {
            for ticket in held.drain(..) {
                answer(
                    &core,
                    ticket,
                    200,
                    &reply(&"word ".repeat(4_000), 12, 4_000),
                    now,
                );
            }
            for number in 0..2 {
                let text = format!("a patient client, {number}, {second}");
                held.push(ask(&core, &chat(&text, json!({})), ANYBODY, now));
            }
        }
        core.judge(now + SECOND - 1).unwrap();
        assert!(all_are_well(&core), "second {second}: {:?}", states(&core));
    }
    for ticket in held {
        core.end(ticket, 60 * SECOND);
    }
}

#[test]
fn short_answers_of_idle_replicas_one_after_another_make_none_slow() {
    for streams in [false, true] {
        let core = core(4);
        for second in 1..60 {
            for number in 0..3 {
                let at = second * SECOND + number * 330_000;
                let text = format!("a loop, {second}, {number}");
                let body = chat(&text, json!({"max_tokens": 64, "stream": streams}));
                let ticket = ask(&core, &body, ANYBODY, at);
                answer(
                    &core,
                    ticket,
                    200,
                    &reply("some forty words of text", 36, 40),
                    at + 320_000,
                );
            }
            core.judge((second + 1) * SECOND - 1).unwrap();
            assert!(all_are_well(&core), "second {second}: {:?}", states(&core));
        }
    }
}

#[test]
fn prompts_that_make_any_engine_fail_move_no_replica() {
    for status in [500, 503] {
        let core = core(2);
        for second in 1..40 {
            let now = second * SECOND;
            serve_others(&core, now);
            for number in 0..8 {
                let body = chat(&format!("{second}: crash me, {number}"), json!({}));
                let mut ticket = ask(&core, &body, ANYBODY, now);
                let (first, other) = (ticket.endpoint().to_owned(), ticket.endpoints().to_owned());
                // A 503 is asked of the next replica, which says the same.
                let next = other.split(',').find(|one| *one != first);
                let served = next.filter(|_| status == 503).unwrap_or(&first).to_owned();
                core.first_byte(&mut ticket, status, Some(&served), now + 20_000);
                core.end(ticket, now + 30_000);
            }
            core.judge(now + SECOND - 1).unwrap();
            assert!(
                all_are_well(&core),
                "{status}, {second}: {:?}",
                states(&core)
            );
        }
    }
}

#[test]
fn a_session_whose_requests_fail_costs_its_replica_nothing() {
    let core = core(4);
    let one = From {
        tenant: None,
        session: Some("one"),
    };
    for second in 1..40 {
        let now = second * SECOND;
        serve_others(&core, now);
        for number in 0..30 {
            let body = chat(&format!("{second}, {number}"), json!({}));
            answer(&core, ask(&core, &body, one, now), 500, "{}", now + 20_000);
        }
        core.judge(now + SECOND - 1).unwrap();
        assert!(all_are_well(&core), "second {second}: {:?}", states(&core));
    }
}

#[test]
fn failures_of_requests_from_before_the_ejection_do_not_keep_a_replica_out() {
    let core = core(3);
    let mut held: Vec<Ticket> = (0..30)
        .map(|number| {
            ask(
                &core,
                &chat(&format!("early {number}"), json!({})),
                ANYBODY,
                SECOND,
            )
        })
        .collect();
    let hear = |probe: &str, now: u64| {
        let seen = json!([{"endpoint": endpoint(0), "probe": probe}]);
        let seen: Vec<Observation> = serde_json::from_value(seen).unwrap();
        core.hear(&seen, now);
    };
    for second in 1..4 {
        hear("bad", second * SECOND);
        core.judge(second * SECOND).unwrap();
    }
    assert_eq!(states(&core)[0].0, ReplicaState::Ejected);
    let mut seen = Vec::new();
    for second in 4..40 {
        let now = second * SECOND;
        hear("good", now);
        if states(&core)[0].0 == ReplicaState::Probing {
            for mut ticket in held.split_off(held.len().saturating_sub(10)) {
                core.first_byte(&mut ticket, 503, None, now);
                core.end(ticket, now);
            }
        }
        core.judge(now).unwrap();
        seen.push(states(&core)[0].0);
    }
    let times_out = Status::of(&core).health.changes["ejected"]
        .values()
        .sum::<u64>();
    assert_eq!(times_out, 1, "{seen:?}");
    assert_eq!(seen.last(), Some(&ReplicaState::Healthy), "{seen:?}");
}

/// A request to go on from a response, answered as replicas do that do not know it.
fn go_on(core: &Core, response: &str, from: From<'_>, now_us: u64) -> usize {
    let body = json!({"model": "m", "input": "and then?", "previous_response_id": response});
    let mut ticket = place(core, Endpoint::Responses, &body, from, now_us);
    let endpoints = ticket.endpoints().to_owned();
    let asked: Vec<&str> = endpoints.split(',').collect();
    let (is_sought, last) = (ticket.seeks(), asked[asked.len() - 1]);
    let served = if is_sought { last } else { asked[0] };
    core.first_byte(&mut ticket, 404, Some(served), now_us + 5_000);
    core.end(ticket, now_us + 6_000);
    if is_sought { asked.len() } else { 1 }
}

#[test]
fn invented_responses_have_nobody_ejected_and_are_searched_for_within_bounds() {
    let core = core(4);
    let mut asked = 0;
    for second in 1..30 {
        let now = second * SECOND;
        for number in 0..40 {
            asked += go_on(&core, &format!("resp_{second}_{number}"), tenant("a"), now);
        }
        core.judge(now + SECOND - 1).unwrap();
        assert!(all_are_well(&core), "second {second}: {:?}", states(&core));
    }
    let requests = 29 * 40;
    assert!(
        asked < requests + (64 + 29 * 16) * 3,
        "{asked} upstream for {requests}"
    );
    let now = 40 * SECOND;
    assert_eq!(
        go_on(&core, "resp_b", tenant("b"), now),
        4,
        "another tenant may"
    );
    assert_eq!(
        go_on(&core, "resp_b", tenant("b"), now + SECOND),
        1,
        "nobody knew it"
    );
    assert_eq!(go_on(&core, "resp_b", tenant("b"), now + 60 * SECOND), 4);
}

#[test]
fn a_reply_is_billed_and_believed_by_what_was_seen_of_it() {
    let core = core(2);
    let small = |name| {
        ask(
            &core,
            &chat("a small question", json!({})),
            tenant(name),
            SECOND,
        )
    };
    let predicted = |core: &Core| core.log().after(0).last().unwrap().output_tokens;
    let before = {
        drop(small("other-1"));
        predicted(&core)
    };
    let ticket = small("victim");
    answer(
        &core,
        ticket,
        200,
        &reply("hello", 12, 1_000_000),
        SECOND + 300_000,
    );
    let record = usage(&core);
    assert_eq!(record.source, UsageSource::Observed);
    assert!(
        record.mu <= record.estimated_mu && record.output_tokens <= 5,
        "{record:?}"
    );
    for (claim, limit) in [(1_000_000, 50), (400, 50), (50, 50)] {
        let body = chat("a small question", json!({"max_tokens": limit}));
        let ticket = ask(&core, &body, tenant("victim"), SECOND);
        answer(
            &core,
            ticket,
            200,
            &reply("hello", 12, claim),
            SECOND + 30_000,
        );
        assert!(usage(&core).output_tokens <= 5, "{claim}");
    }
    drop(small("other-2"));
    assert_eq!(predicted(&core), before, "nothing is learnt of it");
    // Tokens that are not in the text, as of hidden reasoning, are borne by the time that they took.
    let ticket = small("thinker");
    answer(&core, ticket, 200, &reply("42", 12, 2_000), 11 * SECOND);
    let record = usage(&core);
    assert_eq!(
        (record.source, record.output_tokens),
        (UsageSource::Usage, 2_000)
    );
}

#[test]
fn a_reply_that_claims_fewer_tokens_than_were_seen_is_billed_and_believed_by_those() {
    let core = core(2);
    let words = |count: usize| "word ".repeat(count);
    let bill = |text: &str, prompt: u64, output: u64| {
        let question = chat(&format!("a question of {}", words(200)), json!({}));
        let ticket = ask(&core, &question, tenant("a"), SECOND);
        answer(&core, ticket, 200, &reply(text, prompt, output), 2 * SECOND);
        usage(&core)
    };
    for claim in [0, 1, 40] {
        let record = bill(&words(2_000), 210, claim);
        assert_eq!(record.source, UsageSource::Observed, "{claim}");
        assert!(record.output_tokens > 1_500, "{record:?}");
    }
    let record = bill("hello", 0, 2);
    assert!(record.prompt_tokens > 150, "{record:?}");
    drop(ask(
        &core,
        &chat("a question", json!({})),
        tenant("a"),
        SECOND,
    ));
    let expected = core.log().after(0).last().unwrap().output_tokens;
    assert!(expected > 40, "nothing is learnt of it: {expected}");
    // Long tokens, and a prompt that is given back before the answer, are no lie.
    for (text, output) in [(" ".repeat(3_000), 200), (words(210), 4)] {
        let record = bill(&text, 210, output);
        let told = (record.source, record.output_tokens);
        assert_eq!(told, (UsageSource::Usage, output));
    }
}

#[test]
fn one_tenant_s_long_answers_are_no_other_s() {
    let core = core(2);
    for number in 0..40 {
        for (name, words) in [("long", 20_000), ("short-1", 10), ("short-2", 12)] {
            let body = chat(&format!("question {number}"), json!({}));
            let ticket = ask(&core, &body, tenant(name), SECOND);
            answer(
                &core,
                ticket,
                200,
                &reply(&"word ".repeat(words), 12, words as u64),
                SECOND,
            );
        }
    }
    for name in ["short-1", "short-2", "new"] {
        let body = chat("a question", json!({}));
        drop(ask(&core, &body, tenant(name), SECOND));
        let expected = core.log().after(0).last().unwrap().output_tokens;
        assert!(expected <= 40, "{name}: {expected}");
    }
}

#[test]
fn who_hangs_up_on_an_answer_that_is_not_streamed_pays_for_the_time_that_it_ran() {
    let run = |seconds: u64, more: Value| {
        let core = core(1);
        let ticket = ask(&core, &chat("a story", more), ANYBODY, SECOND);
        core.end(ticket, (1 + seconds) * SECOND);
        usage(&core)
    };
    // 10 MU a ms for 32 requests, 1 MU a token: 312 tokens a second.
    let late = {
        let core = core(1);
        let body = chat("a story", json!({"max_tokens": 50_000}));
        let ticket = ask(&core, &body, ANYBODY, SECOND);
        let copy = core.observe(ticket.join(), None).unwrap();
        core.end(ticket, 2 * SECOND);
        core.judge(3 * SECOND).unwrap();
        core.observed(copy, 3 * SECOND);
        usage(&core).output_tokens
    };
    assert!(
        (290..=330).contains(&late),
        "not until its copy ends: {late}"
    );
    let record = run(20, json!({"max_tokens": 50_000}));
    assert!(
        (5_900..=6_300).contains(&record.output_tokens),
        "{record:?}"
    );
    assert!(
        (record.mu - record.output_tokens as f64).abs() < 20.0,
        "{record:?}"
    );
    let bounded = run(20, json!({"max_tokens": 300}));
    assert_eq!(
        bounded.output_tokens, 300,
        "no more than the client allowed"
    );
    let both = run(20, json!({"max_tokens": 50_000, "n": 2}));
    assert!(
        (5_900..=6_300).contains(&both.output_tokens),
        "one place of two: {both:?}"
    );
    let at_once = run(0, json!({"max_tokens": 50_000}));
    assert_eq!(at_once.output_tokens, 0);
    let streamed = run(20, json!({"max_tokens": 50_000, "stream": true}));
    assert_eq!(streamed.output_tokens, 0, "its first byte had not come");
}

/// Tokens of a prompt that are taken for cached where it is placed now.
fn expected_cached(core: &Core, body: &Value, now_us: u64) -> u64 {
    drop(ask(core, body, ANYBODY, now_us));
    core.log().after(0).last().unwrap().cached_tokens
}

#[test]
fn the_prefix_index_learns_from_good_replies_alone() {
    let core = core(1);
    let body = chat(
        &"many words of a long prompt ".repeat(200),
        json!({"max_tokens": 5}),
    );
    // Refused, broken off, and dropped: nothing of it is taken for cached.
    answer(&core, ask(&core, &body, ANYBODY, SECOND), 400, "{}", SECOND);
    assert_eq!(expected_cached(&core, &body, 2 * SECOND), 0);
    core.end(ask(&core, &body, ANYBODY, 3 * SECOND), 3 * SECOND);
    assert_eq!(expected_cached(&core, &body, 4 * SECOND), 0);
    // While it is on its way, others with the same beginning are drawn to it.
    let on_its_way = ask(&core, &body, ANYBODY, 5 * SECOND);
    assert!(expected_cached(&core, &body, 5 * SECOND) > 500);
    drop(on_its_way);
    assert_eq!(expected_cached(&core, &body, 6 * SECOND), 0);
    answer(
        &core,
        ask(&core, &body, ANYBODY, 7 * SECOND),
        200,
        &reply("yes", 1_200, 1),
        7 * SECOND,
    );
    assert!(expected_cached(&core, &body, 8 * SECOND) > 500);
}

#[test]
fn the_next_turn_goes_where_the_one_before_was_served() {
    let core = core(4);
    let text = "many words of a long prompt ".repeat(200);
    let body = chat(&text, json!({"max_tokens": 5}));
    let mut ticket = ask(&core, &body, ANYBODY, SECOND);
    let endpoints = ticket.endpoints().to_owned();
    let served = endpoints.split(',').nth(1).unwrap();
    core.first_byte(&mut ticket, 200, Some(served), SECOND);
    core.end(ticket, 2 * SECOND);
    let cached: Vec<usize> = (0..4)
        .map(|at| {
            let status = Status::of(&core);
            let one = status
                .replicas
                .into_iter()
                .find(|one| one.endpoint == endpoint(at));
            one.unwrap().cached_blocks
        })
        .collect();
    for (at, blocks) in cached.iter().enumerate() {
        assert_eq!(*blocks > 0, endpoint(at) == served, "{cached:?}");
    }
    let next = ask(&core, &body, ANYBODY, 3 * SECOND);
    assert_eq!(next.endpoint(), served);
    assert!(core.log().after(0).last().unwrap().cached_tokens > 500);
}

#[test]
fn refused_prompts_push_nothing_out_of_the_index() {
    let core = core(1);
    let good = chat(
        &"what is really cached ".repeat(400),
        json!({"max_tokens": 5}),
    );
    answer(
        &core,
        ask(&core, &good, ANYBODY, SECOND),
        200,
        &reply("yes", 2_000, 1),
        SECOND,
    );
    let before = expected_cached(&core, &good, 2 * SECOND);
    assert!(before > 500);
    let mut held = Vec::new();
    for number in 0..60 {
        let text = format!("{number} no such field ").repeat(4_000);
        let body = chat(&text, json!({"max_tokens": 5}));
        held.push(ask(&core, &body, ANYBODY, 3 * SECOND));
        if number % 10 == 9 {
            for ticket in held.drain(..) {
                answer(&core, ticket, 400, "{}", 3 * SECOND);
            }
        }
    }
    assert_eq!(expected_cached(&core, &good, 4 * SECOND), before);
}

#[test]
fn a_number_that_goes_to_another_replica_takes_nothing_along() {
    let core = core(1);
    let prompt = "many words of a long prompt ".repeat(400);
    let replies = |cached: u64| {
        json!({"choices": [{"message": {"content": "yes"}}], "usage": {
            "prompt_tokens": 2_400, "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": cached}
        }})
        .to_string()
    };
    let turn = |number: u64, cached: u64| {
        let from = format!("{}", number % 3);
        let from = From {
            tenant: None,
            session: Some(&from),
        };
        let ticket = ask(&core, &chat(&prompt, json!({})), from, number * SECOND);
        answer(&core, ticket, 200, &replies(cached), number * SECOND + 1);
    };
    for number in 1..60 {
        turn(number, 600);
    }
    let believed = expected_cached(&core, &chat(&prompt, json!({})), 60 * SECOND);
    assert!(believed < 1_600, "{believed}");
    assert!(
        core.tallies()
            .replica(&endpoint(0))
            .requests
            .load(std::sync::atomic::Ordering::Relaxed)
            > 0
    );
    set_replicas(&core, 0..0);
    set_replicas(&core, 1..2);
    turn(61, 0);
    let believed = expected_cached(&core, &chat(&prompt, json!({})), 62 * SECOND);
    assert!(believed > 2_000, "{believed}");
    set_replicas(&core, 0..1);
    let tally = core.tallies().replica(&endpoint(0));
    assert_eq!(tally.requests.load(std::sync::atomic::Ordering::Relaxed), 0);
}
