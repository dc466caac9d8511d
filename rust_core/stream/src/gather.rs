//! A request whose body is still coming, and one that waits for admission.

use crate::head::Head;
use bytes::{Bytes, BytesMut};
use weighbridge_decide::{Incoming, Waiting};
use weighbridge_weigh::{Body, Endpoint};

/// The pieces of a body. One piece stays as it came, without a copy.
#[derive(Default)]
pub(crate) struct Pieces {
    first: Bytes,
    joined: BytesMut,
}

impl Pieces {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&self.first);
            self.first = Bytes::new();
        }
        self.joined.extend_from_slice(&piece);
    }

    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    pub(crate) fn take(&mut self) -> Bytes {
        let Self { first, joined } = std::mem::take(self);
        if joined.is_empty() {
            first
        } else {
            joined.freeze()
        }
    }
}

/// A request whose body is still coming.
pub(crate) struct Gather {
    pub(crate) head: Head,
    pub(crate) endpoint: Endpoint,
    pub(crate) subset: Option<Vec<String>>,
    pub(crate) body: Pieces,
    /// Body messages that wait for their answer.
    pub(crate) unanswered: usize,
    /// The headers' answer was given; the choice goes into the body's answer.
    pub(crate) headers_answered: bool,
    /// The body's last byte is here, and no trailers follow.
    pub(crate) ended: bool,
    /// Trailers came, and the body ended with them.
    pub(crate) trailers: bool,
}

impl Gather {
    pub(crate) fn incoming<'a>(&'a self, body: &'a [u8], complete: bool) -> Incoming<'a> {
        Incoming {
            request_id: &self.head.request_id,
            endpoint: self.endpoint,
            session: self.head.session.as_deref(),
            tenant: self.head.tenant.as_deref(),
            priority: self.head.priority.as_deref(),
            wanted: self.head.wanted(),
            subset: self.subset.as_deref(),
            content_encoding: self.head.content_encoding.as_deref(),
            parent: self.head.parent,
            body: Body {
                bytes: body,
                complete,
                total_bytes: self.head.content_length,
            },
        }
    }

    /// Whether its headers' answer carries the whole body, and with it all other answers.
    pub(crate) fn is_replaced(&self, duplex: bool) -> bool {
        duplex && self.trailers && self.unanswered > 0
    }
}

/// A request whose answer waits for admission. Of its body only that is kept which Envoy must be
/// given back.
pub(crate) struct Held {
    pub(crate) gather: Gather,
    pub(crate) complete: bool,
    pub(crate) waiting: Box<Waiting>,
}
