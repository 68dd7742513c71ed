//! One INSERT as a streaming query: recover, then batch after batch.

mod recover;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    batch::{BatchResult, BatchWork, run_batch},
    commit::{self, Committer, Totals},
    output::{self, Output},
    plan::QueryPlan,
    progress::{QueryProgress, Reporter},
    reader::Reader,
    trigger::{Trigger, wait},
    windowed::{self, Parts, SetAside, Watermarks, Windows},
};
use crate::{
    catalog::{Connector, Insert, Job, KafkaTable, OutputMode},
    checkpoint::{
        Checkpoint, Ledger, OffsetEntry, Prepared, logged_watermark, read_watermark,
        recovery::{Decision, Facts, decide},
        spark_conf,
    },
    clock::{self, Stopwatch},
    error::{Error, ErrorKind, Result},
    event_time::NO_WATERMARK_MS,
    fault::crash_point,
    sink::file::FileSink,
    source::{KafkaSource, OffsetRange, Offsets, offsets},
    store::Store,
};

/// How often an idle query asks Kafka for news; Spark asks as often.
const IDLE_POLL: Duration = Duration::from_millis(10);
/// After this long without news it asks less often.
const IDLE_AFTER: Duration = Duration::from_secs(2);
/// And then this often.
const IDLE_POLL_SLOW: Duration = Duration::from_millis(50);
/// How often the cluster is asked whether records were deleted that we have not read.
const DATA_LOSS_CHECK: Duration = Duration::from_secs(30);
/// Records in a batch if the job does not say: a crash repeats at most so many.
const OFFSETS_PER_TRIGGER_DEFAULT: u64 = 1_000_000;
/// How often a start looks at a checkpoint again that changes under its eyes, and after which pause.
const LOOKS_MAX: usize = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A query that is ready to run.
#[derive(Debug)]
pub struct StreamingQuery {
    pub name: String,
    plan: QueryPlan,
    table: KafkaTable,
    output: Output,
    checkpoint: Checkpoint,
    reader: Option<Reader>,
    description: String,
    dead_letter_store: Store,
    dead_letter_sink: FileSink,
    /// Where the next batch starts.
    position: Offsets,
    /// Where the last one ended: the same, unless records were lost in between.
    ended: Offsets,
    next_batch: u64,
    totals: Totals,
    /// Of the last batch that was committed.
    watermark_ms: i64,
    /// State and late rows, of a query with windows.
    windows: Option<Windows>,
    /// Temporaries of an earlier run may lie about.
    sweep: bool,
    last_loss_check: Option<Stopwatch>,
}

impl StreamingQuery {
    /// Connects to everything and finds out where the query stands. No batch is run and nothing is written but the
    /// checkpoint's identity.
    ///
    /// # Errors
    /// Every refusal that can be made before the first batch.
    pub async fn open(job: &Job, insert: &Insert, checkpoint_location: &str) -> Result<Self> {
        let plan = QueryPlan::new(job, insert).await?;
        let sink = job.table(&insert.target).ok_or_else(|| Error::internal("the INSERT's table is gone"))?;
        let Connector::Kafka(table) = &plan.source.connector else {
            return Err(Error::internal("the source is no Kafka table"));
        };
        let table = (**table).clone();
        plan.source.check_stream()?;
        let source = KafkaSource::open(&table).await?;
        let description = source.description().to_owned();
        let checkpoint = Checkpoint::open(Store::open(checkpoint_location).await?).await?;
        let mut output = Output::open(sink, plan.schema(), &checkpoint).await?;
        if plan.windowed && plan.emit.mode == OutputMode::Update {
            output.replaces();
        }
        let (dead_letter_store, dead_letter_sink) = output::dead_letters(sink, &plan.source, &checkpoint).await?;
        let windows = match plan.windowed {
            true => Some(Windows::open(&plan, sink, &checkpoint).await?),
            false => None,
        };
        let mut query = Self {
            name: format!("{}.{}", job.name, insert.target),
            table,
            output,
            checkpoint,
            reader: Some(Reader::new(source)),
            description,
            dead_letter_store,
            dead_letter_sink,
            position: Offsets::default(),
            ended: Offsets::default(),
            next_batch: 0,
            totals: Totals::default(),
            watermark_ms: NO_WATERMARK_MS,
            windows,
            sweep: true,
            last_loss_check: None,
            plan,
        };
        query.check_identity(insert).await?;
        Ok(query)
    }

    async fn check_identity(&mut self, insert: &Insert) -> Result<()> {
        let fingerprint =
            output::fingerprint(&self.description, &self.output, &self.plan, &insert.select.mask(insert.select.sql()))?;
        // Decide first: a checkpoint or an output that belongs to another query must not get our fingerprint.
        let planned_next = match self.decide().await? {
            Decision::Fresh => 0,
            Decision::Next(batch) => batch,
            Decision::RunAgain(batch) | Decision::RollForward(batch) | Decision::CommitOnly(batch) => batch + 1,
        };
        self.checkpoint.check_fingerprint(planned_next, &fingerprint).await
    }

    async fn decide(&self) -> Result<Decision> {
        let mut facts = self.facts().await?;
        for _ in 0..LOOKS_MAX {
            let Err(error) = decide(&facts) else { break };
            // One directory was listed after the other: what does not fit may be a batch that came in between.
            clock::sleep(LOOK_AGAIN).await;
            let again = self.facts().await?;
            if again == facts {
                return Err(error.context(format!("checkpoint {}", self.checkpoint.url())));
            }
            facts = again;
        }
        decide(&facts).map_err(|error| self.overtaken(&error))
    }

    async fn facts(&self) -> Result<Facts> {
        let mut facts = self.checkpoint.facts().await?;
        facts.keeps_sink_log = self.output.keeps_log();
        facts.sink_log = self.output.latest_logged().await?;
        Ok(facts)
    }

    fn overtaken(&self, error: &Error) -> Error {
        let text =
            format!("another instance of this query goes on with the checkpoint {}: {error}", self.checkpoint.url());
        Error::new(ErrorKind::Conflict, text)
            .help("this instance stops and the other goes on; give each job a checkpointLocation of its own")
    }

    /// Whoever fixes a batch first sweeps the temporaries of the others, whose errors then say anything but the reason.
    async fn reason(&self, batch: u64, error: Error) -> Error {
        if error.kind() == ErrorKind::Conflict {
            return error;
        }
        match self.checkpoint.find_prepared(batch).await {
            Ok(Some(prepared)) if prepared.run_id != self.checkpoint.run_id => self.overtaken(&error),
            _ => error,
        }
    }

    /// Recovers, then runs batches until the trigger is done or `stop` is cancelled.
    ///
    /// # Errors
    /// What stopped it. Whatever was visible stays; a restart goes on from there.
    pub async fn run(mut self, trigger: Trigger, stop: &CancellationToken, reporter: &Reporter) -> Result<Ledger> {
        if let Some(sentence) = self.plan.grows()? {
            reporter.warn(&self.name, &sentence);
        }
        let before = self.checkpoint.facts().await?.offsets;
        if let Err(error) = self.recover(reporter).await {
            // No start announces a batch: whoever did deletes what this one may have been about to read.
            let overtaken = error.kind() != ErrorKind::Conflict && self.checkpoint.facts().await?.offsets != before;
            return Err(if overtaken { self.overtaken(&error) } else { error }.context(&self.name));
        }
        self.run_triggers(trigger, stop, reporter).await.map_err(|error| error.context(&self.name))?;
        Ok(self.totals.ledger)
    }

    async fn run_triggers(&mut self, trigger: Trigger, stop: &CancellationToken, reporter: &Reporter) -> Result<()> {
        let mut last_start_ms = None;
        let until = if trigger.is_bounded() { Some(self.source()?.latest_offsets().await?) } else { None };
        let mut idle = Stopwatch::start();
        while !stop.is_cancelled() {
            wait(trigger.wait(last_start_ms, clock::now_ms()), stop).await;
            if stop.is_cancelled() {
                break;
            }
            last_start_ms = Some(clock::now_ms());
            let mut progress = self.begin_progress();
            let step = Stopwatch::start();
            let latest = match &until {
                Some(until) => until.clone(),
                None => self.source()?.latest_offsets().await?,
            };
            progress.durations.latest_offset = step.elapsed_ms();
            if goes_back(&self.position, &latest) {
                self.skip_lost(reporter).await?;
            }
            let end = self.batch_end(trigger, &latest, &idle);
            let timestamp_ms = clock::now_ms();
            let emits = self.emits(trigger, timestamp_ms, end.is_some());
            // Windows close with the rows that say so.
            let watermark_ms = if emits { self.advance_watermark(&latest) } else { self.watermark_ms };
            let end = match end {
                None if self.would_give_rows(emits, watermark_ms)? => Some(self.position.clone()),
                end => end,
            };
            let Some(end) = end else {
                if trigger.is_bounded() {
                    break;
                }
                reporter.idle(&self.name, &latest);
                let pause = if idle.elapsed() < IDLE_AFTER { IDLE_POLL } else { IDLE_POLL_SLOW };
                wait(pause, stop).await;
                continue;
            };
            progress.latest = latest;
            let entry = OffsetEntry {
                watermark_ms: logged_watermark(watermark_ms),
                timestamp_ms,
                conf: spark_conf(),
                ends: vec![end],
            }
            .starting_at(&self.position)
            .emitting(emits);
            let step = Stopwatch::start();
            self.checkpoint.write_offsets(self.next_batch, &entry).await?;
            progress.durations.wal_commit = step.elapsed_ms();
            crash_point("offsets", self.next_batch);
            self.run_one(&entry, progress, reporter).await?;
            idle = Stopwatch::start();
            if trigger == Trigger::Once {
                break;
            }
        }
        Ok(())
    }

    /// The watermark of the next batch: how far the events have come that were read up to now.
    fn advance_watermark(&mut self, latest: &Offsets) -> i64 {
        let (position, windows) = (&self.position, self.windows.as_mut());
        let is_behind = |topic: &str, partition: i32| position.get(topic, partition) < latest.get(topic, partition);
        let Some(tracker) = windows.map(|windows| &mut windows.state.tracker) else { return NO_WATERMARK_MS };
        // A partition whose first records gave no event has others to read: nobody knows how old they are.
        let waits = |(topic, partition, _): (&str, i32, i64)| {
            is_behind(topic, partition) && tracker.is_unheard(topic, partition)
        };
        if self.next_batch > 0 && latest.iter().any(waits) {
            return tracker.current_ms();
        }
        tracker.advance(clock::now_ms(), &is_behind)
    }

    /// Does a batch that begins now write rows? With `EMIT PERIODIC` when it is time, and at the end of a bounded run.
    fn emits(&self, trigger: Trigger, timestamp_ms: i64, has_records: bool) -> bool {
        let is_last = trigger == Trigger::Once || (trigger.is_bounded() && !has_records);
        let is_due = |windows: &Windows| windows.state.is_due(self.plan.emit, timestamp_ms);
        is_last || self.windows.as_ref().is_none_or(is_due)
    }

    /// Would a batch without records write rows?
    fn would_give_rows(&self, emits: bool, to_ms: i64) -> Result<bool> {
        let watermarks = Watermarks { from_ms: self.watermark_ms, to_ms };
        let would = |windows: &Windows| windows.state.would_give_rows(self.plan.emit, emits, watermarks);
        self.windows.as_ref().map_or(Ok(false), would)
    }

    /// Where the next batch ends; `None` if it shall not run yet.
    fn batch_end(&self, trigger: Trigger, latest: &Offsets, idle: &Stopwatch) -> Option<Offsets> {
        let available = self.position.count_to(latest);
        if trigger == Trigger::Once && available > 0 {
            return Some(latest.clone());
        }
        // Spark's rule: the first batch does not wait for a minimum, nor does one that is to end.
        let min = self.table.min_offsets_per_trigger.filter(|_| self.next_batch > 0 && !trigger.is_bounded());
        if !offsets::enough(available, min, Some(idle.elapsed()), self.table.max_trigger_delay) {
            return None;
        }
        let max = self.table.max_offsets_per_trigger.unwrap_or(OFFSETS_PER_TRIGGER_DEFAULT);
        Some(self.position.limited(latest, max))
    }

    /// Runs and commits the batch whose offsets are announced.
    async fn run_one(&mut self, entry: &OffsetEntry, mut progress: QueryProgress, reporter: &Reporter) -> Result<()> {
        let whole = Stopwatch::start();
        let batch = self.next_batch;
        let end = single(entry.ends.clone())?;
        let start = self.position.clone();
        let (ranges, lost) = self.ranges(&start, &end).await?;
        for sentence in &lost.sentences {
            reporter.warn(&self.name, sentence);
        }
        let owner = commit::owner(&self.checkpoint, batch);
        let (timestamp_ms, emits) = (entry.timestamp_ms, entry.emits());
        let work = BatchWork { batch, timestamp_ms, ranges: &ranges, emits, owner: &owner };
        let step = Stopwatch::start();
        let mut result = match self.run_plan(&work, read_watermark(entry.watermark_ms)).await {
            Ok(result) => result,
            Err(error) => return Err(self.reason(batch, error).await),
        };
        result.ledger.gaps += lost.offsets + self.ended.count_to(&start);
        result.ledger.rewound += start.count_to(&self.ended);
        progress.windows = result.windows.take();
        progress.durations.add_batch = step.elapsed_ms();
        let step = Stopwatch::start();
        let totals = self.totals.clone();
        let prepared = self.committer().prepare(batch, result, &totals).await?;
        self.watermark_ms = read_watermark(entry.watermark_ms);
        self.finish(&prepared).await?;
        if let Some(windows) = &mut self.windows {
            windows.committed(&self.checkpoint.query_id, batch).await?;
        }
        progress.durations.commit_offsets = step.elapsed_ms();
        if let Err(error) = self.source()?.commit_group_offsets(&end).await {
            // For tools that show a group's lag only; our own place is in the checkpoint.
            reporter.warn(&self.name, &error.context("the consumer group's offsets stay behind").to_string());
        }
        self.totals.ledger = prepared.totals;
        self.position = end.clone();
        self.ended = end.clone();
        self.next_batch = batch + 1;
        progress.durations.trigger_execution =
            whole.elapsed_ms() + progress.durations.latest_offset + progress.durations.wal_commit;
        progress.finish(batch, start, end, &prepared);
        reporter.batch(&progress);
        Ok(())
    }

    async fn run_plan(&mut self, work: &BatchWork<'_>, to_ms: i64) -> Result<BatchResult> {
        let Some(windows) = &mut self.windows else {
            return run_batch(&mut self.reader, &self.plan, &mut self.output, &self.dead_letter_sink, work).await;
        };
        let aside = SetAside { dead_letters: &self.dead_letter_sink, late: &windows.late_sink };
        let watermarks = Watermarks { from_ms: self.watermark_ms, to_ms };
        let (reader, state, output) = (&mut self.reader, &mut windows.state, &mut self.output);
        let mut parts = Parts { reader, plan: &self.plan, state, output, aside };
        windowed::run_batch(&mut parts, work, watermarks).await
    }

    async fn finish(&mut self, prepared: &Prepared) -> Result<()> {
        let watermark_ms = logged_watermark(self.watermark_ms);
        self.committer().roll_forward(prepared, watermark_ms).await?;
        self.sweep = false;
        Ok(())
    }

    fn committer(&mut self) -> Committer<'_> {
        Committer {
            checkpoint: &self.checkpoint,
            output: &mut self.output,
            dead_letter_store: &self.dead_letter_store,
            late_store: self.windows.as_ref().map(|windows| &windows.late_store),
            sweep: self.sweep,
        }
    }

    /// The ranges of a batch, without what Kafka has deleted (which is refused unless `failOnDataLoss` is false).
    async fn ranges(&mut self, start: &Offsets, end: &Offsets) -> Result<(Vec<OffsetRange>, Lost)> {
        let due = self.last_loss_check.is_none_or(|last| last.elapsed() > DATA_LOSS_CHECK);
        if !due {
            return Ok((start.ranges(end), Lost::default()));
        }
        let (sentences, mut from) = self.source()?.check_data_loss(start).await?;
        self.last_loss_check = Some(Stopwatch::start());
        for (topic, partition, stop) in end.iter() {
            // A topic that was created again: the announced range is of the old one (also one that is empty), the next
            // batch reads the new.
            let begin = start.get(topic, partition).unwrap_or(0);
            if from.get(topic, partition).is_none_or(|from| from < begin) {
                from.set(topic, partition, stop);
            }
        }
        let lost = start.count_to(end).saturating_sub(from.count_to(end));
        Ok((from.ranges(end), Lost { sentences, offsets: lost }))
    }

    /// Refuses to go on where Kafka has less than was read already, unless `failOnDataLoss` is false.
    async fn skip_lost(&mut self, reporter: &Reporter) -> Result<()> {
        let (sentences, from) = self.source()?.check_data_loss(&self.position).await?;
        for sentence in &sentences {
            reporter.warn(&self.name, sentence);
        }
        self.position = from;
        Ok(())
    }

    fn source(&self) -> Result<&KafkaSource> {
        self.reader.as_ref().map(|reader| &reader.source).ok_or_else(|| Error::internal("the reader is gone"))
    }

    fn begin_progress(&self) -> QueryProgress {
        QueryProgress::begin(
            &self.checkpoint.query_id,
            &self.checkpoint.run_id,
            &self.name,
            &self.description,
            &self.output.description(),
        )
    }
}

#[derive(Debug, Default)]
struct Lost {
    sentences: Vec<String>,
    offsets: u64,
}

/// Does a partition end before the place up to which it was read, or is it gone?
fn goes_back(position: &Offsets, latest: &Offsets) -> bool {
    position.iter().any(|(topic, partition, offset)| latest.get(topic, partition).is_none_or(|end| end < offset))
}

/// The one source's end.
///
/// # Errors
/// `Corrupt` for a log of a query with several sources.
pub fn single(mut ends: Vec<Offsets>) -> Result<Offsets> {
    match (ends.pop(), ends.is_empty()) {
        (Some(end), true) => Ok(end),
        _ => Err(Error::corrupt("the offset log has several sources, this query has one")
            .help("the checkpoint belongs to another query")),
    }
}
