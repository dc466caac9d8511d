//! CSV whose columns are found by their names.

use std::io::Read;

use crate::error::TraceError;
use crate::load::Source;

/// Rows of a CSV file.
pub(crate) struct Table<R> {
    reader: csv::Reader<R>,
    columns: Vec<String>,
    record: csv::StringRecord,
    name: String,
}

impl<R: Read> Table<R> {
    pub(crate) fn new(source: Source<R>) -> Result<Self, TraceError> {
        let mut reader = csv::ReaderBuilder::new()
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(source.reader);
        let name = source.name;
        let columns = match reader.headers() {
            Ok(headers) => headers.iter().map(str::to_ascii_lowercase).collect(),
            Err(error) => return Err(fault(&name, 1, &error)),
        };
        Ok(Self {
            reader,
            columns,
            record: csv::StringRecord::new(),
            name,
        })
    }

    /// The place of a column, which must be there.
    pub(crate) fn column(&self, name: &str) -> Result<usize, TraceError> {
        self.find(name).ok_or_else(|| TraceError::Row {
            name: self.name.clone(),
            line: 1,
            reason: format!("there is no column '{name}'"),
        })
    }

    /// The place of a column.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        let wanted = name.to_ascii_lowercase();
        self.columns.iter().position(|column| *column == wanted)
    }

    /// Goes to the next row; false when there is none.
    pub(crate) fn advance(&mut self) -> Result<bool, TraceError> {
        let line = self.reader.position().line();
        self.reader
            .read_record(&mut self.record)
            .map_err(|error| fault(&self.name, line, &error))
    }

    /// A cell of this row.
    pub(crate) fn cell(&self, column: usize) -> &str {
        self.record.get(column).unwrap_or_default()
    }

    /// A cell, understood by `read`.
    pub(crate) fn value<T>(
        &self,
        column: usize,
        what: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, TraceError> {
        let cell = self.cell(column);
        read(cell).ok_or_else(|| TraceError::Row {
            name: self.name.clone(),
            line: self.record.position().map_or(0, csv::Position::line),
            reason: format!("expected {what}, not '{cell}'"),
        })
    }

    /// A number of tokens.
    pub(crate) fn tokens(&self, column: usize) -> Result<u32, TraceError> {
        self.value(column, "a number of tokens", |cell| cell.parse().ok())
    }
}

fn fault(name: &str, line: u64, error: &csv::Error) -> TraceError {
    TraceError::Row {
        name: name.to_owned(),
        line: error.position().map_or(line, csv::Position::line),
        reason: error.to_string(),
    }
}
