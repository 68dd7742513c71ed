//! One batch of a query with windows: source -> decode -> partial aggregates -> state -> closed windows -> output.

use futures::StreamExt;
use tokio::sync::mpsc::channel;

use super::run::{QueryState, Settled, Watermarks};
use crate::{
    checkpoint::Ledger,
    clock::Stopwatch,
    error::{Error, Result},
    fault::crash_point,
    sink::{StagedFile, file::FileSink},
    stream::{
        batch::{BatchResult, BatchWork, write_dead_letters},
        output::{BatchWriter, Output},
        plan::{QueryPlan, WindowedPlan},
        reader::{self, EventTimes, Reader},
        window_progress::WindowProgress,
    },
};

/// Batches of late rows waiting to be written.
const LATE_QUEUE_BATCHES: usize = 2;

/// Where rows go that are not written.
#[derive(Debug, Clone, Copy)]
pub struct SetAside<'a> {
    pub dead_letters: &'a FileSink,
    pub late: &'a FileSink,
}

/// Runs one batch; `state` is that of after it then, with its files in the checkpoint.
///
/// # Errors
/// The source's, the decoder's, the plan's, the store's and the sink's; nothing is visible then, and `state` must not
/// be used any more.
pub async fn run_batch(
    reader: &mut Option<Reader>,
    plan: &QueryPlan,
    state: &mut QueryState,
    output: &mut Output,
    aside: SetAside<'_>,
    work: &BatchWork<'_>,
    watermarks: Watermarks,
) -> Result<BatchResult> {
    let future_us = state.tracker.future_us(work.timestamp_ms);
    let (late_in, late_out) = channel(LATE_QUEUE_BATCHES);
    let windowed = plan.windowed(work.timestamp_ms, (watermarks, future_us), Some(late_in)).await?;
    let column = event_time_column(plan, &windowed.projection)?;
    let times = EventTimes::new(column, future_us, work.timestamp_ms);
    let decoded = (windowed.projection.as_slice(), false);
    let (reading, queues) = reader::start(reader, &plan.source, decoded, work.ranges, Some(times))?;
    windowed.feed(queues.rows);
    drop(queues.more_dead_letters);
    let running = async {
        let writer = output.begin(work.batch, work.owner).await?;
        let ran = run(&windowed, state, watermarks, work.owner, writer).await;
        // A reading thread whose rows nobody takes would wait for ever, and so would the writer of the late rows.
        drop(windowed.unread());
        windowed.planned.late.close();
        ran
    };
    let dead = write_dead_letters(aside.dead_letters, queues.dead_letters, work.owner);
    let late = write_dead_letters(aside.late, late_out, work.owner);
    let (ran, dead_letters, late) = tokio::join!(running, dead, late);
    let counts = reading.end(reader).await?;
    let (dead_letters, late) = (dead_letters?, late?);
    let (files, written, settled) = ran?;
    if counts.refused {
        return Err(Error::internal("the plan ended before its input: the batch is not complete"));
    }
    state.tracker.observe(&counts.newest);
    let step = Stopwatch::start();
    let place = state.save(work.batch, work.owner).await?;
    let windows = WindowProgress {
        watermark_ms: watermarks.to_ms,
        times: counts.times,
        late: settled.counts.late,
        operators: settled.operators,
        commit_ms: step.elapsed_ms(),
    };
    crash_point("staged", work.batch);
    let summary = counts.summary;
    let ledger = Ledger::of_stateful(summary.records, summary.gaps, counts.bad, settled.counts, written);
    Ok(BatchResult { files, dead_letters, late, state: Some(place), ledger, windows: Some(windows) })
}

async fn run(
    windowed: &WindowedPlan,
    state: &mut QueryState,
    watermarks: Watermarks,
    owner: &str,
    mut writer: BatchWriter<'_>,
) -> Result<(Vec<StagedFile>, u64, Settled)> {
    let planned = &windowed.planned;
    let absorbed = state.absorb(planned, watermarks, owner).await?;
    let (mut rows, mut written) = (planned.rest()?, 0);
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        written += batch.num_rows() as u64;
        writer.write(&batch).await?;
    }
    let settled = state.settle(planned, absorbed).await?;
    Ok((writer.finish().await?, written, settled))
}

/// Where the event time is among the decoded columns.
fn event_time_column(plan: &QueryPlan, projection: &[usize]) -> Result<usize> {
    let name = &plan.watermark()?.column;
    let is_it = |index: &usize| plan.source.columns.get(*index).is_some_and(|column| column.name == *name);
    let found = projection.iter().position(is_it);
    found.ok_or_else(|| Error::internal(format!("the event time {name} is not decoded")))
}
