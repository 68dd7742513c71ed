//! One batch: source -> decode -> plan -> output, all of it streaming, with bounded queues in between.

use arrow::array::RecordBatch;
use futures::{StreamExt, stream::select_all};
use tokio::sync::mpsc::{Receiver, Sender};

use super::{
    inputs::Inputs,
    isolate::{Good, Isolator, is_of_a_row},
    output::{BatchWriter, Output, Staged},
    plan::{BatchPlan, QueryPlan, Source},
    reader::ReadCounts,
    sample::RowSample,
    scan::{Rows, TableScans, fed},
    window_progress::WindowProgress,
};
use crate::{
    checkpoint::{Ledger, Read},
    error::{Error, Result},
    fault::crash_point,
    sink::{StagedFile, file::FileSink},
    source::OffsetRange,
    state::StateRef,
};

/// What a batch produced, before any of it is visible.
#[derive(Debug)]
pub struct BatchResult {
    pub files: Vec<StagedFile>,
    pub dead_letters: Vec<StagedFile>,
    /// Rows that came too late for their windows.
    pub late: Vec<StagedFile>,
    pub state: Option<StateRef>,
    pub ledger: Ledger,
    /// Records of each source.
    pub consumed: Vec<u64>,
    /// What the user sees of windows.
    pub windows: Option<WindowProgress>,
    /// Some of the rows, if they are wanted.
    pub sample: Option<RowSample>,
}

/// Runs one batch. The readers come back in every case but a panic of a thread.
///
/// If an expression of the plan fails on a record, the batch is given up and run again in steps that set such records
/// aside.
///
/// # Errors
/// The source's, the decoder's, the plan's and the sink's; nothing is visible then.
pub async fn run_batch(
    inputs: &mut Inputs,
    plan: &QueryPlan,
    output: &mut Output,
    dead_letter_sink: &FileSink,
    work: &BatchWork<'_>,
) -> Result<BatchResult> {
    let batch_plan = plan.batch(work.timestamp_ms).await?;
    let mut isolators = None;
    loop {
        let started = inputs.start(&batch_plan.reads, work, isolators.is_some(), Vec::new())?;
        let dead = write_dead_letters(dead_letter_sink, started.dead_letters, work.owner);
        let (rows, letters) = (started.rows, started.more_dead_letters);
        let written = async {
            match isolators.take() {
                None => {
                    // Only the reading threads have dead letters here; the queue ends with the last sender.
                    drop(letters);
                    fed(&batch_plan.reads, rows, write(&batch_plan, output, work)).await
                }
                Some(isolators) => Ok(write_in_steps(isolators, rows, output, work, letters).await?),
            }
        };
        let (written, dead) = tokio::join!(written, dead);
        let counts = started.readings.end(inputs).await?;
        // The dead letters' error first: without them the rows have no way on either.
        let dead_letters = dead?;
        match written {
            Ok(written) => {
                plan.check_unchanged().await?;
                return finish(work, (&batch_plan.reads, counts), written, dead_letters);
            }
            Err(Failure::OfARow(error)) => {
                tracing::warn!(batch = work.batch, reason = error.message(), "running the batch again in steps");
                dead_letter_sink.discard(&dead_letters).await?;
                crash_point("isolating", work.batch);
                let isolator = |source: &Source| Isolator::new(&batch_plan, source.parse_mode()?);
                isolators = Some(plan.sources.iter().map(isolator).collect::<Result<Vec<_>>>()?);
            }
            Err(Failure::Other(error)) => return Err(error),
        }
    }
}

fn finish(
    work: &BatchWork<'_>,
    (reads, counts): (&[TableScans], Vec<ReadCounts>),
    written: Written,
    dead_letters: Vec<StagedFile>,
) -> Result<BatchResult> {
    if counts.iter().any(|counts| counts.refused) {
        return Err(Error::internal("the plan ended before its input: the batch is not complete"));
    }
    crash_point("staged", work.batch);
    let read = records_read(reads, &counts, &written.bad);
    let ledger = Ledger::of_batch(read, written.rows);
    let consumed = counts.iter().map(|counts| counts.summary.records).collect();
    let Staged { files, sample } = written.staged;
    Ok(BatchResult { files, dead_letters, late: Vec::new(), state: None, ledger, consumed, windows: None, sample })
}

/// What was read of all tables, of which `reads` says how often the plan scans each; `bad` is how many records of each
/// the plan has failed on.
pub fn records_read(reads: &[TableScans], counts: &[ReadCounts], bad: &[u64]) -> Read {
    let mut read = Read::default();
    for (index, (scans, counts)) in reads.iter().zip(counts).enumerate() {
        let bad = counts.bad + bad.get(index).copied().unwrap_or(0);
        let decoded = counts.summary.records.saturating_sub(bad);
        let again = u64::try_from(scans.count().saturating_sub(1)).unwrap_or(u64::MAX);
        read.consumed += counts.summary.records;
        read.gaps += counts.summary.gaps;
        read.bad += bad;
        read.again += decoded.saturating_mul(again);
    }
    read
}

/// What a batch shall do.
#[derive(Debug, Clone, Copy)]
pub struct BatchWork<'a> {
    pub batch: u64,
    pub timestamp_ms: i64,
    /// Of each source.
    pub ranges: &'a [Vec<OffsetRange>],
    /// Rows of groups that change are written at its end.
    pub emits: bool,
    /// Marks its temporaries.
    pub owner: &'a str,
    /// Somebody looks at some of its rows.
    pub sampled: bool,
}

struct Written {
    staged: Staged,
    rows: u64,
    /// Records of each source on which the plan failed.
    bad: Vec<u64>,
}

/// Why a plan ended.
enum Failure {
    /// An expression failed on some record. What was staged is deleted again.
    OfARow(Error),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

async fn write(plan: &BatchPlan, output: &mut Output, work: &BatchWork<'_>) -> Result<Written, Failure> {
    let mut streams = select_all(plan.execute()?);
    let mut writer: BatchWriter<'_> = output.begin(work.batch, work.owner, work.sampled).await?;
    let mut rows = 0;
    while let Some(batch) = streams.next().await {
        match batch {
            Ok(batch) => {
                rows += batch.num_rows() as u64;
                writer.write(&batch).await?;
            }
            Err(error) if is_of_a_row(&error) => {
                writer.abandon().await?;
                return Err(Failure::OfARow(error.into()));
            }
            Err(error) => return Err(Failure::Other(error.into())),
        }
    }
    Ok(Written { staged: writer.finish().await?, rows, bad: Vec::new() })
}

/// As `write`, one decoded `RecordBatch` after the other, with the records on which the plan fails set aside.
async fn write_in_steps(
    isolators: Vec<Isolator>,
    rows: Vec<Rows>,
    output: &mut Output,
    work: &BatchWork<'_>,
    dead_letters: Sender<RecordBatch>,
) -> Result<Written> {
    let mut writer = output.begin(work.batch, work.owner, work.sampled).await?;
    let (mut rows_written, mut bad_of_each) = (0, Vec::new());
    for (source, (mut isolator, mut rows)) in isolators.into_iter().zip(rows).enumerate() {
        let mut bad = 0;
        while let Some(decoded) = rows.recv().await {
            let isolated = isolator.run(source, &decoded?, Good::Write(&mut writer)).await?;
            rows_written += isolated.rows;
            bad += isolated.bad;
            if let Some(letters) = isolated.dead_letters
                && dead_letters.send(letters).await.is_err()
            {
                return Err(Error::internal("the dead letters' writer ended before the batch"));
            }
        }
        bad_of_each.push(bad);
    }
    Ok(Written { staged: writer.finish().await?, rows: rows_written, bad: bad_of_each })
}

/// Writes what comes through the queue until its last sender is gone.
///
/// # Errors
/// The sink's.
pub async fn write_dead_letters(
    sink: &FileSink,
    mut letters: Receiver<RecordBatch>,
    owner: &str,
) -> Result<Vec<StagedFile>> {
    let mut writer = sink.begin(owner);
    while let Some(batch) = letters.recv().await {
        writer.write(&batch).await?;
    }
    writer.finish().await
}
