//! The state of one operator: files in the checkpoint, and as much of them in memory as a limit allows.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, UInt32Array},
    compute::take_record_batch,
};

use super::{
    file::{self, StateFile},
    layout::StateLayout,
    manifest::OperatorManifest,
    moments::{MomentScan, RowKeys},
    partners::PartnerScan,
};
use crate::{
    error::{Error, ErrorKind, Result},
    store::Store,
};

/// State beyond this is read from its files when it is needed.
const MEMORY_BYTES_MAX: usize = 64 << 20;
/// A file of state holds about this much, uncompressed: it is read into memory whole.
pub const FILE_BYTES: usize = 8 << 20;

/// State that nothing expires from is merged when it has grown to twice what it was after that, and by so many rows.
const MERGE_ROWS_MIN: u64 = if cfg!(test) { 16 } else { 1 << 16 };
/// Smaller files, compressed, are written again as fewer when they are many.
const SMALL_FILE_BYTES: u64 = 256 << 10;

/// The state of one operator of a query.
#[derive(Debug, Clone)]
pub struct OperatorState {
    name: String,
    pub layout: StateLayout,
    store: Store,
    held: Vec<Held>,
    /// Rows of state when all of them had been merged last.
    merged_rows: u64,
}

/// One file, and its rows if they are in memory.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) file: StateFile,
    rows: Option<Arc<Vec<RecordBatch>>>,
    /// The moment after which it was last looked at, and when its next window ends: what does not change while the
    /// watermark goes on need not be looked at again. It holds only from that moment on: a batch may fail and be run again.
    looked: Arc<Mutex<Option<(i64, i64)>>>,
}

impl Held {
    fn new(file: StateFile, rows: Option<Arc<Vec<RecordBatch>>>) -> Self {
        Self { file, rows, looked: Arc::default() }
    }

    /// A moment before which no window of it ends, from `after_us` on. Of what is not in memory and was not read since,
    /// nobody knows: it has to be read.
    pub(super) fn next_end(&self, layout: &StateLayout, after_us: i64) -> Result<i64> {
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, next)) = looked.filter(|(from, next)| *from <= after_us && *next > after_us) {
            return Ok(next);
        }
        match &self.rows {
            Some(rows) => self.look(layout, rows, after_us),
            None => Ok(self.file.first_start_us.max(after_us.saturating_add(1))),
        }
    }

    /// Looks at its rows for the next window that ends after `after_us`.
    fn look(&self, layout: &StateLayout, rows: &[RecordBatch], after_us: i64) -> Result<i64> {
        let mut next = i64::MAX;
        for batch in rows {
            next = layout.next_end(batch, after_us)?.map_or(next, |end| next.min(end));
        }
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some((after_us, next));
        Ok(next)
    }

    fn is_small(&self, pending: bool) -> bool {
        self.file.bytes < SMALL_FILE_BYTES && self.file.pending == pending
    }

    fn memory_bytes(&self) -> usize {
        self.rows.iter().flat_map(|rows| rows.iter()).map(slice_bytes).sum()
    }
}

impl OperatorState {
    /// Without any rows. `store` is the checkpoint.
    pub fn new(name: String, layout: StateLayout, store: Store) -> Self {
        Self { name, layout, store, held: Vec::new(), merged_rows: 0 }
    }

    /// With the files of a manifest; they are read when they are needed.
    ///
    /// # Errors
    /// `Conflict` if they hold other columns than this operator's.
    pub fn restore(mut self, manifest: &OperatorManifest) -> Result<Self> {
        let types = self.types();
        if let Some(at) =
            (0..types.len().max(manifest.types.len())).find(|at| types.get(*at) != manifest.types.get(*at))
        {
            let show = |types: &[String]| types.get(at).cloned().unwrap_or_else(|| "absent".to_owned());
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the state of {} has another shape: its column {at} is {}, the query needs {}",
                    self.name,
                    show(&manifest.types),
                    show(&types)
                ),
            )
            .help("bring the old query back, or start anew with another path and checkpointLocation"));
        }
        self.held = manifest.files.iter().map(|file| Held::new(file.clone(), None)).collect();
        self.merged_rows = manifest.merged_rows;
        Ok(self)
    }

    /// Reads files into memory as far as the limit allows, without what no window needs that ends after `watermark_us`.
    ///
    /// # Errors
    /// The store's; `Corrupt`.
    pub async fn load(&mut self, watermark_us: i64) -> Result<()> {
        let mut total: usize = self.held.iter().map(Held::memory_bytes).sum();
        for held in &mut self.held {
            if held.rows.is_some() || total >= MEMORY_BYTES_MAX {
                continue;
            }
            let rows = file::read(&self.store, &held.file, &self.layout.schema).await?;
            total += rows.iter().map(slice_bytes).sum::<usize>();
            held.rows = Some(Arc::new(rows));
        }
        self.limit_memory();
        self.expire(watermark_us)
    }

    /// What the checkpoint keeps.
    pub fn manifest(&self) -> OperatorManifest {
        let files = self.held.iter().map(|held| held.file.clone()).collect();
        OperatorManifest { name: self.name.clone(), types: self.types(), merged_rows: self.merged_rows, files }
    }

    fn types(&self) -> Vec<String> {
        self.layout.schema.fields().iter().map(|field| field.data_type().to_string()).collect()
    }

    /// Writes rows to a file of the checkpoint, and holds them.
    ///
    /// # Errors
    /// The store's.
    pub async fn add(&mut self, path: &str, rows: Vec<RecordBatch>) -> Result<()> {
        let (mut first_start_us, mut last_end_us, mut input_rows, mut count) = (i64::MAX, i64::MIN, 0, 0);
        for batch in &rows {
            last_end_us = self.layout.last_ends(batch)?.into_iter().fold(last_end_us, i64::max);
            first_start_us = self.layout.bounds(batch)?.0.values().iter().copied().fold(first_start_us, i64::min);
            input_rows += self.layout.input_rows(batch)?;
            count += batch.num_rows() as u64;
        }
        let (bytes, crc32) = file::write(&self.store, path, &self.layout.schema, &rows).await?;
        let (path, pending) = (path.to_owned(), false);
        let file = StateFile { path, bytes, crc32, rows: count, input_rows, first_start_us, last_end_us, pending };
        let rows = rows.into_iter().map(compact).collect::<Result<Vec<_>>>()?;
        self.held.push(Held::new(file, Some(Arc::new(rows))));
        self.limit_memory();
        Ok(())
    }

    /// The largest go first: those that are small are the newest, and needed soonest.
    fn limit_memory(&mut self) {
        let mut total: usize = self.held.iter().map(Held::memory_bytes).sum();
        while total > MEMORY_BYTES_MAX {
            let Some(largest) = self.held.iter_mut().max_by_key(|held| held.memory_bytes()) else { return };
            total -= largest.memory_bytes();
            largest.rows = None;
        }
    }

    /// All rows that windows need which end after `from_us` and not after `to_us`.
    pub fn scan(&self, from_us: i64, to_us: i64) -> StateScan {
        StateScan {
            layout: self.layout.clone(),
            store: self.store.clone(),
            left: self.held.iter().cloned().collect(),
            slices: VecDeque::new(),
            from_us,
            to_us,
            released: Arc::default(),
        }
    }

    /// The rows that are given out when the watermark goes from `from_us` to `to_us`, and those that they look at.
    /// `keys` are the columns of which each row looks at rows with the same, for each way in which it does; no
    /// columns: at all rows.
    pub fn scan_moments(&self, (from_us, to_us): (i64, i64), keys: Vec<RowKeys>) -> MomentScan {
        MomentScan::new((self.layout.clone(), self.store.clone()), self.held.clone(), (from_us, to_us), keys)
    }

    /// The rows that a join may need whose event times are in `times_us`, both included.
    pub fn scan_partners(&self, times_us: (i64, i64)) -> PartnerScan {
        PartnerScan::new((self.layout.clone(), self.store.clone()), self.held.clone(), times_us)
    }

    /// Forgets what no window needs when all that end up to `watermark_us` are closed.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn expire(&mut self, watermark_us: i64) -> Result<()> {
        self.held.retain(|held| held.file.last_end_us > watermark_us);
        for held in &mut self.held {
            let Some(rows) = &held.rows else { continue };
            let mut kept = Vec::with_capacity(rows.len());
            for batch in rows.iter() {
                kept.push(self.layout.live(batch, watermark_us)?.unwrap_or_else(|| batch.clone()));
            }
            kept.retain(|batch| batch.num_rows() > 0);
            held.rows = Some(Arc::new(kept));
        }
        Ok(())
    }

    /// When the next window closes, microseconds since the epoch: no window ends after `after_us` and before it. Of files
    /// that are not in memory and were not read since a restart it may be any moment.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn next_end(&self, after_us: i64) -> Result<Option<i64>> {
        let mut next = i64::MAX;
        for held in &self.held {
            next = next.min(held.next_end(&self.layout, after_us)?);
        }
        Ok(Some(next).filter(|next| *next < i64::MAX))
    }

    /// Will rows be forgotten when the watermark goes from `from_us` to `to_us`? What is not in memory may be.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn would_expire(&self, from_us: i64, to_us: i64) -> Result<bool> {
        for held in &self.held {
            let Some(rows) = &held.rows else { return Ok(true) };
            for batch in rows.iter() {
                if self.layout.last_ends(batch)?.iter().any(|end| *end > from_us && *end <= to_us) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many files hold it.
    pub fn files(&self) -> usize {
        self.held.len()
    }

    /// Rows of state without those of closed windows, as far as they are in memory.
    pub fn rows(&self) -> u64 {
        let rows = |held: &Held| match &held.rows {
            Some(rows) => rows.iter().map(|batch| batch.num_rows() as u64).sum(),
            None => held.file.rows,
        };
        self.held.iter().map(rows).sum()
    }

    /// What of it is in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.held.iter().map(|held| held.memory_bytes() as u64).sum()
    }

    /// Bytes of the files.
    pub fn bytes(&self) -> u64 {
        self.held.iter().map(|held| held.file.bytes).sum()
    }

    /// All rows that are needed still when all windows that end up to `watermark_us` are closed.
    pub fn live(&self, watermark_us: i64) -> LiveRows {
        self.live_or_new(watermark_us, self.held.len())
    }

    /// As `live`, and all rows that were added when there were `files` files.
    pub fn live_or_new(&self, watermark_us: i64, files: usize) -> LiveRows {
        let (layout, store) = (self.layout.clone(), self.store.clone());
        let watermark = |at: usize| if at < files { watermark_us } else { i64::MIN };
        let left = self.held.iter().enumerate().map(|(at, held)| (held.clone(), watermark(at))).collect();
        LiveRows { layout, store, left }
    }

    /// Says of the files that were added when there were `files` files whether their groups are still to be written.
    pub fn mark(&mut self, files: usize, pending: bool) {
        self.held.iter_mut().skip(files).for_each(|held| held.file.pending = pending);
    }

    /// Are there groups to be written?
    pub fn has_pending(&self) -> bool {
        self.held.iter().any(|held| held.file.pending)
    }

    /// The rows whose groups are still to be written, as far as a window needs them that ends after `watermark_us`, and
    /// how many they are at most.
    pub fn pending(&self, watermark_us: i64) -> (LiveRows, u64) {
        let pending = || self.held.iter().filter(|held| held.file.pending);
        let left = pending().map(|held| (held.clone(), watermark_us)).collect();
        let rows = LiveRows { layout: self.layout.clone(), store: self.store.clone(), left };
        (rows, pending().map(|held| held.file.rows).sum())
    }

    /// The number of input rows that no window needs any more when the watermark goes from `from_us` to `to_us`.
    ///
    /// # Errors
    /// The store's; `Corrupt`.
    pub async fn released(&self, from_us: i64, to_us: i64) -> Result<u64> {
        let mut released = 0;
        for held in &self.held {
            let last_us = self.layout.last_release_us(held.file.last_end_us);
            if last_us <= from_us || held.file.first_start_us >= to_us {
                continue;
            }
            for batch in rows_seen(held.clone(), &self.store, &self.layout, to_us).await?.iter() {
                released += self.layout.released(batch, from_us, to_us)?;
            }
        }
        Ok(released)
    }

    /// How many files are small, of those whose groups are still to be written or of the others.
    pub fn small_files(&self, pending: bool) -> usize {
        self.held.iter().filter(|held| held.is_small(pending)).count()
    }

    /// Takes all files out whose groups are written, if nothing expires and groups may have many rows by now: what is
    /// never forgotten has to follow the groups, not the batches. `None` if it is not worth it yet.
    pub fn take_grown(&mut self) -> Option<LiveRows> {
        let is_settled = |held: &Held| !held.file.pending;
        let rows: u64 = self.held.iter().filter(|held| is_settled(held)).map(|held| held.file.rows).sum();
        if rows < 2 * self.merged_rows + MERGE_ROWS_MIN {
            return None;
        }
        let (settled, pending): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held).into_iter().partition(is_settled);
        self.held = pending;
        let left = settled.into_iter().map(|held| (held, i64::MIN)).collect();
        Some(LiveRows { layout: self.layout.clone(), store: self.store.clone(), left })
    }

    /// What `take_grown` gave is back, as the files that were added when there were `files` files.
    pub fn merged(&mut self, files: usize) {
        self.merged_rows = self.held.iter().skip(files).map(|held| held.file.rows).sum();
    }

    /// Takes small files out, those with the fewest rows, to be written again as fewer: at least half of them. Returns
    /// their rows, live at `watermark_us`, as a scan that changes no label. Files whose groups are still to be written
    /// and others do not mix.
    pub fn take_small(&mut self, watermark_us: i64, pending: bool) -> LiveRows {
        self.held.sort_by_key(|held| (held.is_small(pending), std::cmp::Reverse(held.file.rows)));
        let small = self.small_files(pending);
        let large = self.held.len() - small;
        let keep = large + small / 2;
        // Each file that stays has more rows than all the smaller ones together, so that no row is written often.
        let rows = |held: &[Held]| held.iter().map(|held| held.file.rows).sum::<u64>();
        let outweighs = |at: &usize| self.held[*at].file.rows > rows(&self.held[at + 1..]);
        let keep = large + (large..keep).take_while(outweighs).count();
        let left = self.held.split_off(keep).into_iter().map(|held| (held, watermark_us)).collect();
        LiveRows { layout: self.layout.clone(), store: self.store.clone(), left }
    }
}

/// The rows of windows that close, file by file: no more than one file is in memory that was not before.
#[derive(Debug)]
pub struct StateScan {
    layout: StateLayout,
    store: Store,
    left: VecDeque<Held>,
    /// Of the file that is being scanned.
    slices: VecDeque<RecordBatch>,
    from_us: i64,
    to_us: i64,
    released: Arc<AtomicU64>,
}

impl Scan for StateScan {
    /// With the windows' labels.
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            while let Some(slice) = self.slices.pop_front() {
                let released = self.layout.released(&slice, self.from_us, self.to_us)?;
                self.released.fetch_add(released, Ordering::Relaxed);
                if let Some(rows) = self.layout.closing(&slice, self.from_us, self.to_us)? {
                    return Ok(Some(rows));
                }
            }
            let Some(held) = self.left.pop_front() else { return Ok(None) };
            let at_once = self.layout.rows_at_once();
            for batch in rows_seen(held, &self.store, &self.layout, self.to_us).await?.iter() {
                let starts = (0..batch.num_rows()).step_by(at_once);
                self.slices.extend(starts.map(|at| batch.slice(at, at_once.min(batch.num_rows() - at))));
            }
        }
    }

    /// Those that no window needs any more.
    fn released(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.released)
    }
}

/// Rows of state that an operator is given, batch by batch.
pub trait Scan: Send + 'static {
    /// The next rows.
    ///
    /// # Errors
    /// The store's; `Corrupt`.
    fn next(&mut self) -> impl Future<Output = Result<Option<RecordBatch>>> + Send;

    /// Input rows that leave the state, once the scan is done.
    fn released(&self) -> Arc<AtomicU64>;
}

/// The rows that some window needs, as they are in the state, file by file.
#[derive(Debug, Clone)]
pub struct LiveRows {
    layout: StateLayout,
    store: Store,
    left: VecDeque<(Held, i64)>,
}

impl LiveRows {
    /// The next file's rows.
    ///
    /// # Errors
    /// The store's; `Corrupt`.
    pub async fn next(&mut self) -> Result<Option<Vec<RecordBatch>>> {
        let Some((held, watermark_us)) = self.left.pop_front() else { return Ok(None) };
        let mut live = Vec::new();
        for batch in rows_seen(held, &self.store, &self.layout, watermark_us).await?.iter() {
            live.push(self.layout.live(batch, watermark_us)?.unwrap_or_else(|| batch.clone()));
        }
        Ok(Some(live))
    }
}

pub(super) async fn rows_of(held: Held, store: &Store, layout: &StateLayout) -> Result<Arc<Vec<RecordBatch>>> {
    match held.rows {
        Some(rows) => Ok(rows),
        None => Ok(Arc::new(file::read(store, &held.file, &layout.schema).await?)),
    }
}

/// The rows of a file when all windows that end up to `after_us` are closed, or close with this batch. Of one that is not
/// in memory it is known then when the next window ends.
pub(super) async fn rows_seen(
    held: Held,
    store: &Store,
    layout: &StateLayout,
    after_us: i64,
) -> Result<Arc<Vec<RecordBatch>>> {
    let rows = rows_of(held.clone(), store, layout).await?;
    if held.rows.is_none() {
        held.look(layout, &rows, after_us)?;
    }
    Ok(rows)
}

/// Bytes of the rows themselves: a slice shares its buffers with the rest.
pub fn slice_bytes(batch: &RecordBatch) -> usize {
    let bytes =
        |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size());
    batch.columns().iter().map(bytes).sum()
}

/// The same rows without the buffers of others: what is held must not hold more.
fn compact(batch: RecordBatch) -> Result<RecordBatch> {
    if batch.get_array_memory_size() <= 2 * slice_bytes(&batch) {
        return Ok(batch);
    }
    let rows = u32::try_from(batch.num_rows()).map_err(|_| Error::internal("a batch of more than 2^32 rows"))?;
    Ok(take_record_batch(&batch, &UInt32Array::from_iter_values(0..rows))?)
}
