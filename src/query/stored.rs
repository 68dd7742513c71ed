//! The files of one table of a job, for a stream that joins them: listed anew for each batch, read again if the list has
//! changed.

use std::{fmt, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{Session, TableProvider},
    error::DataFusionError,
};
use serde::{Deserialize, Serialize};

use super::{
    failure,
    files::{FilesSpec, FilesTable},
    listing,
    session::{MEMORY_BYTES_MIN, QuerySession},
};
use crate::{
    catalog::{FileTable, Job, Table},
    error::{Error, Place, Result},
    session::SessionLimits,
};

/// See the module's documentation.
pub struct StoredTable {
    name: String,
    /// Where the job file says where the files are.
    place: Place,
    spec: FilesSpec,
    schema: SchemaRef,
}

/// Which files a table had. Two lists with equal paths, sizes and times of change are taken for the same files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilesVersion {
    pub table: String,
    pub files: u64,
    pub bytes: u64,
    /// Of each file's path, size and time of change.
    pub crc32: u32,
}

impl fmt::Debug for StoredTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredTable({}, {})", self.name, self.spec.place)
    }
}

impl StoredTable {
    /// Finds out the columns of `table`, as a query of the job would. Only a table that the job itself fills may have no
    /// files yet.
    ///
    /// # Errors
    /// `NotFound` at the path, naming the table; `Invalid` where the files do not fit each other or the declaration.
    pub async fn open(state: &dyn Session, job: &Job, table: &Table, file: &FileTable) -> Result<Self> {
        let limits = SessionLimits { memory_bytes: MEMORY_BYTES_MIN, partitions: 1 };
        let mut spec = QuerySession::new(vec![job.clone()], limits)?.files_of(job, table, file).await?;
        spec.is_output = job.inserts.iter().any(|insert| insert.target.eq_ignore_ascii_case(&table.name));
        let schema = spec.columns.clone().unwrap_or_else(|| table.schema());
        let mut stored = Self { name: table.name.clone(), place: table.place_of("path"), spec, schema };
        let opened = FilesTable::open(state, &stored.spec).await.map_err(|error| stored.named(error))?;
        stored.schema = opened.schema();
        // The query is planned for these columns: files of others are an error, whenever they come.
        stored.spec.columns = Some(Arc::clone(&stored.schema));
        Ok(stored)
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its columns, those of its directories among them.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Which files there are now.
    ///
    /// # Errors
    /// As `open`.
    pub async fn version(&self) -> Result<FilesVersion> {
        let listed = match self.spec.is_output {
            true => Box::pin(listing::list_directory(&self.spec.place)).await,
            false => Box::pin(listing::list(&self.spec.place)).await,
        };
        let listing = listed.map_err(|error| self.named(error))?;
        let mut hasher = crc32fast::Hasher::new();
        for file in &listing.files {
            hasher.update(format!("{} {} {}\n", file.path, file.size_bytes, file.modified_ms).as_bytes());
        }
        Ok(FilesVersion {
            table: self.name.clone(),
            files: listing.files.len() as u64,
            bytes: listing.files.iter().map(|file| file.size_bytes).sum(),
            crc32: hasher.finalize(),
        })
    }

    /// The files that there are now, as a table.
    ///
    /// # Errors
    /// As `open`.
    pub async fn files(&self, state: &dyn Session) -> Result<Arc<dyn TableProvider>> {
        let opened = FilesTable::open(state, &self.spec).await.map_err(|error| self.named(error))?;
        Ok(Arc::new(opened))
    }

    /// What went wrong when the files were read: never the fault of a record of the stream.
    pub fn failed(&self, error: DataFusionError) -> Error {
        self.named(failure::from_datafusion(error, None))
    }

    fn named(&self, error: Error) -> Error {
        error.context(format!("the table {}", self.name)).at(self.place.clone())
    }
}
