//! `/v1/responses`: requests become chats, answers take the shape of the Responses interface.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::interface::generate::{Interface, Refusal, Rules, Ticket, generate};
use crate::interface::respond::Usage;
use crate::replica::state::Replica;
use crate::replica::store::Kept;
use crate::text::reply::mix;

/// A request under way.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) ticket: Ticket,
    /// The fields that the answer repeats or fills with defaults.
    skeleton: Map<String, Value>,
    id: String,
    message_id: String,
    /// The conversation so far, if the answer is to be kept.
    messages: Option<Vec<Value>>,
}

/// Fields of a request that its answer repeats, and what stands there otherwise.
fn repeated() -> [(&'static str, Value); 18] {
    [
        ("instructions", Value::Null),
        ("metadata", Value::Null),
        ("parallel_tool_calls", json!(false)),
        ("temperature", json!(1.0)),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("top_p", json!(1.0)),
        ("background", json!(false)),
        ("max_output_tokens", Value::Null),
        ("max_tool_calls", Value::Null),
        ("previous_response_id", Value::Null),
        ("prompt", Value::Null),
        ("reasoning", Value::Null),
        ("service_tier", json!("auto")),
        ("text", Value::Null),
        ("top_logprobs", json!(0)),
        ("truncation", json!("disabled")),
        ("user", Value::Null),
    ]
}

/// Reads a request and hands it to the engine. Unlike those of the other interfaces, fields that
/// are not known are taken, as trtllm-serve does here.
pub(crate) fn begin(
    replica: &Arc<Replica>,
    rules: &Rules,
    body: &[u8],
    asked: Option<u32>,
    created: u64,
) -> Result<Pending, Refusal> {
    let mut request: Map<String, Value> = serde_json::from_slice(body)?;
    request.retain(|_, value| !value.is_null());
    check(&request)?;
    let mut messages = earlier(replica, &request)?;
    messages.extend(said(&request)?);
    let stores = request.get("store") != Some(&json!(false));
    let chat = json!({
        "model": request.get("model"),
        "messages": messages,
        "tools": request.get("tools"),
        "max_tokens": request.get("max_output_tokens"),
        "stream": request.get("stream"),
    });
    let chat = chat.to_string();
    let ticket = generate(replica, rules, Interface::Chat, chat.as_bytes(), asked)?;
    let (high, low) = (mix(replica.index as u64), mix(ticket.id));
    let id = format!("resp_{high:016x}{low:016x}");
    let mut skeleton = Map::new();
    skeleton.insert("id".to_owned(), json!(id));
    skeleton.insert("created_at".to_owned(), json!(created));
    skeleton.insert("model".to_owned(), json!(replica.model));
    skeleton.insert("object".to_owned(), json!("response"));
    for (name, otherwise) in repeated() {
        let value = request.remove(name).unwrap_or(otherwise);
        skeleton.insert(name.to_owned(), value);
    }
    Ok(Pending {
        message_id: format!("msg_{low:016x}{high:016x}"),
        messages: stores.then_some(messages),
        ticket,
        skeleton,
        id,
    })
}

impl Pending {
    pub(crate) fn message_id(&self) -> &str {
        &self.message_id
    }

    /// The answer as it is before its first token.
    pub(crate) fn begun(&self) -> Value {
        self.filled(json!([]), "in_progress", Value::Null)
    }

    /// The answer once all its tokens are out; kept, if it is to be.
    pub(crate) fn complete(&mut self) -> Value {
        let text = self.text();
        let status = match self.ticket.choices.first() {
            Some(choice) if choice.reply.finish_reason() == "length" => "incomplete",
            _ => "completed",
        };
        let usage = Usage::of(&self.ticket).responses_json();
        let response = self.filled(json!([self.item(&text)]), status, usage);
        if let Some(mut messages) = self.messages.take() {
            messages.push(json!({"role": "assistant", "content": text}));
            self.ticket.replica.responses().put(Kept {
                id: self.id.clone(),
                response: response.clone(),
                messages,
            });
        }
        response
    }

    /// The whole text.
    pub(crate) fn text(&self) -> String {
        let choice = self.ticket.choices.first();
        choice.map_or_else(String::new, |choice| choice.reply.text())
    }

    /// The message of a complete answer.
    pub(crate) fn item(&self, text: &str) -> Value {
        json!({
            "id": self.message_id,
            "content": [part(text)],
            "role": "assistant",
            "status": "completed",
            "type": "message",
        })
    }

    fn filled(&self, output: Value, status: &str, usage: Value) -> Value {
        let mut response = self.skeleton.clone();
        response.insert("output".to_owned(), output);
        response.insert("status".to_owned(), json!(status));
        response.insert("usage".to_owned(), usage);
        Value::Object(response)
    }
}

/// A piece of an answer's message.
pub(crate) fn part(text: &str) -> Value {
    json!({"annotations": [], "text": text, "type": "output_text", "logprobs": null})
}

/// A kept answer, as it was given.
pub(crate) fn kept(replica: &Replica, id: &str) -> Result<Value, Refusal> {
    named(id)?;
    let mut responses = replica.responses();
    let found = responses.get(id).map(|kept| kept.response.clone());
    found.ok_or_else(|| not_found(id))
}

/// Forgets a kept answer.
pub(crate) fn delete(replica: &Replica, id: &str) -> Result<Value, Refusal> {
    named(id)?;
    let taken = replica.responses().take(id);
    taken.ok_or_else(|| not_found(id))?;
    Ok(json!({"id": id, "object": "response", "deleted": true}))
}

fn check(request: &Map<String, Value>) -> Result<(), Refusal> {
    let form = |text: &str| Err(Refusal::Form(text.to_owned()));
    if !request.contains_key("input") {
        return form("input: Field required");
    }
    if request.contains_key("prompt") {
        return form("prompt template is not supported");
    }
    let is = |name: &str, value: bool| request.get(name) == Some(&json!(value));
    if is("background", true) && is("store", false) {
        return form("background can only be used when `store` is true");
    }
    Ok(())
}

/// The conversation that the request goes on from.
fn earlier(replica: &Replica, request: &Map<String, Value>) -> Result<Vec<Value>, Refusal> {
    let Some(previous) = request.get("previous_response_id") else {
        return Ok(Vec::new());
    };
    let id = previous
        .as_str()
        .ok_or_else(|| Refusal::Form("previous_response_id: Input should be a string".into()))?;
    named(id)?;
    let mut responses = replica.responses();
    let found = responses.get(id).map(|kept| kept.messages.clone());
    found.ok_or_else(|| not_found(id))
}

/// What the request itself says, as chat messages.
fn said(request: &Map<String, Value>) -> Result<Vec<Value>, Refusal> {
    let mut messages = Vec::new();
    if let Some(instructions) = request.get("instructions") {
        messages.push(json!({"role": "system", "content": instructions}));
    }
    match request.get("input") {
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(Value::Array(items)) => messages.extend(items.iter().map(message)),
        _ => {
            return Err(Refusal::Form(
                "input: Input should be a valid string or list".to_owned(),
            ));
        }
    }
    Ok(messages)
}

/// One item of the input.
fn message(item: &Value) -> Value {
    let text = |name: &str| item.get(name).cloned().unwrap_or(json!(""));
    match item.get("type").and_then(Value::as_str) {
        Some("function_call") => json!({
            "role": "assistant",
            "content": null,
            "tool_calls": [{"name": text("name"), "arguments": text("arguments")}],
        }),
        Some("function_call_output") => json!({"role": "tool", "content": words(&text("output"))}),
        Some("reasoning") => json!({"role": "assistant", "content": content(item)}),
        _ => json!({
            "role": item.get("role").and_then(Value::as_str).unwrap_or("user"),
            "content": content(item),
        }),
    }
}

/// A string as it is; anything else as its JSON.
fn words(value: &Value) -> Value {
    match value {
        Value::String(_) => value.clone(),
        other => json!(other.to_string()),
    }
}

/// An item's content in the chat's form: its parts have other names here.
fn content(item: &Value) -> Value {
    match item.get("content") {
        Some(Value::Array(parts)) => Value::Array(parts.iter().map(chat_part).collect()),
        Some(Value::String(text)) => json!(text),
        _ => Value::Null,
    }
}

fn chat_part(part: &Value) -> Value {
    match part.get("type").and_then(Value::as_str) {
        Some("input_image") => json!({
            "type": "image_url",
            "image_url": {"url": part.get("image_url").and_then(Value::as_str).unwrap_or("")},
        }),
        _ => json!({
            "type": "text",
            "text": part.get("text").and_then(Value::as_str).unwrap_or(""),
        }),
    }
}

fn named(id: &str) -> Result<(), Refusal> {
    if id.starts_with("resp_") {
        return Ok(());
    }
    Err(Refusal::Check {
        status: StatusCode::BAD_REQUEST,
        kind: "InvalidRequestError",
        message: format!("Invalid 'response_id': '{id}'. Expected an ID that begins with 'resp'."),
    })
}

fn not_found(id: &str) -> Refusal {
    Refusal::Check {
        status: StatusCode::NOT_FOUND,
        kind: "InvalidRequestError",
        message: format!("Response with id '{id}' not found."),
    }
}
