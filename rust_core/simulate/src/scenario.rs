//! What is simulated, besides the trace and the policy.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use weighbridge_engine::{EngineProfile, named_profile, profile_names};
use weighbridge_traces::ToldLength;
use weighbridge_weigh::{Profile, Work};

use crate::error::SimulateError;
use crate::event::Event;

/// An engine profile: by name, or its fields over a named `base` (or over the default).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct EngineChoice(pub EngineProfile);

impl<'de> Deserialize<'de> for EngineChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = |name: &str| {
            named_profile(name).ok_or_else(|| {
                let known = profile_names().join(", ");
                D::Error::custom(format!("no engine is called '{name}' (there are: {known})"))
            })
        };
        match Value::deserialize(deserializer)? {
            Value::String(name) => named(&name).map(Self),
            Value::Object(mut fields) => {
                let base = match fields.remove("base") {
                    Some(Value::String(name)) => named(&name)?,
                    Some(_) => return Err(D::Error::custom("base must be an engine's name")),
                    None => EngineProfile::default(),
                };
                let mut all = serde_json::to_value(base).map_err(D::Error::custom)?;
                if let Some(all) = all.as_object_mut() {
                    all.extend(fields);
                }
                serde_json::from_value(all)
                    .map(Self)
                    .map_err(D::Error::custom)
            }
            _ => Err(D::Error::custom("an engine is a name or its fields")),
        }
    }
}

/// Replicas that are alike.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// How they behave.
    pub engine: EngineChoice,
    /// How many there are.
    pub count: usize,
    /// What the router believes of them; left out: the truth, as far as a profile can say it.
    #[serde(default)]
    pub profile: Option<Profile>,
    /// Failure domains that they are spread over.
    #[serde(default = "one")]
    pub domains: usize,
}

fn one() -> usize {
    1
}

/// What a request must keep to be well served.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Slo {
    /// Time to the first token, ms,
    pub ttft_ms: f64,
    /// and so much more for every 1,000 tokens of the prompt.
    pub ttft_ms_per_ktok: f64,
    /// Time per output token after the first, ms, on average over the answer.
    pub tpot_ms: f64,
    /// Share of requests that must be well served for a rate to count as goodput.
    pub share: f64,
}

impl Default for Slo {
    fn default() -> Self {
        Self {
            ttft_ms: 5000.0,
            ttft_ms_per_ktok: 0.0,
            tpot_ms: 100.0,
            share: 0.99,
        }
    }
}

/// What is simulated, besides the trace and the policy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The replicas.
    pub replicas: Vec<Group>,
    /// When a request counts as well served.
    #[serde(default)]
    pub slo: Slo,
    /// Of all that is random.
    #[serde(default)]
    pub seed: u64,
    /// Requests that arrive in the first so many seconds warm up caches and are not measured.
    #[serde(default)]
    pub warmup_s: f64,
    /// How long after the last arrival requests may end, s.
    #[serde(default = "grace")]
    pub grace_s: f64,
    /// How old metrics of replicas may be, ms: from one scrape to the next.
    #[serde(default = "telemetry")]
    pub telemetry_ms: f64,
    /// How long it takes until the router knows that a replica is gone, ms.
    #[serde(default = "detect")]
    pub detect_ms: f64,
    /// Whether clients name their session in a header.
    #[serde(default = "yes")]
    pub session_header: bool,
    /// Whether clients quote answers in the engine's own words, so that what it cached of them is
    /// found again; a replayed trace's words are not the engine's.
    #[serde(default = "yes")]
    pub answers_quoted: bool,
    /// Whether clients have their answers streamed; else routers see nothing of one before its end.
    #[serde(default = "yes")]
    pub streamed: bool,
    /// What the live core is told of answers' lengths, to see what predicting them is worth; left
    /// out: nothing.
    #[serde(default)]
    pub told_length: Option<ToldLength>,
    /// From one round of the live core's assigner to the next, s.
    #[serde(default = "round")]
    pub round_s: f64,
    /// Whether a policy that keeps a diary of its decisions (`dynamo_kv`) hands it over.
    #[serde(default)]
    pub with_diary: bool,
    /// What befalls the cluster.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Settings of the live core, without its profiles.
    #[serde(default)]
    pub core: serde_json::Map<String, Value>,
}

fn grace() -> f64 {
    1800.0
}

fn telemetry() -> f64 {
    50.0
}

fn detect() -> f64 {
    1000.0
}

fn round() -> f64 {
    5.0
}

fn yes() -> bool {
    true
}

/// Replicas of one simulation, at most.
const MOST_REPLICAS: usize = 20_000;

impl Scenario {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<(), SimulateError> {
        let fail = |text: String| Err(SimulateError::Setting(text));
        let replicas = self.replica_count();
        if !(1..=MOST_REPLICAS).contains(&replicas) {
            return fail(format!(
                "between 1 and {MOST_REPLICAS} replicas, not {replicas}"
            ));
        }
        for group in &self.replicas {
            group.engine.0.validate()?;
            if group.domains == 0 {
                return fail("a group has at least one domain".to_owned());
            }
            let block = group.engine.0.tokens_per_block;
            if block != self.tokens_per_block() {
                return fail("tokens_per_block must be the same for all replicas".to_owned());
            }
        }
        let slo = self.slo;
        let times = [
            ("slo.ttft_ms", slo.ttft_ms),
            ("slo.ttft_ms_per_ktok", slo.ttft_ms_per_ktok),
            ("slo.tpot_ms", slo.tpot_ms),
            ("warmup_s", self.warmup_s),
            ("grace_s", self.grace_s),
            ("telemetry_ms", self.telemetry_ms),
            ("detect_ms", self.detect_ms),
            ("round_s", self.round_s),
        ];
        for (name, time) in times {
            if !(0.0..1e9).contains(&time) {
                return fail(format!("{name} must be a time of 0 or more, not {time}"));
            }
        }
        if !(slo.share > 0.0 && slo.share < 1.0) {
            return fail(format!(
                "slo.share must be between 0 and 1, not {}",
                slo.share
            ));
        }
        Ok(())
    }

    /// How many replicas there are at the start.
    #[must_use]
    pub fn replica_count(&self) -> usize {
        self.replicas
            .iter()
            .fold(0, |sum, group| sum.saturating_add(group.count))
    }

    pub(crate) fn tokens_per_block(&self) -> u32 {
        let first = self.replicas.first();
        first.map_or(32, |group| group.engine.0.tokens_per_block)
    }

    /// Prompt and answer together that every replica takes, tokens.
    #[must_use]
    pub fn longest_sequence(&self) -> u32 {
        let engines = self.replicas.iter().map(|group| &group.engine.0);
        engines
            .map(EngineProfile::longest_sequence)
            .min()
            .unwrap_or(0)
    }

    /// What the router believes of each group.
    pub(crate) fn profiles(&self) -> Result<Vec<Profile>, SimulateError> {
        let reference = self.replicas.first().map(|group| &group.engine.0);
        // All replicas serve one model: that of the first profile that names one.
        let given = self
            .replicas
            .iter()
            .find_map(|group| group.profile.as_ref());
        let believed = |(number, group): (usize, &Group)| match &group.profile {
            Some(profile) => Ok(profile.clone()),
            None => {
                let own = &group.engine.0;
                let derived = derive(number, own, reference.unwrap_or(own))?;
                Ok(Profile {
                    models: given.map_or(derived.models, |profile| profile.models.clone()),
                    ..derived
                })
            }
        };
        self.replicas.iter().enumerate().map(believed).collect()
    }
}

/// The batch for which a derived profile shares the step's base.
const REFERENCE_BATCH: f64 = 32.0;

/// A request by which the speeds of two engines are compared, tokens.
const USUAL: (u64, u64) = (4096, 256);

/// A profile that says of an engine what a profile can say.
fn derive(
    number: usize,
    engine: &EngineProfile,
    reference: &EngineProfile,
) -> Result<Profile, SimulateError> {
    let (prompt_tokens, output_tokens) = USUAL;
    let usual = Work {
        prompt_tokens,
        output_tokens,
        ..Work::default()
    };
    let own = profile_of(number, engine)?;
    let speed = profile_of(0, reference)?.cost(&usual).total() / own.cost(&usual).total();
    Ok(Profile {
        capacity_mu_per_min: 60_000.0 * speed,
        ..own
    })
}

fn profile_of(number: usize, engine: &EngineProfile) -> Result<Profile, SimulateError> {
    let batch = REFERENCE_BATCH.min(f64::from(engine.max_batch_size));
    let experts = engine.moe_ms * (1.0 - (-batch / engine.moe_batch).exp());
    let step_ms = engine.step_overhead_ms + engine.decode_base_ms + experts;
    let fields = json!({
        "name": format!("group-{number}"),
        "models": ["simulated"],
        "capacity_mu_per_min": 60_000.0,
        "kv_tokens": u64::from(engine.kv_blocks) * u64::from(engine.tokens_per_block),
        "block_tokens": engine.tokens_per_block,
        "max_batch_size": engine.max_batch_size,
        "max_num_tokens": engine.max_num_tokens,
        "max_seq_len": engine.max_seq_len,
        "reference_batch": batch,
        "cost": {
            "prefill_per_tok": engine.prefill_ms_per_token,
            "prefill_per_tok2_e6": engine.prefill_ms_per_token2 * 1e6,
            "decode_per_tok": step_ms / batch + engine.decode_ms_per_seq,
            "decode_per_ktok_ctx": engine.decode_ms_per_ktoken,
            "image_per_tile": engine.image_tile_ms,
        },
    });
    Profile::from_json(&fields.to_string())
        .map_err(|error| SimulateError::Setting(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::Scenario;

    fn read(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = serde_json::from_str(text).map_err(|error| error.to_string())?;
        scenario.validate().map_err(|error| error.to_string())?;
        Ok(scenario)
    }

    #[test]
    fn engines_are_names_or_fields_over_a_base() {
        let scenario = read(
            r#"{"replicas":[{"engine":"llama-3.1-8b-fp8-h200","count":3},
                {"engine":{"base":"qwen3-32b-fp8-h100","max_batch_size":8},"count":2}]}"#,
        )
        .unwrap();
        assert_eq!(scenario.replica_count(), 5);
        let profiles = scenario.profiles().unwrap();
        assert_eq!(profiles[0].capacity_mu_per_min, 60_000.0);
        assert_eq!(profiles[1].max_batch_size, 8);
        // A slower engine does less of the same work in a minute.
        assert!(profiles[1].capacity_mu_per_min < 30_000.0);
        assert_eq!(scenario.longest_sequence(), 40_960);
        assert_eq!(profiles[1].longest_sequence(), 40_960);
    }

    #[test]
    fn mistakes_are_named() {
        let group = r#""replicas":[{"engine":"llama-3.1-8b-fp8-h200","count":3}]"#;
        for (text, part) in [
            (r#"{"replicas":[]}"#.to_owned(), "between 1 and 20000"),
            (r#"{"replicas":[{"engine":"h1","count":1}]}"#.to_owned(), "no engine is called 'h1'"),
            (format!("{{{group},\"seeed\":1}}"), "seeed"),
            (format!("{{{group},\"slo\":{{\"share\":1.0}}}}"), "slo.share"),
            (format!("{{{group},\"warmup_s\":-1}}"), "warmup_s"),
            (format!("{{{group},\"events\":[\"at=1\"]}}"), "nothing to do"),
            (
                r#"{"replicas":[{"engine":{},"count":1},{"engine":{"tokens_per_block":64},"count":1}]}"#
                    .to_owned(),
                "tokens_per_block must be the same",
            ),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
