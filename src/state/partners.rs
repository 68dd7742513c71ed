//! Single rows of one side of a join: all that rows of the other side may meet, as often as these come.

use std::collections::VecDeque;

use arrow::{
    array::{BooleanArray, RecordBatch},
    compute::filter_record_batch,
};

use super::{
    layout::{Labels, StateLayout},
    operator::{Held, rows_of},
};
use crate::{
    error::{Error, Result},
    store::Store,
};

/// The rows of a stretch of event time, file by file: no more than one file is in memory that was not before, and files
/// without such rows are not read.
#[derive(Debug, Clone)]
pub struct PartnerScan {
    layout: StateLayout,
    store: Store,
    left: VecDeque<Held>,
    slices: VecDeque<RecordBatch>,
    /// Microseconds since the epoch, both included.
    times_us: (i64, i64),
}

impl PartnerScan {
    pub(super) fn new((layout, store): (StateLayout, Store), held: Vec<Held>, times_us: (i64, i64)) -> Self {
        Self { layout, store, left: held.into(), slices: VecDeque::new(), times_us }
    }

    /// Of these rows those in `times_us` too.
    #[must_use]
    pub fn between(mut self, (first_us, last_us): (i64, i64)) -> Self {
        self.times_us = (self.times_us.0.max(first_us), self.times_us.1.min(last_us));
        self
    }

    /// The next rows, without their event times.
    ///
    /// # Errors
    /// The store's; `Corrupt`.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            while let Some(batch) = self.slices.pop_front() {
                if let Some(rows) = self.select(&batch)? {
                    return Ok(Some(rows));
                }
            }
            let Some(held) = self.left.pop_front() else { return Ok(None) };
            if self.may_hold(&held) {
                self.slices.extend(rows_of(held, &self.store, &self.layout).await?.iter().cloned());
            }
        }
    }

    fn may_hold(&self, held: &Held) -> bool {
        // The end of a row is a microsecond after its time.
        let newest_us = self.layout.last_release_us(held.file.last_end_us).saturating_sub(1);
        held.file.first_start_us <= self.times_us.1 && newest_us >= self.times_us.0
    }

    fn select(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
        let Labels::Moments(moments) = &self.layout.labels else {
            return Err(Error::internal("the state holds no single rows"));
        };
        let (times, _) = self.layout.bounds(batch)?;
        let wanted = |time: &i64| Some(*time >= self.times_us.0 && *time <= self.times_us.1);
        let wanted: BooleanArray = times.values().iter().map(wanted).collect();
        if wanted.true_count() == 0 {
            return Ok(None);
        }
        let mut columns = batch.columns().to_vec();
        if self.layout.start >= columns.len() {
            return Err(Error::internal("the event time of the state is missing"));
        }
        columns.remove(self.layout.start);
        // No column may be left: the rows count all the same.
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let whole = RecordBatch::try_new_with_options(moments.emitted.clone(), columns, &options)?;
        Ok(Some(filter_record_batch(&whole, &wanted)?))
    }
}
