//! Gives the rows of a batch plan their windows.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array},
    compute,
    datatypes::{DataType, Int64Type, SchemaRef, TimeUnit},
};
use datafusion::{
    common::{Result as DataFusionResult, internal_err, tree_node::TreeNodeRecursion},
    execution::TaskContext,
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
        SendableRecordBatchStream,
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{Stream, StreamExt};

use super::{Window, WindowSpec, spec::Windows};

/// One row in, one row out for each window that holds it. The output's order is the input's, then that of the windows.
#[derive(Debug, Clone)]
pub struct WindowAssignExec {
    input: Arc<dyn ExecutionPlan>,
    columns: Columns,
    spec: WindowSpec,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// Which columns of the input come out, and where its time stands.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    pub kept: Vec<usize>,
    pub time: usize,
    /// Of the output: the kept columns and three of the window.
    pub schema: SchemaRef,
}

impl WindowAssignExec {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, columns: Columns, spec: WindowSpec) -> Self {
        let partitioning = Partitioning::UnknownPartitioning(input.output_partitioning().partition_count());
        let equivalence = EquivalenceProperties::new(Arc::clone(&columns.schema));
        let properties = PlanProperties::new(equivalence, partitioning, input.pipeline_behavior(), input.boundedness());
        Self { input, columns, spec, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl DisplayAs for WindowAssignExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowAssignExec: {}", self.spec)
    }
}

impl ExecutionPlan for WindowAssignExec {
    fn name(&self) -> &'static str {
        "WindowAssignExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
            return internal_err!("WindowAssignExec has one input");
        };
        Ok(Arc::new(Self::new(input, self.columns.clone(), self.spec)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let rows_max = context.session_config().batch_size();
        let input = self.input.execute(partition, context)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let (columns, spec) = (self.columns.clone(), self.spec);
        let batches = input.flat_map(move |batch| {
            let assigned = batch.and_then(|batch| Assigned::new(batch, &columns, spec, rows_max));
            match assigned {
                Ok(assigned) => futures::stream::iter(assigned).left_stream(),
                Err(error) => futures::stream::iter([Err(error)]).right_stream(),
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.columns.schema), counted(batches, metrics))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Counts the rows that come out.
pub(super) fn counted(
    batches: impl Stream<Item = DataFusionResult<RecordBatch>>,
    metrics: BaselineMetrics,
) -> impl Stream<Item = DataFusionResult<RecordBatch>> {
    batches.inspect(move |batch| {
        if let Ok(batch) = batch {
            metrics.record_output(batch.num_rows());
        }
    })
}

/// The rows of one batch with their windows, in batches of at most `rows_max` rows.
struct Assigned {
    kept: Vec<ArrayRef>,
    times_us: Int64Array,
    clock: Clock,
    schema: SchemaRef,
    spec: WindowSpec,
    rows_max: usize,
    /// The row that is next, or that `open` belongs to.
    row: usize,
    open: Option<Windows>,
}

impl Assigned {
    fn new(batch: RecordBatch, columns: &Columns, spec: WindowSpec, rows_max: usize) -> DataFusionResult<Self> {
        let batch = with_times(batch, columns.time)?;
        let clock = Clock::of(batch.column(columns.time).data_type());
        let times_us = clock.to_us(batch.column(columns.time))?;
        let kept = columns.kept.iter().map(|index| Arc::clone(batch.column(*index))).collect();
        let schema = Arc::clone(&columns.schema);
        Ok(Self { kept, times_us, clock, schema, spec, rows_max: rows_max.max(1), row: 0, open: None })
    }

    /// One window for each row: the columns go through untouched.
    fn tumble(&mut self) -> DataFusionResult<RecordBatch> {
        let (mut starts, mut ends) = (Vec::with_capacity(self.rows()), Vec::with_capacity(self.rows()));
        // Rows come nearly in order of time, so the last window is mostly the next one too.
        let mut last: Option<Window> = None;
        for time in self.times_us.values() {
            let window = last.filter(|it| it.start_us <= *time && *time < it.end_us);
            let window = window.or_else(|| self.spec.windows_of(*time).next());
            last = window;
            if let Some(window) = window {
                starts.push(window.start_us);
                ends.push(window.end_us);
            }
        }
        self.row = self.rows();
        self.clock.finish(self.kept.clone(), starts, ends, &self.schema)
    }

    fn repeated(&mut self) -> DataFusionResult<RecordBatch> {
        let mut indices: Vec<u32> = Vec::with_capacity(self.rows_max);
        let (mut starts, mut ends) = (Vec::with_capacity(self.rows_max), Vec::with_capacity(self.rows_max));
        while self.row < self.rows() && indices.len() < self.rows_max {
            let windows = self.open.get_or_insert_with(|| self.spec.windows_of(self.times_us.value(self.row)));
            for window in windows.by_ref().take(self.rows_max - indices.len()) {
                // A batch has fewer rows than that.
                indices.push(u32::try_from(self.row).unwrap_or(u32::MAX));
                starts.push(window.start_us);
                ends.push(window.end_us);
            }
            if windows.len() == 0 {
                self.open = None;
                self.row += 1;
            }
        }
        let indices = UInt32Array::from(indices);
        let kept = self.kept.iter().map(|column| compute::take(column, &indices, None)).collect::<Result<_, _>>()?;
        self.clock.finish(kept, starts, ends, &self.schema)
    }

    fn rows(&self) -> usize {
        self.times_us.len()
    }
}

impl Iterator for Assigned {
    type Item = DataFusionResult<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.row >= self.rows() {
            return None;
        }
        let is_tumble = self.spec.kind == super::WindowKind::Tumble;
        let batch = if is_tumble { self.tumble() } else { self.repeated() };
        if batch.is_err() {
            self.row = self.rows();
        }
        Some(batch)
    }
}

/// The rows that have a time.
pub(super) fn with_times(batch: RecordBatch, time: usize) -> DataFusionResult<RecordBatch> {
    if batch.column(time).logical_null_count() == 0 {
        return Ok(batch);
    }
    let has_time = compute::is_not_null(batch.column(time))?;
    Ok(compute::filter_record_batch(&batch, &has_time)?)
}

/// How a timestamp column counts.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    data_type: DataType,
}

impl Clock {
    pub fn of(data_type: &DataType) -> Self {
        Self { data_type: data_type.clone() }
    }

    /// Units in a microsecond, or microseconds in a unit.
    fn scale(&self) -> Scale {
        match self.data_type {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => Scale::Finer(1_000),
            DataType::Timestamp(TimeUnit::Millisecond, _) => Scale::Coarser(1_000),
            DataType::Timestamp(TimeUnit::Second, _) => Scale::Coarser(1_000_000),
            _ => Scale::Coarser(1),
        }
    }

    pub fn to_us(&self, times: &ArrayRef) -> DataFusionResult<Int64Array> {
        let counted = compute::cast(times, &DataType::Int64)?;
        let counted = counted.as_primitive::<Int64Type>();
        Ok(match self.scale() {
            Scale::Coarser(1) => counted.clone(),
            Scale::Coarser(us) => counted.unary(|value| value.saturating_mul(us)),
            Scale::Finer(units) => counted.unary(|value| value.div_euclid(units)),
        })
    }

    /// Back from microseconds; what the unit cannot hold is rounded down.
    pub fn of_us(&self, times_us: &Int64Array) -> DataFusionResult<ArrayRef> {
        let counted: Int64Array = match self.scale() {
            Scale::Coarser(1) => times_us.clone(),
            Scale::Coarser(us) => times_us.unary(|value| value.div_euclid(us)),
            Scale::Finer(units) => times_us.unary(|value| value.saturating_mul(units)),
        };
        Ok(compute::cast(&counted, &self.data_type)?)
    }

    /// The kept columns and the three of the window.
    pub fn finish(
        &self,
        mut columns: Vec<ArrayRef>,
        starts_us: Vec<i64>,
        ends_us: Vec<i64>,
        schema: &SchemaRef,
    ) -> DataFusionResult<RecordBatch> {
        let times_us: Vec<i64> = ends_us.iter().map(|end| end.saturating_sub(1_000)).collect();
        for bound in [starts_us, ends_us, times_us] {
            columns.push(self.of_us(&Int64Array::from(bound))?);
        }
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}

enum Scale {
    Finer(i64),
    Coarser(i64),
}
