//! What a run comes to: a row for tables, and what plots need.

use std::collections::BTreeMap;

use serde::Serialize;

/// One run in one line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The policy.
    pub policy: String,
    /// Replicas at the start.
    pub replicas: usize,
    /// Requests a second that arrived.
    pub offered_rps: f64,
    /// Requests a second that met both objectives.
    pub goodput_rps: f64,
    /// Share of requests that met both objectives.
    pub slo_attainment: f64,
    /// Time to the first token, ms: median,
    pub ttft_p50_ms: Option<f64>,
    /// and 99th percentile.
    pub ttft_p99_ms: Option<f64>,
    /// Time per output token after the first, ms: median,
    pub tpot_p50_ms: Option<f64>,
    /// and 99th percentile.
    pub tpot_p99_ms: Option<f64>,
    /// Share of prompt tokens that the replicas had cached.
    pub cache_hit_ratio: f64,
    /// The same of one endless cache,
    pub ideal_hit_ratio: f64,
    /// and of one LRU cache of all replicas' memory.
    pub pooled_hit_ratio: f64,
    /// The highest MU of a replica ÷ the mean, each ÷ its capacity, averaged over the minutes.
    pub mu_max_over_mean: Option<f64>,
    /// Requests placed elsewhere than at home, where the policy has homes.
    pub spills: u64,
    /// Slices that got other replicas.
    pub slices_moved: u64,
    /// Seconds that the run took; absent unless asked for, since no two runs take the same.
    pub wall_s: Option<f64>,
}

/// What else is known of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Detail {
    /// The run's seed.
    pub seed: u64,
    /// Requests measured,
    pub requests: usize,
    /// of these complete,
    pub finished: usize,
    /// found no replica, or too long for one,
    pub refused: usize,
    /// broken off with their replica,
    pub lost: usize,
    /// not complete at the end, or not sent since the turn before it was not.
    pub unfinished: usize,
    /// Requests that were sent again because a replica was gone.
    pub retried: usize,
    /// Whether it was broken off because too many requests had missed their objectives.
    pub broken_off: bool,
    /// Requests that missed the objective for the first token.
    pub late_first: usize,
    /// Requests that missed the objective for the others.
    pub late_others: usize,
    /// The worst minute's highest MU ÷ mean.
    pub mu_max_over_mean_worst: Option<f64>,
    /// MU of all requests measured.
    pub mu: f64,
    /// Whose placements the oracle took.
    pub placed_by: Option<String>,
    /// Requests by the reason of their placement.
    pub reasons: Vec<(String, u64)>,
    /// The policy's own diary of its decisions, where the scenario asks for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub diary: Vec<serde_json::Value>,
    /// Time to the first token at 0, 1, … 100 percent of the requests, ms.
    pub ttft_percentiles_ms: Vec<f64>,
    /// Time per output token at 0, 1, … 100 percent of the requests, ms.
    pub tpot_percentiles_ms: Vec<f64>,
    /// Tenant by tenant, where there are few.
    pub tenants: BTreeMap<String, TenantDetail>,
    /// Minute by minute.
    pub minutes: Vec<Minute>,
}

/// What became of one tenant's requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TenantDetail {
    /// Requests measured,
    pub requests: usize,
    /// of these refused,
    pub refused: usize,
    /// and well served:
    pub good: usize,
    /// so many a second.
    pub goodput_rps: f64,
    /// Time to the first token of those that ran, ms: median,
    pub ttft_p50_ms: Option<f64>,
    /// and 99th percentile.
    pub ttft_p99_ms: Option<f64>,
    /// Time per output token of those that ended, ms: 99th percentile.
    pub tpot_p99_ms: Option<f64>,
}

/// One minute of a run, from its very start.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Minute {
    /// Prompt tokens of requests whose first token came,
    pub prompt_tokens: u64,
    /// and of these, cached.
    pub cached_tokens: u64,
    /// Requests that arrived,
    pub arrived: u32,
    /// and of these, met both objectives.
    pub good: u32,
    /// MU by replica.
    pub mu: Vec<f32>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// In one line.
    pub row: Row,
    /// And more.
    pub detail: Detail,
}

/// The nearest-rank percentile of sorted values.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    #[allow(clippy::cast_sign_loss)]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// 101 percentiles of sorted values; none of nothing.
pub(crate) fn percentiles(sorted: &[f64]) -> Vec<f64> {
    let share = |at: u32| f64::from(at) / 100.0;
    (0..=100)
        .filter_map(|at| percentile(sorted, share(at)))
        .map(rounded)
        .collect()
}

/// To a ten-thousandth, so that what is written is short.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(100.0));
        assert_eq!(percentile(&values, 0.99), Some(198.0));
        assert_eq!(percentile(&values, 1.0), Some(200.0));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
