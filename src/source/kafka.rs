//! A Kafka table as the source of a streaming query.

use super::{OffsetRange, Offsets};
use crate::{
    catalog::KafkaTable,
    error::{Error, Result},
    kafka::KafkaRecord,
};

/// Reads fixed ranges of offsets. Holds one librdkafka consumer, which keeps fetching between batches into a
/// bounded queue.
#[derive(Debug)]
pub struct KafkaSource {}

/// What one read saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadSummary {
    /// Records given to the callback.
    pub records: u64,
    /// Offsets in the ranges that hold no record: transaction markers, aborted and compacted records.
    pub gaps: u64,
}

impl KafkaSource {
    /// Connects and checks that the topics exist. Every call to the cluster has a timeout.
    ///
    /// # Errors
    /// `Unavailable` (no broker; names the address), `NotFound` (no such topic; suggests the nearest), `Invalid`
    /// (an option that librdkafka refuses).
    pub async fn open(_table: &KafkaTable) -> Result<Self> {
        Err(Error::unsupported("Kafka tables"))
    }

    /// Spark's words: `KafkaV2[Subscribe[bitcointopic]]`.
    pub fn description(&self) -> &str {
        ""
    }

    /// Where a new query starts: `startingOffsets` and its kin, resolved to numbers for every partition.
    ///
    /// # Errors
    /// As `open`; `Invalid` where the option leaves a partition out.
    pub async fn starting_offsets(&self) -> Result<Offsets> {
        Err(Error::unsupported("Kafka tables"))
    }

    /// Where a bounded read ends: `endingOffsets` and its kin, resolved.
    ///
    /// # Errors
    /// As `starting_offsets`.
    pub async fn ending_offsets(&self) -> Result<Offsets> {
        Err(Error::unsupported("Kafka tables"))
    }

    /// The end of every partition now, new partitions included.
    ///
    /// # Errors
    /// As `open`.
    pub async fn latest_offsets(&self) -> Result<Offsets> {
        Err(Error::unsupported("Kafka tables"))
    }

    /// Compares where we are with what the cluster still has: records that were deleted before they were read,
    /// a topic that was deleted and created again, partitions that vanished. Returns one sentence for each loss,
    /// and the offsets from which reading can go on.
    ///
    /// # Errors
    /// `DataLoss` naming the lost ranges if `failOnDataLoss` is true; else as `open`.
    pub async fn check_data_loss(&self, _from: &Offsets) -> Result<(Vec<String>, Offsets)> {
        Err(Error::unsupported("Kafka tables"))
    }

    /// Reads exactly `ranges` on the calling thread, which it blocks, giving `take` many records at a time; each
    /// partition's in order of offset. `take` returns `false` to stop early (shutdown).
    ///
    /// # Errors
    /// What `take` returns; `Unavailable` when the broker stays silent past a timeout; `DataLoss` where a range's
    /// records are gone.
    pub fn read(
        &mut self,
        _ranges: &[OffsetRange],
        _take: &mut dyn FnMut(&[KafkaRecord<'_>]) -> Result<bool>,
    ) -> Result<ReadSummary> {
        Err(Error::unsupported("Kafka tables"))
    }
}
