//! What the page knows of one query.

use serde_json::{Map, Value, json};

use super::history::History;
use crate::{
    checkpoint::Ledger,
    clock,
    error::Error,
    event_time::NO_WATERMARK_MS,
    stream::{QueryProgress, RowSample},
};

/// One point of the charts of rates is at least so long.
const POINT_MS: i64 = 1_000;
/// After so long without a batch the rate is zero in between.
const GAP_MS: i64 = 10_000;
const POINTS_MAX: usize = 900;
/// Rows that are kept of the output, and values of them, at most.
const ROWS_MAX: usize = 1_000;
const CELLS_MAX: usize = 20_000;
/// Forecasts that came due, and errors of the model after a batch.
const SCORED_MAX: usize = 1_000;

/// One query, from its start on.
#[derive(Debug)]
pub(super) struct QueryView {
    sink: String,
    state: State,
    activity: Activity,
    /// Of all batches that are committed.
    totals: Ledger,
    /// Spark's JSON of the last batch.
    progress: Value,
    /// `[end, rows per second, milliseconds per batch, offsets behind, rows in state, watermark]`.
    points: History<Value>,
    /// Up to where they go.
    until_ms: i64,
    pending: Pending,
    columns: Vec<(String, &'static str)>,
    rows: History<Vec<Value>>,
    forecast: Option<ForecastView>,
}

/// What it does, and since when, milliseconds.
#[derive(Debug, Clone, Copy)]
enum Activity {
    /// Between two batches.
    Waits,
    Runs(i64),
    /// There is nothing to read.
    Idles(i64),
}

#[derive(Debug)]
enum State {
    Running,
    Ended,
    Failed { message: String, help: Option<String> },
}

/// Batches that no point has yet.
#[derive(Debug, Clone, Copy, Default)]
struct Pending {
    batches: u64,
    rows: u64,
    busy_ms: u64,
    /// The end of the last of them.
    end_ms: i64,
    /// What it said: offsets behind, rows in state, watermark.
    last: (u64, u64, Option<i64>),
}

#[derive(Debug)]
struct ForecastView {
    model: String,
    target: String,
    scored: History<Value>,
    /// `[event time, RMSE, naive RMSE]` after each batch in which a forecast came due.
    errors: History<Value>,
    ahead: Value,
}

/// What a reader has seen of a query.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    points: u64,
    rows: u64,
    scored: u64,
    errors: u64,
}

impl QueryView {
    pub fn new(sink: &str) -> Self {
        Self {
            sink: sink.to_owned(),
            state: State::Running,
            activity: Activity::Waits,
            totals: Ledger::default(),
            progress: Value::Null,
            points: History::new(POINTS_MAX),
            until_ms: clock::now_ms(),
            pending: Pending::default(),
            columns: Vec::new(),
            rows: History::new(ROWS_MAX),
            forecast: None,
        }
    }

    pub fn recovered(&mut self, totals: &Ledger) {
        self.totals = *totals;
    }

    /// A batch is committed. Returns what happened to the model that forecasts.
    pub fn batch(&mut self, progress: &QueryProgress, json: &Value) -> Vec<Value> {
        self.totals = progress.totals;
        self.progress = json.clone();
        self.activity = Activity::Waits;
        self.add_to_points(progress, clock::now_ms());
        if let Some(sample) = &progress.sample {
            self.add_rows(sample);
        }
        let forecast = progress.windows.as_ref().and_then(|windows| windows.forecast.as_ref());
        forecast.map_or_else(Vec::new, |forecast| self.forecast(&json["forecast"], forecast.recent_json()))
    }

    pub fn began(&mut self) {
        self.activity = Activity::Runs(clock::now_ms());
    }

    /// True if that is new.
    pub fn idle(&mut self) -> bool {
        let is_new = !matches!(self.activity, Activity::Idles(_));
        if is_new {
            self.activity = Activity::Idles(clock::now_ms());
        }
        is_new
    }

    /// A point is closed at the end of a batch, so that it does not matter when somebody looks.
    fn add_to_points(&mut self, progress: &QueryProgress, end_ms: i64) {
        let busy_ms = progress.durations.trigger_execution;
        let start_ms = end_ms - i64::try_from(busy_ms).unwrap_or(0);
        let last_ms = self.pending.end_ms.max(self.until_ms);
        if start_ms - last_ms > GAP_MS {
            self.close_point();
            self.points.push(json!([last_ms + 1, 0, null, null, null, null]));
            self.points.push(json!([start_ms - 1, 0, null, null, null, null]));
            self.until_ms = start_ms;
        }
        let watermark_ms = progress.windows.as_ref().map(|windows| windows.watermark_ms);
        self.pending.batches += 1;
        self.pending.rows += progress.ledger.consumed;
        self.pending.busy_ms += busy_ms;
        self.pending.end_ms = end_ms;
        self.pending.last =
            (progress.behind(), progress.totals.in_state(), watermark_ms.filter(|ms| *ms != NO_WATERMARK_MS));
        if end_ms - self.until_ms >= POINT_MS {
            self.close_point();
        }
    }

    /// Rows per second of the clock, from the point before to the end of the last batch, but of one second at least.
    fn close_point(&mut self) {
        let Pending { batches, rows, busy_ms, end_ms, last: (behind, in_state, watermark_ms) } = self.pending;
        if batches == 0 {
            return;
        }
        let rate = rows as f64 * 1e3 / (end_ms - self.until_ms).max(POINT_MS) as f64;
        let batch_ms = busy_ms as f64 / batches as f64;
        self.points.push(json!([end_ms, rate, batch_ms, behind, in_state, watermark_ms]));
        self.until_ms = end_ms;
        self.pending = Pending { batches: 0, rows: 0, busy_ms: 0, ..self.pending };
    }

    fn add_rows(&mut self, sample: &RowSample) {
        let columns = sample.columns();
        if columns.is_empty() {
            return;
        }
        if columns != self.columns {
            self.rows.restart((CELLS_MAX / columns.len()).clamp(4, ROWS_MAX));
            self.columns = columns;
        }
        sample.rows.iter().for_each(|row| self.rows.push(row.clone()));
    }

    fn forecast(&mut self, standing: &Value, mut recent: Value) -> Vec<Value> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let view = self.forecast.get_or_insert_with(|| ForecastView {
            model: text(&standing["model"]),
            target: text(&recent["target"]),
            scored: History::new(SCORED_MAX),
            errors: History::new(SCORED_MAX),
            ahead: Value::Null,
        });
        let take = |value: &mut Value| match value.take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        };
        let scored = take(&mut recent["scored"]);
        if let Some(last) = scored.last() {
            let errors = &standing["prequential"];
            view.errors.push(json!([last[0], errors["rmse"], errors["naiveRmse"]]));
        }
        scored.into_iter().for_each(|forecast| view.scored.push(forecast));
        if !recent["ahead"].is_null() {
            view.ahead = recent["ahead"].take();
        }
        take(&mut recent["happenings"])
    }

    pub fn ended(&mut self, failure: Option<&Error>) {
        self.state = failure.map_or(State::Ended, |error| State::Failed {
            message: error.message().to_owned(),
            help: error.advice().map(str::to_owned),
        });
    }

    /// Who has seen nothing gets what does not change, too.
    pub fn since(&mut self, seen: &mut Seen) -> Value {
        let now_ms = clock::now_ms();
        if now_ms - self.pending.end_ms > 2 * POINT_MS {
            // No batch has come that would do it.
            self.close_point();
        }
        let mut view = Map::new();
        let mut put = |key: &str, value: Value| view.insert(key.to_owned(), value);
        put("sink", json!(self.sink));
        let (state, failure, help) = match &self.state {
            State::Running => ("running", None, None),
            State::Ended => ("ended", None, None),
            State::Failed { message, help } => ("failed", Some(message), help.as_ref()),
        };
        put("state", json!(state));
        put("failure", json!(failure));
        put("help", json!(help));
        let (activity, since_ms) = match self.activity {
            Activity::Waits => ("waits", None),
            Activity::Runs(since_ms) => ("runs", Some(since_ms)),
            Activity::Idles(since_ms) => ("idles", Some(since_ms)),
        };
        put("activity", json!(activity));
        put("activityMs", json!(since_ms.map(|since_ms| now_ms - since_ms)));
        put("behind", json!(self.pending.last.0));
        put("totals", json!(self.totals));
        put("inState", json!(self.totals.in_state()));
        put("equation", json!(self.totals.equation()));
        put("progress", self.progress.clone());
        put("points", self.points.since(&mut seen.points).cloned().collect());
        put("columns", json!(self.columns));
        put("rows", self.rows.since(&mut seen.rows).cloned().collect());
        if let Some(forecast) = &self.forecast {
            let scored: Value = forecast.scored.since(&mut seen.scored).cloned().collect();
            let errors: Value = forecast.errors.since(&mut seen.errors).cloned().collect();
            put(
                "forecast",
                json!({
                    "model": forecast.model, "target": forecast.target, "scored": scored, "errors": errors,
                    "ahead": forecast.ahead,
                }),
            );
        }
        Value::Object(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(rows: u64, ms: u64) -> QueryProgress {
        let mut progress = QueryProgress::begin("id", "run", "query", Vec::new(), "sink");
        progress.ledger.consumed = rows;
        progress.durations.trigger_execution = ms;
        progress
    }

    /// End and rate of each point.
    fn points(view: &QueryView) -> Vec<(i64, f64)> {
        let point = |point: &Value| (point[0].as_i64().unwrap(), point[1].as_f64().unwrap().round());
        view.points.since(&mut 0).map(point).collect()
    }

    #[test]
    fn rates_are_of_the_clock_and_do_not_depend_on_who_looks() {
        let steady = |looks: bool| {
            let mut view = QueryView::new("sink");
            view.until_ms = clock::now_ms() - 20_000;
            let start_ms = view.until_ms;
            // Ten batches in each of five seconds.
            for tenth in 1..=50 {
                view.add_to_points(&batch(50, 30), start_ms + tenth * 100);
                if looks {
                    // A look must not end a point that has not come to its end.
                    view.pending.end_ms += 60_000;
                    drop(view.since(&mut Seen::default()));
                    view.pending.end_ms -= 60_000;
                }
            }
            points(&view).into_iter().map(|(end_ms, rate)| (end_ms - start_ms, rate)).collect::<Vec<_>>()
        };
        let expected: Vec<(i64, f64)> = (1..=5).map(|second| (second * 1_000, 500.0)).collect();
        assert_eq!((steady(false), steady(true)), (expected.clone(), expected));
    }

    #[test]
    fn between_batches_that_are_far_apart_the_rate_is_zero() {
        let mut view = QueryView::new("sink");
        view.until_ms = 0;
        view.add_to_points(&batch(500, 100), 1_000);
        view.add_to_points(&batch(1_000, 100), 60_000);
        // No other batch comes.
        drop(view.since(&mut Seen::default()));
        assert_eq!(points(&view), [(1_000, 500.0), (1_001, 0.0), (59_899, 0.0), (60_000, 1_000.0)]);
    }

    #[test]
    fn what_it_does_is_said_once() {
        let mut view = QueryView::new("sink");
        assert!(view.idle() && !view.idle());
        view.began();
        assert!(view.idle());
    }
}
