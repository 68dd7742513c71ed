//! What a row of state is, and which windows it belongs to.
//!
//! A row is a partial aggregate of the input rows that share a pane and the grouping keys: the pane's start and end
//! stand in the columns of the window's start and end. A pane is the longest stretch of time that no window cuts, so
//! each input row is aggregated once, however many windows hold it.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, PrimitiveArray, RecordBatch, UInt32Array},
    compute::take_record_batch,
    datatypes::{ArrowTimestampType, DataType, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType},
};

use crate::{
    error::{Error, Result},
    window::WindowSpec,
};

/// Rows that the scan of closing windows gives at once, but for one row that is in more windows.
const CLOSING_ROWS_MAX: usize = 8192;

/// The columns of an operator's state.
#[derive(Debug, Clone)]
pub struct StateLayout {
    pub schema: SchemaRef,
    /// How many columns, the first ones, are the grouping keys.
    pub keys: usize,
    /// Column of the window's (or pane's) start; without windows of no meaning, as `end`.
    pub start: usize,
    /// Column of the window's (or pane's) end.
    pub end: usize,
    /// Column of the window's event time, its end less a millisecond, if it is grouped by.
    pub time: Option<usize>,
    /// Column with the number of input rows that a row of state stands for; `None`: for itself.
    pub rows: Option<usize>,
    /// The operator's watermark is so far behind the source's: an operator before it gives rows with such a delay.
    pub behind_us: i64,
    pub labels: Labels,
}

/// What the start and end columns hold.
#[derive(Debug, Clone)]
pub enum Labels {
    /// The window itself.
    Windows,
    /// A pane, which belongs to one or more windows of these.
    Panes(WindowSpec),
    /// A piece of a session. Pieces of one session have equal keys and overlap, or one ends where the next starts.
    Sessions(SessionPieces),
    /// There is no window: a row belongs to its keys for ever.
    Groups,
    /// A row of the input, as it is: the start column, which stands for the end too, holds its event time.
    Moments(Moments),
}

/// How single rows are kept. A row is given out once the watermark has passed its event time by `ahead_us`; later rows
/// may look back to it.
#[derive(Debug, Clone)]
pub struct Moments {
    /// What a row looks ahead.
    pub ahead_us: i64,
    /// A row that was given out is needed for so long after.
    pub within_us: i64,
    /// Some rows are needed however old they are; which, is decided when the state is made smaller.
    pub always: bool,
    /// They are the other side of a join: each is given as often as rows are given out that may be its partners.
    pub partners: bool,
    /// The columns of the scan: those of the state without the event time, and whether the row is given out now;
    /// without that if they are `partners`.
    pub emitted: SchemaRef,
}

impl Moments {
    /// Where the watermark must be for a row of this time to be given out: nothing before it can come any more.
    pub fn due_us(&self, time_us: i64) -> i64 {
        time_us.saturating_add(1).saturating_add(self.ahead_us)
    }
}

/// How pieces of sessions are kept.
#[derive(Debug, Clone)]
pub struct SessionPieces {
    pub gap_us: i64,
    /// Columns of the state: rows of one session agree in them.
    pub keys: Vec<usize>,
}

impl StateLayout {
    /// The rows of the windows that close when the watermark goes from `from_us` to `to_us` (microseconds): windows
    /// that end after the first and not after the second. A row comes once for each such window, with the window's
    /// start and end in place of the pane's.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn closing(&self, batch: &RecordBatch, from_us: i64, to_us: i64) -> Result<Option<RecordBatch>> {
        if matches!(self.labels, Labels::Groups) {
            return Ok(Some(batch.clone()).filter(|batch| batch.num_rows() > 0));
        }
        let (starts, ends) = self.bounds(batch)?;
        let (mut rows, mut start_us, mut end_us) = (Vec::new(), Vec::new(), Vec::new());
        let mut push = |row: usize, start: i64, end: i64| {
            if end > from_us && end <= to_us {
                // A state file has fewer rows than 2^32: its bytes are limited.
                rows.push(u32::try_from(row).unwrap_or(u32::MAX));
                start_us.push(start);
                end_us.push(end);
            }
        };
        for row in 0..batch.num_rows() {
            match &self.labels {
                Labels::Windows | Labels::Sessions(_) | Labels::Moments(_) => {
                    push(row, starts.value(row), ends.value(row));
                }
                Labels::Panes(spec) => {
                    let windows = spec.windows_of_pane(starts.value(row)).ending_after(from_us);
                    windows.take_while(|window| window.end_us <= to_us).for_each(|w| push(row, w.start_us, w.end_us));
                }
                Labels::Groups => {}
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let taken = take_record_batch(batch, &UInt32Array::from(rows))?;
        Ok(Some(self.labelled(&taken, start_us, end_us)?))
    }

    /// The same rows with other starts and ends.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn labelled(&self, batch: &RecordBatch, start_us: Vec<i64>, end_us: Vec<i64>) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        self.relabel(&mut columns, self.start, start_us)?;
        if let Some(time) = self.time {
            self.relabel(&mut columns, time, end_us.iter().map(|end| end.saturating_sub(1000)).collect())?;
        }
        self.relabel(&mut columns, self.end, end_us)?;
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// The starts and the ends, in microseconds. What is in no window is after all windows.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn bounds(&self, batch: &RecordBatch) -> Result<(Int64Array, Int64Array)> {
        if matches!(self.labels, Labels::Groups) {
            let never = Int64Array::from_value(i64::MAX, batch.num_rows());
            return Ok((never.clone(), never));
        }
        let starts = self.micros(batch, self.start)?;
        let ends = match &self.labels {
            Labels::Moments(moments) => starts.unary(|time| moments.due_us(time)),
            _ => self.micros(batch, self.end)?,
        };
        Ok((starts, ends))
    }

    /// Are the rows the other side of a join? Nobody waits for them to be given out.
    pub fn are_partners(&self) -> bool {
        matches!(&self.labels, Labels::Moments(moments) if moments.partners)
    }

    /// Are there rows that stay however far the watermark goes?
    pub fn remembers(&self) -> bool {
        matches!(&self.labels, Labels::Moments(moments) if moments.always)
    }

    /// How many rows `closing` may be given at once: what it gives is that many times the windows of a row.
    pub fn rows_at_once(&self) -> usize {
        (CLOSING_ROWS_MAX / self.windows_of_a_row()).max(1)
    }

    /// In how many windows a row is at most.
    pub fn windows_of_a_row(&self) -> usize {
        match &self.labels {
            Labels::Windows | Labels::Sessions(_) | Labels::Groups | Labels::Moments(_) => 1,
            Labels::Panes(spec) => spec.windows_of(0).len().max(1),
        }
    }

    /// The rows that some window still needs when all that end up to `watermark_us` are closed; `None`: all of them.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn live(&self, batch: &RecordBatch, watermark_us: i64) -> Result<Option<RecordBatch>> {
        let last_ends = self.last_ends(batch)?;
        let live = |(_, end): &(u32, &i64)| **end > watermark_us;
        let kept: Vec<u32> = (0u32..).zip(&last_ends).filter(live).map(|(row, _)| row).collect();
        if kept.len() == last_ends.len() {
            return Ok(None);
        }
        Ok(Some(take_record_batch(batch, &UInt32Array::from(kept))?))
    }

    /// The number of input rows that no window needs any more when the watermark has gone from `from_us` to `to_us`.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn released(&self, batch: &RecordBatch, from_us: i64, to_us: i64) -> Result<u64> {
        let counts = self.counts(batch)?;
        let gone = |end: &i64| *end > from_us && *end <= to_us;
        let last_ends = match &self.labels {
            // Rows that were given out count no more, though others look back to them.
            Labels::Moments(_) => self.bounds(batch)?.1.values().to_vec(),
            _ => self.last_ends(batch)?,
        };
        let sum: i64 = last_ends.iter().zip(counts.values()).filter(|(end, _)| gone(end)).map(|(_, count)| count).sum();
        Ok(u64::try_from(sum).unwrap_or(0))
    }

    /// The end of the last window of each row, in microseconds. A piece of a session is needed for one gap more: rows
    /// that come then and would have joined the session are too late.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn last_ends(&self, batch: &RecordBatch) -> Result<Vec<i64>> {
        match &self.labels {
            Labels::Windows => Ok(self.micros(batch, self.end)?.values().to_vec()),
            Labels::Moments(moments) if moments.always => Ok(vec![i64::MAX; batch.num_rows()]),
            Labels::Moments(moments) => {
                let ends = self.bounds(batch)?.1;
                Ok(ends.values().iter().map(|end| end.saturating_add(moments.within_us)).collect())
            }
            Labels::Panes(spec) => {
                let starts = self.micros(batch, self.start)?;
                Ok(starts.values().iter().map(|start| spec.last_end(*start)).collect())
            }
            Labels::Sessions(SessionPieces { gap_us, .. }) => {
                let ends = self.micros(batch, self.end)?;
                Ok(ends.values().iter().map(|end| end.saturating_add(*gap_us)).collect())
            }
            Labels::Groups => Ok(vec![i64::MAX; batch.num_rows()]),
        }
    }

    /// The last end, as the ledger counts it, of rows that are needed up to `last_end_us` at most: rows that were given
    /// out count no more.
    pub fn last_release_us(&self, last_end_us: i64) -> i64 {
        match &self.labels {
            Labels::Moments(moments) if moments.always => i64::MAX,
            Labels::Moments(moments) => last_end_us.saturating_sub(moments.within_us),
            _ => last_end_us,
        }
    }

    /// The end of the first window that each row belongs to and that ends after `after_us`; the smallest of them. A
    /// session may end later than its piece.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn next_end(&self, batch: &RecordBatch, after_us: i64) -> Result<Option<i64>> {
        match &self.labels {
            Labels::Windows | Labels::Sessions(_) | Labels::Moments(_) => {
                let ends = self.bounds(batch)?.1;
                Ok(ends.values().iter().copied().filter(|end| *end > after_us).min())
            }
            Labels::Panes(spec) => {
                let starts = self.micros(batch, self.start)?;
                let mut panes = starts.values().to_vec();
                panes.sort_unstable();
                panes.dedup();
                let next = |start: &i64| spec.windows_of_pane(*start).ending_after(after_us).next();
                Ok(panes.iter().filter_map(next).map(|window| window.end_us).min())
            }
            Labels::Groups => Ok(None),
        }
    }

    /// The number of input rows that the rows of state stand for.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn input_rows(&self, batch: &RecordBatch) -> Result<u64> {
        if self.rows.is_none() {
            return Ok(batch.num_rows() as u64);
        }
        let sum = arrow::compute::sum(&self.counts(batch)?).unwrap_or(0);
        Ok(u64::try_from(sum).unwrap_or(0))
    }

    /// The number of input rows of each row.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn counts(&self, batch: &RecordBatch) -> Result<Int64Array> {
        let Some(rows) = self.rows else { return Ok(Int64Array::from(vec![1; batch.num_rows()])) };
        let column = batch.column(rows).as_primitive_opt::<Int64Type>();
        column.cloned().ok_or_else(|| Error::internal("the state's row count is no Int64"))
    }

    fn micros(&self, batch: &RecordBatch, column: usize) -> Result<Int64Array> {
        micros(batch.column(column))
    }

    fn relabel(&self, columns: &mut [ArrayRef], column: usize, micros: Vec<i64>) -> Result<()> {
        let Some(slot) = columns.get_mut(column) else { return Err(Error::internal("a window column is missing")) };
        *slot = timestamps(micros, self.schema.field(column).data_type())?;
        Ok(())
    }
}

/// A timestamp column as microseconds since the epoch, rounded down.
///
/// # Errors
/// `Internal` if it is no timestamp.
pub fn micros(column: &ArrayRef) -> Result<Int64Array> {
    use arrow::datatypes::{TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType};
    let DataType::Timestamp(unit, _) = column.data_type() else {
        return Err(Error::internal(format!("a window column is {}, no timestamp", column.data_type())));
    };
    // Arrow's cast rounds towards zero, which is another window before 1970.
    Ok(match unit {
        TimeUnit::Second => column.as_primitive::<TimestampSecondType>().unary(|s| s.saturating_mul(1_000_000)),
        TimeUnit::Millisecond => column.as_primitive::<TimestampMillisecondType>().unary(|ms| ms.saturating_mul(1_000)),
        TimeUnit::Microsecond => {
            let column = column.as_primitive::<TimestampMicrosecondType>();
            PrimitiveArray::new(column.values().clone(), column.nulls().cloned())
        }
        TimeUnit::Nanosecond => column.as_primitive::<TimestampNanosecondType>().unary(|ns| ns.div_euclid(1_000)),
    })
}

/// Microseconds since the epoch as a timestamp column of type `wanted`, rounded down.
///
/// # Errors
/// `Internal` if that is no timestamp.
pub fn timestamps(micros: Vec<i64>, wanted: &DataType) -> Result<ArrayRef> {
    use arrow::datatypes::{TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType};
    let DataType::Timestamp(unit, zone) = wanted else {
        return Err(Error::internal(format!("a window column is {wanted}, no timestamp")));
    };
    fn array<T: ArrowTimestampType>(micros: Vec<i64>, zone: Option<Arc<str>>, unit: impl Fn(i64) -> i64) -> ArrayRef {
        Arc::new(PrimitiveArray::<T>::from_iter_values(micros.into_iter().map(unit)).with_timezone_opt(zone))
    }
    let zone = zone.clone();
    Ok(match unit {
        TimeUnit::Second => array::<TimestampSecondType>(micros, zone, |us| us.div_euclid(1_000_000)),
        TimeUnit::Millisecond => array::<TimestampMillisecondType>(micros, zone, |us| us.div_euclid(1_000)),
        TimeUnit::Microsecond => array::<TimestampMicrosecondType>(micros, zone, |us| us),
        TimeUnit::Nanosecond => array::<TimestampNanosecondType>(micros, zone, |us| us.saturating_mul(1_000)),
    })
}
