//! Rows that no window takes: why, and what is kept of them.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use arrow::{
    array::{
        Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array, new_null_array,
    },
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
    kept: Arc<Kept>,
    /// How the rows of one aggregate become rows that those of all have, if several read records.
    shape: Option<LateShape>,
}

#[derive(Debug)]
struct Kept {
    sender: Mutex<Option<Sender<RecordBatch>>>,
    count: AtomicU64,
    samples: Mutex<Vec<Value>>,
}

/// A column of the late rows of one aggregate, or none, for each column of those of all aggregates.
#[derive(Debug, Clone)]
pub struct LateShape {
    schema: SchemaRef,
    columns: Vec<Option<usize>>,
}

impl LateRows {
    /// They are sent to `sender`, in batches of `late_schema`.
    pub fn new(sender: Option<Sender<RecordBatch>>) -> Self {
        let kept = Kept { sender: Mutex::new(sender), count: AtomicU64::new(0), samples: Mutex::default() };
        Self { kept: Arc::new(kept), shape: None }
    }

    /// The same, for the rows of one aggregate of several.
    #[must_use]
    pub fn of_one(&self, shape: Option<LateShape>) -> Self {
        Self { kept: Arc::clone(&self.kept), shape }
    }

    /// No more will come: whoever waits for them need not wait any longer.
    pub fn close(&self) {
        drop(self.kept.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// The way to whoever keeps them.
    pub fn sender(&self) -> Option<Sender<RecordBatch>> {
        self.kept.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts rows and sends them through `sender`.
    ///
    /// # Errors
    /// `Internal` if whoever keeps them has stopped.
    pub async fn set_aside(&self, rows: RecordBatch, sender: Option<&Sender<RecordBatch>>) -> Result<()> {
        self.kept.count.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        self.sample(&rows)?;
        let Some(sender) = sender else { return Ok(()) };
        let rows = match &self.shape {
            Some(shape) => shape.shaped(&rows)?,
            None => rows,
        };
        let sent = sender.send(rows).await;
        sent.map_err(|_| Error::internal("late rows cannot be kept: their writer has stopped"))
    }

    fn sample(&self, rows: &RecordBatch) -> Result<()> {
        let mut taken = self.kept.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() < SAMPLES_MAX {
            let more = samples(rows, SAMPLES_MAX - taken.len())?;
            taken.extend(more);
        }
        Ok(())
    }

    /// The first of them, as JSON objects.
    pub fn samples(&self) -> Vec<Value> {
        self.kept.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many there were so far.
    pub fn count(&self) -> u64 {
        self.kept.count.load(Ordering::Relaxed)
    }
}

impl LateShape {
    /// The columns of all `inputs`, and how those of each become them: columns of one name and type are one. Columns of
    /// one name and other types get a number.
    pub fn of_all(inputs: &[SchemaRef]) -> Vec<Self> {
        let mut fields: Vec<Field> = Vec::new();
        let mut places: Vec<Vec<usize>> = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            let place = |field: &arrow::datatypes::FieldRef, fields: &mut Vec<Field>| {
                let same = |known: &Field| known.name() == field.name();
                match fields.iter().position(|known| same(known) && known.data_type() == field.data_type()) {
                    Some(at) => at,
                    None => {
                        let is_taken = fields.iter().any(same);
                        let name = if is_taken { format!("{}_{index}", field.name()) } else { field.name().clone() };
                        fields.push(Field::new(name, field.data_type().clone(), true));
                        fields.len() - 1
                    }
                }
            };
            places.push(input.fields().iter().map(|field| place(field, &mut fields)).collect());
        }
        let schema = late_schema(&Schema::new(fields));
        let added = |places: &[usize], at: usize| {
            let of_input = places.iter().position(|place| *place == at);
            // What is added to a late row comes last in both.
            let behind = schema.fields().len() - at;
            of_input.or_else(|| (behind <= LATE_COLUMNS).then(|| places.len() + LATE_COLUMNS - behind))
        };
        let shape = |places: &Vec<usize>| Self {
            columns: (0..schema.fields().len()).map(|at| added(places, at)).collect(),
            schema: Arc::clone(&schema),
        };
        places.iter().map(shape).collect()
    }

    /// The schema of all late rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn shaped(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.schema.fields().iter().zip(&self.columns).map(|(field, from)| match from {
            Some(from) => Arc::clone(rows.column(*from)),
            None => new_null_array(field.data_type(), rows.num_rows()),
        });
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns.collect())?)
    }
}

/// How many columns `late_schema` adds.
const LATE_COLUMNS: usize = 5;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_rows_of_two_aggregates_have_the_columns_of_both() {
        let schema = |fields: &[(&str, DataType)]| {
            Schema::new(fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>())
        };
        let first = schema(&[("id", DataType::Int64), ("price", DataType::Float64)]);
        let second = schema(&[("name", DataType::Utf8), ("id", DataType::Int64), ("price", DataType::Utf8)]);
        let shapes = LateShape::of_all(&[Arc::new(first), Arc::new(second)]);
        let names: Vec<&str> = shapes[0].schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names[..4], ["id", "price", "name", "price_1"]);
        assert_eq!(names.len(), 4 + LATE_COLUMNS);
        let added = |from: usize| (from..from + LATE_COLUMNS).map(Some);
        assert_eq!(shapes[0].columns, [Some(0), Some(1), None, None].into_iter().chain(added(2)).collect::<Vec<_>>());
        let wanted = [Some(1), None, Some(0), Some(2)].into_iter().chain(added(3)).collect::<Vec<_>>();
        assert_eq!(shapes[1].columns, wanted);
    }
}
