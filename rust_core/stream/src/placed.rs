//! A request on its replica, from the choice to the end of its stream.

use crate::observe;
use crate::wire::HttpHeaders;
use weighbridge_decide::{Core, Observer, Refusal, Ticket};

/// A request that was decided and is charged until its stream ends.
pub(crate) struct Placed {
    pub(crate) ticket: Ticket,
    /// Reads the reply where its body comes over this stream.
    observer: Option<Observer>,
}

impl Placed {
    /// `sees_reply`: the body of its reply will come over this stream.
    pub(crate) fn new(core: &Core, ticket: Ticket, sees_reply: bool) -> Self {
        let observer = sees_reply.then(|| core.observe_own(&ticket)).flatten();
        Self { ticket, observer }
    }

    /// Its reply begins; `served` is the endpoint that the gateway says gave it.
    pub(crate) fn answered(
        &mut self,
        core: &Core,
        headers: &HttpHeaders,
        served: Option<&str>,
        now_us: u64,
    ) {
        let status = headers.headers.as_ref().and_then(|map| map.get(":status"));
        let status = status.and_then(|text| text.parse().ok()).unwrap_or(0);
        if let Some(observer) = &mut self.observer {
            observe::begin(observer, headers);
        }
        core.first_byte(&mut self.ticket, status, served, now_us);
    }

    /// A piece of its reply's body.
    pub(crate) fn reply(&mut self, body: &[u8], now_us: u64) {
        if let Some(observer) = &mut self.observer {
            observer.body(body, now_us);
        }
    }

    /// It is ended before its answer begins; what its client is told.
    pub(crate) fn cut(self, core: &Core, now_us: u64) -> Refusal {
        core.cut(self.observed(core, now_us), now_us)
    }

    /// Its stream has ended.
    pub(crate) fn end(self, core: &Core, now_us: u64) {
        core.end(self.observed(core, now_us), now_us);
    }

    /// Nothing more of its reply will come over this stream.
    fn observed(self, core: &Core, now_us: u64) -> Ticket {
        if let Some(observer) = self.observer {
            core.observed(observer, now_us);
        }
        self.ticket
    }
}
