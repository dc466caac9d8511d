//! Measures decisions: realistic bodies, a prefix index filled by real chains, percentiles.
//!
//! `weighbridge bench decision` and the criterion benches share this crate, so that both time the
//! same work: [`Core::decide`](weighbridge_decide::Core::decide) with reading, weighing, placing
//! and charging, and the drop of a ticket.

#![deny(clippy::indexing_slicing)]

mod body;
mod life;
mod measure;
mod scene;

pub use body::Conversation;
pub use life::life;
pub use measure::{Row, measure, read_gb_per_s};
pub use scene::{Case, Scene, SceneError};

/// A profile for benches that are given none: a model of 8 billion parameters on one H100.
#[must_use]
pub fn profile() -> serde_json::Value {
    serde_json::json!({
        "name": "bench", "models": ["bench-8b"], "capacity_mu_per_min": 60_000.0,
        "kv_tokens": 520_000, "block_tokens": 32, "max_batch_size": 256, "max_num_tokens": 8192,
        "reference_batch": 64.0,
        "cost": {
            "prefill_per_tok": 0.025, "prefill_per_tok2_e6": 0.3,
            "decode_per_tok": 0.12, "decode_per_ktok_ctx": 0.01, "overhead": 0.5
        }
    })
}
