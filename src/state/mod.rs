//! What a query remembers from batch to batch: record batches, kept as files in the checkpoint.
//!
//! `layout.rs` says what a row of state is and which windows it belongs to; `file.rs` writes and reads one file;
//! `manifest.rs` lists the files that make up the state after a batch; `operator.rs` is the state of one operator in
//! memory, over those files; `moments.rs` finds the rows that others look back to, `partners.rs` those that others are
//! joined with, and `hashes.rs` those of some keys.

mod file;
mod hashes;
mod layout;
mod manifest;
mod moments;
mod operator;
mod partners;

pub use file::{StateFile, read as read_file};
pub use hashes::{KeyHashes, hash_rows};
pub use layout::{Labels, Moments, SessionPieces, StateLayout, micros, timestamps};
pub use manifest::{Manifest, OperatorManifest, StateRef};
pub use moments::RowKeys;
pub use operator::{FILE_BYTES, LiveRows, OperatorState, Scan, slice_bytes};
pub use partners::PartnerScan;
