//! What could not be decoded, kept whole: with its bytes, where it came from and what was wrong with it, it can be
//! repaired and sent again.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};

use super::{flaw::Step, metadata, row::Row};
use crate::{
    catalog::{Column, KafkaColumn},
    error::{Error, Result},
    kafka::KafkaRecord,
};

/// What a dead letter keeps of the Kafka record, in order; its reason comes last.
const KEPT: [(KafkaColumn, bool); 7] = [
    (KafkaColumn::Topic, false),
    (KafkaColumn::Partition, false),
    (KafkaColumn::Offset, false),
    (KafkaColumn::Timestamp, true),
    (KafkaColumn::Key, true),
    (KafkaColumn::Value, true),
    (KafkaColumn::Headers, true),
];

/// The columns of a dead-letter file: where the record stands in Kafka, its bytes (whole), and `reason`.
pub fn schema() -> SchemaRef {
    let kept = KEPT.iter().map(|(kafka, nullable)| Field::new(kafka.name(), kafka.data_type(), *nullable));
    Arc::new(Schema::new(kept.chain([Field::new("reason", DataType::Utf8, false)]).collect::<Vec<_>>()))
}

/// The columns that a dead letter keeps, to be decoded beside the columns of a query.
pub fn kept_columns() -> impl Iterator<Item = Column> {
    KEPT.iter().map(|(kafka, nullable)| Column {
        name: format!("dead letter {}", kafka.name()),
        data_type: kafka.data_type(),
        nullable: *nullable,
        metadata: Some(*kafka),
    })
}

/// Dead letters of records that were decoded: their `kept_columns()`, and why each is bad.
///
/// # Errors
/// `Internal`: a defect.
pub fn with_reasons(mut kept: Vec<ArrayRef>, reasons: &[String]) -> Result<RecordBatch> {
    kept.push(Arc::new(StringArray::from_iter_values(reasons)));
    RecordBatch::try_new(schema(), kept).map_err(|error| Error::internal(format!("dead letters: {error}")))
}

/// Bad records since the last flush.
#[derive(Debug)]
pub(super) struct DeadLetters {
    row: Row,
}

impl DeadLetters {
    /// # Errors
    /// `Internal`: a defect.
    pub fn new() -> Result<Self> {
        Ok(Self { row: Row::new(schema().fields().iter().cloned())? })
    }

    /// Keeps `record`; nothing of it after an error.
    ///
    /// # Errors
    /// `Flaw::Full`
    pub fn push(&mut self, record: &KafkaRecord<'_>, reason: &str) -> Step<()> {
        let pushed = self.fill(record, reason);
        if pushed.is_err() {
            self.row.roll_back();
        }
        pushed
    }

    fn fill(&mut self, record: &KafkaRecord<'_>, reason: &str) -> Step<()> {
        for (index, (kafka, _)) in KEPT.into_iter().enumerate() {
            metadata::push(self.row.open(index), kafka, record)?;
        }
        self.row.open(KEPT.len()).push_bytes(reason.as_bytes())?;
        self.row.close()
    }

    pub fn buffered_bytes(&self) -> usize {
        self.row.buffered_bytes()
    }

    /// The records, `None` if there are none; empty afterwards.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>> {
        if self.row.len == 0 {
            return Ok(None);
        }
        let (_, columns) = self.row.finish()?;
        let batch = RecordBatch::try_new(schema(), columns);
        batch.map(Some).map_err(|error| Error::internal(format!("dead letters: {error}")))
    }
}
