//! Bytes to `RecordBatch`, and a dead letter for what is no record.
//!
//! `json.rs` is a schema-driven decoder of our own for flat JSON (twice arrow-json's speed, and one bad record
//! never costs another); `nested.rs` wraps arrow-json for nested columns; `csv.rs`, `avro.rs`; `metadata.rs` fills
//! the columns that come from the Kafka record itself; `dead_letter.rs` keeps what could not be decoded.

use arrow::{array::RecordBatch, datatypes::SchemaRef};

use crate::{
    catalog::{Column, DecodeOptions},
    error::{Error, Result},
    kafka::KafkaRecord,
};

/// Turns the records of one Kafka table into record batches with the columns that a query needs.
#[derive(Debug)]
pub struct RecordDecoder {
    schema: SchemaRef,
}

/// What `flush` gives.
#[derive(Debug)]
pub struct Decoded {
    /// The rows, in the order in which their records were pushed.
    pub rows: RecordBatch,
    /// Bad records in the dead-letter schema (`dead_letter::schema()`); `None` when there are none to keep.
    pub dead_letters: Option<RecordBatch>,
    /// Records that gave no row: those in `dead_letters`, and the ones dropped by DROPMALFORMED.
    pub bad: u64,
}

/// A batch of this many rows fits the caches: larger ones were measured slower.
pub const ROWS_PER_BATCH: usize = 8192;

impl RecordDecoder {
    /// `columns` are the table's; `projection` (indices into them, ascending) are the ones to produce. Only those
    /// are parsed and checked; the rest of a record need only be well formed.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` for a column type that the format cannot give; names the column.
    pub fn new(_columns: &[Column], _projection: &[usize], _options: &DecodeOptions) -> Result<Self> {
        Err(Error::unsupported("decoding"))
    }

    /// The schema of `Decoded::rows`: the projected columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Adds records. A bad one is handled by the mode, and never touches another.
    ///
    /// # Errors
    /// `BadRecord` in FAILFAST, naming topic, partition, offset and reason; `Unavailable` when a schema registry
    /// does not answer.
    pub fn push(&mut self, _records: &[KafkaRecord<'_>]) -> Result<()> {
        Err(Error::unsupported("decoding"))
    }

    /// Records pushed since the last flush, good and bad.
    pub fn len(&self) -> usize {
        0
    }

    /// No record since the last flush.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows so far; the decoder is empty afterwards and ready for more.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn flush(&mut self) -> Result<Decoded> {
        Err(Error::unsupported("decoding"))
    }
}
