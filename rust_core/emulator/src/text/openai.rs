//! The requests of OpenAI's interface, as far as an engine's work depends on them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// What a request says of its generation, in either interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    pub(crate) stream_options: bool,
    pub(crate) include_usage: bool,
    pub(crate) choices: u32,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) min_tokens: u32,
    pub(crate) ignore_eos: bool,
}

/// A chat request.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatRequest<'a> {
    model: Option<String>,
    #[serde(borrow)]
    pub(crate) messages: Vec<Message<'a>>,
    #[serde(borrow)]
    pub(crate) tools: Option<&'a RawValue>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    min_tokens: Option<u32>,
    n: Option<u32>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    ignore_eos: Option<bool>,
}

/// A completion request.
#[derive(Debug, Deserialize)]
pub(crate) struct CompletionRequest<'a> {
    model: Option<String>,
    #[serde(borrow)]
    prompt: &'a RawValue,
    max_tokens: Option<u32>,
    min_tokens: Option<u32>,
    n: Option<u32>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    ignore_eos: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// One message of a chat.
#[derive(Debug, Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow)]
    pub(crate) role: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) tool_calls: Option<&'a RawValue>,
}

/// A piece of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Text(Cow<'a, str>),
    /// The image's URL, which may carry the image itself.
    Image(Cow<'a, str>),
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct RawPart<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default)]
    image_url: Option<ImageUrl<'a>>,
}

#[derive(Deserialize)]
struct ImageUrl<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
}

/// A prompt of a completion request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Prompt<'a> {
    Text(Cow<'a, str>),
    Tokens(Vec<u32>),
}

impl<'a> Message<'a> {
    /// Its pieces in order.
    pub(crate) fn parts(&self) -> Result<Vec<Part<'a>>, serde_json::Error> {
        let Some(raw) = self.content.map(RawValue::get) else {
            return Ok(Vec::new());
        };
        if raw == "null" {
            return Ok(Vec::new());
        }
        if raw.starts_with('"') {
            let Text(text) = serde_json::from_str(raw)?;
            return Ok(vec![Part::Text(text)]);
        }
        let parts: Vec<RawPart<'a>> = serde_json::from_str(raw)?;
        Ok(parts.into_iter().filter_map(part).collect())
    }
}

fn part<'a>(part: RawPart<'a>) -> Option<Part<'a>> {
    match part.kind.as_ref() {
        "image_url" => part.image_url.map(|image| Part::Image(image.url)),
        _ => part.text.map(|Text(text)| Part::Text(text)),
    }
}

impl ChatRequest<'_> {
    pub(crate) fn generation(&self) -> Generation {
        Generation {
            model: self.model.clone(),
            stream: self.stream.unwrap_or(false),
            stream_options: self.stream_options.is_some(),
            include_usage: include_usage(self.stream_options.as_ref()),
            choices: self.n.unwrap_or(1),
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            min_tokens: self.min_tokens.unwrap_or(0),
            ignore_eos: self.ignore_eos.unwrap_or(false),
        }
    }
}

impl<'a> CompletionRequest<'a> {
    pub(crate) fn generation(&self) -> Generation {
        Generation {
            model: self.model.clone(),
            stream: self.stream.unwrap_or(false),
            stream_options: self.stream_options.is_some(),
            include_usage: include_usage(self.stream_options.as_ref()),
            choices: self.n.unwrap_or(1),
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens.unwrap_or(0),
            ignore_eos: self.ignore_eos.unwrap_or(false),
        }
    }

    /// The prompts: a text, several, a token array, or several of those.
    pub(crate) fn prompts(&self) -> Result<Vec<Prompt<'a>>, serde_json::Error> {
        let raw = self.prompt.get();
        let inner = raw
            .strip_prefix('[')
            .map_or("", |rest| rest.trim_ascii_start());
        if raw.starts_with('"') {
            let Text(text) = serde_json::from_str(raw)?;
            Ok(vec![Prompt::Text(text)])
        } else if inner.starts_with('"') {
            let texts: Vec<Text<'a>> = serde_json::from_str(raw)?;
            Ok(texts.into_iter().map(|Text(t)| Prompt::Text(t)).collect())
        } else if inner.starts_with('[') {
            let lists: Vec<Vec<u32>> = serde_json::from_str(raw)?;
            Ok(lists.into_iter().map(Prompt::Tokens).collect())
        } else {
            Ok(vec![Prompt::Tokens(serde_json::from_str(raw)?)])
        }
    }
}

fn include_usage(options: Option<&StreamOptions>) -> bool {
    options.is_some_and(|o| o.include_usage.unwrap_or(true))
}

/// The fields that trtllm-serve knows of in both interfaces.
const KNOWN: [&str; 37] = [
    "model",
    "best_of",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "n",
    "presence_penalty",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "user",
    "lora_request",
    "prompt_ignore_length",
    "use_beam_search",
    "top_k",
    "top_p_min",
    "min_p",
    "repetition_penalty",
    "length_penalty",
    "early_stopping",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "truncate_prompt_tokens",
    "thinking_token_budget",
    "add_special_tokens",
    "response_format",
    "disaggregated_params",
    "conversation_params",
    "priority",
];
const KNOWN_CHAT: [&str; 20] = [
    "messages",
    "prompt_token_ids",
    "prompt_token_ids_b64",
    "top_logprobs",
    "max_completion_tokens",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "thinking",
    "echo",
    "add_generation_prompt",
    "documents",
    "chat_template",
    "chat_template_kwargs",
    "injected_chat_template_kwargs",
    "media_io_kwargs",
    "cache_salt",
    "agent_hierarchy",
    "mm_processor_kwargs",
];
const KNOWN_COMPLETION: [&str; 5] = [
    "prompt",
    "echo",
    "suffix",
    "return_context_logits",
    "detokenize",
];

/// The first field of a body that trtllm-serve would refuse, as it forbids all it does not know.
pub(crate) fn unknown_field(body: &[u8], chat: bool) -> Result<Option<String>, serde_json::Error> {
    let fields: BTreeMap<Cow<'_, str>, IgnoredAny> = serde_json::from_slice(body)?;
    let own: &[&str] = if chat { &KNOWN_CHAT } else { &KNOWN_COMPLETION };
    let known = |name: &str| KNOWN.contains(&name) || own.contains(&name);
    Ok(fields
        .into_keys()
        .find(|name| !known(name))
        .map(Cow::into_owned))
}

#[cfg(test)]
mod tests {
    use super::{ChatRequest, CompletionRequest, Part, Prompt, unknown_field};

    #[test]
    fn a_message_holds_text_or_parts() {
        let body = r#"{"model":"m","messages":[
            {"role":"system","content":"be brief"},
            {"role":"user","content":[{"type":"text","text":"what\nis"},
              {"type":"image_url","image_url":{"url":"http://x/y.png","detail":"low"}}]},
            {"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}],
            "tools":[{"type":"function"}],"max_completion_tokens":7,"max_tokens":9,"stream":true,
            "stream_options":{"include_usage":true},"temperature":0.5}"#;
        let chat: ChatRequest<'_> = serde_json::from_str(body).unwrap();
        let parts: Vec<_> = chat.messages.iter().map(|m| m.parts().unwrap()).collect();
        assert_eq!(parts[0], [Part::Text("be brief".into())]);
        assert_eq!(
            parts[1],
            [
                Part::Text("what\nis".into()),
                Part::Image("http://x/y.png".into())
            ]
        );
        assert!(parts[2].is_empty());
        assert!(chat.messages[2].tool_calls.is_some());
        let generation = chat.generation();
        assert_eq!(generation.max_tokens, Some(7));
        assert!(generation.stream && generation.include_usage);
    }

    #[test]
    fn unknown_fields_are_found_per_interface() {
        let find = |body: &str, chat| unknown_field(body.as_bytes(), chat).unwrap();
        assert_eq!(
            find(r#"{"model":"m","messages":[],"user":"u"}"#, true),
            None
        );
        assert_eq!(
            find(r#"{"model":"m","prompt_cache_key":"k"}"#, true),
            Some("prompt_cache_key".to_owned())
        );
        assert_eq!(
            find(r#"{"prompt":"x","messages":[]}"#, false),
            Some("messages".to_owned())
        );
    }

    #[test]
    fn prompts_come_in_four_forms() {
        let prompts = |prompt: &str| {
            let body = format!(r#"{{"prompt":{prompt}}}"#);
            let request: CompletionRequest<'_> = serde_json::from_str(&body).unwrap();
            format!("{:?}", request.prompts().unwrap_or_default())
        };
        assert_eq!(prompts(r#""a b""#), r#"[Text("a b")]"#);
        assert_eq!(prompts(r#"[ "a","b"]"#), r#"[Text("a"), Text("b")]"#);
        assert_eq!(prompts("[1,2]"), "[Tokens([1, 2])]");
        assert_eq!(prompts("[[1],[2]]"), "[Tokens([1]), Tokens([2])]");
        assert_eq!(prompts("[]"), "[Tokens([])]");
        assert_eq!(prompts("7"), "[]");
        let _ = Prompt::Tokens(vec![]);
    }
}
