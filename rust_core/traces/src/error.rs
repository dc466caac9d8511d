//! Why a trace cannot be used.

use std::io;
use std::path::PathBuf;

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Reading stopped in the middle.
    #[error("{name}: {source}")]
    Read {
        /// The trace.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A row is not what its format says.
    #[error("{name}:{line}: {reason}")]
    Row {
        /// The trace.
        name: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The format is none that is known.
    #[error("{0}: the format is none of: {known}", known = crate::Format::names().join(", "))]
    UnknownFormat(String),
    /// There is no request in it.
    #[error("{0}: holds no request")]
    Empty(String),
    /// A setting is out of its range.
    #[error("{0}")]
    Setting(String),
}
