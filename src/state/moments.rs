//! Single rows that are given out when the watermark passes them, with the earlier ones that they look back to.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch},
    compute::{and, filter_record_batch, or},
};
use datafusion::physical_expr::PhysicalExpr;

use super::{
    hashes::{KeyHashes, hash_rows},
    layout::{Labels, Moments, StateLayout},
    operator::{Held, Scan, rows_of, rows_seen},
};
use crate::{
    error::{Error, Result},
    store::Store,
};

/// Keys of rows to give out, for each way in which they look back: 16 MiB. If there are more, all rows are looked at.
const KEYS_MAX: usize = if cfg!(test) { 4 } else { 1 << 20 };

/// What rows must have in common to look at each other, over the columns of the state.
pub type RowKeys = Vec<Arc<dyn PhysicalExpr>>;

/// The rows to give out and those that they look at, file by file: no more than one file is in memory that was not
/// before. What comes is a superset: a row that nobody looks at may come too.
#[derive(Debug)]
pub struct MomentScan {
    layout: StateLayout,
    store: Store,
    left: VecDeque<Held>,
    slices: VecDeque<RecordBatch>,
    from_us: i64,
    to_us: i64,
    keys: Vec<RowKeys>,
    /// Hashes of the keys of the rows to give out; `None` until they are known.
    wanted: Option<Vec<KeyHashes>>,
    released: Arc<AtomicU64>,
}

/// Which rows are given out, and which were or will be and may be looked at.
struct Stands {
    due: BooleanArray,
    other: BooleanArray,
}

impl MomentScan {
    pub(super) fn new(
        (layout, store): (StateLayout, Store),
        held: Vec<Held>,
        (from_us, to_us): (i64, i64),
        keys: Vec<RowKeys>,
    ) -> Self {
        Self {
            layout,
            store,
            left: held.into(),
            slices: VecDeque::new(),
            from_us,
            to_us,
            keys,
            wanted: None,
            released: Arc::default(),
        }
    }

    /// The keys of the rows to give out.
    async fn look_for(&self, moments: &Moments) -> Result<Vec<KeyHashes>> {
        let mut wanted = (0..self.keys.len()).map(|_| KeyHashes::new(KEYS_MAX)).collect::<Vec<_>>();
        if wanted.is_empty() {
            return Ok(wanted);
        }
        for held in &self.left {
            if held.next_end(&self.layout, self.from_us)? > self.to_us {
                continue;
            }
            for batch in rows_of(held.clone(), &self.store, &self.layout).await?.iter() {
                let due = filter_record_batch(batch, &self.stands(batch, moments)?.due)?;
                for (keys, wanted) in self.keys.iter().zip(&mut wanted) {
                    wanted.extend(hashes(keys, &due)?);
                }
            }
        }
        Ok(wanted)
    }

    fn stands(&self, batch: &RecordBatch, moments: &Moments) -> Result<Stands> {
        let (times, ends) = self.layout.bounds(batch)?;
        let is_due = |end: i64| end > self.from_us && end <= self.to_us;
        let is_before =
            |end: i64| end <= self.from_us && (moments.always || end.saturating_add(moments.within_us) > self.from_us);
        let is_ahead = |time: i64, end: i64| end > self.to_us && time < self.to_us;
        let due = ends.values().iter().map(|end| Some(is_due(*end))).collect();
        let other = times.values().iter().zip(ends.values());
        let other = other.map(|(time, end)| Some(is_before(*end) || is_ahead(*time, *end))).collect();
        Ok(Stands { due, other })
    }

    fn choose(&self, batch: &RecordBatch, stands: &Stands) -> Result<BooleanArray> {
        let Some(wanted) = self.wanted.as_ref().filter(|wanted| !wanted.is_empty()) else {
            return Ok(stands.due.clone());
        };
        let mut looked_at = vec![false; batch.num_rows()];
        if stands.other.true_count() > 0 {
            for (keys, wanted) in self.keys.iter().zip(wanted) {
                for (row, hash) in looked_at.iter_mut().zip(hashes(keys, batch)?) {
                    *row |= wanted.contains(hash);
                }
            }
        }
        let looked_at = BooleanArray::from(looked_at);
        Ok(or(&stands.due, &and(&stands.other, &looked_at)?)?)
    }

    fn emit(
        &self,
        batch: &RecordBatch,
        due: &BooleanArray,
        chosen: &BooleanArray,
        moments: &Moments,
    ) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        if self.layout.start >= columns.len() {
            return Err(Error::internal("the event time of the state is missing"));
        }
        columns.remove(self.layout.start);
        columns.push(Arc::new(due.clone()) as ArrayRef);
        let whole = RecordBatch::try_new(Arc::clone(&moments.emitted), columns)?;
        Ok(filter_record_batch(&whole, chosen)?)
    }
}

impl Scan for MomentScan {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Labels::Moments(moments) = self.layout.labels.clone() else {
            return Err(Error::internal("the state holds no single rows"));
        };
        if self.wanted.is_none() {
            self.wanted = Some(self.look_for(&moments).await?);
        }
        loop {
            while let Some(batch) = self.slices.pop_front() {
                let stands = self.stands(&batch, &moments)?;
                self.released.fetch_add(stands.due.true_count() as u64, Ordering::Relaxed);
                let chosen = self.choose(&batch, &stands)?;
                if chosen.true_count() > 0 {
                    return self.emit(&batch, &stands.due, &chosen, &moments).map(Some);
                }
            }
            let Some(held) = self.left.pop_front() else { return Ok(None) };
            let rows = rows_seen(held, &self.store, &self.layout, self.to_us).await?;
            self.slices.extend(rows.iter().cloned());
        }
    }

    /// Those that are given out.
    fn released(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.released)
    }
}

/// A hash of each row's keys; without keys all rows have the same.
fn hashes(keys: &RowKeys, batch: &RecordBatch) -> Result<Vec<u64>> {
    let columns = keys.iter().map(|key| Ok(key.evaluate(batch)?.into_array(batch.num_rows())?));
    hash_rows(&columns.collect::<Result<Vec<ArrayRef>>>()?, batch.num_rows())
}
