//! What came of one model's requests: times, and how true the predictions were.

use crate::histogram::{FIRST_TOKEN_NS, Histogram, HistogramStatus, REQUEST_NS};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use weighbridge_weigh::Work;

/// One model's measures, since start.
#[derive(Debug)]
pub(crate) struct Measures {
    first_token: Histogram,
    request: Histogram,
    queue: Histogram,
    prompt: Prediction,
    cached: Prediction,
    output: Prediction,
    ttft: InTime,
    tpot: InTime,
}

/// How long the parts of a request took, from its arrival here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Before it was admitted, µs; 0 where it had not to wait.
    pub(crate) waited_us: u64,
    /// Until the first token, as far as it was seen, µs.
    pub(crate) first_token_us: Option<u64>,
    /// Until its end, µs.
    pub(crate) whole_us: u64,
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            first_token: Histogram::new(FIRST_TOKEN_NS),
            request: Histogram::new(REQUEST_NS),
            queue: Histogram::new(REQUEST_NS),
            prompt: Prediction::default(),
            cached: Prediction::default(),
            output: Prediction::default(),
            ttft: InTime::default(),
            tpot: InTime::default(),
        }
    }
}

impl Measures {
    pub(crate) fn took(&self, times: Times) {
        if times.waited_us > 0 {
            self.queue.observe(Duration::from_micros(times.waited_us));
        }
        if let Some(us) = times.first_token_us {
            self.first_token.observe(Duration::from_micros(us));
        }
        self.request.observe(Duration::from_micros(times.whole_us));
    }

    /// Whether a streamed answer met its objectives; `None` of one that was not seen.
    pub(crate) fn judge(&self, ttft: Option<bool>, tpot: Option<bool>) {
        self.ttft.count(ttft);
        self.tpot.count(tpot);
    }

    /// A reply told what it took; `reports_cache` when that of its cache as well.
    pub(crate) fn compare(&self, expected: &Work, actual: &Work, reports_cache: bool) {
        let choices = u64::from(actual.choices.max(1));
        self.prompt
            .compare(expected.prompt_tokens, actual.prompt_tokens);
        if reports_cache {
            self.cached
                .compare(expected.cached_tokens, actual.cached_tokens);
        }
        self.output.compare(
            expected.output_tokens.saturating_mul(choices),
            actual.output_tokens.saturating_mul(choices),
        );
    }

    pub(crate) fn look(&self) -> MeasuresStatus {
        MeasuresStatus {
            first_token: self.first_token.look(),
            request: self.request.look(),
            queue: self.queue.look(),
            prompt_tokens: self.prompt.look(),
            cached_tokens: self.cached.look(),
            output_tokens: self.output.look(),
            ttft: self.ttft.look(),
            tpot: self.tpot.look(),
        }
    }
}

/// What was predicted and what it was, summed over requests.
#[derive(Debug, Default)]
struct Prediction {
    requests: AtomicU64,
    predicted: AtomicU64,
    actual: AtomicU64,
    error: AtomicU64,
}

impl Prediction {
    fn compare(&self, predicted: u64, actual: u64) {
        self.requests.fetch_add(1, Relaxed);
        self.predicted.fetch_add(predicted, Relaxed);
        self.actual.fetch_add(actual, Relaxed);
        self.error.fetch_add(predicted.abs_diff(actual), Relaxed);
    }

    fn look(&self) -> PredictionStatus {
        PredictionStatus {
            requests: self.requests.load(Relaxed),
            predicted: self.predicted.load(Relaxed),
            actual: self.actual.load(Relaxed),
            absolute_error: self.error.load(Relaxed),
        }
    }
}

/// Streamed answers that met an objective, and that missed it.
#[derive(Debug, Default)]
struct InTime {
    met: AtomicU64,
    missed: AtomicU64,
}

impl InTime {
    fn count(&self, met: Option<bool>) {
        match met {
            Some(true) => drop(self.met.fetch_add(1, Relaxed)),
            Some(false) => drop(self.missed.fetch_add(1, Relaxed)),
            None => {}
        }
    }

    fn look(&self) -> InTimeStatus {
        InTimeStatus {
            met: self.met.load(Relaxed),
            missed: self.missed.load(Relaxed),
        }
    }
}

/// Streamed answers that met an objective, and that missed it, since start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct InTimeStatus {
    /// Those in time.
    pub met: u64,
    /// Those that came late.
    pub missed: u64,
}

/// One model's measures at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct MeasuresStatus {
    /// Time to the first token.
    pub first_token: HistogramStatus,
    /// Time of whole requests.
    pub request: HistogramStatus,
    /// Wait for admission, of those that had to wait.
    pub queue: HistogramStatus,
    /// Tokens of prompts.
    pub prompt_tokens: PredictionStatus,
    /// Of these, cached.
    pub cached_tokens: PredictionStatus,
    /// Tokens of answers.
    pub output_tokens: PredictionStatus,
    /// First tokens in time.
    pub ttft: InTimeStatus,
    /// Times per token in time.
    pub tpot: InTimeStatus,
}

/// Predicted and actual tokens, of requests whose reply told them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PredictionStatus {
    /// Requests.
    pub requests: u64,
    /// Tokens predicted.
    pub predicted: u64,
    /// Tokens that it was.
    pub actual: u64,
    /// Sum of each request's absolute error, tokens.
    pub absolute_error: u64,
}
