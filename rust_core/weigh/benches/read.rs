//! How fast bodies are read: parse, tokens, prefix chain.
//!
//! `cargo bench -p weighbridge-weigh --bench read` measures with criterion; with
//! `-- --json FILE` it prints one line per row as JSON instead (`-` is standard output):
//! `{"kind","body_bytes","best_us","median_us","gb_per_s"}`, the rate by the median.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::hint::black_box;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use serde_json::{Value, json};
use weighbridge_weigh::{Body, Endpoint, Features, Limits, Reading, read};

const SIZES: [usize; 5] = [512, 4 << 10, 32 << 10, 256 << 10, 1 << 20];

/// Texts of the corpus, in order.
fn texts(kinds: &[&str]) -> Vec<String> {
    let mut texts = Vec::new();
    for kind in kinds {
        let name = format!("tests/corpus/{kind}.held.jsonl");
        let lines =
            fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        for line in lines.lines() {
            let document: Value = serde_json::from_str(line).unwrap();
            texts.push(document["text"].as_str().unwrap().to_owned());
        }
    }
    texts
}

/// A chat of about `bytes` bytes whose messages are the given texts, over and over.
fn chat(texts: &[String], bytes: usize) -> Vec<u8> {
    let mut messages =
        String::from(r#"{"role":"system","content":"You are a helpful assistant."}"#);
    for (i, text) in texts.iter().cycle().enumerate() {
        let room = bytes.saturating_sub(messages.len() + 200);
        if room < 60 {
            break;
        }
        let most = text
            .char_indices()
            .map(|(at, _)| at)
            .take_while(|at| at + 40 <= room)
            .last();
        let text = text
            .split_at(if text.len() + 40 <= room {
                text.len()
            } else {
                most.unwrap_or(0)
            })
            .0;
        let role = if i % 2 == 0 { "user" } else { "assistant" };
        messages += &format!(r#",{{"role":"{role}","content":{}}}"#, Value::from(text));
    }
    body(&messages, "")
}

/// A chat with one short message and about `bytes` bytes of the given definitions of tools.
fn chat_with_tools(texts: &[String], bytes: usize) -> Vec<u8> {
    let mut tools = String::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        if serde_json::from_str::<Value>(line).is_ok() && tools.len() + line.len() < bytes {
            tools += if tools.is_empty() { "" } else { "," };
            tools += line;
        }
    }
    body(
        r#"{"role":"user","content":"Which?"}"#,
        &format!(r#","tools":[{tools}]"#),
    )
}

/// A body in the order in which OpenAI's clients write it.
fn body(messages: &str, tools: &str) -> Vec<u8> {
    let head = format!(r#"{{"messages":[{messages}],"model":"llama","max_tokens":512"#);
    let tail = r#","stream":true,"stream_options":{"include_usage":true},"temperature":0.7}"#;
    format!("{head}{tools}{tail}").into_bytes()
}

/// The same with every character beyond ASCII escaped, as Python's `json.dumps` writes it.
fn ascii(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for char in std::str::from_utf8(body).unwrap().chars() {
        if char.is_ascii() {
            out.push(char as u8);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").unwrap();
            }
        }
    }
    out
}

/// Bodies of every kind and size.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let prose = texts(&["chat"]);
    let code = texts(&["code"]);
    let chinese = texts(&["chinese"]);
    let tools = texts(&["json"]);
    let mut bodies = Vec::new();
    for bytes in SIZES {
        let one = prose.concat().repeat(1 + bytes / 50_000);
        bodies.push(("chat", chat(&prose, bytes)));
        bodies.push(("one message", chat(&[one], bytes)));
        bodies.push(("code", chat(&code, bytes)));
        bodies.push(("chinese", chat(&chinese, bytes)));
        bodies.push(("chinese escaped", ascii(&chat(&chinese, bytes / 2))));
    }
    bodies.push(("tools", chat_with_tools(&tools, 32 << 10)));
    bodies
}

fn read_chat(body: &[u8]) -> Reading {
    read(
        Endpoint::ChatCompletions,
        Body::whole(body),
        &Limits::default(),
    )
    .unwrap()
}

fn with_criterion() {
    let mut criterion = Criterion::default().configure_from_args();
    for (kind, body) in bodies() {
        let mut group = criterion.benchmark_group("read");
        group.throughput(Throughput::Bytes(body.len() as u64));
        group
            .measurement_time(Duration::from_secs(2))
            .warm_up_time(Duration::from_millis(300));
        group.bench_function(format!("{kind}/{}", body.len()), |b| {
            b.iter(|| read_chat(black_box(&body)))
        });
    }
    let text = texts(&["chat"]).concat();
    let mut group = criterion.benchmark_group("features");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("prose", |b| {
        b.iter(|| Features::of(black_box(text.as_bytes())))
    });
    group.finish();
    criterion.final_summary();
}

/// Times of single runs, for about a quarter of a second.
fn times(mut run: impl FnMut()) -> Vec<f64> {
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(250) || times.len() < 20 {
        let one = Instant::now();
        run();
        times.push(one.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times
}

fn as_json(file: &str) {
    let mut lines = String::new();
    for (kind, body) in bodies() {
        // Short bodies several times over, so that the clock's own cost does not show.
        let rounds = (100_000 / body.len()).clamp(1, 100);
        let times = times(|| {
            for _ in 0..rounds {
                black_box(read_chat(black_box(&body)));
            }
        });
        let median = times[times.len() / 2] / rounds as f64;
        let row = json!({
            "kind": kind,
            "body_bytes": body.len(),
            "best_us": (times[0] / rounds as f64 * 1000.0).round() / 1000.0,
            "median_us": (median * 1000.0).round() / 1000.0,
            "gb_per_s": (body.len() as f64 / median).round() / 1000.0,
        });
        lines += &format!("{row}\n");
    }
    if file == "-" {
        print!("{lines}");
    } else {
        fs::write(file, lines).unwrap();
    }
}

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--json");
    match arguments.nth(1) {
        Some(file) => as_json(&file),
        None => with_criterion(),
    }
}
