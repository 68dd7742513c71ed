//! The reading end of a query: Kafka records to decoded rows, on a thread of its own for each batch.

use arrow::{array::RecordBatch, compute::max};
use tokio::{
    sync::mpsc::{Sender, channel},
    task::JoinHandle,
};

use super::{isolate, scan::Rows};
use crate::{
    catalog::{Connector, DecodeOptions, Table},
    decode::{Decoded, RecordDecoder},
    error::{Error, Result},
    event_time::{EventTimeStats, PartitionTime, PartitionTimes},
    kafka::KafkaRecord,
    source::{KafkaSource, OffsetRange, kafka::ReadSummary},
    state::micros,
};

/// Decoded batches between the reading thread and the plan: one in work, one waiting on each side.
const ROWS_QUEUE_BATCHES: usize = 2;

/// The reading end of a query. It moves to a thread of its own for each batch and comes back afterwards.
#[derive(Debug)]
pub struct Reader {
    pub source: KafkaSource,
    decoder: Option<(Vec<usize>, RecordDecoder)>,
}

/// The counts of the reading thread.
#[derive(Debug, Clone, Default)]
pub struct ReadCounts {
    pub summary: ReadSummary,
    pub bad: u64,
    /// The plan or the dead-letter writer stopped taking rows before the end.
    pub refused: bool,
    /// The newest event of each partition, of a query that asks for it.
    pub newest: PartitionTimes,
    /// And of all of them.
    pub times: EventTimeStats,
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
        times: Option<EventTimes>,
    ) -> ReadCounts {
        match self.read(ranges, rows, dead_letters, times) {
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
        mut times: Option<EventTimes>,
    ) -> Result<ReadCounts> {
        let Some((_, decoder)) = self.decoder.as_mut() else {
            return Err(Error::internal("the decoder was not prepared"));
        };
        let (mut bad, mut refused) = (0, false);
        let mut send = |decoded: Decoded, times: &mut Option<EventTimes>| {
            bad += decoded.bad;
            if let Some(times) = times {
                times.flush(&decoded.rows)?;
            }
            let dead = decoded.dead_letters.is_none_or(|letters| dead_letters.blocking_send(letters).is_ok());
            let taken = dead && (decoded.rows.num_rows() == 0 || rows.blocking_send(Ok(decoded.rows)).is_ok());
            refused |= !taken;
            Ok::<bool, Error>(taken)
        };
        let summary = self.source.read(ranges, &mut |records| {
            let mut rest = records;
            while !rest.is_empty() {
                let before = decoder.rows();
                let taken = decoder.push_until_full(rest)?;
                if let (Some(times), Some(first)) = (&mut times, rest.first()) {
                    times.decoded(first, decoder.rows() - before);
                }
                rest = rest.get(taken..).unwrap_or_default();
                if decoder.is_full() && !send(decoder.flush()?, &mut times)? {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        // Also after an error: what is half decoded must not leak into the next batch.
        let rest = decoder.flush();
        let summary = summary?;
        send(rest?, &mut times)?;
        let (newest, times) = times.map(|times| (times.newest, times.stats)).unwrap_or_default();
        Ok(ReadCounts { summary, bad, refused, newest, times })
    }
}

/// A batch that is being read.
#[derive(Debug)]
pub struct Reading {
    thread: JoinHandle<(Reader, ReadCounts)>,
}

/// Starts to read `ranges` of `table`, whose columns `projection` are decoded; `isolating` adds to them what dead
/// letters keep. The rows come through the queue.
///
/// # Errors
/// The decoder's; the reader is there still.
pub fn start(
    reader: &mut Option<Reader>,
    table: &Table,
    (projection, isolating): (&[usize], bool),
    ranges: &[OffsetRange],
    (times, dead_letters): (Option<EventTimes>, Sender<RecordBatch>),
) -> Result<(Reading, Rows)> {
    let Connector::Kafka(kafka) = &table.connector else {
        return Err(Error::internal("the source is no Kafka table"));
    };
    let taken = reader.as_mut().ok_or_else(|| Error::internal("the reader is gone"))?;
    taken.prepare(table, &kafka.decode, projection, isolating)?;
    let mut taken = reader.take().ok_or_else(|| Error::internal("the reader is gone"))?;
    let (rows_in, rows) = channel(ROWS_QUEUE_BATCHES);
    let ranges = ranges.to_vec();
    let thread = tokio::task::spawn_blocking(move || {
        let counts = taken.run(&ranges, &rows_in, &dead_letters, times);
        (taken, counts)
    });
    Ok((Reading { thread }, rows))
}

impl Reading {
    /// Waits for the thread and gives the reader back.
    ///
    /// # Errors
    /// `Internal` if the thread died.
    pub async fn end(self, reader: &mut Option<Reader>) -> Result<ReadCounts> {
        let joined = self.thread.await;
        let (taken, counts) = joined.map_err(|error| Error::internal("the reading thread died").source_error(error))?;
        *reader = Some(taken);
        Ok(counts)
    }
}

/// Finds the newest event of each partition among the decoded rows.
#[derive(Debug)]
pub struct EventTimes {
    /// The event time among the decoded columns.
    column: usize,
    /// Events after this are not believed, microseconds since the epoch.
    future_us: i64,
    /// The wall clock.
    now_ms: i64,
    /// Which partition the rows since the last flush came from, in their order.
    runs: Vec<(String, i32, usize)>,
    newest: PartitionTimes,
    stats: EventTimeStats,
}

impl EventTimes {
    /// `column` is the event time's place among the decoded columns.
    pub fn new(column: usize, future_us: i64, now_ms: i64) -> Self {
        let stats = EventTimeStats::default();
        Self { column, future_us, now_ms, runs: Vec::new(), newest: PartitionTimes::new(), stats }
    }

    /// The decoder made `rows` rows of records of one partition, the first of them `record`.
    fn decoded(&mut self, record: &KafkaRecord<'_>, rows: usize) {
        match self.runs.last_mut() {
            Some((topic, partition, count)) if *partition == record.partition && topic == record.topic => {
                *count += rows
            }
            _ => self.runs.push((record.topic.to_owned(), record.partition, rows)),
        }
    }

    fn flush(&mut self, rows: &RecordBatch) -> Result<()> {
        let times = micros(rows.column(self.column))?;
        self.stats.add(times.iter().flatten().filter(|time| *time <= self.future_us));
        let mut from = 0;
        for (topic, partition, count) in std::mem::take(&mut self.runs) {
            let slice = times.slice(from, count);
            from += count;
            let mut newest = max(&slice);
            if newest.is_some_and(|newest| newest > self.future_us) {
                newest = slice.iter().flatten().filter(|time| *time <= self.future_us).max();
            }
            let Some(newest_us) = newest else { continue };
            let entry = self.newest.entry(topic).or_default().entry(partition);
            let time = entry.or_insert(PartitionTime { newest_us, active_ms: self.now_ms });
            time.newest_us = time.newest_us.max(newest_us);
        }
        Ok(())
    }
}
