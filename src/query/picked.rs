//! Single files of a job's directory as a table, for callers that know which they want.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::dataframe::DataFrame;

use super::{
    files::{FilesSpec, FilesTable},
    listing::{DataFile, Listing},
    session::QuerySession,
};
use crate::{
    catalog::FileTable,
    error::Result,
    store::{Entry, Store},
};

impl QuerySession {
    /// The rows of `files`, which lie in the directory of `table`. They have the columns of `columns`, in that order,
    /// partition columns among them.
    ///
    /// # Errors
    /// `Invalid` where a file does not fit; the store's.
    pub async fn stored(&self, table: &FileTable, columns: &SchemaRef, files: &[Entry]) -> Result<DataFrame> {
        let file = |entry: &Entry| DataFile {
            path: entry.path.clone(),
            size_bytes: entry.size_bytes,
            modified_ms: entry.modified_ms,
        };
        let listing = Listing { root: Store::open(&table.path).await?, files: files.iter().map(file).collect() };
        let spec = FilesSpec { columns: Some(Arc::clone(columns)), files: Some(listing), ..FilesSpec::of_table(table) };
        let provider = FilesTable::open(&self.context().state(), &spec).await?;
        let frame = self.context().read_table(Arc::new(provider))?;
        let names: Vec<_> = columns.fields().iter().map(|field| quoted(field.name())).collect();
        Ok(frame.select(names)?)
    }
}

/// A column by its exact name.
fn quoted(name: &str) -> datafusion::logical_expr::Expr {
    datafusion::logical_expr::Expr::Column(datafusion::common::Column::new_unqualified(name))
}
