//! Rows into a topic, a transaction per batch.
//!
//! The transaction also commits a marker, the batch's id, as the offset of a consumer group that belongs to the
//! query. So the marker and the rows become visible together, and recovery asks the marker whether batch N is done.

use arrow::{array::RecordBatch, datatypes::SchemaRef};

use crate::{
    catalog::KafkaTable,
    error::{Error, Result},
};

/// The transactional producer of one query. Opening it fences an earlier one with the same `query_id`.
#[derive(Debug)]
pub struct KafkaSink {}

impl KafkaSink {
    /// Rows have the columns `value` (string or binary) and, if wanted, `key`, `topic`, `headers`, `partition`, as
    /// in Spark; a row without a `value` column is written as one JSON object per row.
    ///
    /// # Errors
    /// `Invalid` for a schema that cannot be written; `Unavailable`, `NotFound` as every client.
    pub async fn open(_table: &KafkaTable, _schema: SchemaRef, _query_id: &str) -> Result<Self> {
        Err(Error::unsupported("Kafka sinks"))
    }

    /// The last batch whose transaction was committed, and the text that was stored with it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn committed(&self) -> Result<Option<(u64, String)>> {
        Err(Error::unsupported("Kafka sinks"))
    }

    /// Starts the batch's transaction.
    ///
    /// # Errors
    /// `Conflict` when another instance fenced this one.
    pub async fn begin(&mut self, _batch: u64) -> Result<()> {
        Err(Error::unsupported("Kafka sinks"))
    }

    /// Produces rows; waits while the queue is full.
    ///
    /// # Errors
    /// As `begin`.
    pub async fn write(&mut self, _rows: &RecordBatch) -> Result<()> {
        Err(Error::unsupported("Kafka sinks"))
    }

    /// Flushes, adds the marker with `text` (at most 4096 bytes), commits. A commit whose answer was lost is asked
    /// again.
    ///
    /// # Errors
    /// As `begin`.
    pub async fn commit(&mut self, _text: &str) -> Result<()> {
        Err(Error::unsupported("Kafka sinks"))
    }

    /// Gives the batch up.
    ///
    /// # Errors
    /// As `begin`.
    pub async fn abort(&mut self) -> Result<()> {
        Err(Error::unsupported("Kafka sinks"))
    }
}
