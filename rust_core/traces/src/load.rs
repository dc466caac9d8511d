//! Loads a trace, whatever its format.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::builder::TraceBuilder;
use crate::error::TraceError;
use crate::format::{Format, agentic, azure, burstgpt, envoy, mooncake, own};
use crate::trace::Trace;

/// What a file does not say of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadOptions {
    /// Its format; `None`: told by its first line.
    pub format: Option<Format>,
    /// Sessions that start in a second, where a format has no starting times.
    pub sessions_per_s: f64,
    /// Of the starting times.
    pub seed: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            format: None,
            sessions_per_s: 0.1,
            seed: 0,
        }
    }
}

/// Longest line that is read, bytes.
const MOST_LINE: u64 = 64 << 20;

/// A trace being read.
pub(crate) struct Source<R> {
    pub(crate) name: String,
    pub(crate) reader: R,
}

impl<R: BufRead> Source<R> {
    /// Hands each line that is not blank to `take`, parsed.
    pub(crate) fn each_line<T: DeserializeOwned>(
        mut self,
        mut take: impl FnMut(T) -> Result<(), String>,
    ) -> Result<(), TraceError> {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = (&mut self.reader)
                .take(MOST_LINE)
                .read_until(b'\n', &mut line);
            if read.map_err(|source| self.broken(source))? == 0 {
                break;
            }
            let text = line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            serde_json::from_slice(text)
                .map_err(|error| error.to_string())
                .and_then(&mut take)
                .map_err(|reason| TraceError::Row {
                    name: self.name.clone(),
                    line: number,
                    reason,
                })?;
        }
        Ok(())
    }

    fn broken(&self, source: std::io::Error) -> TraceError {
        TraceError::Read {
            name: self.name.clone(),
            source,
        }
    }
}

/// Loads a trace from a file.
///
/// # Errors
/// The file cannot be read, or a row is not what its format says.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Trace, TraceError> {
    let file = File::open(path).map_err(|source| TraceError::Open {
        path: path.to_owned(),
        source,
    })?;
    let name = path.file_name().map(|name| name.to_string_lossy());
    let name = name.unwrap_or_default();
    read(BufReader::with_capacity(1 << 16, file), &name, options)
}

/// Reads a trace of that name.
///
/// # Errors
/// As [`load`].
pub fn read(
    mut reader: impl BufRead,
    name: &str,
    options: &LoadOptions,
) -> Result<Trace, TraceError> {
    let mut first = Vec::new();
    while first.trim_ascii().is_empty() {
        first.clear();
        let read = (&mut reader).take(MOST_LINE).read_until(b'\n', &mut first);
        let length = read.map_err(|source| TraceError::Read {
            name: name.to_owned(),
            source,
        })?;
        if length == 0 {
            return Err(TraceError::Empty(name.to_owned()));
        }
    }
    let format = options
        .format
        .or_else(|| Format::detect(&String::from_utf8_lossy(&first)))
        .ok_or_else(|| TraceError::UnknownFormat(name.to_owned()))?;
    let source = Source {
        name: name.to_owned(),
        reader: BufReader::new(std::io::Cursor::new(first).chain(reader)),
    };
    let mut builder = TraceBuilder::new(name);
    match format {
        Format::Mooncake => mooncake::read(source, &mut builder),
        Format::Azure => azure::read(source, &mut builder),
        Format::BurstGpt => burstgpt::read(source, &mut builder),
        Format::Agentic => agentic::read(source, &mut builder, options),
        Format::Own => own::read(source, &mut builder),
        Format::Envoy => envoy::read(source, &mut builder),
    }?;
    builder.finish()
}
