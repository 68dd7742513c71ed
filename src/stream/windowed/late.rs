//! Where rows go that no window takes, and what is kept of them.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use arrow::{
    array::{RecordBatch, new_null_array},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use serde_json::Value;
use tokio::sync::mpsc::Sender;

use super::samples::{SAMPLES_MAX, samples};
use crate::error::{Error, Result};

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

/// The columns that `late_schema` adds.
const LATE_NAMES: [&str; LATE_COLUMNS] =
    ["late_window_start", "late_window_end", "late_watermark", "late_by_ms", "late_reason"];
const LATE_COLUMNS: usize = 5;

/// Refuses rows of which a column has the name of one that late rows get.
///
/// # Errors
/// `Unsupported`, naming it.
pub fn check_names(input: &Schema) -> Result<()> {
    let is_added = |name: &str| LATE_NAMES.iter().any(|added| added.eq_ignore_ascii_case(name));
    match input.fields().iter().find(|field| is_added(field.name())) {
        None => Ok(()),
        Some(field) => Err(Error::unsupported(format!(
            "rows with a column {} over a stream: a row that is late is kept with a column of that name",
            field.name()
        ))
        .help(format!("give it another name in a subquery below the window: SELECT {0} AS my_{0}, ...", field.name()))),
    }
}

/// What is kept of a late row: its columns, its last window, and why it is late.
pub fn late_schema(input: &Schema) -> SchemaRef {
    let instant = || DataType::Timestamp(TimeUnit::Microsecond, None);
    let mut fields: Vec<Field> = input.fields().iter().map(|field| field.as_ref().clone()).collect();
    let [start, end, watermark, late_by_ms, reason] = LATE_NAMES;
    fields.extend([start, end, watermark].map(|name| Field::new(name, instant(), true)));
    fields.push(Field::new(late_by_ms, DataType::Int64, true));
    fields.push(Field::new(reason, DataType::Utf8, false));
    Arc::new(Schema::new(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_what_is_added_are_taken() {
        let schema = |name: &str| Schema::new(vec![Field::new(name, DataType::Utf8, true)]);
        check_names(&schema("reason")).unwrap();
        let error = check_names(&schema("LATE_REASON")).unwrap_err();
        assert!(error.message().contains("LATE_REASON"), "{error}");
    }

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
