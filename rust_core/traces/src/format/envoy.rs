//! Envoy's access log in JSON, one request a line.
//!
//! Of the fields that `weighbridge envoy render` logs, `time`, `method`, `path`, `status`, `bytes_in`
//! and `bytes_out` are used. Tokens follow from the bytes unless the log has `input_tokens` and
//! `output_tokens`; sessions and tenants are known where it has `session` and `tenant`. Requests that
//! are no inference, or were not answered with 200, are left out.

use std::io::BufRead;

use serde::Deserialize;

use crate::builder::TraceBuilder;
use crate::error::TraceError;
use crate::grow::{GrowingSessions, LengthRow};
use crate::load::Source;
use crate::timestamp::micros;

/// Bytes of a request's body for a token of its prompt.
const BYTES_PER_INPUT_TOKEN: u64 = 4;

/// Bytes of a server-sent event with one token.
const BYTES_PER_OUTPUT_TOKEN: u64 = 200;

#[derive(Deserialize)]
struct Line {
    #[serde(alias = "start_time", alias = "@timestamp")]
    time: String,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    path: Option<String>,
    #[serde(default, alias = "response_code")]
    status: Option<Count>,
    #[serde(default, alias = "bytes_received")]
    bytes_in: Option<Count>,
    #[serde(default, alias = "bytes_sent")]
    bytes_out: Option<Count>,
    #[serde(default, alias = "x-session-id", alias = "x_session_id")]
    session: Option<String>,
    #[serde(default, alias = "x-tenant-id", alias = "x_tenant_id")]
    tenant: Option<String>,
    #[serde(default, alias = "prompt_tokens")]
    input_tokens: Option<Count>,
    #[serde(default, alias = "completion_tokens")]
    output_tokens: Option<Count>,
}

/// Envoy writes numbers as numbers or as text, by its version and settings; "-" is none.
#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Number(u64),
    Text(String),
}

impl Count {
    fn value(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

struct Row {
    at: i64,
    session: Option<String>,
    tenant: String,
    input_tokens: u32,
    output_tokens: u32,
}

pub(crate) fn read<R: BufRead>(
    source: Source<R>,
    builder: &mut TraceBuilder,
) -> Result<(), TraceError> {
    let mut rows: Vec<Row> = Vec::new();
    source.each_line(|line: Line| {
        rows.extend(row(line)?);
        Ok(())
    })?;
    // Envoy logs a request when it ends.
    rows.sort_by_key(|row| row.at);
    let start = rows.first().map_or(0, |row| row.at);
    let mut sessions = GrowingSessions::new(builder);
    for row in &rows {
        sessions.add(&LengthRow {
            at_us: row.at.abs_diff(start),
            session: row.session.as_deref(),
            tenant: &row.tenant,
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            max_tokens: None,
        });
    }
    Ok(())
}

fn row(line: Line) -> Result<Option<Row>, String> {
    let at = micros(&line.time).ok_or_else(|| format!("time: '{}' is no date", line.time))?;
    let status = line.status.as_ref().and_then(Count::value);
    let is_post = line.method.as_deref().is_none_or(|method| method == "POST");
    let path = line.path.as_deref().unwrap_or("/v1/chat/completions");
    let infers = ["/completions", "/responses", "/messages"]
        .iter()
        .any(|end| path.split('?').next().unwrap_or_default().ends_with(end));
    if status.is_some_and(|status| status != 200) || !is_post || !infers {
        return Ok(None);
    }
    let tokens = |given: Option<&Count>, bytes: Option<&Count>, per_token: u64| {
        let given = given.and_then(Count::value);
        let guessed = || bytes.and_then(Count::value).map(|bytes| bytes / per_token);
        let tokens = given.or_else(guessed).unwrap_or(1).max(1);
        u32::try_from(tokens).unwrap_or(u32::MAX)
    };
    let named = |name: Option<String>| name.filter(|name| !name.is_empty() && name != "-");
    Ok(Some(Row {
        at,
        input_tokens: tokens(
            line.input_tokens.as_ref(),
            line.bytes_in.as_ref(),
            BYTES_PER_INPUT_TOKEN,
        ),
        output_tokens: tokens(
            line.output_tokens.as_ref(),
            line.bytes_out.as_ref(),
            BYTES_PER_OUTPUT_TOKEN,
        ),
        session: named(line.session),
        tenant: named(line.tenant).unwrap_or_default(),
    }))
}
