//! What is observed of a request that another stream has routed: its reply, as it passes.

use crate::head::{JOIN, request_id};
use crate::wire::{HttpHeaders, ProcessingRequest, Request};
use weighbridge_decide::{Core, Observer};

/// The header that both streams of a request have, where the gateway takes [`JOIN`] off.
const REQUEST_ID: &str = "x-request-id";

/// A reply begins with these headers.
pub(crate) fn begin(observer: &mut Observer, headers: &HttpHeaders) {
    let value = |name| headers.headers.as_ref().and_then(|map| map.get(name));
    observer.begin(value("content-type"), value("content-encoding"));
}

/// One observed request.
#[derive(Default)]
pub(crate) struct Observation {
    observer: Option<Observer>,
    is_over: bool,
}

impl Observation {
    /// Takes a copy of a message.
    pub(crate) fn on_copy(&mut self, core: &Core, message: ProcessingRequest, now_us: u64) {
        let mut ended = false;
        match message.request {
            Some(Request::RequestHeaders(headers)) => {
                let value = |name| headers.headers.as_ref().and_then(|map| map.get(name));
                let join = value(JOIN).map(|text| u64::from_str_radix(text, 16).unwrap_or(0));
                self.observer = core.observe(join, value(REQUEST_ID).map(request_id));
                // Of a request that is not weighed nothing is to be seen.
                self.is_over = self.observer.is_none();
            }
            Some(Request::ResponseHeaders(headers)) => {
                if let Some(observer) = &mut self.observer {
                    begin(observer, &headers);
                }
                ended = headers.end_of_stream;
            }
            Some(Request::ResponseBody(body)) => {
                if let Some(observer) = &mut self.observer {
                    observer.body(&body.body, now_us);
                }
                ended = body.end_of_stream;
            }
            Some(Request::ResponseTrailers(_)) => ended = true,
            _ => {}
        }
        if ended {
            self.is_over = true;
            self.close(core, now_us);
        }
    }

    /// Whether nothing that may still come is of interest.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Nothing more will be seen.
    pub(crate) fn close(&mut self, core: &Core, now_us: u64) {
        if let Some(observer) = self.observer.take() {
            core.observed(observer, now_us);
        }
    }
}
