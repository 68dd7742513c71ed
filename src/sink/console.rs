//! Spark's console sink: a table per batch.

use std::io::Write;

use arrow::array::RecordBatch;

use crate::{
    catalog::ConsoleTable,
    error::{Error, Result},
};

/// Prints the first rows of a batch as Spark does (`-----`, `Batch: 3`, `+---+`), at most `rows_max`.
#[derive(Debug)]
pub struct ConsoleSink {}

impl ConsoleSink {
    /// For one query.
    pub fn new(_table: &ConsoleTable) -> Self {
        Self {}
    }

    /// Starts batch `batch`.
    pub fn begin(&mut self, _batch: u64) {}

    /// Takes rows; beyond `rows_max` they are only counted.
    pub fn write(&mut self, _rows: &RecordBatch) {}

    /// Prints the batch.
    ///
    /// # Errors
    /// That of `out`.
    pub fn finish(&mut self, _out: &mut dyn Write) -> Result<()> {
        Err(Error::unsupported("console sinks"))
    }
}
