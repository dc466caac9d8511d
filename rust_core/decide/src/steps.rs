//! A profile's step times, as placing and admission use them.

use weighbridge_place::StepTimes;
use weighbridge_weigh::{Latency, Profile};

/// Share of a decode step that does not depend on its sequences, where a profile has no `latency`.
const BASE_SHARE: f64 = 0.6;

/// The step times of a replica of this profile. A profile without `latency` has them from its costs:
/// its reference batch decodes at the cost of its tokens.
pub(crate) fn of(profile: &Profile) -> StepTimes {
    let cost = &profile.cost;
    let batch = profile.reference_batch.max(1.0);
    let latency = profile.latency.unwrap_or(Latency {
        prefill_per_tok_ms: cost.prefill_per_tok,
        decode_base_ms: BASE_SHARE * cost.decode_per_tok * batch,
        decode_per_seq_ms: (1.0 - BASE_SHARE) * cost.decode_per_tok,
        decode_per_ktok_ctx_ms: cost.decode_per_ktok_ctx,
        ..Latency::default()
    });
    StepTimes {
        // A loaded replica's batch touches all experts.
        base_ms: latency.decode_base_ms + latency.decode_experts_ms,
        per_seq_ms: latency.decode_per_seq_ms,
        per_ktok_ms: latency.decode_per_ktok_ctx_ms,
        chunk_ms: latency.prefill_base_ms
            + latency.prefill_per_tok_ms * f64::from(profile.max_num_tokens),
        slots: f64::from(profile.max_batch_size),
        token_mu: cost.decode_per_tok,
        ktok_mu: cost.decode_per_ktok_ctx,
    }
}
