//! What one iteration costs, from the profile's terms.

use crate::profile::EngineProfile;

/// The work of one iteration.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Work {
    /// Context tokens computed.
    pub(crate) context_tokens: u64,
    /// Sum over the chunks of (end² − start²), tokens squared.
    pub(crate) context_squares: f64,
    /// Generating requests.
    pub(crate) generating: u64,
    /// Their contexts together, tokens.
    pub(crate) generating_context: u64,
    /// Image tiles encoded.
    pub(crate) image_tiles: u64,
    /// Blocks brought back from the host.
    pub(crate) onboarded: u64,
}

/// The iteration's time without noise, ms.
///
/// The weights are read once for a mixed iteration, so the larger of the two
/// bases counts, not their sum.
#[allow(clippy::cast_precision_loss)] // counts of tokens, far below 2^52
pub(crate) fn iteration_ms(profile: &EngineProfile, work: &Work) -> f64 {
    let prefill_base = if work.context_tokens > 0 {
        profile.prefill_base_ms
    } else {
        0.0
    };
    let decode_base = if work.generating > 0 {
        profile.decode_base_ms + experts_ms(profile, work.generating)
    } else {
        0.0
    };
    profile.step_overhead_ms
        + prefill_base.max(decode_base)
        + profile.prefill_ms_per_token * work.context_tokens as f64
        + profile.prefill_ms_per_token2 * work.context_squares
        + profile.decode_ms_per_seq * work.generating as f64
        + profile.decode_ms_per_ktoken * work.generating_context as f64 / 1000.0
        + profile.image_tile_ms * work.image_tiles as f64
        + profile.host_block_ms * work.onboarded as f64
}

/// Mixture of experts: the more tokens, the more experts are read, until all are.
#[allow(clippy::cast_precision_loss)]
fn experts_ms(profile: &EngineProfile, generating: u64) -> f64 {
    if profile.moe_ms == 0.0 {
        return 0.0;
    }
    profile.moe_ms * (1.0 - (-(generating as f64) / profile.moe_batch).exp())
}

/// The squares term of one chunk that starts after `start` tokens.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn chunk_squares(start: u32, tokens: u32) -> f64 {
    let (from, to) = (f64::from(start), f64::from(start) + f64::from(tokens));
    to * to - from * from
}

#[cfg(test)]
mod tests {
    use super::{Work, chunk_squares, iteration_ms};
    use crate::profile::EngineProfile;

    #[test]
    fn chunks_of_a_prompt_cost_the_same_attention_as_the_whole() {
        let parts = chunk_squares(0, 1000) + chunk_squares(1000, 500);
        assert!((parts - chunk_squares(0, 1500)).abs() < 1e-6);
    }

    #[test]
    fn a_mixed_iteration_pays_one_base() {
        let profile = EngineProfile {
            step_overhead_ms: 0.0,
            ..EngineProfile::default()
        };
        let prefill = Work {
            context_tokens: 1000,
            ..Work::default()
        };
        let decode = Work {
            generating: 8,
            generating_context: 8000,
            ..Work::default()
        };
        let mixed = Work {
            context_tokens: 1000,
            ..decode
        };
        let apart = iteration_ms(&profile, &prefill) + iteration_ms(&profile, &decode);
        let together = iteration_ms(&profile, &mixed);
        assert!((apart - together - profile.prefill_base_ms).abs() < 1e-9);
    }

    #[test]
    fn experts_saturate() {
        let profile = EngineProfile {
            moe_ms: 10.0,
            moe_batch: 16.0,
            decode_ms_per_seq: 0.0,
            ..EngineProfile::default()
        };
        let at = |generating| {
            iteration_ms(
                &profile,
                &Work {
                    generating,
                    ..Work::default()
                },
            )
        };
        assert!(at(2) - at(1) > 10.0 * (at(65) - at(64)));
        assert!((at(1000) - at(500)).abs() < 1e-6);
    }
}
