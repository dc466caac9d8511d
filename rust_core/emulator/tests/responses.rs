//! `/v1/responses` over real sockets: whole, streamed, kept and gone on from.

#![allow(clippy::unwrap_used, clippy::panic)] // tests, helpers included

mod common;

use std::net::SocketAddr;

use common::{Answer, chat, get, open, post, start};
use serde_json::{Value, json};

const PATH: &str = "/v1/responses";

fn request(text: &str) -> Value {
    json!({"model": "llama-3.1-8b", "input": text, "max_output_tokens": 40})
}

fn delete(address: SocketAddr, path: &str) -> Answer {
    let mut stream = open(address, "DELETE", path, &[], "").unwrap();
    let mut body = String::new();
    std::io::Read::read_to_string(stream.reader(), &mut body).unwrap();
    Answer {
        status: stream.status,
        headers: stream.headers.clone(),
        body,
    }
}

/// The kind and the data of each event.
fn events(answer: &Answer) -> Vec<(String, Value)> {
    let event = |text: &str| {
        let (kind, data) = text.split_once('\n')?;
        let data = serde_json::from_str(data.strip_prefix("data: ")?).unwrap();
        Some((kind.strip_prefix("event: ")?.to_owned(), data))
    };
    answer.body.split("\n\n").filter_map(event).collect()
}

#[test]
fn an_answer_has_the_interface_s_shape_and_is_kept() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let mut asked = request("How heavy is a truck?");
    // What the interface does not know is taken here, unlike elsewhere.
    asked["prompt_cache_key"] = json!("k");
    asked["instructions"] = json!("be brief");
    let answer = post(address, PATH, &asked);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    assert_eq!(answer["object"], "response");
    assert_eq!(answer["status"], "incomplete");
    assert_eq!(answer["instructions"], "be brief");
    assert_eq!(answer["max_output_tokens"], 40);
    let item = &answer["output"][0];
    assert_eq!(
        (&item["type"], &item["role"]),
        (&json!("message"), &json!("assistant"))
    );
    assert!(item["content"][0]["text"].as_str().unwrap().len() > 40);
    let usage = &answer["usage"];
    assert_eq!(usage["output_tokens"], 40);
    assert_eq!(usage["input_tokens_details"]["cached_tokens"], 0);
    let id = answer["id"].as_str().unwrap();
    let path = format!("{PATH}/{id}");
    assert_eq!(get(address, &path).json(), answer);
    assert_eq!(delete(address, &path).json()["deleted"], true);
    assert_eq!(get(address, &path).status, 404);
    assert_eq!(get(address, "/v1/responses/other").status, 400);
}

#[test]
fn a_response_goes_on_from_the_one_before_where_that_is_kept() {
    let emulator = start(json!({"replicas": 2}));
    let [first, second] = emulator.addresses()[..] else {
        panic!("two replicas");
    };
    let begun = post(first, PATH, &request(&"weigh it ".repeat(60))).json();
    let mut more = request("Go on.");
    more["previous_response_id"] = begun["id"].clone();
    let answer = post(first, PATH, &more).json();
    let seen = begun["usage"]["total_tokens"].as_u64().unwrap();
    let cached = answer["usage"]["input_tokens_details"]["cached_tokens"].as_u64();
    assert_eq!(cached, Some((seen - 1) / 32 * 32));
    assert_eq!(answer["previous_response_id"], begun["id"]);
    // Another replica does not know of it.
    assert_eq!(post(second, PATH, &more).status, 404);
    more["previous_response_id"] = json!("other");
    assert_eq!(post(first, PATH, &more).status, 400);
    // What is not to be kept is not.
    let mut quiet = request("hi");
    quiet["store"] = json!(false);
    let id = post(first, PATH, &quiet).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(get(first, &format!("{PATH}/{id}")).status, 404);
}

#[test]
fn a_stream_tells_each_step_and_ends_with_the_whole() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let mut asked = request("Say something.");
    let whole = post(address, PATH, &asked).json();
    asked["stream"] = json!(true);
    let answer = post(address, PATH, &asked);
    assert_eq!(
        answer.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    let events = events(&answer);
    let kinds: Vec<&str> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(
        kinds[..4],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added"
        ]
    );
    assert_eq!(
        kinds[kinds.len() - 4..],
        [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    for (number, (kind, data)) in events.iter().enumerate() {
        assert_eq!(data["sequence_number"], json!(number));
        assert_eq!(data["type"], json!(kind));
    }
    let text: String = events
        .iter()
        .filter(|(kind, _)| kind == "response.output_text.delta")
        .map(|(_, data)| data["delta"].as_str().unwrap())
        .collect();
    assert_eq!(json!(text), whole["output"][0]["content"][0]["text"]);
    let (_, last) = events.last().unwrap();
    let response = &last["response"];
    assert_eq!(response["output"][0]["content"][0]["text"], json!(text));
    assert_eq!(response["usage"]["output_tokens"], 40);
    let id = response["id"].as_str().unwrap();
    assert_eq!(&get(address, &format!("{PATH}/{id}")).json(), response);
}

#[test]
fn the_same_words_are_the_same_prefix_in_both_interfaces() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let words = "the same words again ".repeat(50);
    post(address, "/v1/chat/completions", &chat(&words, 2));
    let items = json!([{"role": "user", "content": [{"type": "input_text", "text": words}]}]);
    let asked = json!({"model": "llama-3.1-8b", "input": items, "max_output_tokens": 2});
    let usage = &post(address, PATH, &asked).json()["usage"];
    assert!(
        usage["input_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap()
            >= 192
    );
}

#[test]
fn mistakes_are_refused() {
    let emulator = start(json!({}));
    let address = emulator.addresses()[0];
    let refused = |body: Value| {
        let answer = post(address, PATH, &body);
        (answer.status, answer.body)
    };
    for (body, status, part) in [
        (
            json!({"model": "llama-3.1-8b"}),
            400,
            "input: Field required",
        ),
        (json!({"input": "x"}), 400, "model: Field required"),
        (json!({"model": "llama-3.1-8b", "input": 7}), 400, "input"),
        (json!({"model": "other", "input": "x"}), 404, "other"),
        (
            json!({"model": "llama-3.1-8b", "input": "x", "prompt": {"id": "p"}}),
            400,
            "prompt template",
        ),
        (
            json!({"model": "llama-3.1-8b", "input": "x", "background": true, "store": false}),
            400,
            "background",
        ),
    ] {
        let (found, text) = refused(body.clone());
        assert_eq!(found, status, "{body}: {text}");
        assert!(text.contains(part), "{body}: {text}");
    }
    assert_eq!(get(address, PATH).status, 405);
}
