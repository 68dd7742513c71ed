//! The engine: plan, run and commit one micro-batch after another.
//!
//! `launch.rs` starts every INSERT of a job file as a `query.rs` of its own, `describe.rs` only checks them; `plan.rs`
//! makes the bounded DataFusion plan and `stateless.rs` refuses what one batch alone cannot answer; `batch.rs` runs it
//! (source -> decode -> plan -> output); `output.rs` is where rows go; `commit.rs` makes them visible; `trigger.rs` says
//! when; `progress.rs` tells the user.

mod batch;
mod commit;
mod describe;
mod launch;
mod output;
mod plan;
mod progress;
mod query;
mod stateless;
mod trigger;
//mod windowed;

pub use describe::describe;
pub use launch::{StreamOptions, launch};
pub use progress::{ProgressFormat, QueryProgress};
pub use trigger::Trigger;
