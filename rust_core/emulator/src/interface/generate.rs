//! From a request's body to generations in the engine, and the ticket that cancels them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;
use weighbridge_engine::RequestSpec;

use crate::replica::commands::Command;
use crate::replica::commands::Job;
use crate::replica::progress::Progress;
use crate::replica::state::Replica;
use crate::text::openai::{ChatRequest, CompletionRequest, Generation, unknown_field};
use crate::text::render::{self, ImageTokens, Rendered};
use crate::text::reply::{Reply, mix, output_length};

/// The most choices that one request may ask for.
const MOST_CHOICES: u32 = 128;

/// What generations are made with, the same for all replicas.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) seed: u64,
    pub(crate) default_max_tokens: u32,
    pub(crate) output_median: f64,
    pub(crate) output_sigma: f64,
    pub(crate) image_tile_tokens: u32,
    pub(crate) check_model: bool,
    pub(crate) strict_fields: bool,
    pub(crate) max_open_requests: usize,
    /// Whether the engine's lane needs the tokens, for cache events.
    pub(crate) with_tokens: bool,
    pub(crate) ids: AtomicU64,
}

/// Which of the two interfaces was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interface {
    Chat,
    Completion,
}

/// Why a request is refused, in the words and shape of trtllm-serve.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The body is not of the interface's form.
    Form(String),
    /// The server's own checks.
    Check {
        status: StatusCode,
        kind: &'static str,
        message: String,
    },
}

impl Refusal {
    fn bad_request(message: String) -> Self {
        Self::Check {
            status: StatusCode::BAD_REQUEST,
            kind: "BadRequestError",
            message,
        }
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        Self::Form(error.to_string())
    }
}

/// One choice of an answer.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) reply: Reply,
    pub(crate) progress: Arc<Progress>,
    id: u64,
}

/// A request's generations; dropped before they end, it cancels them.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) replica: Arc<Replica>,
    pub(crate) interface: Interface,
    pub(crate) id: u64,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// Tokens of the prompts together.
    pub(crate) prompt_tokens: u64,
    pub(crate) choices: Vec<Choice>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        for choice in &self.choices {
            if choice.progress.view().end.is_none() {
                self.replica
                    .driver
                    .send(self.replica.index, Command::Cancel(choice.id));
            }
        }
    }
}

/// A body with all that is to be generated from it.
struct Order {
    generation: Generation,
    prompts: Vec<Rendered>,
}

/// Reads a body and hands its generations to the replica's engine. `asked` is the output
/// length that a test or benchmark asks for in a header.
pub(crate) fn generate(
    replica: &Arc<Replica>,
    rules: &Rules,
    interface: Interface,
    body: &[u8],
    asked: Option<u32>,
) -> Result<Ticket, Refusal> {
    let order = read(replica, rules, interface, body)?;
    check(replica, rules, &order)?;
    let generation = &order.generation;
    let mut jobs = Vec::new();
    let mut choices = Vec::new();
    let mut prompt_tokens = 0;
    for rendered in &order.prompts {
        prompt_tokens += u64::try_from(rendered.sequence.len()).unwrap_or(0);
        for choice in 0..generation.choices {
            let (choice, job) = plan(replica, rules, generation, rendered, choice, asked)?;
            choices.push(choice);
            jobs.push(job);
        }
    }
    let id = choices.first().map_or(0, |choice| choice.id);
    for job in jobs {
        let command = Command::Submit(Box::new(job));
        if !replica.driver.send(replica.index, command) {
            return Err(unavailable("the engine has stopped"));
        }
    }
    Ok(Ticket {
        replica: Arc::clone(replica),
        interface,
        id,
        stream: generation.stream,
        include_usage: generation.include_usage,
        prompt_tokens,
        choices,
    })
}

fn read(
    replica: &Replica,
    rules: &Rules,
    interface: Interface,
    body: &[u8],
) -> Result<Order, Refusal> {
    let block = replica.profile.tokens_per_block;
    if rules.strict_fields {
        let chat = interface == Interface::Chat;
        if let Some(field) = unknown_field(body, chat)? {
            return Err(Refusal::Form(format!(
                "{field}: Extra inputs are not permitted"
            )));
        }
    }
    match interface {
        Interface::Chat => {
            let request: ChatRequest<'_> = serde_json::from_slice(body)?;
            let images = ImageTokens {
                per_tile: rules.image_tile_tokens,
            };
            Ok(Order {
                prompts: vec![render::chat(&request, images, block)?],
                generation: request.generation(),
            })
        }
        Interface::Completion => {
            let request: CompletionRequest<'_> = serde_json::from_slice(body)?;
            let prompts = request.prompts()?;
            Ok(Order {
                prompts: prompts.iter().map(|p| render::prompt(p, block)).collect(),
                generation: request.generation(),
            })
        }
    }
}

fn check(replica: &Replica, rules: &Rules, order: &Order) -> Result<(), Refusal> {
    let generation = &order.generation;
    let model = generation.model.as_deref();
    if model.is_none() {
        return Err(Refusal::Form("model: Field required".to_owned()));
    }
    if rules.check_model && model != Some(replica.model.as_str()) {
        return Err(Refusal::Check {
            status: StatusCode::NOT_FOUND,
            kind: "NotFoundError",
            message: format!("The model `{}` does not exist.", model.unwrap_or_default()),
        });
    }
    if generation.stream_options && !generation.stream {
        return Err(Refusal::Form(
            "stream_options can only be set if stream is true".to_owned(),
        ));
    }
    if !(1..=MOST_CHOICES).contains(&generation.choices) {
        return Err(Refusal::bad_request(format!(
            "n must be between 1 and {MOST_CHOICES}"
        )));
    }
    if generation.max_tokens == Some(0) {
        return Err(Refusal::bad_request(
            "max_tokens must be at least 1".to_owned(),
        ));
    }
    let wanted = order
        .prompts
        .len()
        .saturating_mul(usize::try_from(generation.choices).unwrap_or(usize::MAX));
    let open = usize::try_from(replica.books().counters.open).unwrap_or(usize::MAX);
    if open.saturating_add(wanted) > rules.max_open_requests {
        return Err(unavailable("too many open requests"));
    }
    Ok(())
}

/// One generation: how long it will be and which tokens it will make.
fn plan(
    replica: &Replica,
    rules: &Rules,
    generation: &Generation,
    rendered: &Rendered,
    choice: u32,
    asked: Option<u32>,
) -> Result<(Choice, Job), Refusal> {
    let mut sequence = rendered.sequence.clone();
    let key = mix(sequence.digest(rules.seed).wrapping_add(u64::from(choice)));
    let max_tokens = match (generation.max_tokens, rules.default_max_tokens) {
        (Some(most), _) => most,
        (None, 0) => u32::MAX,
        (None, most) => most,
    };
    let natural = if generation.ignore_eos {
        u32::MAX
    } else {
        output_length(key, rules.output_median, rules.output_sigma)
    };
    let wanted = asked.unwrap_or(natural.max(generation.min_tokens)).max(1);
    let mut spec = RequestSpec {
        id: rules.ids.fetch_add(1, Ordering::Relaxed),
        block_hashes: Arc::from([]),
        prompt_tokens: u32::try_from(sequence.len()).unwrap_or(u32::MAX),
        output_tokens: wanted,
        max_tokens,
        image_tiles: rendered.image_tiles,
    };
    let accepted = replica
        .profile
        .accept(&spec)
        .map_err(|error| Refusal::bad_request(error.to_string()))?;
    let stops = wanted <= accepted.output_tokens && wanted < accepted.max_tokens;
    let reply = Reply::new(key, accepted.output_tokens, stops);
    reply.each_id(|id| sequence.push(id));
    spec.output_tokens = accepted.output_tokens;
    spec.max_tokens = accepted.max_tokens;
    spec.block_hashes = sequence.hashes();
    let progress = Arc::new(Progress::default());
    let id = spec.id;
    let job = Job {
        spec,
        tokens: rules.with_tokens.then(|| sequence.tokens()),
        stops,
        progress: Arc::clone(&progress),
    };
    let choice = Choice {
        reply,
        progress,
        id,
    };
    Ok((choice, job))
}

fn unavailable(message: &str) -> Refusal {
    Refusal::Check {
        status: StatusCode::SERVICE_UNAVAILABLE,
        kind: "ServiceUnavailableError",
        message: message.to_owned(),
    }
}
