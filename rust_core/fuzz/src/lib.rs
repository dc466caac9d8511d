//! What the targets share: a core with three replicas, and what must hold whatever came in.

pub mod settings;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use weighbridge_decide::{Accounts, Core, Settings};
use weighbridge_weigh::{Endpoint, Profile, Reading, Work};

const PROFILE: &str = r#"{
    "name": "p", "models": ["m", "m-alias"], "adapters": ["lora"], "capacity_mu_per_min": 60000.0,
    "kv_tokens": 20000, "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192,
    "reference_batch": 32.0,
    "cost": {
        "prefill_per_tok": 0.1, "prefill_per_tok2_e6": 1.0, "decode_per_tok": 1.0,
        "decode_per_ktok_ctx": 0.1, "image_per_tile": 5.0, "audio_per_second": 2.0, "overhead": 0.5
    }
}"#;

const REPLICAS: &str = r#"[
    {"endpoint": "10.0.0.1:8000", "profile": "p"},
    {"endpoint": "10.0.0.2:8000", "profile": "p", "state": "degraded"},
    {"endpoint": "10.0.0.3:8000", "profile": "p", "adapters": ["lora"]}
]"#;

/// The profile of all targets.
pub static PROFILE_OF_TARGETS: LazyLock<Profile> =
    LazyLock::new(|| serde_json::from_str(PROFILE).expect("a profile"));

/// Executions that share a core: what one leaves behind, the next one meets, and what it has learnt
/// does not keep all later ones from the same paths.
const SHARING: u32 = 1_000;

/// The core of this execution.
pub fn core() -> Arc<Core> {
    static CORE: LazyLock<Mutex<(u32, Arc<Core>)>> = LazyLock::new(|| Mutex::new((0, fresh())));
    let mut shared = CORE.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.0 == SHARING {
        *shared = (0, fresh());
    }
    shared.0 += 1;
    Arc::clone(&shared.1)
}

fn fresh() -> Arc<Core> {
    let settings = format!(
        r#"{{"profiles": [{PROFILE}], "decision_log": 16, "usage_records": 16, "max_expanded_bytes": 1048576}}"#
    );
    let settings: Settings = serde_json::from_str(&settings).expect("settings");
    let core = Core::new(settings).expect("a core");
    core.set_replicas(serde_json::from_str(REPLICAS).expect("replicas"))
        .expect("replicas");
    Arc::new(core)
}

/// An endpoint for each byte.
pub fn endpoint(selector: u8) -> Endpoint {
    match selector % 5 {
        0 => Endpoint::ChatCompletions,
        1 => Endpoint::Completions,
        2 => Endpoint::Responses,
        3 => Endpoint::Embeddings,
        _ => Endpoint::Messages,
    }
}

/// What holds of every reading of `bytes` bytes.
pub fn check_reading(reading: &Reading, bytes: usize) {
    assert!(reading.prefix.len() <= 1 << 16);
    assert!(reading.audio_seconds >= 0.0 && reading.audio_seconds.is_finite());
    let sections = reading.prefix.sections();
    assert_eq!(
        sections.tools + sections.system + sections.messages,
        reading.prefix.len()
    );
    // Text never grows by more than what canonical JSON of tools adds.
    assert!(reading.text.total().bytes <= 8 * bytes as u64 + 64);
    let profile = &*PROFILE_OF_TARGETS;
    let tokens = profile.tokens(reading, 1.0);
    let mut before = 0;
    let mut some = [0, 1, reading.prefix.len() / 2, reading.prefix.len()];
    some.sort_unstable();
    for blocks in some {
        let cached_tokens = profile.cached_tokens(reading, &tokens, blocks);
        assert!(cached_tokens >= before, "more blocks hold no fewer tokens");
        assert!(cached_tokens <= tokens.total());
        before = cached_tokens;
        let cost = profile.cost(&Work {
            prompt_tokens: tokens.total(),
            cached_tokens,
            output_tokens: reading.max_output_tokens.unwrap_or(100).min(1 << 20),
            choices: reading.choices,
            image_tiles: tokens.image_tiles,
            audio_seconds: reading.audio_seconds,
            prompts: reading.prompts,
            squared_shares: reading.squared_shares,
        });
        assert!(cost.total().is_finite() && cost.total() >= 0.0, "{cost:?}");
    }
}

/// With no stream open, no request is in any account (ledgers, gates, open bills, speed), and no body
/// is held.
pub fn check_accounts(core: &Core) {
    assert_eq!(core.accounts(), Accounts::default());
    assert_eq!(core.memory().held(), 0);
}
