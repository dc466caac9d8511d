//! What a replica keeps for its statistics routes, in the shapes that trtllm-serve gives.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};
use weighbridge_engine::{CacheEvent, EngineProfile, KvStats};

/// Device memory that the emulated process claims to use, bytes.
const GPU_BYTES: u64 = 80 << 30;

/// One iteration, as it was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IterationRecord {
    pub(crate) at: SystemTime,
    pub(crate) iteration: u64,
    pub(crate) latency_ms: f64,
    /// Requests that the executor had when the iteration began, scheduled or not: those that
    /// it completed are among them.
    pub(crate) active: u32,
    pub(crate) queued: u32,
    pub(crate) new_active: u32,
    pub(crate) completed: u32,
    pub(crate) queue_latency_ms: f64,
    pub(crate) context_requests: u32,
    pub(crate) generating: u32,
    pub(crate) paused: u32,
    pub(crate) context_tokens: u32,
    pub(crate) kv: KvStats,
}

/// One finished request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestRecord {
    pub(crate) id: u64,
    pub(crate) first_iteration: u64,
    pub(crate) last_iteration: u64,
    /// Seconds on the steady clock, as all times here.
    pub(crate) server_arrival: f64,
    pub(crate) arrival: f64,
    pub(crate) first_scheduled: f64,
    pub(crate) first_token: f64,
    pub(crate) last_token: f64,
    pub(crate) blocks: u32,
    pub(crate) reused_blocks: u32,
    pub(crate) missed_blocks: u32,
    pub(crate) output_tokens: u32,
    pub(crate) prompt_tokens: u32,
    pub(crate) stopped: bool,
}

/// A queue that gives up its oldest element when it is full.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    items: VecDeque<T>,
    most: usize,
}

impl<T> Ring<T> {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            items: VecDeque::new(),
            most,
        }
    }

    pub(crate) fn push(&mut self, item: T) {
        if self.most == 0 {
            return;
        }
        if self.items.len() >= self.most {
            self.items.pop_front();
        }
        self.items.push_back(item);
    }

    pub(crate) fn drain(&mut self) -> Vec<T> {
        std::mem::take(&mut self.items).into()
    }
}

/// An iteration in the shape of trtllm-serve's `/metrics`.
pub(crate) fn iteration_json(record: &IterationRecord, profile: &EngineProfile) -> Value {
    let kv = &record.kv;
    json!({
        "timestamp": timestamp(record.at),
        "iter": record.iteration,
        "iterLatencyMS": record.latency_ms,
        "newActiveRequestsQueueLatencyMS": record.queue_latency_ms,
        "numNewActiveRequests": record.new_active,
        "numActiveRequests": record.active,
        "numQueuedRequests": record.queued,
        "numCompletedRequests": record.completed,
        "maxNumActiveRequests": profile.max_batch_size,
        "maxBatchSizeStatic": profile.max_batch_size,
        "maxBatchSizeTunerRecommended": 0,
        "maxBatchSizeRuntime": profile.max_batch_size,
        "maxNumTokensStatic": profile.max_num_tokens,
        "maxNumTokensTunerRecommended": 0,
        "maxNumTokensRuntime": profile.max_num_tokens,
        "gpuMemUsage": GPU_BYTES,
        "cpuMemUsage": 0,
        "pinnedMemUsage": 0,
        "kvCacheStats": {
            "maxNumBlocks": kv.max_blocks,
            "freeNumBlocks": kv.free_blocks,
            "usedNumBlocks": kv.used_blocks,
            "tokensPerBlock": profile.tokens_per_block,
            "allocTotalBlocks": kv.alloc_total,
            "allocNewBlocks": kv.alloc_new,
            "reusedBlocks": kv.reused,
            "missedBlocks": kv.missed,
            "cacheHitRate": hit_rate(kv),
        },
        "staticBatchingStats": {
            "numScheduledRequests": 0,
            "numContextRequests": 0,
            "numCtxTokens": 0,
            "numGenTokens": 0,
            "emptyGenSlots": 0,
        },
        "inflightBatchingStats": {
            "numScheduledRequests": record.context_requests + record.generating,
            "numContextRequests": record.context_requests,
            "numGenRequests": record.generating,
            "numPausedRequests": record.paused,
            "numCtxTokens": record.context_tokens,
            "microBatchId": 0,
            "avgNumDecodedTokensPerIter": if record.generating > 0 { 1.0 } else { 0.0 },
        },
        "specDecodingStats": null,
    })
}

/// Reused blocks among those looked for, 0 to 1.
#[allow(clippy::cast_precision_loss)] // counts of blocks
pub(crate) fn hit_rate(kv: &KvStats) -> f64 {
    let asked = kv.reused + kv.missed;
    if asked == 0 {
        0.0
    } else {
        kv.reused as f64 / asked as f64
    }
}

/// A finished request in the shape of `/perf_metrics`, its times `offset` seconds later.
pub(crate) fn request_json(record: &RequestRecord, offset: f64) -> Value {
    json!({
        "request_id": record.id,
        "perf_metrics": {
            "first_iter": record.first_iteration,
            "last_iter": record.last_iteration,
            "timing_metrics": {
                "server_arrival_time": record.server_arrival + offset,
                "arrival_time": record.arrival + offset,
                "first_scheduled_time": record.first_scheduled + offset,
                "first_token_time": record.first_token + offset,
                "server_first_token_time": record.first_token + offset,
                "last_token_time": record.last_token + offset,
            },
            "kv_cache_metrics": {
                "num_total_allocated_blocks": record.blocks,
                "num_new_allocated_blocks": record.blocks - record.reused_blocks,
                "num_reused_blocks": record.reused_blocks,
                "num_missed_blocks": record.missed_blocks,
            },
        },
    })
}

/// A cache event with the tokens of what it stored.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EventRecord {
    event_id: u64,
    data: Value,
    window_size: u32,
}

/// Numbers events and gives them the shape of `/kv_cache_events`.
#[derive(Debug, Default)]
pub(crate) struct EventWriter {
    next: u64,
}

impl EventWriter {
    /// The event that every engine begins with.
    pub(crate) fn created(&mut self, profile: &EngineProfile) -> EventRecord {
        let data = json!({
            "type": "created",
            "num_blocks_per_cache_level": [profile.kv_blocks, profile.host_blocks],
        });
        self.number(data, profile)
    }

    /// One engine event; `tokens` is the sequence of the request that it names.
    pub(crate) fn event(
        &mut self,
        event: &CacheEvent,
        tokens: &[u32],
        profile: &EngineProfile,
    ) -> EventRecord {
        let data = match event {
            CacheEvent::Stored {
                parent,
                first_block,
                hashes,
                ..
            } => stored(*parent, *first_block, hashes, tokens, profile),
            CacheEvent::Removed { hash } => json!({"type": "removed", "block_hashes": [hash]}),
            CacheEvent::Moved { hash, from, to } => json!({
                "type": "updated",
                "block_hash": hash,
                "cache_level": {"type": "event_diff", "new_value": to, "old_value": from},
                "priority": null,
            }),
        };
        self.number(data, profile)
    }

    fn number(&mut self, data: Value, profile: &EngineProfile) -> EventRecord {
        let event_id = self.next;
        self.next += 1;
        EventRecord {
            event_id,
            data,
            window_size: profile.max_seq_len,
        }
    }
}

fn stored(
    parent: Option<u64>,
    first_block: u32,
    hashes: &[u64],
    tokens: &[u32],
    profile: &EngineProfile,
) -> Value {
    let size = usize::try_from(profile.tokens_per_block).unwrap_or(1);
    let first = usize::try_from(first_block).unwrap_or(0);
    let blocks: Vec<Value> = hashes
        .iter()
        .enumerate()
        .map(|(at, hash)| {
            let start = (first + at) * size;
            let tokens: Vec<Value> = tokens
                .get(start..start + size)
                .unwrap_or_default()
                .iter()
                .map(|id| json!({"type": "unique_token", "token_id": id, "token_extra_id": 0}))
                .collect();
            json!({
                "type": "stored_block",
                "block_hash": hash,
                "tokens": tokens,
                "cache_level": 0,
                "priority": 35,
            })
        })
        .collect();
    json!({"type": "stored", "parent_hash": parent, "blocks": blocks})
}

/// Month-day-year and time, UTC, as the executor prints it.
fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{month:02}-{day:02}-{year} {:02}:{:02}:{:02}.{:06}",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_micros()
    )
}

/// The Gregorian date of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that the leap day is a year's last.
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{Ring, timestamp};

    #[test]
    fn timestamps_are_calendar_dates() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "01-01-1970 00:00:00.000000");
        assert_eq!(at(951_782_400), "02-29-2000 00:00:00.000000");
        assert_eq!(at(1_798_761_599), "12-31-2026 23:59:59.000000");
    }

    #[test]
    fn a_full_ring_gives_up_its_oldest() {
        let mut ring = Ring::new(2);
        (0..4).for_each(|i| ring.push(i));
        assert_eq!(ring.drain(), [2, 3]);
        assert!(ring.drain().is_empty());
        let mut off = Ring::new(0);
        off.push(1);
        assert!(off.drain().is_empty());
    }
}
