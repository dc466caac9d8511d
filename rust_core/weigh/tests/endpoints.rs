//! Bodies of every endpoint in the forms that clients really send.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use weighbridge_weigh::{Body, Detail, Endpoint, Limits, Media, ReadError, Reading, read};

fn read_json(endpoint: Endpoint, json: &Value) -> Reading {
    let bytes = serde_json::to_vec(json).unwrap();
    read(endpoint, Body::whole(&bytes), &Limits::default()).unwrap()
}

fn fault(endpoint: Endpoint, json: &str) -> ReadError {
    read(endpoint, Body::whole(json.as_bytes()), &Limits::default()).unwrap_err()
}

/// A PNG header of that size, as a data URL.
fn png_url(width: u32, height: u32) -> String {
    let mut header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    format!("data:image/png;base64,{}", base64(&header))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0u32, |bits, &byte| bits << 8 | u32::from(byte))
            << (8 * (3 - group.len()));
        for i in 0..4 {
            let sextet = (bits >> (18 - 6 * i) & 63) as usize;
            text.push(if i <= group.len() {
                ALPHABET[sextet] as char
            } else {
                '='
            });
        }
    }
    text
}

#[test]
fn a_chat_with_tools_images_and_audio() {
    let wav: Vec<u8> = [
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0".as_slice(),
        &[0; 64_000],
    ]
    .concat();
    let reading = read_json(
        Endpoint::ChatCompletions,
        &json!({
            "model": "m",
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
                {"role": "user", "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": png_url(640, 480), "detail": "high"}},
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.jpg"}},
                    {"type": "input_audio", "input_audio": {"data": base64(&wav), "format": "wav"}},
                ]},
                {"role": "assistant", "content": null, "tool_calls": [{
                    "id": "c1", "type": "function",
                    "function": {"name": "look_up", "arguments": "{\"id\": 7}"},
                }]},
                {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
            ],
            "tools": [{"type": "function", "function": {"name": "look_up", "parameters": {}}}],
            "max_tokens": 10, "max_completion_tokens": 20, "n": 3,
            "prompt_cache_key": "k",
        }),
    );
    assert_eq!(reading.messages, 4);
    assert_eq!(reading.text.system.bytes, 9);
    assert_eq!(reading.text.user.bytes, 13);
    assert_eq!(reading.text.assistant.bytes, 7 + 9);
    assert_eq!(reading.text.tool.bytes, 5);
    assert!(reading.has_tools && reading.tools == 1 && reading.text.tools.bytes > 50);
    assert_eq!(reading.max_output_tokens, Some(20));
    assert_eq!(reading.choices, 3);
    assert_eq!(reading.session.prompt_cache_key.as_deref(), Some("k"));
    let [inline, remote] = reading.images.as_slice() else {
        unreachable!()
    };
    assert_eq!(
        (inline.size, inline.detail),
        (Some((640, 480)), Detail::High)
    );
    assert_eq!(
        (remote.size, remote.detail, remote.bytes),
        (None, Detail::Auto, 0)
    );
    assert!(
        (reading.audio_seconds - 2.0).abs() < 0.01,
        "{}",
        reading.audio_seconds
    );
    assert!(reading.templated);
}

#[test]
fn audios_format_may_come_after_its_data() {
    let seconds = |audio: &str| {
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"input_audio":{audio}}}]}}]}}"#
        );
        let body = Body::whole(body.as_bytes());
        read(Endpoint::ChatCompletions, body, &Limits::default())
            .unwrap()
            .audio_seconds
    };
    let data = base64(&[0; 48_000]);
    let after = seconds(&format!(r#"{{"data":"{data}","format":"pcm16"}}"#));
    let before = seconds(&format!(r#"{{"format":"pcm16","data":"{data}"}}"#));
    assert!(
        (after - 1.0).abs() < 0.001 && (before - 1.0).abs() < 0.001,
        "{after} {before}"
    );
    assert_eq!(seconds(r#"{"url":"https://x/a.mp3"}"#), 30.0);
}

#[test]
fn completions_take_prompts_of_every_form() {
    let prompt = |prompt: Value| {
        read_json(
            Endpoint::Completions,
            &json!({"model": "m", "prompt": prompt, "best_of": 2}),
        )
    };
    let one = prompt(json!("once upon a time"));
    assert_eq!(
        (one.text.prompt.bytes, one.choices, one.messages),
        (16, 2, 1)
    );
    assert!(!one.templated);
    let list = prompt(json!(["one", "two", "three"]));
    assert_eq!(
        (list.text.prompt.bytes, list.choices, list.messages),
        (11, 6, 3)
    );
    let ids = prompt(json!([1, 2, 3, 128_000]));
    assert_eq!(
        (ids.explicit_tokens, ids.choices, ids.text.prompt.bytes),
        (4, 2, 0)
    );
    let lists = prompt(json!([[1, 2, 3], [4, 5]]));
    assert_eq!((lists.explicit_tokens, lists.choices), (5, 4));
    let empty = prompt(json!(""));
    assert_eq!((empty.text.prompt.bytes, empty.messages), (0, 1));
    let suffix = read_json(
        Endpoint::Completions,
        &json!({"model": "m", "prompt": "def f(", "suffix": "return x"}),
    );
    assert_eq!(suffix.text.prompt.bytes, 6 + 8);
}

#[test]
fn embeddings_take_text_and_tokens() {
    let input = |input: Value| {
        read_json(
            Endpoint::Embeddings,
            &json!({"model": "e", "input": input, "user": "u"}),
        )
    };
    assert_eq!(input(json!("hello")).text.prompt.bytes, 5);
    assert_eq!(input(json!(["a", "bc"])).messages, 2);
    assert_eq!(input(json!([[1, 2], [3]])).explicit_tokens, 3);
    assert_eq!(input(json!("hello")).session.user.as_deref(), Some("u"));
}

#[test]
fn responses_take_items_and_instructions() {
    let reading = read_json(
        Endpoint::Responses,
        &json!({
            "model": "m",
            "instructions": "Be kind.",
            "input": [
                {"role": "user", "content": "Hi"},
                {"type": "message", "role": "user", "content": [
                    {"type": "input_text", "text": "and hello"},
                    {"type": "input_image", "image_url": png_url(32, 16), "detail": "low"},
                    {"type": "input_file", "filename": "a.pdf",
                     "file_data": format!("data:application/pdf;base64,{}", base64(b"%PDF-1.7 x"))},
                ]},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "thinking"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"call_id": "c", "output": "42", "type": "function_call_output"},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
            "max_output_tokens": 99,
            "previous_response_id": "resp_1",
            "conversation": {"id": "conv_1"},
            "stream": true,
        }),
    );
    assert_eq!(reading.text.system.bytes, 8);
    assert_eq!(reading.text.user.bytes, 2 + 9);
    assert_eq!(reading.text.assistant.bytes, 8 + 1 + 2);
    assert_eq!(reading.text.tool.bytes, 2);
    assert_eq!((reading.messages, reading.tools), (5, 1));
    assert_eq!(reading.max_output_tokens, Some(99));
    assert_eq!(
        reading.session.previous_response_id.as_deref(),
        Some("resp_1")
    );
    assert_eq!(reading.session.conversation.as_deref(), Some("conv_1"));
    let [image, file] = reading.images.as_slice() else {
        unreachable!()
    };
    assert_eq!((image.size, image.detail), (Some((32, 16)), Detail::Low));
    assert_eq!(file.media, Media::Document);

    let plain = read_json(
        Endpoint::Responses,
        &json!({"model": "m", "input": "Hello"}),
    );
    assert_eq!((plain.text.user.bytes, plain.messages), (5, 1));
    let named = json!({"model": "m", "input": "Hello", "conversation": "conv_2"});
    let named = read_json(Endpoint::Responses, &named);
    assert_eq!(named.session.conversation.as_deref(), Some("conv_2"));
    let continued = json!({"model": "m", "previous_response_id": "resp_1"});
    assert_eq!(read_json(Endpoint::Responses, &continued).messages, 0);
}

#[test]
fn anthropic_messages_are_read() {
    let reading = read_json(
        Endpoint::Messages,
        &json!({
            "model": "claude",
            "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "image", "source":
                        {"type": "base64", "media_type": "image/png",
                         "data": png_url(20, 10).split(',').nth(1)}},
                    {"type": "document", "source":
                        {"data": "plain text, no base64", "media_type": "text/plain", "type": "text"}},
                    {"type": "text", "text": "Look"},
                ]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                    {"type": "tool_use", "id": "t1", "name": "get", "input": {"a": [1, "b"]}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"},
                    {"type": "tool_result", "tool_use_id": "t2",
                     "content": [{"type": "text", "text": "cold"}]},
                    {"type": "text", "text": "so?"},
                ]},
            ],
            "tools": [{"name": "get", "description": "d", "input_schema": {"type": "object"}}],
            "max_tokens": 5,
            "metadata": {"user_id": "u7"},
        }),
    );
    assert_eq!(reading.text.system.bytes, 8);
    assert_eq!(reading.text.user.bytes, 4 + 21 + 3);
    assert_eq!(
        reading.text.assistant.bytes,
        2 + 3 + r#"{"a": [1, "b"]}"#.len() as u64
    );
    assert_eq!(reading.text.tool.bytes, 5 + 4);
    assert_eq!(reading.max_output_tokens, Some(5));
    assert_eq!(reading.session.user.as_deref(), Some("u7"));
    assert_eq!(reading.images.len(), 1);
    assert_eq!(reading.images[0].size, Some((20, 10)));

    let plain =
        json!({"model": "c", "system": "Hi", "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(read_json(Endpoint::Messages, &plain).text.system.bytes, 2);
}

#[test]
fn the_last_of_duplicate_keys_wins() {
    let read_text = |json: &str| {
        read(
            Endpoint::ChatCompletions,
            Body::whole(json.as_bytes()),
            &Limits::default(),
        )
        .unwrap()
    };
    let reading = read_text(
        r#"{"model":"a","n":4,"messages":[{"role":"user","content":"long forgotten"},
        {"role":"assistant","content":[{"image_url":"https://x"}]}],"tools":[{"a":1}],
        "tools":[],"n":1,"messages":[{"role":"system","role":"user","content":"xxxx",
        "tool_calls":[{"function":{"name":"f"}}],"content":"new"}],"model":"b"}"#,
    );
    assert_eq!(reading.model, "b");
    assert_eq!(
        (reading.choices, reading.messages, reading.tools),
        (1, 1, 0)
    );
    assert_eq!(reading.text.user.bytes, 3 + 1);
    assert_eq!(reading.text.total().bytes, 4);
    assert!(reading.images.is_empty());
}

#[test]
fn a_repeated_content_leaves_no_trace_in_the_chain() {
    let chain = |contents: &str| {
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"system","content":"s"}},{{"role":"user",{contents}}},
            {{"role":"user","content":"{}"}}]}}"#,
            "tail ".repeat(100)
        );
        let body = Body::whole(body.as_bytes());
        read(Endpoint::ChatCompletions, body, &Limits::default()).unwrap()
    };
    let long = "forgotten ".repeat(200);
    let once = chain(r#""content":"kept""#);
    let twice = chain(&format!(r#""content":"{long}","content":"kept""#));
    let image = chain(r#""content":[{"image_url":"https://x"}],"content":"kept""#);
    for other in [twice, image] {
        assert_eq!(other.prefix, once.prefix);
        assert_eq!(other.session.opening, once.session.opening);
        assert_eq!(other.text, once.text);
    }
}

#[test]
fn what_engines_take_leniently_is_taken() {
    let reading = read_json(
        Endpoint::ChatCompletions,
        &json!({
            "model": "m", "stream": "true", "max_tokens": 16.0, "n": null, "user": 12,
            "stream_options": null, "tools": null, "metadata": [], "temperature": "hot",
            "min_tokens": "4", "ignore_eos": 1,
            "messages": [
                {"role": "user", "content": ["a", {"text": "b"}], "name": "ann"},
                {"role": "critic", "content": "c"},
                {"content": "d"},
                {},
            ],
        }),
    );
    assert!(reading.stream && reading.ignore_eos);
    assert_eq!(
        (reading.max_output_tokens, reading.min_output_tokens),
        (Some(16), 4)
    );
    assert_eq!(reading.session.user.as_deref(), Some("12"));
    assert_eq!((reading.messages, reading.text.user.bytes), (4, 3 + 4));
}

#[test]
fn odd_bytes_are_weighed_or_refused_clearly() {
    let user = |content: &[u8]| {
        let body = [
            br#"{"model":"m","messages":[{"role":"user","content":""#.as_slice(),
            content,
            br#""}]}"#,
        ]
        .concat();
        read(
            Endpoint::ChatCompletions,
            Body::whole(&body),
            &Limits::default(),
        )
    };
    assert_eq!(user(b"a\\u0000b").unwrap().text.user.bytes, 3);
    assert_eq!(user(b"a\0b").unwrap().text.user.bytes, 3);
    assert_eq!(user(b"a\xFF\xFEb").unwrap().text.user.bytes, 4);
    assert_eq!(user(b"\\ud83c\\udf89").unwrap().text.user.bytes, 4);
    assert_eq!(user(b"\\ud83c!").unwrap().text.user.bytes, 4);
    assert_eq!(user(b"\\x").unwrap_err().code(), "invalid_json");
    let deep = format!(r#"{{"model":"m","tools":[{}"#, "[".repeat(100_000));
    assert_eq!(fault(Endpoint::ChatCompletions, &deep), ReadError::TooDeep);
    let skipped = format!(
        r#"{{"other":{}{},"model":"m","messages":[{{"role":"user","content":"x"}}]}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let body = Body::whole(skipped.as_bytes());
    assert_eq!(
        read(Endpoint::ChatCompletions, body, &Limits::default())
            .unwrap()
            .messages,
        1
    );
    let bom = b"\xEF\xBB\xBF{\"model\":\"m\",\"messages\":[{\"content\":\"x\"}]}";
    let read_bom = read(
        Endpoint::ChatCompletions,
        Body::whole(bom),
        &Limits::default(),
    );
    assert_eq!(read_bom.unwrap().text.user.bytes, 1);
}

#[test]
fn faults_are_fit_for_the_client() {
    use Endpoint::{ChatCompletions, Completions, Embeddings, Messages, Responses};
    for (endpoint, json, code, param) in [
        (ChatCompletions, r#""text""#, "invalid_body", None),
        (ChatCompletions, "", "invalid_json", None),
        (ChatCompletions, "{} {}", "invalid_json", None),
        (
            ChatCompletions,
            r#"{"model":"m","messages":[{"role":"u"}"#,
            "invalid_json",
            None,
        ),
        (
            ChatCompletions,
            r#"{"model":""}"#,
            "missing_required_parameter",
            Some("model"),
        ),
        (
            ChatCompletions,
            r#"{"model":null}"#,
            "missing_required_parameter",
            Some("model"),
        ),
        (
            ChatCompletions,
            r#"{"model":["m"]}"#,
            "invalid_type",
            Some("model"),
        ),
        (
            ChatCompletions,
            r#"{"messages":"x"}"#,
            "invalid_type",
            Some("messages"),
        ),
        (
            ChatCompletions,
            r#"{"messages":["x"]}"#,
            "invalid_type",
            Some("messages"),
        ),
        (
            ChatCompletions,
            r#"{"messages":[{"content":7}]}"#,
            "invalid_type",
            Some("messages"),
        ),
        (
            ChatCompletions,
            r#"{"messages":[{"content":{}}]}"#,
            "invalid_type",
            Some("messages"),
        ),
        (
            ChatCompletions,
            r#"{"tools":{}}"#,
            "invalid_type",
            Some("tools"),
        ),
        (
            ChatCompletions,
            r#"{"stream":"maybe"}"#,
            "invalid_type",
            Some("stream"),
        ),
        (
            ChatCompletions,
            r#"{"max_tokens":1e30}"#,
            "invalid_value",
            Some("max_tokens"),
        ),
        (
            ChatCompletions,
            r#"{"max_tokens":1.5}"#,
            "invalid_value",
            Some("max_tokens"),
        ),
        (
            ChatCompletions,
            r#"{"max_tokens":[]}"#,
            "invalid_type",
            Some("max_tokens"),
        ),
        (
            ChatCompletions,
            r#"{"n":1000000}"#,
            "invalid_value",
            Some("n"),
        ),
        (
            Completions,
            r#"{"model":"m"}"#,
            "missing_required_parameter",
            Some("prompt"),
        ),
        (
            Completions,
            r#"{"prompt":{}}"#,
            "invalid_type",
            Some("prompt"),
        ),
        (
            Completions,
            r#"{"prompt":[1,"a",{}]}"#,
            "invalid_type",
            Some("prompt"),
        ),
        (
            Completions,
            r#"{"prompt":[-1]}"#,
            "invalid_type",
            Some("prompt"),
        ),
        (
            Embeddings,
            r#"{"model":"m"}"#,
            "missing_required_parameter",
            Some("input"),
        ),
        (
            Responses,
            r#"{"model":"m"}"#,
            "missing_required_parameter",
            Some("input"),
        ),
        (
            Messages,
            r#"{"model":"m","messages":[]}"#,
            "invalid_value",
            Some("messages"),
        ),
        (
            Messages,
            r#"{"model":"m","system":3}"#,
            "invalid_type",
            Some("system"),
        ),
    ] {
        let error = fault(endpoint, json);
        assert_eq!(
            (error.code(), error.param()),
            (code, param),
            "{json}: {error}"
        );
        assert!(error.to_string().len() < 400);
    }
    // The message quotes no more than a little of what the client sent.
    let long = format!(r#"{{"stream":"{}"}}"#, "x".repeat(10_000));
    assert!(fault(ChatCompletions, &long).to_string().len() < 400);
    let long = format!(r#"{{"messages":"{}"}}"#, "x".repeat(10_000));
    assert!(fault(Messages, &long).to_string().len() < 400);
    let long = format!(r#"{{"tools":"{}"}}"#, "x".repeat(10_000));
    assert!(fault(ChatCompletions, &long).to_string().len() < 400);
    let long = format!(r#"{{"model":"{}"}}"#, "x".repeat(10_000));
    assert_eq!(fault(ChatCompletions, &long).code(), "invalid_value");
}

#[test]
fn long_hints_are_hashed() {
    let long = "u".repeat(5000);
    let body = json!({"model": "m", "user": long, "messages": [{"role": "user", "content": "x"}]});
    let user = read_json(Endpoint::ChatCompletions, &body)
        .session
        .user
        .unwrap();
    assert!(user.starts_with("xxh3:") && user.len() == 37, "{user}");
}

#[test]
fn images_beyond_the_limit_are_counted() {
    let parts = vec![json!({"type": "image_url", "image_url": {"url": "https://x"}}); 5];
    let body = json!({"model": "m", "messages": [{"role": "user", "content": parts}]}).to_string();
    let limits = Limits {
        max_images: 2,
        ..Limits::default()
    };
    let reading = read(
        Endpoint::ChatCompletions,
        Body::whole(body.as_bytes()),
        &limits,
    )
    .unwrap();
    assert_eq!((reading.images.len(), reading.more_images), (2, 3));
}
