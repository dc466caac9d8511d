//! Profiles whose coefficients are fits to measured silicon.

use crate::profile::EngineProfile;

/// One line of the table; units as in [`EngineProfile`], the squared term times 10⁶.
struct Row {
    name: &'static str,
    prefill: [f64; 3],
    decode: [f64; 3],
    moe: [f64; 2],
    kv_blocks: u32,
    /// Positions that the checkpoint has.
    max_seq_len: u32,
}

const fn row(
    name: &'static str,
    kv_blocks: u32,
    max_seq_len: u32,
    prefill: [f64; 3],
    decode: [f64; 3],
    moe: [f64; 2],
) -> Row {
    Row {
        name,
        prefill,
        decode,
        moe,
        kv_blocks,
        max_seq_len,
    }
}

/// Positions of Llama 3.1 and gpt-oss, and of Qwen3.
const LONG: u32 = 131_072;
const QWEN3: u32 = 40_960;

const DENSE: [f64; 2] = [0.0, 1.0];

#[rustfmt::skip]
const TABLE: [Row; 15] = [
    row("llama-3.1-8b-fp8-h100", 31_037, LONG, [4.676, 0.012_659, 0.534_5], [5.19, 0.0069, 0.021_62], DENSE),
    row("llama-3.1-8b-fp8-h200", 59_146, LONG, [3.97, 0.012_37, 0.455_3], [4.311, 0.007_81, 0.015_23], DENSE),
    row("llama-3.1-8b-fp8-b200", 77_117, LONG, [4.223, 0.006_253, 0.277_7], [3.971, 0.005_11, 0.009_29], DENSE),
    row("llama-3.1-8b-fp8-l40s", 14_904, LONG, [10.703, 0.038_972, 1.956_8], [12.149, 0.0243, 0.095_84], DENSE),
    row("llama-3.1-8b-bf16-a100", 14_021, LONG, [7.147, 0.055_905, 1.92], [11.383, 0.034_14, 0.057_19], DENSE),
    row("llama-3.1-8b-bf16-h100", 14_021, LONG, [5.125, 0.016_953, 0.996_8], [6.596, 0.008_56, 0.0425], DENSE),
    row("llama-3.1-70b-fp8-h100x2", 15_306, LONG, [14.889, 0.066_014, 1.447_3], [18.69, 0.0322, 0.0289], DENSE),
    row("llama-3.1-70b-fp8-h100x4", 43_187, LONG, [13.526, 0.043_392, 0.747_2], [12.315, 0.040_45, 0.014_47], DENSE),
    row("llama-3.1-70b-fp8-h200", 12_618, LONG, [16.096, 0.102_122, 2.712_1], [23.175, 0.050_57, 0.037_68], DENSE),
    row("llama-3.1-70b-fp8-h200x2", 37_793, LONG, [11.318, 0.064_968, 1.075_3], [14.81, 0.035_32, 0.0199], DENSE),
    row("llama-3.1-70b-fp8-b200", 19_807, LONG, [16.506, 0.050_036, 1.588_6], [18.297, 0.029_61, 0.024_64], DENSE),
    row("qwen3-32b-fp8-h100", 9_945, QWEN3, [11.88, 0.062_421, 1.050_3], [14.486, 0.0269, 0.044_09], DENSE),
    row("qwen3-8b-fp8-h100", 27_453, QWEN3, [6.158, 0.012_783, 0.583_5], [5.678, 0.007_18, 0.024_26], DENSE),
    row("qwen3-30b-a3b-fp8-h100", 28_679, QWEN3, [14.726, 0.015_626, 0.621_2], [4.649, 0.014_82, 0.016_99], [8.491, 22.0]),
    row("gpt-oss-120b-h200", 65_407, LONG, [18.176, 0.030_288, 0.043], [3.964, 0.052_26, 0.009_78], [11.318, 17.0]),
];

/// The names that [`named_profile`] knows: model, precision, GPU (× how many).
#[must_use]
pub fn profile_names() -> Vec<&'static str> {
    TABLE.iter().map(|row| row.name).collect()
}

/// A profile by name; the cache's size is that of the hardware, the longest
/// sequence that of the checkpoint, other limits are those of [`EngineProfile::default`].
#[must_use]
pub fn named_profile(name: &str) -> Option<EngineProfile> {
    let row = TABLE.iter().find(|row| row.name == name)?;
    let [prefill_base_ms, prefill_ms_per_token, squared] = row.prefill;
    let [decode_base_ms, decode_ms_per_seq, decode_ms_per_ktoken] = row.decode;
    let [moe_ms, moe_batch] = row.moe;
    Some(EngineProfile {
        prefill_base_ms,
        prefill_ms_per_token,
        prefill_ms_per_token2: squared / 1e6,
        decode_base_ms,
        decode_ms_per_seq,
        decode_ms_per_ktoken,
        moe_ms,
        moe_batch,
        kv_blocks: row.kv_blocks,
        max_seq_len: row.max_seq_len,
        ..EngineProfile::default()
    })
}

#[cfg(test)]
mod tests {
    use super::{named_profile, profile_names};
    use crate::profile::EngineProfile;

    #[test]
    fn every_name_gives_a_runnable_profile() {
        for name in profile_names() {
            assert_eq!(named_profile(name).unwrap().validate(), Ok(()), "{name}");
        }
        assert!(named_profile("gpt-2").is_none());
    }

    #[test]
    fn the_default_is_the_first_of_the_table() {
        assert_eq!(
            named_profile("llama-3.1-8b-fp8-h100"),
            Some(EngineProfile::default())
        );
    }
}
