//! Which offsets a batch reads, and reading exactly those.
//!
//! `offsets.rs` is pure: Spark's offset JSON, ranges, rate limits, data loss. `kafka.rs` asks the cluster and reads.

pub mod kafka;
pub mod offsets;

pub use kafka::KafkaSource;
pub use offsets::{OffsetRange, Offsets};
