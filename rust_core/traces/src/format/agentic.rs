//! Sessions of coding agents: one a line, each with the requests of its agent and sub-agents.
//!
//! A request shares `common` blocks with the one before it; after a change between agent and
//! sub-agent, where that says nothing, it is taken to go on where its own agent was. Tools and
//! system prompt are shared by all sessions in which they have the same lengths. Sessions have no
//! starting time: they start as a Poisson process of the rate asked for. Each agent of a line is a
//! session of its own, named `id/sub`; all of a line belong to one tenant, named after it.

use std::collections::HashMap;
use std::io::BufRead;

use rand_distr::{Distribution, Exp};
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::blocks::{BlockRow, BlockSessions};
use crate::builder::TraceBuilder;
use crate::error::TraceError;
use crate::load::{LoadOptions, Source};
use crate::seed::{mix, rng};

#[derive(Deserialize)]
struct Line {
    id: String,
    block_size: u32,
    #[serde(default)]
    tool_tokens: u32,
    #[serde(default)]
    system_tokens: u32,
    requests: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    /// s from the session's start.
    t: f64,
    #[serde(default)]
    sub: u32,
    #[serde(rename = "in")]
    input: u32,
    out: u32,
    #[serde(default)]
    common: u32,
}

/// Longest prompt that is believed, tokens.
const MOST_TOKENS: u32 = 1 << 26;

pub(crate) fn read<R: BufRead>(
    source: Source<R>,
    builder: &mut TraceBuilder,
    options: &LoadOptions,
) -> Result<(), TraceError> {
    let gap = Exp::new(options.sessions_per_s).map_err(|_| {
        TraceError::Setting(format!(
            "sessions per second must be above 0, not {}",
            options.sessions_per_s
        ))
    })?;
    let mut chance = rng(options.seed, 0x6167_656e);
    let mut start_s = 0.0;
    let mut sessions: Option<(u32, BlockSessions<'_>)> = None;
    let mut builder = Some(builder);
    source.each_line(|line: Line| {
        if line.block_size == 0 {
            return Err("block_size: must be at least 1".to_owned());
        }
        if let Some(builder) = builder.take() {
            let empty = BlockSessions::new(builder, line.block_size);
            sessions = Some((line.block_size, empty));
        }
        let Some((block_size, sessions)) = sessions.as_mut() else {
            return Ok(());
        };
        if *block_size != line.block_size {
            return Err("block_size: must be the same in all lines".to_owned());
        }
        let tenant = sessions.builder().tenant(&line.id);
        let mut agents = Agents::new(&line);
        sessions.add_system(&agents.lead);
        let mut rows = agents.rows(&line, tenant, start_s)?;
        rows.sort_by_key(|row| row.at_us);
        rows.iter().for_each(|row| sessions.add(row));
        start_s += gap.sample(&mut chance);
        Ok(())
    })
}

/// What the agents of one line have said so far.
struct Agents {
    /// Blocks of tools and system prompt.
    lead: Vec<u64>,
    chains: HashMap<u32, Vec<u64>>,
    own: u64,
    fresh: u64,
}

impl Agents {
    fn new(line: &Line) -> Self {
        let tokens = line.tool_tokens.saturating_add(line.system_tokens);
        let identity = mix(u64::from(line.tool_tokens), u64::from(line.system_tokens));
        let blocks = tokens.min(MOST_TOKENS) / line.block_size;
        Self {
            lead: (0..blocks)
                .map(|block| mix(identity, u64::from(block)))
                .collect(),
            chains: HashMap::new(),
            own: xxh3_64(line.id.as_bytes()),
            fresh: 0,
        }
    }

    fn rows(&mut self, line: &Line, tenant: u32, start_s: f64) -> Result<Vec<BlockRow>, String> {
        let mut rows = Vec::with_capacity(line.requests.len());
        let mut before: Option<&Call> = None;
        // A sub-agent's clock may begin anew: then it goes on from the request before it.
        let (mut base_s, mut last_s) = (start_s, start_s);
        for (place, call) in line.requests.iter().enumerate() {
            if base_s + call.t < last_s {
                base_s = last_s - call.t;
            }
            let at_s = base_s + call.t;
            if !(0.0..1e12).contains(&at_s) || call.input > MOST_TOKENS {
                return Err(format!("requests[{place}]: t or in is out of range"));
            }
            last_s = at_s;
            let goes_on = before.is_some_and(|before| before.sub == call.sub);
            let blocks = self.blocks(call, goes_on, call.input.div_ceil(line.block_size));
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let at_us = (at_s * 1e6) as u64;
            rows.push(BlockRow {
                at_us,
                input_tokens: call.input,
                output_tokens: call.out,
                blocks,
                group: format!("{}/{}", line.id, call.sub),
                tenant,
            });
            before = Some(call);
        }
        Ok(rows)
    }

    fn blocks(&mut self, call: &Call, goes_on: bool, count: u32) -> Vec<u64> {
        let count = count as usize;
        let chain = self.chains.entry(call.sub).or_default();
        if goes_on {
            chain.truncate(call.common as usize);
        }
        // The last block is not complete: it is never shared.
        chain.truncate(count.saturating_sub(1));
        if chain.is_empty() && call.sub == 0 {
            let shared = count.saturating_sub(1).min(self.lead.len());
            chain.extend(self.lead.iter().take(shared));
        }
        while chain.len() < count {
            self.fresh += 1;
            chain.push(mix(self.own, self.fresh));
        }
        chain.clone()
    }
}
