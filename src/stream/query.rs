//! One INSERT as a streaming query: recover, then batch after batch.

mod recover;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    batch::{BatchResult, BatchWork, run_batch},
    commit::{self, Committer, Totals},
    inputs::{self, Inputs},
    models,
    output::{self, Output},
    plan::QueryPlan,
    progress::{QueryProgress, Reporter},
    trigger::{Trigger, wait},
    windowed::{self, Parts, SetAside, Watermarks, Windows},
};
use crate::{
    catalog::{Insert, Job, OutputMode},
    checkpoint::{
        Checkpoint, Ledger, OffsetEntry, Prepared, logged_watermark, read_watermark,
        recovery::{Decision, Facts, decide},
        spark_conf,
    },
    clock::{self, Stopwatch},
    error::{Error, ErrorKind, Result},
    event_time::{NO_WATERMARK_MS, WatermarkTracker},
    fault::crash_point,
    sink::file::FileSink,
    source::Offsets,
    store::Store,
};

/// How often an idle query asks Kafka for news; Spark asks as often.
const IDLE_POLL: Duration = Duration::from_millis(10);
/// After this long without news it asks less often.
const IDLE_AFTER: Duration = Duration::from_secs(2);
/// And then this often.
const IDLE_POLL_SLOW: Duration = Duration::from_millis(50);
/// How often a start looks at a checkpoint again that changes under its eyes, and after which pause.
const LOOKS_MAX: usize = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A query that is ready to run.
#[derive(Debug)]
pub struct StreamingQuery {
    pub name: String,
    plan: QueryPlan,
    inputs: Inputs,
    output: Output,
    checkpoint: Checkpoint,
    dead_letter_store: Store,
    dead_letter_sink: FileSink,
    next_batch: u64,
    totals: Totals,
    /// Of the last batch that was committed.
    watermark_ms: i64,
    /// State and late rows, of a query with windows.
    windows: Option<Windows>,
    /// Rows of a state that was given up; the next batch counts them.
    reset_rows: u64,
    /// Temporaries of an earlier run may lie about.
    sweep: bool,
}

impl StreamingQuery {
    /// Connects to everything and finds out where the query stands. No batch is run and nothing is written but the
    /// checkpoint's identity. With `reset` the state is given up that the checkpoint has.
    ///
    /// # Errors
    /// Every refusal that can be made before the first batch.
    pub async fn open(job: &Job, insert: &Insert, checkpoint_location: &str, reset: bool) -> Result<Self> {
        let plan = QueryPlan::new(job, insert).await?;
        output::check_apart(job, insert, &plan, checkpoint_location)?;
        let sink = job.table(&insert.target).ok_or_else(|| Error::internal("the INSERT's table is gone"))?;
        let inputs = Inputs::open(&plan).await?;
        let checkpoint = Checkpoint::open(Store::open(checkpoint_location).await?).await?;
        let mut output = Output::open(sink, plan.schema(), &checkpoint).await?;
        if plan.windowed && plan.emit.mode == OutputMode::Update {
            output.replaces();
        }
        let (dead_letter_store, dead_letter_sink) = output::dead_letters(sink, &plan.sources, &checkpoint).await?;
        let windows = match plan.windowed {
            true => {
                let opened = Windows::open(&plan, sink, &checkpoint).await;
                Some(opened.map_err(|error| error.at(insert.place.clone()))?)
            }
            false => None,
        };
        let mut query = Self {
            name: format!("{}.{}", job.name, insert.target),
            inputs,
            output,
            checkpoint,
            dead_letter_store,
            dead_letter_sink,
            next_batch: 0,
            totals: Totals::default(),
            watermark_ms: NO_WATERMARK_MS,
            windows,
            reset_rows: 0,
            sweep: true,
            plan,
        };
        query.check_identity(insert, reset).await?;
        Ok(query)
    }

    async fn check_identity(&mut self, insert: &Insert, reset: bool) -> Result<()> {
        let description = self.inputs.description();
        let fingerprint =
            output::fingerprint(&description, &self.output, &self.plan, &insert.select.mask(insert.select.sql()))?;
        // Decide first: a checkpoint or an output that belongs to another query must not get our fingerprint.
        let decision = self.decide().await?;
        let planned_next = decision.latest().map_or(0, |batch| batch + 1);
        if !reset {
            return self.checkpoint.check_fingerprint(planned_next, &fingerprint).await;
        }
        let first = match (decision, &self.output) {
            // Its records are with the topic's readers already, and its state is that of the query as it was.
            (Decision::RunAgain(batch), Output::Kafka(sink, _)) if sink.committed_so_far().await? == Some(batch) => {
                planned_next
            }
            (Decision::RunAgain(batch), _) => batch,
            _ => planned_next,
        };
        self.checkpoint.reset_state(first, fingerprint).await
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

    /// Where its rows go, in Spark's words.
    pub fn sink(&self) -> String {
        self.output.description()
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
        reporter.recovered(&self.name, &self.totals.ledger);
        self.run_triggers(trigger, stop, reporter).await.map_err(|error| error.context(&self.name))?;
        Ok(self.totals.ledger)
    }

    async fn run_triggers(&mut self, trigger: Trigger, stop: &CancellationToken, reporter: &Reporter) -> Result<()> {
        let mut last_start_ms = None;
        let until = if trigger.is_bounded() { Some(self.inputs.latest_offsets().await?) } else { None };
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
                None => self.inputs.latest_offsets().await?,
            };
            progress.durations.latest_offset = step.elapsed_ms();
            self.inputs.skip_lost(&latest, &self.name, reporter).await?;
            let ends = self.inputs.batch_ends(trigger, &latest, self.next_batch);
            let timestamp_ms = clock::now_ms();
            let emits = self.emits(trigger, timestamp_ms, ends.is_some());
            // Windows close with the rows that say so.
            let watermark_ms = if emits { self.advance_watermark(&latest) } else { self.watermark_ms };
            let ends = match ends {
                None if self.would_give_rows(emits, watermark_ms)? => Some(self.inputs.positions()),
                ends => ends,
            };
            let Some(ends) = ends else {
                if trigger.is_bounded() {
                    break;
                }
                reporter.idle(&self.name);
                let pause = if idle.elapsed() < IDLE_AFTER { IDLE_POLL } else { IDLE_POLL_SLOW };
                wait(pause, stop).await;
                continue;
            };
            progress.latest = latest;
            for sentence in self.plan.models.look() {
                reporter.warn(&self.name, &sentence);
            }
            let entry =
                OffsetEntry { watermark_ms: logged_watermark(watermark_ms), timestamp_ms, conf: spark_conf(), ends }
                    .starting_at(&self.inputs.positions())
                    .emitting(emits)
                    .predicting_with(&self.plan.models.versions());
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
    fn advance_watermark(&mut self, latest: &[Offsets]) -> i64 {
        let (positions, windows) = (self.inputs.positions(), self.windows.as_mut());
        let is_behind = |source: usize, topic: &str, partition: i32| {
            let at = |all: &[Offsets]| all.get(source).and_then(|offsets| offsets.get(topic, partition));
            at(&positions) < at(latest)
        };
        let Some(tracker) = windows.map(|windows| &mut windows.state.tracker) else { return NO_WATERMARK_MS };
        // A partition whose first records gave no event has others to read: nobody knows how old they are.
        let waits = |(source, known): (usize, &WatermarkTracker)| {
            let unread = |(topic, partition, _): (&str, i32, i64)| {
                is_behind(source, topic, partition) && known.is_unheard(topic, partition)
            };
            latest.get(source).is_some_and(|latest| latest.iter().any(unread))
        };
        if self.next_batch > 0 && tracker.sources().iter().enumerate().any(waits) {
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

    /// Runs and commits the batch whose offsets are announced.
    async fn run_one(&mut self, entry: &OffsetEntry, mut progress: QueryProgress, reporter: &Reporter) -> Result<()> {
        let whole = Stopwatch::start();
        reporter.began(&self.name);
        let batch = self.next_batch;
        let ends = inputs::per_source(entry.ends.clone(), self.inputs.count())?;
        let starts = self.inputs.positions();
        let versions = entry.models()?;
        self.plan.models.go_to(&versions).map_err(|error| models::gone(error, batch, self.checkpoint.url()))?;
        progress.models = self.plan.models.in_use();
        let (ranges, lost) = self.inputs.ranges(&ends).await?;
        for sentence in &lost.sentences {
            reporter.warn(&self.name, sentence);
        }
        let owner = commit::owner(&self.checkpoint, batch);
        let (timestamp_ms, emits) = (entry.timestamp_ms, entry.emits());
        let sampled = reporter.wants_rows();
        let work = BatchWork { batch, timestamp_ms, ranges: &ranges, emits, owner: &owner, sampled };
        let step = Stopwatch::start();
        let static_tables = self.plan.refresh().await?;
        let reset_rows = std::mem::take(&mut self.reset_rows);
        let mut result = match self.run_plan(&work, read_watermark(entry.watermark_ms)).await {
            Ok(result) => result,
            Err(error) => return Err(self.reason(batch, self.plan.explained(error)).await),
        };
        result.ledger = result.ledger.with_reset(reset_rows);
        result.ledger.gaps += lost.offsets;
        for input in self.inputs.iter() {
            result.ledger.gaps += input.ended.count_to(&input.position);
            result.ledger.rewound += input.position.count_to(&input.ended);
        }
        progress.windows = result.windows.take();
        progress.sample = result.sample.take();
        progress.consumed = std::mem::take(&mut result.consumed);
        progress.durations.add_batch = step.elapsed_ms();
        let step = Stopwatch::start();
        let totals = self.totals.clone();
        let prepared = self.committer().prepare(batch, (result, static_tables), &totals).await?;
        self.watermark_ms = read_watermark(entry.watermark_ms);
        self.finish(&prepared).await?;
        if let Some(windows) = &mut self.windows {
            windows.committed(&self.checkpoint.query_id, batch).await?;
        }
        progress.durations.commit_offsets = step.elapsed_ms();
        if let Err(error) = self.inputs.committed(&ends).await {
            // For tools that show a group's lag only; our own place is in the checkpoint.
            reporter.warn(&self.name, &error.context("the consumer group's offsets stay behind").to_string());
        }
        self.totals.ledger = prepared.totals;
        self.next_batch = batch + 1;
        progress.durations.trigger_execution =
            whole.elapsed_ms() + progress.durations.latest_offset + progress.durations.wal_commit;
        progress.finish(batch, starts, ends, &prepared);
        reporter.batch(&progress);
        Ok(())
    }

    async fn run_plan(&mut self, work: &BatchWork<'_>, to_ms: i64) -> Result<BatchResult> {
        let Some(windows) = &mut self.windows else {
            return run_batch(&mut self.inputs, &self.plan, &mut self.output, &self.dead_letter_sink, work).await;
        };
        let aside = SetAside { dead_letters: &self.dead_letter_sink, late: &windows.late_sink };
        let watermarks = Watermarks { from_ms: self.watermark_ms, to_ms };
        let (inputs, state, output) = (&mut self.inputs, &mut windows.state, &mut self.output);
        let mut parts = Parts { inputs, plan: &self.plan, state, output, aside };
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

    fn begin_progress(&self) -> QueryProgress {
        QueryProgress::begin(
            &self.checkpoint.query_id,
            &self.checkpoint.run_id,
            &self.name,
            self.inputs.iter().map(|input| input.description.clone()).collect(),
            &self.output.description(),
        )
    }
}
