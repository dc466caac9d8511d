//! What each request took in the end, for whoever writes it down.

use serde::Serialize;
use std::sync::Arc;

/// What one request took, for bills and for those who check them. It holds no prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UsageRecord {
    /// The decision's number.
    pub number: u64,
    /// `x-request-id`.
    pub request_id: Arc<str>,
    /// The tenant; empty where none was named.
    pub tenant: Arc<str>,
    /// The model.
    pub model: Arc<str>,
    /// The replica that served it, `ip:port`.
    pub replica: String,
    /// HTTP status; 0 where no reply began.
    pub status: u16,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, how many the replica had cached.
    pub cached_tokens: u64,
    /// Tokens of all answers.
    pub output_tokens: u64,
    /// Whether the tokens are the reply's own words, or what was estimated.
    pub source: UsageSource,
    /// MU billed.
    pub mu: f64,
    /// MU charged when it began.
    pub estimated_mu: f64,
    /// Waited for admission, ms.
    pub wait_ms: f64,
    /// From the choice of the replica to the first output in the reply's body, ms; absent where
    /// nobody saw one.
    pub first_token_ms: Option<f64>,
    /// First token that is in time, ms, the wait for admission included.
    pub objective_ttft_ms: f64,
    /// Time per token after it that is in time, ms.
    pub objective_tpot_ms: f64,
    /// Whether the first token was in time; absent where it was not seen as it came.
    pub ttft_met: Option<bool>,
    /// Whether the tokens after it were.
    pub tpot_met: Option<bool>,
    /// From the choice of the replica to the end, ms.
    pub duration_ms: f64,
    /// When it ended, µs on the core's clock.
    pub ended_us: u64,
}

/// Where a record's tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UsageSource {
    /// The reply's usage.
    Usage,
    /// The reply's events and bytes.
    Observed,
    /// The weighing alone: the reply was not seen.
    Estimate,
}
