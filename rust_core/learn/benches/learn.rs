//! What learning costs: a prediction, an observation, and reading a reply's bytes.
//!
//! `cargo bench -p weighbridge-learn` prints one JSON object a line.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use weighbridge_learn::predict::{Ask, Predictor, Settings};
use weighbridge_learn::usage::ReplyReader;

fn percentiles(case: &str, mut nanos: Vec<u64>) {
    nanos.sort_unstable();
    let at = |share: usize| nanos[(nanos.len() - 1) * share / 1_000];
    println!(
        "{{\"case\":\"{case}\",\"p50_ns\":{},\"p99_ns\":{}}}",
        at(500),
        at(990)
    );
}

fn timed(mut act: impl FnMut(u64)) -> Vec<u64> {
    (0..200_000)
        .map(|round| {
            let start = Instant::now();
            act(round);
            u64::try_from(start.elapsed().as_nanos()).unwrap()
        })
        .collect()
}

fn ask(round: u64) -> Ask {
    let mixed = round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Ask {
        model: mixed >> 62,
        workload: mixed >> 56,
        prompt_tokens: 1 << (mixed >> 40 & 15),
        max_tokens: Some(1_024),
        stream: true,
        ..Ask::default()
    }
}

fn main() {
    // `cargo test` runs benches too, with an argument that says so.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let predictor = Predictor::new(Settings::default());
    percentiles(
        "observe",
        timed(|round| predictor.observe(&ask(round), round % 700)),
    );
    percentiles(
        "predict",
        timed(|round| {
            black_box(predictor.predict(black_box(&ask(round))));
        }),
    );
    let event = b"data: {\"id\":\"chatcmpl-5f3a\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,\
        \"model\":\"demo-8b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" bridge\"},\
        \"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";
    let mut reader = ReplyReader::new(Some("text/event-stream"), None);
    percentiles(
        &format!("event_of_{}_bytes", event.len()),
        timed(|round| reader.feed(black_box(event), round)),
    );
    let floats = vec!["-0.01234567"; 1_000_000].join(",");
    let body =
        format!("{{\"data\":[{{\"embedding\":[{floats}]}}],\"usage\":{{\"prompt_tokens\":8}}}}");
    let start = Instant::now();
    let mut reader = ReplyReader::new(Some("application/json"), None);
    for piece in body.as_bytes().chunks(16 << 10) {
        reader.feed(piece, 0);
    }
    assert_eq!(reader.reply().usage.prompt_tokens, Some(8));
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{{\"case\":\"json_numbers\",\"megabytes_per_s\":{:.0}}}",
        body.len() as f64 / 1e6 / seconds
    );
}
