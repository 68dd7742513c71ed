//! What a job file declares: tables with options, views, models, and inserts.
//!
//! `variables.rs` puts the variables in, `text.rs` remembers where everything stood, `lexer.rs` finds words and
//! statements, `job.rs` reads them. `ddl.rs` reads the `CREATE TABLE`, `types.rs` its columns' types; `options.rs`,
//! `connector.rs`, `kafka_table.rs`, `kafka_offsets.rs` and `file_table.rs` the `WITH` clause; `table.rs` holds the
//! result in types, so that nothing after this module handles an option as text. `check.rs` looks at the job as a
//! whole, `locate.rs` finds the place of DataFusion's errors. `parse.rs` is the one place that parses SELECTs, and
//! `group_window.rs` names the windows of their GROUP BY, `asof.rs` marks the joins that are as-of joins; `output_mode.rs`
//! reads `outputMode` and `EMIT`; `model.rs` reads `CREATE MODEL`, also out of the scripts of batch queries.

mod asof;
mod check;
mod connector;
mod cursor;
mod ddl;
mod file_table;
mod group_window;
pub mod job;
mod kafka_offsets;
mod kafka_table;
mod lexer;
mod locate;
mod model;
mod options;
mod output_mode;
mod parse;
pub mod table;
mod text;
mod types;
mod variables;
mod watermark;

pub use asof::ASOF_MATCH;
pub use job::{Insert, Job, Variables, View};
pub use locate::locate_error;
pub use model::{ModelStatement, ScriptPart, script_parts};
pub use options::{MODEL, Options, Vocabulary, parse_duration};
pub use output_mode::{Emit, OutputMode};
pub use parse::{KEYS_ARGUMENT, TABLE_ARGUMENTS, event_time_function, model_function, parse_statements};
pub use table::{
    AvroOptions, Column, Compression, Connector, ConsoleTable, CsvOptions, DecodeOptions, EVENT_TIME, FileFormat,
    FileTable, KafkaClientOptions, KafkaColumn, KafkaTable, OffsetSpec, ParseMode, PayloadFormat, StartingOffsets,
    Subscription, Table, Watermark,
};
pub use text::SqlText;
