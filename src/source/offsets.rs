//! Offsets, in Spark's text form, and the arithmetic on them. No I/O.

use std::collections::BTreeMap;

/// The next offset to read, per topic and partition. Its text is Spark's: `{"topic":{"0":12,"1":7}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offsets(pub BTreeMap<String, BTreeMap<i32, i64>>);

/// Records `start..end` of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetRange {
    pub topic: String,
    pub partition: i32,
    /// The first offset.
    pub start: i64,
    /// One past the last.
    pub end: i64,
}
