//! Rows get the pane or the windows that they are in; rows that no open window takes are set aside.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array},
    compute::take_record_batch,
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use datafusion::{
    common::{Result as DataFusionResult, internal_err, tree_node::TreeNodeRecursion},
    execution::TaskContext,
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
        execution_plan::EmissionType, stream::RecordBatchStreamAdapter,
    },
};
use futures::StreamExt;
use tokio::sync::mpsc::Sender;

use crate::{
    error::{Error, Result},
    event_time::NO_WATERMARK_MS,
    state::{Labels, micros, timestamps},
    window::{WindowKind, WindowSpec},
};

/// Which rows are in time.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Windows that end up to here are closed, microseconds since the epoch.
    pub closed_us: i64,
    /// Events after this are set aside.
    pub future_us: i64,
}

/// Where rows go that no window takes, and how many they were.
#[derive(Debug)]
pub struct LateRows {
    sender: Mutex<Option<Sender<RecordBatch>>>,
    count: AtomicU64,
}

impl LateRows {
    /// They are sent to `sender`, in batches of `late_schema`.
    pub fn new(sender: Option<Sender<RecordBatch>>) -> Self {
        Self { sender: Mutex::new(sender), count: AtomicU64::new(0) }
    }

    /// No more will come: whoever waits for them need not wait any longer.
    pub fn close(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// How many there were so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// What is kept of a late row: its columns, its last window, and why it is late.
pub fn late_schema(input: &Schema) -> SchemaRef {
    let instant = || DataType::Timestamp(TimeUnit::Microsecond, None);
    let mut fields: Vec<Field> = input.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new("late_window_start", instant(), true));
    fields.push(Field::new("late_window_end", instant(), true));
    fields.push(Field::new("late_watermark", instant(), true));
    fields.push(Field::new("late_by_ms", DataType::Int64, true));
    fields.push(Field::new("late_reason", DataType::Utf8, false));
    Arc::new(Schema::new(fields))
}

/// Gives each row its pane (or, if `labels` say so, each of its open windows).
#[derive(Debug, Clone)]
pub struct StreamAssignExec {
    input: Arc<dyn ExecutionPlan>,
    assign: Arc<Assign>,
    late: Arc<LateRows>,
    properties: Arc<PlanProperties>,
}

#[derive(Debug)]
struct Assign {
    /// The columns of the input that come out.
    kept: Vec<usize>,
    time: usize,
    spec: WindowSpec,
    labels: Labels,
    bounds: Bounds,
    schema: SchemaRef,
    late_schema: SchemaRef,
}

impl StreamAssignExec {
    /// `schema` is that of the rows that come out: the kept columns, then the window's three.
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        (kept, time): (Vec<usize>, usize),
        (spec, labels): (WindowSpec, Labels),
        bounds: Bounds,
        schema: SchemaRef,
        late: Arc<LateRows>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            input.properties().boundedness,
        );
        let late_schema = late_schema(&input.schema());
        let assign = Assign { kept, time, spec, labels, bounds, schema, late_schema };
        Self { input, assign: Arc::new(assign), late, properties: Arc::new(properties) }
    }
}

impl DisplayAs for StreamAssignExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "StreamAssignExec: {}", self.assign.spec)
    }
}

impl ExecutionPlan for StreamAssignExec {
    fn name(&self) -> &str {
        "StreamAssignExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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
        let sender = self.late.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (assign, late) = (Arc::clone(&self.assign), Arc::clone(&self.late));
        let stream = input.then(move |batch| {
            let (assign, late, sender) = (Arc::clone(&assign), Arc::clone(&late), sender.clone());
            async move {
                let (assigned, set_aside) = assign.assign(&batch?)?;
                if let Some(set_aside) = set_aside {
                    late.count.fetch_add(set_aside.num_rows() as u64, Ordering::Relaxed);
                    if let Some(sender) = sender
                        && sender.send(set_aside).await.is_err()
                    {
                        return internal_err!("late rows cannot be kept: their writer has stopped");
                    }
                }
                Ok(assigned)
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.assign.schema), stream)))
    }
}

/// Why a row is set aside.
#[derive(Debug, Clone, Copy)]
enum Reason {
    Late,
    NoEventTime,
    Future,
}

/// The rows of a batch, sorted out.
#[derive(Debug, Default)]
struct Sorted {
    rows: Vec<u32>,
    start_us: Vec<i64>,
    end_us: Vec<i64>,
    aside: Vec<u32>,
    reasons: Vec<Reason>,
}

/// The pane of the row before: rows near each other in the stream mostly share it.
#[derive(Debug, Clone, Copy)]
struct Pane {
    start_us: i64,
    end_us: i64,
    is_open: bool,
}

impl Assign {
    fn assign(&self, batch: &RecordBatch) -> Result<(RecordBatch, Option<RecordBatch>)> {
        let times = micros(batch.column(self.time))?;
        let mut sorted = Sorted::default();
        match self.labels {
            Labels::Windows => self.windows(&times, &mut sorted),
            Labels::Panes(_) => self.panes(&times, &mut sorted),
        }
        let aside = if sorted.aside.is_empty() { None } else { Some(self.set_aside(batch, &times, &sorted)?) };
        let identity = sorted.rows.len() == batch.num_rows() && sorted.aside.is_empty() && self.is_one_to_one();
        let kept = batch.project(&self.kept)?;
        let kept = if identity { kept } else { take_record_batch(&kept, &UInt32Array::from(sorted.rows))? };
        let mut columns = kept.columns().to_vec();
        let time: Vec<i64> = sorted.end_us.iter().map(|end| end.saturating_sub(1000)).collect();
        for values in [sorted.start_us, sorted.end_us, time] {
            let data_type = self.schema.field(columns.len()).data_type();
            columns.push(timestamps(values, data_type)?);
        }
        Ok((RecordBatch::try_new(Arc::clone(&self.schema), columns)?, aside))
    }

    fn is_one_to_one(&self) -> bool {
        matches!(self.labels, Labels::Panes(_)) || self.spec.kind == WindowKind::Tumble
    }

    fn panes(&self, times: &Int64Array, sorted: &mut Sorted) {
        let mut pane = Pane { start_us: i64::MAX, end_us: i64::MIN, is_open: false };
        for (row, time) in (0u32..).zip(times) {
            let Some(time) = self.in_time(row, time, sorted) else { continue };
            if time < pane.start_us || time >= pane.end_us || self.spec.zone.is_some() {
                pane = self.pane(time);
            }
            if pane.is_open {
                sorted.rows.push(row);
                sorted.start_us.push(pane.start_us);
                sorted.end_us.push(pane.end_us);
            } else {
                sorted.aside.push(row);
                sorted.reasons.push(Reason::Late);
            }
        }
    }

    fn pane(&self, time_us: i64) -> Pane {
        let start_us = self.spec.pane_start(time_us);
        let window = self.spec.windows_of(time_us).next();
        let end_us = match (self.spec.kind, window) {
            (WindowKind::Tumble, Some(window)) => window.end_us,
            _ => start_us.saturating_add(self.spec.pane_us().unwrap_or(1)),
        };
        Pane { start_us, end_us, is_open: self.spec.last_end(time_us) > self.bounds.closed_us }
    }

    fn windows(&self, times: &Int64Array, sorted: &mut Sorted) {
        for (row, time) in (0u32..).zip(times) {
            let Some(time) = self.in_time(row, time, sorted) else { continue };
            let before = sorted.rows.len();
            for window in self.spec.windows_of(time).filter(|window| window.end_us > self.bounds.closed_us) {
                sorted.rows.push(row);
                sorted.start_us.push(window.start_us);
                sorted.end_us.push(window.end_us);
            }
            if sorted.rows.len() == before {
                sorted.aside.push(row);
                sorted.reasons.push(Reason::Late);
            }
        }
    }

    /// The event time, unless the row has none or one that cannot be.
    fn in_time(&self, row: u32, time: Option<i64>, sorted: &mut Sorted) -> Option<i64> {
        let reason = match time {
            Some(time) if time <= self.bounds.future_us => return Some(time),
            Some(_) => Reason::Future,
            None => Reason::NoEventTime,
        };
        sorted.aside.push(row);
        sorted.reasons.push(reason);
        None
    }

    fn set_aside(&self, batch: &RecordBatch, times: &Int64Array, sorted: &Sorted) -> Result<RecordBatch> {
        let rows = take_record_batch(batch, &UInt32Array::from(sorted.aside.clone()))?;
        let time = |row: &u32| {
            let row = usize::try_from(*row).unwrap_or(usize::MAX);
            times.is_valid(row).then(|| times.value(row))
        };
        let last = |time: i64| {
            let end = self.spec.last_end(time);
            self.spec.windows_of(time).last().map_or((None, Some(end)), |last| (Some(last.start_us), Some(last.end_us)))
        };
        let windows: Vec<(Option<i64>, Option<i64>)> =
            sorted.aside.iter().map(|row| time(row).map_or((None, None), last)).collect();
        let closed_ms = self.bounds.closed_us.div_euclid(1000);
        let watermark = (closed_ms > NO_WATERMARK_MS.div_euclid(1000)).then_some(self.bounds.closed_us);
        let late_by = |((_, end), reason): (&(Option<i64>, Option<i64>), &Reason)| match reason {
            Reason::Late => end.map(|end| self.bounds.closed_us.saturating_sub(end).div_euclid(1000)),
            Reason::NoEventTime | Reason::Future => None,
        };
        let reasons = sorted.reasons.iter().map(|reason| match reason {
            Reason::Late => "late: its last window is closed",
            Reason::NoEventTime => "its event time is NULL",
            Reason::Future => "its event time is further in the future than maxFutureSkew",
        });
        let instants = |values: Vec<Option<i64>>| Arc::new(TimestampMicrosecondArray::from(values)) as ArrayRef;
        let mut columns = rows.columns().to_vec();
        columns.push(instants(windows.iter().map(|(start, _)| *start).collect()));
        columns.push(instants(windows.iter().map(|(_, end)| *end).collect()));
        columns.push(instants(vec![watermark; windows.len()]));
        columns.push(Arc::new(windows.iter().zip(&sorted.reasons).map(late_by).collect::<Int64Array>()));
        columns.push(Arc::new(StringArray::from_iter_values(reasons)));
        RecordBatch::try_new(Arc::clone(&self.late_schema), columns)
            .map_err(|error| Error::internal(format!("late rows: {error}")))
    }
}
