//! Turns the parser's errors into errors fit for the client.

use serde_json::error::Category;

use crate::error::ReadError;

/// Longest reason given, in characters: the parser quotes the value it met, however long.
const MAX_REASON: usize = 160;

/// The client's error for a parser's error met while reading `param`.
pub(super) fn from_json(
    error: &serde_json::Error,
    entered: bool,
    param: &'static str,
) -> ReadError {
    let reason = reason(error);
    match error.classify() {
        Category::Data if !entered => ReadError::NotAnObject,
        Category::Data => ReadError::WrongType { param, reason },
        _ if reason.starts_with("recursion limit") => ReadError::TooDeep,
        _ => ReadError::InvalidJson {
            reason,
            line: error.line(),
            column: error.column(),
        },
    }
}

fn reason(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    if let Some(position) = text.rfind(" at line ") {
        text.truncate(position);
    }
    match text.char_indices().nth(MAX_REASON) {
        Some((at, _)) => {
            text.truncate(at);
            text.push('…');
            text
        }
        None => text,
    }
}
