//! What batch N reads, what it produced, that it is done: the commit protocol's logs, in Spark's layout.
//!
//! ```text
//! C/metadata        {"id": "..."}: the query's identity
//! C/queries/N       the query's fingerprint from batch N on (ours)
//! C/sources/0/0     the offsets at which batch 0 starts
//! C/offsets/N       what batch N reads: written before any result exists
//! C/prepared/N      what batch N produced: staged files, counts (ours); from here its result is fixed
//! C/commits/N       batch N is done
//! ```
//! Every file is created once and never changed; two instances race for `offsets/N` and `prepared/N`, and the loser
//! stops. `recovery.rs` decides, without I/O, what a start has to do.

mod fingerprint;
mod ledger;
mod log;
mod offset_log;
mod prepared;
pub mod recovery;

pub use fingerprint::Fingerprint;
pub use ledger::{Ledger, Read, StateCounts};
pub use log::Checkpoint;
pub use offset_log::{OffsetEntry, logged_watermark, read_watermark, spark_conf};
pub use prepared::Prepared;
