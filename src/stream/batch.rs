//! One batch: source -> decode -> plan -> output, all of it streaming, with bounded queues in between.

use arrow::array::RecordBatch;
use futures::StreamExt;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{
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
}

impl Reader {
    /// For a connected source.
    pub fn new(source: KafkaSource) -> Self {
        Self { source, decoder: None }
    }

    /// Keeps the decoder as long as the projection stays the same.
    fn prepare(&mut self, table: &Table, options: &DecodeOptions, projection: &[usize]) -> Result<()> {
        if self.decoder.as_ref().is_none_or(|(current, _)| current != projection) {
            let decoder = RecordDecoder::new(&table.columns, projection, options)?;
            self.decoder = Some((projection.to_vec(), decoder));
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
                ReadCounts::default()
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
        let mut bad = 0;
        let mut send = |decoded: Decoded| {
            bad += decoded.bad;
            let dead = decoded.dead_letters.is_none_or(|letters| dead_letters.blocking_send(letters).is_ok());
            dead && (decoded.rows.num_rows() == 0 || rows.blocking_send(Ok(decoded.rows)).is_ok())
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
        Ok(ReadCounts { summary, bad })
    }
}

/// Runs one batch. The reader comes back in every case but a panic of its thread.
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
    let mut taken = reader.take().ok_or_else(|| Error::internal("the reader is gone"))?;
    let decode = match &plan.source.connector {
        Connector::Kafka(kafka) => &kafka.decode,
        _ => return Err(Error::internal("the source is no Kafka table")),
    };
    if let Err(error) = taken.prepare(&plan.source, decode, &batch_plan.projection) {
        *reader = Some(taken);
        return Err(error);
    }
    let (rows_in, rows_out) = channel(ROWS_QUEUE_BATCHES);
    let (dead_in, dead_out) = channel(DEAD_LETTERS_QUEUE_BATCHES);
    let ranges = work.ranges.to_vec();
    let thread = tokio::task::spawn_blocking(move || {
        let counts = taken.run(&ranges, &rows_in, &dead_in);
        (taken, counts)
    });
    let written = write(&batch_plan, rows_out, output, work);
    let dead = write_dead_letters(dead_letter_sink, dead_out, work.owner);
    let (written, dead) = tokio::join!(written, dead);
    let (taken, counts) =
        thread.await.map_err(|error| Error::internal("the reading thread died").source_error(error))?;
    *reader = Some(taken);
    let (written, dead_letters) = (written?, dead?);
    crash_point("staged", work.batch);
    let ReadCounts { summary, bad } = counts;
    let ledger = Ledger::of_batch(summary.records, summary.gaps, bad, written.rows);
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
}

async fn write(
    plan: &BatchPlan,
    rows: Receiver<Result<RecordBatch>>,
    output: &mut Output,
    work: &BatchWork<'_>,
) -> Result<Written> {
    let (mut stream, unread) = plan.execute(rows)?;
    let mut writer: BatchWriter<'_> = output.begin(work.batch, work.owner).await?;
    let mut count = 0;
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        count += batch.num_rows() as u64;
        writer.write(&batch).await?;
    }
    // A plan that is empty by its text reads nothing; its records count as consumed and filtered.
    if let Some(mut unread) = unread {
        while let Some(batch) = unread.recv().await {
            batch?;
        }
    }
    Ok(Written { files: writer.finish().await?, rows: count })
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
