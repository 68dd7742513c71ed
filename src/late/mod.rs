//! Rows that came too late: how many, and what their windows would be with them.
//!
//! `replay.rs` goes from the late rows (`rows.rs`) to their windows, computes these again (`recompute.rs`), reads what was
//! written of them (`written.rs`), and says what differs (`compare.rs`, `report.rs`). The output is never changed;
//! `correction.rs` writes the new rows elsewhere.

mod compare;
mod correction;
mod recompute;
mod replay;
mod report;
mod rows;
mod written;

pub use replay::{ReplayOptions, replay};
pub use report::{Change, ColumnChange, Corrected, ReplacedFile, ReplayReport, WindowReport, table};
pub use rows::show;
