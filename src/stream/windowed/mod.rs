//! Windowed aggregates over a stream: panes of partial aggregates in the state, windows out when the watermark passes.
//!
//! `stages.rs` cuts the plan at each windowed aggregate, which gives a tree: an aggregate is over records or over the
//! rows of others, and the rest of the plan over any of them. `source.rs` looks at what is below a cut. `sieve.rs` tells
//! rows in time from those that come too late, `late.rs` says where these go, and `samples.rs` shows some of them;
//! `assign.rs` gives the others their panes. Sessions are put together from pieces: `guard.rs` lets rows in that a
//! session can take, `merge.rs` joins the pieces. `over.rs` says which rows an OVER looks at (`distinct.rs`: DISTINCT is
//! one), `over_cut.rs` cuts the plan there, `moments.rs` keeps the rows. `join_cut.rs` cuts it at joins of two streams,
//! whose bounds `interval.rs` finds; `pairs.rs` joins them, and `partners.rs` gives it one side. `refusals.rs` says what a stream cannot answer. `planner.rs` makes the physical plans
//! of one batch, with `extensions.rs` for our own nodes and `slot.rs` for rows of state; `run.rs` runs them over the state, and `batch.rs` between the source and the output. `replayable.rs` says
//! which windows a late row belongs to. `update.rs` has the output modes in which groups are written while they change,
//! and aggregates without a window; `keys.rs` looks at the keys of their records.

mod assign;
mod batch;
mod closing;
mod distinct;
mod emission;
mod exec;
mod extensions;
mod guard;
mod interval;
mod join_cut;
mod keys;
mod late;
mod merge;
mod moments;
mod open;
mod over;
mod over_cut;
mod pairs;
mod partners;
mod planner;
mod refusals;
mod replayable;
mod run;
mod samples;
mod sieve;
mod slot;
mod source;
mod stages;
mod update;

pub use batch::{Parts, SetAside, run_batch};
pub use closing::{OpenSession, open_sessions};
pub use distinct::number_rows;
pub use keys::{check_fields, check_sink};
pub use late::LateRows;
pub use open::Windows;
pub use planner::{PlannedStages, plan};
pub use refusals::check;
pub use replayable::Replayable;
pub use run::{OperatorCounts, QueryState, Watermarks, stage_us};
pub use sieve::LATE;
pub use stages::{Stages, needs_state, split};
pub use update::grows;

#[cfg(test)]
mod asof_tests;
#[cfg(test)]
mod corpus_tests;
#[cfg(test)]
mod grammar_tests;
#[cfg(test)]
mod interval_tests;
#[cfg(test)]
mod join_tests;
#[cfg(test)]
mod over_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod update_tests;
