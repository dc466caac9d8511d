//! Bodies that were cut off, as BUFFERED_PARTIAL hands them over.

#![allow(clippy::unwrap_used)]

use weighbridge_weigh::{Body, Endpoint, Limits, Profile, Reading, read};

fn beginning(text: &[u8], total: u64) -> Reading {
    read(
        Endpoint::ChatCompletions,
        Body::beginning(text, Some(total)),
        &Limits::default(),
    )
    .unwrap()
}

fn profile() -> Profile {
    Profile::from_json(
        r#"{"name": "p", "models": ["m"], "capacity_mu_per_min": 60000, "kv_tokens": 100000,
        "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192, "reference_batch": 32,
        "cost": {"prefill_per_tok": 0.01, "prefill_per_tok2_e6": 0.5, "decode_per_tok": 0.2,
        "decode_per_ktok_ctx": 0.02}}"#,
    )
    .unwrap()
}

#[test]
fn text_is_weighed_up_to_the_cut() {
    for (tail, kept) in [
        ("Hello wor", 9),
        (r"Hello\", 5),
        (r"Hello\\", 6),
        (r"Hello\u00", 5),
        (r"Hello\u0041", 6),
        (r"Hello\ud83c", 5),
        (r"Hello\ud83c\", 5),
        (r"Hello\ud83c\udf8", 5),
        (r"Hello\ud83c\udf89", 9),
        (r"Hello\\ud83c", 11),
        (r"Hello\\\ud83c", 6),
    ] {
        let text = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{tail}"#);
        let reading = beginning(text.as_bytes(), 1000);
        assert_eq!((reading.model.as_str(), reading.messages), ("m", 1));
        assert_eq!(reading.text.user.bytes, kept, "{tail}");
        assert_eq!(reading.missing_bytes, 1000 - text.len() as u64);
    }
    for cut in 1..3 {
        let text = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello 你".as_bytes();
        assert_eq!(
            beginning(&text[..text.len() - cut], 1000).text.user.bytes,
            6
        );
    }
}

#[test]
fn values_that_the_cut_may_have_shortened_are_dropped() {
    let reading = beginning(br#"{"messages":[{"content":"x"}],"model":"gpt-4"#, 999);
    assert_eq!(reading.model, "");
    let reading = beginning(
        br#"{"messages":[{"content":"x"}],"model":"gpt-4","n":1"#,
        999,
    );
    assert_eq!((reading.model.as_str(), reading.choices), ("gpt-4", 1));
    let reading = beginning(br#"{"model":"m","n":2,"best_of":3"#, 999);
    assert_eq!(reading.choices, 2);
    let reading = beginning(br#"{"model":"m","best_of":2,"n":3"#, 999);
    assert_eq!(reading.choices, 2);
    let reading = beginning(br#"{"model":"m","max_tokens":12"#, 999);
    assert_eq!(reading.max_output_tokens, None);
    let reading = beginning(br#"{"model":"m","max_tokens":12,"str"#, 999);
    assert_eq!(reading.max_output_tokens, Some(12));
    let reading = beginning(br#"{"model":"m","stream":tr"#, 999);
    assert!(!reading.stream);
    let reading = beginning(br#"{"model":"m","metadata":{"user_id":"ab"#, 999);
    assert_eq!(reading.session.user, None);
    assert_eq!(beginning(b"", 999).missing_bytes, 999);
    assert_eq!(beginning(b"{", 999).model, "");
}

#[test]
fn a_fault_before_the_cut_is_still_a_fault() {
    for text in [
        r#"["model"#,
        r#"{"model":7,"messages":[{"role":"user","content":"x"#,
        r#"{"model":"m",,"messages":[{"role":"user","content":"x"#,
        "{\"model\":\"m\" \"n\"\n:1,\"messages\":[{\"role\":\"user\",\"content\":\"x",
        r#"{"n":0,"messages":[{"role":"user","content":"x"#,
    ] {
        let body = Body::beginning(text.as_bytes(), Some(9999));
        assert!(
            read(Endpoint::ChatCompletions, body, &Limits::default()).is_err(),
            "{text}"
        );
    }
}

#[test]
fn missing_text_is_taken_to_be_as_dense_as_what_was_seen() {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(2000);
    let whole = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let full = Body::whole(whole.as_bytes());
    let full = read(Endpoint::ChatCompletions, full, &Limits::default()).unwrap();
    let full = profile().tokens(&full, 1.0).total() as f64;
    for seen in [2_000, 20_000, 80_000] {
        let part = beginning(&whole.as_bytes()[..seen], whole.len() as u64);
        let part = profile().tokens(&part, 1.0);
        assert!(part.missing > 0.0);
        let error = part.total() as f64 / full - 1.0;
        assert!(error.abs() < 0.05, "{seen}: {error}");
    }
}

#[test]
fn a_cut_inside_an_image_is_not_taken_for_text() {
    // A PNG header of 640 × 480, then data.
    let head = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAoAAAAHg";
    let text = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"Look!"}},
        {{"type":"image_url","image_url":{{"url":"{head}{}"#,
        "AbC0+/".repeat(1000)
    );
    let reading = beginning(text.as_bytes(), 1_000_000);
    assert!(reading.cut_in_media);
    assert_eq!(reading.images[0].size, Some((640, 480)));
    let tokens = profile().tokens(&reading, 1.0);
    assert_eq!(tokens.missing, 0.0);
    assert!(tokens.images > 100.0 && tokens.total() < 1000);
    // The same data as text, or text after the image, is text.
    let plain = format!(r#"{{"messages":[{{"content":"{}"#, "AbC0+/".repeat(1000));
    assert!(!beginning(plain.as_bytes(), 1_000_000).cut_in_media);
    let after = format!(
        r#"{text}"}}}},{{"type":"text","text":"{}"#,
        "and so on ".repeat(20)
    );
    let reading = beginning(after.as_bytes(), 1_000_000);
    assert!(!reading.cut_in_media);
    assert!(profile().tokens(&reading, 1.0).missing > 10_000.0);
}

#[test]
fn a_cut_inside_audio_is_more_audio() {
    let text = format!(
        r#"{{"messages":[{{"role":"user","content":[{{"type":"input_audio","input_audio":{{"format":"pcm16","data":"{}"#,
        "AAAA".repeat(16_000)
    );
    let total = text.len() as u64 + 64_000;
    let reading = beginning(text.as_bytes(), total);
    assert!(
        (reading.audio_seconds - 2.0).abs() < 0.01,
        "{}",
        reading.audio_seconds
    );
}
