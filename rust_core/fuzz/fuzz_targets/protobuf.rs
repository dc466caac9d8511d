//! Any bytes from the socket: messages after a length byte pair, decoded, answered, encoded.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use std::sync::Arc;
use weighbridge_fuzz::{check_accounts, core};
use weighbridge_stream::wire::{ProcessingRequest, ProcessingResponse};
use weighbridge_stream::{Limits, Stream};

fuzz_target!(|data: &[u8]| {
    let limits = Limits { duplex_bytes: 4096, streamed_bytes: 1024 };
    let core = core();
    let mut stream = Stream::new(Arc::clone(&core), limits);
    let mut rest = Bytes::copy_from_slice(data);
    while rest.len() >= 2 {
        let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        let mut message = rest.split_off(2);
        rest = message.split_off(length.min(message.len()));
        let Ok(message) = ProcessingRequest::decode(message) else {
            break;
        };
        for reply in stream.on_message(message, 0) {
            let bytes = reply.encode_to_vec();
            assert_eq!(ProcessingResponse::decode(bytes.as_slice()), Ok(reply));
        }
    }
    drop(stream);
    check_accounts(&core);
});
