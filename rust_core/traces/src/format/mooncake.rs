//! Mooncake's traces: one request a line, its prompt as ids of blocks of 512 tokens.

use std::io::BufRead;

use serde::Deserialize;

use crate::blocks::{BlockRow, BlockSessions};
use crate::builder::TraceBuilder;
use crate::error::TraceError;
use crate::load::Source;
use crate::seed::mix;

const BLOCK_TOKENS: u32 = 512;

/// Keeps these contents apart from those of other formats.
const CONTENT: u64 = 0x6d6f_6f6e;

#[derive(Deserialize)]
struct Line {
    /// ms from the trace's start.
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

pub(crate) fn read<R: BufRead>(
    source: Source<R>,
    builder: &mut TraceBuilder,
) -> Result<(), TraceError> {
    let tenant = builder.tenant("");
    let mut rows = Vec::new();
    source.each_line(|line: Line| {
        if !(0.0..1e15).contains(&line.timestamp) {
            return Err(format!("timestamp: {} is no time in ms", line.timestamp));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let at_us = (line.timestamp * 1000.0) as u64;
        rows.push(BlockRow {
            at_us,
            input_tokens: line.input_length,
            output_tokens: line.output_length,
            blocks: line.hash_ids.iter().map(|id| mix(CONTENT, *id)).collect(),
            group: String::new(),
            tenant,
        });
        Ok(())
    })?;
    rows.sort_by_key(|row| row.at_us);
    let mut sessions = BlockSessions::new(builder, BLOCK_TOKENS);
    sessions.find_systems(&rows);
    for row in &rows {
        sessions.add(row);
    }
    Ok(())
}
