//! Windowed aggregates over a stream: panes of partial aggregates in the state, windows out when the watermark passes.
//!
//! `stages.rs` cuts the plan at each windowed aggregate; `assign.rs` gives rows their panes and sets late ones aside;
//! `planner.rs` makes the physical plans of one batch, and `run.rs` runs them.

mod assign;
mod planner;
mod run;
mod stages;

pub use assign::late_schema;
pub use run::{StateOfQuery, StatefulBatch, StatefulResult};
pub use stages::{Stages, split};
