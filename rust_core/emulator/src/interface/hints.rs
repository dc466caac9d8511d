//! `/v1/kv_cache_hints` and `/steady_clock_offset`: what a control plane tells and asks a server.

use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::interface::generate::{Refusal, Rules};
use crate::replica::commands::Command;
use crate::replica::state::Replica;
use crate::text::openai::ChatRequest;
use crate::text::render::{self, ImageTokens};

#[derive(Deserialize)]
struct Hint<'a> {
    action: String,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages_to_retain: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
}

/// Obeys a hint: the blocks of `messages` beyond those of `messages_to_retain` are given up, as far
/// as no running request holds them.
pub(crate) fn obey(replica: &Arc<Replica>, rules: &Rules, body: &[u8]) -> Result<(), Refusal> {
    let hint: Hint<'_> = serde_json::from_slice(body)?;
    if hint.action != "truncate" {
        return Err(Refusal::Check {
            status: StatusCode::BAD_REQUEST,
            kind: "InvalidRequestError",
            message: format!("Invalid action: {}", hint.action),
        });
    }
    let hashes = |messages: Option<&RawValue>| hashes(replica, rules, messages, hint.tools);
    let command = Command::Truncate {
        retain: hashes(hint.messages_to_retain)?,
        blocks: hashes(hint.messages)?,
    };
    replica.driver.send(replica.index, command);
    Ok(())
}

/// The blocks of a conversation as it is when the assistant is about to answer.
fn hashes(
    replica: &Replica,
    rules: &Rules,
    messages: Option<&RawValue>,
    tools: Option<&RawValue>,
) -> Result<Arc<[u64]>, Refusal> {
    let messages = messages.map_or("[]", RawValue::get);
    if messages == "[]" || messages == "null" {
        return Ok(Arc::from([]));
    }
    let tools = tools.map_or("null", RawValue::get);
    let chat = format!("{{\"messages\":{messages},\"tools\":{tools}}}");
    let request: ChatRequest<'_> = serde_json::from_str(&chat)?;
    let images = ImageTokens {
        per_tile: rules.image_tile_tokens,
    };
    let rendered = render::chat(&request, images, replica.profile.tokens_per_block)?;
    Ok(rendered.sequence.hashes())
}

/// The offset of a body `{"offset": seconds}`.
pub(crate) fn offset(body: &[u8]) -> Result<f64, Refusal> {
    let body: Value = serde_json::from_slice(body)?;
    let offset = body.get("offset").and_then(Value::as_f64);
    offset.ok_or_else(|| Refusal::Form("offset: Input should be a valid number".to_owned()))
}
