//! The formats that traces come in, one module each.

pub(crate) mod agentic;
pub(crate) mod azure;
pub(crate) mod burstgpt;
pub(crate) mod envoy;
pub(crate) mod mooncake;
pub(crate) mod own;
mod table;

use serde_json::Value;

/// A format of traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Mooncake's JSON lines: `timestamp`, `input_length`, `output_length`, `hash_ids`.
    Mooncake,
    /// Azure's CSV: `TIMESTAMP,ContextTokens,GeneratedTokens`.
    Azure,
    /// `BurstGPT`'s CSV: `Timestamp,[Session ID,…]Model,Request tokens,Response tokens,…`.
    BurstGpt,
    /// Sessions of coding agents, one a line.
    Agentic,
    /// Weighbridge's own JSON lines: `at_s`, `session`, `messages`, `output_tokens`.
    Own,
    /// Envoy's access log in JSON, as `weighbridge envoy render` sets it up.
    Envoy,
}

const ALL: [(Format, &str); 6] = [
    (Format::Mooncake, "mooncake"),
    (Format::Azure, "azure"),
    (Format::BurstGpt, "burstgpt"),
    (Format::Agentic, "agentic"),
    (Format::Own, "weighbridge"),
    (Format::Envoy, "envoy"),
];

impl Format {
    /// The names of all formats.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        ALL.iter().map(|(_, name)| *name).collect()
    }

    /// The format of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter()
            .find(|(_, known)| *known == name)
            .map(|(format, _)| *format)
    }

    /// The format of a trace that begins with this line.
    #[must_use]
    pub fn detect(line: &str) -> Option<Self> {
        let line = line.trim_start_matches('\u{FEFF}').trim();
        if let Ok(Value::Object(row)) = serde_json::from_str(line) {
            let has = |key: &str| row.contains_key(key);
            return match () {
                () if has("hash_ids") => Some(Self::Mooncake),
                () if has("requests") && has("block_size") => Some(Self::Agentic),
                () if has("at_s") => Some(Self::Own),
                () if has("bytes_in") || has("bytes_received") => Some(Self::Envoy),
                () => None,
            };
        }
        let head = line.to_ascii_lowercase();
        match () {
            () if head.contains("contexttokens") => Some(Self::Azure),
            () if head.contains("request tokens") => Some(Self::BurstGpt),
            () => None,
        }
    }
}
