//! Chat bodies, as clients send them.

use weighbridge_weigh::{Body, Endpoint, Features, Limits, ReadError, Reading, read};

fn chat(json: &str) -> Result<Reading, ReadError> {
    read(
        Endpoint::ChatCompletions,
        Body::whole(json.as_bytes()),
        &Limits::default(),
    )
}

#[test]
fn a_plain_chat_is_read() {
    let reading = chat(
        r#"{"model":"m","messages":[{"role":"system","content":"Be kind."},
        {"role":"user","content":"Hello \u4f60\u597d"}],"max_tokens":7,"stream":true,"n":2,
        "stream_options":{"include_usage":true},"user":"u1","temperature":1e300}"#,
    )
    .unwrap();
    assert_eq!(reading.model, "m");
    assert!(reading.stream && reading.include_usage);
    assert_eq!(reading.max_output_tokens, Some(7));
    assert_eq!(reading.choices, 2);
    assert_eq!(reading.messages, 2);
    assert_eq!(reading.session.user.as_deref(), Some("u1"));
    assert_eq!(reading.text.system.bytes, 8);
    assert_eq!(reading.text.user.bytes, 12);
    assert_eq!(reading.text.user, Features::of("Hello 你好".as_bytes()));
}

#[test]
fn faults_name_the_parameter() {
    assert_eq!(chat("[]"), Err(ReadError::NotAnObject));
    assert_eq!(
        chat(r#"{"messages":[]}"#),
        Err(ReadError::Missing { param: "model" })
    );
    assert_eq!(
        chat(r#"{"model":"m"}"#),
        Err(ReadError::Missing { param: "messages" })
    );
    for (json, code, param) in [
        (r#"{"model":7}"#, "invalid_type", Some("model")),
        (
            r#"{"model":"m","messages":{}}"#,
            "invalid_type",
            Some("messages"),
        ),
        (
            r#"{"model":"m","messages":[]}"#,
            "invalid_value",
            Some("messages"),
        ),
        (r#"{"n":0}"#, "invalid_value", Some("n")),
        (r#"{"max_tokens":-1}"#, "invalid_value", Some("max_tokens")),
        (r#"{"model""#, "invalid_json", None),
        ("", "invalid_json", None),
    ] {
        let error = chat(json).unwrap_err();
        assert_eq!((error.code(), error.param()), (code, param), "{json}");
    }
}
