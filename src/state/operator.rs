//! The state of one operator: files in the checkpoint, and as much of them in memory as a limit allows.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::array::RecordBatch;

use super::{
    file::{self, StateFile},
    layout::StateLayout,
    manifest::OperatorManifest,
};
use crate::{
    error::{Error, ErrorKind, Result},
    store::Store,
};

/// State beyond this is read from its files when it is needed.
const MEMORY_BYTES_MAX: usize = 64 << 20;
/// A file of state holds about this much, uncompressed: it is read into memory whole.
pub const FILE_BYTES: usize = 8 << 20;

/// The state of one operator of a query.
#[derive(Debug, Clone)]
pub struct OperatorState {
    name: String,
    pub layout: StateLayout,
    store: Store,
    held: Vec<Held>,
}

/// One file, and its rows if they are in memory.
#[derive(Debug, Clone)]
struct Held {
    file: StateFile,
    rows: Option<Arc<Vec<RecordBatch>>>,
}

impl Held {
    fn memory_bytes(&self) -> usize {
        self.rows.iter().flat_map(|rows| rows.iter()).map(RecordBatch::get_array_memory_size).sum()
    }
}

impl OperatorState {
    /// Without any rows. `store` is the checkpoint.
    pub fn new(name: String, layout: StateLayout, store: Store) -> Self {
        Self { name, layout, store, held: Vec::new() }
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
        self.held = manifest.files.iter().map(|file| Held { file: file.clone(), rows: None }).collect();
        Ok(self)
    }

    /// What the checkpoint keeps.
    pub fn manifest(&self) -> OperatorManifest {
        let files = self.held.iter().map(|held| held.file.clone()).collect();
        OperatorManifest { name: self.name.clone(), types: self.types(), files }
    }

    fn types(&self) -> Vec<String> {
        self.layout.schema.fields().iter().map(|field| field.data_type().to_string()).collect()
    }

    /// Writes rows to a file of the checkpoint, and holds them.
    ///
    /// # Errors
    /// The store's.
    pub async fn add(&mut self, path: &str, rows: Vec<RecordBatch>) -> Result<()> {
        let (mut last_end_us, mut input_rows, mut count) = (i64::MIN, 0, 0);
        for batch in &rows {
            last_end_us = self.layout.last_ends(batch)?.into_iter().fold(last_end_us, i64::max);
            input_rows += self.layout.input_rows(batch)?;
            count += batch.num_rows() as u64;
        }
        let (bytes, crc32) = file::write(&self.store, path, &self.layout.schema, &rows).await?;
        let file = StateFile { path: path.to_owned(), bytes, crc32, rows: count, input_rows, last_end_us };
        self.held.push(Held { file, rows: Some(Arc::new(rows)) });
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
            ready: VecDeque::new(),
            from_us,
            to_us,
            released: Arc::default(),
        }
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

    /// When the next window closes, microseconds since the epoch: the smallest end of a window after `after_us`. What
    /// is not in memory may close at any time.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn next_end(&self, after_us: i64) -> Result<Option<i64>> {
        let mut next = None;
        for held in &self.held {
            let Some(rows) = &held.rows else { return Ok(Some(after_us.saturating_add(1))) };
            for batch in rows.iter() {
                next = next.into_iter().chain(self.layout.next_end(batch, after_us)?).min();
            }
        }
        Ok(next)
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

    /// Takes the files with the fewest rows out, to be written again as fewer: at least half of them. Returns their
    /// rows, live at `watermark_us`, as a scan that changes no label.
    pub fn take_small(&mut self, watermark_us: i64) -> LiveRows {
        self.held.sort_by_key(|held| std::cmp::Reverse(held.file.rows));
        let keep = self.held.len() / 2;
        // Each file that stays has more rows than all the smaller ones together, so that no row is written often.
        let rows = |held: &[Held]| held.iter().map(|held| held.file.rows).sum::<u64>();
        let large = |at: &usize| self.held[*at].file.rows > rows(&self.held[at + 1..]);
        let keep = (0..keep).take_while(large).count();
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
    ready: VecDeque<RecordBatch>,
    from_us: i64,
    to_us: i64,
    released: Arc<AtomicU64>,
}

impl StateScan {
    /// The next rows, with the windows' labels.
    ///
    /// # Errors
    /// The store's; `Corrupt`.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            let Some(held) = self.left.pop_front() else { return Ok(None) };
            let rows = rows_of(held, &self.store, &self.layout).await?;
            for batch in rows.iter() {
                let released = self.layout.released(batch, self.from_us, self.to_us)?;
                self.released.fetch_add(released, Ordering::Relaxed);
                self.ready.extend(self.layout.closing(batch, self.from_us, self.to_us)?);
            }
        }
    }

    /// Input rows that no window needs any more, once the scan is done.
    pub fn released(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.released)
    }
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
        for batch in rows_of(held, &self.store, &self.layout).await?.iter() {
            live.push(self.layout.live(batch, watermark_us)?.unwrap_or_else(|| batch.clone()));
        }
        Ok(Some(live))
    }
}

async fn rows_of(held: Held, store: &Store, layout: &StateLayout) -> Result<Arc<Vec<RecordBatch>>> {
    match held.rows {
        Some(rows) => Ok(rows),
        None => Ok(Arc::new(file::read(store, &held.file, &layout.schema).await?)),
    }
}
