//! `ASOF JOIN`: to each row of the left side the last row of the right side that has the same keys and is not newer.
//!
//! `condition.rs` reads the condition of a join that `catalog` has marked, `node.rs` is the logical node that stands in its
//! place, and `exec.rs` merges both sides, sorted by keys and time.
//!
//! Of several rows of the right side with the same keys and time, the one is taken that comes last in the order of all its
//! columns, from the first on. So the answer depends on the rows alone, not on the order in which they came, and a stream
//! gives the same as a batch.

mod condition;
mod exec;
mod node;
mod planner;

pub use condition::{functions, place};
pub use node::AsofJoin;
pub use planner::AsofExtensions;
