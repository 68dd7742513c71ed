//! Rows get the pane or the windows that they are in; rows that no open window takes are set aside.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Int64Array, RecordBatch, UInt32Array},
    compute::take_record_batch,
    datatypes::SchemaRef,
};

use super::sieve::{Aside, Reason, Sieve, SortOut, picked};
use crate::{
    error::Result,
    state::{Labels, micros, timestamps},
    window::WindowKind,
};

/// Gives each row its pane (or, if the labels say so, each of its open windows).
#[derive(Debug)]
pub struct Assign {
    /// The columns of the input that come out.
    kept: Vec<usize>,
    sieve: Sieve,
    labels: Labels,
    schema: SchemaRef,
}

/// The rows of a batch, sorted out.
#[derive(Debug, Default)]
struct Sorted {
    rows: Vec<u32>,
    start_us: Vec<i64>,
    end_us: Vec<i64>,
    aside: Aside,
}

/// The pane of the row before: rows near each other in the stream mostly share it.
#[derive(Debug, Clone, Copy)]
struct Pane {
    start_us: i64,
    end_us: i64,
    stands: Stands,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Open,
    /// All windows that hold it are closed.
    Closed,
    /// Between the windows of a hop whose slide is longer than its size: no window asks for it.
    Between,
}

impl fmt::Display for Assign {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.sieve.spec)
    }
}

impl SortOut for Assign {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn sort_out(&self, batch: &RecordBatch) -> Result<(RecordBatch, Option<RecordBatch>)> {
        let times = micros(batch.column(self.sieve.time))?;
        let mut sorted = Sorted::default();
        match self.labels {
            Labels::Windows | Labels::Sessions(_) | Labels::Groups | Labels::Moments(_) => {
                self.windows(&times, &mut sorted);
            }
            Labels::Panes(_) => self.panes(&times, &mut sorted),
        }
        let aside = self.sieve.set_aside(batch, &times, sorted.aside)?;
        let kept = batch.project(&self.kept)?;
        let kept = match self.is_one_to_one() {
            true => picked(&kept, sorted.rows)?,
            false => take_record_batch(&kept, &UInt32Array::from(sorted.rows))?,
        };
        let mut columns = kept.columns().to_vec();
        let time: Vec<i64> = sorted.end_us.iter().map(|end| end.saturating_sub(1000)).collect();
        for values in [sorted.start_us, sorted.end_us, time] {
            let data_type = self.schema.field(columns.len()).data_type();
            columns.push(timestamps(values, data_type)?);
        }
        Ok((RecordBatch::try_new(Arc::clone(&self.schema), columns)?, aside))
    }
}

impl Assign {
    /// `schema` is that of the rows that come out: the kept columns, then the window's three.
    pub fn new(kept: Vec<usize>, sieve: Sieve, labels: Labels, schema: SchemaRef) -> Self {
        Self { kept, sieve, labels, schema }
    }

    fn is_one_to_one(&self) -> bool {
        matches!(self.labels, Labels::Panes(_)) || self.sieve.spec.kind == WindowKind::Tumble
    }

    fn panes(&self, times: &Int64Array, sorted: &mut Sorted) {
        let mut pane = Pane { start_us: i64::MAX, end_us: i64::MIN, stands: Stands::Between };
        for (row, time) in (0u32..).zip(times) {
            let Some(time) = self.sieve.in_time((row, time), &mut sorted.aside) else { continue };
            if time < pane.start_us || time >= pane.end_us || self.sieve.spec.zone.is_some() {
                pane = self.pane(time);
            }
            match pane.stands {
                Stands::Open => {
                    sorted.rows.push(row);
                    sorted.start_us.push(pane.start_us);
                    sorted.end_us.push(pane.end_us);
                }
                Stands::Closed => sorted.aside.push(row, Reason::Late),
                Stands::Between => {}
            }
        }
    }

    fn pane(&self, time_us: i64) -> Pane {
        let start_us = self.sieve.spec.pane_start(time_us);
        let window = self.sieve.spec.windows_of(time_us).next();
        let end_us = match (self.sieve.spec.kind, window) {
            (WindowKind::Tumble, Some(window)) => window.end_us,
            _ => start_us.saturating_add(self.sieve.spec.pane_us().unwrap_or(1)),
        };
        let stands = match window {
            None => Stands::Between,
            Some(_) if self.sieve.spec.last_end(time_us) > self.sieve.bounds.closed_us => Stands::Open,
            Some(_) => Stands::Closed,
        };
        Pane { start_us, end_us, stands }
    }

    fn windows(&self, times: &Int64Array, sorted: &mut Sorted) {
        for (row, time) in (0u32..).zip(times) {
            let Some(time) = self.sieve.in_time((row, time), &mut sorted.aside) else { continue };
            let (before, mut windows) = (sorted.rows.len(), 0);
            for window in self.sieve.spec.windows_of(time) {
                windows += 1;
                if window.end_us > self.sieve.bounds.closed_us {
                    sorted.rows.push(row);
                    sorted.start_us.push(window.start_us);
                    sorted.end_us.push(window.end_us);
                }
            }
            if sorted.rows.len() == before && windows > 0 {
                sorted.aside.push(row, Reason::Late);
            }
        }
    }
}
