//! The gRPC service `envoy.service.ext_proc.v3.ExternalProcessor`.

use crate::codec::WireCodec;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio_stream::Stream as Messages;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use weighbridge_decide::Core;
use weighbridge_stream::wire::{
    self, CommonAnswer, ProcessingRequest, ProcessingResponse, TrailersAnswer,
};
use weighbridge_stream::{Limits, Stream};

/// The service's full name.
pub(crate) const SERVICE: &str = "envoy.service.ext_proc.v3.ExternalProcessor";
const METHOD: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// What answers the messages of one stream; dropped when the stream ends.
pub trait Process: Send + Unpin + 'static {
    /// The stream has begun, with this metadata.
    fn opened(&mut self, _: &MetadataMap) {}

    /// The replies to one message, oldest first.
    fn on_message(&mut self, message: ProcessingRequest) -> Vec<ProcessingResponse>;

    /// Whether the stream may be ended, once all replies are sent.
    fn is_over(&self) -> bool {
        false
    }

    /// Whether an answer has to wait: then no message is taken until [`Process::poll_resume`] has
    /// given it.
    fn is_waiting(&self) -> bool {
        false
    }

    /// The replies that have waited.
    fn poll_resume(&mut self, _: &mut Context<'_>) -> Poll<Vec<ProcessingResponse>> {
        Poll::Ready(Vec::new())
    }
}

/// The state machine under the core's clock.
pub struct Machine {
    core: Arc<Core>,
    stream: Stream,
}

impl Machine {
    /// A machine for one new stream.
    #[must_use]
    pub fn new(core: Arc<Core>, limits: Limits) -> Self {
        let stream = Stream::new(Arc::clone(&core), limits);
        Self { core, stream }
    }
}

impl Process for Machine {
    fn opened(&mut self, metadata: &MetadataMap) {
        let parent = metadata.get("traceparent");
        if let Some(text) = parent.and_then(|value| value.to_str().ok()) {
            self.stream.set_traceparent(text);
        }
    }

    fn on_message(&mut self, message: ProcessingRequest) -> Vec<ProcessingResponse> {
        let now_us = self.core.now_us();
        self.stream.on_message(message, now_us)
    }

    fn is_over(&self) -> bool {
        self.stream.is_over()
    }

    fn is_waiting(&self) -> bool {
        self.stream.is_waiting()
    }

    fn poll_resume(&mut self, context: &mut Context<'_>) -> Poll<Vec<ProcessingResponse>> {
        let now_us = self.core.now_us();
        self.stream.poll_resume(context, now_us)
    }
}

/// Answers as a router that always chooses the same replica: what the protocol alone costs, for
/// benchmarks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Constant;

/// What [`Constant`] chooses: as long as a choice with two fallbacks.
const ALWAYS: &str = "10.0.0.1:8000,10.0.0.2:8000,10.0.0.3:8000";

impl Process for Constant {
    fn on_message(&mut self, message: ProcessingRequest) -> Vec<ProcessingResponse> {
        use wire::{Request as In, Response as Out};
        let unchanged = CommonAnswer { response: None };
        let Some(request) = message.request else {
            return Vec::new();
        };
        let response = match request {
            In::RequestHeaders(_) => Out::RequestHeaders(unchanged),
            In::RequestBody(_) => {
                return vec![weighbridge_stream::choice(
                    ALWAYS,
                    false,
                    None,
                    Out::RequestBody,
                )];
            }
            In::RequestTrailers(_) => Out::RequestTrailers(TrailersAnswer {}),
            In::ResponseHeaders(_) => Out::ResponseHeaders(unchanged),
            In::ResponseBody(_) => Out::ResponseBody(unchanged),
            In::ResponseTrailers(_) => Out::ResponseTrailers(TrailersAnswer {}),
        };
        vec![response.into()]
    }
}

/// Makes the [`Process`] of each new stream.
pub(crate) type Factory<P> = Arc<dyn Fn() -> P + Send + Sync>;

/// The service, one clone for each connection.
pub(crate) struct ExternalProcessor<P> {
    factory: Factory<P>,
    max_message_bytes: usize,
}

impl<P> ExternalProcessor<P> {
    pub(crate) fn new(factory: Factory<P>, max_message_bytes: usize) -> Self {
        Self {
            factory,
            max_message_bytes,
        }
    }
}

impl<P> Clone for ExternalProcessor<P> {
    fn clone(&self) -> Self {
        Self {
            factory: Arc::clone(&self.factory),
            max_message_bytes: self.max_message_bytes,
        }
    }
}

impl<P> NamedService for ExternalProcessor<P> {
    const NAME: &'static str = SERVICE;
}

impl<P: Process> Service<http::Request<Body>> for ExternalProcessor<P> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != METHOD {
            return Box::pin(ready(Ok(
                Status::unimplemented("unknown method").into_http()
            )));
        }
        let mut grpc =
            Grpc::new(WireCodec).apply_max_message_size_config(Some(self.max_message_bytes), None);
        let open = Open(Arc::clone(&self.factory));
        Box::pin(async move { Ok(grpc.streaming(open, request).await) })
    }
}

/// A stream about to begin.
struct Open<P>(Factory<P>);

impl<P: Process> StreamingService<ProcessingRequest> for Open<P> {
    type Response = ProcessingResponse;
    type ResponseStream = Replies<P>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<ProcessingRequest>>) -> Self::Future {
        let mut process = (self.0)();
        process.opened(request.metadata());
        ready(Ok(Response::new(Replies {
            process,
            messages: request.into_inner(),
            ready: VecDeque::new(),
        })))
    }
}

/// The replies of one stream: polls the messages, asks the process, gives back what it says.
///
/// Dropped when Envoy ends the stream in either way, and with it the process.
struct Replies<P> {
    process: P,
    messages: Streaming<ProcessingRequest>,
    ready: VecDeque<ProcessingResponse>,
}

impl<P: Process> Messages for Replies<P> {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(reply) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(reply)));
            }
            if self.process.is_over() {
                return Poll::Ready(None);
            }
            if self.process.is_waiting() {
                match self.process.poll_resume(context) {
                    // A client that goes away meanwhile drops this stream, and its place with it.
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(replies) => {
                        self.ready.extend(replies);
                        continue;
                    }
                }
            }
            match Pin::new(&mut self.messages).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(Some(Ok(message))) => {
                    let replies = self.process.on_message(message);
                    self.ready.extend(replies);
                }
            }
        }
    }
}
