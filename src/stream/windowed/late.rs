//! Rows that no window takes: why, and what is kept of them.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use arrow::{
    array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array},
    compute::take_record_batch,
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use serde_json::Value;
use tokio::sync::mpsc::Sender;

use super::samples::{SAMPLES_MAX, samples};
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

/// Where rows go that no window takes, and how many they were.
#[derive(Debug)]
pub struct LateRows {
    sender: Mutex<Option<Sender<RecordBatch>>>,
    count: AtomicU64,
    samples: Mutex<Vec<Value>>,
}

impl LateRows {
    /// They are sent to `sender`, in batches of `late_schema`.
    pub fn new(sender: Option<Sender<RecordBatch>>) -> Self {
        Self { sender: Mutex::new(sender), count: AtomicU64::new(0), samples: Mutex::default() }
    }

    /// No more will come: whoever waits for them need not wait any longer.
    pub fn close(&self) {
        drop(self.sender());
    }

    /// The way to whoever keeps them; nobody else gets it.
    pub fn sender(&self) -> Option<Sender<RecordBatch>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Counts rows and sends them through `sender`.
    ///
    /// # Errors
    /// `Internal` if whoever keeps them has stopped.
    pub async fn set_aside(&self, rows: RecordBatch, sender: Option<&Sender<RecordBatch>>) -> Result<()> {
        self.count.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        self.sample(&rows)?;
        let Some(sender) = sender else { return Ok(()) };
        let sent = sender.send(rows).await;
        sent.map_err(|_| Error::internal("late rows cannot be kept: their writer has stopped"))
    }

    fn sample(&self, rows: &RecordBatch) -> Result<()> {
        let mut taken = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() < SAMPLES_MAX {
            let more = samples(rows, SAMPLES_MAX - taken.len())?;
            taken.extend(more);
        }
        Ok(())
    }

    /// The first of them, as JSON objects.
    pub fn samples(&self) -> Vec<Value> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

/// Why a row is set aside.
#[derive(Debug, Clone, Copy)]
pub enum Reason {
    Late,
    NoEventTime,
    Future,
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

    /// The event time, unless the row has none or one that cannot be.
    pub fn in_time(&self, time: Option<i64>) -> std::result::Result<i64, Reason> {
        match time {
            Some(time) if time <= self.bounds.future_us => Ok(time),
            Some(_) => Err(Reason::Future),
            None => Err(Reason::NoEventTime),
        }
    }

    /// What is kept of `aside`, rows of `batch` with a reason each.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn set_aside(
        &self,
        batch: &RecordBatch,
        times: &Int64Array,
        (aside, reasons): (&[u32], &[Reason]),
    ) -> Result<RecordBatch> {
        let rows = take_record_batch(batch, &UInt32Array::from(aside.to_vec()))?;
        let time = |row: &u32| {
            let row = usize::try_from(*row).unwrap_or(usize::MAX);
            times.is_valid(row).then(|| times.value(row))
        };
        let last = |time: i64| {
            let end = self.spec.last_end(time);
            self.spec.windows_of(time).last().map_or((None, Some(end)), |last| (Some(last.start_us), Some(last.end_us)))
        };
        let windows: Vec<(Option<i64>, Option<i64>)> =
            aside.iter().map(|row| time(row).map_or((None, None), last)).collect();
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
        columns.push(Arc::new(windows.iter().zip(reasons).map(late_by).collect::<Int64Array>()));
        columns.push(Arc::new(StringArray::from_iter_values(shown)));
        RecordBatch::try_new(Arc::clone(&self.late_schema), columns)
            .map_err(|error| Error::internal(format!("late rows: {error}")))
    }
}
