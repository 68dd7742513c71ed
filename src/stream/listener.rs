//! Who hears of what the queries of a job do: Spark's `StreamingQueryListener`.

use std::fmt::Debug;

use serde_json::Value;

use super::progress::QueryProgress;
use crate::{checkpoint::Ledger, error::Error};

/// Is called between two batches, so it must be quick.
pub trait QueryListener: Debug + Send + Sync {
    /// Does it look at some of the rows (`QueryProgress::sample`)?
    fn wants_rows(&self) -> bool {
        false
    }

    /// A query is about to run; `sink` is where its rows go, in Spark's words.
    fn started(&self, _query: &str, _sink: &str) {}

    /// It knows where it stands: `totals` are of all batches that are committed.
    fn recovered(&self, _query: &str, _totals: &Ledger) {}

    /// A batch begins.
    fn began(&self, _query: &str) {}

    /// There is nothing to read; said again and again.
    fn idle(&self, _query: &str) {}

    /// A batch is committed; `json` is Spark's progress of it.
    fn progress(&self, progress: &QueryProgress, json: &Value);

    /// Something that the user must know.
    fn warned(&self, _query: &str, _sentence: &str) {}

    /// A query has come to its end, with `failure` if it did not want to.
    fn ended(&self, _query: &str, _failure: Option<&Error>) {}
}
