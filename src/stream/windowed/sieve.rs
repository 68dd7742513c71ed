//! Which rows of a batch go on, and which are set aside: why, and what is kept of them.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array},
    compute::take_record_batch,
    datatypes::{Schema, SchemaRef},
};
use datafusion::{
    common::{Result as DataFusionResult, internal_err, tree_node::TreeNodeRecursion},
    execution::TaskContext,
    physical_expr::PhysicalExpr,
    physical_plan::{
        DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, InputDistributionRequirements, PlanProperties,
        SendableRecordBatchStream, stream::RecordBatchStreamAdapter,
    },
};
use futures::StreamExt;

use super::{
    exec::one_partition,
    late::{LateRows, late_schema},
};
use crate::{
    error::{Error, Result},
    event_time::NO_WATERMARK_MS,
    window::WindowSpec,
};

/// The reason of a row that came after its windows were written.
pub const LATE: &str = "late: its last window is closed";

/// Which rows are in time.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Windows that end up to here are closed, microseconds since the epoch.
    pub closed_us: i64,
    /// Those that end up to here close with this batch.
    pub closing_us: i64,
    /// Events after this are set aside.
    pub future_us: i64,
}

/// Why a row is set aside.
#[derive(Debug, Clone, Copy)]
pub enum Reason {
    Late,
    NoEventTime,
    Future,
}

/// The rows of a batch that no window takes.
#[derive(Debug, Default)]
pub struct Aside {
    rows: Vec<u32>,
    reasons: Vec<Reason>,
}

impl Aside {
    pub fn push(&mut self, row: u32, reason: Reason) {
        self.rows.push(row);
        self.reasons.push(reason);
    }
}

/// Tells rows in time from others.
#[derive(Debug)]
pub struct Sieve {
    /// The column of the event time.
    pub time: usize,
    pub spec: WindowSpec,
    pub bounds: Bounds,
    late_schema: SchemaRef,
}

impl Sieve {
    /// For rows of `input`.
    pub fn new(input: &Schema, time: usize, spec: WindowSpec, bounds: Bounds) -> Self {
        Self { time, spec, bounds, late_schema: late_schema(input) }
    }

    /// The event time of row `row`; one that has none, or one that cannot be, is put `aside`.
    pub fn in_time(&self, (row, time): (u32, Option<i64>), aside: &mut Aside) -> Option<i64> {
        match time {
            Some(time) if time <= self.bounds.future_us => return Some(time),
            Some(_) => aside.push(row, Reason::Future),
            None => aside.push(row, Reason::NoEventTime),
        }
        None
    }

    /// What is kept of the rows of `batch` that are `aside`, if there are any.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn set_aside(&self, batch: &RecordBatch, times: &Int64Array, aside: Aside) -> Result<Option<RecordBatch>> {
        let Aside { rows: aside, reasons } = aside;
        if aside.is_empty() {
            return Ok(None);
        }
        let aside = UInt32Array::from(aside);
        let rows = take_record_batch(batch, &aside)?;
        let time = |row: &u32| {
            let row = usize::try_from(*row).unwrap_or(usize::MAX);
            times.is_valid(row).then(|| times.value(row))
        };
        let last = |time: i64| {
            let end = self.spec.last_end(time);
            self.spec.windows_of(time).last().map_or((None, Some(end)), |last| (Some(last.start_us), Some(last.end_us)))
        };
        let windows: Vec<(Option<i64>, Option<i64>)> =
            aside.values().iter().map(|row| time(row).map_or((None, None), last)).collect();
        let closed_ms = self.bounds.closed_us.div_euclid(1000);
        let watermark = (closed_ms > NO_WATERMARK_MS.div_euclid(1000)).then_some(self.bounds.closed_us);
        let late_by = |((_, end), reason): (&(Option<i64>, Option<i64>), &Reason)| match reason {
            Reason::Late => end.map(|end| self.bounds.closed_us.saturating_sub(end).max(0).div_euclid(1000)),
            Reason::NoEventTime | Reason::Future => None,
        };
        let shown = reasons.iter().map(|reason| match reason {
            Reason::Late => LATE,
            Reason::NoEventTime => "its event time is NULL",
            Reason::Future => "its event time is further in the future than maxFutureSkew",
        });
        let instants = |values: Vec<Option<i64>>| Arc::new(TimestampMicrosecondArray::from(values)) as ArrayRef;
        let mut columns = rows.columns().to_vec();
        columns.push(instants(windows.iter().map(|(start, _)| *start).collect()));
        columns.push(instants(windows.iter().map(|(_, end)| *end).collect()));
        columns.push(instants(vec![watermark; windows.len()]));
        columns.push(Arc::new(windows.iter().zip(&reasons).map(late_by).collect::<Int64Array>()));
        columns.push(Arc::new(StringArray::from_iter_values(shown)));
        let kept = RecordBatch::try_new(Arc::clone(&self.late_schema), columns);
        kept.map(Some).map_err(|error| Error::internal(format!("late rows: {error}")))
    }
}

/// The rows of `batch` at `rows`, ascending and without repeats.
///
/// # Errors
/// Arrow's.
pub fn picked(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    if rows.len() == batch.num_rows() {
        return Ok(batch.clone());
    }
    Ok(take_record_batch(batch, &UInt32Array::from(rows))?)
}

/// Looks at one batch after the other.
pub trait SortOut: fmt::Debug + fmt::Display + Send + Sync {
    /// Of the rows that go on.
    fn schema(&self) -> &SchemaRef;

    /// The rows that go on, and those that are set aside, if any.
    ///
    /// # Errors
    /// `Internal`: a defect.
    fn sort_out(&self, batch: &RecordBatch) -> Result<(RecordBatch, Option<RecordBatch>)>;
}

/// Lets rows through, and hands over those that are set aside.
#[derive(Debug, Clone)]
pub struct SieveExec {
    input: Arc<dyn ExecutionPlan>,
    sorter: Arc<dyn SortOut>,
    late: Arc<LateRows>,
    properties: Arc<PlanProperties>,
}

impl SieveExec {
    /// Of the rows of `input`.
    pub fn new(input: Arc<dyn ExecutionPlan>, sorter: Arc<dyn SortOut>, late: Arc<LateRows>) -> Self {
        let properties = one_partition(&input, sorter.schema());
        Self { input, sorter, late, properties }
    }
}

impl DisplayAs for SieveExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "SieveExec: {}", self.sorter)
    }
}

impl ExecutionPlan for SieveExec {
    fn name(&self) -> &str {
        "SieveExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
        let Ok([input]) = <[_; 1]>::try_from(children) else { return internal_err!("one input") };
        Ok(Arc::new(Self { input, ..Self::clone(&self) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let sender = self.late.sender();
        let (sorter, late) = (Arc::clone(&self.sorter), Arc::clone(&self.late));
        let stream = input.then(move |batch| {
            let (sorter, late, sender) = (Arc::clone(&sorter), Arc::clone(&late), sender.clone());
            async move {
                let (rows, set_aside) = sorter.sort_out(&batch?)?;
                if let Some(set_aside) = set_aside {
                    late.set_aside(set_aside, sender.as_ref()).await?;
                }
                Ok(rows)
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(self.sorter.schema()), stream)))
    }
}
