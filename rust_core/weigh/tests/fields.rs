//! Every field by which an engine takes a prompt bears on tokens, chain, limits and choices, as the
//! engine has it.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use weighbridge_weigh::{Body, Endpoint, Limits, Profile, ReadError, Reading, Work, read};

const PROSE: &str = "You answer questions about a weighbridge: loads, axles, tickets and tare. ";

fn try_read(endpoint: Endpoint, body: &str) -> Result<Reading, ReadError> {
    read(endpoint, Body::whole(body.as_bytes()), &Limits::default())
}

fn reading(endpoint: Endpoint, body: &Value) -> Reading {
    try_read(endpoint, &body.to_string()).unwrap()
}

/// A chat with these fields beside its messages.
fn chat(more: Value) -> Reading {
    let mut body = json!({"model": "m", "messages": [
        {"role": "system", "content": PROSE.repeat(20)}, {"role": "user", "content": "hi"},
    ]});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    reading(Endpoint::ChatCompletions, &body)
}

fn profile() -> Profile {
    let profile = json!({
        "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 100_000,
        "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192, "max_seq_len": 8192,
        "reference_batch": 32.0,
        "cost": {"prefill_per_tok": 0.01, "prefill_per_tok2_e6": 0.5, "decode_per_tok": 0.2,
                 "decode_per_ktok_ctx": 0.02, "overhead": 0.7},
    });
    Profile::from_json(&profile.to_string()).unwrap()
}

fn tokens(reading: &Reading) -> u64 {
    profile().tokens(reading, 1.0).total()
}

/// Blocks that two chains have in common.
fn shared(one: &Reading, other: &Reading) -> usize {
    let blocks = one.prefix.blocks().iter().zip(other.prefix.blocks());
    blocks.take_while(|(a, b)| a == b).count()
}

#[test]
fn what_a_template_renders_counts_as_tokens() {
    let plain = tokens(&chat(json!({})));
    let long = PROSE.repeat(100);
    for more in [
        json!({"documents": [{"title": "tare", "text": long}]}),
        json!({"chat_template": long}),
        json!({"chat_template_kwargs": {"custom_tools": [{"name": long}]}}),
    ] {
        let weighed = tokens(&chat(more.clone()));
        assert!(weighed > plain + 1_300, "{more}: {weighed} beside {plain}");
    }
    let absent = json!({"documents": null, "chat_template": null, "chat_template_kwargs": null});
    assert_eq!(tokens(&chat(absent)), plain);
}

#[test]
fn tools_count_where_a_message_declares_them() {
    let with = |tools: Value| {
        reading(
            Endpoint::ChatCompletions,
            &json!({"model": "m", "messages": [{"role": "system", "tools": tools, "content": "x"},
                                               {"role": "user", "content": "hi"}]}),
        )
    };
    let tool =
        json!([{"type": "function", "function": {"name": "f", "description": PROSE.repeat(50)}}]);
    assert!(tokens(&with(tool)) > tokens(&with(json!([]))) + 500);
}

#[test]
fn token_ids_stand_for_the_messages() {
    let ids: Vec<u32> = (0..3_000).map(|at| at * 41).collect();
    let listed = chat(json!({"prompt_token_ids": ids, "tools": [{"type": "function"}]}));
    assert_eq!(tokens(&listed), 3_000);
    assert!(!listed.templated);
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let packed = chat(json!({"prompt_token_ids_b64": base64(&bytes)}));
    assert_eq!(tokens(&packed), 3_000);
    assert_eq!(listed.prefix, packed.prefix);
    let alone = json!({"model": "m", "messages": [], "prompt_token_ids": ids});
    let alone = reading(Endpoint::ChatCompletions, &alone);
    assert_eq!(alone.prefix, listed.prefix);
    assert_ne!(alone.session.opening, 0);
    let other = chat(json!({"prompt_token_ids": ids[1..]}));
    assert_eq!(shared(&listed, &other), 0);
    let absent = chat(json!({"prompt_token_ids": null}));
    assert_eq!(absent.prefix, chat(json!({})).prefix);
    assert!(absent.templated);
}

#[test]
fn an_item_without_a_message_counts_by_its_text() {
    let item = |item: Value| {
        let body = json!({"model": "m", "input": [item]});
        tokens(&reading(Endpoint::Responses, &body))
    };
    let text = PROSE.repeat(50);
    let message = item(json!({"role": "user", "content": text}));
    for bare in [
        json!({"type": "input_text", "text": text}),
        json!({"type": "agent_message", "content": [{"type": "input_text", "text": text}]}),
    ] {
        assert_eq!(item(bare), message);
    }
}

#[test]
fn frames_that_a_client_asks_for_count() {
    let video = |more: Value| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": [
            {"type": "video_url", "video_url": {"url": "https://x/v.mp4"}}]}]});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        tokens(&reading(Endpoint::ChatCompletions, &body))
    };
    let usual = video(json!({}));
    let more = video(json!({"media_io_kwargs": {"video": {"num_frames": 64}}}));
    assert!(more > 3 * usual, "{more} beside {usual}");
    assert_eq!(
        video(json!({"mm_processor_kwargs": {"num_frames": 64}})),
        more
    );
    // Fewer may not be what the model's own processor takes, and more than the bound is none.
    assert_eq!(
        video(json!({"mm_processor_kwargs": {"num_frames": 1}})),
        usual
    );
    let bound = video(json!({"mm_processor_kwargs": {"num_frames": 4096}}));
    assert_eq!(
        video(json!({"mm_processor_kwargs": {"num_frames": u64::MAX}})),
        bound
    );
}

#[test]
fn adapters_share_no_prefix() {
    let lora = |id: u64, name: &str| json!({"lora_request": {"lora_int_id": id, "lora_name": name, "lora_path": "/a"}});
    let (base, law, tax) = (chat(json!({})), chat(lora(2, "law")), chat(lora(3, "tax")));
    assert!(base.prefix.len() > 4);
    assert_eq!(law.lora.as_ref().unwrap().name.as_deref(), Some("law"));
    for (one, other) in [(&base, &law), (&law, &tax), (&base, &tax)] {
        assert_eq!(shared(one, other), 0);
    }
    assert_eq!(chat(lora(2, "law")).prefix, law.prefix);
    // Engines know an adapter by its number, whatever it is called.
    assert_eq!(chat(lora(2, "statute")).prefix, law.prefix);
    assert_eq!(chat(json!({"lora_request": null})).prefix, base.prefix);
    for odd in [
        r#"{"lora_int_id":-1}"#,
        r#"{"lora_int_id":1.5}"#,
        r#""law""#,
    ] {
        let body =
            format!(r#"{{"model":"m","messages":[{{"content":"x"}}],"lora_request":{odd}}}"#);
        let fault = try_read(Endpoint::ChatCompletions, &body).unwrap_err();
        assert_eq!(fault.param(), Some("lora_request"));
    }
}

#[test]
fn what_changes_how_a_prompt_is_rendered_keeps_chains_apart() {
    let fields = [
        json!({"cache_salt": "a"}),
        json!({"cache_salt": "b"}),
        json!({"chat_template": "{{ messages }}"}),
        json!({"chat_template_kwargs": {"enable_thinking": false}}),
        json!({"reasoning_effort": "high"}),
        json!({"reasoning_effort": "low"}),
        json!({}),
    ];
    for (at, one) in fields.iter().enumerate() {
        for (other_at, other) in fields.iter().enumerate() {
            let apart = shared(&chat(one.clone()), &chat(other.clone())) == 0;
            assert_eq!(apart, at != other_at, "{one} {other}");
        }
    }
    let documents = |text: &str| chat(json!({"documents": [{"text": text}]}));
    let (one, other) = (documents("a"), documents("b"));
    assert!(shared(&one, &other) < one.prefix.len());
    assert_eq!(documents("a").prefix, one.prefix);
}

#[test]
fn conversation_params_are_a_session() {
    let named = chat(json!({"conversation_params": {"conversation_id": "c-7"}}));
    assert_eq!(named.session.conversation.as_deref(), Some("c-7"));
}

#[test]
fn a_limit_that_the_engine_does_not_read_is_not_believed() {
    let limit = |endpoint: Endpoint, prompt: &str, key: &str| {
        let body = json!({"model": "m", prompt: "x", key: 7});
        reading(endpoint, &body).max_output_tokens
    };
    assert_eq!(
        limit(Endpoint::Responses, "input", "max_output_tokens"),
        Some(7)
    );
    assert_eq!(limit(Endpoint::Responses, "input", "max_tokens"), None);
    assert_eq!(
        limit(Endpoint::Responses, "input", "max_completion_tokens"),
        None
    );
    assert_eq!(
        limit(Endpoint::Completions, "prompt", "max_tokens"),
        Some(7)
    );
    assert_eq!(
        limit(Endpoint::Completions, "prompt", "max_output_tokens"),
        None
    );
    assert_eq!(
        chat(json!({"max_completion_tokens": 7})).max_output_tokens,
        Some(7)
    );
    let body = json!({"model": "m", "input": "x", "n": 100, "min_tokens": 9, "ignore_eos": true});
    let responses = reading(Endpoint::Responses, &body);
    assert_eq!((responses.choices, responses.min_output_tokens), (1, 0));
    assert!(!responses.ignore_eos);
}

#[test]
fn numbers_and_booleans_are_taken_as_engines_take_them() {
    for seven in [
        json!(7),
        json!(7.0),
        json!("7"),
        json!(" +7 "),
        json!("7.0"),
        json!("0_7"),
    ] {
        let reading = chat(json!({"max_tokens": seven, "n": seven}));
        let read = (reading.max_output_tokens, reading.choices);
        assert_eq!(read, (Some(7), 7), "{seven}");
    }
    assert_eq!(chat(json!({"max_tokens": true})).max_output_tokens, Some(1));
    for (flag, is_set) in [(json!(1.0), true), (json!(0.0), false), (json!("on"), true)] {
        let reading = chat(json!({"stream": flag, "ignore_eos": flag}));
        assert_eq!((reading.stream, reading.ignore_eos), (is_set, is_set));
    }
    for none in [
        json!("7.5"),
        json!("_7"),
        json!("7__0"),
        json!("-"),
        json!("7e2"),
        json!([]),
    ] {
        let body = json!({"model": "m", "messages": [], "max_tokens": none}).to_string();
        let error = try_read(Endpoint::ChatCompletions, &body).unwrap_err();
        assert_eq!(error.code(), "invalid_type", "{none}");
    }
    for none in [
        json!("-7"),
        json!("99999999999999999999"),
        json!(-7),
        json!(7.5),
    ] {
        let body = json!({"model": "m", "messages": [], "max_tokens": none}).to_string();
        let error = try_read(Endpoint::ChatCompletions, &body).unwrap_err();
        assert_eq!(error.code(), "invalid_value", "{none}");
    }
}

/// What a batch of prompts costs, each answer having 100 tokens.
fn cost_of(endpoint: Endpoint, key: &str, prompts: &Value, output_tokens: u64) -> (f64, f64, u64) {
    let reading = reading(endpoint, &json!({"model": "m", key: prompts}));
    let work = Work {
        prompt_tokens: tokens(&reading),
        prompts: reading.prompts,
        squared_shares: reading.squared_shares,
        output_tokens,
        choices: reading.choices,
        ..Work::default()
    };
    let cost = profile().cost(&work);
    (cost.before_first_token(), cost.decode_mu, cost.kv_tokens)
}

#[test]
fn a_batch_is_a_sum_of_prompts() {
    let ids = |count: u32| (0..count).collect::<Vec<u32>>();
    let one = cost_of(Endpoint::Completions, "prompt", &json!([ids(100)]), 100);
    let flat = cost_of(Endpoint::Completions, "prompt", &json!(ids(100)), 100);
    assert_eq!(one, flat);
    let all = cost_of(
        Endpoint::Completions,
        "prompt",
        &json!(vec![ids(100); 1_000]),
        100,
    );
    for (all, one) in [(all.0, one.0), (all.1, one.1), (all.2 as f64, one.2 as f64)] {
        assert!((all / one / 1_000.0 - 1.0).abs() < 1e-9, "{all} {one}");
    }
    // Texts alike, and a long one among short ones.
    let text = |words: usize| "tare ".repeat(words);
    let (short, _, _) = cost_of(Endpoint::Completions, "prompt", &json!([text(50)]), 0);
    let (long, _, _) = cost_of(Endpoint::Completions, "prompt", &json!([text(5_000)]), 0);
    let mixed = json!([text(50), text(5_000), text(50)]);
    let (mixed, _, _) = cost_of(Endpoint::Completions, "prompt", &mixed, 0);
    assert!((mixed / (long + 2.0 * short) - 1.0).abs() < 0.01, "{mixed}");
}

proptest! {
    #[test]
    fn a_batch_costs_what_its_prompts_cost(sizes in proptest::collection::vec(1u32..400, 1..20)) {
        let prompts: Vec<Vec<u32>> = sizes.iter().map(|size| (0..*size).collect()).collect();
        let (prefill, decode, kv) = cost_of(Endpoint::Completions, "prompt", &json!(prompts), 50);
        let each: Vec<_> = prompts
            .iter()
            .map(|ids| cost_of(Endpoint::Completions, "prompt", &json!(ids), 50))
            .collect();
        let sum = |of: fn(&(f64, f64, u64)) -> f64| each.iter().map(of).sum::<f64>();
        prop_assert!((prefill / sum(|one| one.0) - 1.0).abs() < 1e-9);
        prop_assert!((decode / sum(|one| one.1) - 1.0).abs() < 1e-9);
        prop_assert_eq!(kv, each.iter().map(|one| one.2).sum::<u64>());
    }
}

#[test]
fn embeddings_have_no_answer() {
    let body = json!({"model": "m", "input": ["tare", "gross"], "max_tokens": 900});
    let reading = reading(Endpoint::Embeddings, &body);
    assert_eq!(reading.max_output_tokens, Some(0));
    assert!(reading.ignore_eos);
    assert_eq!((reading.prompts, reading.squared_shares), (2, 41.0 / 81.0));
}

#[test]
fn the_rest_of_a_cut_batch_is_more_prompts() {
    let body = json!({"model": "m", "prompt": vec!["a weighbridge weighs"; 100]}).to_string();
    let cut = Body::beginning(&body.as_bytes()[..body.len() / 2], Some(body.len() as u64));
    let reading = read(Endpoint::Completions, cut, &Limits::default()).unwrap();
    assert!((90..=110).contains(&reading.prompts), "{}", reading.prompts);
    assert_eq!(reading.choices, reading.prompts);
    let endless = Body::beginning(&body.as_bytes()[..body.len() / 2], Some(u64::MAX));
    let reading = read(Endpoint::Completions, endless, &Limits::default()).unwrap();
    assert!(reading.prompts <= Limits::default().max_pieces);
}

#[test]
fn kv_memory_is_what_the_engine_sets_aside() {
    let mut profile = profile();
    let work = |prompt_tokens, cached_tokens, choices, prompts| Work {
        prompt_tokens,
        cached_tokens,
        output_tokens: 50,
        choices,
        prompts,
        ..Work::default()
    };
    let one = work(100, 0, 1, 1);
    // In whole blocks of 32: prompt and limit, or the rest of the longest sequence.
    assert_eq!(profile.kv_reserved(&one, Some(500)), 608);
    assert_eq!(profile.kv_reserved(&one, None), 8_192);
    assert_eq!(profile.kv_reserved(&one, Some(1 << 50)), 8_192);
    assert_eq!(profile.kv_reserved(&one, Some(0)), 128);
    // Whole blocks of the prompt are held once, by beams and by those who share them.
    assert_eq!(
        profile.kv_reserved(&work(100, 0, 4, 1), Some(500)),
        96 + 4 * 512
    );
    assert_eq!(
        profile.kv_reserved(&work(100, 64, 1, 1), Some(500)),
        608 - 64
    );
    assert_eq!(
        profile.kv_reserved(&work(1_000, 0, 10, 10), Some(500)),
        6_080
    );
    profile.max_seq_len = None;
    assert_eq!(profile.kv_reserved(&one, None), 160);
    let absurd = work(u64::MAX, 0, u32::MAX, u32::MAX);
    assert!(profile.kv_reserved(&absurd, Some(u64::MAX)) > 0);
    assert_eq!(profile.cost(&work(100, 64, 2, 1)).kv_tokens, 36 + 100);
}

#[test]
fn more_pieces_than_any_request_has_are_refused() {
    let most = Limits::default().max_pieces as usize + 2;
    let many = |piece: &str| vec![piece; most].join(",");
    for (endpoint, param, body) in [
        (
            Endpoint::Completions,
            "prompt",
            format!(r#"{{"model":"m","prompt":[{}]}}"#, many(r#""""#)),
        ),
        (
            Endpoint::Completions,
            "prompt",
            format!(r#"{{"model":"m","prompt":[{}]}}"#, many("[]")),
        ),
        (
            Endpoint::ChatCompletions,
            "messages",
            format!(r#"{{"model":"m","messages":[{}]}}"#, many("{}")),
        ),
        (
            Endpoint::ChatCompletions,
            "messages",
            format!(
                r#"{{"model":"m","messages":[{{"content":[{}]}}]}}"#,
                many("{}")
            ),
        ),
        (
            Endpoint::ChatCompletions,
            "messages",
            format!(
                r#"{{"model":"m","messages":[{{{}}}]}}"#,
                many(r#""content":"""#)
            ),
        ),
        (
            Endpoint::ChatCompletions,
            "messages",
            format!(r#"{{"model":"m",{}}}"#, many(r#""messages":[]"#)),
        ),
        (
            Endpoint::ChatCompletions,
            "tools",
            format!(r#"{{"model":"m","tools":[{}]}}"#, many("0")),
        ),
        (
            Endpoint::Completions,
            "prompt",
            format!(
                r#"{{"model":"m","prompt":[{}]}}"#,
                vec!["1"; Limits::default().max_token_ids as usize + 1].join(",")
            ),
        ),
    ] {
        for complete in [true, false] {
            let body = Body {
                bytes: body.as_bytes(),
                complete,
                total_bytes: None,
            };
            let fault = read(endpoint, body, &Limits::default()).unwrap_err();
            assert_eq!(
                (fault.code(), fault.param()),
                ("invalid_value", Some(param))
            );
        }
    }
}

#[test]
fn ids_that_are_none_are_refused() {
    for ids in [
        "[-1]",
        "[1.5]",
        "[1e99]",
        "[\"1\"]",
        "[[1]]",
        "{}",
        "\"AAA=\"",
        "\"!!!!\"",
        "[99999999999999999999]",
    ] {
        for key in ["prompt_token_ids", "prompt_token_ids_b64"] {
            let body = format!(r#"{{"model":"m","messages":[{{"content":"x"}}],"{key}":{ids}}}"#);
            let fault = try_read(Endpoint::ChatCompletions, &body).unwrap_err();
            assert_eq!(fault.param(), Some("prompt_token_ids"), "{ids}");
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for at in 0..4 {
            text.push(if at <= group.len() {
                char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize])
            } else {
                '='
            });
        }
    }
    text
}
