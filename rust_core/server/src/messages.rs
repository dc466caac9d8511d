//! The messages of one call: gRPC's framing, and the memory that unfinished ones take.
//!
//! A stream outlives its messages by far: a request waits for minutes, its body came at once. So no
//! buffer here lives longer than the message in it.

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use prost::Message;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use weighbridge_decide::Share;
use weighbridge_stream::wire::ProcessingRequest;

/// Bytes before a message: whether it is compressed, and its length as a big-endian `u32`.
const PREFIX_BYTES: usize = 5;

/// Unfinished messages of fewer bytes are not counted: nearly all messages come in one piece.
const FREE_BYTES: usize = 64 << 10;

/// Reads [`ProcessingRequest`]s from a call's body. What comes beyond [`FREE_BYTES`] takes its share of
/// the memory for bodies; clearing the share is the reader's part, once it is done with a message.
pub(crate) struct Messages<B> {
    body: B,
    /// What came last and is not read yet.
    chunk: Bytes,
    /// A message that came in pieces so far, with its prefix.
    partial: BytesMut,
    max_message_bytes: usize,
    share: Arc<Share>,
    free: usize,
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Messages<B> {
    pub(crate) fn new(body: B, share: Arc<Share>, max_message_bytes: usize) -> Self {
        Self {
            body,
            chunk: Bytes::new(),
            partial: BytesMut::new(),
            max_message_bytes,
            share,
            free: FREE_BYTES,
        }
    }

    /// The next message; nothing once the call has ended.
    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<ProcessingRequest, Status>>> {
        loop {
            match self.take() {
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(decode(message))),
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) if self.partial.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) => {
                    self.partial = BytesMut::new();
                    let status = Status::internal("the call ended within a message");
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        continue; // Trailers: nothing comes after them.
                    };
                    if let Err(status) = self.count(data.len()) {
                        return Poll::Ready(Some(Err(status)));
                    }
                    self.chunk = data;
                }
            }
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), Status> {
        let beyond = bytes.saturating_sub(self.free);
        self.free = self.free.saturating_sub(bytes);
        if beyond > 0 && !self.share.add(beyond) {
            return Err(Status::resource_exhausted(
                "bodies of other requests take all the memory for them",
            ));
        }
        Ok(())
    }

    /// A message that is whole, without its prefix. Nothing is left of the chunk if there is none.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        if self.partial.is_empty() {
            let Some(length) = self.length(&self.chunk)? else {
                self.keep(PREFIX_BYTES);
                return Ok(None);
            };
            if self.chunk.len() >= PREFIX_BYTES + length {
                self.chunk.advance(PREFIX_BYTES);
                return Ok(Some(self.chunk.split_to(length)));
            }
        }
        self.keep(PREFIX_BYTES);
        let Some(length) = self.length(&self.partial)? else {
            return Ok(None);
        };
        self.keep(PREFIX_BYTES + length);
        if self.partial.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let mut message = std::mem::take(&mut self.partial).freeze();
        message.advance(PREFIX_BYTES);
        Ok(Some(message))
    }

    /// Moves from the chunk what the partial message still lacks of `bytes`.
    fn keep(&mut self, bytes: usize) {
        let lacking = bytes.saturating_sub(self.partial.len());
        let piece = self.chunk.split_to(lacking.min(self.chunk.len()));
        if !piece.is_empty() {
            self.partial.reserve(lacking);
            self.partial.extend_from_slice(&piece);
        }
    }

    /// The length in a message's prefix, if that is whole.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        let Some(([is_compressed, length @ ..], _)) = bytes.split_first_chunk::<PREFIX_BYTES>()
        else {
            return Ok(None);
        };
        if *is_compressed != 0 {
            return Err(Status::unimplemented("messages are not compressed here"));
        }
        let length = u32::from_be_bytes(*length);
        let max = self.max_message_bytes;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= max)
            .map(Some)
            .ok_or_else(|| {
                Status::out_of_range(format!("a message of {length} bytes; {max} are allowed"))
            })
    }
}

fn decode(message: Bytes) -> Result<ProcessingRequest, Status> {
    ProcessingRequest::decode(message)
        .map_err(|error| Status::invalid_argument(format!("no ProcessingRequest: {error}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use http_body::Frame;
    use std::collections::VecDeque;
    use std::task::Waker;
    use weighbridge_decide::Memory;
    use weighbridge_stream::wire::{HttpBody, Request};

    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn framed(message: &ProcessingRequest) -> Vec<u8> {
        let message = message.encode_to_vec();
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        bytes.extend(message);
        bytes
    }

    fn of_body(bytes: usize) -> ProcessingRequest {
        let body = HttpBody {
            body: Bytes::from(vec![b'a'; bytes]),
            end_of_stream: true,
        };
        ProcessingRequest {
            request: Some(Request::RequestBody(body)),
            ..ProcessingRequest::default()
        }
    }

    fn read(
        pieces: impl IntoIterator<Item = Bytes>,
    ) -> (Messages<Pieces>, Vec<Result<usize, Status>>) {
        let share = Arc::new(Memory::new(1 << 30).share());
        let pieces = Pieces(pieces.into_iter().collect());
        let mut messages = Messages::new(pieces, share, 1 << 20);
        let mut lengths = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(message)) = messages.poll_next(&mut context) {
            let is_last = message.is_err();
            lengths.push(message.map(|message| match message.request {
                Some(Request::RequestBody(body)) => body.body.len(),
                _ => 0,
            }));
            if is_last {
                break;
            }
        }
        (messages, lengths)
    }

    #[test]
    fn messages_are_read_however_they_are_cut() {
        let sizes = [0, 1, 3_000, 200_000, 7, 0];
        let bytes: Vec<u8> = sizes
            .iter()
            .flat_map(|size| framed(&of_body(*size)))
            .collect();
        for piece in [1, 2, 5, 6, 4_096, 16_384, bytes.len()] {
            let pieces = bytes.chunks(piece).map(Bytes::copy_from_slice);
            let (_, lengths) = read(pieces.chain([Bytes::new()]));
            let lengths: Vec<usize> = lengths.into_iter().map(Result::unwrap).collect();
            assert_eq!(lengths, sizes, "pieces of {piece} bytes");
        }
    }

    #[test]
    fn nothing_is_kept_of_a_message_that_was_read() {
        let bytes = Bytes::from(framed(&of_body(900_000)));
        let pieces: Vec<Bytes> = (0..bytes.len())
            .step_by(16_384)
            .map(|from| bytes.slice(from..(from + 16_384).min(bytes.len())))
            .collect();
        drop(bytes);
        let last = pieces.last().cloned().unwrap();
        let (messages, lengths) = read(pieces);
        assert_eq!(lengths.len(), 1);
        assert_eq!(messages.partial.capacity() + messages.chunk.len(), 0);
        assert!(last.is_unique(), "the stream keeps the last piece");
    }

    #[test]
    fn what_is_no_message_ends_the_call_with_a_status() {
        use tonic::Code;
        let cut = Bytes::from(framed(&of_body(50))).slice(..20);
        let long = Bytes::from_static(&[0, 0, 0x10, 0, 1]);
        let compressed = Bytes::from_static(&[1, 0, 0, 0, 0]);
        let garbage = Bytes::from_static(&[0, 0, 0, 0, 1, 0xff]);
        for (bytes, code) in [
            (cut, Code::Internal),
            (long, Code::OutOfRange),
            (compressed, Code::Unimplemented),
            (garbage, Code::InvalidArgument),
        ] {
            let (_, mut read) = read([bytes]);
            assert_eq!(read.pop().unwrap().unwrap_err().code(), code);
        }
    }
}
