//! The states of one request's stream and the moves between them.

use crate::head::{self, Head};
use crate::observe::Observation;
use crate::reply;
use crate::wire::{
    BodySendMode, HttpBody, HttpHeaders, Metadata, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration, Request, Response, TrailersAnswer,
};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::task::{Context, Poll};
use weighbridge_decide::{Begun, Core, Incoming, Refusal, Ticket, TraceParent, Unweighed, Waiting};
use weighbridge_weigh::{Body, Endpoint};

/// How much of a streamed body is held back for weighing.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In FULL_DUPLEX_STREAMED, where we hold the body ourselves: bytes.
    pub duplex_bytes: usize,
    /// In STREAMED, where Envoy holds it within its connection buffer (1 MiB by default): bytes.
    pub streamed_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            duplex_bytes: 4 << 20,
            streamed_bytes: 512 << 10,
        }
    }
}

/// Where the stream stands.
enum State {
    /// No message yet.
    Start,
    /// None of ours, or observed only: everything is answered unchanged.
    Pass,
    /// Ours; the body is not all here.
    Gather(Box<Gather>),
    /// Weighed, and waiting for admission; nothing is to be taken until it is resumed.
    Waits(Box<Held>),
    /// The filter sends copies and waits for nothing: a reply is observed.
    Observe(Box<Observation>),
    /// Decided and charged until the stream ends.
    Placed(Box<Ticket>),
    /// An immediate response was sent: Envoy reads no more.
    Refused,
}

/// A request whose body is still coming.
struct Gather {
    head: Head,
    endpoint: Endpoint,
    subset: Option<Vec<String>>,
    body: BytesMut,
    /// Body messages that wait for their answer, and whether the last had `end_of_stream`.
    unanswered: usize,
    /// The headers' answer was given; the choice goes into the body's answer.
    headers_answered: bool,
}

/// A request whose answer waits for admission.
struct Held {
    gather: Gather,
    body: Bytes,
    complete: bool,
    ended: bool,
    waiting: Box<Waiting>,
    /// Trailers came with the end of the body and are to be answered after it.
    trailers: bool,
}

/// More time than the longest wait, ms: for the answer's way.
const MARGIN_MS: u64 = 1_000;

/// One ext_proc stream: one HTTP request from its headers to its end.
pub struct Stream {
    core: Arc<Core>,
    limits: Limits,
    config: ProtocolConfiguration,
    /// The gateway's span of its call to us.
    parent: Option<TraceParent>,
    state: State,
}

impl Stream {
    /// A stream that has seen nothing yet.
    #[must_use]
    pub fn new(core: Arc<Core>, limits: Limits) -> Self {
        core.tallies().stream_opened();
        Self {
            core,
            limits,
            config: ProtocolConfiguration::default(),
            parent: None,
            state: State::Start,
        }
    }

    /// The gateway's own `traceparent` for this stream, which stands above any in the request's
    /// headers: those are the client's.
    pub fn set_traceparent(&mut self, text: &str) {
        if self.core.traces() {
            self.parent = TraceParent::parse(text);
        }
    }

    /// Takes one message at `now_us` (µs on the core's clock) and gives the replies to it, oldest
    /// first; none where Envoy waits for none or where the answer has to wait for more body.
    pub fn on_message(
        &mut self,
        message: ProcessingRequest,
        now_us: u64,
    ) -> Vec<ProcessingResponse> {
        if let Some(config) = message.protocol_config {
            self.config = config;
        }
        if message.observability_mode {
            self.on_copy(message, now_us);
            return Vec::new();
        }
        if matches!(self.state, State::Refused) {
            return Vec::new();
        }
        let mut replies = Vec::new();
        match message.request {
            Some(Request::RequestHeaders(headers)) => {
                let metadata = message.metadata_context.as_ref();
                self.on_request_headers(&headers, metadata, now_us, &mut replies);
            }
            Some(Request::RequestBody(body)) => self.on_request_body(body, now_us, &mut replies),
            Some(Request::RequestTrailers(_)) => {
                self.complete_body(false, now_us, &mut replies);
                if let State::Waits(held) = &mut self.state {
                    held.trailers = true;
                } else {
                    self.push_unless_refused(
                        Response::RequestTrailers(TrailersAnswer {}).into(),
                        &mut replies,
                    );
                }
            }
            Some(Request::ResponseHeaders(headers)) => {
                let metadata = message.metadata_context.as_ref();
                let served = head::served(metadata, &message.attributes);
                self.on_response_headers(&headers, served, now_us);
                replies.push(Response::ResponseHeaders(reply::unchanged()).into());
            }
            Some(Request::ResponseBody(body)) => {
                if self.config.response_body_mode() == BodySendMode::FullDuplexStreamed {
                    reply::echo(
                        body.body,
                        body.end_of_stream,
                        Response::ResponseBody,
                        &mut replies,
                    );
                } else {
                    replies.push(Response::ResponseBody(reply::unchanged()).into());
                }
            }
            Some(Request::ResponseTrailers(_)) => {
                replies.push(Response::ResponseTrailers(TrailersAnswer {}).into());
            }
            None => {}
        }
        replies
    }

    fn on_request_headers(
        &mut self,
        headers: &HttpHeaders,
        metadata: Option<&Metadata>,
        now_us: u64,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        // A second head takes the place of the request before it, which ends like any other.
        self.close(now_us);
        let subset = head::subset_hint(metadata);
        let mut head = Head::read(headers.headers.as_ref(), metadata, self.core.settings());
        head.parent = self.parent.or(head.parent);
        let Some(endpoint) = head.endpoint else {
            return self.pass(&head, subset.as_deref(), now_us, replies);
        };
        let refusal = if let Some(name) = &head.ambiguous {
            Some(Refusal::two_tenants(name))
        } else if headers.end_of_stream {
            Some(Refusal::empty_body())
        } else if head.may_be_json() {
            None
        } else {
            let kind = head.content_type.as_deref().unwrap_or_default();
            Some(Refusal::content_type(kind))
        };
        if let Some(refusal) = refusal {
            let traced = head.traced(endpoint);
            self.core.trace_refusal(&traced, &refusal, now_us, 0);
            if !self.refuse(&refusal, replies) {
                self.state = State::Pass;
                replies.push(Response::RequestHeaders(unsteered(&head)).into());
            }
            return;
        }
        let mut gather = Gather {
            head,
            endpoint,
            subset,
            body: BytesMut::new(),
            unanswered: 0,
            headers_answered: false,
        };
        match self.config.request_body_mode() {
            BodySendMode::Buffered | BodySendMode::BufferedPartial => {
                gather.headers_answered = true;
                replies.push(Response::RequestHeaders(unsteered(&gather.head)).into());
                self.state = State::Gather(Box::new(gather));
            }
            BodySendMode::FullDuplexStreamed => self.state = State::Gather(Box::new(gather)),
            BodySendMode::Streamed if self.config.send_body_without_waiting_for_header_response => {
                self.state = State::Gather(Box::new(gather));
            }
            // The headers must be answered before any body comes: weighed by its length alone.
            BodySendMode::Streamed | BodySendMode::None => {
                self.decide(gather, false, false, now_us, replies);
            }
        }
    }

    /// Lets a request pass that is not weighed, with a replica named where that is wanted.
    fn pass(
        &mut self,
        head: &Head,
        subset: Option<&[String]>,
        now_us: u64,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        let steers = !self.core.observes_only();
        let tenant = head.tenant.as_deref().unwrap_or_default();
        let keeper = head.response.as_deref().filter(|_| steers);
        let keeper = keeper.and_then(|id| self.core.keeper(tenant, id, subset));
        let picks = steers && self.core.settings().unweighed == Unweighed::Pick;
        let is_lost = steers && head.response.is_some() && keeper.is_none();
        let sought = is_lost
            .then(|| self.core.seek(tenant, subset, now_us))
            .flatten();
        let seeks = sought.is_some();
        let chosen = keeper
            .or(sought)
            .map(Ok)
            .or_else(|| picks.then(|| self.core.pick(subset)));
        match chosen {
            Some(Ok(endpoints)) => {
                replies.push(reply::choice(
                    &endpoints,
                    seeks,
                    None,
                    Response::RequestHeaders,
                ));
            }
            Some(Err(refusal)) if self.refuse(&refusal, replies) => return,
            Some(Err(_)) | None => {
                replies.push(Response::RequestHeaders(unsteered(head)).into());
            }
        }
        self.state = State::Pass;
    }

    fn on_request_body(
        &mut self,
        message: HttpBody,
        now_us: u64,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        let duplex = self.config.request_body_mode() == BodySendMode::FullDuplexStreamed;
        let State::Gather(gather) = &mut self.state else {
            if duplex {
                let end = message.end_of_stream;
                reply::echo(message.body, end, Response::RequestBody, replies);
            } else {
                replies.push(Response::RequestBody(reply::unchanged()).into());
            }
            return;
        };
        gather.unanswered += 1;
        if gather.body.is_empty() {
            gather.body = BytesMut::from(message.body);
        } else {
            gather.body.extend_from_slice(&message.body);
        }
        let held = gather.body.len();
        let enough = match self.config.request_body_mode() {
            BodySendMode::FullDuplexStreamed => held >= self.limits.duplex_bytes,
            BodySendMode::Streamed => held >= self.limits.streamed_bytes,
            // One message carries all that Envoy will send us.
            _ => true,
        };
        if message.end_of_stream || enough {
            self.complete_body(message.end_of_stream, now_us, replies);
        }
    }

    /// Decides with the body gathered so far; `ended` when its last byte is among it and no
    /// trailers follow.
    fn complete_body(&mut self, ended: bool, now_us: u64, replies: &mut Vec<ProcessingResponse>) {
        match std::mem::replace(&mut self.state, State::Pass) {
            State::Gather(gather) => {
                // Trailers end a body too, and only then is nothing missing from it.
                let held = gather.body.len();
                let cut = !ended
                    && gather
                        .head
                        .content_length
                        .is_none_or(|length| length > held as u64)
                    && self.is_partial(held);
                self.decide(*gather, !cut, ended, now_us, replies);
            }
            state => self.state = state,
        }
    }

    /// Whether a body of `held` bytes without `end_of_stream` is only a beginning.
    fn is_partial(&self, held: usize) -> bool {
        match self.config.request_body_mode() {
            BodySendMode::FullDuplexStreamed => held >= self.limits.duplex_bytes,
            BodySendMode::Streamed => held >= self.limits.streamed_bytes,
            BodySendMode::BufferedPartial => true,
            BodySendMode::Buffered | BodySendMode::None => false,
        }
    }

    fn decide(
        &mut self,
        gather: Gather,
        complete: bool,
        ended: bool,
        now_us: u64,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        let mut gather = gather;
        let body = std::mem::take(&mut gather.body).freeze();
        let before = self.core.elapsed();
        let begun = self.core.begin(&gather.incoming(&body, complete), now_us);
        let took = self.core.elapsed().saturating_sub(before);
        self.core.tallies().decisions.observe(took);
        match begun {
            Ok(Begun::Placed(ticket)) => {
                self.answer_choice(&gather, body, ended, ticket, replies);
            }
            Ok(Begun::Waits(waiting)) => {
                let ms = self.core.longest_wait_ms(&waiting) + MARGIN_MS;
                replies.push(reply::more_time(ms));
                self.state = State::Waits(Box::new(Held {
                    gather,
                    body,
                    complete,
                    ended,
                    waiting,
                    trailers: false,
                }));
            }
            Err(refusal) => self.refuse_or_pass(&refusal, &gather, body, ended, replies),
        }
    }

    /// Whether an answer waits for admission. No message may be handed over until
    /// [`Stream::poll_resume`] has given it.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waits(_))
    }

    /// The replies that have waited for admission, once that is decided; until then `context` is
    /// to be woken. None at all where nothing waits.
    pub fn poll_resume(
        &mut self,
        context: &mut Context<'_>,
        now_us: u64,
    ) -> Poll<Vec<ProcessingResponse>> {
        let mut replies = Vec::new();
        let State::Waits(held) = &mut self.state else {
            return Poll::Ready(replies);
        };
        let Poll::Ready(answer) = held.waiting.poll(context) else {
            return Poll::Pending;
        };
        let State::Waits(held) = std::mem::replace(&mut self.state, State::Pass) else {
            return Poll::Ready(replies);
        };
        let Held {
            gather,
            body,
            complete,
            ended,
            waiting,
            trailers,
        } = *held;
        let incoming = gather.incoming(&body, complete);
        match self.core.resume(waiting, answer, &incoming, now_us) {
            Ok(ticket) => self.answer_choice(&gather, body, ended, ticket, &mut replies),
            Err(refusal) => self.refuse_or_pass(&refusal, &gather, body, ended, &mut replies),
        }
        if trailers {
            let answer = Response::RequestTrailers(TrailersAnswer {}).into();
            self.push_unless_refused(answer, &mut replies);
        }
        Poll::Ready(replies)
    }

    fn answer_choice(
        &mut self,
        gather: &Gather,
        body: Bytes,
        ended: bool,
        ticket: Ticket,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        if !ticket.is_steered() {
            self.answer_unsteered(gather, body, ended, replies);
        } else if gather.headers_answered {
            replies.push(reply::choice(
                ticket.endpoints(),
                ticket.seeks(),
                ticket.join(),
                Response::RequestBody,
            ));
        } else {
            replies.push(reply::choice(
                ticket.endpoints(),
                ticket.seeks(),
                ticket.join(),
                Response::RequestHeaders,
            ));
            self.answer_held_body(body, gather.unanswered, ended, replies);
        }
        self.state = State::Placed(Box::new(ticket));
    }

    /// Lets a request go on as if the sidecar were not there.
    fn answer_unsteered(
        &self,
        gather: &Gather,
        body: Bytes,
        ended: bool,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        if gather.headers_answered {
            replies.push(Response::RequestBody(reply::unchanged()).into());
        } else {
            replies.push(Response::RequestHeaders(unsteered(&gather.head)).into());
            self.answer_held_body(body, gather.unanswered, ended, replies);
        }
    }

    /// Whether the stream may be ended from here: of what is observed nothing more is wanted. Envoy
    /// itself would keep it open for another second.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(&self.state, State::Observe(observation) if observation.is_over())
    }

    /// A copy of a message, of a request that another stream routes.
    fn on_copy(&mut self, message: ProcessingRequest, now_us: u64) {
        if matches!(self.state, State::Start) {
            self.state = State::Observe(Box::default());
        }
        if let State::Observe(observation) = &mut self.state {
            observation.on_copy(&self.core, message, now_us);
        }
    }

    /// Gives back the body messages that came before the headers' answer.
    fn answer_held_body(
        &self,
        body: Bytes,
        unanswered: usize,
        ended: bool,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        if self.config.request_body_mode() == BodySendMode::FullDuplexStreamed {
            if unanswered > 0 {
                reply::echo(body, ended, Response::RequestBody, replies);
            }
        } else {
            let answer = || Response::RequestBody(reply::unchanged()).into();
            replies.extend(std::iter::repeat_with(answer).take(unanswered));
        }
    }

    fn on_response_headers(&mut self, headers: &HttpHeaders, served: Option<&str>, now_us: u64) {
        if let State::Placed(ticket) = &mut self.state {
            let status = headers
                .headers
                .as_ref()
                .and_then(|map| map.get(":status"))
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            self.core.first_byte(ticket, status, served, now_us);
        }
    }

    /// Refuses the request, unless everything is only observed: then it is to go on.
    fn refuse(&mut self, refusal: &Refusal, replies: &mut Vec<ProcessingResponse>) -> bool {
        self.core.count_refusal(refusal);
        if self.core.observes_only() {
            return false;
        }
        replies.push(reply::refuse(refusal));
        self.state = State::Refused;
        true
    }

    fn refuse_or_pass(
        &mut self,
        refusal: &Refusal,
        gather: &Gather,
        body: Bytes,
        ended: bool,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        if !self.refuse(refusal, replies) {
            self.answer_unsteered(gather, body, ended, replies);
            self.state = State::Pass;
        }
    }

    fn push_unless_refused(
        &self,
        response: ProcessingResponse,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        if !matches!(self.state, State::Refused) {
            replies.push(response);
        }
    }
}

impl Stream {
    /// The stream has ended at `now_us`, as the transport saw it. Dropping does the same, by the
    /// core's own clock.
    pub fn close(&mut self, now_us: u64) {
        match std::mem::replace(&mut self.state, State::Pass) {
            State::Placed(ticket) => self.core.end(*ticket, now_us),
            State::Observe(mut observation) => observation.close(&self.core, now_us),
            _ => {}
        }
    }
}

impl Gather {
    fn incoming<'a>(&'a self, body: &'a [u8], complete: bool) -> Incoming<'a> {
        Incoming {
            request_id: &self.head.request_id,
            endpoint: self.endpoint,
            session: self.head.session.as_deref(),
            tenant: self.head.tenant.as_deref(),
            priority: self.head.priority.as_deref(),
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
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close(self.core.now_us());
        self.core.tallies().stream_closed();
    }
}

/// The headers' answer while the choice is still open: a client may not steer itself.
fn unsteered(head: &Head) -> crate::wire::CommonAnswer {
    if head.names_destination {
        reply::without_destination()
    } else {
        reply::unchanged()
    }
}
