//! Usage is read whatever the form of the reply, the pieces it comes in, and its content-encoding.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;

use proptest::prelude::*;
use weighbridge_learn::usage::{Reply, ReplyReader, Usage, response_key};

fn usage(prompt: u64, cached: Option<u64>, output: Option<u64>) -> Usage {
    Usage {
        prompt_tokens: Some(prompt),
        cached_tokens: cached,
        output_tokens: output,
        reasoning_tokens: None,
    }
}

fn usage_of(prompt_tokens: Option<u64>, output: u64) -> Usage {
    Usage {
        prompt_tokens,
        output_tokens: Some(output),
        ..Usage::default()
    }
}

const CHAT: &str = r#"{"id":"c-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"He said: \"usage\": {\"prompt_tokens\": 99}} \\","tool_calls":[]},"finish_reason":"stop"}],"usage":{"prompt_tokens":120,"completion_tokens":34,"total_tokens":154,"prompt_tokens_details":{"cached_tokens":64,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":5}}}"#;

const CHAT_STREAM: &str = concat!(
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}],\"usage\":null}\n\n",
    ": keep-alive\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"lo \\\"x\\\"\"}}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"{\\\"a\\\":1}\"}}]}}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1200,\"total_tokens\":1216,\"completion_tokens\":16,",
    "\"prompt_tokens_details\":{\"cached_tokens\":1024}}}\n\n",
    "data: [DONE]\n\n",
);

const RESPONSES_STREAM: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_r\",\"usage\":null}}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"!\"}\n\n",
    "event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"text\":\"Hi!\"}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"output\":[{\"content\":",
    "[{\"type\":\"output_text\",\"text\":\"Hi!\"}]}],\"usage\":{\"input_tokens\":36,\"input_tokens_details\":",
    "{\"cached_tokens\":32},\"output_tokens\":87,\"output_tokens_details\":{\"reasoning_tokens\":7},",
    "\"total_tokens\":123}}}\n\n",
);

const MESSAGES_STREAM: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",",
    "\"content\":[],\"usage\":{\"input_tokens\":25,\"cache_creation_input_tokens\":100,",
    "\"cache_read_input_tokens\":500,\"output_tokens\":1}}}\n\n",
    "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":",
    "{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":",
    "{\"type\":\"input_json_delta\",\"partial_json\":\"{}\"}}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},",
    "\"usage\":{\"output_tokens\":15}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

const RESPONSE: &str = r#"{"id":"resp_r","object":"response","output":[{"id":"resp_no","type":"message"}],"usage":{"input_tokens":3,"output_tokens":2}}"#;

const EVENTS: &str = "text/event-stream; charset=utf-8";
const JSON: &str = "application/json";

fn read(content_type: &str, encoding: Option<&str>, pieces: &[&[u8]]) -> Reply {
    let mut reader = ReplyReader::new(Some(content_type), encoding);
    for piece in pieces {
        reader.feed(piece, 1_000);
    }
    reader.reply()
}

#[test]
fn a_chat_completion_in_one_piece() {
    let reply = read(JSON, None, &[CHAT.as_bytes()]);
    let expected = Usage {
        reasoning_tokens: Some(5),
        ..usage(120, Some(64), Some(34))
    };
    assert_eq!(reply.usage, expected);
    assert!(reply.is_whole && !reply.is_error && !reply.is_unread);
}

#[test]
fn a_streamed_chat() {
    let reply = read(EVENTS, None, &[CHAT_STREAM.as_bytes()]);
    assert_eq!(reply.usage, usage(1_200, Some(1_024), Some(16)));
    assert_eq!(reply.output_events, 4);
    assert!(reply.is_whole);
}

#[test]
fn streamed_responses_count_what_comes_in_pieces_once() {
    let reply = read(EVENTS, None, &[RESPONSES_STREAM.as_bytes()]);
    let expected = Usage {
        reasoning_tokens: Some(7),
        ..usage(36, Some(32), Some(87))
    };
    assert_eq!(reply.usage, expected);
    assert_eq!((reply.output_events, reply.text_bytes), (2, 3));
    assert!(reply.is_whole);
}

#[test]
fn streamed_messages_count_cached_tokens_into_the_prompt() {
    let reply = read(EVENTS, None, &[MESSAGES_STREAM.as_bytes()]);
    assert_eq!(reply.usage, usage(625, Some(500), Some(15)));
    assert_eq!(reply.output_events, 2);
    assert!(reply.is_whole);
}

#[test]
fn plain_messages_responses_and_embeddings() {
    let messages = br#"{"type":"message","content":[{"type":"text","text":"Hi"}],"usage":{"input_tokens":10,"cache_read_input_tokens":90,"output_tokens":3}}"#;
    assert_eq!(
        read(JSON, None, &[messages]).usage,
        usage(100, Some(90), Some(3))
    );
    let responses = br#"{"object":"response","output":[{"content":[{"type":"output_text","text":"Hi"}]}],"usage":{"input_tokens":36,"output_tokens":87}}"#;
    let reply = read(JSON, None, &[responses]);
    assert_eq!(reply.usage, usage(36, None, Some(87)));
    assert_eq!(reply.text_bytes, 2);
    let numbers = vec!["0.0123,-4.5e-3"; 5_000].join(",");
    let embeddings = format!(
        r#"{{"object":"list","data":[{{"embedding":[{numbers}]}}],"usage":{{"prompt_tokens":8,"total_tokens":8}}}}"#
    );
    assert_eq!(
        read(JSON, None, &[embeddings.as_bytes()]).usage,
        usage(8, None, None)
    );
}

#[test]
fn without_usage_events_and_text_are_counted() {
    let cut = &CHAT_STREAM[..CHAT_STREAM.find("\"choices\":[],").unwrap()];
    let reply = read(EVENTS, None, &[cut.as_bytes()]);
    assert_eq!(reply.usage, Usage::default());
    assert!(!reply.is_whole);
    assert_eq!(reply.output_tokens(), 5); // 22 bytes of text, more than the 4 events
}

#[test]
fn an_event_may_come_in_several_lines() {
    for end in ["\n", "\r\n", "\r"] {
        let body = ["data: {\"usage\":", "data: {\"prompt_tokens\":7}}", "", ""].join(end);
        assert_eq!(
            read(EVENTS, None, &[body.as_bytes()]).usage,
            usage(7, None, None),
            "{end:?}"
        );
    }
}

#[test]
fn pace_is_the_time_between_events() {
    let mut reader = ReplyReader::new(Some(EVENTS), None);
    for token in 0..11u64 {
        reader.feed(
            b"data: {\"choices\":[{\"text\":\"x\"}]}\r\n\r\n",
            5_000 + token * 20_000,
        );
    }
    let reply = reader.reply();
    assert_eq!(reply.output_from_us, Some(5_000));
    assert!((reply.us_per_token().unwrap() - 20_000.0).abs() < 1e-9);
}

#[test]
fn an_error_in_a_stream_is_noticed_and_a_null_is_none() {
    let failed =
        b"data: {\"error\":{\"message\":\"engine died\",\"usage\":{\"prompt_tokens\":7}}}\n\n";
    let reply = read(EVENTS, None, &[failed]);
    assert!(reply.is_error);
    assert_eq!(reply.usage, Usage::default());
    assert!(!read(JSON, None, &[br#"{"error":null,"usage":{}}"#]).is_error);
}

#[test]
fn claims_beyond_reason_are_capped() {
    let lie = br#"{"usage":{"prompt_tokens":99999999999999999999999,"completion_tokens":-5,"prompt_tokens_details":{"cached_tokens":88888888888888888888888}}}"#;
    let reply = read(JSON, None, &[lie]);
    assert_eq!(reply.usage.prompt_tokens, Some(100_000_000));
    assert_eq!(reply.usage.cached_tokens, Some(100_000_000));
    assert_eq!(reply.usage.output_tokens, None, "no count is negative");
    for number in ["-5", "4e1", "1E+2", "2e-3"] {
        let odd = format!(r#"{{"usage":{{"prompt_tokens":{number},"completion_tokens":7}}}}"#);
        assert_eq!(read(JSON, None, &[odd.as_bytes()]).usage, usage_of(None, 7));
    }
}

#[test]
fn a_bomb_is_left_unread() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..300 {
        encoder.write_all(&vec![b' '; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(read(EVENTS, Some("gzip"), &[&bomb]).is_unread);
}

fn encode(coding: &str, body: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::default();
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::stream::encode_all(body, 3).unwrap(),
        "br" => {
            let mut encoded = Vec::new();
            let params = brotli::enc::BrotliEncoderParams::default();
            brotli::BrotliCompress(&mut &body[..], &mut encoded, &params).unwrap();
            encoded
        }
        _ => body.to_vec(),
    }
}

/// Cuts bytes at the given places.
fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_pieces_give_the_same(
        (kind, body) in prop::sample::select(vec![
            (JSON, CHAT),
            (EVENTS, CHAT_STREAM),
            (EVENTS, RESPONSES_STREAM),
            (EVENTS, MESSAGES_STREAM),
            ("", CHAT),
            ("", CHAT_STREAM),
        ]),
        line_end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        coding in prop::sample::select(vec!["identity", "gzip", "deflate", "zstd", "br"]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let body = if body == CHAT { body.to_owned() } else { body.replace('\n', line_end) };
        let whole = read(kind, None, &[body.as_bytes()]);
        prop_assert!(whole.usage.prompt_tokens.is_some());
        let encoded = encode(coding, body.as_bytes());
        let cut = read(kind, Some(coding), &pieces(&encoded, &cuts));
        prop_assert_eq!(cut, whole);
    }

    #[test]
    fn any_bytes_are_read_without_harm(
        kind in prop::sample::select(vec!["", JSON, EVENTS]),
        coding in prop::sample::select(vec!["", "gzip", "deflate", "zstd", "br"]),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let reply = read(kind, Some(coding), &pieces(&bytes, &cuts));
        prop_assert!(reply.output_tokens() < 1_000_000);
    }

    /// Bodies that look like ours, broken somewhere.
    #[test]
    fn broken_bodies_are_read_without_harm(
        body in prop::sample::select(vec![CHAT, CHAT_STREAM, RESPONSES_STREAM, MESSAGES_STREAM]),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let mut bytes = body.as_bytes().to_vec();
        for (at, byte) in hits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let kind = if body == CHAT { JSON } else { EVENTS };
        let whole = read(kind, None, &[&bytes]);
        prop_assert_eq!(read(kind, None, &pieces(&bytes, &cuts)), whole);
    }
}

#[test]
fn a_responses_own_id_is_seen_and_no_other() {
    let key = Some(response_key(b"resp_r"));
    assert_eq!(
        read(EVENTS, None, &[RESPONSES_STREAM.as_bytes()]).response,
        key
    );
    assert_eq!(read(JSON, None, &[RESPONSE.as_bytes()]).response, key);
    assert_eq!(read(JSON, None, &[CHAT.as_bytes()]).response, None);
    assert_eq!(
        read(EVENTS, None, &[MESSAGES_STREAM.as_bytes()]).response,
        None
    );
}
