//! How well answers' lengths are predicted on a trace, in the order of time: each request is
//! predicted from those alone that had ended before it arrived.
//!
//! `cargo run --release -p weighbridge-learn --example evaluate_prediction -- TRACE` prints JSON:
//! pinball loss (mean, in tokens) and coverage at 0.5, 0.9 and 0.95, and the error of the mean,
//! beside predictors that know less. Clients' limits are not used: traces do not have them.

#![allow(clippy::cast_precision_loss)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use weighbridge_learn::predict::{Ask, Prediction, Predictor, Settings};
use weighbridge_traces::{LoadOptions, load};

const SHARES: [f64; 3] = [0.5, 0.9, 0.95];
/// How long an answer takes, so that it is known only then: a second, and 25 ms a token.
const FIRST_US: u64 = 1_000_000;
const TOKEN_US: u64 = 25_000;

/// Something that predicts the mean and three quantiles.
trait Guess {
    fn guess(&mut self, ask: &Ask) -> [f64; 4];
    fn learn(&mut self, ask: &Ask, tokens: u64);
}

/// Ours.
struct Ours(Predictor);

impl Guess for Ours {
    fn guess(&mut self, ask: &Ask) -> [f64; 4] {
        let Prediction {
            mean,
            p50,
            p90,
            p95,
        } = self.0.predict(ask);
        [mean, p50, p90, p95]
    }

    fn learn(&mut self, ask: &Ask, tokens: u64) {
        self.0.observe(ask, tokens);
    }
}

/// One number, come what may.
struct Constant(f64);

impl Guess for Constant {
    fn guess(&mut self, _: &Ask) -> [f64; 4] {
        [self.0; 4]
    }

    fn learn(&mut self, _: &Ask, _: u64) {}
}

/// The mean of all answers so far.
#[derive(Default)]
struct Mean {
    sum: f64,
    count: f64,
}

impl Guess for Mean {
    fn guess(&mut self, _: &Ask) -> [f64; 4] {
        let mean = if self.count > 0.0 {
            self.sum / self.count
        } else {
            256.0
        };
        [mean; 4]
    }

    fn learn(&mut self, _: &Ask, tokens: u64) {
        self.sum += tokens as f64;
        self.count += 1.0;
    }
}

/// Half as many tokens again as the prompt has: what one endpoint picker assumes.
struct OfThePrompt;

impl Guess for OfThePrompt {
    fn guess(&mut self, ask: &Ask) -> [f64; 4] {
        [ask.prompt_tokens as f64 * 1.5; 4]
    }

    fn learn(&mut self, _: &Ask, _: u64) {}
}

/// Mean and quantiles of all answers so far, whatever was asked.
#[derive(Default)]
struct Pooled {
    sorted: Vec<u64>,
    sum: f64,
}

impl Guess for Pooled {
    fn guess(&mut self, _: &Ask) -> [f64; 4] {
        let Some(last) = self.sorted.len().checked_sub(1) else {
            return [256.0; 4];
        };
        let at = |share: f64| self.sorted[(last as f64 * share) as usize] as f64;
        let [p50, p90, p95] = SHARES.map(at);
        [self.sum / self.sorted.len() as f64, p50, p90, p95]
    }

    fn learn(&mut self, _: &Ask, tokens: u64) {
        let at = self.sorted.partition_point(|other| *other < tokens);
        self.sorted.insert(at, tokens);
        self.sum += tokens as f64;
    }
}

#[derive(Default)]
struct Score {
    count: f64,
    pinball: [f64; 3],
    covered: [f64; 3],
    absolute: f64,
    signed: f64,
    tokens: f64,
}

impl Score {
    fn add(&mut self, guess: [f64; 4], actual: u64) {
        let actual = actual as f64;
        let [mean, quantiles @ ..] = guess;
        self.count += 1.0;
        self.tokens += actual;
        self.absolute += (mean - actual).abs();
        self.signed += mean - actual;
        for (at, (share, guess)) in SHARES.iter().zip(quantiles).enumerate() {
            let over = actual - guess;
            self.pinball[at] += (share * over).max((share - 1.0) * over);
            self.covered[at] += f64::from(u8::from(actual <= guess));
        }
    }

    fn json(&self) -> Value {
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        let per = |sums: [f64; 3]| {
            let [p50, p90, p95] = sums.map(|sum| round(sum / self.count));
            json!({"p50": p50, "p90": p90, "p95": p95})
        };
        json!({
            "pinball_tokens": per(self.pinball),
            "coverage": per(self.covered),
            "mean_absolute_error_tokens": round(self.absolute / self.count),
            "bias_of_total": round(self.signed / self.tokens),
        })
    }
}

/// Runs a predictor over requests by time of arrival.
fn evaluate(requests: &[(u64, Ask, u64)], guess: &mut dyn Guess) -> Value {
    let mut score = Score::default();
    let mut ends = BinaryHeap::new();
    // The first tenth is learnt from and not counted.
    let first = requests.len() / 10;
    for (at, (arrival_us, ask, tokens)) in requests.iter().enumerate() {
        while let Some(Reverse((end_us, ended))) = ends.peek().copied() {
            if end_us > *arrival_us {
                break;
            }
            ends.pop();
            let (_, ask, tokens): &(u64, Ask, u64) = &requests[ended];
            guess.learn(ask, *tokens);
        }
        if at >= first {
            score.add(guess.guess(ask), *tokens);
        }
        ends.push(Reverse((arrival_us + FIRST_US + tokens * TOKEN_US, at)));
    }
    score.json()
}

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("evaluate_prediction TRACE");
        return ExitCode::FAILURE;
    };
    let trace = match load(Path::new(&path), &LoadOptions::default()) {
        Ok(trace) => trace,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let requests: Vec<(u64, Ask, u64)> = trace
        .requests()
        .iter()
        .map(|request| {
            let ask = Ask {
                model: 1,
                workload: 1 + u64::from(request.tenant),
                prompt_tokens: u64::from(request.input_tokens),
                stream: true,
                ..Ask::default()
            };
            (request.at_us, ask, u64::from(request.output_tokens))
        })
        .collect();
    let settings = Settings::default();
    let mut guesses: Vec<(&str, Box<dyn Guess>)> = vec![
        ("weighbridge", Box::new(Ours(Predictor::new(settings)))),
        ("pooled_quantiles", Box::new(Pooled::default())),
        ("running_mean", Box::new(Mean::default())),
        ("constant_256", Box::new(Constant(256.0))),
        ("prompt_times_1.5", Box::new(OfThePrompt)),
    ];
    let scores: serde_json::Map<String, Value> = guesses
        .iter_mut()
        .map(|(name, guess)| ((*name).to_owned(), evaluate(&requests, guess.as_mut())))
        .collect();
    let report = json!({
        "trace": trace.name(),
        "requests": requests.len(),
        "counted": requests.len() - requests.len() / 10,
        "settings": settings,
        "predictors": scores,
    });
    println!("{report:#}");
    ExitCode::SUCCESS
}
