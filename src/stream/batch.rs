//! One batch: source -> decode -> plan -> output, all of it streaming, with bounded queues in between.

use arrow::array::RecordBatch;
use futures::StreamExt;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{
    isolate::{self, Isolator, is_of_a_row},
    output::{BatchWriter, Output},
    plan::{BatchPlan, QueryPlan},
};
use crate::{
    catalog::{Connector, DecodeOptions, Table},
    checkpoint::Ledger,
    decode::{Decoded, RecordDecoder},
    error::{Error, Result},
    fault::crash_point,
    sink::{StagedFile, file::FileSink},
    source::{KafkaSource, OffsetRange, kafka::ReadSummary},
};

/// Decoded batches between the reading thread and the plan: one in work, one waiting on each side.
const ROWS_QUEUE_BATCHES: usize = 2;
/// Batches of dead letters waiting to be written.
const DEAD_LETTERS_QUEUE_BATCHES: usize = 2;

/// What a batch produced, before any of it is visible.
#[derive(Debug)]
pub struct BatchResult {
    pub files: Vec<StagedFile>,
    pub dead_letters: Vec<StagedFile>,
    pub ledger: Ledger,
}

/// The reading end of a query. It moves to a thread of its own for each batch and comes back afterwards.
#[derive(Debug)]
pub struct Reader {
    pub source: KafkaSource,
    decoder: Option<(Vec<usize>, RecordDecoder)>,
}

/// The counts of the reading thread.
#[derive(Debug, Clone, Copy, Default)]
struct ReadCounts {
    summary: ReadSummary,
    bad: u64,
    /// The plan or the dead-letter writer stopped taking rows before the end.
    refused: bool,
}

impl Reader {
    /// For a connected source.
    pub fn new(source: KafkaSource) -> Self {
        Self { source, decoder: None }
    }

    /// Keeps the decoder as long as the projection stays the same; `isolating` adds to it what dead letters keep.
    fn prepare(&mut self, table: &Table, options: &DecodeOptions, projection: &[usize], isolating: bool) -> Result<()> {
        let (columns, projection) = match isolating {
            true => isolate::columns(&table.columns, projection),
            false => (table.columns.clone(), projection.to_vec()),
        };
        if self.decoder.as_ref().is_none_or(|(current, _)| *current != projection) {
            let decoder = RecordDecoder::new(&columns, &projection, options)?;
            self.decoder = Some((projection, decoder));
        }
        Ok(())
    }

    /// Reads and decodes `ranges` on this thread; errors travel to the plan through `rows`.
    fn run(
        &mut self,
        ranges: &[OffsetRange],
        rows: &Sender<Result<RecordBatch>>,
        dead_letters: &Sender<RecordBatch>,
    ) -> ReadCounts {
        match self.read(ranges, rows, dead_letters) {
            Ok(counts) => counts,
            Err(error) => {
                // Nobody listens any more only if the batch has failed already.
                drop(rows.blocking_send(Err(error)));
                ReadCounts { refused: true, ..ReadCounts::default() }
            }
        }
    }

    fn read(
        &mut self,
        ranges: &[OffsetRange],
        rows: &Sender<Result<RecordBatch>>,
        dead_letters: &Sender<RecordBatch>,
    ) -> Result<ReadCounts> {
        let Some((_, decoder)) = self.decoder.as_mut() else {
            return Err(Error::internal("the decoder was not prepared"));
        };
        let (mut bad, mut refused) = (0, false);
        let mut send = |decoded: Decoded| {
            bad += decoded.bad;
            let dead = decoded.dead_letters.is_none_or(|letters| dead_letters.blocking_send(letters).is_ok());
            let taken = dead && (decoded.rows.num_rows() == 0 || rows.blocking_send(Ok(decoded.rows)).is_ok());
            refused |= !taken;
            taken
        };
        let summary = self.source.read(ranges, &mut |records| {
            let mut rest = records;
            while !rest.is_empty() {
                let taken = decoder.push_until_full(rest)?;
                rest = rest.get(taken..).unwrap_or_default();
                if decoder.is_full() && !send(decoder.flush()?) {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        // Also after an error: what is half decoded must not leak into the next batch.
        let rest = decoder.flush();
        let summary = summary?;
        send(rest?);
        Ok(ReadCounts { summary, bad, refused })
    }
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
    let Connector::Kafka(kafka) = &plan.source.connector else {
        return Err(Error::internal("the source is no Kafka table"));
    };
    let (mode, decode) = (kafka.decode.mode, &kafka.decode);
    let mut isolating = None;
    loop {
        let mut taken = reader.take().ok_or_else(|| Error::internal("the reader is gone"))?;
        let prepared = taken.prepare(&plan.source, decode, &batch_plan.projection, isolating.is_some());
        if let Err(error) = prepared {
            *reader = Some(taken);
            return Err(error);
        }
        let (rows_in, rows_out) = channel(ROWS_QUEUE_BATCHES);
        let (dead_in, dead_out) = channel(DEAD_LETTERS_QUEUE_BATCHES);
        let (ranges, dead) = (work.ranges.to_vec(), dead_in.clone());
        let thread = tokio::task::spawn_blocking(move || {
            let counts = taken.run(&ranges, &rows_in, &dead);
            (taken, counts)
        });
        let written = async {
            match isolating.take() {
                None => write(&batch_plan, rows_out, output, work, dead_in).await,
                Some(isolator) => write_in_steps(isolator, rows_out, output, work, dead_in).await,
            }
        };
        let dead = write_dead_letters(dead_letter_sink, dead_out, work.owner);
        let (written, dead) = tokio::join!(written, dead);
        let (taken, counts) =
            thread.await.map_err(|error| Error::internal("the reading thread died").source_error(error))?;
        *reader = Some(taken);
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
    let ReadCounts { summary, bad, refused } = counts;
    if refused {
        return Err(Error::internal("the plan ended before its input: the batch is not complete"));
    }
    crash_point("staged", work.batch);
    let ledger = Ledger::of_batch(summary.records, summary.gaps, bad + written.bad, written.rows);
    Ok(BatchResult { files: written.files, dead_letters, ledger })
}

/// What a batch shall do.
#[derive(Debug, Clone, Copy)]
pub struct BatchWork<'a> {
    pub batch: u64,
    pub timestamp_ms: i64,
    pub ranges: &'a [OffsetRange],
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
        let isolated = isolator.run(&decoded?, &mut writer).await?;
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

async fn write_dead_letters(
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
