//! The rows of one side of a join, as a leaf of a plan that may be read more than once.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::{Result as DataFusionResult, tree_node::TreeNodeRecursion},
    execution::TaskContext,
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
};

use crate::state::PartnerScan;

/// Where the plan of a batch finds the scan: nowhere, if no row can have partners.
#[derive(Debug, Default)]
pub struct PartnerSlot(Mutex<Option<PartnerScan>>);

impl PartnerSlot {
    /// For the executions to come.
    pub fn put(&self, scan: PartnerScan) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(scan);
    }

    fn scan(&self) -> Option<PartnerScan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Gives the rows of a scan, each time that it is executed.
#[derive(Debug, Clone)]
pub struct PartnersExec {
    slot: Arc<PartnerSlot>,
    /// Microseconds since the epoch, both included.
    times_us: (i64, i64),
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl PartnersExec {
    /// With rows of `schema`.
    pub fn new(slot: Arc<PartnerSlot>, schema: SchemaRef) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { slot, times_us: (i64::MIN, i64::MAX), schema, properties: Arc::new(properties) }
    }

    /// Those whose event times are in `times_us`, both included.
    #[must_use]
    pub fn between(&self, times_us: (i64, i64)) -> Self {
        Self { times_us, ..self.clone() }
    }
}

impl DisplayAs for PartnersExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("PartnersExec")
    }
}

impl ExecutionPlan for PartnersExec {
    fn name(&self) -> &str {
        "PartnersExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let scan = self.slot.scan().map(|scan| scan.between(self.times_us));
        let rows = futures::stream::try_unfold(scan, |scan| async move {
            let Some(mut scan) = scan else { return Ok(None) };
            Ok(scan.next().await?.map(|batch| (batch, Some(scan))))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }
}
