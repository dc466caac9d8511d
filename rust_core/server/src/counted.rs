//! A call's bytes on their way to the decoder, counted as long as no message is made of them.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tonic::Status;
use weighbridge_decide::Share;

/// Unfinished messages of fewer bytes are not counted: nearly all messages come in one piece.
const FREE_BYTES: usize = 64 << 10;

/// A request body that takes room in the memory for bodies.
pub(crate) struct Counted<B> {
    inner: B,
    share: Arc<Share>,
    free: usize,
}

impl<B> Counted<B> {
    pub(crate) fn new(inner: B, share: Arc<Share>) -> Self {
        Self {
            inner,
            share,
            free: FREE_BYTES,
        }
    }
}

impl<B> Body for Counted<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let beyond = data.len().saturating_sub(self.free);
            self.free = self.free.saturating_sub(data.len());
            if beyond > 0 && !self.share.add(beyond) {
                return Poll::Ready(Some(Err(Status::resource_exhausted(
                    "bodies of other requests take all the memory for them",
                ))));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
