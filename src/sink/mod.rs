//! RecordBatches out: staged files, a Kafka transaction, the console.
//!
//! `file.rs` stages a batch's rows as files; `csv.rs`, `parquet.rs` and `json.rs` are the formats; `layout.rs` names
//! files and partition directories; `spark_log.rs` keeps `_spark_metadata`; `kafka.rs` writes inside a transaction;
//! `console.rs` prints Spark's table.

use serde::{Deserialize, Serialize};

use crate::store::Staged;

mod chunks;
pub mod console;
pub mod csv;
mod encode;
pub mod file;
pub mod json;
pub mod kafka;
mod layout;
mod number;
pub mod parquet;
mod partition;
mod pattern;
pub mod spark_log;
mod text;

/// A staged file with its row count, as `prepared/N` holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    #[serde(flatten)]
    pub staged: Staged,
    pub rows: u64,
}
