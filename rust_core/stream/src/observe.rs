//! What is observed of a request that another stream has routed: its reply, as it passes.

use crate::wire::{ProcessingRequest, Request};
use weighbridge_decide::{Core, Observer};

/// The header that both streams of a request have.
const REQUEST_ID: &str = "x-request-id";

/// One observed request.
#[derive(Default)]
pub(crate) struct Observation {
    observer: Option<Observer>,
}

impl Observation {
    /// Takes a copy of a message.
    pub(crate) fn on_copy(&mut self, core: &Core, message: ProcessingRequest, now_us: u64) {
        let mut ended = false;
        match message.request {
            Some(Request::RequestHeaders(headers)) => {
                let id = headers.headers.as_ref().and_then(|map| map.get(REQUEST_ID));
                self.observer = id.and_then(|id| core.observe(id));
            }
            Some(Request::ResponseHeaders(headers)) => {
                if let Some(observer) = &mut self.observer {
                    let value = |name| headers.headers.as_ref().and_then(|map| map.get(name));
                    observer.begin(value("content-type"), value("content-encoding"));
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
            // Envoy closes the stream only a while later.
            self.close(core, now_us);
        }
    }

    /// Nothing more will be seen.
    pub(crate) fn close(&mut self, core: &Core, now_us: u64) {
        if let Some(observer) = self.observer.take() {
            core.observed(observer, now_us);
        }
    }
}
