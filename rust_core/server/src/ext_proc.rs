//! The gRPC service `envoy.service.ext_proc.v3.ExternalProcessor`.

use crate::codec::WireEncoder;
use crate::messages::Messages;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_stream::Stream as Items;
use tonic::body::Body;
use tonic::codec::{EncodeBody, SingleMessageCompressionOverride};
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Code, Status};
use weighbridge_decide::{Core, Memory, Refusal, Share};
use weighbridge_stream::wire::{
    self, CommonAnswer, ProcessingRequest, ProcessingResponse, TrailersAnswer,
};
use weighbridge_stream::{LONGEST_HEAVY_WAIT_MS, Limits, Stream};

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

    /// Whether this message takes so long that others should not wait for it: then it is answered
    /// beside the serving threads.
    fn is_heavy(&self, _: &ProcessingRequest) -> bool {
        false
    }

    /// Asks for the time that a heavy message may take.
    fn more_time(&self) -> Option<ProcessingResponse> {
        None
    }

    /// Refuses a request whose body cannot be taken; no reply where that cannot be.
    fn refuse(&mut self, _: &Refusal) -> Vec<ProcessingResponse> {
        Vec::new()
    }

    /// What its messages take of the memory for bodies while they are not complete.
    fn share(&self) -> Share {
        Memory::new(usize::MAX).share()
    }

    /// Whether an answer waits, which [`Process::poll_resume`] gives. Messages are taken meanwhile.
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

    fn is_heavy(&self, message: &ProcessingRequest) -> bool {
        self.stream.is_heavy(message)
    }

    fn more_time(&self) -> Option<ProcessingResponse> {
        self.stream.more_time()
    }

    fn refuse(&mut self, refusal: &Refusal) -> Vec<ProcessingResponse> {
        let now_us = self.core.now_us();
        self.stream.refuse_body(refusal, now_us)
    }

    fn share(&self) -> Share {
        self.core.memory().share()
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
                    weighbridge_stream::Repeats::AsRouted,
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

/// Longest that a heavy message may wait for a thread.
const LONGEST_HEAVY_WAIT: Duration = Duration::from_millis(LONGEST_HEAVY_WAIT_MS);

/// The service, one clone for each connection.
pub(crate) struct ExternalProcessor<P> {
    factory: Factory<P>,
    max_message_bytes: usize,
    /// Where heavy messages are answered.
    beside: Handle,
}

impl<P> ExternalProcessor<P> {
    pub(crate) fn new(factory: Factory<P>, max_message_bytes: usize, beside: Handle) -> Self {
        Self {
            factory,
            max_message_bytes,
            beside,
        }
    }
}

impl<P> Clone for ExternalProcessor<P> {
    fn clone(&self) -> Self {
        Self {
            factory: Arc::clone(&self.factory),
            max_message_bytes: self.max_message_bytes,
            beside: self.beside.clone(),
        }
    }
}

impl<P> NamedService for ExternalProcessor<P> {
    const NAME: &'static str = SERVICE;
}

impl<P: Process> Service<http::Request<Body>> for ExternalProcessor<P> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != METHOD {
            return ready(Ok(Status::unimplemented("unknown method").into_http()));
        }
        let mut process = (self.factory)();
        let (head, body) = request.into_parts();
        process.opened(&MetadataMap::from_headers(head.headers));
        let share = Arc::new(process.share());
        let replies = Replies {
            process: Some(process),
            busy: None,
            messages: Messages::new(body, Arc::clone(&share), self.max_message_bytes),
            inbox: VecDeque::new(),
            ready: VecDeque::new(),
            share,
            failed: None,
            max_message_bytes: self.max_message_bytes,
            beside: self.beside.clone(),
        };
        let uncompressed = SingleMessageCompressionOverride::default();
        let body = EncodeBody::new_server(WireEncoder, replies, None, uncompressed, None);
        let mut response = http::Response::new(Body::new(body));
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        ready(Ok(response))
    }
}

/// A process and its replies, once a heavy message is answered.
type Answered<P> = (P, Vec<ProcessingResponse>);

/// The replies of one stream: polls the messages, asks the process, gives back what it says.
///
/// Messages are taken whatever the process does, so that no stream keeps the connection's window
/// from others. Dropped when Envoy ends the stream in either way, and with it the process.
struct Replies<P> {
    /// Absent while it answers a heavy message, and when nothing more is to be said.
    process: Option<P>,
    busy: Option<JoinHandle<Answered<P>>>,
    messages: Messages<Body>,
    /// What came while the process was busy.
    inbox: VecDeque<ProcessingRequest>,
    ready: VecDeque<ProcessingResponse>,
    /// What messages take of the memory for bodies until the process has them.
    share: Arc<Share>,
    /// Why no message comes any more.
    failed: Option<Status>,
    max_message_bytes: usize,
    beside: Handle,
}

impl<P: Process> Replies<P> {
    /// The next message of those that came while the process was busy, or of the call.
    fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<ProcessingRequest, Status>>> {
        match self.inbox.pop_front() {
            Some(message) => Poll::Ready(Some(Ok(message))),
            None => self.messages.poll_next(context),
        }
    }

    fn hand_over(&mut self, message: ProcessingRequest) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        if !process.is_heavy(&message) {
            if self.inbox.is_empty() {
                self.share.clear();
            }
            self.ready.extend(process.on_message(message));
            self.process = Some(process);
            return;
        }
        self.ready.extend(process.more_time());
        let share = Arc::clone(&self.share);
        let since = Instant::now();
        self.busy = Some(self.beside.spawn_blocking(move || {
            let late = since.elapsed() > LONGEST_HEAVY_WAIT;
            let refusal = late.then(Refusal::bodies_in_the_way);
            let mut replies = refusal.map_or_else(Vec::new, |refusal| process.refuse(&refusal));
            share.clear();
            if replies.is_empty() {
                replies = process.on_message(message);
            }
            (process, replies)
        }));
    }

    /// A message that cannot be taken: its request is refused where that can be, so that it does
    /// not go on unweighed.
    fn give_up(&mut self, status: Status) -> Option<Status> {
        let refusal = match status.code() {
            Code::OutOfRange => Some(Refusal::body_too_large(self.max_message_bytes)),
            Code::ResourceExhausted => Some(Refusal::bodies_in_the_way()),
            _ => None,
        };
        let process = self.process.take();
        let replies = process
            .zip(refusal)
            .map(|(mut process, refusal)| process.refuse(&refusal));
        self.ready.extend(replies.into_iter().flatten());
        self.ready.is_empty().then_some(status)
    }
}

impl<P: Process> Items for Replies<P> {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(reply) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(reply)));
            }
            if let Some(busy) = &mut this.busy {
                match Pin::new(busy).poll(context) {
                    Poll::Ready(answered) => {
                        this.busy = None;
                        let Ok((process, replies)) = answered else {
                            return Poll::Ready(Some(Err(Status::internal("no answer was made"))));
                        };
                        this.process = Some(process);
                        this.ready.extend(replies);
                        continue;
                    }
                    Poll::Pending if this.failed.is_some() => return Poll::Pending,
                    Poll::Pending => {}
                }
                match this.messages.poll_next(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Ready(Some(Err(status))) => this.failed = Some(status),
                    Poll::Ready(Some(Ok(message))) => this.inbox.push_back(message),
                }
                continue;
            }
            let Some(process) = &mut this.process else {
                return Poll::Ready(None);
            };
            if process.is_over() {
                return Poll::Ready(None);
            }
            if let Some(status) = this.failed.take() {
                if let Some(status) = this.give_up(status) {
                    return Poll::Ready(Some(Err(status)));
                }
                continue;
            }
            if process.is_waiting()
                && let Poll::Ready(replies) = process.poll_resume(context)
            {
                this.ready.extend(replies);
                continue;
            }
            // A client that goes away drops this stream, and its place in a queue with it.
            match this.poll_message(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(status))) => this.failed = Some(status),
                Poll::Ready(Some(Ok(message))) => this.hand_over(message),
            }
        }
    }
}
