//! One batch: source -> decode -> plan -> output, all of it streaming, with bounded queues in between.

use arrow::array::RecordBatch;
use futures::StreamExt;
use tokio::sync::mpsc::{Receiver, Sender};

use super::{
    isolate::{Good, Isolator, is_of_a_row},
    output::{BatchWriter, Output},
    plan::{BatchPlan, QueryPlan},
    reader::{self, ReadCounts, Reader},
    window_progress::WindowProgress,
};
use crate::{
    checkpoint::Ledger,
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
    /// What the user sees of windows.
    pub windows: Option<WindowProgress>,
}

/// Runs one batch. The reader comes back in every case but a panic of its thread.
///
/// If an expression of the plan fails on a record, the batch is given up and run again in steps that set such records
/// aside.
///
/// # Errors
/// The source's, the decoder's, the plan's and the sink's; nothing is visible then.
pub async fn run_batch(
    reader: &mut Option<Reader>,
    plan: &QueryPlan,
    output: &mut Output,
    dead_letter_sink: &FileSink,
    work: &BatchWork<'_>,
) -> Result<BatchResult> {
    let batch_plan = plan.batch(work.timestamp_ms).await?;
    let mode = plan.parse_mode()?;
    let mut isolating = None;
    loop {
        let decoded = (batch_plan.projection.as_slice(), isolating.is_some());
        let (reading, queues) = reader::start(reader, &plan.source, decoded, work.ranges, None)?;
        let dead = write_dead_letters(dead_letter_sink, queues.dead_letters, work.owner);
        let written = async {
            match isolating.take() {
                None => write(&batch_plan, queues.rows, output, work, queues.more_dead_letters).await,
                Some(isolator) => write_in_steps(isolator, queues.rows, output, work, queues.more_dead_letters).await,
            }
        };
        let (written, dead) = tokio::join!(written, dead);
        let counts = reading.end(reader).await?;
        // The dead letters' error first: without them the rows have no way on either.
        let dead_letters = dead?;
        match written? {
            Outcome::Written(written) => return finish(work, counts, written, dead_letters),
            Outcome::RowFailed(error) => {
                tracing::warn!(batch = work.batch, reason = error.message(), "running the batch again in steps");
                dead_letter_sink.discard(&dead_letters).await?;
                crash_point("isolating", work.batch);
                isolating = Some(Isolator::new(&batch_plan, mode)?);
            }
        }
    }
}

fn finish(
    work: &BatchWork<'_>,
    counts: ReadCounts,
    written: Written,
    dead_letters: Vec<StagedFile>,
) -> Result<BatchResult> {
    let ReadCounts { summary, bad, refused, .. } = counts;
    if refused {
        return Err(Error::internal("the plan ended before its input: the batch is not complete"));
    }
    crash_point("staged", work.batch);
    let ledger = Ledger::of_batch(summary.records, summary.gaps, bad + written.bad, written.rows);
    Ok(BatchResult { files: written.files, dead_letters, late: Vec::new(), state: None, ledger, windows: None })
}

/// What a batch shall do.
#[derive(Debug, Clone, Copy)]
pub struct BatchWork<'a> {
    pub batch: u64,
    pub timestamp_ms: i64,
    pub ranges: &'a [OffsetRange],
    /// Rows of groups that change are written at its end.
    pub emits: bool,
    /// Marks its temporaries.
    pub owner: &'a str,
}

struct Written {
    files: Vec<StagedFile>,
    rows: u64,
    /// Records on which the plan failed.
    bad: u64,
}

enum Outcome {
    Written(Written),
    /// An expression failed on some record. What was staged is deleted again.
    RowFailed(Error),
}

async fn write(
    plan: &BatchPlan,
    rows: Receiver<Result<RecordBatch>>,
    output: &mut Output,
    work: &BatchWork<'_>,
    // Only the reading thread has dead letters here; the channel ends with the last sender.
    _dead_letters: Sender<RecordBatch>,
) -> Result<Outcome> {
    let (mut stream, unread) = plan.execute(rows)?;
    let mut writer: BatchWriter<'_> = output.begin(work.batch, work.owner).await?;
    let mut count = 0;
    while let Some(batch) = stream.next().await {
        match batch {
            Ok(batch) => {
                count += batch.num_rows() as u64;
                writer.write(&batch).await?;
            }
            Err(error) if is_of_a_row(&error) => {
                // The reading thread ends when nobody takes its rows any more.
                drop(stream);
                writer.abandon().await?;
                return Ok(Outcome::RowFailed(error.into()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    // A plan that is empty by its text reads nothing; its records count as consumed and filtered.
    if let Some(mut unread) = unread {
        while let Some(batch) = unread.recv().await {
            batch?;
        }
    }
    Ok(Outcome::Written(Written { files: writer.finish().await?, rows: count, bad: 0 }))
}

/// As `write`, one decoded `RecordBatch` after the other, with the records on which the plan fails set aside.
async fn write_in_steps(
    mut isolator: Isolator,
    mut rows: Receiver<Result<RecordBatch>>,
    output: &mut Output,
    work: &BatchWork<'_>,
    dead_letters: Sender<RecordBatch>,
) -> Result<Outcome> {
    let mut writer = output.begin(work.batch, work.owner).await?;
    let (mut count, mut bad) = (0, 0);
    while let Some(decoded) = rows.recv().await {
        let isolated = isolator.run(&decoded?, Good::Write(&mut writer)).await?;
        count += isolated.rows;
        bad += isolated.bad;
        if let Some(letters) = isolated.dead_letters
            && dead_letters.send(letters).await.is_err()
        {
            return Err(Error::internal("the dead letters' writer ended before the batch"));
        }
    }
    Ok(Outcome::Written(Written { files: writer.finish().await?, rows: count, bad }))
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
