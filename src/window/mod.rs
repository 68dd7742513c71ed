//! Event-time windows: what they are, how SQL spells them, and how a batch plan assigns rows to them.
//!
//! `spec.rs` is the arithmetic, `wall.rs` its calendar; `node.rs` and `session.rs` are the logical nodes, `planner.rs`
//! leads from them to `assign_exec.rs` and `session_exec.rs`. `relation.rs` reads windows in FROM, `grouped.rs` windows
//! in GROUP BY, and `call.rs` and `arguments.rs` what stands in their parentheses. `deduplicate.rs` and `gap_fill.rs` are
//! OVER in disguise.

use arrow::datatypes::{Field, Fields};

mod arguments;
mod assign_exec;
mod call;
mod deduplicate;
mod event_time;
mod gap_fill;
mod gap_fill_fn;
mod grouped;
mod node;
mod planner;
mod relation;
mod session;
mod session_exec;
mod spec;
mod wall;
mod window_time;

pub use arguments::at;
pub use call::{arguments, column, descriptor, plan_table, span_of};
pub use event_time::event_time;
pub use grouped::{Calls, assign_groups};
pub use node::WindowAssign;
pub use planner::{WindowExtensions, register};

pub use session::SessionAssign;
pub use spec::{WINDOWS_PER_ROW_MAX, Window, WindowKind, WindowSpec, duration};

/// The start of a row's window, inclusive.
pub const WINDOW_START: &str = "window_start";

/// The end of a row's window, exclusive.
pub const WINDOW_END: &str = "window_end";

/// The event time of what comes out of a window: its end less one millisecond (Flink's).
pub const WINDOW_TIME: &str = "window_time";

/// The metadata key of a field that holds the event time of its rows; its value is `true`.
pub const EVENT_TIME_KEY: &str = crate::catalog::EVENT_TIME;

/// The metadata key of a field that holds a window's start or end; its value says which: `WINDOW_START` or
/// `WINDOW_END`.
pub const WINDOW_KEY: &str = "tidemill:window";

/// Which column holds the windows' `which`, `WINDOW_START` or `WINDOW_END`, whatever it is called.
pub fn window_column(fields: &Fields, which: &str) -> Option<usize> {
    fields.iter().position(|field| is_window(field, which))
}

/// Does the field hold the windows' `which`?
pub fn is_window(field: &Field, which: &str) -> bool {
    field.metadata().get(WINDOW_KEY).is_some_and(|value| value == which)
}
