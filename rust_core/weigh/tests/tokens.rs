//! The token estimate against real tokenizers, on texts that it was not fitted to.
//!
//! `corpus/tokens.json` holds the true counts of four tokenizers, made by `fit/fit.py`; those of
//! o200k are checked here against the tokenizer itself. `cargo test --test tokens -- --nocapture`
//! prints the table of `docs/weighing.md`.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use weighbridge_weigh::{Family, Features};

const KINDS: [&str; 5] = ["chat", "code", "chinese", "json", "wide"];
const FAMILIES: [(&str, Family); 4] = [
    ("llama3", Family::Llama3),
    ("qwen", Family::Qwen),
    ("o200k", Family::O200k),
    ("tekken", Family::Tekken),
];

#[derive(Deserialize)]
struct Document {
    text: String,
}

fn corpus(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name);
    fs::read_to_string(path).unwrap()
}

fn documents(kind: &str, side: &str) -> Vec<Document> {
    let lines = corpus(&format!("{kind}.{side}.jsonl"));
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// True counts by `kind.side`, then by family, in the order of the documents.
fn true_counts() -> HashMap<String, HashMap<String, Vec<f64>>> {
    serde_json::from_str(&corpus("tokens.json")).unwrap()
}

/// Median and 95th percentile.
fn quantiles(mut errors: Vec<f64>) -> (f64, f64) {
    errors.sort_by(f64::total_cmp);
    let at = |share: f64| errors[((errors.len() - 1) as f64 * share).round() as usize];
    (at(0.5), at(0.95))
}

fn errors(family: Family, documents: &[Document], counts: &[f64]) -> (f64, f64) {
    assert_eq!(documents.len(), counts.len());
    let error = |(document, count): (&Document, &f64)| {
        (family.tokens(&Features::of(document.text.as_bytes())) / count - 1.0).abs()
    };
    quantiles(documents.iter().zip(counts).map(error).collect())
}

#[test]
fn held_out_text_is_estimated_within_the_bar() {
    let counts = true_counts();
    println!("| held-out text | documents | llama3 | qwen | o200k | tekken |");
    println!("|---|---|---|---|---|---|");
    for kind in KINDS {
        let documents = documents(kind, "held");
        let mut row = format!("| {kind} | {} |", documents.len());
        for (name, family) in FAMILIES {
            let counts = &counts[&format!("{kind}.held")][name];
            let (median, p95) = errors(family, &documents, counts);
            row += &format!(" {:.1} %, {:.1} % |", 100.0 * median, 100.0 * p95);
            // The bar names four kinds; of the rest only the order of magnitude is claimed.
            let (most, at_most) = if kind == "wide" {
                (0.1, 0.4)
            } else {
                (0.08, 0.25)
            };
            let within = median < most && p95 < at_most;
            assert!(within, "{kind} {name}: {median} {p95}");
        }
        println!("{row}");
    }
}

#[test]
fn a_family_beats_the_default_on_chinese() {
    // Otherwise naming a profile's family would be for nothing.
    let documents = documents("chinese", "held");
    let counts = &true_counts()["chinese.held"]["qwen"];
    let (own, _) = errors(Family::Qwen, &documents, counts);
    let (default, _) = errors(Family::Default, &documents, counts);
    assert!(2.0 * own < default, "{own} {default}");
}

#[test]
fn the_counts_of_o200k_are_true() {
    let tokenizer = tiktoken_rs::o200k_base().unwrap();
    for kind in KINDS {
        let counts = &true_counts()[&format!("{kind}.held")]["o200k"];
        for (document, count) in documents(kind, "held").iter().zip(counts) {
            assert_eq!(
                tokenizer.encode_ordinary(&document.text).len() as f64,
                *count
            );
        }
    }
}
