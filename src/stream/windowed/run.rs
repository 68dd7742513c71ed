//! One batch of a query with windows: new rows into the state, closed windows out of it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::array::RecordBatch;
use datafusion::physical_plan::execute_stream;
use futures::{StreamExt, future::try_join_all};

use super::{
    closing::{changing, closing, live, met, pieces, starting},
    planner::{PlannedOperator, PlannedStages},
    sieve::Bounds,
    slot::StateRows,
};
use crate::{
    catalog::OutputMode,
    checkpoint::StateCounts,
    clock::Stopwatch,
    error::{Error, Result},
    event_time::{NO_WATERMARK_MS, QueryWatermark},
    state::{FILE_BYTES, Labels, Manifest, OperatorState, StateLayout, StateRef, slice_bytes},
    store::Store,
    stream::forecast::{self, Learning},
};

/// A batch that leaves more small files of state than this makes fewer of them.
const FILES_MAX: usize = if cfg!(test) { 3 } else { 16 };
/// What a query with windows remembers, and how far its events have come.
#[derive(Debug)]
pub struct QueryState {
    store: Store,
    pub operators: Vec<OperatorState>,
    pub tracker: QueryWatermark,
    /// When rows of groups that change were written last, by the batch's timestamp.
    pub emitted_ms: Option<i64>,
    /// Of a query with ML_FORECAST.
    pub learning: Option<Learning>,
    /// After the last committed batch.
    saved: Option<(StateRef, Manifest)>,
    /// After the batch that is being run.
    next: Option<(StateRef, Manifest)>,
    /// What that batch writes.
    files: Arc<FileNames>,
}

/// The event time of a batch: its windows end after `from_ms`, and those up to `to_ms` close with it. Milliseconds
/// since the epoch, `NO_WATERMARK_MS` for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    pub from_ms: i64,
    pub to_ms: i64,
}

impl Watermarks {
    /// Those of the operator with this state, in microseconds.
    pub fn of(self, layout: &StateLayout) -> (i64, i64) {
        (stage_us(self.from_ms, layout.behind_us), stage_us(self.to_ms, layout.behind_us))
    }

    /// What an operator lets in whose watermark is `behind_us` behind, `future_us` being the newest event that is
    /// believed.
    pub fn bounds(self, behind_us: i64, future_us: i64) -> Bounds {
        let (closed_us, closing_us) = (stage_us(self.from_ms, behind_us), stage_us(self.to_ms, behind_us));
        Bounds { closed_us, closing_us, future_us }
    }
}

/// How far the watermark of an operator is, in microseconds, that is `behind_us` behind the source's.
pub fn stage_us(watermark_ms: i64, behind_us: i64) -> i64 {
    if watermark_ms == NO_WATERMARK_MS {
        return i64::MIN;
    }
    watermark_ms.saturating_mul(1_000).saturating_sub(behind_us)
}

/// What one batch did to the state of one aggregate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperatorCounts {
    pub name: String,
    /// Rows of state after the batch. Rows of closed windows count in files that were not read since a restart.
    pub rows: u64,
    /// Rows of state that the batch added.
    pub updated: u64,
    /// Rows of state of windows that closed.
    pub removed: u64,
    /// What of the state is in memory.
    pub memory_bytes: u64,
    pub files: u64,
    pub file_bytes: u64,
    pub update_ms: u64,
    pub removal_ms: u64,
}

/// What the state did in a batch.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    pub counts: StateCounts,
    pub operators: Vec<OperatorCounts>,
}

/// A batch between its two halves.
#[derive(Debug)]
pub struct Absorbed {
    /// Rows of records that went into the state.
    held: u64,
    /// And those of them that left it, once the rest has run.
    released: Vec<Arc<AtomicU64>>,
    operators: Vec<OperatorCounts>,
    watermarks: Watermarks,
}

impl QueryState {
    /// The empty state of a query that is planned like this. `store` is the checkpoint.
    pub fn new(planned: &PlannedStages, tracker: QueryWatermark, store: Store) -> Self {
        let operator =
            |planned: &PlannedOperator| OperatorState::new(planned.name.clone(), planned.layout.clone(), store.clone());
        let operators = planned.operators.iter().map(operator).collect();
        let (files, learning) = (Arc::default(), Learning::of(&planned.task));
        Self { store, operators, tracker, emitted_ms: None, learning, saved: None, next: None, files }
    }

    /// Goes on with what `place` lists; `watermark_ms` is that of the batch that wrote it.
    ///
    /// # Errors
    /// The store's; `Corrupt`; `Conflict` if it is the state of another query.
    pub async fn restore(&mut self, place: StateRef, watermark_ms: i64) -> Result<()> {
        let manifest = Manifest::read(&self.store, &place).await?;
        let ours = datafusion::DATAFUSION_VERSION;
        if manifest.datafusion != ours {
            return Err(Error::unsupported(format!(
                "the state was written with DataFusion {}, this Tidemill has {ours}, whose partial aggregates may differ",
                manifest.datafusion
            ))
            .help("finish with the Tidemill that wrote it; or start anew with another path and checkpointLocation; or give the \
                 state up, once, with `tidemill stream JOB.sql --reset-state TABLE`"));
        }
        if manifest.operators.len() != self.operators.len() {
            let (old, new) = (manifest.operators.len(), self.operators.len());
            return Err(Error::new(
                crate::error::ErrorKind::Conflict,
                format!("the state is that of {old} aggregates, the query has {new}"),
            )
            .help("bring the old query back, or start anew with another path and checkpointLocation"));
        }
        for (operator, kept) in self.operators.iter_mut().zip(&manifest.operators) {
            *operator = operator.clone().restore(kept)?;
        }
        forecast::restore(self.learning.as_mut(), manifest.forecaster.as_ref(), &self.store).await?;
        self.tracker = self.tracker.clone().restore(manifest.sources(), watermark_ms);
        self.emitted_ms = manifest.emitted_ms;
        self.saved = Some((place, manifest));
        Ok(())
    }

    /// Goes on without the rows of `place`, but where its event times stand: what was written is not written again.
    ///
    /// # Errors
    /// The store's; `Corrupt`.
    pub async fn reset(&mut self, place: Option<StateRef>, watermark_ms: i64) -> Result<()> {
        let Some(place) = place else {
            self.tracker = self.tracker.clone().restore(self.tracker.partitions(), watermark_ms);
            return Ok(());
        };
        let manifest = Manifest::read(&self.store, &place).await?;
        self.tracker = self.tracker.clone().restore(manifest.sources(), watermark_ms);
        // Its files go when the next batch is committed.
        self.saved = Some((place, manifest));
        Ok(())
    }

    /// Takes the records of a batch in, which come out of the scans of the plans. After that `rest` gives the rows of the
    /// windows that close.
    ///
    /// # Errors
    /// The plan's, the store's; the state must not be used any more.
    pub async fn absorb(&mut self, planned: &PlannedStages, watermarks: Watermarks, owner: &str) -> Result<Absorbed> {
        let files = Arc::new(FileNames { owner: owner.to_owned(), count: AtomicU64::new(0) });
        self.files = Arc::clone(&files);
        if let Some(learning) = &self.learning {
            learning.lend(&planned.task);
        }
        let (mut held, mut released) = (0, Vec::new());
        let mut counted = vec![OperatorCounts::default(); planned.operators.len()];
        for depth in 0..=planned.operators.iter().map(|operator| operator.depth).max().unwrap_or(0) {
            // Those over records at the same time: they may share a table, whose queues hold up each other.
            let operators = planned.operators.iter().zip(&mut self.operators).zip(&mut counted);
            let at_once = operators.filter(|((operator, _), _)| operator.depth == depth);
            let taken = at_once.map(|((operator, state), counts)| {
                let bounds = watermarks.of(&state.layout);
                take_in((operator, state, counts), planned, bounds, &files)
            });
            for (rows, left) in try_join_all(taken).await? {
                if depth == 0 {
                    held += rows;
                    released.push(left);
                }
            }
        }
        Ok(Absorbed { held, released, operators: counted, watermarks })
    }

    /// The rows of the windows that closed are written: forgets what no window needs any more, and says what the state
    /// did.
    ///
    /// # Errors
    /// The plan's, the store's; the state must not be used any more.
    pub async fn settle(&mut self, planned: &PlannedStages, absorbed: Absorbed) -> Result<Settled> {
        let Absorbed { held, released, mut operators, watermarks } = absorbed;
        let files = Arc::clone(&self.files);
        if let Some(learning) = &mut self.learning {
            learning.take_back(&planned.task)?;
        }
        for operator in &planned.operators {
            count_unread(operator, planned).await?;
        }
        let states = self.operators.iter_mut().zip(&mut operators);
        for (operator, (state, counts)) in planned.operators.iter().zip(states) {
            let (before, step) = (state.rows(), Stopwatch::start());
            let (from_us, to_us) = watermarks.of(&state.layout);
            if matches!(state.layout.labels, Labels::Sessions(_)) && state.would_expire(from_us, to_us)? {
                let live = pieces(state, from_us, to_us);
                write_outlived(operator, state, planned, (live, to_us), &files).await?;
            }
            state.expire(to_us)?;
            counts.removed = before.saturating_sub(state.rows());
            if planned.emits {
                state.mark(0, false);
            }
            compact(operator, state, planned, to_us, &files).await?;
            counts.removal_ms = step.elapsed_ms();
            (counts.rows, counts.memory_bytes) = (state.rows(), state.memory_bytes());
            (counts.files, counts.file_bytes) = (state.files() as u64, state.bytes());
        }
        let released = released.iter().map(|released| released.load(Ordering::Relaxed)).sum();
        let again = planned.emit.mode != OutputMode::Append;
        Ok(Settled { counts: StateCounts { late: planned.late.count(), held, released, again }, operators })
    }

    /// Goes back to the operators as they were before a batch, and deletes the files that it had written.
    ///
    /// # Errors
    /// The store's.
    pub async fn roll_back(&mut self, before: Vec<OperatorState>) -> Result<()> {
        self.operators = before;
        // Of a batch that failed before it took anything in these are the files of the last one, and what is left of
        // them is needed.
        self.delete_unneeded(std::iter::empty()).await
    }

    /// Deletes what the committed state does not need of what the last batch wrote (a failed one's files, or those that
    /// it joined with others), and of `before`.
    async fn delete_unneeded(&self, before: impl Iterator<Item = String>) -> Result<()> {
        let kept = self.needed();
        for path in before.chain(self.files.given()).filter(|path| !kept.contains(path)) {
            self.store.delete(&path).await?;
        }
        Ok(())
    }

    /// Writes down which files the state is made of now.
    ///
    /// # Errors
    /// The store's.
    pub async fn save(&mut self, batch: u64, owner: &str) -> Result<StateRef> {
        let mut sources = self.tracker.partitions().into_iter();
        let forecaster = match &mut self.learning {
            Some(learning) => Some(learning.save(&self.store, owner).await?),
            None => None,
        };
        let manifest = Manifest {
            batch_id: batch,
            datafusion: datafusion::DATAFUSION_VERSION.to_owned(),
            partitions: sources.next().unwrap_or_default(),
            more_partitions: sources.collect(),
            emitted_ms: self.emitted_ms,
            operators: self.operators.iter().map(OperatorState::manifest).collect(),
            forecaster,
        };
        let place = manifest.write(&self.store, owner).await?;
        self.next = Some((place.clone(), manifest));
        Ok(place)
    }

    /// The batch is committed: deletes the files that only the state before it needed, or none. False if it is no batch
    /// that this run has saved.
    ///
    /// # Errors
    /// The store's.
    pub async fn committed(&mut self) -> Result<bool> {
        let Some((place, manifest)) = self.next.take() else { return Ok(false) };
        let before = self.saved.replace((place, manifest));
        self.delete_unneeded(before.iter().flat_map(listed)).await?;
        Ok(true)
    }

    /// The files of the last committed state.
    pub(super) fn needed(&self) -> BTreeSet<String> {
        self.saved.iter().flat_map(listed).collect()
    }

    /// Deletes what batches left that were never prepared, as far as `is_ours` says so of a file's name.
    ///
    /// # Errors
    /// The store's.
    pub async fn sweep(&self, is_ours: &(dyn Fn(&str) -> bool + Sync)) -> Result<usize> {
        let kept = self.needed();
        let mut swept = 0;
        for entry in self.store.list("state").await? {
            let name = entry.path.rsplit('/').next().unwrap_or_default();
            if !kept.contains(&entry.path) && is_ours(name) {
                self.store.delete(&entry.path).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

/// The files of a state.
fn listed((place, manifest): &(StateRef, Manifest)) -> Vec<String> {
    manifest.paths().map(str::to_owned).chain([place.path.clone()]).collect()
}

/// Names for the files of one batch, which no other instance uses.
#[derive(Debug, Default)]
struct FileNames {
    owner: String,
    count: AtomicU64,
}

impl FileNames {
    fn next(&self) -> String {
        self.name(self.count.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// All that were given so far.
    fn given(&self) -> impl Iterator<Item = String> {
        (1..=self.count.load(Ordering::Relaxed)).map(|number| self.name(number))
    }

    fn name(&self, number: u64) -> String {
        format!("state/{}-{number}.arrow", self.owner)
    }
}

/// Lets windows close whose rows nobody has asked for: what they release is counted all the same.
async fn count_unread(operator: &PlannedOperator, planned: &PlannedStages) -> Result<()> {
    if let Some(emission) = operator.emission.as_ref().filter(|_| operator.closing.is_unread()) {
        let mut rows = execute_stream(Arc::clone(emission), Arc::clone(&planned.task))?;
        while let Some(batch) = rows.next().await {
            batch?;
        }
    }
    Ok(())
}

/// Takes in the rows that an operator is over, and lets its windows close that end up to `to_us`. Returns how many rows
/// there were, and where it will stand how many have left the state.
async fn take_in(
    (operator, state, counts): (&PlannedOperator, &mut OperatorState, &mut OperatorCounts),
    planned: &PlannedStages,
    (from_us, to_us): (i64, i64),
    files: &FileNames,
) -> Result<(u64, Arc<AtomicU64>)> {
    let (before, step) = (state.rows(), Stopwatch::start());
    let is_session = matches!(state.layout.labels, Labels::Sessions(_));
    if is_session {
        operator.known.put(state.live(from_us), state.layout.clone());
    }
    let held = absorb(operator, state, planned, from_us, files).await?;
    *counts = OperatorCounts {
        name: operator.name.clone(),
        updated: state.rows().saturating_sub(before),
        update_ms: step.elapsed_ms(),
        ..OperatorCounts::default()
    };
    let released = match (planned.emit.mode, operator.partners()) {
        (_, Some(partners)) => met(state, partners, (from_us, to_us)).await?,
        (OutputMode::Append, None) => closing(operator, state, (from_us, to_us))?,
        (OutputMode::Update | OutputMode::Complete, None) => {
            changing(operator, state, planned, (from_us, to_us)).await?
        }
    };
    Ok((held, released))
}

/// The rows that an aggregate is over, into its state; how many they were.
async fn absorb(
    operator: &PlannedOperator,
    state: &mut OperatorState,
    planned: &PlannedStages,
    closed_us: i64,
    files: &FileNames,
) -> Result<u64> {
    let before = state.files();
    let rows = execute_stream(Arc::clone(&operator.partial), Arc::clone(&planned.task))?;
    let (mut held, mut outlived) = (0, false);
    let changes = planned.emit.mode != OutputMode::Append;
    let layout = state.layout.clone();
    let is_session = matches!(layout.labels, Labels::Sessions(_));
    let mut count = |batch: &RecordBatch| -> Result<()> {
        held += layout.input_rows(batch)?;
        outlived |= is_session && layout.last_ends(batch)?.iter().any(|end| *end <= closed_us);
        Ok(())
    };
    keep(rows, state, files, &mut count).await?;
    state.mark(before, changes);
    if outlived {
        // An old row that an open session took: by its own bounds it would be forgotten already.
        let rows = starting(live(state.live_or_new(closed_us, before)), layout, closed_us);
        write_outlived(operator, state, planned, (rows, closed_us), files).await?;
    }
    Ok(held)
}

/// Writes the pieces of sessions anew, with the bounds of their session, that would be forgotten before it.
async fn write_outlived(
    operator: &PlannedOperator,
    state: &mut OperatorState,
    planned: &PlannedStages,
    (rows, to_us): (StateRows, i64),
    files: &FileNames,
) -> Result<()> {
    let rows = execute_stream(operator.outlived(rows, to_us)?, Arc::clone(&planned.task))?;
    keep(rows, state, files, &mut |_| Ok(())).await
}

async fn keep(
    mut rows: datafusion::physical_plan::SendableRecordBatchStream,
    state: &mut OperatorState,
    files: &FileNames,
    count: &mut (dyn FnMut(&RecordBatch) -> Result<()> + Send),
) -> Result<()> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        // A total has a row of no rows.
        if state.layout.input_rows(&batch)? == 0 {
            continue;
        }
        count(&batch)?;
        bytes += slice_bytes(&batch);
        chunk.push(batch);
        if bytes >= FILE_BYTES {
            state.add(&files.next(), std::mem::take(&mut chunk)).await?;
            bytes = 0;
        }
    }
    if !chunk.is_empty() {
        state.add(&files.next(), chunk).await?;
    }
    Ok(())
}

/// Makes fewer files of many, and fewer rows of those of a group.
async fn compact(
    operator: &PlannedOperator,
    state: &mut OperatorState,
    planned: &PlannedStages,
    watermark_us: i64,
    files: &FileNames,
) -> Result<()> {
    if (!planned.forgets || state.layout.remembers())
        && let Some(rows) = state.take_grown()
    {
        let before = state.files();
        let rows = execute_stream(operator.reduce(live(rows), watermark_us).await?, Arc::clone(&planned.task))?;
        keep(rows, state, files, &mut |_| Ok(())).await?;
        state.merged(before);
    }
    for pending in [false, true] {
        if state.small_files(pending) <= FILES_MAX {
            continue;
        }
        let rows = live(state.take_small(watermark_us, pending));
        let before = state.files();
        let rows = execute_stream(operator.reduce(rows, watermark_us).await?, Arc::clone(&planned.task))?;
        keep(rows, state, files, &mut |_| Ok(())).await?;
        state.mark(before, pending);
    }
    Ok(())
}
