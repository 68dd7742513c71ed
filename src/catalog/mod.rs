//! What a job file declares: tables with options, views, and inserts.
//!
//! `job.rs` reads the text (statements, variables, places), `ddl.rs` the `CREATE TABLE`, `options.rs` the `WITH`
//! clause; `table.rs` holds the result in types, so that nothing after this module handles an option as text.

pub mod job;
pub mod session;
pub mod table;

pub use job::{Insert, Job, Variables, View};
pub use table::{
    AvroOptions, Column, Compression, Connector, ConsoleTable, CsvOptions, DecodeOptions, FileFormat, FileTable,
    KafkaClientOptions, KafkaColumn, KafkaTable, OffsetSpec, ParseMode, PayloadFormat, StartingOffsets, Subscription,
    Table,
};
