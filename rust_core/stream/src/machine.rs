//! The states of one request's stream and the moves between them.

use crate::gather::{Gather, Held, Pieces};
use crate::head::{self, Head};
use crate::observe::Observation;
use crate::placed::Placed;
use crate::reply::{self, Repeats};
use crate::wire::{
    BodySendMode, HttpBody, HttpHeaders, Metadata, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration, Request, Response, TrailersAnswer,
};
use std::sync::Arc;
use std::task::{Context, Poll};
use weighbridge_decide::{Begun, Core, Refusal, Share, Ticket, TraceParent, Turned, Unweighed};

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
    /// Weighed, and waiting for admission.
    Waits(Box<Held>),
    /// The filter sends copies and waits for nothing: a reply is observed.
    Observe(Box<Observation>),
    /// Decided and charged until the stream ends.
    Placed(Box<Placed>),
    /// Refused, once the client has sent all: many read no answer before.
    Draining(Box<ProcessingResponse>, usize),
    /// An immediate response was sent: Envoy reads no more.
    Refused,
}

/// Most that is taken of a body whose request is refused, bytes; then the refusal waits no longer.
const MOST_DRAINED: usize = 64 << 20;

/// More time than the longest wait, ms: for the answer's way.
const MARGIN_MS: u64 = 1_000;

/// Longest that a large body may wait to be read, ms.
pub const LONGEST_HEAVY_WAIT_MS: u64 = 5_000;

/// Bodies from here on are read beside the serving threads, bytes: reading takes longer than handing
/// over. Compressed ones always are.
const HEAVY_BYTES: usize = 256 << 10;

/// One ext_proc stream: one HTTP request from its headers to its end.
pub struct Stream {
    core: Arc<Core>,
    limits: Limits,
    config: ProtocolConfiguration,
    /// The gateway's span of its call to us.
    parent: Option<TraceParent>,
    state: State,
    /// What the body takes of the memory for bodies.
    share: Share,
    /// Bytes of the request's body have been given back to Envoy, which sent them on.
    echoed: bool,
    /// The response has begun.
    responded: bool,
}

impl Stream {
    /// A stream that has seen nothing yet.
    #[must_use]
    pub fn new(core: Arc<Core>, limits: Limits) -> Self {
        core.tallies().stream_opened();
        Self {
            share: core.memory().share(),
            core,
            limits,
            config: ProtocolConfiguration::default(),
            parent: None,
            state: State::Start,
            echoed: false,
            responded: false,
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
            Some(Request::RequestTrailers(_)) => self.on_request_trailers(now_us, &mut replies),
            Some(Request::ResponseHeaders(headers)) => {
                let metadata = message.metadata_context.as_ref();
                let served = head::served(metadata, &message.attributes);
                self.on_response_headers(&headers, served, now_us);
                replies.push(Response::ResponseHeaders(reply::unchanged()).into());
            }
            Some(Request::ResponseBody(body)) => {
                if let State::Placed(placed) = &mut self.state {
                    placed.reply(&body.body, now_us);
                }
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
        self.share.clear();
        (self.echoed, self.responded) = (false, false);
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
            body: Pieces::default(),
            unanswered: 0,
            headers_answered: false,
            ended: false,
            trailers: false,
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
                self.decide(gather, false, now_us, replies);
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
                    self.repeats(&endpoints, seeks),
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

    fn repeats(&self, endpoints: &str, seeks: bool) -> Repeats {
        if seeks {
            Repeats::Seeking
        } else {
            Repeats::of(endpoints, self.core.fallback_count())
        }
    }

    fn is_duplex(&self) -> bool {
        self.config.request_body_mode() == BodySendMode::FullDuplexStreamed
    }

    fn on_request_body(
        &mut self,
        message: HttpBody,
        now_us: u64,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        let duplex = self.is_duplex();
        let has_room = self.share.add(message.body.len());
        match &mut self.state {
            State::Gather(gather) => {
                gather.unanswered += 1;
                gather.ended = message.end_of_stream;
                gather.body.push(message.body);
                if !has_room {
                    self.give_up(now_us, replies);
                } else if self.has_enough() {
                    self.complete_body(now_us, replies);
                }
            }
            // What is left of a long body: Envoy is given it back with the rest.
            State::Waits(held) => {
                held.gather.unanswered += 1;
                held.gather.ended = message.end_of_stream;
                if !duplex {
                    self.share.clear();
                    return;
                }
                held.gather.body.push(message.body);
                if !has_room {
                    self.give_up(now_us, replies);
                }
            }
            State::Draining(_, left) => {
                self.share.clear();
                let ended = message.end_of_stream || *left < message.body.len();
                *left = left.saturating_sub(message.body.len());
                if ended {
                    self.refuse_drained(replies);
                }
            }
            _ => {
                self.share.clear();
                if duplex {
                    self.echoed |= !message.body.is_empty();
                    let end = message.end_of_stream;
                    reply::echo(message.body, end, Response::RequestBody, replies);
                } else {
                    replies.push(Response::RequestBody(reply::unchanged()).into());
                }
            }
        }
    }

    fn on_request_trailers(&mut self, now_us: u64, replies: &mut Vec<ProcessingResponse>) {
        let duplex = self.is_duplex();
        match &mut self.state {
            State::Gather(gather) => {
                gather.trailers = true;
                let replaced = gather.is_replaced(duplex);
                self.complete_body(now_us, replies);
                if replaced || matches!(self.state, State::Waits(_)) {
                    return;
                }
            }
            State::Waits(held) => {
                held.gather.trailers = true;
                return;
            }
            State::Draining(..) => return self.refuse_drained(replies),
            // Envoy's router may have kept the body for retries, and would send it on once more.
            State::Pass | State::Placed(_) if duplex && self.echoed && !self.responded => {
                let refusal = Refusal::trailers_after_long_body();
                self.close(now_us);
                if self.refuse(&refusal, replies) {
                    return;
                }
            }
            _ => {}
        }
        self.push_unless_refused(Response::RequestTrailers(TrailersAnswer {}).into(), replies);
    }

    /// Whether the body gathered is all that will be looked at.
    fn has_enough(&self) -> bool {
        let State::Gather(gather) = &self.state else {
            return false;
        };
        let held = gather.body.len();
        gather.ended
            || match self.config.request_body_mode() {
                BodySendMode::FullDuplexStreamed => held >= self.limits.duplex_bytes,
                BodySendMode::Streamed => {
                    let whole = gather.head.content_length;
                    held >= self.limits.streamed_bytes
                        // Of trailers Envoy does not tell while an answer to the body is due.
                        || whole.is_some_and(|whole| held as u64 >= whole)
                }
                // One message carries all that Envoy will send us.
                _ => true,
            }
    }

    /// Whether this message has so much to be read that others should not wait for it.
    #[must_use]
    pub fn is_heavy(&self, message: &ProcessingRequest) -> bool {
        match &message.request {
            Some(Request::RequestBody(body)) => {
                let decides = !self.is_duplex() || body.end_of_stream || {
                    let held = self.share.bytes() + body.body.len();
                    held >= self.limits.duplex_bytes
                };
                decides && self.is_heavy_at(body.body.len())
            }
            Some(Request::RequestTrailers(_)) => self.is_heavy_at(0),
            _ => false,
        }
    }

    /// The same of a message of `bytes` that is not decoded yet.
    #[must_use]
    pub fn is_heavy_at(&self, bytes: usize) -> bool {
        let State::Gather(gather) = &self.state else {
            return false;
        };
        let bytes = gather.body.len() + bytes;
        let coding = gather.head.content_encoding.as_deref();
        let is_coded = coding.is_some_and(|coding| !coding.eq_ignore_ascii_case("identity"));
        bytes > HEAVY_BYTES || (bytes > 0 && is_coded)
    }

    /// Asks Envoy for the time that a large body may take until its answer; in full duplex it sets
    /// none.
    #[must_use]
    pub fn more_time(&self) -> Option<ProcessingResponse> {
        let waits = self.core.longest_wait_ms();
        let ms = waits + LONGEST_HEAVY_WAIT_MS + MARGIN_MS;
        (!self.is_duplex()).then(|| reply::more_time(ms))
    }

    /// Refuses a request whose body cannot be taken. No reply where that cannot be: before the
    /// request's headers, after its response has begun, or where everything is only observed.
    pub fn refuse_body(&mut self, refusal: &Refusal, now_us: u64) -> Vec<ProcessingResponse> {
        let mut replies = Vec::new();
        if matches!(self.state, State::Draining(..)) {
            self.refuse_drained(&mut replies);
            return replies;
        }
        let refusable = matches!(
            self.state,
            State::Gather(_) | State::Waits(_) | State::Pass | State::Placed(_)
        );
        if refusable && !self.responded && !self.core.observes_only() {
            self.close(now_us);
            self.refuse(refusal, &mut replies);
        }
        replies
    }

    /// There is no room for more of this body.
    fn give_up(&mut self, now_us: u64, replies: &mut Vec<ProcessingResponse>) {
        let mut gather = match std::mem::replace(&mut self.state, State::Pass) {
            State::Gather(gather) => *gather,
            State::Waits(held) => held.gather,
            state => {
                self.state = state;
                return;
            }
        };
        let refusal = Refusal::bodies_in_the_way();
        let traced = gather.head.traced(gather.endpoint);
        self.core.trace_refusal(&traced, &refusal, now_us, 0);
        self.refuse_or_pass(&refusal, &mut gather, replies);
    }

    /// Decides with the body gathered so far.
    fn complete_body(&mut self, now_us: u64, replies: &mut Vec<ProcessingResponse>) {
        match std::mem::replace(&mut self.state, State::Pass) {
            State::Gather(gather) => {
                // Trailers end a body too, and only then is nothing missing from it.
                let held = gather.body.len();
                let cut = !gather.ended
                    && gather
                        .head
                        .content_length
                        .is_none_or(|length| length > held as u64)
                    && self.is_partial(held);
                self.decide(*gather, !cut, now_us, replies);
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
        mut gather: Gather,
        complete: bool,
        now_us: u64,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        let body = gather.body.take();
        let before = self.core.elapsed();
        let begun = self.core.begin(&gather.incoming(&body, complete), now_us);
        let took = self.core.elapsed().saturating_sub(before);
        self.core.tallies().decisions.observe(took);
        // Envoy has a body of its own unless it is given every byte back.
        if self.is_duplex() {
            gather.body.push(body);
        } else {
            self.share.clear();
        }
        match begun {
            Ok(Begun::Placed(ticket)) => self.answer_choice(&mut gather, ticket, replies),
            Ok(Begun::Waits(waiting)) => {
                let ms = self.core.longest_wait_ms() + MARGIN_MS;
                replies.push(reply::more_time(ms));
                self.state = State::Waits(Box::new(Held {
                    gather,
                    complete,
                    waiting,
                }));
            }
            Err(refusal) => self.refuse_or_pass(&refusal, &mut gather, replies),
        }
    }

    /// Whether [`Stream::poll_resume`] may have replies without a message that they answer: the request
    /// waits for admission, or may yet be cut. Hand over messages that come meanwhile as always.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        match &self.state {
            State::Waits(_) => true,
            State::Placed(placed) => !self.responded && placed.ticket.may_be_cut(),
            _ => false,
        }
    }

    /// The replies of a request that has been admitted, refused or cut; wakes `context` when that
    /// happens. There are none where nothing waits.
    pub fn poll_resume(
        &mut self,
        context: &mut Context<'_>,
        now_us: u64,
    ) -> Poll<Vec<ProcessingResponse>> {
        match &mut self.state {
            State::Waits(held) => {
                let Poll::Ready(answer) = held.waiting.poll(context) else {
                    return Poll::Pending;
                };
                match std::mem::replace(&mut self.state, State::Pass) {
                    State::Waits(held) => Poll::Ready(self.resume(*held, answer, now_us)),
                    _ => Poll::Ready(Vec::new()),
                }
            }
            State::Placed(placed) if !self.responded => {
                let Poll::Ready(()) = placed.ticket.poll_cut(context) else {
                    return Poll::Pending;
                };
                Poll::Ready(self.cut(now_us))
            }
            _ => Poll::Ready(Vec::new()),
        }
    }

    /// Ends a request before its answer begins.
    fn cut(&mut self, now_us: u64) -> Vec<ProcessingResponse> {
        let mut replies = Vec::new();
        if let State::Placed(placed) = std::mem::replace(&mut self.state, State::Pass) {
            let refusal = placed.cut(&self.core, now_us);
            self.refuse(&refusal, &mut replies);
        }
        replies
    }

    fn resume(&mut self, held: Held, answer: Turned, now_us: u64) -> Vec<ProcessingResponse> {
        let mut replies = Vec::new();
        let Held {
            mut gather,
            complete,
            waiting,
        } = held;
        let trailers = gather.trailers && !gather.is_replaced(self.is_duplex());
        let incoming = gather.incoming(&[], complete);
        match self.core.resume(waiting, answer, &incoming, now_us) {
            Ok(ticket) => self.answer_choice(&mut gather, ticket, &mut replies),
            Err(refusal) => self.refuse_or_pass(&refusal, &mut gather, &mut replies),
        }
        if trailers {
            let answer = Response::RequestTrailers(TrailersAnswer {}).into();
            self.push_unless_refused(answer, &mut replies);
        }
        replies
    }

    fn answer_choice(
        &mut self,
        gather: &mut Gather,
        ticket: Ticket,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        if ticket.is_steered() {
            let make = if gather.headers_answered {
                Response::RequestBody
            } else {
                Response::RequestHeaders
            };
            let endpoints = ticket.endpoints();
            let repeats = self.repeats(endpoints, ticket.seeks());
            let choice = reply::choice(endpoints, repeats, ticket.join(), make);
            self.answer_all(choice, gather, replies);
        } else {
            self.answer_unsteered(gather, replies);
        }
        let sees_reply = self.config.response_body_mode() != BodySendMode::None;
        self.state = State::Placed(Box::new(Placed::new(&self.core, ticket, sees_reply)));
    }

    /// Lets a request go on as if the sidecar were not there.
    fn answer_unsteered(&mut self, gather: &mut Gather, replies: &mut Vec<ProcessingResponse>) {
        let answer = if gather.headers_answered {
            Response::RequestBody(reply::unchanged())
        } else {
            Response::RequestHeaders(unsteered(&gather.head))
        };
        self.answer_all(answer.into(), gather, replies);
    }

    /// Answers what has waited: the headers, or one body message, with `first`; then the rest.
    fn answer_all(
        &mut self,
        first: ProcessingResponse,
        gather: &mut Gather,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        let body = gather.body.take();
        self.share.clear();
        let duplex = self.is_duplex();
        if gather.is_replaced(duplex) {
            replies.push(reply::with_body(first, body));
            return;
        }
        replies.push(first);
        if duplex {
            if gather.unanswered > 0 {
                self.echoed = !body.is_empty();
                reply::echo(body, gather.ended, Response::RequestBody, replies);
            }
        } else {
            let answered = usize::from(gather.headers_answered);
            let rest = gather.unanswered.saturating_sub(answered);
            let answer = || Response::RequestBody(reply::unchanged()).into();
            replies.extend(std::iter::repeat_with(answer).take(rest));
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

    fn on_response_headers(&mut self, headers: &HttpHeaders, served: Option<&str>, now_us: u64) {
        self.responded = true;
        if let State::Placed(placed) = &mut self.state {
            placed.answered(&self.core, headers, served, now_us);
        }
    }

    /// Refuses the request, unless everything is only observed: then it is to go on.
    fn refuse(&mut self, refusal: &Refusal, replies: &mut Vec<ProcessingResponse>) -> bool {
        self.core.count_refusal(refusal);
        if self.core.observes_only() {
            return false;
        }
        self.share.clear();
        replies.push(reply::refuse(refusal));
        self.state = State::Refused;
        true
    }

    fn refuse_or_pass(
        &mut self,
        refusal: &Refusal,
        gather: &mut Gather,
        replies: &mut Vec<ProcessingResponse>,
    ) {
        let before = replies.len();
        if !self.refuse(refusal, replies) {
            self.answer_unsteered(gather, replies);
            self.state = State::Pass;
        } else if self.is_duplex() && !gather.ended && !gather.trailers {
            // Envoy sends on the body meanwhile, and none of it is kept.
            if let Some(refusal) = replies.drain(before..).next() {
                self.state = State::Draining(Box::new(refusal), MOST_DRAINED);
            }
        }
    }

    fn refuse_drained(&mut self, replies: &mut Vec<ProcessingResponse>) {
        if let State::Draining(refusal, _) = std::mem::replace(&mut self.state, State::Refused) {
            replies.push(*refusal);
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
            State::Placed(placed) => placed.end(&self.core, now_us),
            State::Observe(mut observation) => observation.close(&self.core, now_us),
            _ => {}
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
