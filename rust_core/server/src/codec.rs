//! The gRPC codec: ext_proc messages by prost, bodies without a copy.

use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use weighbridge_stream::wire::{ProcessingRequest, ProcessingResponse};

/// Reads [`ProcessingRequest`]s and writes [`ProcessingResponse`]s.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WireCodec;

impl Codec for WireCodec {
    type Encode = ProcessingResponse;
    type Decode = ProcessingRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self
    }
}

impl Encoder for WireCodec {
    type Item = ProcessingResponse;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(dst)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for WireCodec {
    type Item = ProcessingRequest;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        ProcessingRequest::decode(src)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("no ProcessingRequest: {error}")))
    }
}
