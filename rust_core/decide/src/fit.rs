//! What a request claims, held against what its model can do before anything is made of it.

use crate::refusal::Refusal;
use crate::weighing::Weighing;
use weighbridge_weigh::{Endpoint, Reading};

/// Real text has this share of its estimated tokens at least: estimates of odd text may be far off.
const LEAST_SHARE: f64 = 0.25;
/// Bytes of real text for each of its tokens, at most.
const MOST_BYTES: u64 = 16;

/// Cuts the lengths that a request asks for to `longest` tokens, those of a whole sequence.
///
/// # Errors
/// A refusal where it wants more output than any sequence holds.
pub(crate) fn bound(reading: &mut Reading, longest: u64) -> Result<(), Refusal> {
    if reading.min_output_tokens >= longest {
        return Err(Refusal::too_long(
            longest,
            reading.min_output_tokens,
            "min_tokens",
        ));
    }
    reading.max_output_tokens = reading.max_output_tokens.map(|most| most.min(longest));
    Ok(())
}

/// Whether what was read fits sequences of `longest` tokens, as far as that is certain.
///
/// # Errors
/// A refusal where it certainly does not.
pub(crate) fn check(weighing: &Weighing, endpoint: Endpoint, longest: u64) -> Result<(), Refusal> {
    let reading = weighing.reading();
    let prompt = at_least(weighing);
    let all = longest.saturating_mul(u64::from(reading.prompts.max(1)));
    if prompt >= all {
        return Err(Refusal::too_long(longest, prompt, endpoint.prompt_key()));
    }
    let needed = prompt.saturating_add(reading.min_output_tokens);
    if reading.prompts.max(1) == 1 && needed > longest {
        return Err(Refusal::too_long(longest, needed, "min_tokens"));
    }
    Ok(())
}

/// Tokens that the prompt surely has: those that were counted or given, and of estimated text the
/// least that real text has.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn at_least(weighing: &Weighing) -> u64 {
    let reading = weighing.reading();
    let text = match &reading.exact {
        Some(exact) => [
            exact.system,
            exact.user,
            exact.assistant,
            exact.tool,
            exact.prompt,
        ]
        .iter()
        .fold(0, |sum: u64, tokens| sum.saturating_add(*tokens)),
        None => {
            let estimate = (weighing.tokens().text() * LEAST_SHARE) as u64;
            estimate.min(reading.text.total().bytes / MOST_BYTES)
        }
    };
    text.saturating_add(reading.explicit_tokens)
}
