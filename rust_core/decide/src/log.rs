//! The latest decisions, kept for those who look: a bounded ring.

use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// One decision, as shown to people. It holds no prompt, only counts and hashes.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Record {
    /// Grows by one with each decision of a core.
    pub number: u64,
    /// `x-request-id`.
    pub request_id: Arc<str>,
    /// Where the session's name came from.
    pub session_source: &'static str,
    /// The session: what the client named, or the hash of the prompt's opening.
    pub session: String,
    /// The tenant; empty where none was named.
    pub tenant: Arc<str>,
    /// The model.
    pub model: Arc<str>,
    /// The replica chosen and others for Envoy's retries.
    #[serde(flatten)]
    pub endpoints: Endpoints,
    /// Why that replica.
    pub reason: &'static str,
    /// The gateway was told; not in observe-only mode.
    pub steered: bool,
    /// Tokens of the prompt, estimated.
    pub prompt_tokens: u64,
    /// Tokens of the prompt that the replica has likely cached.
    pub cached_tokens: u64,
    /// Output tokens predicted.
    pub output_tokens: u64,
    /// MU charged, all terms.
    pub mu: f64,
    /// MU until the first token: prefill, images, audio, overhead.
    pub prefill_mu: f64,
    /// MU of the output.
    pub decode_mu: f64,
    /// Predicted wait on the replica before this request starts, ms.
    pub wait_ms: f64,
    /// First token that is in time, ms.
    pub objective_ttft_ms: f64,
    /// Time per token after it that is in time, ms.
    pub objective_tpot_ms: f64,
    /// Number of the pool it was decided on.
    pub pool: u64,
    /// When, µs on the core's clock.
    pub at_us: u64,
}

/// Four IPv4 addresses with their ports.
const USUAL_BYTES: usize = 96;

/// The chosen replica's endpoint and others to retry on, in order: `ip:port[,ip:port…]`, as it is
/// told to Envoy. To people it is `replica` and `fallbacks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(Arc<str>);

impl Endpoints {
    pub(crate) fn new<'a>(replica: &str, others: impl Iterator<Item = &'a str>) -> Self {
        let mut text = String::with_capacity(USUAL_BYTES);
        text.push_str(replica);
        for other in others {
            text.push(',');
            text.push_str(other);
        }
        Self(text.into())
    }

    /// As Envoy is told.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The replica chosen.
    #[must_use]
    pub fn replica(&self) -> &str {
        self.0.split(',').next().unwrap_or_default()
    }

    /// Other endpoints, in order.
    pub fn fallbacks(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').skip(1)
    }
}

impl Serialize for Endpoints {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_struct("Endpoints", 2)?;
        fields.serialize_field("replica", self.replica())?;
        fields.serialize_field("fallbacks", &self.fallbacks().collect::<Vec<_>>())?;
        fields.end()
    }
}

/// A ring of records.
#[derive(Debug)]
pub struct DecisionLog {
    capacity: usize,
    records: Mutex<VecDeque<Arc<Record>>>,
}

impl DecisionLog {
    /// A ring of at most `capacity` records; 0 keeps none.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            records: Mutex::new(VecDeque::with_capacity(capacity.min(65_536))),
        }
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.capacity > 0
    }

    pub(crate) fn push(&self, record: Arc<Record>) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if records.len() >= self.capacity {
            records.pop_front()
        } else {
            None
        };
        records.push_back(record);
        drop(records);
        drop(oldest);
    }

    /// Records with a number above `after`, oldest first.
    #[must_use]
    pub fn after(&self, after: u64) -> Vec<Arc<Record>> {
        self.first_after(after, usize::MAX)
    }

    /// The first `most` records with a number above `after`, oldest first.
    #[must_use]
    pub fn first_after(&self, after: u64, most: usize) -> Vec<Arc<Record>> {
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|record| record.number > after)
            .take(most)
            .cloned()
            .collect()
    }

    /// The latest `most` records, oldest first.
    #[must_use]
    pub fn latest(&self, most: usize) -> Vec<Arc<Record>> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = records.len().saturating_sub(most);
        records.iter().skip(skipped).cloned().collect()
    }
}
