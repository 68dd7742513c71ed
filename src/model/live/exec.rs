//! `ML_FORECAST` as it runs: over rows in the order of time, in one partition.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{
    compute::SortOptions,
    datatypes::{DataType, Schema, SchemaRef},
};
use async_trait::async_trait;
use datafusion::{
    catalog::Session,
    common::{Result as DataFusionResult, internal_err, tree_node::TreeNodeRecursion},
    execution::TaskContext,
    logical_expr::{LogicalPlan, UserDefinedLogicalNode, physical_planning_context::PhysicalPlanningContext},
    physical_expr::{
        EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr, PhysicalSortExpr, expressions::Column,
    },
    physical_plan::{
        DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties,
        InputDistributionRequirements, Partitioning, PlanProperties, SendableRecordBatchStream,
        execution_plan::EmissionType, stream::RecordBatchStreamAdapter,
    },
    physical_planner::{ExtensionPlanner, PhysicalPlanner},
};
use futures::StreamExt;

use super::{
    forecaster::Forecaster,
    node::{Forecast, Question},
    rows::Columns,
};

/// Where the plan of a stream's batch finds the forecaster, as an extension of the session: it is there before the plan
/// runs, and has learned when it is done. In a query without one each run starts anew.
#[derive(Debug)]
pub struct ForecastSlot {
    pub question: Question,
    forecaster: Mutex<Option<Forecaster>>,
}

impl ForecastSlot {
    /// Without a forecaster.
    pub fn new(question: Question) -> Self {
        Self { question, forecaster: Mutex::default() }
    }

    /// For the next run, or after it.
    pub fn put(&self, forecaster: Forecaster) {
        *self.forecaster.lock().unwrap_or_else(PoisonError::into_inner) = Some(forecaster);
    }

    /// `None` if a run was given up that had it.
    pub fn take(&self) -> Option<Forecaster> {
        self.forecaster.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Plans the node.
#[derive(Debug)]
pub struct ForecastExtension;

#[async_trait]
impl ExtensionPlanner for ForecastExtension {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        _session: &dyn Session,
        _context: &PhysicalPlanningContext,
    ) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
        let (Some(node), [input]) = (node.as_any().downcast_ref::<Forecast>(), physical_inputs) else {
            return Ok(None);
        };
        let schema =
            Arc::new(Schema::clone(datafusion::logical_expr::UserDefinedLogicalNodeCore::schema(node).as_arrow()));
        let exec = ForecastExec::try_new(Arc::clone(input), node.columns()?, schema, node.question()?.forecaster())?;
        Ok(Some(Arc::new(exec)))
    }
}

/// One row in, one row out.
#[derive(Debug, Clone)]
struct ForecastExec {
    input: Arc<dyn ExecutionPlan>,
    columns: Columns,
    /// Of the rows that come out.
    schema: SchemaRef,
    /// Before the first row.
    fresh: Forecaster,
    ordering: LexOrdering,
    properties: Arc<PlanProperties>,
}

impl ForecastExec {
    fn try_new(
        input: Arc<dyn ExecutionPlan>,
        columns: Columns,
        schema: SchemaRef,
        fresh: Forecaster,
    ) -> DataFusionResult<Self> {
        let rows = input.schema();
        // By time, then by all that can be compared: rows that are equal in all that is left may be in any order.
        let first = std::iter::once(columns.time).chain(columns.keys.iter().copied());
        let others = (0..rows.fields().len()).filter(|at| *at != columns.time && !columns.keys.contains(at));
        let is_sorted = |at: &usize| {
            !matches!(rows.field(*at).data_type(), DataType::Null) && !rows.field(*at).data_type().is_nested()
        };
        let options = SortOptions { descending: false, nulls_first: true };
        let sorted = first.chain(others).filter(is_sorted).map(|at| {
            let expr: Arc<dyn PhysicalExpr> = Arc::new(Column::new(rows.field(at).name(), at));
            PhysicalSortExpr { expr, options }
        });
        let Some(ordering) = LexOrdering::new(sorted) else { return internal_err!("ML_FORECAST is ordered by time") };
        let equivalence = EquivalenceProperties::new(Arc::clone(&schema));
        let partitioning = Partitioning::UnknownPartitioning(1);
        let properties = PlanProperties::new(equivalence, partitioning, EmissionType::Incremental, input.boundedness());
        Ok(Self { input, columns, schema, fresh, ordering, properties: Arc::new(properties) })
    }
}

impl DisplayAs for ForecastExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForecastExec: {} from [{}]", self.fresh.options().target, self.fresh.names().join(", "))
    }
}

impl ExecutionPlan for ForecastExec {
    fn name(&self) -> &'static str {
        "ForecastExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![Some(OrderingRequirements::from(self.ordering.clone()))]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children) else {
            return internal_err!("ForecastExec has one input");
        };
        Ok(Arc::new(Self::try_new(input, self.columns.clone(), Arc::clone(&self.schema), self.fresh.clone())?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let slot = context.session_config().get_extension::<ForecastSlot>();
        let forecaster = match &slot {
            None => self.fresh.clone(),
            Some(slot) => match slot.take() {
                Some(forecaster) => forecaster,
                None => return internal_err!("ML_FORECAST runs twice in one batch"),
            },
        };
        let run = Run { forecaster, slot, columns: self.columns.clone(), schema: Arc::clone(&self.schema) };
        let input = self.input.execute(partition, context)?;
        let rows = futures::stream::unfold((input, Some(run)), |(mut input, run)| async move {
            let mut run = run?;
            match input.next().await {
                Some(batch) => {
                    match batch.and_then(|batch| Ok(run.forecaster.apply(&run.columns, &batch, &run.schema)?)) {
                        Ok(batch) => Some((Ok(batch), (input, Some(run)))),
                        Err(error) => Some((Err(error), (input, None))),
                    }
                }
                None => {
                    if let Some(slot) = &run.slot {
                        slot.put(run.forecaster);
                    }
                    None
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }
}

struct Run {
    forecaster: Forecaster,
    slot: Option<Arc<ForecastSlot>>,
    columns: Columns,
    schema: SchemaRef,
}
