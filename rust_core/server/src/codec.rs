//! Writes replies for tonic's gRPC framing.

use prost::Message;
use tonic::Status;
use tonic::codec::{EncodeBuf, Encoder};
use weighbridge_stream::wire::ProcessingResponse;

/// Writes [`ProcessingResponse`]s.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WireEncoder;

impl Encoder for WireEncoder {
    type Item = ProcessingResponse;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(dst)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
