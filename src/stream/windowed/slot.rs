//! Rows of state on their way into a plan.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{
    execution::TaskContext,
    physical_plan::{
        ExecutionPlan, SendableRecordBatchStream,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
};

use crate::error::Result;

/// Rows of state for the scan of a plan.
pub type StateRows = std::pin::Pin<Box<dyn futures::Stream<Item = Result<RecordBatch>> + Send>>;
/// The leaf of a plan that gives the rows of `slot`.
///
/// # Errors
/// DataFusion's.
pub fn from_slot(schema: &SchemaRef, slot: &Arc<Slot>) -> Result<Arc<dyn ExecutionPlan>> {
    let partition = StateStream { schema: Arc::clone(schema), slot: Arc::clone(slot) };
    let schema = Arc::clone(schema);
    Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(partition)], None, [], false, None)?))
}

/// Holds the rows of a scan until it is executed.
#[derive(Default)]
pub struct Slot(Mutex<Option<StateRows>>);

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl Slot {
    fn take(&self) -> Option<StateRows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Has no plan read the rows?
    pub fn is_unread(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// For the next execution.
    pub fn put(&self, rows: StateRows) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(rows);
    }
}

#[derive(Debug)]
struct StateStream {
    schema: SchemaRef,
    slot: Arc<Slot>,
}

impl PartitionStream for StateStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        use futures::StreamExt;
        // Not before they are asked for: a join with nothing leaves its other side alone.
        let slot = Arc::clone(&self.slot);
        let rows = futures::stream::once(async move { slot.take() }).flat_map(futures::stream::iter).flatten();
        let rows = rows.map(|batch: Result<RecordBatch>| batch.map_err(Into::into));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}
