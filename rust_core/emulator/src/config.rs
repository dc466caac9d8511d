//! What to emulate.

use std::net::IpAddr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use weighbridge_engine::{EngineProfile, named_profile, profile_names};

use crate::error::Error;

/// An engine profile: by name, or its fields over a named `base` (or over the default).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ProfileChoice(pub EngineProfile);

/// What to emulate. Every field has a default; unknown fields are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmulatorConfig {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port of the first replica, the others follow; 0 lets the system choose each.
    pub base_port: u16,
    /// How many replicas.
    pub replicas: usize,
    /// Model names; replica `i` serves the one at `i` modulo their number.
    pub models: Vec<String>,
    /// Engine profiles, given out in the same way.
    pub profiles: Vec<ProfileChoice>,
    /// Seed of step noise, output lengths and texts.
    pub seed: u64,
    /// How many times faster than real time.
    pub speed: f64,
    /// Port that takes faults; 0 lets the system choose, absent: none.
    pub control_port: Option<u16>,
    /// How long after the start a replica answers 503, ms of real time.
    pub start_delay_ms: u64,
    /// How much longer each further replica takes, ms of real time.
    pub start_stagger_ms: u64,
    /// Threads that serve connections.
    pub threads: usize,
    /// `max_tokens` of a request that gives none; 0: the rest of the longest sequence, as
    /// trtllm-serve does.
    pub default_max_tokens: u32,
    /// Median output length, tokens, of requests that do not ask for one.
    pub output_median: f64,
    /// Spread of the output length: the deviation of its logarithm.
    pub output_sigma: f64,
    /// Prompt tokens of one image tile.
    pub image_tile_tokens: u32,
    /// Whether a model other than the replica's own is refused (trtllm-serve takes any).
    pub check_model: bool,
    /// Whether a chat or completion with a field that trtllm-serve does not know is refused, as
    /// it refuses it.
    pub strict_fields: bool,
    /// Requests that one replica holds before it refuses more.
    pub max_open_requests: usize,
    /// The largest request body, bytes.
    pub max_body_bytes: usize,
    /// Iteration records kept for `/metrics`.
    pub iter_stats_max_iterations: usize,
    /// Records kept for `/perf_metrics`; 0 turns them off.
    pub perf_metrics_max_requests: usize,
    /// Events kept for `/kv_cache_events`; 0 turns them off.
    pub event_buffer_max_size: usize,
    /// How long `/metrics` and `/kv_cache_events` wait for a first record, ms of real time.
    pub metrics_wait_ms: u64,
}

impl Default for EmulatorConfig {
    fn default() -> Self {
        Self {
            host: IpAddr::from([127, 0, 0, 1]),
            base_port: 0,
            replicas: 1,
            models: vec!["llama-3.1-8b".to_owned()],
            profiles: vec![ProfileChoice(EngineProfile::default())],
            seed: 0,
            speed: 1.0,
            control_port: None,
            start_delay_ms: 0,
            start_stagger_ms: 0,
            threads: 2,
            default_max_tokens: 4096,
            output_median: 150.0,
            output_sigma: 0.7,
            image_tile_tokens: 256,
            check_model: true,
            strict_fields: true,
            max_open_requests: 4096,
            max_body_bytes: 64 << 20,
            iter_stats_max_iterations: 1000,
            perf_metrics_max_requests: 1000,
            event_buffer_max_size: 0,
            metrics_wait_ms: 2000,
        }
    }
}

impl EmulatorConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn validate(&self) -> Result<(), Error> {
        let fail = |text: String| Err(Error::Config(text));
        if !(1..=1024).contains(&self.replicas) {
            return fail(format!(
                "replicas must be between 1 and 1024, not {}",
                self.replicas
            ));
        }
        let last = usize::from(self.base_port) + self.replicas - 1;
        if self.base_port != 0 && last > usize::from(u16::MAX) {
            return fail(format!(
                "{} replicas from port {} would go beyond port 65535",
                self.replicas, self.base_port
            ));
        }
        if self.models.is_empty() || self.models.iter().any(String::is_empty) {
            return fail("models must name at least one model".to_owned());
        }
        if self.profiles.is_empty() {
            return fail("profiles must hold at least one profile".to_owned());
        }
        if !(self.speed.is_finite() && self.speed > 0.0 && self.speed <= 1000.0) {
            return fail(format!(
                "speed must be above 0 and at most 1000, not {}",
                self.speed
            ));
        }
        if !(self.output_median.is_finite() && self.output_median >= 1.0) {
            return fail("output_median must be at least 1".to_owned());
        }
        if !(0.0..=3.0).contains(&self.output_sigma) {
            return fail("output_sigma must be between 0 and 3".to_owned());
        }
        if !(1..=64).contains(&self.threads) {
            return fail("threads must be between 1 and 64".to_owned());
        }
        if self.max_open_requests == 0 || self.max_body_bytes == 0 {
            return fail("max_open_requests and max_body_bytes must be at least 1".to_owned());
        }
        for (replica, choice) in self.profiles.iter().enumerate() {
            choice
                .0
                .validate()
                .map_err(|source| Error::Profile { replica, source })?;
        }
        Ok(())
    }

    /// The model of a replica.
    #[must_use]
    pub fn model(&self, replica: usize) -> &str {
        let at = replica % self.models.len().max(1);
        self.models.get(at).map_or("", String::as_str)
    }

    /// The profile of a replica.
    #[must_use]
    pub fn profile(&self, replica: usize) -> EngineProfile {
        let at = replica % self.profiles.len().max(1);
        self.profiles
            .get(at)
            .map_or_else(EngineProfile::default, |choice| choice.0.clone())
    }
}

impl<'de> Deserialize<'de> for ProfileChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = |name: &str| {
            named_profile(name).ok_or_else(|| {
                D::Error::custom(format!(
                    "unknown profile {name:?}; known: {}",
                    profile_names().join(", ")
                ))
            })
        };
        match Value::deserialize(deserializer)? {
            Value::String(name) => Ok(Self(named(&name)?)),
            Value::Object(mut fields) => {
                let base = match fields.remove("base") {
                    None => EngineProfile::default(),
                    Some(Value::String(name)) => named(&name)?,
                    Some(_) => return Err(D::Error::custom("base must be a profile's name")),
                };
                let Value::Object(mut all) =
                    serde_json::to_value(base).map_err(D::Error::custom)?
                else {
                    return Err(D::Error::custom("a profile is a mapping"));
                };
                all.extend(fields);
                serde_json::from_value(Value::Object(all))
                    .map(Self)
                    .map_err(D::Error::custom)
            }
            _ => Err(D::Error::custom(
                "a profile is a name or a mapping of its fields",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::EmulatorConfig;

    fn read(text: &str) -> Result<EmulatorConfig, String> {
        let config: EmulatorConfig = serde_json::from_str(text).map_err(|e| e.to_string())?;
        config.validate().map_err(|e| e.to_string())?;
        Ok(config)
    }

    #[test]
    fn profiles_are_names_or_fields_over_a_base() {
        let config = read(
            r#"{"replicas":3,"profiles":["llama-3.1-8b-fp8-h200",
                {"base":"qwen3-32b-fp8-h100","max_batch_size":8}]}"#,
        )
        .unwrap();
        assert_eq!(config.profile(0).kv_blocks, 59_146);
        assert_eq!(config.profile(1).kv_blocks, 9_945);
        assert_eq!(config.profile(1).max_batch_size, 8);
        assert_eq!(config.profile(2), config.profile(0));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            (r#"{"replicaz":3}"#, "replicaz"),
            (r#"{"replicas":0}"#, "between 1 and 1024"),
            (r#"{"base_port":65535,"replicas":2}"#, "beyond port 65535"),
            (r#"{"profiles":["h100"]}"#, "unknown profile \"h100\""),
            (r#"{"profiles":[{"kv_blocs":1}]}"#, "kv_blocs"),
            (
                r#"{"profiles":[{"kv_blocks":0}]}"#,
                "kv_blocks must be at least 1",
            ),
            (r#"{"speed":0}"#, "speed"),
            (r#"{"host":"nowhere"}"#, "IP address"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
