//! Batch SQL over the tables of job files, over paths, and over bounded ranges of Kafka tables.
//!
//! `session.rs` runs statements; `catalog.rs` resolves a name in FROM (a table of a job, a view, a path);
//! `listing.rs` says which files of a place a reader may see; `partition.rs` reads Hive's `key=value` directories;
//! `format.rs` turns file names and options into DataFusion's formats; `schema.rs` finds one schema for many files, or
//! the file that does not fit; `files.rs` and `kafka_table.rs` are the tables, `slices.rs` reads large row groups
//! a slice at a time, `text_value.rs` and `text_source.rs` read
//! what DataFusion cannot and name the file in an error; `picked.rs` reads single files; `external.rs` is CREATE EXTERNAL
//! TABLE, `copy.rs` is COPY, `options.rs` has the options of both; `stored.rs` is a table's files for a stream that joins
//! them; `output.rs` writes results; `failure.rs` turns DataFusion's errors into ours.
//! `training.rs` trains models on what a query gives.

#[cfg(test)]
mod asof_tests;
mod catalog;
mod copy;
mod external;
mod failure;
mod files;
mod format;
mod kafka_table;
mod listing;
mod options;
mod output;
mod partition;
mod schema;
mod session;
mod slices;
mod picked;
mod stored;
mod text_source;
mod text_value;
mod training;

pub use catalog::TableSummary;
pub use listing::is_hidden;
pub use output::{OutputFormat, ResultWriter, TABLE_ROWS_DEFAULT};
pub use session::{MEMORY_BYTES_DEFAULT, MEMORY_BYTES_MIN, QuerySession, Rows, Script, ScriptStatement};
pub use stored::{FilesVersion, StoredTable};
pub use training::{CreatedModel, RepeatableQuery};
