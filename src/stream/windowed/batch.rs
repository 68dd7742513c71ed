//! One batch of a query with windows: source -> decode -> partial aggregates -> state -> closed windows -> output.

use arrow::array::RecordBatch;
use futures::{StreamExt, future::BoxFuture};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::run::{QueryState, Settled, Watermarks};
use crate::{
    catalog::ParseMode,
    checkpoint::Ledger,
    clock::Stopwatch,
    error::{Error, ErrorKind, Result},
    fault::crash_point,
    sink::file::FileSink,
    stream::{
        batch::{BatchResult, BatchWork, write_dead_letters},
        isolate::{Good, Isolator},
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

/// What the parts of a batch work with.
pub struct Parts<'a> {
    pub reader: &'a mut Option<Reader>,
    pub plan: &'a QueryPlan,
    pub state: &'a mut QueryState,
    pub output: &'a mut Output,
    pub aside: SetAside<'a>,
}

/// Runs one batch; the state is that of after it then, with its files in the checkpoint.
///
/// If an expression below the windows fails on a record, the batch is given up and run again, with such records set
/// aside first.
///
/// # Errors
/// The source's, the decoder's, the plan's, the store's and the sink's; nothing is visible then, and the state must not
/// be used any more.
pub async fn run_batch(parts: &mut Parts<'_>, work: &BatchWork<'_>, watermarks: Watermarks) -> Result<BatchResult> {
    let before = parts.state.operators.clone();
    match attempt(parts, work, watermarks, None).await {
        Err(error) if error.kind() == ErrorKind::BadRecord => {
            tracing::warn!(batch = work.batch, reason = error.message(), "running the batch again in steps");
            parts.state.roll_back(before).await?;
            let mode = parts.plan.parse_mode()?;
            attempt(parts, work, watermarks, Some(mode)).await.map_err(|error| match (error.kind(), mode) {
                // Every record passed alone: it is an expression over the rows of the aggregate.
                (ErrorKind::BadRecord, ParseMode::DeadLetter | ParseMode::DropMalformed | ParseMode::Permissive) => {
                    error.context("above the aggregate, for a group or a window").help(
                        "change the expression, with NULLIF(x, 0) or TRY_CAST, and start again: the checkpoint goes on",
                    )
                }
                _ => error,
            })
        }
        result => result,
    }
}

/// `isolating` is the mode of bad records, when they are looked for.
async fn attempt(
    parts: &mut Parts<'_>,
    work: &BatchWork<'_>,
    watermarks: Watermarks,
    isolating: Option<ParseMode>,
) -> Result<BatchResult> {
    let Parts { reader, plan, state, output, aside } = parts;
    let future_us = state.tracker.future_us(work.timestamp_ms);
    let (late_in, late_out) = channel(LATE_QUEUE_BATCHES);
    let mut windowed = plan.windowed(work.timestamp_ms, (watermarks, future_us), Some(late_in)).await?;
    windowed.planned.emits = work.emits;
    let isolator = match isolating {
        Some(mode) => Some(isolator(plan, work, (watermarks, future_us), mode).await?),
        None => None,
    };
    let column = event_time_column(plan, &windowed.projection)?;
    let times = column.map(|column| EventTimes::new(column, future_us, work.timestamp_ms));
    let decoded = (windowed.projection.as_slice(), isolator.is_some());
    let (reading, queues) = reader::start(reader, &plan.source, decoded, work.ranges, times)?;
    let (rows, isolate) = good_rows(isolator, queues.rows, queues.more_dead_letters);
    // Another attempt's files of state may lie there.
    let owner = if isolating.is_some() { format!("{}-again", work.owner) } else { work.owner.to_owned() };
    let running = async {
        let mut writer = output.begin(work.batch, work.owner).await?;
        windowed.feed(rows);
        let ran = run(&windowed, state, watermarks, &owner, &mut writer).await;
        // A reading thread whose rows nobody takes would wait for ever, and so would the writer of the late rows.
        drop(windowed.unread());
        windowed.planned.late.close();
        match ran {
            Ok((written, counts)) => Ok((writer.finish().await?, written, counts)),
            Err(error) => {
                writer.abandon().await?;
                Err(error)
            }
        }
    };
    let dead = write_dead_letters(aside.dead_letters, queues.dead_letters, work.owner);
    let late = write_dead_letters(aside.late, late_out, work.owner);
    let (ran, bad, dead_letters, late) = tokio::join!(running, isolate, dead, late);
    let counts = reading.end(reader).await?;
    let (dead_letters, late) = (dead_letters?, late?);
    let (isolated, (files, written, settled)) = match (bad, ran) {
        (Ok(isolated), Ok(ran)) if !counts.refused => (isolated, ran),
        (Ok(_), Ok(_)) => return Err(Error::internal("the plan ended before its input: the batch is not complete")),
        // What ended the isolating is the reason that the plan's input broke off.
        (Err(error), _) | (Ok(_), Err(error)) => {
            aside.dead_letters.discard(&dead_letters).await?;
            aside.late.discard(&late).await?;
            return Err(error);
        }
    };
    state.tracker.observe(&counts.newest);
    if work.emits && windowed.planned.emit.period.is_some() {
        state.emitted_ms = Some(work.timestamp_ms);
    }
    let step = Stopwatch::start();
    let place = state.save(work.batch, &owner).await?;
    let windows = WindowProgress {
        watermark_ms: watermarks.to_ms,
        times: counts.times,
        late: settled.counts.late,
        late_samples: windowed.planned.late.samples(),
        operators: settled.operators,
        commit_ms: step.elapsed_ms(),
    };
    crash_point("staged", work.batch);
    let summary = counts.summary;
    let bad = counts.bad + isolated;
    let ledger = Ledger::of_stateful(summary.records, summary.gaps, bad, settled.counts, written);
    Ok(BatchResult { files, dead_letters, late, state: Some(place), ledger, windows: Some(windows) })
}

/// Finds the records on which the plan below the windows fails. It has a plan of its own, which keeps nothing.
async fn isolator(
    plan: &QueryPlan,
    work: &BatchWork<'_>,
    bounds: (Watermarks, i64),
    mode: ParseMode,
) -> Result<Isolator> {
    let probe = plan.windowed(work.timestamp_ms, bounds, None).await?.over_records();
    let probe = probe.ok_or_else(|| Error::internal("a query with windows has no window"))?;
    Isolator::new(&probe, mode)
}

/// The rows for the plan, and what has to run beside it: how many records it took out.
fn good_rows(
    isolator: Option<Isolator>,
    mut decoded: Receiver<Result<RecordBatch>>,
    dead_letters: Sender<RecordBatch>,
) -> (Receiver<Result<RecordBatch>>, BoxFuture<'static, Result<u64>>) {
    let Some(mut isolator) = isolator else {
        drop(dead_letters);
        return (decoded, Box::pin(std::future::ready(Ok(0))));
    };
    let (good_in, good_out) = channel(1);
    let work = async move {
        let mut bad = 0;
        while let Some(batch) = decoded.recv().await {
            let mut good = Vec::new();
            let isolated = isolator.run(&batch?, Good::Keep(&mut good)).await?;
            bad += isolated.bad;
            if let Some(letters) = isolated.dead_letters
                && dead_letters.send(letters).await.is_err()
            {
                return Err(Error::internal("the dead letters' writer ended before the batch"));
            }
            for rows in good {
                if good_in.send(Ok(rows)).await.is_err() {
                    // The plan has failed, and says why.
                    return Ok(bad);
                }
            }
        }
        Ok(bad)
    };
    (good_out, Box::pin(work))
}

async fn run(
    windowed: &WindowedPlan,
    state: &mut QueryState,
    watermarks: Watermarks,
    owner: &str,
    writer: &mut BatchWriter<'_>,
) -> Result<(u64, Settled)> {
    let planned = &windowed.planned;
    let absorbed = state.absorb(planned, watermarks, owner).await?;
    let (mut rows, mut written) = (planned.rest()?, 0);
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        written += batch.num_rows() as u64;
        writer.write(&batch).await?;
    }
    Ok((written, state.settle(planned, absorbed).await?))
}

/// Where the event time is among the decoded columns, if the query waits for it.
fn event_time_column(plan: &QueryPlan, projection: &[usize]) -> Result<Option<usize>> {
    let Some(name) = plan.event_time().map(|watermark| &watermark.column) else { return Ok(None) };
    let is_it = |index: &usize| plan.source.columns.get(*index).is_some_and(|column| column.name == *name);
    let found = projection.iter().position(is_it);
    found.map(Some).ok_or_else(|| Error::internal(format!("the event time {name} is not decoded")))
}
