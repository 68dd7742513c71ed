//! What a query remembers, and what it waits for: read from its checkpoint and from Kafka, while it runs or is stopped.
//!
//! `stand.rs` reads the checkpoint, `remembered.rs` the state, `gather.rs` adds Kafka's side; `answer.rs` is the pure
//! function from all that to one sentence, `text.rs` how it is shown. Nothing is written.

mod answer;
mod gather;
mod remembered;
mod report;
mod stand;
mod text;

pub use gather::{situation, state, state_of};
pub use report::{
    Answer, BatchReport, EventTimeReport, NextClose, OperatorReport, PartitionReport, Reason, Situation, Span,
    StateReport, UnderWay, WindowsReport,
};

#[cfg(test)]
mod answer_tests;
