//! Joins rows that have waited with their partners, piece by piece.
//!
//! A hash join keeps one side in memory. How many rows have waited long enough follows the backlog, so they are taken a
//! piece at a time, and for each the partners are read that it may meet: a piece is of a stretch of time, mostly, and
//! so are the files of state.

use std::{fmt, sync::Arc};

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::{Schema, SchemaRef},
};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::{
    common::{
        DFSchema, DFSchemaRef, JoinSide, JoinType, NullEquality, Result as DataFusionResult, internal_err, plan_err,
    },
    datasource::memory::MemorySourceConfig,
    execution::TaskContext,
    logical_expr::{Expr, Extension, Join, LogicalPlan, UserDefinedLogicalNodeCore},
    physical_expr::PhysicalExpr,
    physical_plan::{
        DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, InputDistributionRequirements, PlanProperties,
        SendableRecordBatchStream,
        joins::{
            HashJoinExec, PartitionMode,
            utils::{ColumnIndex, JoinFilter},
        },
        stream::RecordBatchStreamAdapter,
    },
};
use futures::StreamExt;

use super::{exec::one_partition, interval::Reach, partners::PartnersExec};
use crate::state::{micros, slice_bytes};

/// Rows of a piece: beyond it the next one begins. The table of the hash join comes on top.
const PIECE_BYTES: usize = if cfg!(test) { 256 } else { 8 << 20 };

/// Makes an expression over the columns of a schema.
type Physical<'a> = &'a dyn Fn(&Expr, &DFSchema) -> DataFusionResult<Arc<dyn PhysicalExpr>>;

/// A join of rows that have waited, on the left, with their partners.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Hash)]
pub struct Pairs {
    pub join: Join,
    pub reach: Reach,
}

impl Pairs {
    /// It as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// What runs it.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn plan(
        &self,
        inputs: &[Arc<dyn ExecutionPlan>],
        physical: Physical<'_>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let [left, right] = inputs else { return plan_err!("a join has two sides") };
        let Some(right) = right.downcast_ref::<PartnersExec>() else {
            return plan_err!("the right side of a join of streams is read as often as it is needed");
        };
        let join = &self.join;
        let (left_schema, right_schema) = (join.left.schema(), join.right.schema());
        let on = join.on.iter().map(|(l, r)| Ok((physical(l, left_schema)?, physical(r, right_schema)?)));
        let on = on.collect::<DataFusionResult<Vec<_>>>()?;
        let filter = match &join.filter {
            Some(filter) => Some(join_filter(filter, (left_schema, right_schema), physical)?),
            None => None,
        };
        let schema = Arc::clone(join.schema.inner());
        let properties = one_partition(left, &schema);
        Ok(Arc::new(PairsExec {
            left: Arc::clone(left),
            right: right.clone(),
            on,
            filter,
            join_type: join.join_type,
            null_equality: join.null_equality,
            reach: self.reach,
            schema,
            properties,
        }))
    }
}

/// A condition over both sides, as the hash join wants it: over the columns that it uses.
fn join_filter(
    filter: &Expr,
    (left, right): (&DFSchema, &DFSchema),
    physical: Physical<'_>,
) -> DataFusionResult<JoinFilter> {
    let (mut fields, mut indices) = (Vec::new(), Vec::new());
    for column in filter.column_refs() {
        let (index, side, schema) = match left.maybe_index_of_column(column) {
            Some(index) => (index, JoinSide::Left, left),
            None => (right.index_of_column(column)?, JoinSide::Right, right),
        };
        let (table, field) = schema.qualified_field(index);
        fields.push((table.cloned(), Arc::clone(field)));
        indices.push(ColumnIndex { index, side });
    }
    let schema = DFSchema::new_with_metadata(fields, std::collections::HashMap::new())?;
    Ok(JoinFilter::new(physical(filter, &schema)?, indices, Arc::clone(schema.inner())))
}

impl UserDefinedLogicalNodeCore for Pairs {
    fn name(&self) -> &str {
        "Pairs"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.join.left, &self.join.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.join.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let on: Vec<String> = self.join.on.iter().map(|(left, right)| format!("{left} = {right}")).collect();
        write!(f, "Pairs: {} {}", self.join.join_type, on.join(", "))?;
        self.join.filter.iter().try_for_each(|filter| write!(f, ", {filter}"))
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        let Ok([left, right]) = <[LogicalPlan; 2]>::try_from(inputs) else { return plan_err!("a join has two sides") };
        let join = Join { left: Arc::new(left), right: Arc::new(right), ..self.join.clone() };
        Ok(Self { join, reach: self.reach })
    }
}

/// Runs `Pairs`. Memory: a piece of the left side and the hash join's table of it.
#[derive(Debug, Clone)]
struct PairsExec {
    left: Arc<dyn ExecutionPlan>,
    right: PartnersExec,
    on: Vec<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    filter: Option<JoinFilter>,
    join_type: JoinType,
    null_equality: NullEquality,
    reach: Reach,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl PairsExec {
    /// The pairs of one piece.
    fn join(&self, piece: Vec<RecordBatch>, context: &Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let (mut first_us, mut last_us) = (i64::MAX, i64::MIN);
        for batch in &piece {
            let times = micros(batch.column(self.reach.left))?;
            first_us = times.iter().flatten().fold(first_us, i64::min);
            last_us = times.iter().flatten().fold(last_us, i64::max);
        }
        let times_us = (first_us.saturating_add(self.reach.from_us), last_us.saturating_add(self.reach.to_us));
        let left = MemorySourceConfig::try_new_exec(&[piece], self.left.schema(), None)?;
        let join = HashJoinExec::try_new(
            left,
            Arc::new(self.right.between(times_us)),
            self.on.clone(),
            self.filter.clone(),
            &self.join_type,
            None,
            PartitionMode::CollectLeft,
            self.null_equality,
            false,
        )?;
        let schema = Arc::clone(&self.schema);
        let pairs = join.execute(0, Arc::clone(context))?.map(move |batch| as_schema(&schema, &batch?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), pairs)))
    }
}

fn as_schema(schema: &Arc<Schema>, batch: &RecordBatch) -> DataFusionResult<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)?)
}

/// The next piece; empty at the end.
async fn piece(left: &mut SendableRecordBatchStream) -> DataFusionResult<Vec<RecordBatch>> {
    let (mut piece, mut bytes) = (Vec::new(), 0);
    while bytes < PIECE_BYTES
        && let Some(batch) = left.next().await
    {
        let batch = batch?;
        bytes += slice_bytes(&batch);
        if batch.num_rows() > 0 {
            piece.push(batch);
        }
    }
    Ok(piece)
}

impl DisplayAs for PairsExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let on: Vec<String> = self.on.iter().map(|(left, right)| format!("{left} = {right}")).collect();
        write!(f, "PairsExec: {} on=[{}]", self.join_type, on.join(", "))
    }
}

impl ExecutionPlan for PairsExec {
    fn name(&self) -> &str {
        "PairsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.left]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let Ok([left]) = <[_; 1]>::try_from(children) else { return internal_err!("one input") };
        Ok(Arc::new(Self { left, ..Self::clone(&self) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let left = self.left.execute(partition, Arc::clone(&context))?;
        let start = (self.clone(), left, None::<SendableRecordBatchStream>);
        let pairs = futures::stream::try_unfold(start, move |(plan, mut left, mut pairs)| {
            let context = Arc::clone(&context);
            async move {
                loop {
                    if let Some(joined) = &mut pairs
                        && let Some(batch) = joined.next().await
                    {
                        return Ok(Some((batch?, (plan, left, pairs))));
                    }
                    let next = piece(&mut left).await?;
                    if next.is_empty() {
                        return Ok(None);
                    }
                    pairs = Some(plan.join(next, &context)?);
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), pairs)))
    }
}
