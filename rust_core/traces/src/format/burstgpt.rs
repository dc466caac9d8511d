//! `BurstGPT`: lengths and times; sessions where the file names them.
//!
//! Rows whose answer has no tokens failed when they were recorded, and are left out.

use std::io::BufRead;

use super::table::Table;
use crate::builder::TraceBuilder;
use crate::error::TraceError;
use crate::grow::{GrowingSessions, LengthRow};
use crate::load::Source;

struct Row {
    at_us: u64,
    session: Option<String>,
    input_tokens: u32,
    output_tokens: u32,
}

pub(crate) fn read<R: BufRead>(
    source: Source<R>,
    builder: &mut TraceBuilder,
) -> Result<(), TraceError> {
    let mut table = Table::new(source)?;
    let (time, input, output) = (
        table.column("Timestamp")?,
        table.column("Request tokens")?,
        table.column("Response tokens")?,
    );
    let session = table.find("Session ID");
    let mut rows = Vec::new();
    while table.advance()? {
        let row = Row {
            at_us: table.value(time, "seconds", seconds)?,
            session: session
                .map(|column| table.cell(column).to_owned())
                .filter(|name| !name.is_empty()),
            input_tokens: table.tokens(input)?,
            output_tokens: table.tokens(output)?,
        };
        if row.output_tokens > 0 {
            rows.push(row);
        }
    }
    rows.sort_by_key(|row| row.at_us);
    let mut sessions = GrowingSessions::new(builder);
    for row in &rows {
        sessions.add(&LengthRow {
            at_us: row.at_us,
            session: row.session.as_deref(),
            tenant: "",
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            max_tokens: None,
        });
    }
    Ok(())
}

/// µs of a cell in seconds.
fn seconds(cell: &str) -> Option<u64> {
    let seconds: f64 = cell.parse().ok()?;
    let fits = (0.0..1e12).contains(&seconds);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fits.then_some((seconds * 1e6) as u64)
}
