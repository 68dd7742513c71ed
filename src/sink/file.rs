//! A batch's rows as staged files.

use arrow::{array::RecordBatch, datatypes::SchemaRef};

use super::StagedFile;
use crate::{
    catalog::FileTable,
    error::{Error, Result},
    store::Store,
};

/// The file sink of one query.
#[derive(Debug)]
pub struct FileSink {}

/// Writes the files of one batch. Rows stream through: at most a row group (Parquet) or a few blocks (text) per open
/// file are in memory, and at most `OPEN_FILES_MAX` files are open.
#[derive(Debug)]
pub struct FileSinkWriter {}

/// Partition directories written at the same time by one batch; beyond it the least recently used file is finished.
pub const OPEN_FILES_MAX: usize = 64;

impl FileSink {
    /// `schema` is that of the rows; checks that the format can hold it and that the `partitionBy` columns exist.
    ///
    /// # Errors
    /// `Invalid`: names the column, and suggests the nearest.
    pub fn new(_store: Store, _table: &FileTable, _schema: SchemaRef) -> Result<Self> {
        Err(Error::unsupported("file sinks"))
    }

    /// Starts a batch. `owner` marks its temporaries (`Store::stage`).
    pub fn begin(&self, _owner: &str) -> FileSinkWriter {
        FileSinkWriter {}
    }
}

impl FileSinkWriter {
    /// Writes rows.
    ///
    /// # Errors
    /// The store's.
    pub async fn write(&mut self, _rows: &RecordBatch) -> Result<()> {
        Err(Error::unsupported("file sinks"))
    }

    /// Closes every file. No rows, no files.
    ///
    /// # Errors
    /// The store's.
    pub async fn finish(self) -> Result<Vec<StagedFile>> {
        Err(Error::unsupported("file sinks"))
    }
}
