//! What is reported: plain data, which is also the JSON.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use crate::{checkpoint::Ledger, event_time::Holder, stream::forecast::ForecastProgress};

/// What a query remembers.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateReport {
    /// `job.table`
    pub query: String,
    /// `None`: it keeps none.
    pub checkpoint: Option<String>,
    /// The last one that was committed.
    pub last_batch: Option<BatchReport>,
    /// Of a query with windows that has committed a batch.
    pub windows: Option<WindowsReport>,
}

/// A committed batch.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchReport {
    pub id: u64,
    #[serde(rename = "started", serialize_with = "instant_ms")]
    pub started_ms: i64,
    /// Of this batch.
    pub ledger: Ledger,
    /// Of all batches.
    pub totals: Ledger,
    pub dead_letters: String,
    /// The directory of the late rows, of a query with windows.
    pub late: Option<String>,
}

/// A batch that is announced and not committed.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnderWay {
    pub id: u64,
    #[serde(rename = "started", serialize_with = "instant_ms")]
    pub started_ms: i64,
}

/// The state of a query with windows.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowsReport {
    pub output_mode: &'static str,
    /// Of the last batch; `None` before the first event.
    #[serde(rename = "watermark", serialize_with = "instant_ms_option")]
    pub watermark_ms: Option<i64>,
    pub aggregates: Vec<OperatorReport>,
    /// When rows come out next, if a window is open.
    pub next_rows: Option<NextClose>,
    /// When the groups that have changed are written, with `EMIT PERIODIC`.
    #[serde(rename = "nextEmission", serialize_with = "instant_ms_option")]
    pub next_emission_ms: Option<i64>,
    /// Of a query with ML_FORECAST.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<ForecastProgress>,
}

/// The state of one aggregate.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorReport {
    pub name: String,
    /// It is over records, not over the rows of other operators.
    pub over_records: bool,
    /// Of what the rows are kept: `panes`, `windows`, `sessions`, `groups`, or single `rows` that wait and
    /// `partners` that these meet.
    pub kept: &'static str,
    /// How many of them are open.
    pub open: u64,
    /// The open window that closes first, and the one that closes last.
    pub first: Option<Span>,
    pub last: Option<Span>,
    /// Rows of state.
    pub rows: u64,
    /// Rows of the input that they stand for.
    pub input_rows: u64,
    /// Of the files; they may hold rows of closed windows still.
    pub bytes: u64,
    pub files: u64,
    pub next_close: Option<NextClose>,
}

/// A window, from its start to its end, exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    #[serde(rename = "start", serialize_with = "instant_us")]
    pub start_us: i64,
    #[serde(rename = "end", serialize_with = "instant_us")]
    pub end_us: i64,
}

impl Span {
    /// Start and end, in words.
    pub fn bounds(&self) -> (String, String) {
        (iso_us(self.start_us), iso_us(self.end_us))
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {})", iso_us(self.start_us), iso_us(self.end_us))
    }
}

/// A window and the watermark that closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NextClose {
    pub window: Span,
    #[serde(rename = "watermark", serialize_with = "instant_ms")]
    pub watermark_ms: i64,
}

impl NextClose {
    /// Of a window of an operator whose watermark is `behind_us` behind the source's.
    pub fn of(window: Span, behind_us: i64) -> Self {
        let at_us = window.end_us.saturating_add(behind_us);
        let watermark_ms = at_us.div_euclid(1000) + i64::from(at_us.rem_euclid(1000) > 0);
        Self { window, watermark_ms }
    }
}

/// Why nothing comes out, and what that follows from.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Situation {
    #[serde(flatten)]
    pub state: StateReport,
    /// The wall clock when this was found out.
    #[serde(rename = "time", serialize_with = "instant_ms")]
    pub now_ms: i64,
    pub source: String,
    /// Records in Kafka that no batch was announced for.
    pub waiting: u64,
    /// Records in Kafka before the place where a query started that has not read any yet.
    pub before_start: u64,
    pub under_way: Option<UnderWay>,
    /// `minOffsetsPerTrigger`
    pub min_offsets: Option<u64>,
    /// A sentence for each range of records that Kafka deleted before it was read.
    pub lost: Vec<String>,
    pub fail_on_data_loss: bool,
    pub event_time: Option<EventTimeReport>,
    pub partitions: Vec<PartitionReport>,
}

/// What holds the watermark.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventTimeReport {
    /// The table that holds the watermark; the rest is of it.
    pub table: String,
    pub column: String,
    pub delay_us: i64,
    pub idle_timeout_ms: i64,
    pub advances_when_idle: bool,
    /// Where the watermark would be now.
    #[serde(rename = "watermark", serialize_with = "instant_ms_option")]
    pub watermark_ms: Option<i64>,
    #[serde(rename = "heldBy", serialize_with = "holder")]
    pub holder: Holder,
}

/// One partition of a source.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionReport {
    pub table: String,
    pub topic: String,
    pub partition: i32,
    /// The next offset to read.
    pub position: i64,
    /// The next offset that Kafka will give.
    pub end: i64,
    /// Offsets between them.
    pub behind: u64,
    #[serde(rename = "newestEvent", serialize_with = "instant_us_option")]
    pub newest_us: Option<i64>,
    /// When its last events came.
    #[serde(rename = "lastActive", serialize_with = "instant_ms_option")]
    pub active_ms: Option<i64>,
    pub idle: bool,
    pub holds_watermark: bool,
}

/// The kinds of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// Kafka deleted records before they were read.
    DataLoss,
    /// A batch is being run, or was when the job ended.
    UnderWay,
    /// Nothing was read yet, and nothing is there to read.
    NoRecords,
    /// Records are in Kafka that no batch has read.
    RecordsWaiting,
    /// A window can close, and no batch has done it yet.
    NextBatch,
    /// One partition holds the watermark.
    PartitionHolds,
    /// Groups have changed, and `EMIT PERIODIC` is not due.
    Period,
    /// One table has had no event yet.
    SourceHolds,
    /// All are idle, and the watermark stays.
    AllIdle,
    /// All are idle, and the wall clock moves the watermark.
    WallClock,
    AllBad,
    AllFiltered,
    AllLate,
    /// Everything that came is written, or folded into what is.
    NothingNew,
}

/// Why nothing comes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub reason: Reason,
    /// What has to happen for the next rows to appear.
    pub sentence: String,
    /// What would help.
    pub hint: Option<String>,
}

/// `2026-11-21T01:38:41Z`, with as many digits as are needed.
pub fn iso_us(us: i64) -> String {
    DateTime::<Utc>::from_timestamp_micros(us)
        .map_or_else(|| format!("{us} us"), |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// As `iso_us`, of milliseconds.
pub fn iso_ms(ms: i64) -> String {
    iso_us(ms.saturating_mul(1000))
}

fn instant_ms<S: Serializer>(ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&iso_ms(*ms))
}

fn instant_us<S: Serializer>(us: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&iso_us(*us))
}

fn instant_ms_option<S: Serializer>(ms: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    ms.map(iso_ms).serialize(serializer)
}

fn instant_us_option<S: Serializer>(us: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    us.map(iso_us).serialize(serializer)
}

fn holder<S: Serializer>(holder: &Holder, serializer: S) -> Result<S::Ok, S::Error> {
    match holder {
        Holder::Nothing => None,
        Holder::Partition { topic, partition } => Some(format!("{topic}-{partition}")),
        Holder::AllIdle => Some("idle".to_owned()),
        Holder::WallClock => Some("wallClock".to_owned()),
    }
    .serialize(serializer)
}
