//! One batch of a query with windows: source -> decode -> partial aggregates -> state -> closed windows -> output.

use arrow::array::RecordBatch;
use futures::{
    StreamExt,
    future::{BoxFuture, try_join_all},
};
use tokio::sync::mpsc::{Sender, channel};

use super::run::{QueryState, Settled, Watermarks};
use crate::{
    catalog::ParseMode,
    checkpoint::Ledger,
    clock::Stopwatch,
    error::{Error, ErrorKind, Result},
    event_time::{EventTimeStats, WatermarkTracker},
    fault::crash_point,
    sink::file::FileSink,
    stream::{
        batch::{BatchResult, BatchWork, records_read, write_dead_letters},
        forecast::Learning,
        inputs::Inputs,
        isolate::{Good, Isolator},
        output::{BatchWriter, Output, Staged},
        plan::{QueryPlan, Source, WindowedPlan},
        reader::EventTimes,
        scan::{Rows, TableScans, fed},
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
    pub inputs: &'a mut Inputs,
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
    match attempt(parts, work, watermarks, false).await {
        Err(error) if error.kind() == ErrorKind::BadRecord => {
            tracing::warn!(batch = work.batch, reason = error.message(), "running the batch again in steps");
            parts.state.roll_back(before).await?;
            let modes = parts.plan.sources.iter().map(Source::parse_mode).collect::<Result<Vec<_>>>()?;
            let stops_at_one = modes.contains(&ParseMode::FailFast);
            attempt(parts, work, watermarks, true).await.map_err(|error| match error.kind() {
                // Every record passed alone: it is an expression over the rows of the aggregate.
                ErrorKind::BadRecord if !stops_at_one => {
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

/// `isolating` looks for bad records.
async fn attempt(
    parts: &mut Parts<'_>,
    work: &BatchWork<'_>,
    watermarks: Watermarks,
    isolating: bool,
) -> Result<BatchResult> {
    let Parts { inputs, plan, state, output, aside } = parts;
    let future_us = state.tracker.future_us(work.timestamp_ms);
    let (late_in, late_out) = channel(LATE_QUEUE_BATCHES);
    let mut windowed = plan.windowed(work.timestamp_ms, (watermarks, future_us), Some(late_in)).await?;
    windowed.planned.emits = work.emits;
    let isolators = match isolating {
        true => isolators(plan, work, (watermarks, future_us)).await?,
        false => Vec::new(),
    };
    let times = event_times(plan, state, &windowed.reads, work.timestamp_ms)?;
    let started = inputs.start(&windowed.reads, work, isolating, times)?;
    let (rows, isolate) = good_rows(isolators, started.rows, started.more_dead_letters);
    // Another attempt's files of state may lie there.
    let owner = if isolating { format!("{}-again", work.owner) } else { work.owner.to_owned() };
    let running = async {
        let mut writer = output.begin(work.batch, work.owner, work.sampled).await?;
        let ran = fed(&windowed.reads, rows, run(&windowed, state, watermarks, &owner, &mut writer)).await;
        // The writer of the late rows would wait for ever.
        windowed.planned.late.close();
        match ran {
            Ok((written, counts)) => Ok((writer.finish().await?, written, counts)),
            Err(error) => {
                writer.abandon().await?;
                Err(error)
            }
        }
    };
    let dead = write_dead_letters(aside.dead_letters, started.dead_letters, work.owner);
    let late = write_dead_letters(aside.late, late_out, work.owner);
    let (ran, bad, dead_letters, late) = tokio::join!(running, isolate, dead, late);
    let counts = started.readings.end(inputs).await?;
    let (dead_letters, late) = (dead_letters?, late?);
    let refused = counts.iter().any(|counts| counts.refused);
    let (isolated, (staged, written, settled)) = match (bad, ran) {
        (Ok(isolated), Ok(ran)) if !refused => (isolated, ran),
        (Ok(_), Ok(_)) => return Err(Error::internal("the plan ended before its input: the batch is not complete")),
        // What ended the isolating is the reason that the plan's input broke off.
        (Err(error), _) | (Ok(_), Err(error)) => {
            aside.dead_letters.discard(&dead_letters).await?;
            aside.late.discard(&late).await?;
            return Err(error);
        }
    };
    plan.check_unchanged().await?;
    if work.emits && windowed.planned.emit.period.is_some() {
        state.emitted_ms = Some(work.timestamp_ms);
    }
    let mut times = EventTimeStats::default();
    for (source, counts) in counts.iter().enumerate() {
        state.tracker.observe(source, &counts.newest);
        times.merge(&counts.times);
    }
    let step = Stopwatch::start();
    let place = state.save(work.batch, &owner).await?;
    let windows = WindowProgress {
        watermark_ms: watermarks.to_ms,
        times,
        late: settled.counts.late,
        late_samples: windowed.planned.late.samples(),
        operators: settled.operators,
        forecast: state.learning.as_ref().map(Learning::progress),
        commit_ms: step.elapsed_ms(),
    };
    crash_point("staged", work.batch);
    let ledger = Ledger::of_stateful(records_read(&windowed.reads, &counts, &isolated), settled.counts, written);
    let consumed = counts.iter().map(|counts| counts.summary.records).collect();
    let (state, windows) = (Some(place), Some(windows));
    let Staged { files, sample } = staged;
    Ok(BatchResult { files, dead_letters, late, state, ledger, consumed, windows, sample })
}

/// For each source, what finds the records on which the plan below the windows fails. It has a plan of its own, which
/// keeps nothing.
async fn isolators(plan: &QueryPlan, work: &BatchWork<'_>, bounds: (Watermarks, i64)) -> Result<Vec<Isolator>> {
    let mut isolators = Vec::new();
    for source in &plan.sources {
        let probe = plan.windowed(work.timestamp_ms, bounds, None).await?.over_records();
        isolators.push(Isolator::new(&probe, source.parse_mode()?)?);
    }
    Ok(isolators)
}

/// The rows for the plan, and what has to run beside it: how many records of each source it took out.
fn good_rows(
    isolators: Vec<Isolator>,
    decoded: Vec<Rows>,
    dead_letters: Sender<RecordBatch>,
) -> (Vec<Rows>, BoxFuture<'static, Result<Vec<u64>>>) {
    if isolators.is_empty() {
        return (decoded, Box::pin(std::future::ready(Ok(Vec::new()))));
    }
    let (mut good, mut work) = (Vec::new(), Vec::new());
    for (source, (isolator, decoded)) in isolators.into_iter().zip(decoded).enumerate() {
        let (good_in, good_out) = channel(1);
        good.push(good_out);
        work.push(isolate((source, isolator), decoded, good_in, dead_letters.clone()));
    }
    (good, Box::pin(try_join_all(work)))
}

async fn isolate(
    (source, mut isolator): (usize, Isolator),
    mut decoded: Rows,
    good_in: Sender<Result<RecordBatch>>,
    dead_letters: Sender<RecordBatch>,
) -> Result<u64> {
    let mut bad = 0;
    while let Some(batch) = decoded.recv().await {
        let mut good = Vec::new();
        let isolated = isolator.run(source, &batch?, Good::Keep(&mut good)).await?;
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

/// What finds the newest events of each source among its decoded columns.
fn event_times(plan: &QueryPlan, state: &QueryState, reads: &[TableScans], now_ms: i64) -> Result<Vec<EventTimes>> {
    if !plan.waits() {
        return Ok(Vec::new());
    }
    let of = |((source, reads), known): ((&Source, &TableScans), &WatermarkTracker)| {
        let name = source.table.watermark.as_ref().map(|watermark| watermark.column.as_str()).unwrap_or_default();
        let is_it = |index: &usize| source.table.columns.get(*index).is_some_and(|column| column.name == name);
        let column = reads.projection.iter().position(is_it);
        let column = column.ok_or_else(|| Error::internal(format!("the event time {name} is not decoded")))?;
        Ok(EventTimes::new(column, known.future_us(now_ms), now_ms))
    };
    plan.sources.iter().zip(reads).zip(state.tracker.sources()).map(of).collect()
}
