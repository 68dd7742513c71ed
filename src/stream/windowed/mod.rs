//! Windowed aggregates over a stream: panes of partial aggregates in the state, windows out when the watermark passes.
//!
//! `stages.rs` cuts the plan at each windowed aggregate; `assign.rs` gives rows their panes and sets late ones aside;
//! `planner.rs` makes the physical plans of one batch, `run.rs` runs them over the state, and `batch.rs` between the source
//! and the output.

mod assign;
mod batch;
mod open;
mod planner;
mod run;
mod stages;

pub use assign::LateRows;
pub use batch::{Parts, SetAside, run_batch};
pub use open::Windows;
pub use planner::{PlannedStages, plan};
pub use run::{OperatorCounts, QueryState, Watermarks, stage_us};
pub use stages::{Stages, check, needs_state, split};

#[cfg(test)]
mod corpus_tests;
#[cfg(test)]
mod tests;
