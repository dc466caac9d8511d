//! Laws of reading: what must hold for every body.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use weighbridge_weigh::{Body, CostCoefficients, Endpoint, Limits, Reading, Work, read};

const ENDPOINTS: [Endpoint; 5] = [
    Endpoint::ChatCompletions,
    Endpoint::Completions,
    Endpoint::Responses,
    Endpoint::Embeddings,
    Endpoint::Messages,
];

fn chat(body: &[u8]) -> Reading {
    read(
        Endpoint::ChatCompletions,
        Body::whole(body),
        &Limits::default(),
    )
    .unwrap()
}

/// JSON made of the words that requests are made of, so that it reaches deep into the reader.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        prop_oneof![
            "user",
            "system",
            "tool",
            "text",
            "data:image/png;base64,iVBORw0KGgo="
        ]
        .prop_map(Value::from),
    ];
    let key = prop_oneof![
        "(model|stream|n|best_of|max_tokens|messages|prompt|input|instructions|system|tools)",
        "(role|content|tool_calls|function|name|arguments|output|summary|type|text|source|data)",
        "(image_url|url|detail|input_audio|format|file|video|metadata|user_id|conversation|id)",
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A message with a role and some text, at times in parts.
fn message() -> impl Strategy<Value = Value> {
    let role = prop_oneof!["user", "assistant", "tool"];
    let text = prop_oneof![".{0,40}", "[a-z ]{200,700}", "[\u{4e00}-\u{9fff}。]{0,200}"];
    (role, proptest::collection::vec(text, 1..3), any::<bool>()).prop_map(|(role, texts, parts)| {
        if parts {
            let parts: Vec<Value> = texts
                .iter()
                .map(|text| json!({"type": "text", "text": text}))
                .collect();
            json!({"role": role, "content": parts})
        } else {
            json!({"role": role, "content": texts.concat()})
        }
    })
}

fn body(messages: &[Value]) -> Vec<u8> {
    let mut all = vec![json!({"role": "system", "content": "You are a scale. ".repeat(30)})];
    all.extend_from_slice(messages);
    let tools = json!([{"type": "function", "function": {"name": "weigh", "parameters": {}}}]);
    json!({"model": "m", "messages": all, "tools": tools, "user": "u"})
        .to_string()
        .into_bytes()
}

/// Blocks that two chains have in common from the beginning.
fn common(a: &Reading, b: &Reading) -> usize {
    a.prefix
        .blocks()
        .iter()
        .zip(b.prefix.blocks())
        .take_while(|(a, b)| a == b)
        .count()
}

/// The same JSON with every character of its strings written as an escape.
fn escaped(body: &[u8]) -> Vec<u8> {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::String(text) => quote(text, out),
            Value::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i > 0 { " ,\n" } else { "" });
                    write(item, out);
                }
                out.push(']');
            }
            Value::Object(entries) => {
                out.push('{');
                for (i, (key, item)) in entries.iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    quote(key, out);
                    out.push_str("\t: ");
                    write(item, out);
                }
                out.push('}');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    fn quote(text: &str, out: &mut String) {
        out.push('"');
        for unit in text.encode_utf16() {
            out.push_str(&format!("\\u{unit:04X}"));
        }
        out.push('"');
    }
    let mut out = String::new();
    write(&serde_json::from_slice(body).unwrap(), &mut out);
    out.into_bytes()
}

/// The same body with its keys in another order.
fn reordered(body: &[u8], roles_first: bool) -> String {
    let body: Value = serde_json::from_slice(body).unwrap();
    let mut entries = Vec::new();
    for key in ["user", "tools", "messages", "model"] {
        let value = if key == "messages" {
            let message = |message: &Value| {
                let (role, content) = (&message["role"], &message["content"]);
                if roles_first {
                    format!(r#"{{"role":{role},"content":{content}}}"#)
                } else {
                    format!(r#"{{"content":{content},"role":{role}}}"#)
                }
            };
            let messages: Vec<String> = body[key].as_array().unwrap().iter().map(message).collect();
            format!("[{}]", messages.join(","))
        } else {
            body[key].to_string()
        };
        entries.push(format!(r#""{key}":{value}"#));
    }
    format!("{{{}}}", entries.join(","))
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..400), complete in any::<bool>(),
    ) {
        for endpoint in ENDPOINTS {
            let body = Body { bytes: &bytes, complete, total_bytes: Some(1000) };
            let _ = read(endpoint, body, &Limits::default());
        }
    }

    #[test]
    fn any_json_is_read_or_refused(json in any_json(), cut in any::<prop::sample::Index>()) {
        let mut object = json!({"model": "m"});
        if let (Value::Object(entries), Value::Object(more)) = (&mut object, json) {
            entries.extend(more);
        }
        let bytes = object.to_string().into_bytes();
        for endpoint in ENDPOINTS {
            let _ = read(endpoint, Body::whole(&bytes), &Limits::default());
            let part = &bytes[..cut.index(bytes.len() + 1)];
            let beginning = Body::beginning(part, Some(bytes.len() as u64));
            let reading = read(endpoint, beginning, &Limits::default());
            if let Ok(reading) = reading {
                prop_assert!(reading.audio_seconds.is_finite());
                prop_assert_eq!(reading.missing_bytes, (bytes.len() - part.len()) as u64);
            }
        }
    }

    #[test]
    fn a_common_beginning_is_a_common_chain(
        shared in proptest::collection::vec(message(), 1..5),
        one in proptest::collection::vec(message(), 0..3),
        other in proptest::collection::vec(message(), 0..3),
    ) {
        let base = chat(&body(&shared));
        let one = chat(&body(&[shared.clone(), one].concat()));
        let other = chat(&body(&[shared, other].concat()));
        // The last block of the base is open, so all of its chain is in what continues it.
        prop_assert_eq!(common(&base, &one), base.prefix.len());
        prop_assert!(common(&one, &other) >= base.prefix.len());
        if base.text.user.bytes > 0 {
            prop_assert_eq!(base.session.opening, one.session.opening);
        }
    }

    #[test]
    fn a_changed_byte_changes_the_chain_from_there(
        text in "[a-z ]{300,3000}", at in any::<prop::sample::Index>(),
    ) {
        let at = at.index(text.len());
        let mut changed = text.clone().into_bytes();
        changed[at] ^= 1;
        let changed = String::from_utf8(changed).unwrap();
        prop_assume!(changed != text);
        let tail = "x".repeat(600);
        let of = |text: &str| chat(&body(&[json!({"role": "user", "content": format!("{text}{tail}")})]));
        let (a, b) = (of(&text), of(&changed));
        prop_assert_eq!(a.prefix.len(), b.prefix.len());
        let same = common(&a, &b);
        prop_assert!(same < a.prefix.len());
        // Blocks before the changed byte are the same, all after it differ.
        let sections = a.prefix.sections();
        let before = sections.tools + sections.system + at / 256;
        prop_assert!(same >= before && same <= before + 1, "{same} {before}");
        for (a, b) in a.prefix.blocks().iter().zip(b.prefix.blocks()).skip(same) {
            prop_assert!(a.hash != b.hash);
        }
    }

    #[test]
    fn another_model_role_or_boundary_is_another_chain(text in "[a-z]{300,600}") {
        let of = |model: &str, messages: Value| {
            chat(json!({"model": model, "messages": messages}).to_string().as_bytes())
        };
        let user = of("m", json!([{"role": "user", "content": text}]));
        let variants = [
            of("other", json!([{"role": "user", "content": text}])),
            of("m", json!([{"role": "assistant", "content": text}])),
            of("m", json!([{"role": "user", "content": ""}, {"role": "user", "content": text}])),
            of("m", json!([{"role": "user", "content": [{"text": ""}, {"text": text}]}])),
            of("m", json!([{"role": "user", "content": text[1..]}])),
        ];
        for variant in &variants {
            prop_assert_eq!(common(&user, variant), 0);
        }
    }

    #[test]
    fn form_does_not_matter(messages in proptest::collection::vec(message(), 1..6)) {
        let plain = body(&messages);
        let reading = chat(&plain);
        let escaped = chat(&escaped(&plain));
        prop_assert_eq!(Reading { seen_bytes: reading.seen_bytes, ..escaped }, reading.clone());
        // The role before the content or after it, and tools before the messages.
        for roles_first in [true, false] {
            let reordered = chat(reordered(&plain, roles_first).as_bytes());
            let same_length = Reading { seen_bytes: reading.seen_bytes, ..reordered };
            prop_assert_eq!(same_length, reading.clone());
        }
    }

    #[test]
    fn a_part_is_never_more_than_the_whole(
        messages in proptest::collection::vec(message(), 1..5),
        cut in any::<prop::sample::Index>(), escape in any::<bool>(),
    ) {
        let plain = body(&messages);
        let bytes = if escape { escaped(&plain) } else { plain };
        let whole = chat(&bytes);
        let at = cut.index(bytes.len() + 1);
        let beginning = Body::beginning(&bytes[..at], Some(bytes.len() as u64));
        let part = read(Endpoint::ChatCompletions, beginning, &Limits::default()).unwrap();
        prop_assert!(part.model.is_empty() || part.model == "m");
        prop_assert!(part.messages <= whole.messages);
        prop_assert!(part.prefix.len() <= whole.prefix.len());
        prop_assert!(part.session.user.is_none() || part.session.user == whole.session.user);
        let (part_text, whole_text) = (part.text.total(), whole.text.total());
        prop_assert!(part_text.bytes <= whole_text.bytes);
        prop_assert_eq!(part.seen_bytes + part.missing_bytes, bytes.len() as u64);
        // Nearly all text before the cut is seen: what is lost is one escape or character.
        if at == bytes.len() {
            prop_assert_eq!(part.text, whole.text);
        }
    }

    #[test]
    fn a_chain_bound_later_is_the_same_chain(messages in proptest::collection::vec(message(), 1..5)) {
        let named = json!({"model": "m", "messages": messages}).to_string();
        let unnamed = json!({"messages": messages}).to_string();
        let beginning = Body::beginning(unnamed.as_bytes(), None);
        let reading = read(Endpoint::ChatCompletions, beginning, &Limits::default()).unwrap();
        prop_assert_eq!(reading.prefix.bound_to("m"), chat(named.as_bytes()).prefix);
    }
}

fn coefficients() -> CostCoefficients {
    CostCoefficients {
        prefill_per_tok: 0.1,
        prefill_per_tok2_e6: 1.0,
        decode_per_tok: 1.0,
        decode_per_ktok_ctx: 0.1,
        image_per_tile: 5.0,
        audio_per_second: 2.0,
        overhead: 0.5,
    }
}

fn any_work() -> impl Strategy<Value = Work> {
    let count = || prop_oneof![0u64..100_000, any::<u64>()];
    let seconds = prop_oneof![0.0..1e4, any::<f64>()];
    (count(), count(), count(), 0u32..200, count(), seconds).prop_map(
        |(prompt_tokens, cached_tokens, output_tokens, choices, image_tiles, audio_seconds)| Work {
            prompt_tokens,
            cached_tokens,
            output_tokens,
            choices,
            image_tiles,
            audio_seconds,
            ..Work::default()
        },
    )
}

proptest! {
    #[test]
    fn nothing_that_a_request_claims_costs_more_than_full_contexts(
        work in any_work(), longest in 1u64..2_000_000,
    ) {
        let within = work.within(longest);
        let cost = coefficients().vector(&within);
        let answers = u64::from(work.choices.max(1));
        let prompt = coefficients().vector(&Work {
            prompt_tokens: longest.max(2),
            image_tiles: longest.max(2),
            audio_seconds: longest.max(2) as f64,
            ..Work::default()
        });
        let answer = coefficients().vector(&Work {
            prompt_tokens: longest.max(2),
            output_tokens: longest.max(2),
            ..Work::default()
        });
        let most = prompt.before_first_token() + answers as f64 * answer.decode_mu;
        prop_assert!((0.0..=most).contains(&cost.total()), "{cost:?} of {within:?}");
        prop_assert!(cost.kv_tokens <= longest.max(2) * answers);
        prop_assert!(within.output_tokens >= work.output_tokens.min(1));
        // What can be stays as it is.
        prop_assert_eq!(within.within(longest), within);
    }
}
