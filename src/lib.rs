//! Tidemill: a columnar micro-batch engine. Kafka records become Arrow `RecordBatch`es, DataFusion SQL
//! transforms them, and files appear exactly once on HDFS, S3 or a local disk.
//!
//! The modules stand in the order in which one record walks through them, and a module imports only
//! modules that stand above it (`tests/it/tidy.rs` holds that). So reading this list is the tour:

// DataFusion's plans are deep futures: their layouts nest deeper than the compiler's default.
#![recursion_limit = "256"]

pub mod error; // what went wrong, for whom, and what to do about it
pub mod clock; // the only place that reads a clock or sleeps
pub mod fault; // named crash points for the tests, absent from release builds
pub mod store; // a directory on HDFS, S3 or a local disk: create once, stage, publish
pub mod catalog; // what a job file declares: tables, views, inserts, options
pub mod kafka; // clients of a Kafka cluster: configuration, metadata, batches of messages
pub mod produce; // prices into Kafka: Binance, candles, the simulator, a replayed file
pub mod source; // which offsets a batch reads, and reading exactly those
pub mod decode; // bytes -> RecordBatch, and a dead letter for what is no record
pub mod event_time; // how far the events have come: the watermark
pub mod window; // event-time windows: their arithmetic, their SQL, their plans
pub mod asof; // the last row of another table, by time: ASOF JOIN
pub mod state; // what a query remembers: record batches, kept as files in the checkpoint
pub mod model; // linear regression: training, statistics, models in files, SQL functions
pub mod session; // DataFusion sessions that know windows, and SQL planned in them
pub mod sink; // RecordBatch -> staged files, a Kafka transaction, the console
pub mod query; // batch SQL over what was stored; what a stream joins
pub mod checkpoint; // what batch N reads, what it produced, that it is done
pub mod stream; // the engine: plan, run and commit one micro-batch after another
pub mod page; // the live page: what a running job does, in a browser
pub mod late; // rows that came too late, and what their windows would be with them
pub mod verify; // recounts a job's files against its offsets
pub mod demo; // all of it in one process
pub mod cli; // one file per command
