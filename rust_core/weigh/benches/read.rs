//! How fast bodies are read: parse, byte classes, prefix chain.
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
fn chat(texts: &[String], bytes: usize, tools: bool) -> Vec<u8> {
    let mut messages = vec![json!({"role": "system", "content": "You are a helpful assistant."})];
    let mut size = 300;
    for (i, text) in texts.iter().cycle().enumerate() {
        let room = bytes.saturating_sub(size);
        if room < 60 {
            break;
        }
        let text: String = text.chars().take(room - 40).collect();
        size += serde_json::to_string(&text).unwrap().len() + 40;
        let role = if i % 2 == 0 { "user" } else { "assistant" };
        messages.push(json!({"role": role, "content": text}));
    }
    let mut body = json!({
        "model": "llama", "messages": messages, "temperature": 0.7, "max_tokens": 512,
        "stream": true, "stream_options": {"include_usage": true},
    });
    if tools {
        let lines = texts.iter().flat_map(|text| text.lines());
        let tools = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut left = bytes;
        body["messages"] = json!([{"role": "user", "content": "Which?"}]);
        body["tools"] = tools
            .take_while(|tool| {
                left = left.saturating_sub(tool.to_string().len());
                left > 0
            })
            .collect();
    }
    body.to_string().into_bytes()
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
        bodies.push(("chat", chat(&prose, bytes, false)));
        bodies.push((
            "one message",
            chat(&[prose.concat().repeat(1 + bytes / 50_000)], bytes, false),
        ));
        bodies.push(("code", chat(&code, bytes, false)));
        bodies.push(("chinese", chat(&chinese, bytes / 3, false)));
        bodies.push(("chinese escaped", ascii(&chat(&chinese, bytes / 6, false))));
    }
    bodies.push(("tools", chat(&tools, 32 << 10, true)));
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
