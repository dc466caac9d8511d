//! What a reply claims, held against what was seen of it.

use weighbridge_learn::usage::Reply;
use weighbridge_weigh::{Profile, Work};

/// Prompts are believed to be off their estimate by this factor at most, and by this many tokens.
const MOST_OFF: u64 = 4;
const MOST_OFF_TOKENS: u64 = 64;
/// Bytes of text that four times fewer tokens than were seen would have each is 32: more than any
/// text's.
const TOKEN_BYTES: u64 = 8;
/// Tokens of one answer that leave no trace in its text: the last one, and those of markup.
const UNSEEN: u64 = 16;
/// A sequence alone on an idle replica decodes up to so many times as fast as one of a full batch.
const ALONE: f64 = 4.0;

/// Tokens that one answer can have at most, where the client allows `max`.
pub(crate) fn longest_answer(profile: &Profile, max: Option<u64>) -> u64 {
    let longest = profile.longest_sequence();
    max.map_or(longest, |max| max.min(longest))
}

/// Tokens of one answer that are decoded with `decode_mu`, up to `most`.
pub(crate) fn tokens_for(profile: &Profile, work: &Work, decode_mu: f64, most: u64) -> u64 {
    let fits = |output_tokens: u64| {
        let work = Work {
            output_tokens,
            ..*work
        };
        profile.cost(&work).decode_mu <= decode_mu
    };
    if fits(most) {
        return most;
    }
    let (mut fit, mut beyond) = (0, most);
    while beyond - fit > 1 {
        let middle = fit + (beyond - fit) / 2;
        if fits(middle) {
            fit = middle;
        } else {
            beyond = middle;
        }
    }
    fit
}

/// MU that a sequence in a full batch decodes in `run_us`.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn decoded_mu(profile: &Profile, run_us: u64) -> f64 {
    let mu_per_ms = profile.capacity_mu_per_min / 60_000.0;
    run_us as f64 / 1000.0 * mu_per_ms / profile.reference_batch.max(1.0)
}

/// Tokens that one sequence among `sequences` decodes in `run_ms` by the hardware's own step times,
/// where the profile has them.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub(crate) fn tokens_in(
    profile: &Profile,
    sequences: f64,
    context: u64,
    run_ms: f64,
) -> Option<u64> {
    let latency = profile.latency.as_ref()?;
    let sequences = sequences.clamp(1.0, f64::from(profile.max_batch_size.max(1)));
    let touched = 1.0 - (1.0 - latency.decode_experts_per_seq.clamp(0.0, 1.0)).powf(sequences);
    let step_ms = latency.decode_base_ms
        + latency.decode_per_seq_ms * sequences
        + latency.decode_per_ktok_ctx_ms * sequences * context as f64 / 1000.0
        + latency.decode_experts_ms * touched;
    (step_ms > 0.0).then(|| (run_ms.max(0.0) / step_ms) as u64)
}

/// Output tokens of a reply, all choices together, and whether they are as it claims: at most what the
/// client allows, and what the text and the events that were seen, or else the time that it ran, can
/// bear; and no fewer than the text and the events must have. A claim beyond that is none.
pub(crate) fn output(
    profile: &Profile,
    expected: &Work,
    max_output: Option<u64>,
    reply: &Reply,
    run_us: u64,
) -> (u64, bool) {
    let choices = u64::from(expected.choices.max(1));
    let most = longest_answer(profile, max_output);
    let guess = Reply {
        usage: weighbridge_learn::usage::Usage::default(),
        ..*reply
    };
    let guess = guess.output_tokens().min(most.saturating_mul(choices));
    let Some(claim) = reply.usage.output_tokens else {
        return (guess, false);
    };
    let claim = claim.min(most.saturating_mul(choices));
    let seen = reply.text_bytes.saturating_add(reply.output_events);
    let seen = seen.saturating_add(UNSEEN.saturating_mul(choices));
    let most_for = claim.saturating_mul(MOST_OFF);
    if most_for.saturating_add(UNSEEN.saturating_mul(choices)) < surely(expected, reply) {
        return (guess, false);
    }
    let is_borne = claim <= seen || {
        let run_mu = ALONE * decoded_mu(profile, run_us);
        let one = Work {
            choices: 1,
            ..*expected
        };
        claim / choices <= tokens_for(profile, &one, run_mu, most)
    };
    if is_borne {
        (claim, true)
    } else {
        (guess, false)
    }
}

/// Tokens that were seen of a reply, even if each answer's text begins with the prompt's.
fn surely(expected: &Work, reply: &Reply) -> u64 {
    let prompts = expected.prompt_tokens * u64::from(expected.choices.max(1));
    let text = reply.text_bytes / TOKEN_BYTES;
    reply.output_events.max(text.saturating_sub(prompts))
}

/// The tokens that a reply claims its prompt had, where they can be: near the estimate, or where only
/// the body's beginning was seen, no more than a sequence can have.
pub(crate) fn prompt(profile: &Profile, estimate: u64, is_whole: bool, claim: u64) -> Option<u64> {
    let most = estimate
        .saturating_mul(MOST_OFF)
        .saturating_add(MOST_OFF_TOKENS);
    let is_borne = if is_whole {
        let most_for = claim
            .saturating_mul(MOST_OFF)
            .saturating_add(MOST_OFF_TOKENS);
        claim <= most && estimate <= most_for
    } else {
        claim <= most.max(profile.longest_sequence())
    };
    is_borne.then_some(claim)
}
