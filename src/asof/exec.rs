//! Merges two sides that come sorted by keys and time.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array},
    buffer::NullBuffer,
    compute::{SortOptions, filter_record_batch, interleave},
    datatypes::SchemaRef,
    row::{OwnedRow, RowConverter, Rows, SortField},
};
use datafusion::{
    common::{Result as DataFusionResult, internal_err, tree_node::TreeNodeRecursion},
    execution::TaskContext,
    physical_expr::{EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr, PhysicalSortExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties,
        InputDistributionRequirements, Partitioning, PlanProperties, SendableRecordBatchStream,
        execution_plan::EmissionType,
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::StreamExt;

/// Batches of the right side of which rows are taken at once: then what is ready is given out.
const RIGHT_BATCHES_MAX: usize = if cfg!(test) { 2 } else { 64 };

/// One side, and by what it is sorted.
#[derive(Debug, Clone)]
pub struct Side {
    pub input: Arc<dyn ExecutionPlan>,
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The time first.
    pub order: Vec<Arc<dyn PhysicalExpr>>,
}

impl Side {
    fn ordering(&self) -> Option<LexOrdering> {
        let options = SortOptions { descending: false, nulls_first: true };
        let sorted = self.keys.iter().chain(&self.order).cloned();
        LexOrdering::new(sorted.map(|expr| PhysicalSortExpr { expr, options }))
    }

    fn exprs(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        self.keys.iter().chain(self.order.first())
    }
}

/// Each row of the left side with the last of the right side. Memory: a batch of the left side, and those of the right
/// side that its partners are in.
#[derive(Debug, Clone)]
pub struct AsofJoinExec {
    left: Side,
    right: Side,
    strict: bool,
    outer: bool,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl AsofJoinExec {
    /// `schema` is that of both sides, one after the other.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn try_new(
        left: Side,
        right: Side,
        (strict, outer): (bool, bool),
        schema: SchemaRef,
    ) -> DataFusionResult<Self> {
        if left.keys.len() != right.keys.len() || left.order.is_empty() || right.order.is_empty() {
            return internal_err!("the sides of an as-of join do not fit");
        }
        let equivalence = EquivalenceProperties::new(Arc::clone(&schema));
        let partitioning = Partitioning::UnknownPartitioning(left.input.output_partitioning().partition_count());
        let boundedness = left.input.boundedness();
        let properties = PlanProperties::new(equivalence, partitioning, EmissionType::Incremental, boundedness);
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Self { left, right, strict, outer, schema, properties: Arc::new(properties), metrics })
    }

    fn start(&self, partition: usize, context: &Arc<TaskContext>) -> DataFusionResult<Merge> {
        let schema = self.left.input.schema();
        let fields = self.left.exprs().map(|expr| Ok(SortField::new(expr.data_type(&schema)?)));
        let fields: Vec<SortField> = fields.collect::<DataFusionResult<_>>()?;
        let keys = fields.get(..self.left.keys.len()).unwrap_or_default().to_vec();
        let nulls = self.right.input.schema();
        let nulls = nulls.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        Ok(Merge {
            plan: self.clone(),
            left: self.left.input.execute(partition, Arc::clone(context))?,
            right: self.right.input.execute(partition, Arc::clone(context))?,
            converters: (RowConverter::new(keys)?, RowConverter::new(fields)?),
            waiting: None,
            current: None,
            last: None,
            nulls,
        })
    }
}

impl DisplayAs for AsofJoinExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.left.keys.iter().zip(&self.right.keys).map(|(left, right)| format!("{left} = {right}"));
        let (kind, than) = (if self.outer { "Left" } else { "Inner" }, if self.strict { ">" } else { ">=" });
        write!(f, "AsofJoinExec: {kind}, keys=[{}]", keys.collect::<Vec<_>>().join(", "))?;
        match (self.left.order.first(), self.right.order.first()) {
            (Some(left), Some(right)) => write!(f, ", last of {left} {than} {right}"),
            _ => Ok(()),
        }
    }
}

impl ExecutionPlan for AsofJoinExec {
    fn name(&self) -> &'static str {
        "AsofJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.left.input, &self.right.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let sides = [&self.left, &self.right];
        InputDistributionRequirements::co_partitioned(
            sides.map(|side| Distribution::KeyPartitioned(side.keys.clone())).to_vec(),
        )
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        [&self.left, &self.right].map(|side| side.ordering().map(OrderingRequirements::from)).to_vec()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        let mut recursion = TreeNodeRecursion::Continue;
        for expr in [&self.left, &self.right].into_iter().flat_map(|side| side.keys.iter().chain(&side.order)) {
            recursion = recursion.visit_sibling(|| f(expr))?;
        }
        Ok(recursion)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let Ok([left, right]) = <[Arc<dyn ExecutionPlan>; 2]>::try_from(children) else {
            return internal_err!("AsofJoinExec has two inputs");
        };
        let left = Side { input: left, ..self.left.clone() };
        let right = Side { input: right, ..self.right.clone() };
        Ok(Arc::new(Self::try_new(left, right, (self.strict, self.outer), Arc::clone(&self.schema))?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let merge = self.start(partition, &context)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let batches = futures::stream::try_unfold((merge, metrics), |(mut merge, metrics)| async move {
            let batch = merge.next().await?;
            metrics.record_output(batch.as_ref().map_or(0, RecordBatch::num_rows));
            Ok(batch.map(|batch| (batch, (merge, metrics))))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// A batch, and what its rows are compared by.
struct Sorted {
    batch: RecordBatch,
    keys: Rows,
    /// Keys and time.
    rows: Rows,
    /// Rows without NULL in keys and time: others have no partner.
    known: Option<NullBuffer>,
    /// The next row.
    at: usize,
}

impl Sorted {
    fn new(side: &Side, batch: RecordBatch, (keys, rows): (&RowConverter, &RowConverter)) -> DataFusionResult<Self> {
        let columns = side.exprs().map(|expr| expr.evaluate(&batch)?.into_array(batch.num_rows()));
        let columns = columns.collect::<DataFusionResult<Vec<ArrayRef>>>()?;
        let known = columns
            .iter()
            .fold(None, |known, column| NullBuffer::union(known.as_ref(), column.logical_nulls().as_ref()));
        let of_keys = columns.get(..side.keys.len()).unwrap_or_default();
        let keys = keys.convert_columns(of_keys)?;
        Ok(Self { keys, rows: rows.convert_columns(&columns)?, known, at: 0, batch })
    }

    fn is_known(&self, row: usize) -> bool {
        self.known.as_ref().is_none_or(|known| known.is_valid(row))
    }
}

/// The last right row so far that is not after the left row.
struct Last {
    /// Which of the batches, and which of its rows.
    place: (usize, usize),
    key: OwnedRow,
}

struct Merge {
    plan: AsofJoinExec,
    left: SendableRecordBatchStream,
    right: SendableRecordBatchStream,
    /// Of the keys, and of keys and time.
    converters: (RowConverter, RowConverter),
    /// Left rows that were not given out yet.
    waiting: Option<Sorted>,
    /// Right rows that were not looked at yet.
    current: Option<Sorted>,
    last: Option<(RecordBatch, Last)>,
    /// One row of NULL for the right side.
    nulls: Vec<ArrayRef>,
}

impl Merge {
    /// The next rows; a batch may be empty.
    async fn next(&mut self) -> DataFusionResult<Option<RecordBatch>> {
        let mut left = match self.waiting.take() {
            Some(left) => left,
            None => match self.left.next().await {
                Some(batch) => Sorted::new(&self.plan.left, batch?, (&self.converters.0, &self.converters.1))?,
                None => return Ok(None),
            },
        };
        // Place 0 is the row of NULL, and the batch of the last row is before that of the current ones.
        let mut batches: Vec<RecordBatch> = Vec::new();
        if let Some((batch, last)) = &mut self.last {
            batches.push(batch.clone());
            last.place.0 = batches.len();
        }
        if let Some(current) = &self.current {
            batches.push(current.batch.clone());
        }
        let (start, mut places) = (left.at, Vec::new());
        while left.at < left.batch.num_rows() && batches.len() <= RIGHT_BATCHES_MAX {
            let row = left.at;
            left.at += 1;
            if !left.is_known(row) {
                places.push(None);
                continue;
            }
            self.advance(&left, row, &places, &mut batches).await?;
            let last = self.last.as_ref().filter(|(_, last)| last.key.row() == left.keys.row(row));
            places.push(last.map(|(_, last)| last.place));
        }
        let out = self.joined(&left.batch.slice(start, left.at - start), &places, &batches)?;
        if left.at < left.batch.num_rows() {
            self.waiting = Some(left);
        }
        Ok(Some(out))
    }

    /// Goes over the right rows that are not after row `row` of `left`.
    async fn advance(
        &mut self,
        left: &Sorted,
        row: usize,
        places: &[Option<(usize, usize)>],
        batches: &mut Vec<RecordBatch>,
    ) -> DataFusionResult<()> {
        loop {
            if let Some(current) = &mut self.current {
                while current.at < current.batch.num_rows() {
                    let at = current.at;
                    if current.is_known(at) {
                        let (of_right, of_left) = (current.rows.row(at), left.rows.row(row));
                        if of_right > of_left || (self.plan.strict && of_right == of_left) {
                            return Ok(());
                        }
                        let last = Last { place: (batches.len(), at), key: current.keys.row(at).owned() };
                        self.last = Some((current.batch.clone(), last));
                    }
                    current.at += 1;
                }
                self.current = None;
                self.release(places, batches);
            }
            let Some(batch) = self.right.next().await else { return Ok(()) };
            let current = Sorted::new(&self.plan.right, batch?, (&self.converters.0, &self.converters.1))?;
            batches.push(current.batch.clone());
            self.current = Some(current);
        }
    }

    /// Lets go of the batches that no row was taken of, but for that of the last row.
    fn release(&mut self, places: &[Option<(usize, usize)>], batches: &mut Vec<RecordBatch>) {
        // They are taken in order.
        let taken = places.iter().rev().flatten().next().map_or(0, |(batch, _)| *batch);
        match self.last.as_mut().map(|(_, last)| &mut last.place.0).filter(|last| **last > taken) {
            Some(last) => {
                batches.swap(taken, *last - 1);
                *last = taken + 1;
                batches.truncate(taken + 1);
            }
            None => batches.truncate(taken),
        }
    }

    /// The left rows with the right rows at `places`.
    fn joined(
        &self,
        left: &RecordBatch,
        places: &[Option<(usize, usize)>],
        batches: &[RecordBatch],
    ) -> DataFusionResult<RecordBatch> {
        let left = match self.plan.outer {
            true => left.clone(),
            false => {
                filter_record_batch(left, &places.iter().map(|place| Some(place.is_some())).collect::<BooleanArray>())?
            }
        };
        let places = places.iter().filter(|place| self.plan.outer || place.is_some());
        let places: Vec<(usize, usize)> = places.map(|place| place.unwrap_or((0, 0))).collect();
        let mut columns = left.columns().to_vec();
        for (at, nulls) in self.nulls.iter().enumerate() {
            let of_batches = batches.iter().map(|batch| batch.column(at).as_ref());
            let arrays: Vec<&dyn Array> = [nulls.as_ref()].into_iter().chain(of_batches).collect();
            columns.push(interleave(&arrays, &places)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(left.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.plan.schema), columns, &options)?)
    }
}
