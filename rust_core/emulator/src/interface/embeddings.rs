//! `/v1/embeddings`, as `trtllm-serve embeddings` speaks it: each text of the input is computed as
//! a prompt is, and nothing is generated.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::interface::generate::{Interface, Refusal, Rules, Ticket, generate};
use crate::interface::respond::Usage;
use crate::replica::state::Replica;
use crate::text::reply::mix;

/// Numbers of an embedding whose request does not say how many it wants.
const DIMENSIONS: u16 = 16;
const MOST_DIMENSIONS: u16 = 4096;

/// How the numbers are written.
#[derive(Debug, Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    /// Little-endian floats of 32 bits.
    Base64,
}

#[derive(Debug, Deserialize)]
struct Request<'a> {
    model: Option<&'a str>,
    #[serde(borrow)]
    input: &'a RawValue,
    encoding_format: Option<Encoding>,
    dimensions: Option<u16>,
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) ticket: Ticket,
    encoding: Encoding,
    dimensions: u16,
}

/// Reads a body and has its prompts computed, each to its first token, which nobody sees.
pub(crate) fn begin(
    replica: &std::sync::Arc<Replica>,
    rules: &Rules,
    body: &[u8],
) -> Result<Pending, Refusal> {
    let request: Request<'_> = serde_json::from_slice(body)?;
    let dimensions = request.dimensions.unwrap_or(DIMENSIONS);
    if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
        return Err(Refusal::Form(format!(
            "dimensions must be between 1 and {MOST_DIMENSIONS}"
        )));
    }
    let prompt = json!({"model": request.model, "prompt": request.input, "max_tokens": 1});
    let prompt = prompt.to_string();
    Ok(Pending {
        ticket: generate(
            replica,
            rules,
            Interface::Completion,
            prompt.as_bytes(),
            None,
        )?,
        encoding: request.encoding_format.unwrap_or_default(),
        dimensions,
    })
}

impl Pending {
    /// The answer, once all prompts are computed: equal texts have equal embeddings.
    pub(crate) fn complete(&self) -> Value {
        let data: Vec<Value> = (0u32..)
            .zip(&self.ticket.choices)
            .map(|(index, choice)| {
                let numbers = self.numbers(choice.reply.seed());
                json!({"object": "embedding", "index": index, "embedding": numbers})
            })
            .collect();
        let tokens = Usage::of(&self.ticket).prompt();
        json!({
            "object": "list",
            "data": data,
            "model": self.ticket.replica.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        })
    }

    fn numbers(&self, seed: u64) -> Value {
        let numbers = (0..self.dimensions).map(|at| {
            let bits = mix(seed.wrapping_add(u64::from(at)));
            // Between -1 and 1, of 16 bits.
            let part = u16::try_from(bits >> 48).unwrap_or(0);
            f32::from(part) / f32::from(u16::MAX) * 2.0 - 1.0
        });
        match self.encoding {
            Encoding::Float => numbers.collect(),
            Encoding::Base64 => {
                let bytes: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
                Value::String(STANDARD.encode(bytes))
            }
        }
    }
}
