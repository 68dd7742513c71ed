//! The corrected rows, in a directory of their own.

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use uuid::Uuid;

use super::report::{Corrected, ReplayReport};
use crate::{
    catalog::FileTable,
    error::{Error, ErrorKind, Result},
    fault::crash_point,
    sink::{
        StagedFile,
        file::{FileSink, FileSinkWriter},
    },
    store::{Created, Store},
};

/// The list of what is replaced. It is written last: without it a directory is not complete. No reader takes it for data.
pub const REPLACED: &str = "_replaced.json";

/// A new directory.
#[derive(Debug)]
pub struct Correction {
    store: Store,
    sink: FileSink,
    owner: String,
}

impl Correction {
    /// In `directory`, which must be empty, and apart from the output and its late rows.
    ///
    /// # Errors
    /// `Conflict` if something is there; `Invalid` for a directory of the job; the store's.
    pub async fn open(directory: &str, like: &FileTable, late: &FileTable, schema: &SchemaRef) -> Result<Self> {
        let store = Store::open(directory).await?;
        for taken in [like, late] {
            let taken = Store::open(&taken.path).await?;
            let (inner, outer) = (format!("{}/", store.url()), format!("{}/", taken.url()));
            if inner.starts_with(&outer) || outer.starts_with(&inner) {
                return Err(Error::invalid(format!(
                    "--output {} is, or holds, {} of the job",
                    store.url(),
                    taken.url()
                ))
                .help("choose a directory of its own: what is visible in the output never changes"));
            }
        }
        if let Some(entry) = store.list_all("").await?.first() {
            return Err(Error::new(ErrorKind::Conflict, format!("{} is there already", store.path_url(&entry.path)))
                .help("choose a new or empty directory for --output"));
        }
        let table = FileTable { path: directory.to_owned(), spark_metadata: false, ..like.clone() };
        let sink = FileSink::new(store.clone(), &table, SchemaRef::clone(schema))?;
        Ok(Self { store, sink, owner: format!("replay-{}", Uuid::new_v4().simple()) })
    }

    /// Starts the files, under hidden names.
    pub fn begin(&self) -> FileSinkWriter {
        self.sink.begin(&self.owner)
    }

    /// Shows all files, then the list; or nothing.
    ///
    /// # Errors
    /// The store's; what was shown is taken back then.
    pub async fn publish(&self, files: &[StagedFile], report: &mut ReplayReport) -> Result<()> {
        let mut shown = Vec::new();
        let done = self.try_publish(files, &mut shown, report).await;
        if done.is_err() {
            report.corrected = None;
            for path in &shown {
                self.store.delete(path).await?;
            }
            self.abandon().await?;
        }
        done
    }

    async fn try_publish(
        &self,
        files: &[StagedFile],
        shown: &mut Vec<String>,
        report: &mut ReplayReport,
    ) -> Result<()> {
        crash_point("corrected", 0);
        for (file, step) in files.iter().zip(1..) {
            // Before: an error may be one of the answer only.
            shown.push(file.staged.path.clone());
            self.store.publish(&file.staged).await?;
            crash_point("corrected", step);
        }
        let rows = files.iter().map(|file| file.rows).sum();
        let directory = self.store.url().to_owned();
        report.corrected = Some(Corrected { directory, files: shown.clone(), rows });
        let json = serde_json::to_vec_pretty(report)
            .map_err(|error| Error::internal("the report is no JSON").source_error(error))?;
        shown.push(REPLACED.to_owned());
        match self.store.create(REPLACED, Bytes::from(json)).await? {
            Created::New => Ok(()),
            Created::Exists => {
                shown.pop();
                Err(Error::new(ErrorKind::Conflict, format!("another replay writes to {}", self.store.url()))
                    .help("give each a directory of its own"))
            }
        }
    }

    /// Deletes what was begun.
    ///
    /// # Errors
    /// The store's.
    pub async fn abandon(&self) -> Result<()> {
        self.store.sweep(&|owner| owner == self.owner, &[]).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{Int64Array, RecordBatch},
        datatypes::{DataType, Field, Schema},
    };

    use super::*;
    use crate::catalog::{Connector, Job, Variables};

    #[tokio::test]
    async fn what_was_shown_is_taken_back_if_the_list_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().display();
        let sql = format!(
            "CREATE TABLE t (n BIGINT) WITH (connector = 'file', path = '{place}/data', format = 'csv', \
             maxRecordsPerFile = 2);"
        );
        let job = Job::parse("job.sql", &sql, &Variables::default()).unwrap();
        let Connector::File(table) = &job.tables[0].connector else { panic!("a file table") };
        let late = FileTable { path: format!("{place}/data_late"), ..table.as_ref().clone() };
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        // The directories of the job, what is in them, and what they are in.
        for path in ["/data", "/data/x", "/data_late", "/data_late/x", ""] {
            let error = Correction::open(&format!("{place}{path}"), table, &late, &schema).await.unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("of the job"), "{path}: {error}");
        }
        let corrected = format!("{place}/corrected");
        let correction = Correction::open(&corrected, table, &late, &schema).await.unwrap();
        let mut writer = correction.begin();
        let rows = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]))]).unwrap();
        writer.write(&rows).await.unwrap();
        let files = writer.finish().await.unwrap();
        assert_eq!(files.len(), 3);
        // Somebody else was first, since the directory was looked at.
        let store = Store::open(&corrected).await.unwrap();
        store.create(REPLACED, Bytes::from_static(b"theirs")).await.unwrap();
        let mut report = ReplayReport::default();
        let error = correction.publish(&files, &mut report).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Conflict && report.corrected.is_none(), "{error}");
        let left: Vec<String> = store.list_all("").await.unwrap().into_iter().map(|entry| entry.path).collect();
        assert_eq!(left, [REPLACED]);
        assert_eq!(store.read(REPLACED).await.unwrap().unwrap().as_ref(), b"theirs");
    }
}
