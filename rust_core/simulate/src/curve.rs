//! An engine's times by its own coefficients.

use weighbridge_engine::EngineProfile;

/// The prefill of a prompt of which `cached` tokens are there, ms.
pub(crate) fn prefill_ms(profile: &EngineProfile, prompt: u32, cached: u32) -> f64 {
    let (p, c) = (f64::from(prompt), f64::from(cached));
    profile.prefill_base_ms
        + profile.prefill_ms_per_token * (p - c)
        + profile.prefill_ms_per_token2 * (p * p - c * c)
}

/// An iteration that adds a token to each of `generating` answers, ms.
pub(crate) fn step_ms(profile: &EngineProfile, generating: u32, context: u64) -> f64 {
    let n = f64::from(generating);
    let experts = profile.moe_ms * (1.0 - (-n / profile.moe_batch).exp());
    #[allow(clippy::cast_precision_loss)] // tokens, far below 2^52
    let ktok = context as f64 / 1000.0;
    profile.step_overhead_ms
        + profile.decode_base_ms
        + experts
        + profile.decode_ms_per_seq * n
        + profile.decode_ms_per_ktoken * ktok
}
