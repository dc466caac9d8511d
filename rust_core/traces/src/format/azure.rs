//! Azure's public traces: lengths and times, no sessions.

use std::io::BufRead;

use super::table::Table;
use crate::builder::TraceBuilder;
use crate::error::TraceError;
use crate::grow::{GrowingSessions, LengthRow};
use crate::load::Source;
use crate::timestamp::micros;

pub(crate) fn read<R: BufRead>(
    source: Source<R>,
    builder: &mut TraceBuilder,
) -> Result<(), TraceError> {
    let mut table = Table::new(source)?;
    let (time, input, output) = (
        table.column("TIMESTAMP")?,
        table.column("ContextTokens")?,
        table.column("GeneratedTokens")?,
    );
    let mut rows = Vec::new();
    while table.advance()? {
        let at = table.value(time, "a date", micros)?;
        rows.push((at, table.tokens(input)?, table.tokens(output)?));
    }
    rows.sort_by_key(|row| row.0);
    let start = rows.first().map_or(0, |row| row.0);
    let mut sessions = GrowingSessions::new(builder);
    for (at, input_tokens, output_tokens) in rows {
        sessions.add(&LengthRow {
            at_us: at.abs_diff(start),
            session: None,
            tenant: "",
            input_tokens,
            output_tokens,
            max_tokens: None,
        });
    }
    Ok(())
}
