//! File tables that a stream joins: looked at before each batch, kept in memory as long as they do not change.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider, default_table_source::source_as_provider},
    common::{Result as DataFusionResult, plan_err},
    datasource::memory::MemorySourceConfig,
    execution::{SessionState, TaskContext},
    logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableScan, TableType},
    physical_plan::{
        ExecutionPlan, SendableRecordBatchStream, execute_stream,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
};
use futures::{StreamExt, TryStreamExt};

use crate::{
    error::{Error, ErrorKind, Result},
    query::{FilesVersion, StoredTable},
};

/// What the file tables of one query may hold in memory, together. One that is larger is read from its files in each
/// batch.
pub const STATIC_TABLES_MEMORY_BYTES: usize = 64 << 20;
/// So often a table is read anew whose files change while they are read.
const TRIES_MAX: usize = 3;

/// See the module's documentation.
pub struct StaticTable {
    stored: Arc<StoredTable>,
    /// The columns that the query reads, ascending: those are kept.
    wanted: OnceLock<Vec<usize>>,
    current: Mutex<Current>,
}

/// The files as the batch sees them.
#[derive(Default)]
struct Current {
    version: Option<FilesVersion>,
    rows: Option<Rows>,
    bytes: usize,
}

#[derive(Clone)]
enum Rows {
    /// Of the columns that are wanted.
    Memory(Arc<Vec<RecordBatch>>),
    Files(Arc<dyn TableProvider>),
}

impl fmt::Debug for StaticTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticTable({:?})", self.stored)
    }
}

impl StaticTable {
    /// Nothing is read yet.
    pub fn new(stored: StoredTable) -> Self {
        Self { stored: Arc::new(stored), wanted: OnceLock::new(), current: Mutex::default() }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_scanned_by(&self, node: &LogicalPlan) -> Option<Vec<usize>> {
        let LogicalPlan::TableScan(TableScan { source, projection, .. }) = node else { return None };
        let provider = source_as_provider(source).ok()?;
        let is_it = provider.downcast_ref::<Self>().is_some_and(|table| std::ptr::eq(table, self));
        let all = || (0..self.stored.schema().fields().len()).collect();
        is_it.then(|| projection.clone().unwrap_or_else(all))
    }

    /// Says which columns are read, by the optimised plan of the query.
    pub fn plan(&self, optimized: &LogicalPlan) -> Result<()> {
        let mut wanted = Vec::new();
        optimized.apply_with_subqueries(|node| {
            wanted.extend(self.is_scanned_by(node).unwrap_or_default());
            Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
        })?;
        wanted.sort_unstable();
        wanted.dedup();
        self.wanted.get_or_init(|| wanted);
        Ok(())
    }

    /// Looks at the files, and reads them if they have changed and fit into `limit` bytes. Returns which they are.
    ///
    /// # Errors
    /// `NotFound`, naming the table; what reading them gives.
    async fn refresh(&self, state: &SessionState, limit: usize) -> Result<FilesVersion> {
        let mut version = self.stored.version().await?;
        if self.current().version.as_ref() == Some(&version) {
            return Ok(version);
        }
        // The old rows go first: both together would be twice the limit.
        *self.current() = Current::default();
        for _ in 0..TRIES_MAX {
            let files = self.stored.files(state).await?;
            let read = self.read(&files, state, limit).await?;
            let now = self.stored.version().await?;
            if now == version {
                let (rows, bytes) = match read {
                    Some((rows, bytes)) => (Rows::Memory(Arc::new(rows)), bytes),
                    None => (Rows::Files(files), 0),
                };
                *self.current() = Current { version: Some(version.clone()), rows: Some(rows), bytes };
                return Ok(version);
            }
            version = now;
        }
        let message = format!("the files of the table {} change while they are read", self.stored.name());
        Err(Error::new(ErrorKind::Unavailable, message)
            .help("write new files beside the old ones, or rename them over"))
    }

    /// The rows of all files, unless they are more than `limit` bytes.
    async fn read(
        &self,
        files: &Arc<dyn TableProvider>,
        state: &SessionState,
        limit: usize,
    ) -> Result<Option<(Vec<RecordBatch>, usize)>> {
        let failed = |error| self.stored.failed(error);
        let wanted = self.wanted.get().cloned().unwrap_or_default();
        let plan = files.scan(state, Some(&wanted), &[], None).await.map_err(failed)?;
        let mut rows = execute_stream(plan, state.task_ctx()).map_err(failed)?;
        let (mut batches, mut bytes) = (Vec::new(), 0_usize);
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(failed)?;
            bytes = bytes.saturating_add(batch.get_array_memory_size());
            if bytes > limit {
                return Ok(None);
            }
            batches.push(batch);
        }
        Ok(Some((batches, bytes)))
    }

    /// Are the files still those that the batch began with? Only asked of those that the plan has read itself.
    ///
    /// # Errors
    /// `Unavailable` if not; as `refresh`.
    async fn check_unchanged(&self) -> Result<()> {
        let began_with = match &*self.current() {
            Current { version, rows: Some(Rows::Files(_)), .. } => version.clone(),
            _ => return Ok(()),
        };
        if Some(self.stored.version().await?) == began_with {
            return Ok(());
        }
        let message = format!("the files of the table {} changed while a batch read them", self.stored.name());
        Err(Error::new(ErrorKind::Unavailable, message)
            .help("start again: nothing of the batch is visible, and it is run over the files that are there now"))
    }
}

/// Looks at the files of all tables, before a batch.
///
/// # Errors
/// `NotFound`, naming the table; what reading them gives.
pub async fn refresh(tables: &[Arc<StaticTable>], state: &SessionState) -> Result<Vec<FilesVersion>> {
    refresh_within(tables, state, STATIC_TABLES_MEMORY_BYTES).await
}

/// `limit` bytes for all of them together.
async fn refresh_within(tables: &[Arc<StaticTable>], state: &SessionState, limit: usize) -> Result<Vec<FilesVersion>> {
    let mut versions = Vec::with_capacity(tables.len());
    for table in tables {
        let others = tables.iter().filter(|other| !Arc::ptr_eq(other, table));
        let held: usize = others.map(|other| other.current().bytes).sum();
        versions.push(table.refresh(state, limit.saturating_sub(held)).await?);
    }
    Ok(versions)
}

/// Refuses a batch whose files have changed under it.
///
/// # Errors
/// `Unavailable`; as `refresh`.
pub async fn check_unchanged(tables: &[Arc<StaticTable>]) -> Result<()> {
    for table in tables {
        table.check_unchanged().await?;
    }
    Ok(())
}

#[async_trait]
impl TableProvider for StaticTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.stored.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Directories and row groups are left out by the filters, and the rows filtered again.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.stored.schema().fields().len()).collect());
        let schema = Arc::new(self.stored.schema().project(&columns)?);
        let rows = self.current().rows.clone();
        let plan = match rows {
            Some(Rows::Memory(batches)) => {
                let wanted = self.wanted.get().map(Vec::as_slice).unwrap_or_default();
                let kept = columns.iter().map(|column| wanted.iter().position(|kept| kept == column));
                let Some(kept) = kept.collect::<Option<Vec<usize>>>() else {
                    return plan_err!("a column of {} is read that was not planned", self.stored.name());
                };
                let whole = Arc::new(self.stored.schema().project(wanted)?);
                return Ok(MemorySourceConfig::try_new_exec(&[batches.to_vec()], whole, Some(kept))?);
            }
            Some(Rows::Files(files)) => Some(files.scan(state, Some(&columns), filters, limit).await?),
            None => None,
        };
        let stored = Arc::clone(&self.stored);
        let scan = FilesScan { schema: Arc::clone(&schema), plan, stored };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(scan)], None, [], false, None)?))
    }
}

/// Reads the files themselves. Its errors are never taken for those of a record.
#[derive(Debug)]
struct FilesScan {
    schema: SchemaRef,
    /// Absent in a plan that is only looked at.
    plan: Option<Arc<dyn ExecutionPlan>>,
    stored: Arc<StoredTable>,
}

impl PartitionStream for FilesScan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let stored = Arc::clone(&self.stored);
        let rows = match &self.plan {
            Some(plan) => execute_stream(Arc::clone(plan), context),
            None => Err(Error::internal(format!("the files of {} were not looked at", stored.name())).into()),
        };
        let rows = futures::stream::iter([rows]).try_flatten();
        let rows = rows.map_err(move |error| stored.failed(error).into());
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use super::*;
    use crate::catalog::{Connector, Job, Variables};

    async fn rows(table: &Arc<StaticTable>, state: &SessionState) -> usize {
        let plan = table.scan(state, Some(&vec![1]), &[], None).await.unwrap();
        let rows: Vec<RecordBatch> = execute_stream(plan, state.task_ctx()).unwrap().try_collect().await.unwrap();
        assert!(rows.iter().all(|batch| batch.num_columns() == 1 && batch.schema().field(0).name() == "name"));
        rows.iter().map(RecordBatch::num_rows).sum()
    }

    /// Over the CSV files of a directory; the query reads both columns, here and there.
    async fn table(directory: &Path, state: &SessionState) -> Arc<StaticTable> {
        let place = directory.display();
        let sql = format!(
            "CREATE TABLE s (id INT, name STRING) WITH (connector = 'file', path = '{place}', format = 'csv');"
        );
        let job = Job::parse("job.sql", &sql, &Variables::default()).unwrap();
        let Connector::File(file) = &job.tables[0].connector else { panic!("a file table") };
        let stored = StoredTable::open(state, &job, &job.tables[0], file).await.unwrap();
        let table = StaticTable::new(stored);
        table.wanted.get_or_init(|| vec![0, 1]);
        Arc::new(table)
    }

    fn state() -> SessionState {
        crate::session::session(crate::session::SessionLimits { memory_bytes: 64 << 20, partitions: 1 })
            .unwrap()
            .state()
    }

    fn is_in_memory(table: &StaticTable) -> bool {
        matches!(&table.current().rows, Some(Rows::Memory(_)))
    }

    #[tokio::test]
    async fn is_kept_in_memory_if_it_fits_and_read_again_if_it_changed() {
        let (directory, state) = (tempfile::tempdir().unwrap(), state());
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("a.csv", "1,BTC\n2,ETH\n");
        let table = table(directory.path(), &state).await;
        let version = table.refresh(&state, 1 << 20).await.unwrap();
        assert!(is_in_memory(&table) && table.current().bytes > 0);
        assert_eq!((rows(&table, &state).await, table.refresh(&state, 1 << 20).await.unwrap()), (2, version.clone()));
        write("b.csv", "3,EUR\n");
        // Too little room: the files are read when the plan asks for them, and must not change meanwhile.
        assert_ne!(table.refresh(&state, 1).await.unwrap(), version);
        assert!(matches!(&table.current().rows, Some(Rows::Files(_))) && table.current().bytes == 0);
        assert_eq!(rows(&table, &state).await, 3);
        table.check_unchanged().await.unwrap();
        write("c.csv", "4,USD\n");
        assert_eq!(table.check_unchanged().await.unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn all_tables_together_keep_no_more_in_memory_than_the_limit() {
        let (directory, state) = (tempfile::tempdir().unwrap(), state());
        std::fs::write(directory.path().join("a.csv"), "1,BTC\n2,ETH\n").unwrap();
        let tables = [table(directory.path(), &state).await, table(directory.path(), &state).await];
        refresh_within(&tables, &state, 1 << 20).await.unwrap();
        assert!(tables.iter().all(|table| is_in_memory(table)));
        let bytes = tables[0].current().bytes;
        std::fs::write(directory.path().join("a.csv"), "1,BTC\n2,ETHER\n").unwrap();
        // What the second held counts until it is read again.
        tables.iter().for_each(|table| *table.current() = Current::default());
        refresh_within(&tables, &state, bytes * 3 / 2).await.unwrap();
        assert!(is_in_memory(&tables[0]) && !is_in_memory(&tables[1]));
        assert_eq!((rows(&tables[0], &state).await, rows(&tables[1], &state).await), (2, 2));
    }

    #[tokio::test]
    async fn files_that_never_stand_still_are_an_error() {
        let (directory, state) = (tempfile::tempdir().unwrap(), state());
        std::fs::write(directory.path().join("a.csv"), "1,BTC\n").unwrap();
        let table = table(directory.path(), &state).await;
        let (stop, place) = (Arc::new(AtomicBool::new(false)), directory.path().to_owned());
        let stopped = Arc::clone(&stop);
        // A file more, all the time.
        let writing = std::thread::spawn(move || {
            for number in (0..5_000).take_while(|_| !stopped.load(Ordering::Relaxed)) {
                std::fs::write(place.join(format!("b{number}.csv")), "2,ETH\n").unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let refreshed = table.refresh(&state, 1 << 20).await;
        stop.store(true, Ordering::Relaxed);
        writing.join().unwrap();
        let error = refreshed.unwrap_err();
        assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("change while they are read"));
        // And then they do.
        table.refresh(&state, 1 << 30).await.unwrap();
    }
}
