//! Workloads that people run, by name.

use serde_json::{Map, Value};

use crate::builder::TraceBuilder;
use crate::error::TraceError;
use crate::generate::{Agents, Bursts, Generator, spread};
use crate::seed::mix;
use crate::trace::{Kind, Trace};

/// Makes a workload's settings.
type Make = fn() -> Generator;

/// Each with the share of its sessions that it has in `mixed`.
const WORKLOADS: [(&str, Make, f64); 7] = [
    ("chat", chat, 0.25),
    ("reasoning", reasoning, 0.16),
    ("agents", agents, 0.24),
    ("batch", batch, 0.25),
    ("embeddings", embeddings, 0.2),
    ("images", images, 0.2),
    ("short", short, 0.15),
];

/// All of them, each a tenant of its own.
const MIXED: &str = "mixed";

/// Settings that `mixed` takes: the others are those of its parts.
const OF_ALL: [&str; 2] = ["seed", "duration_s"];

/// The names of all workloads.
#[must_use]
pub fn workload_names() -> Vec<&'static str> {
    let names = WORKLOADS.iter().map(|(name, _, _)| *name);
    names.chain([MIXED]).collect()
}

/// Makes a trace from JSON: the name of a `workload`, or none for the generator's defaults, and the
/// settings that differ from it.
///
/// # Errors
/// There is no such workload or setting, or one is out of its range.
pub fn generate(settings: &str) -> Result<Trace, TraceError> {
    let wrong = |error: serde_json::Error| TraceError::Setting(format!("generator: {error}"));
    let mut given: Map<String, Value> = serde_json::from_str(settings).map_err(wrong)?;
    match given.remove("workload") {
        None | Some(Value::Null) => over(&Generator::default(), given)?.generate(),
        Some(Value::String(name)) if name == MIXED => mixed(&given),
        Some(Value::String(name)) => {
            let found = WORKLOADS.iter().find(|(known, _, _)| *known == name);
            let (_, make, _) = found.ok_or_else(|| unknown(&name))?;
            let generator = over(&make(), given)?;
            let mut builder = TraceBuilder::new(&format!("{name}-{}", generator.seed));
            generator.add(&mut builder, "")?;
            builder.finish()
        }
        Some(other) => Err(unknown(&other.to_string())),
    }
}

fn unknown(name: &str) -> TraceError {
    let known = workload_names().join(", ");
    TraceError::Setting(format!(
        "there is no workload '{name}' (there are: {known})"
    ))
}

fn mixed(given: &Map<String, Value>) -> Result<Trace, TraceError> {
    if let Some(key) = given.keys().find(|key| !OF_ALL.contains(&key.as_str())) {
        return Err(TraceError::Setting(format!(
            "generator: {key} is a setting of one workload, {MIXED} takes only {}",
            OF_ALL.join(" and ")
        )));
    }
    let all = over(&Generator::default(), given.clone())?;
    let mut builder = TraceBuilder::new(&format!("{MIXED}-{}", all.seed));
    for (part, (name, make, share)) in (1u64..).zip(WORKLOADS) {
        let own = make();
        let generator = Generator {
            // Equal seeds would make equal contents.
            seed: mix(all.seed, part),
            duration_s: all.duration_s,
            sessions_per_s: own.sessions_per_s * share,
            ..own
        };
        generator.add(&mut builder, name)?;
    }
    builder.finish()
}

/// Settings over a generator's own, those of a part over that part's.
fn over(base: &Generator, given: Map<String, Value>) -> Result<Generator, TraceError> {
    let wrong = |error: serde_json::Error| TraceError::Setting(format!("generator: {error}"));
    let mut all = serde_json::to_value(base).map_err(wrong)?;
    merge(&mut all, Value::Object(given));
    serde_json::from_value(all).map_err(wrong)
}

fn merge(base: &mut Value, given: Value) {
    match (base, given) {
        (Value::Object(base), Value::Object(given)) => {
            for (key, value) in given {
                match base.get_mut(&key) {
                    Some(known) => merge(known, value),
                    None => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (base, given) => *base = given,
    }
}

/// Without a person who reads on for a while: one question, one answer.
fn single() -> Generator {
    Generator {
        prompts_per_tenant: 0,
        document_share: 0.0,
        turns: 1.0,
        agents: Agents {
            share: 0.0,
            ..Agents::default()
        },
        ..Generator::default()
    }
}

/// People talk with a model, some about documents.
fn chat() -> Generator {
    Generator {
        agents: Agents {
            share: 0.0,
            ..Agents::default()
        },
        ..Generator::default()
    }
}

/// Answers of 2,000 to 20,000 tokens.
fn reasoning() -> Generator {
    Generator {
        sessions_per_s: 0.5,
        document_share: 0.1,
        turns: 1.5,
        system_tokens: spread(500.0, 0.5, 4_000.0),
        user_tokens: spread(250.0, 1.0, 8_000.0),
        output_tokens: crate::Spread {
            least: 2_000.0,
            ..spread(6_000.0, 0.7, 20_000.0)
        },
        max_tokens: 20_480,
        ..chat()
    }
}

/// Long prompts in common, many turns, the next as soon as the answer is there.
fn agents() -> Generator {
    Generator {
        sessions_per_s: 0.5,
        document_share: 0.0,
        system_tokens: spread(6_000.0, 0.5, 32_000.0),
        user_tokens: spread(200.0, 1.0, 4_000.0),
        output_tokens: spread(120.0, 0.9, 4_000.0),
        token_s: 0.0,
        agents: Agents {
            share: 1.0,
            turns: 20.0,
            tool_tokens: spread(400.0, 1.2, 20_000.0),
            tool_s: spread(0.05, 0.5, 1.0),
            fan_out_chance: 0.03,
            fan_out: 3,
        },
        ..Generator::default()
    }
}

/// Long prompts that nobody waits for.
fn batch() -> Generator {
    Generator {
        kind: Kind::Batch,
        sessions_per_s: 1.0,
        user_tokens: spread(12_000.0, 0.8, 100_000.0),
        output_tokens: spread(300.0, 0.7, 2_000.0),
        bursts: Bursts {
            factor: 8.0,
            ..Bursts::default()
        },
        ..single()
    }
}

/// Texts to be found again: no answers.
fn embeddings() -> Generator {
    Generator {
        kind: Kind::Embeddings,
        sessions_per_s: 20.0,
        user_tokens: spread(350.0, 0.9, 8_000.0),
        output_tokens: spread(1.0, 0.0, 1.0),
        ..single()
    }
}

/// Chats about pictures.
fn images() -> Generator {
    Generator {
        turns: 2.0,
        image_share: 0.7,
        document_share: 0.0,
        system_tokens: spread(400.0, 0.5, 4_000.0),
        output_tokens: spread(180.0, 0.7, 2_000.0),
        ..chat()
    }
}

/// Short questions with nothing in common, and short answers.
fn short() -> Generator {
    Generator {
        sessions_per_s: 20.0,
        user_tokens: spread(60.0, 0.8, 500.0),
        output_tokens: spread(40.0, 0.7, 200.0),
        ..single()
    }
}
