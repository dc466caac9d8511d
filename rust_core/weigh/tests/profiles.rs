//! Profiles: the shipped ones, the schema, and errors that name their key.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use weighbridge_weigh::Profile;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tensorrt_backends/profiles")
}

fn minimal() -> Value {
    json!({
        "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 100_000,
        "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192, "reference_batch": 32.0,
        "cost": {"prefill_per_tok": 0.1, "prefill_per_tok2_e6": 1.0, "decode_per_tok": 1.0,
                 "decode_per_ktok_ctx": 0.1},
    })
}

/// The profile with one value changed, by a dotted key; `Null` takes it away.
fn changed(key: &str, value: Value) -> String {
    let mut profile = minimal();
    let mut at = &mut profile;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        let object = at.as_object_mut().unwrap();
        if parts.peek().is_none() {
            if value.is_null() {
                object.remove(part);
            } else {
                object.insert(part.to_owned(), value);
            }
            break;
        }
        at = object.entry(part).or_insert_with(|| json!({}));
    }
    profile.to_string()
}

/// An object with every property of a schema, each at its first example.
fn example(schema: &Value) -> Value {
    if let Some(example) = schema["examples"].get(0) {
        return example.clone();
    }
    let properties = schema["properties"].as_object().unwrap();
    properties
        .iter()
        .map(|(key, schema)| (key.clone(), example(schema)))
        .collect::<Map<_, _>>()
        .into()
}

/// The keys of an object and of the objects in it, dotted.
fn keys(value: &Value, prefix: &str, found: &mut Vec<String>) {
    if let Some(object) = value.as_object() {
        for (key, value) in object {
            found.push(format!("{prefix}{key}"));
            keys(value, &format!("{prefix}{key}."), found);
        }
    }
}

#[test]
fn every_shipped_profile_is_valid() {
    let mut seen = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let text = fs::read_to_string(&path).unwrap();
            let value: Value = serde_yaml_ng::from_str(&text).unwrap();
            let profile = Profile::from_json(&value.to_string());
            let profile = profile.unwrap_or_else(|error| unreachable!("{path:?}: {error}"));
            assert_eq!(
                Some(profile.name.as_str()),
                path.file_stem().and_then(|stem| stem.to_str())
            );
            assert!(
                !profile.source.tables.is_empty(),
                "{path:?} names no source"
            );
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn profiles_of_one_model_share_costs_and_have_one_reference() {
    let mut profiles: Vec<Profile> = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let value: Value = serde_yaml_ng::from_str(&fs::read_to_string(path).unwrap()).unwrap();
            profiles.push(Profile::from_json(&value.to_string()).unwrap());
        }
    }
    for profile in &profiles {
        let same = profiles
            .iter()
            .filter(|other| other.models[0] == profile.models[0]);
        let references: Vec<_> = same.filter(|other| other.reference).collect();
        assert_eq!(references.len(), 1, "{}", profile.models[0]);
        assert_eq!(references[0].cost, profile.cost, "{}", profile.name);
    }
}

#[test]
fn the_schema_and_the_core_know_the_same_keys() {
    let schema = fs::read_to_string(folder().join("profile.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let full = example(&schema);
    // What the schema knows, the core takes.
    let profile = Profile::from_json(&full.to_string()).unwrap();
    // What the core knows, the schema has; and every value arrived.
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    keys(&serde_json::to_value(&profile).unwrap(), "", &mut ours);
    keys(&full, "", &mut theirs);
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
    assert_eq!(
        Profile::from_json(&serde_json::to_string(&profile).unwrap()),
        Ok(profile)
    );
}

#[test]
fn every_property_of_the_schema_is_described() {
    fn check(schema: &Value, path: &str) {
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let described = property.get("const").is_some()
                || property["description"]
                    .as_str()
                    .is_some_and(|text| text.len() > 5);
            assert!(described, "{path}{key}");
            check(property, &format!("{path}{key}."));
            for rule in property["oneOf"].as_array().into_iter().flatten() {
                check(rule, &format!("{path}{key}."));
            }
        }
    }
    let schema = fs::read_to_string(folder().join("profile.schema.json")).unwrap();
    check(&serde_json::from_str(&schema).unwrap(), "");
}

#[test]
fn errors_name_the_key() {
    assert!(Profile::from_json(&minimal().to_string()).is_ok());
    for (key, value, named) in [
        ("name", json!(" "), "name"),
        ("models", json!([]), "models"),
        ("models", json!(["a", ""]), "models.1"),
        ("adapters", json!([""]), "adapters.0"),
        ("capacity_mu_per_min", json!(0), "capacity_mu_per_min"),
        ("capacity_mu_per_min", json!("fast"), "capacity_mu_per_min"),
        ("kv_tokens", json!(0), "kv_tokens"),
        ("kv_tokens", json!(-5), "kv_tokens"),
        ("block_tokens", json!(200_000), "block_tokens"),
        ("reference_batch", json!(65), "reference_batch"),
        ("cost.prefill_per_tok", json!(-0.1), "cost.prefill_per_tok"),
        ("cost.decode_per_tok", json!("x"), "cost.decode_per_tok"),
        (
            "latency.decode_base_ms",
            json!(-1),
            "latency.decode_base_ms",
        ),
        (
            "latency.decode_experts_per_seq",
            json!(2),
            "latency.decode_experts_per_seq",
        ),
        ("tokens.scale", json!(0), "tokens.scale"),
        ("tokens.per_message", json!(-1), "tokens.per_message"),
        ("tokens.family", json!("gpt2"), "tokens.family"),
        ("images.default_width", json!(0), "images.default_width"),
        (
            "images.tokens",
            json!({"rule": "fixed", "tokens": -1}),
            "images.tokens.tokens",
        ),
        (
            "audio.tokens_per_second",
            json!(-1),
            "audio.tokens_per_second",
        ),
    ] {
        let error = Profile::from_json(&changed(key, value.clone())).unwrap_err();
        assert_eq!(error.key, named, "{key} {value}: {error}");
    }
    let unknown = Profile::from_json(&changed("cost.prefil_per_tok", json!(1))).unwrap_err();
    assert!(unknown.to_string().contains("prefil_per_tok"), "{unknown}");
    let missing = Profile::from_json(&changed("kv_tokens", Value::Null)).unwrap_err();
    assert!(missing.to_string().contains("kv_tokens"), "{missing}");
}

#[test]
fn a_sequence_is_no_longer_than_the_model_nor_the_cache() {
    let mut profile = Profile::from_json(&minimal().to_string()).unwrap();
    assert_eq!(profile.longest_sequence(), profile.kv_tokens);
    profile.max_seq_len = Some(4096);
    assert_eq!(profile.longest_sequence(), 4096);
    profile.kv_tokens = 1024;
    assert_eq!(profile.longest_sequence(), 1024);
    profile.max_seq_len = Some(0);
    assert_eq!(profile.validate().unwrap_err().key, "max_seq_len");
}
