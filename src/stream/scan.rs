//! Kafka tables inside a plan.
//!
//! A table is read and decoded once per batch, however often the plan scans it: its rows go into a bounded queue for
//! each scan, with the columns of that scan. A queue that is full holds up the others of its table, so all scans of a
//! table have to run at the same time; DataFusion does so with the branches of a UNION ALL.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider, default_table_source::source_as_provider},
    common::{Result as DataFusionResult, tree_node::TreeNode},
    execution::TaskContext,
    logical_expr::{Expr, LogicalPlan, TableScan, TableType},
    physical_plan::{
        ExecutionPlan, SendableRecordBatchStream,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
};
use futures::future::try_join_all;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// Decoded batches in the queue of one scan.
const SCAN_QUEUE_BATCHES: usize = 1;

/// Decoded rows on their way into a plan.
pub type Rows = Receiver<Result<RecordBatch>>;

/// A Kafka table as plans see it.
#[derive(Debug)]
pub struct StreamTable {
    schema: SchemaRef,
    /// Of the plan that is being made.
    scans: Mutex<Vec<Scan>>,
}

#[derive(Debug, Clone)]
struct Scan {
    /// Indices into the table's columns, or into those that are decoded.
    columns: Vec<usize>,
    slot: Arc<Slot>,
}

/// Which run of a plan: the first has none in its context. What is left of a run that failed (a task that had not begun
/// when it was given up) must not take the rows of the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Run(pub u64);

/// Holds the rows of a scan until it is executed.
#[derive(Debug, Default)]
struct Slot(Mutex<Option<(Run, Rows)>>);

impl Slot {
    fn fill(&self, run: Run, rows: Rows) {
        drop(self.lock().replace((run, rows)));
    }

    /// The rows of `run`, if nobody took them.
    fn take(&self, run: Run) -> Option<Rows> {
        self.lock().take_if(|(of, _)| *of == run).map(|(_, rows)| rows)
    }

    fn clear(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Run, Rows)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one plan reads of one Kafka table.
#[derive(Debug, Clone, Default)]
pub struct TableScans {
    /// Indices into the table's columns, ascending: what must be decoded. A plan that is empty by its text (WHERE false)
    /// has no scan; its records are consumed and filtered.
    pub projection: Vec<usize>,
    scans: Vec<Scan>,
}

impl StreamTable {
    /// With the columns of `schema`.
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema, scans: Mutex::default() }
    }

    /// The scans since this was asked last.
    pub fn take_scans(&self) -> TableScans {
        let mut scans = std::mem::take(&mut *self.scans.lock().unwrap_or_else(PoisonError::into_inner));
        let mut projection: Vec<usize> = scans.iter().flat_map(|scan| scan.columns.iter().copied()).collect();
        projection.sort_unstable();
        projection.dedup();
        for column in scans.iter_mut().flat_map(|scan| &mut scan.columns) {
            *column = projection.partition_point(|decoded| decoded < column);
        }
        TableScans { projection, scans }
    }
}

impl TableScans {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.scans.len()
    }

    /// Gives each scan all of `rows` at once, which have the columns of `projection`, for one run of the plan.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn put(&self, run: Run, rows: &RecordBatch) -> Result<()> {
        for scan in &self.scans {
            let (sender, receiver) = channel(1);
            let sent = sender.try_send(Ok(rows.project(&scan.columns)?));
            sent.map_err(|error| Error::internal(format!("a step's rows were not taken: {error}")))?;
            scan.slot.fill(run, receiver);
        }
        Ok(())
    }

    /// Lets the scans be empty that were not executed: nobody must wait for them to take rows.
    pub fn close(&self) {
        for scan in &self.scans {
            scan.slot.clear();
        }
    }

    fn open(&self, rows: Rows) -> Feed {
        let queue = |scan: &Scan| {
            let (sender, receiver) = channel(SCAN_QUEUE_BATCHES);
            scan.slot.fill(Run::default(), receiver);
            (scan.columns.clone(), sender)
        };
        Feed { rows, queues: self.scans.iter().map(queue).collect() }
    }
}

/// From the decoder to the scans of one table.
struct Feed {
    rows: Rows,
    queues: Vec<(Vec<usize>, Sender<Result<RecordBatch>>)>,
}

impl Feed {
    /// Until the rows end. A scan that stops before (a join with nothing needs no rows) is passed over.
    async fn run(mut self) -> Result<()> {
        while let Some(batch) = self.rows.recv().await {
            match batch {
                Ok(batch) => {
                    for (columns, queue) in self.queues.iter().filter(|(_, queue)| !queue.is_closed()) {
                        drop(queue.send(Ok(batch.project(columns)?)).await);
                    }
                }
                Err(error) => {
                    // A plan must not take this for the end of the batch.
                    for (_, queue) in &self.queues {
                        drop(queue.send(Err(Error::internal("its input broke off"))).await);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Does `work`, which runs a plan with `reads`, while `rows` (one for each table) flow into its scans: all of them, also
/// those that the plan does not take any more. If the work fails they flow no further.
///
/// # Errors
/// What came through `rows`, else the work's.
pub async fn fed<T, E: From<Error>>(
    reads: &[TableScans],
    rows: Vec<Rows>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let feeds: Vec<Feed> = reads.iter().zip(rows).map(|(scans, rows)| scans.open(rows)).collect();
    let failed = CancellationToken::new();
    let feeding = async {
        tokio::select! {
            fed = try_join_all(feeds.into_iter().map(Feed::run)) => fed.map(|_| ()),
            () = failed.cancelled() => Ok(()),
        }
    };
    let working = async {
        let done = work.await;
        if done.is_err() {
            failed.cancel();
        }
        reads.iter().for_each(TableScans::close);
        done
    };
    let (fed, done) = tokio::join!(feeding, working);
    fed?;
    done
}

/// The Kafka table that a node scans, if it does.
pub fn stream_table(node: &LogicalPlan) -> Option<Arc<dyn TableProvider>> {
    let LogicalPlan::TableScan(TableScan { source, .. }) = node else { return None };
    source_as_provider(source).ok().filter(|provider| provider.is::<StreamTable>())
}

/// Does the plan read the rows of a batch: a Kafka table, or what an operator gives (a leaf of ours)?
pub fn reads_stream(plan: &LogicalPlan) -> bool {
    let is_stream = |node: &LogicalPlan| match node {
        LogicalPlan::Extension(extension) => extension.node.inputs().is_empty(),
        node => stream_table(node).is_some(),
    };
    // The closure cannot fail.
    plan.exists(|node| Ok(is_stream(node))).unwrap_or(true)
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&columns)?);
        let slot = Arc::<Slot>::default();
        let partition = StreamPartition { schema: Arc::clone(&schema), slot: Arc::clone(&slot) };
        self.scans.lock().unwrap_or_else(PoisonError::into_inner).push(Scan { columns, slot });
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(partition)], None, [], false, None)?))
    }
}

#[derive(Debug)]
struct StreamPartition {
    schema: SchemaRef,
    slot: Arc<Slot>,
}

impl PartitionStream for StreamPartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let run = context.session_config().get_extension::<Run>().map_or_else(Run::default, |run| *run);
        let stream = futures::stream::unfold(self.slot.take(run), |rows| async move {
            let mut rows = rows?;
            let batch = rows.recv().await?;
            Some((batch.map_err(Into::into), Some(rows)))
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream))
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::Int32Array,
        datatypes::{DataType, Field, Schema},
    };
    use datafusion::prelude::SessionConfig;
    use futures::StreamExt;

    use super::*;
    use crate::session::{SessionLimits, session};

    #[tokio::test]
    async fn what_is_left_of_a_run_takes_no_rows_of_the_next() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, true)]));
        let limits = SessionLimits { memory_bytes: 1 << 20, partitions: 1 };
        let (table, session) = (StreamTable::new(Arc::clone(&schema)), session(limits).unwrap());
        let plan = table.scan(&session.state(), None, &[], None).await.unwrap();
        let scans = table.take_scans();
        let rows = RecordBatch::try_new(schema, vec![Arc::new(Int32Array::from(vec![1, 2]))]).unwrap();
        let context = |run: u64| {
            let config = SessionConfig::new().with_extension(Arc::new(Run(run)));
            Arc::new(TaskContext::default().with_session_config(config))
        };
        scans.put(Run(1), &rows).unwrap();
        scans.put(Run(2), &rows).unwrap();
        for (run, expected) in [(1, 0), (2, 1), (2, 0)] {
            let stream = plan.execute(0, context(run)).unwrap();
            assert_eq!(stream.count().await, expected, "run {run}");
        }
        assert_eq!(plan.execute(0, Arc::default()).unwrap().count().await, 0);
    }
}
