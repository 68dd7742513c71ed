//! The Kafka tables of a query: where each stands, where its next batch ends, and reading all of them at once.

use std::time::Duration;

use arrow::array::RecordBatch;
use futures::future::{join_all, try_join_all};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{
    batch::BatchWork,
    plan::{QueryPlan, Source},
    progress::Reporter,
    reader::{self, EventTimes, ReadCounts, Reader, Reading},
    scan::{Rows, TableScans},
    trigger::Trigger,
};
use crate::{
    catalog::{KafkaTable, Table},
    checkpoint::Checkpoint,
    clock::Stopwatch,
    error::{Error, Result},
    source::{KafkaSource, OffsetRange, Offsets, offsets},
};

/// How often the cluster is asked whether records were deleted that we have not read.
const DATA_LOSS_CHECK: Duration = Duration::from_secs(30);
/// Records of each table in a batch if the job does not say: a crash repeats at most so many.
const OFFSETS_PER_TRIGGER_DEFAULT: u64 = 1_000_000;
/// Batches of dead letters waiting to be written.
const DEAD_LETTERS_QUEUE_BATCHES: usize = 2;

/// One Kafka table.
#[derive(Debug)]
pub struct Input {
    table: Table,
    kafka: KafkaTable,
    /// Spark's words for it.
    pub description: String,
    reader: Option<Reader>,
    /// Where the next batch starts.
    pub position: Offsets,
    /// Where the last one ended: the same, unless records were lost in between.
    pub ended: Offsets,
    /// Since its last records.
    waited: Stopwatch,
    last_loss_check: Option<Stopwatch>,
}

/// All of them, in the order of the query's text.
#[derive(Debug)]
pub struct Inputs(Vec<Input>);

/// What Kafka has deleted of a batch's ranges.
#[derive(Debug, Default)]
pub struct Lost {
    pub sentences: Vec<String>,
    pub offsets: u64,
}

/// The description of several sources, for the query's identity: names tell apart those that read the same.
pub fn describe<'a>(sources: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let is_twice = |wanted: &str| sources.clone().filter(|(_, description)| *description == wanted).count() > 1;
    let named = |(name, description): (&str, &str)| match is_twice(description) {
        true => format!("{description} as {name}"),
        false => description.to_owned(),
    };
    sources.clone().map(named).collect::<Vec<_>>().join(", ")
}

/// Splits what a log has of each source.
///
/// # Errors
/// `Corrupt` if it is that of a query with another number of sources.
pub fn per_source(ends: Vec<Offsets>, sources: usize) -> Result<Vec<Offsets>> {
    if ends.len() == sources {
        return Ok(ends);
    }
    Err(Error::corrupt(format!("the offset log has {} sources, this query has {sources}", ends.len()))
        .help("the checkpoint belongs to another query"))
}

impl Inputs {
    /// Connects to the sources of `plan`.
    ///
    /// # Errors
    /// `Invalid` for a table that ends; `KafkaSource::open`'s.
    pub async fn open(plan: &QueryPlan) -> Result<Self> {
        let open = async |source: &Source| {
            source.table.check_stream()?;
            let kafka = source.kafka()?.clone();
            let opened = KafkaSource::open(&kafka).await?;
            Ok::<_, Error>(Input {
                table: source.table.clone(),
                kafka,
                description: opened.description().to_owned(),
                reader: Some(Reader::new(opened)),
                position: Offsets::default(),
                ended: Offsets::default(),
                waited: Stopwatch::start(),
                last_loss_check: None,
            })
        };
        Ok(Self(try_join_all(plan.sources.iter().map(open)).await?))
    }

    /// Each.
    pub fn iter(&self) -> impl Iterator<Item = &Input> {
        self.0.iter()
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// All of them, for the query's identity.
    pub fn description(&self) -> String {
        describe(self.0.iter().map(|input| (input.table.name.as_str(), input.description.as_str())))
    }

    /// Where the next batch starts.
    pub fn positions(&self) -> Vec<Offsets> {
        self.0.iter().map(|input| input.position.clone()).collect()
    }

    /// The next batch starts at `positions`; nothing was lost in between.
    pub fn stand_at(&mut self, positions: Vec<Offsets>) {
        for (input, position) in self.0.iter_mut().zip(positions) {
            input.ended = position.clone();
            input.position = position;
        }
    }

    /// The next batch starts at `positions`, which is not where the last one ended if records were lost.
    pub fn start_at(&mut self, positions: Vec<Offsets>) {
        for (input, position) in self.0.iter_mut().zip(positions) {
            input.position = position;
        }
    }

    /// Where batch 0 starts or started; written down if `fresh`.
    ///
    /// # Errors
    /// Kafka's, the checkpoint's.
    pub async fn first_offsets(&self, checkpoint: &Checkpoint, fresh: bool) -> Result<Vec<Offsets>> {
        let mut all = Vec::with_capacity(self.0.len());
        for (index, input) in self.0.iter().enumerate() {
            let offsets = match checkpoint.read_initial_offsets(index).await? {
                Some(offsets) => offsets,
                None if fresh => checkpoint.initial_offsets(index, &input.source()?.starting_offsets().await?).await?,
                None => input.source()?.starting_offsets().await?,
            };
            all.push(offsets);
        }
        Ok(all)
    }

    /// The ends of all partitions now.
    ///
    /// # Errors
    /// Kafka's.
    pub async fn latest_offsets(&self) -> Result<Vec<Offsets>> {
        let latest = join_all(self.0.iter().map(async |input| input.source()?.latest_offsets().await)).await;
        latest.into_iter().collect()
    }

    /// Where the next batch ends; `None` if it shall not run yet. Each table waits for its own minimum, and has its own
    /// maximum.
    pub fn batch_ends(&self, trigger: Trigger, latest: &[Offsets], batch: u64) -> Option<Vec<Offsets>> {
        let mut some = false;
        let ends = self.0.iter().zip(latest).map(|(input, latest)| {
            let end = input.batch_end(trigger, latest, batch);
            some |= end.is_some();
            end.unwrap_or_else(|| input.position.clone())
        });
        let ends = ends.collect();
        some.then_some(ends)
    }

    /// The ranges of a batch, without what Kafka has deleted (which is refused unless `failOnDataLoss` is false).
    ///
    /// # Errors
    /// `DataLoss`; Kafka's.
    pub async fn ranges(&mut self, ends: &[Offsets]) -> Result<(Vec<Vec<OffsetRange>>, Lost)> {
        let (mut all, mut lost) = (Vec::new(), Lost::default());
        for (input, end) in self.0.iter_mut().zip(ends) {
            all.push(input.ranges(end, &mut lost).await?);
        }
        Ok((all, lost))
    }

    /// Refuses to go on where Kafka has less than was read already, unless `failOnDataLoss` is false.
    ///
    /// # Errors
    /// As `ranges`.
    pub async fn skip_lost(&mut self, latest: &[Offsets], query: &str, reporter: &Reporter) -> Result<()> {
        for (input, latest) in self.0.iter_mut().zip(latest) {
            if !goes_back(&input.position, latest) {
                continue;
            }
            let (sentences, from) = input.source()?.check_data_loss(&input.position).await?;
            for sentence in &sentences {
                reporter.warn(query, sentence);
            }
            input.position = from;
        }
        Ok(())
    }

    /// The batch up to `ends` is done. Tells the tables' consumer groups so, where they have one.
    ///
    /// # Errors
    /// Kafka's: worth a warning.
    pub async fn committed(&mut self, ends: &[Offsets]) -> Result<()> {
        let mut told = Ok(());
        for (input, end) in self.0.iter_mut().zip(ends) {
            if input.position != *end {
                input.waited = Stopwatch::start();
            }
            (input.position, input.ended) = (end.clone(), end.clone());
            told = told.and(input.source()?.commit_group_offsets(end).await);
        }
        told
    }

    /// Starts to read what `work` says, each table on a thread of its own, with the columns that `reads` says.
    /// `isolating` adds what dead letters keep. `times` are empty or one for each table.
    ///
    /// # Errors
    /// The decoder's.
    pub fn start(
        &mut self,
        reads: &[TableScans],
        work: &BatchWork<'_>,
        isolating: bool,
        mut times: Vec<EventTimes>,
    ) -> Result<Started> {
        let (dead_letters_in, dead_letters) = channel(DEAD_LETTERS_QUEUE_BATCHES);
        let (mut rows, mut readings) = (Vec::new(), Vec::new());
        times.reverse();
        for (input, (reads, ranges)) in self.0.iter_mut().zip(reads.iter().zip(work.ranges)) {
            let decoded = (reads.projection.as_slice(), isolating);
            let dead = dead_letters_in.clone();
            let started = reader::start(&mut input.reader, &input.table, decoded, ranges, (times.pop(), dead))?;
            readings.push(started.0);
            rows.push(started.1);
        }
        Ok(Started { rows, dead_letters, more_dead_letters: dead_letters_in, readings: Readings(readings) })
    }
}

/// A batch that is being read.
#[derive(Debug)]
pub struct Started {
    /// Of each table.
    pub rows: Vec<Rows>,
    pub dead_letters: Receiver<RecordBatch>,
    /// For dead letters of the plan; the queue ends with the last sender.
    pub more_dead_letters: Sender<RecordBatch>,
    pub readings: Readings,
}

/// The threads that read.
#[derive(Debug)]
pub struct Readings(Vec<Reading>);

impl Readings {
    /// Waits for the threads and gives the readers back.
    ///
    /// # Errors
    /// `Internal` if one died.
    pub async fn end(self, inputs: &mut Inputs) -> Result<Vec<ReadCounts>> {
        let mut counts = Vec::new();
        for (reading, input) in self.0.into_iter().zip(&mut inputs.0) {
            counts.push(reading.end(&mut input.reader).await?);
        }
        Ok(counts)
    }
}

impl Input {
    /// The table's name.
    pub fn name(&self) -> &str {
        &self.table.name
    }

    /// Where a new query would start.
    ///
    /// # Errors
    /// Kafka's.
    pub async fn starting_offsets(&self) -> Result<Offsets> {
        self.source()?.starting_offsets().await
    }

    /// The source, while it is not being read.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn source(&self) -> Result<&KafkaSource> {
        self.reader.as_ref().map(|reader| &reader.source).ok_or_else(|| Error::internal("the reader is gone"))
    }

    fn batch_end(&self, trigger: Trigger, latest: &Offsets, batch: u64) -> Option<Offsets> {
        let available = self.position.count_to(latest);
        if trigger == Trigger::Once && available > 0 {
            return Some(latest.clone());
        }
        // Spark's rule: the first batch does not wait for a minimum, nor does one that is to end.
        let min = self.kafka.min_offsets_per_trigger.filter(|_| batch > 0 && !trigger.is_bounded());
        if !offsets::enough(available, min, Some(self.waited.elapsed()), self.kafka.max_trigger_delay) {
            return None;
        }
        let max = self.kafka.max_offsets_per_trigger.unwrap_or(OFFSETS_PER_TRIGGER_DEFAULT);
        Some(self.position.limited(latest, max))
    }

    async fn ranges(&mut self, end: &Offsets, lost: &mut Lost) -> Result<Vec<OffsetRange>> {
        let start = &self.position;
        let due = self.last_loss_check.is_none_or(|last| last.elapsed() > DATA_LOSS_CHECK);
        if !due {
            return Ok(start.ranges(end));
        }
        let (sentences, mut from) = self.source()?.check_data_loss(start).await?;
        for (topic, partition, stop) in end.iter() {
            // A topic that was created again: the announced range is of the old one (also one that is empty), the next
            // batch reads the new.
            let begin = start.get(topic, partition).unwrap_or(0);
            if from.get(topic, partition).is_none_or(|from| from < begin) {
                from.set(topic, partition, stop);
            }
        }
        lost.offsets += start.count_to(end).saturating_sub(from.count_to(end));
        lost.sentences.extend(sentences);
        self.last_loss_check = Some(Stopwatch::start());
        Ok(from.ranges(end))
    }
}

/// Does a partition end before the place up to which it was read, or is it gone?
fn goes_back(position: &Offsets, latest: &Offsets) -> bool {
    position.iter().any(|(topic, partition, offset)| latest.get(topic, partition).is_none_or(|end| end < offset))
}
