//! Traces from the outside: what the formats say is what the bodies have.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use weighbridge_traces::{
    BodyOptions, Format, Generator, LoadOptions, Replay, Role, Scaling, Steady, Tenants, TextPool,
    Trace, TraceError, read, save,
};
use weighbridge_weigh::{Body, Endpoint, Limits, Reading};

fn trace(text: &str) -> Trace {
    read(text.as_bytes(), "test", &LoadOptions::default()).unwrap()
}

fn error(text: &str) -> String {
    read(text.as_bytes(), "test", &LoadOptions::default())
        .unwrap_err()
        .to_string()
}

fn replay(trace: &Trace, scaling: Scaling) -> Replay {
    Replay::new(Arc::new(trace.clone()), &scaling).unwrap()
}

fn bodies(replay: &Replay) -> Vec<Vec<u8>> {
    let pool = TextPool::new();
    let options = BodyOptions::streamed("m");
    let body = |arrival| {
        let mut body = Vec::new();
        replay.write_body(arrival, &pool, &options, &mut body);
        body
    };
    replay.arrivals().iter().map(body).collect()
}

fn readings(replay: &Replay) -> Vec<Reading> {
    let limits = Limits::default();
    let read = |body: &Vec<u8>| {
        weighbridge_weigh::read(Endpoint::ChatCompletions, Body::whole(body), &limits).unwrap()
    };
    bodies(replay).iter().map(read).collect()
}

fn messages(body: &[u8]) -> Vec<(String, String)> {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let message = |m: &serde_json::Value| (text(&m["role"]), text(&m["content"]));
    body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(message)
        .collect()
}

/// Blocks that two prompts have in common.
fn common(a: &Reading, b: &Reading) -> usize {
    let pairs = a.prefix.blocks().iter().zip(b.prefix.blocks());
    pairs.take_while(|(a, b)| a == b).count()
}

/// Nine sessions under one system block, so that it is found to be one; the first has a second turn.
fn mooncake() -> String {
    let mut rows = String::new();
    for session in 0..9 {
        let a = 10 * session;
        rows += &format!(
            "{{\"timestamp\": {session}, \"input_length\": 1700, \"output_length\": 40, \
             \"hash_ids\": [0, {}, {}, {}]}}\n",
            a + 1,
            a + 2,
            a + 3,
        );
    }
    rows + "{\"timestamp\": 9000, \"input_length\": 2300, \"output_length\": 7, \
            \"hash_ids\": [0, 1, 2, 4, 5]}\n"
}

#[test]
fn mooncake_turns_are_found_by_their_blocks() {
    let trace = trace(&mooncake());
    assert_eq!(trace.session_count(), 9);
    let last = trace.requests().last().unwrap();
    assert_eq!((trace.session(last.session), last.turn), ("s1", 2));
    assert_eq!((last.input_tokens, last.output_tokens), (2300, 7));
    let bodies = bodies(&replay(&trace, Scaling::default()));
    let (first, second) = (messages(&bodies[0]), messages(bodies.last().unwrap()));
    assert_eq!(second[..2], first[..]);
    let roles: Vec<&str> = second.iter().map(|(role, _)| role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user"]);
    let words = |message: &(String, String)| message.1.split(' ').count();
    assert_eq!(
        second.iter().map(words).collect::<Vec<_>>(),
        [512, 1188, 40, 560]
    );
    // What the next turn quotes is the answer that the engine gave.
    let reply = trace.requests()[0].reply.unwrap();
    assert_eq!(
        trace.message(reply).map(|m| (m.role, m.tokens)),
        Some((Role::Assistant, 40))
    );
}

#[test]
fn shared_blocks_are_shared_bytes_and_others_are_not() {
    let text = mooncake()
        + "{\"timestamp\": 9100, \"input_length\": 1600, \"output_length\": 7, \"hash_ids\": [0, 1, 98, 99]}\n";
    let readings = readings(&replay(&trace(&text), Scaling::default()));
    let of = |at: usize| &readings[at];
    // A system prompt of 512 words is 2,047 bytes: eight blocks of 256 and a short one.
    let lead = of(0).prefix.sections().system;
    assert_eq!(common(of(0), of(1)), lead);
    // The document begins with the same block, a block of 512 words further they part.
    assert_eq!(common(of(0), of(10)), lead + 8);
    assert_eq!(of(0).session.opening, of(9).session.opening);
    assert_ne!(of(0).session.opening, of(1).session.opening);
}

#[test]
fn a_prompt_sent_again_is_the_same_session_and_text() {
    let text = mooncake() + mooncake().lines().next().unwrap();
    let trace = trace(&text);
    let bodies = bodies(&replay(&trace, Scaling::default()));
    assert_eq!(trace.session_count(), 9);
    assert_eq!(bodies[0], bodies[1]);
}

#[test]
fn a_conversation_that_went_on_elsewhere_is_a_session_of_its_own() {
    let text = mooncake()
        + "{\"timestamp\": 9100, \"input_length\": 2250, \"output_length\": 7, \"hash_ids\": [0, 1, 2, 8, 9]}\n";
    let trace = trace(&text);
    assert_eq!(trace.session_count(), 10);
    let [.., second, branch] = trace.requests() else {
        panic!("two requests at least");
    };
    assert_eq!(branch.turn, 1);
    assert_ne!(second.session, branch.session);
    assert!(trace.extends(branch.prompt, trace.requests()[0].prompt));
}

#[test]
fn azure_rows_are_sessions_of_one_request() {
    let trace = trace(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n\
         2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
    );
    let rows: Vec<_> = trace
        .requests()
        .iter()
        .map(|r| (r.at_us, r.input_tokens, r.output_tokens))
        .collect();
    assert_eq!(rows, [(0, 374, 44), (4_314_579, 396, 109)]);
    assert_eq!(trace.session_count(), 2);
}

#[test]
fn burstgpt_comes_with_sessions_and_without() {
    let plain = trace(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
         5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,Conversation log\n\
         118,GPT-4,417,276,693,Conversation log\n",
    );
    assert_eq!(plain.requests().len(), 2, "a failure is left out");
    assert_eq!(plain.requests()[1].at_us, 113_000_000);
    let named = trace(
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
         5,c1,2,ChatGPT,100,18,490,Conversation log\n45,c1,2,ChatGPT,150,20,1087,Conversation log\n\
         50,c1,2,ChatGPT,90,20,1087,Conversation log\n60,,2,GPT-4,417,276,693,API log\n",
    );
    let turns: Vec<_> = named
        .requests()
        .iter()
        .map(|r| (named.session(r.session), r.turn))
        .collect();
    assert_eq!(turns, [("c1", 1), ("c1", 2), ("c1.2", 1), ("r4", 1)]);
    let (first, second) = (&named.requests()[0], &named.requests()[1]);
    assert!(named.extends(second.prompt, first.prompt));
    assert_eq!(second.input_tokens, 150);
}

#[test]
fn agents_of_one_line_are_sessions_that_share_what_is_common() {
    let line = |id: &str| {
        format!(
            "{{\"id\":\"{id}\",\"block_size\":64,\"tool_tokens\":128,\"system_tokens\":64,\"requests\":[\
             {{\"t\":0.0,\"sub\":0,\"in\":650,\"out\":30,\"nblk\":10,\"common\":0}},\
             {{\"t\":1.0,\"sub\":1,\"in\":300,\"out\":30,\"nblk\":4,\"common\":0}},\
             {{\"t\":9.0,\"sub\":0,\"in\":800,\"out\":30,\"nblk\":12,\"common\":0}},\
             {{\"t\":12.0,\"sub\":0,\"in\":900,\"out\":30,\"nblk\":14,\"common\":12}}]}}\n"
        )
    };
    let trace = trace(&(line("a") + &line("b")));
    let names: Vec<&str> = (0..4).map(|session| trace.session(session)).collect();
    assert_eq!(names, ["a/0", "a/1", "b/0", "b/1"]);
    let replay = replay(&trace, Scaling::default());
    let readings = readings(&replay);
    let of = |session: &str, turn: u32| {
        let at = replay.arrivals().iter().position(|arrival| {
            let request = replay.request(arrival).unwrap();
            replay.session(arrival) == session && request.turn == turn
        });
        &readings[at.unwrap()]
    };
    let system = of("a/0", 1).prefix.sections().system;
    assert_eq!(
        system, 4,
        "192 words of tools and system prompt, and what starts a message"
    );
    assert_eq!(common(of("a/0", 1), of("b/0", 1)), system);
    assert_eq!(common(of("a/0", 1), of("a/1", 1)), 0);
    // The first turn's prompt is the beginning of the second's, and that of the third's.
    assert!(common(of("a/0", 1), of("a/0", 2)) >= of("a/0", 1).prefix.len() - 1);
    assert!(common(of("a/0", 2), of("a/0", 3)) >= of("a/0", 2).prefix.len() - 1);
}

#[test]
fn envoys_log_gives_what_it_has() {
    let trace = trace(
        r#"{"time":"2026-11-25T07:33:56.000Z","method":"POST","path":"/v1/chat/completions","status":"200","bytes_in":4000,"bytes_out":"20000","session":"x"}
{"time":"2026-11-25T07:33:55.000Z","method":"POST","path":"/v1/chat/completions?a=b","status":200,"bytes_in":"400","bytes_out":2000,"session":"x","tenant":"acme"}
{"time":"2026-11-25T07:33:57.000Z","method":"GET","path":"/v1/models","status":200,"bytes_in":0,"bytes_out":90}
{"time":"2026-11-25T07:33:58.000Z","method":"POST","path":"/v1/completions","status":503,"bytes_in":9,"bytes_out":0}
{"time":"2026-11-25T07:33:59.000Z","method":"POST","path":"/v1/completions","status":200,"bytes_in":9,"bytes_out":0,"input_tokens":77,"output_tokens":5,"session":"-"}
"#,
    );
    let rows: Vec<_> = trace
        .requests()
        .iter()
        .map(|r| {
            (
                r.at_us,
                trace.session(r.session),
                r.turn,
                r.input_tokens,
                r.output_tokens,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            (0, "x", 1, 100, 10),
            (1_000_000, "x", 2, 1000, 100),
            (4_000_000, "r3", 1, 77, 5)
        ]
    );
    assert_eq!(trace.tenant(trace.requests()[0].tenant), "acme");
}

#[test]
fn our_own_format_names_contents() {
    let trace = trace(
        r#"{"at_s":0,"session":"a","tenant":"acme","output_tokens":18,"max_tokens":40,"messages":[{"role":"system","content":"helpdesk","tokens":900},{"role":"user","tokens":200}]}
{"at_s":1.5,"session":"b","output_tokens":18,"messages":[{"role":"system","content":"helpdesk","tokens":900},{"role":"user","tokens":200}]}
{"at_s":4,"session":"a","output_tokens":9,"messages":[{"role":"assistant","tokens":18},{"role":"user","tokens":45}]}
"#,
    );
    assert_eq!(trace.requests()[0].max_tokens, 40);
    let readings = readings(&replay(&trace, Scaling::default()));
    let lead = readings[0].prefix.sections().system;
    assert_eq!(
        common(&readings[0], &readings[1]),
        lead,
        "unnamed contents are different"
    );
    assert!(common(&readings[0], &readings[2]) > lead);
    assert_eq!(trace.requests()[2].input_tokens, 1163);
}

#[test]
fn faults_are_named_with_their_line() {
    let own =
        r#"{"at_s":0,"session":"a","output_tokens":1,"messages":[{"role":"boss","tokens":1}]}"#;
    for (text, part) in [
        (
            "{\"timestamp\":0,\"input_length\":5,\"output_length\":1,\"hash_ids\":[1]}\n\n{}\n",
            "test:3: missing field",
        ),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,2\n",
            "test:2: expected a date, not 'noon'",
        ),
        ("TIMESTAMP,ContextTokens\n", "no column 'GeneratedTokens'"),
        (own, "test:1: role: 'boss' is no role"),
        (
            r#"{"at_s":-1,"session":"a","output_tokens":1,"messages":[]}"#,
            "no time in s",
        ),
        (
            r#"{"at_s":1,"session":"a","output_tokens":1,"messages":[]}"#,
            "the first request has none",
        ),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n",
            "holds no request",
        ),
        ("hello\n", "the format is none of: mooncake, azure"),
        ("", "holds no request"),
    ] {
        let error = error(text);
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn formats_have_names() {
    for name in Format::names() {
        assert!(Format::named(name).is_some());
    }
    assert_eq!(Format::named("csv"), None);
}

fn small() -> Generator {
    Generator {
        duration_s: 60.0,
        tenants: 5,
        ..Generator::default()
    }
}

#[test]
fn equal_seeds_make_equal_traces() {
    let made = small().generate().unwrap();
    assert_eq!(made, small().generate().unwrap());
    let other = Generator { seed: 1, ..small() };
    assert_ne!(made, other.generate().unwrap());
}

#[test]
fn generated_sessions_grow_and_share_prompts() {
    let trace = small().generate().unwrap();
    let mut last: HashMap<u32, _> = HashMap::new();
    for request in trace.requests() {
        if let Some((turn, prompt)) = last.insert(request.session, (request.turn, request.prompt)) {
            assert_eq!(request.turn, turn + 1);
            assert!(trace.extends(request.prompt, prompt));
        } else {
            assert_eq!(request.turn, 1);
        }
    }
    let systems: std::collections::HashSet<_> = trace
        .requests()
        .iter()
        .map(|r| trace.path(r.prompt)[0])
        .collect();
    assert!(trace.requests().iter().any(|r| r.turn > 2));
    let contents: std::collections::HashSet<_> = systems
        .iter()
        .map(|id| trace.pieces(trace.message(*id).unwrap())[0].content)
        .collect();
    assert!(
        contents.len() < trace.session_count() / 2,
        "system prompts are shared"
    );
}

#[test]
fn bursts_and_days_move_sessions_but_keep_their_shape() {
    let starts = |generator: &Generator, from: f64, to: f64| {
        let trace = generator.generate().unwrap();
        let first = trace.requests().iter().filter(|r| r.turn == 1);
        let within =
            |r: &&weighbridge_traces::Request| (from..to).contains(&(r.at_us as f64 / 1e6));
        first.filter(within).count() as f64
    };
    let mut generator = Generator {
        duration_s: 120.0,
        sessions_per_s: 20.0,
        ..small()
    };
    generator.bursts.every_s = 60.0;
    generator.agents.share = 0.0;
    let burst = starts(&generator, 60.5, 69.5) / starts(&generator, 80.5, 89.5);
    assert!((3.0..5.5).contains(&burst), "{burst}");
    generator.bursts.every_s = 0.0;
    generator.diurnal.period_s = 120.0;
    generator.diurnal.amplitude = 0.8;
    let noon = starts(&generator, 50.0, 70.0) / starts(&generator, 0.0, 20.0);
    assert!(noon > 4.0, "{noon}");
}

#[test]
fn a_generator_out_of_range_is_refused() {
    let bad = Generator {
        tenants: 0,
        ..small()
    };
    assert!(matches!(bad.generate(), Err(TraceError::Setting(_))));
    let bad = Generator {
        document_share: 1.5,
        ..small()
    };
    assert!(
        bad.generate()
            .unwrap_err()
            .to_string()
            .contains("document_share")
    );
}

#[test]
fn a_saved_trace_is_read_back_to_the_same_bytes() {
    for trace in [trace(&mooncake()), small().generate().unwrap()] {
        let mut file = Vec::new();
        save(&trace, &mut file).unwrap();
        let again = read(file.as_slice(), "test", &LoadOptions::default()).unwrap();
        let (a, b) = (
            replay(&trace, Scaling::default()),
            replay(&again, Scaling::default()),
        );
        assert_eq!(bodies(&a), bodies(&b));
        let shape = |replay: &Replay| -> Vec<_> {
            let all = replay.arrivals().iter();
            all.map(|arrival| {
                let request = replay.request(arrival).unwrap();
                (
                    arrival.at_us,
                    replay.session(arrival),
                    replay.tenant(arrival),
                    request.output_tokens,
                    request.max_tokens,
                )
            })
            .collect()
        };
        assert_eq!(shape(&a), shape(&b));
    }
}

#[test]
fn the_rate_is_met_and_is_the_same_throughout() {
    let trace = small().generate().unwrap();
    for factor in [0.3, 1.0, 2.5, 7.0] {
        let rate = trace.rate() * factor;
        let replay = replay(
            &trace,
            Scaling {
                rate: Some(rate),
                ..Scaling::default()
            },
        );
        let error = replay.rate() / rate - 1.0;
        assert!(error.abs() < 0.03, "{factor}: {error}");
    }
    let many = replay(
        &trace,
        Scaling {
            rate: Some(trace.rate() * 40.0),
            ..Scaling::default()
        },
    );
    let half = many.duration_us() / 2;
    let early = many.arrivals().iter().filter(|a| a.at_us < half).count() as f64;
    let share = early / many.arrivals().len() as f64;
    assert!((0.42..0.58).contains(&share), "{share}");
}

#[test]
fn copies_share_system_prompts_and_nothing_else() {
    let trace = trace(&mooncake());
    let twice = replay(
        &trace,
        Scaling {
            rate: Some(2.0 * trace.rate()),
            ..Scaling::default()
        },
    );
    let readings = readings(&twice);
    let find = |copied: bool| {
        twice
            .arrivals()
            .iter()
            .position(|arrival| arrival.request == 0 && (arrival.copy != 0) == copied)
    };
    let (original, copy) = (
        &readings[find(false).unwrap()],
        &readings[find(true).unwrap()],
    );
    assert_eq!(common(original, copy), original.prefix.sections().system);
    assert_ne!(original.session.opening, copy.session.opening);
}

#[test]
fn windows_time_and_lengths_are_cut() {
    let trace = small().generate().unwrap();
    let window = replay(
        &trace,
        Scaling {
            start_s: 10.0,
            duration_s: Some(20.0),
            ..Scaling::default()
        },
    );
    assert_eq!(window.duration_us(), 20_000_000);
    let inside = trace
        .requests()
        .iter()
        .filter(|r| (10_000_000..30_000_000).contains(&r.at_us))
        .count();
    assert_eq!(window.arrivals().len(), inside);
    let fast = replay(
        &trace,
        Scaling {
            time_scale: 4.0,
            ..Scaling::default()
        },
    );
    assert_eq!(fast.arrivals().len(), trace.requests().len());
    assert_eq!(fast.duration_us(), trace.span_us() / 4);
    let short = replay(
        &trace,
        Scaling {
            most_tokens: Some(2000),
            ..Scaling::default()
        },
    );
    let longest = short
        .arrivals()
        .iter()
        .map(|a| short.request(a).unwrap())
        .map(|r| r.input_tokens + r.output_tokens);
    assert!(longest.max().unwrap() <= 2000);
    for bad in [
        Scaling {
            rate: Some(0.0),
            ..Scaling::default()
        },
        Scaling {
            rate: Some(1e12),
            ..Scaling::default()
        },
        Scaling {
            time_scale: f64::NAN,
            ..Scaling::default()
        },
        Scaling {
            start_s: 1e9,
            ..Scaling::default()
        },
    ] {
        assert!(
            Replay::new(Arc::new(trace.clone()), &bad).is_err(),
            "{bad:?}"
        );
    }
}

#[test]
fn a_steady_tenant_asks_the_same_whatever_the_others_do() {
    let trace = small().generate().unwrap();
    let steady = Steady {
        tenant: "steady".to_owned(),
        rate: trace.rate() * 0.5,
    };
    let asked = |factor: f64| {
        let replay = replay(
            &trace,
            Scaling {
                rate: Some(trace.rate() * factor),
                steady: Some(steady.clone()),
                seed: 3,
                ..Scaling::default()
            },
        );
        let bodies = bodies(&replay);
        let asked: Vec<_> = replay
            .arrivals()
            .iter()
            .zip(bodies)
            .filter(|(arrival, _)| replay.tenant(arrival) == "steady")
            .map(|(arrival, body)| (arrival.at_us, replay.session(arrival), body))
            .collect();
        (replay.arrivals().len() - asked.len(), asked)
    };
    let ((few, alone), (many, flooded)) = (asked(0.1), asked(4.0));
    assert!(many > 20 * few, "{few}, {many}");
    assert_eq!(alone, flooded);
    let share = alone.len() as f64 / trace.requests().len() as f64;
    assert!((0.4..0.6).contains(&share), "{share}");
}

#[test]
fn tenants_can_be_dealt_with_skew() {
    let trace = small().generate().unwrap();
    let tenants = Some(Tenants {
        count: 10,
        skew: 1.5,
    });
    let replay = replay(
        &trace,
        Scaling {
            tenants,
            rate: Some(trace.rate() * 5.0),
            ..Scaling::default()
        },
    );
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut of_session: HashMap<String, String> = HashMap::new();
    for arrival in replay.arrivals() {
        let tenant = replay.tenant(arrival);
        *counts.entry(tenant.clone()).or_default() += 1;
        let known = of_session
            .entry(replay.session(arrival))
            .or_insert(tenant.clone());
        assert_eq!(*known, tenant, "a session has one tenant");
    }
    assert!(counts["t1"] > 2 * counts["t3"], "{counts:?}");
}

proptest! {
    #[test]
    fn no_file_makes_the_loader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(bytes.as_slice(), "test", &LoadOptions::default());
    }

    #[test]
    fn no_row_makes_the_loader_panic(
        at in any::<f64>(), input in any::<u32>(), output in any::<u32>(),
        ids in proptest::collection::vec(0..4u64, 0..6),
    ) {
        let row = |output: u32| format!(
            "{{\"timestamp\":{at},\"input_length\":{input},\"output_length\":{output},\"hash_ids\":{ids:?}}}\n"
        );
        let _ = read((row(output) + &row(1) + &row(output)).as_bytes(), "test", &LoadOptions::default());
    }

    #[test]
    fn the_body_has_as_many_words_as_the_prompt_has_tokens(seed: u64) {
        let generator = Generator { seed, duration_s: 3.0, ..small() };
        if let Ok(trace) = generator.generate() {
            let replay = replay(&trace, Scaling::default());
            for (arrival, body) in replay.arrivals().iter().zip(bodies(&replay)) {
                let words: usize = messages(&body).iter().map(|(_, text)| text.split(' ').count()).sum();
                prop_assert_eq!(words as u32, replay.request(arrival).unwrap().input_tokens);
            }
        }
    }
}
