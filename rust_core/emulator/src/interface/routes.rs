//! What a replica answers on each route.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::HeaderValue;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::json;

use crate::interface::embeddings;
use crate::interface::generate::{Interface, Rules, Ticket, generate};
use crate::interface::hints;
use crate::interface::respond::{self, Answer, prometheus};
use crate::interface::responses;
use crate::interface::responses_stream::ResponsesStream;
use crate::interface::stream::EventStream;
use crate::replica::progress::End;
use crate::replica::records::{iteration_json, request_json};
use crate::replica::state::{Books, Replica};

/// The header that asks for an output length.
const ASKED_TOKENS: &str = "x-emulate-output-tokens";
/// The same in the text of the last message, where a router does not pass the header on.
const ASKED_IN_TEXT: &[u8] = b"x-emulate-output-tokens: ";
/// How near the end of the body that must be, bytes.
const ASKED_WITHIN: usize = 1 << 16;
/// The header that says who served.
const SERVED_BY: &str = "x-served-by";
/// Between the two readings of the clock, as long as trtllm-serve takes.
const CLOCK_WAIT: Duration = Duration::from_millis(200);
/// The version that is emulated.
const VERSION: &str = "1.2.1";

/// What the routes of all replicas share.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) rules: Rules,
    pub(crate) max_body_bytes: usize,
    pub(crate) metrics_wait: Duration,
}

/// Answers one request to a replica.
pub(crate) async fn answer(
    replica: Arc<Replica>,
    settings: Arc<Settings>,
    request: Request<Incoming>,
) -> Answer {
    replica.health.pass().await;
    let mut answer = route(&replica, &settings, request).await;
    if answer.status().is_client_error() || answer.status().is_server_error() {
        replica.count_refused();
    }
    if let Ok(served_by) = HeaderValue::from_str(&replica.address.to_string()) {
        answer.headers_mut().insert(SERVED_BY, served_by);
    }
    answer
}

async fn route(replica: &Arc<Replica>, settings: &Settings, request: Request<Incoming>) -> Answer {
    let condition = replica.health.now();
    if !condition.ready || condition.unhealthy {
        return respond::text(
            StatusCode::SERVICE_UNAVAILABLE,
            "LLM is unavailable. Please check the server logs for more details.",
        );
    }
    let (head, body) = request.into_parts();
    let get = head.method == Method::GET;
    let post = head.method == Method::POST;
    let delete = head.method == Method::DELETE;
    let path = head.uri.path();
    let answer_id = path.strip_prefix("/v1/responses/");
    let allowed = match path {
        "/health"
        | "/version"
        | "/v1/models"
        | "/metrics"
        | "/prometheus/metrics"
        | "/perf_metrics"
        | "/server_info"
        | "/health_generate" => get,
        "/v1/chat/completions"
        | "/v1/completions"
        | "/v1/responses"
        | "/v1/embeddings"
        | "/v1/kv_cache_hints"
        | "/kv_cache_events"
        | "/release_memory"
        | "/resume_memory"
        | "/update_weights" => post,
        "/steady_clock_offset" => get || post,
        _ if answer_id.is_some() => get || delete,
        _ => {
            return respond::json_answer(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"}));
        }
    };
    if !allowed {
        return respond::json_answer(
            StatusCode::METHOD_NOT_ALLOWED,
            &json!({"detail": "Method Not Allowed"}),
        );
    }
    if let Some(id) = answer_id {
        return kept_answer(replica, id, delete);
    }
    match path {
        "/health" => respond::empty(StatusCode::OK),
        "/version" => respond::json_answer(StatusCode::OK, &json!({"version": VERSION})),
        "/v1/models" => models(replica),
        "/metrics" => metrics(replica, settings).await,
        "/prometheus/metrics" => respond::text(StatusCode::OK, prometheus::render(replica)),
        "/perf_metrics" => perf_metrics(replica),
        "/kv_cache_events" => kv_cache_events(replica, settings).await,
        "/server_info" => {
            respond::json_answer(StatusCode::OK, &json!({"disaggregated_params": {}}))
        }
        "/health_generate" => health_generate(replica, settings).await,
        "/v1/chat/completions" => {
            generation(replica, settings, Interface::Chat, &head.headers, body).await
        }
        "/v1/completions" => {
            generation(
                replica,
                settings,
                Interface::Completion,
                &head.headers,
                body,
            )
            .await
        }
        "/v1/embeddings" => embedded(replica, settings, body).await,
        "/v1/responses" => response(replica, settings, &head.headers, body).await,
        "/v1/kv_cache_hints" => hint(replica, settings, body).await,
        "/steady_clock_offset" if get => steady_clock(replica).await,
        "/steady_clock_offset" => set_clock_offset(replica, body).await,
        _ => {
            replica.count_control_request();
            respond::empty(StatusCode::OK)
        }
    }
}

async fn generation(
    replica: &Arc<Replica>,
    settings: &Settings,
    interface: Interface,
    headers: &HeaderMap,
    body: Incoming,
) -> Answer {
    let body = match ready_body(replica, settings, body).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let asked = asked(headers, &body);
    match generate(replica, &settings.rules, interface, &body, asked) {
        Ok(ticket) if ticket.stream => respond::events(EventStream::new(ticket, now())),
        Ok(ticket) => whole(&ticket).await,
        Err(refusal) => respond::refusal(&refusal),
    }
}

async fn response(
    replica: &Arc<Replica>,
    settings: &Settings,
    headers: &HeaderMap,
    body: Incoming,
) -> Answer {
    let body = match ready_body(replica, settings, body).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let asked = asked(headers, &body);
    match responses::begin(replica, &settings.rules, &body, asked, now()) {
        Ok(pending) if pending.ticket.stream => respond::events(ResponsesStream::new(pending)),
        Ok(mut pending) => match finished(&pending.ticket).await {
            Ok(()) => respond::json_answer(StatusCode::OK, &pending.complete()),
            Err(answer) => answer,
        },
        Err(refusal) => respond::refusal(&refusal),
    }
}

async fn embedded(replica: &Arc<Replica>, settings: &Settings, body: Incoming) -> Answer {
    let body = match ready_body(replica, settings, body).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    match embeddings::begin(replica, &settings.rules, &body) {
        Ok(pending) => match finished(&pending.ticket).await {
            Ok(()) => respond::json_answer(StatusCode::OK, &pending.complete()),
            Err(answer) => answer,
        },
        Err(refusal) => respond::refusal(&refusal),
    }
}

fn kept_answer(replica: &Replica, id: &str, delete: bool) -> Answer {
    let found = if delete {
        responses::delete(replica, id)
    } else {
        responses::kept(replica, id)
    };
    match found {
        Ok(answer) => respond::json_answer(StatusCode::OK, &answer),
        Err(refusal) => respond::refusal(&refusal),
    }
}

async fn hint(replica: &Arc<Replica>, settings: &Settings, body: Incoming) -> Answer {
    let body = match ready_body(replica, settings, body).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    match hints::obey(replica, &settings.rules, &body) {
        Ok(()) => respond::empty(StatusCode::OK),
        Err(refusal) => respond::refusal(&refusal),
    }
}

/// The engine's clock twice, a moment apart, for whoever wants to know how far its own is from it.
async fn steady_clock(replica: &Replica) -> Answer {
    let received = replica.driver.now_s();
    tokio::time::sleep(CLOCK_WAIT).await;
    respond::json_answer(
        StatusCode::OK,
        &json!({"receive_ts": received, "transmit_ts": replica.driver.now_s()}),
    )
}

async fn set_clock_offset(replica: &Replica, body: Incoming) -> Answer {
    let body = small_body(body).await.unwrap_or_default();
    match hints::offset(&body) {
        Ok(seconds) => {
            replica.set_clock_offset(seconds);
            respond::empty(StatusCode::OK)
        }
        Err(refusal) => respond::refusal(&refusal),
    }
}

/// The output length that a test or benchmark asks for, in a header or in the last message.
fn asked(headers: &HeaderMap, body: &[u8]) -> Option<u32> {
    if let Some(value) = headers.get(ASKED_TOKENS) {
        return value.to_str().ok()?.trim().parse().ok();
    }
    let end = body.get(body.len().saturating_sub(ASKED_WITHIN)..)?;
    let at = memchr::memmem::rfind(end, ASKED_IN_TEXT)?;
    let rest = end.get(at + ASKED_IN_TEXT.len()..)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()
}

/// The whole body, unless it is too large or a fault refuses the request.
async fn ready_body(
    replica: &Replica,
    settings: &Settings,
    body: Incoming,
) -> Result<Bytes, Answer> {
    let body = match Limited::new(body, settings.max_body_bytes).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let status = if error.is::<LengthLimitError>() {
                StatusCode::PAYLOAD_TOO_LARGE
            } else {
                StatusCode::BAD_REQUEST
            };
            return Err(respond::error(
                status,
                "BadRequestError",
                &error.to_string(),
            ));
        }
    };
    if let Some(status) = replica.health.refusal() {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return Err(respond::error(
            status,
            "InternalServerError",
            "injected fault",
        ));
    }
    Ok(body)
}

/// Waits for all choices and answers with them together.
async fn whole(ticket: &Ticket) -> Answer {
    match finished(ticket).await {
        Ok(()) => respond::json_answer(StatusCode::OK, &respond::complete(ticket, now())),
        Err(answer) => answer,
    }
}

/// Waits for all choices; an error where the engine gave one up.
async fn finished(ticket: &Ticket) -> Result<(), Answer> {
    for choice in &ticket.choices {
        if choice.progress.ended().await.end == Some(End::Failed) {
            return Err(respond::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "InternalServerError",
                "the engine gave the request up",
            ));
        }
    }
    Ok(())
}

fn models(replica: &Replica) -> Answer {
    respond::json_answer(
        StatusCode::OK,
        &json!({
            "object": "list",
            "data": [{
                "id": replica.model,
                "object": "model",
                "created": now(),
                "owned_by": "tensorrt_llm",
            }],
        }),
    )
}

async fn metrics(replica: &Replica, settings: &Settings) -> Answer {
    let records = first_of(replica, settings, |books| books.iterations.drain()).await;
    let records: Vec<_> = records
        .iter()
        .map(|record| iteration_json(record, &replica.profile))
        .collect();
    respond::json_answer(StatusCode::OK, &records)
}

async fn kv_cache_events(replica: &Replica, settings: &Settings) -> Answer {
    let events = first_of(replica, settings, |books| books.events.drain()).await;
    respond::json_answer(StatusCode::OK, &events)
}

fn perf_metrics(replica: &Replica) -> Answer {
    let records = replica.books().requests.drain();
    let offset = replica.clock_offset();
    let records: Vec<_> = records
        .iter()
        .map(|record| request_json(record, offset))
        .collect();
    respond::json_answer(StatusCode::OK, &records)
}

/// Drains what there is, waiting a while for something if there is nothing.
async fn first_of<T>(
    replica: &Replica,
    settings: &Settings,
    drain: impl Fn(&mut Books) -> Vec<T>,
) -> Vec<T> {
    let deadline = tokio::time::Instant::now() + settings.metrics_wait;
    loop {
        let news = replica.news.notified();
        let items = drain(&mut replica.books());
        if !items.is_empty() || tokio::time::timeout_at(deadline, news).await.is_err() {
            return items;
        }
    }
}

async fn health_generate(replica: &Arc<Replica>, settings: &Settings) -> Answer {
    let body = json!({
        "model": replica.model,
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 1,
    })
    .to_string();
    let failed = || {
        respond::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Generation health check failed",
        )
    };
    match generate(
        replica,
        &settings.rules,
        Interface::Chat,
        body.as_bytes(),
        None,
    ) {
        Ok(ticket) if whole(&ticket).await.status() == StatusCode::OK => {
            respond::text(StatusCode::OK, "Generation health check OK")
        }
        _ => failed(),
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// The bytes of a body; used by the control port.
pub(crate) async fn small_body(body: Incoming) -> Option<Bytes> {
    let body = Limited::new(body, 1 << 16).collect().await.ok()?;
    Some(body.to_bytes())
}
