//! Spark's sink log, `<output>/_spark_metadata`: which files of the directory are committed.

use crate::{
    error::{Error, Result},
    store::{Published, Store},
};

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkFile {
    /// Relative to the output directory.
    pub path: String,
    pub published: Published,
    /// Ours, beside Spark's seven fields (whose readers skip it); absent in a file that Spark wrote.
    pub rows: Option<u64>,
}

/// The log of one output directory.
#[derive(Debug, Clone)]
pub struct SparkLog {}

impl SparkLog {
    /// `output` is the output directory.
    pub fn new(_output: Store) -> Self {
        Self {}
    }

    /// The largest batch id in the log; `None` if there is no log.
    ///
    /// # Errors
    /// The store's.
    pub async fn latest(&self) -> Result<Option<u64>> {
        Err(Error::unsupported("the sink log"))
    }

    /// Adds batch `batch` (every tenth one compacts, as Spark does); a batch that is there already with the same
    /// files is done.
    ///
    /// # Errors
    /// `Conflict` if it is there with other files; `Corrupt` if a file that compaction needs is missing or torn.
    pub async fn add(&self, _batch: u64, _files: &[SinkFile]) -> Result<()> {
        Err(Error::unsupported("the sink log"))
    }

    /// All committed files, in order of batch; `None` if the directory has no log.
    ///
    /// # Errors
    /// `Corrupt`, naming the file and what is wrong with it.
    pub async fn files(&self) -> Result<Option<Vec<SinkFile>>> {
        Err(Error::unsupported("the sink log"))
    }
}
