//! Carries requests through the state machine, protobuf on both sides: `lives [REQUESTS]`; for
//! profilers that count instructions.

use bytes::Bytes;
use prost::Message;
use serde_json::json;
use std::sync::Arc;
use weighbridge_bench::{Conversation, life, profile};
use weighbridge_decide::Core;
use weighbridge_stream::wire::ProcessingRequest;
use weighbridge_stream::{Limits, Stream};

/// Different conversations, so that not all are found in the index.
const BODIES: u64 = 64;
const BODY_BYTES: usize = 4 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let requests: usize = std::env::args()
        .nth(1)
        .map_or(Ok(2000), |text| text.parse())?;
    let settings = json!({"profiles": [profile()]});
    let core = Arc::new(Core::new(serde_json::from_value(settings)?)?);
    let replicas: Vec<_> = (0..100)
        .map(|at| json!({"endpoint": format!("10.0.0.{at}:8000"), "profile": "bench"}))
        .collect();
    core.set_replicas(serde_json::from_value(json!(replicas))?)?;
    let wire: Vec<Vec<Bytes>> = (0..BODIES)
        .map(|seed| {
            let messages = life(Conversation::new(seed).body("bench-8b", BODY_BYTES).into());
            messages
                .iter()
                .map(|message| message.encode_to_vec().into())
                .collect()
        })
        .collect();
    for messages in wire.iter().cycle().take(requests) {
        let mut stream = Stream::new(Arc::clone(&core), Limits::default());
        for bytes in messages {
            for reply in stream.on_message(ProcessingRequest::decode(bytes.clone())?, 0) {
                std::hint::black_box(reply.encode_to_vec());
            }
        }
    }
    Ok(())
}
