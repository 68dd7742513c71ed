//! Which offsets a batch reads, and reading exactly those.
//!
//! `offsets.rs` (Spark's offset JSON, ranges, rate limits, data loss) and `start.rs` (`startingOffsets` and its kin)
//! are pure. `kafka.rs` asks the cluster, `read.rs` reads.

pub mod kafka;
pub mod offsets;
mod read;
pub mod start;

pub use kafka::{KafkaSource, ReadSummary};
pub use offsets::{Loss, OffsetRange, Offsets};
