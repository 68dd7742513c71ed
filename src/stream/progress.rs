//! What the user sees of a running query: one line, or Spark's progress JSON.

use std::{
    cell::LazyCell,
    collections::BTreeMap,
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{
    forecast::ForecastProgress,
    listener::QueryListener,
    models::ModelInUse,
    sample::RowSample,
    window_progress::{WindowProgress, iso_ms},
};
use crate::{
    checkpoint::{Ledger, Prepared},
    clock::{self, Stopwatch},
    error::Error,
    query::FilesVersion,
    source::Offsets,
};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressFormat {
    /// A live line on a terminal, plain lines elsewhere
    Line,
    /// Spark's progress JSON, one object per batch, on the standard output
    Json,
    /// Nothing
    None,
}

/// Spark's `durationMs`.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchDurations {
    pub add_batch: u64,
    pub commit_offsets: u64,
    pub latest_offset: u64,
    pub trigger_execution: u64,
    pub wal_commit: u64,
}

/// One batch, as Spark's `StreamingQueryProgress` tells it.
#[derive(Debug, Clone)]
pub struct QueryProgress {
    pub id: String,
    pub run_id: String,
    pub name: String,
    pub batch_id: u64,
    pub start_ms: i64,
    pub durations: BatchDurations,
    /// Of each source, as the offsets and counts below.
    pub sources: Vec<String>,
    pub sink: String,
    pub starts: Vec<Offsets>,
    pub ends: Vec<Offsets>,
    /// The newest offsets in Kafka when the batch was made.
    pub latest: Vec<Offsets>,
    /// Records.
    pub consumed: Vec<u64>,
    /// The models that the batch predicted with.
    pub models: Vec<ModelInUse>,
    /// The stored files that the batch joined.
    pub static_tables: Vec<FilesVersion>,
    pub ledger: Ledger,
    pub totals: Ledger,
    pub files: usize,
    /// Of a query with windows.
    pub windows: Option<WindowProgress>,
    /// Some of the rows that were written, if there is a listener.
    pub sample: Option<RowSample>,
}

impl QueryProgress {
    /// Starts with the trigger.
    pub fn begin(id: &str, run_id: &str, name: &str, sources: Vec<String>, sink: &str) -> Self {
        Self {
            id: id.to_owned(),
            run_id: run_id.to_owned(),
            name: name.to_owned(),
            batch_id: 0,
            start_ms: clock::now_ms(),
            durations: BatchDurations::default(),
            sources,
            sink: sink.to_owned(),
            starts: Vec::new(),
            ends: Vec::new(),
            latest: Vec::new(),
            consumed: Vec::new(),
            models: Vec::new(),
            static_tables: Vec::new(),
            ledger: Ledger::default(),
            totals: Ledger::default(),
            files: 0,
            windows: None,
            sample: None,
        }
    }

    /// Adds what the batch did.
    pub fn finish(&mut self, batch: u64, starts: Vec<Offsets>, ends: Vec<Offsets>, prepared: &Prepared) {
        self.batch_id = batch;
        self.starts = starts;
        self.ends = ends;
        self.static_tables.clone_from(&prepared.static_tables);
        self.ledger = prepared.ledger;
        self.totals = prepared.totals;
        self.files = prepared.files.len();
    }

    /// Rows per second of this batch's duration.
    pub fn rows_per_second(&self) -> f64 {
        self.rate(self.ledger.consumed)
    }

    fn rate(&self, rows: u64) -> f64 {
        per_second(rows, self.durations.trigger_execution)
    }

    /// Offsets between the end of the batch and the end of the topics.
    pub fn behind(&self) -> u64 {
        self.ends.iter().zip(&self.latest).flat_map(|(end, latest)| end.behind(latest)).sum()
    }

    /// Spark's JSON, with the ledger beside it. `since_last_ms`: from the trigger before to this one.
    pub fn to_json(&self, since_last_ms: Option<i64>) -> Value {
        let since_last_ms = since_last_ms.map(|ms| u64::try_from(ms).unwrap_or(0));
        let input_rate = since_last_ms.map_or(0.0, |ms| per_second(self.ledger.consumed, ms));
        let d = self.durations;
        let mut progress = Map::new();
        let mut put = |key: &str, value: Value| progress.insert(key.to_owned(), value);
        put("id", json!(self.id));
        put("runId", json!(self.run_id));
        put("name", json!(self.name));
        put("timestamp", json!(iso_ms(self.start_ms)));
        put("batchId", json!(self.batch_id));
        put("batchDuration", json!(d.trigger_execution));
        put("numInputRows", json!(self.ledger.consumed));
        put("inputRowsPerSecond", json!(input_rate));
        put("processedRowsPerSecond", json!(self.rows_per_second()));
        put(
            "durationMs",
            json!({
                "addBatch": d.add_batch, "commitOffsets": d.commit_offsets, "latestOffset": d.latest_offset,
                "triggerExecution": d.trigger_execution, "walCommit": d.wal_commit,
            }),
        );
        if let Some(windows) = &self.windows {
            put("eventTime", windows.event_time());
        }
        put("stateOperators", json!(self.windows.as_ref().map(WindowProgress::state_operators).unwrap_or_default()));
        if let Some(forecast) = self.windows.as_ref().and_then(|windows| windows.forecast.as_ref()) {
            put("forecast", forecast.to_json());
        }
        let sources = 0..self.sources.len();
        put("sources", sources.map(|source| self.source_json(source, since_last_ms)).collect());
        if !self.static_tables.is_empty() {
            put("staticTables", json!(self.static_tables));
        }
        if !self.models.is_empty() {
            put("models", json!(self.models));
        }
        put("sink", json!({"description": self.sink, "numOutputRows": self.ledger.output_rows()}));
        put("ledger", json!({"batch": self.ledger, "total": self.totals}));
        Value::Object(progress)
    }

    fn source_json(&self, source: usize, since_last_ms: Option<u64>) -> Value {
        let offsets = |all: &[Offsets]| all.get(source).cloned().unwrap_or_default();
        let shown = |all: &[Offsets]| serde_json::from_str::<Value>(&offsets(all).to_string()).unwrap_or(Value::Null);
        let behind = offsets(&self.ends).behind(&offsets(&self.latest));
        let rows = self.consumed.get(source).copied().unwrap_or(0);
        json!({
            "description": self.sources.get(source), "startOffset": shown(&self.starts),
            "endOffset": shown(&self.ends), "latestOffset": shown(&self.latest), "numInputRows": rows,
            "inputRowsPerSecond": since_last_ms.map_or(0.0, |ms| per_second(rows, ms)),
            "processedRowsPerSecond": self.rate(rows),
            "metrics": {
                "avgOffsetsBehindLatest": format!("{:.1}", average(&behind)),
                "maxOffsetsBehindLatest": behind.iter().max().copied().unwrap_or(0).to_string(),
                "minOffsetsBehindLatest": behind.iter().min().copied().unwrap_or(0).to_string(),
            },
        })
    }

    /// The one line.
    pub fn to_line(&self) -> String {
        let Ledger { filtered, bad, late, .. } = self.totals;
        let written = self.totals.output_rows();
        let windows = self.windows.as_ref().map_or_else(String::new, |windows| {
            let forecast = windows.forecast.as_ref().map_or_else(String::new, ForecastProgress::line);
            format!("  late {late}  in state {}  watermark {}{forecast}", self.totals.in_state(), windows.watermark())
        });
        let models: String = self.models.iter().map(ModelInUse::to_text).collect();
        format!(
            "{}  batch {}  {} rows/s  written {written}  filtered {filtered}  bad {bad}{windows}{models}  behind {}  {} ms",
            self.name,
            self.batch_id,
            self.rows_per_second().round(),
            self.behind(),
            self.durations.trigger_execution,
        )
    }
}

/// With one decimal, as Spark 4 has it.
fn per_second(rows: u64, ms: u64) -> f64 {
    (rows as f64 / (ms.max(1) as f64 / 1000.0) * 10.0).round() / 10.0
}

fn average(values: &[u64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<u64>() as f64 / values.len() as f64 }
}

/// Shows the progress of all queries of a job.
#[derive(Debug)]
pub struct Reporter {
    format: ProgressFormat,
    state: Mutex<BTreeMap<String, Shown>>,
    bars: Option<MultiProgress>,
    listeners: Vec<Arc<dyn QueryListener>>,
}

#[derive(Debug)]
struct Shown {
    bar: Option<ProgressBar>,
    last_start_ms: i64,
    last_line: Stopwatch,
    last_late: Option<Stopwatch>,
}

/// Not on a terminal: at most one line per query in this time.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// A late row is shown at most once per query in this time.
const LATE_INTERVAL: Duration = Duration::from_secs(60);
impl Reporter {
    /// `listeners` hear of all, too.
    pub fn new(format: ProgressFormat, listeners: Vec<Arc<dyn QueryListener>>) -> Self {
        let bars = (format == ProgressFormat::Line && std::io::stderr().is_terminal()).then(MultiProgress::new);
        Self { format, state: Mutex::default(), bars, listeners }
    }

    /// Does somebody look at rows?
    pub fn wants_rows(&self) -> bool {
        self.listeners.iter().any(|listener| listener.wants_rows())
    }

    /// A query is about to run.
    pub fn started(&self, query: &str, sink: &str) {
        self.listeners.iter().for_each(|listener| listener.started(query, sink));
    }

    /// It has found out where it stands.
    pub fn recovered(&self, query: &str, totals: &Ledger) {
        self.listeners.iter().for_each(|listener| listener.recovered(query, totals));
    }

    /// A query has come to its end, with `failure` if it did not want to.
    pub fn ended(&self, query: &str, failure: Option<&Error>) {
        self.listeners.iter().for_each(|listener| listener.ended(query, failure));
    }

    /// A batch is committed.
    pub fn batch(&self, progress: &QueryProgress) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let first = !state.contains_key(&progress.name);
        let shown = state.entry(progress.name.clone()).or_insert_with(|| Shown {
            bar: self.bars.as_ref().map(|bars| bars.add(spinner())),
            last_start_ms: progress.start_ms,
            last_line: Stopwatch::start(),
            last_late: None,
        });
        let since = (!first).then_some(progress.start_ms - shown.last_start_ms);
        shown.last_start_ms = progress.start_ms;
        // Made for those who want it only.
        let json = LazyCell::new(|| progress.to_json(since));
        if self.format == ProgressFormat::Json {
            println!("{}", *json);
        }
        tracing::debug!(target: "tidemill::progress", progress = %*json);
        self.listeners.iter().for_each(|listener| listener.progress(progress, &json));
        if self.format != ProgressFormat::Line {
            return;
        }
        let sample = progress.windows.as_ref().and_then(|windows| Some((windows.late, windows.late_samples.first()?)));
        if let Some((late, sample)) = sample
            && shown.last_late.as_ref().is_none_or(|last| last.elapsed() >= LATE_INTERVAL)
        {
            shown.last_late = Some(Stopwatch::start());
            self.warn(&progress.name, &format!("batch {} set {late} rows aside, such as {sample}", progress.batch_id));
        }
        match &shown.bar {
            Some(bar) => bar.set_message(progress.to_line()),
            None if first || shown.last_line.elapsed() >= LINE_INTERVAL => {
                eprintln!("{}", progress.to_line());
                shown.last_line = Stopwatch::start();
            }
            None => {}
        }
    }

    /// A batch begins.
    pub fn began(&self, query: &str) {
        self.listeners.iter().for_each(|listener| listener.began(query));
    }

    /// Nothing to read.
    pub fn idle(&self, query: &str) {
        self.listeners.iter().for_each(|listener| listener.idle(query));
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = state.get(query).and_then(|shown| shown.bar.as_ref()) {
            bar.tick();
        }
    }

    /// Something the user must know.
    pub fn warn(&self, query: &str, sentence: &str) {
        self.listeners.iter().for_each(|listener| listener.warned(query, sentence));
        let line = format!("warning: {query}: {sentence}");
        match &self.bars {
            // The bars are redrawn below it.
            Some(bars) => drop(bars.println(&line)),
            None => eprintln!("{line}"),
        }
    }
}

fn spinner() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}
