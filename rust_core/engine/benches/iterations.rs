//! Engine iterations a second on one core, as JSON: one object a line.
//!
//! A closed loop keeps a number of requests running: whoever finishes is replaced by the
//! next turn of one of many conversations, so that starting, reusing blocks, evicting and
//! finishing are in the figure and not decoding alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weighbridge_engine::{Engine, EngineProfile, RequestSpec, Step};

const TOKENS_PER_BLOCK: u32 = 32;

/// A closed loop of conversations.
struct Load {
    next: u64,
    conversations: u64,
    prompt: u32,
    output: u32,
}

impl Load {
    fn request(&mut self) -> RequestSpec {
        let id = self.next;
        self.next += 1;
        let conversation = id % self.conversations;
        let turn = u32::try_from(id / self.conversations % 8).unwrap_or(0);
        // Lengths spread by a half around their means.
        let spread = u32::try_from(id.wrapping_mul(0x9E37_79B9) % 101).unwrap_or(0);
        let prompt_tokens = self.prompt / 2 + self.prompt * spread / 100 + turn * self.output;
        let output_tokens = self.output / 2 + self.output * (100 - spread) / 100;
        let blocks = (prompt_tokens + output_tokens) / TOKENS_PER_BLOCK;
        RequestSpec {
            id,
            block_hashes: hashes(conversation, blocks),
            prompt_tokens,
            output_tokens,
            max_tokens: output_tokens,
            image_tiles: 0,
        }
    }
}

fn hashes(conversation: u64, blocks: u32) -> Arc<[u64]> {
    (0..u64::from(blocks))
        .map(|block| (conversation << 32 | block).wrapping_mul(0xD6E8_FEB8_6659_FD93) | 1)
        .collect()
}

struct Case {
    name: &'static str,
    running: u32,
    prompt: u32,
    output: u32,
    many: bool,
}

fn run(case: &Case) -> Result<(), Box<dyn std::error::Error>> {
    let profile = EngineProfile {
        max_batch_size: case.running,
        ..EngineProfile::default()
    };
    let mut engine = Engine::new(profile, 1)?;
    let mut load = Load {
        next: 0,
        conversations: 500,
        prompt: case.prompt,
        output: case.output,
    };
    let mut step = Step::default();
    let mut now = 0.0;
    for _ in 0..case.running {
        engine.submit(load.request(), now)?;
    }
    let (mut iterations, mut tokens, mut finished) = (0_u64, 0_u64, 0_u64);
    let mut measured_from = None;
    let begin = Instant::now();
    loop {
        let ran = if case.many {
            engine.step_many(now, now + 1e9, &mut step)
        } else {
            engine.step(now, &mut step)
        };
        if !ran {
            return Err("the engine ran dry".into());
        }
        now = step.ends_at_ms;
        iterations += step.iterations;
        tokens += step.tokens;
        for _ in &step.finished {
            finished += 1;
            engine.submit(load.request(), now)?;
        }
        if measured_from.is_none() && begin.elapsed() > Duration::from_millis(500) {
            measured_from = Some((Instant::now(), iterations, tokens, finished, now));
        }
        if begin.elapsed() > Duration::from_millis(2500) {
            break;
        }
    }
    let (since, iterations_0, tokens_0, finished_0, now_0) =
        measured_from.ok_or("no time was measured")?;
    let seconds = since.elapsed().as_secs_f64();
    let per_second = |count: u64| count as f64 / seconds;
    println!(
        "{{\"benchmark\":\"engine_iterations\",\"case\":\"{}\",\"running\":{},\"prompt_tokens\":{},\
         \"output_tokens\":{},\"fast_forward\":{},\"iterations_per_s\":{:.0},\"tokens_per_s\":{:.0},\
         \"requests_per_s\":{:.0},\"times_real_time\":{:.0}}}",
        case.name,
        case.running,
        case.prompt,
        case.output,
        case.many,
        per_second(iterations - iterations_0),
        per_second(tokens - tokens_0),
        per_second(finished - finished_0),
        (now - now_0) / 1000.0 / seconds,
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (name, prompt, output) in [("chat", 1000, 250), ("long", 8000, 350)] {
        for running in [8, 32, 128] {
            for many in [false, true] {
                run(&Case {
                    name,
                    running,
                    prompt,
                    output,
                    many,
                })?;
            }
        }
    }
    Ok(())
}
