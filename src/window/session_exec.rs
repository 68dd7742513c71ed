//! Joins the rows of a batch plan to sessions.

use std::{fmt, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::SortOptions,
    row::{OwnedRow, RowConverter, SortField},
};
use datafusion::{
    common::{Result as DataFusionResult, internal_err, tree_node::TreeNodeRecursion},
    execution::{
        TaskContext,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    physical_expr::{
        EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr, PhysicalSortExpr, expressions::Column,
    },
    physical_plan::{
        DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties,
        InputDistributionRequirements, Partitioning, PlanProperties, SendableRecordBatchStream,
        execution_plan::EmissionType,
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::StreamExt;

use super::{
    assign_exec::{Clock, Columns, counted, with_times},
    spec::duration,
};

/// One row in, one row out, with the bounds of its session. The input comes sorted by the keys and the time; the rows
/// of the session that is still open are held, in memory that the pool accounts for.
#[derive(Debug, Clone)]
pub struct SessionAssignExec {
    input: Arc<dyn ExecutionPlan>,
    columns: Columns,
    gap_us: i64,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    ordering: LexOrdering,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl SessionAssignExec {
    pub(super) fn try_new(
        input: Arc<dyn ExecutionPlan>,
        columns: Columns,
        gap_us: i64,
        keys: Vec<Arc<dyn PhysicalExpr>>,
    ) -> DataFusionResult<Self> {
        let schema = input.schema();
        let time: Arc<dyn PhysicalExpr> = Arc::new(Column::new(schema.field(columns.time).name(), columns.time));
        let sorted = keys.iter().cloned().chain([time]);
        let options = SortOptions { descending: false, nulls_first: true };
        let ordering = LexOrdering::new(sorted.map(|expr| PhysicalSortExpr { expr, options }));
        let Some(ordering) = ordering else { return internal_err!("sessions are ordered by time") };
        let partitioning = Partitioning::UnknownPartitioning(input.output_partitioning().partition_count());
        let equivalence = EquivalenceProperties::new(Arc::clone(&columns.schema));
        let properties = PlanProperties::new(equivalence, partitioning, EmissionType::Incremental, input.boundedness());
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Self { input, columns, gap_us, keys, ordering, properties: Arc::new(properties), metrics })
    }

    fn converter(&self) -> DataFusionResult<RowConverter> {
        let schema = self.input.schema();
        let fields = self.keys.iter().map(|key| Ok(SortField::new(key.data_type(&schema)?)));
        Ok(RowConverter::new(fields.collect::<DataFusionResult<_>>()?)?)
    }
}

impl DisplayAs for SessionAssignExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        write!(f, "SessionAssignExec: gap={}, keys=[{}]", duration(self.gap_us), keys.join(", "))
    }
}

impl ExecutionPlan for SessionAssignExec {
    fn name(&self) -> &'static str {
        "SessionAssignExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![if self.keys.is_empty() {
            Distribution::SinglePartition
        } else {
            Distribution::KeyPartitioned(self.keys.clone())
        }])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![Some(OrderingRequirements::from(self.ordering.clone()))]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        let mut recursion = TreeNodeRecursion::Continue;
        for key in &self.keys {
            recursion = recursion.visit_sibling(|| f(key))?;
        }
        Ok(recursion)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children) else {
            return internal_err!("SessionAssignExec has one input");
        };
        Ok(Arc::new(Self::try_new(input, self.columns.clone(), self.gap_us, self.keys.clone())?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let memory = MemoryConsumer::new("SessionAssignExec").register(context.memory_pool());
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let sessions = Sessions {
            columns: self.columns.clone(),
            gap_us: self.gap_us,
            keys: self.keys.clone(),
            converter: self.converter()?,
            open: None,
            memory,
        };
        let input = self.input.execute(partition, context)?;
        let batches = futures::stream::unfold((input, Some(sessions)), |(mut input, sessions)| async move {
            let mut sessions = sessions?;
            let (batches, sessions) = match input.next().await {
                Some(Ok(batch)) => match sessions.push(batch) {
                    Ok(batches) => (batches.into_iter().map(Ok).collect::<Vec<_>>(), Some(sessions)),
                    Err(error) => (vec![Err(error)], None),
                },
                Some(Err(error)) => (vec![Err(error)], None),
                None => (sessions.close().into_iter().collect::<Vec<_>>(), None),
            };
            Some((futures::stream::iter(batches), (input, sessions)))
        });
        let schema = Arc::clone(&self.columns.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted(batches.flatten(), metrics))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Cuts sorted rows into sessions.
struct Sessions {
    columns: Columns,
    gap_us: i64,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    converter: RowConverter,
    open: Option<Open>,
    /// For the rows of `open`.
    memory: MemoryReservation,
}

/// The session that may get more rows.
struct Open {
    /// None where sessions have no keys.
    key: Option<OwnedRow>,
    start_us: i64,
    last_us: i64,
    /// The number of its rows and their kept columns, batch by batch.
    parts: Vec<(usize, Vec<ArrayRef>)>,
    clock: Clock,
}

impl Sessions {
    /// Takes the next rows, and gives those whose sessions are complete.
    fn push(&mut self, batch: RecordBatch) -> DataFusionResult<Vec<RecordBatch>> {
        let batch = with_times(batch, self.columns.time)?;
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(Vec::new());
        }
        let clock = Clock::of(batch.column(self.columns.time).data_type());
        let times_us = clock.to_us(batch.column(self.columns.time))?;
        let times = times_us.values();
        let key_columns = self.keys.iter().map(|key| key.evaluate(&batch)?.into_array(rows));
        let keys = self.converter.convert_columns(&key_columns.collect::<DataFusionResult<Vec<_>>>()?)?;
        let same_key = |a: usize, b: usize| self.keys.is_empty() || keys.row(a) == keys.row(b);
        let joins = |before: i64, next: i64| next <= before.saturating_add(self.gap_us);
        // Where sessions start in this batch; the rows before the first belong to the open one.
        let continues = self.open.as_ref().is_some_and(|open| {
            joins(open.last_us, times[0]) && open.key.as_ref().is_none_or(|key| key.row() == keys.row(0))
        });
        let mut starts: Vec<usize> = if continues { Vec::new() } else { vec![0] };
        starts.extend((1..rows).filter(|at| !(same_key(at - 1, *at) && joins(times[at - 1], times[*at]))));
        let kept: Vec<ArrayRef> = self.columns.kept.iter().map(|index| Arc::clone(batch.column(*index))).collect();
        let part = |from: usize, to: usize| kept.iter().map(|column| column.slice(from, to - from)).collect::<Vec<_>>();
        let head = starts.first().copied().unwrap_or(rows);
        if let Some(open) = &mut self.open
            && head > 0
        {
            self.memory.try_grow(batch.get_array_memory_size())?;
            open.last_us = times[head - 1];
            open.parts.push((head, part(0, head)));
        }
        let (Some(first), Some(last)) = (starts.first().copied(), starts.last().copied()) else {
            return Ok(Vec::new());
        };
        let mut complete = self.close().into_iter().collect::<DataFusionResult<Vec<_>>>()?;
        if first < last {
            let (mut bounds_start, mut bounds_end) = (Vec::with_capacity(last), Vec::with_capacity(last));
            for pair in starts.windows(2) {
                let end = times[pair[1] - 1].saturating_add(self.gap_us);
                bounds_start.extend(std::iter::repeat_n(times[pair[0]], pair[1] - pair[0]));
                bounds_end.extend(std::iter::repeat_n(end, pair[1] - pair[0]));
            }
            complete.push(clock.finish(part(first, last), bounds_start, bounds_end, &self.columns.schema)?);
        }
        self.memory.try_grow(batch.get_array_memory_size())?;
        let parts = vec![(rows - last, part(last, rows))];
        let key = (!self.keys.is_empty()).then(|| keys.row(last).owned());
        let (start_us, last_us) = (times[last], times[rows - 1]);
        self.open = Some(Open { key, start_us, last_us, parts, clock });
        Ok(complete)
    }

    /// The rows of the open session, which gets no more.
    fn close(&mut self) -> Vec<DataFusionResult<RecordBatch>> {
        let Some(open) = self.open.take() else { return Vec::new() };
        self.memory.free();
        let end_us = open.last_us.saturating_add(self.gap_us);
        let batches = open.parts.into_iter().map(|(rows, part)| {
            open.clock.finish(part, vec![open.start_us; rows], vec![end_us; rows], &self.columns.schema)
        });
        batches.collect()
    }
}
