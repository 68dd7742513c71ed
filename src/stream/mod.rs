//! The engine: plan, run and commit one micro-batch after another.
//!
//! `launch.rs` starts every INSERT of a job file as a `query.rs` of its own, `describe.rs` only checks them; `plan.rs`
//! makes the bounded DataFusion plan, over Kafka tables (`scan.rs`) and the stored files that it joins
//! (`static_table.rs`, `join.rs`), with the models that it predicts with (`models.rs`); `stateless.rs` refuses what one batch
//! alone cannot answer and `constant.rs` what fails for every record, `time.rs` finds `now()`, `columns.rs` says of which
//! types rows are written; `inputs.rs` says what each table's part of a batch is, and `batch.rs` runs it
//! (source -> decode -> plan -> output), and `isolate.rs` runs it again if an expression fails on some of the records; `output.rs` is where rows go; `commit.rs` makes them visible; `trigger.rs` says
//! when; `progress.rs` and `window_progress.rs` tell the user, `listener.rs` says
//! who else hears of it (`progress_log.rs`, the live page) and `sample.rs` which rows they see, and `inspect` answers
//! those who ask; `replay.rs` is where a query with late rows stands; `forecast.rs` has a
//! model that learns from the rows that a query gives.

mod batch;
mod columns;
mod commit;
mod constant;
mod describe;
mod forecast;
mod inputs;
pub mod inspect;
mod isolate;
mod join;
mod launch;
mod listener;
mod models;
mod output;
mod plan;
mod progress;
mod progress_log;
mod query;
mod reader;
mod replay;
mod sample;
mod scan;
mod stateless;
mod static_table;
mod time;
mod trigger;
mod window_progress;
mod windowed;

pub use columns::normalise;
pub use describe::describe;
pub use launch::{StreamOptions, launch};
pub use listener::QueryListener;
pub use progress::{ProgressFormat, QueryProgress};
pub use replay::{LateQuery, Standing};
pub use sample::{RowSample, Thinned};
pub use trigger::Trigger;
pub use windowed::{LATE, Replayable};
