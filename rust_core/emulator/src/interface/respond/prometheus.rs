//! The Prometheus text of one replica, under the names of trtllm-serve's collector.

use std::fmt::Write as _;

use crate::replica::latencies::{
    FIRST_TOKEN_BOUNDS, Histogram, PER_TOKEN_BOUNDS, QUEUE_BOUNDS, WHOLE_BOUNDS,
};
use crate::replica::records::hit_rate;
use crate::replica::state::{Books, Replica};

/// The labels that trtllm-serve gives all of them.
const LABELS: &str = "engine_type=\"undefined\",model_name=\"undefined\"";

/// All metrics of a replica.
pub(crate) fn render(replica: &Replica) -> String {
    let mut text = String::with_capacity(16_384);
    let books = replica.books();
    requests(&mut text, &books);
    if let Some(last) = &books.last_iteration {
        let kv = &last.kv;
        let profile = &replica.profile;
        let used = f64::from(kv.used_blocks) / f64::from(kv.max_blocks.max(1));
        counter(
            &mut text,
            "kv_cache_reused_blocks_total",
            "KV cache blocks reused",
            kv.reused,
        );
        counter(
            &mut text,
            "kv_cache_missed_blocks_total",
            "KV cache blocks missed",
            kv.missed,
        );
        for (name, help, value) in [
            ("kv_cache_hit_rate", "KV cache hit rate", hit_rate(kv)),
            ("kv_cache_utilization", "KV cache utilization", used),
            (
                "num_requests_running",
                "Number of active requests",
                last.active.into(),
            ),
            (
                "num_requests_waiting",
                "Number of queued requests",
                last.queued.into(),
            ),
            (
                "max_num_active_requests",
                "Maximum number of active requests",
                profile.max_batch_size.into(),
            ),
            (
                "iteration_latency_seconds",
                "Latency of the last iteration in seconds",
                last.latency_ms / 1000.0,
            ),
            (
                "max_batch_size_static",
                "Static batch size limit",
                profile.max_batch_size.into(),
            ),
            (
                "max_batch_size_runtime",
                "Batch size limit",
                profile.max_batch_size.into(),
            ),
            (
                "max_num_tokens_runtime",
                "Token limit",
                profile.max_num_tokens.into(),
            ),
            (
                "kv_cache_max_blocks",
                "KV cache blocks",
                kv.max_blocks.into(),
            ),
            (
                "kv_cache_free_blocks",
                "Free KV cache blocks",
                kv.free_blocks.into(),
            ),
            (
                "kv_cache_used_blocks",
                "Used KV cache blocks",
                kv.used_blocks.into(),
            ),
            (
                "kv_cache_tokens_per_block",
                "Tokens per block",
                profile.tokens_per_block.into(),
            ),
            (
                "num_context_requests",
                "Requests in context phase",
                last.context_requests.into(),
            ),
            (
                "num_generation_requests",
                "Requests in generation phase",
                last.generating.into(),
            ),
            ("num_paused_requests", "Paused requests", last.paused.into()),
            (
                "num_scheduled_requests",
                "Scheduled requests",
                (last.context_requests + last.generating).into(),
            ),
            (
                "total_context_tokens",
                "Context tokens",
                last.context_tokens.into(),
            ),
        ] {
            gauge(&mut text, name, help, value);
        }
    }
    text
}

fn requests(text: &mut String, books: &Books) {
    let latencies = &books.latencies;
    header(
        text,
        "request_success_total",
        "Count of successfully processed requests.",
        "counter",
    );
    for (reason, value) in [("stop", latencies.stopped), ("length", latencies.cut)] {
        let _ = writeln!(
            text,
            "trtllm_request_success_total{{{LABELS},finished_reason=\"{reason}\"}} {value}"
        );
    }
    for (name, help, value) in [
        (
            "prompt_tokens_total",
            "Prompt tokens processed",
            books.counters.prompt_tokens,
        ),
        (
            "generation_tokens_total",
            "Tokens produced",
            books.counters.output_tokens,
        ),
        (
            "prompt_cached_tokens_total",
            "Prompt tokens found cached",
            books.counters.cached_tokens,
        ),
        (
            "num_requests_completed_total",
            "Completed requests",
            books.counters.completed,
        ),
    ] {
        counter(text, name, help, value);
    }
    histogram(
        text,
        "time_to_first_token_seconds",
        "Histogram of time to first token in seconds.",
        &latencies.first_token,
        &FIRST_TOKEN_BOUNDS,
    );
    histogram(
        text,
        "time_per_output_token_seconds",
        "Histogram of time per output token in seconds.",
        &latencies.per_token,
        &PER_TOKEN_BOUNDS,
    );
    histogram(
        text,
        "e2e_request_latency_seconds",
        "Histogram of end to end request latency in seconds.",
        &latencies.whole,
        &WHOLE_BOUNDS,
    );
    histogram(
        text,
        "request_queue_time_seconds",
        "Histogram of time spent in WAITING phase for request.",
        &latencies.queue,
        &QUEUE_BOUNDS,
    );
}

fn header(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(
        text,
        "# HELP trtllm_{name} {help}\n# TYPE trtllm_{name} {kind}"
    );
}

fn counter(text: &mut String, name: &str, help: &str, value: u64) {
    header(text, name, help, "counter");
    let _ = writeln!(text, "trtllm_{name}{{{LABELS}}} {value}");
}

fn gauge(text: &mut String, name: &str, help: &str, value: f64) {
    header(text, name, help, "gauge");
    let _ = writeln!(text, "trtllm_{name}{{{LABELS}}} {value}");
}

fn histogram<const N: usize>(
    text: &mut String,
    name: &str,
    help: &str,
    histogram: &Histogram<N>,
    bounds: &[f64; N],
) {
    header(text, name, help, "histogram");
    for (bucket, bound) in histogram.buckets.iter().zip(bounds) {
        let _ = writeln!(
            text,
            "trtllm_{name}_bucket{{{LABELS},le=\"{bound}\"}} {bucket}"
        );
    }
    let Histogram { count, sum, .. } = histogram;
    let _ = writeln!(text, "trtllm_{name}_bucket{{{LABELS},le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "trtllm_{name}_sum{{{LABELS}}} {sum}");
    let _ = writeln!(text, "trtllm_{name}_count{{{LABELS}}} {count}");
}
