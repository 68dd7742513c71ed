//! The oracle for sessions: whatever the cuts, restarts and compactions, the sessions of a stream are those of one batch
//! query over the rows that were let in, and a small model says which those are.

use std::collections::BTreeMap;

use proptest::{prelude::*, test_runner::TestCaseResult};

use super::{
    stages::Stages,
    tests::{self, AGGREGATES, Event, Fate, SECOND_US, Step, cases, job, micros, steps},
};
use crate::{error::ErrorKind, stream::plan::QueryPlan};

/// The gap of all sessions here, in seconds.
pub(super) const GAP_S: i64 = 6;

/// What keeps sessions apart.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keys {
    None,
    Symbol,
    /// NULL for some.
    Bracket,
}

/// Plans over the aggregate; `{}` is the aggregate's SELECT.
const ABOVE: &[&str] = &[
    "{}",
    "SELECT * FROM ({}) WHERE a0 IS NOT NULL",
    "SELECT window_start, window_end, a0, row_number() OVER (PARTITION BY window_start, window_end ORDER BY k, a0) AS rank FROM ({})",
    "SELECT window_start, window_end, count(*) AS n, max(k) AS top FROM ({}) GROUP BY window_start, window_end",
    "SELECT window_start AS ws, window_end AS we, count(*) AS n FROM TUMBLE(({}), window_time, INTERVAL '30 seconds') \
     GROUP BY window_start, window_end",
];

/// Windows and GROUP BY, in the spellings that a user may write; `{s}` is what is selected, `{w}` a WHERE.
const SESSIONS: &[(Keys, &str)] = &[
    (
        Keys::Symbol,
        "SELECT window_start, window_end, window_time, symbol AS k, {s} FROM TABLE(SESSION(TABLE prices PARTITION BY \
         symbol, DESCRIPTOR(ts), INTERVAL '6' SECOND)) GROUP BY window_start, window_end, window_time, symbol",
    ),
    (
        Keys::None,
        "SELECT window_start, window_end, window_time, 'all' AS k, {s} FROM TABLE(SESSION(TABLE prices, \
         DESCRIPTOR(ts), INTERVAL '6' SECOND)) GROUP BY window_start, window_end, window_time",
    ),
    // Groups finer than the sessions.
    (
        Keys::Symbol,
        "SELECT window_start, window_end, window_time, symbol AS k, {s} FROM TABLE(SESSION(TABLE prices PARTITION BY \
         symbol, DESCRIPTOR(ts), INTERVAL '6' SECOND)) GROUP BY size % 3, window_time, window_end, symbol, window_start",
    ),
    (
        Keys::None,
        "SELECT window_start, window_end, window_time, symbol AS k, {s} FROM TABLE(SESSION(TABLE prices, \
         DESCRIPTOR(ts), INTERVAL '6' SECOND)) GROUP BY window_start, window_end, window_time, symbol",
    ),
    (
        Keys::Symbol,
        "SELECT w['start'] AS window_start, w['end'] AS window_end, * FROM (SELECT SESSION(INTERVAL '6 seconds') AS w, \
         symbol AS k, {s} FROM prices {w} GROUP BY SESSION(INTERVAL '6 seconds'), symbol)",
    ),
    (
        Keys::Symbol,
        "SELECT window_start, window_end, window_time, symbol AS k, {s} FROM SESSION((SELECT * FROM prices {w}) PARTITION \
         BY symbol, DESCRIPTOR(ts), INTERVAL '6' SECOND) GROUP BY window_start, window_end, window_time, symbol",
    ),
    (
        Keys::Bracket,
        "SELECT w['start'] AS window_start, w['end'] AS window_end, * FROM (SELECT session_window(ts, '6 seconds') AS w, \
         CAST(price / 50 AS BIGINT) AS k, {s} FROM prices {w} GROUP BY CAST(price / 50 AS BIGINT), \
         session_window(ts, '6 seconds'))",
    ),
];

#[derive(Debug, Clone)]
struct Shape {
    session: (Keys, &'static str),
    aggregates: Vec<&'static str>,
    above: &'static str,
}

impl Shape {
    fn is_filtered(&self) -> bool {
        self.session.1.contains("{w}")
    }

    fn sql(&self) -> String {
        let aggregates: Vec<String> =
            self.aggregates.iter().enumerate().map(|(at, aggregate)| format!("{aggregate} AS a{at}")).collect();
        let select = self.session.1.replace("{s}", &aggregates.join(", ")).replace("{w}", "WHERE size % 3 <> 1");
        self.above.replace("{}", &select)
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let aggregates = proptest::collection::vec(proptest::sample::select(AGGREGATES), 1..4);
    let above = proptest::sample::select(ABOVE);
    (proptest::sample::select(SESSIONS), aggregates, above).prop_map(|(session, aggregates, above)| {
        // Only windows in FROM have the column `window_time`.
        let above = if session.1.contains("window_time") { above } else { "{}" };
        Shape { session, aggregates, above }
    })
}

/// The sessions of what was let in.
#[derive(Debug, Default)]
struct Model {
    times: BTreeMap<String, Vec<i64>>,
}

impl Model {
    fn key(keys: Keys, event: &Event) -> String {
        match keys {
            Keys::None => String::new(),
            Keys::Symbol => event.2.to_string(),
            Keys::Bracket => event.3.map_or("NULL".to_owned(), |price| (price / 50).to_string()),
        }
    }

    fn sessions(&self, key: &str) -> Vec<(i64, i64)> {
        let mut times = self.times.get(key).cloned().unwrap_or_default();
        times.sort_unstable();
        let mut sessions: Vec<(i64, i64)> = Vec::new();
        for time in times {
            match sessions.last_mut() {
                Some(last) if time <= last.1 => last.1 = time + GAP_S * SECOND_US,
                _ => sessions.push((time, time + GAP_S * SECOND_US)),
            }
        }
        sessions
    }

    fn lets_in(&self, key: &str, time: i64, closed_us: i64) -> bool {
        let sessions = self.sessions(key);
        let inside = sessions.iter().any(|(start, end)| *end > closed_us && *start <= time && time <= *end);
        let written_before = sessions.iter().filter(|(_, end)| *end <= closed_us).all(|(_, end)| *end < time);
        time > closed_us || inside || (time + GAP_S * SECOND_US > closed_us && written_before)
    }
}

/// The fates of rows of sessions: the model grows with those that are let in.
pub(super) fn of_sessions(
    keys: Keys,
    is_filtered: impl Fn(&Event) -> bool,
) -> impl FnMut(&Stages, &[(i64, Event)], i64) -> Vec<Fate> {
    let mut model = Model::default();
    move |_, events, closed_us| {
        let mut let_in = Vec::new();
        let mut fate = |event: &Event| {
            if is_filtered(event) {
                return Fate::Filtered;
            }
            let key = Model::key(keys, event);
            match micros(event) {
                Some(time) if model.lets_in(&key, time, closed_us) => {
                    let_in.push((key, time));
                    Fate::InTime
                }
                _ => Fate::Late,
            }
        };
        let fates = events.iter().map(|(_, event)| fate(event)).collect();
        for (key, time) in let_in {
            model.times.entry(key).or_default().push(time);
        }
        fates
    }
}

fn check(shape: &Shape, steps: &[Step]) -> TestCaseResult {
    let is_filtered = |event: &Event| shape.is_filtered() && event.4 % 3 == 1;
    tests::check(&shape.sql(), steps, 5, of_sessions(shape.session.0, is_filtered))
}

fn check_events(shape: &Shape, batches: &[Vec<Event>]) {
    let steps: Vec<Step> = batches.iter().map(|events| Step::new(events)).collect();
    check(shape, &steps).unwrap();
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn sessions_of_a_stream_are_those_of_a_batch(shape in shapes(), steps in steps()) {
        check(&shape, &steps)?;
    }
}

fn at(seconds: i64, fine: i64) -> Event {
    (Some(seconds), fine, 0, Some(1), 3)
}

#[test]
fn the_gap_is_exact() {
    let shape = Shape { session: SESSIONS[0], aggregates: vec!["count(*)", "array_agg(id ORDER BY id)"], above: "{}" };
    for fine in [-1, 0, 1] {
        // The second row is a gap after the first; then the first session ends where the watermark stands.
        check_events(&shape, &[vec![at(0, 0)], vec![at(GAP_S, fine)], vec![at(11, 0), at(20, 0)], vec![at(3, 0)]]);
        check_events(&shape, &[vec![at(0, 0), at(11, 0)], vec![], vec![at(6, fine)], vec![at(12, 0), at(5, fine)]]);
    }
}

#[test]
fn an_old_row_is_taken_where_its_session_is_open() {
    let shape = Shape { session: SESSIONS[0], aggregates: vec!["array_agg(id ORDER BY id)"], above: "{}" };
    // The watermark stands at 22, in the session from 0 on; then at 24, and by itself the row of 1 would be forgotten.
    let long: Vec<Event> = (0..10).map(|step| at(step * 3, 0)).collect();
    check_events(&shape, &[long.clone(), vec![], vec![at(1, 0), at(29, 0)], vec![at(2, 1)], vec![], vec![at(90, 0)]]);
    // Not where it would reach one that was written, or where nobody remembers.
    check_events(&shape, &[vec![at(10, 0), at(21, 0)], vec![], vec![at(16, 0), at(16, 1)], vec![at(9, 0)]]);
}

#[test]
fn a_long_session_stays_whole_whatever_the_watermark_passes() {
    let shape = Shape { session: SESSIONS[1], aggregates: vec!["count(*)", "min(ts)", "max(ts)"], above: "{}" };
    let batches: Vec<Vec<Event>> = (0..40).map(|second| vec![at(second * 3, 0)]).collect();
    check_events(&shape, &batches);
}

#[test]
fn rows_are_filtered_before_they_are_put_into_sessions() {
    let (filtered, kept) = ((Some(5), 0, 0, Some(1), 1), at(0, 0));
    for session in SESSIONS.iter().filter(|session| session.1.contains("{w}")) {
        let shape = Shape { session: *session, aggregates: vec!["count(*)"], above: "{}" };
        check_events(&shape, &[vec![kept, filtered], vec![at(9, 0)], vec![at(40, 0)]]);
    }
}

#[tokio::test]
async fn what_a_stream_cannot_know_of_a_session_is_refused() {
    const SESSION: &str = "TABLE(SESSION(TABLE prices PARTITION BY symbol, DESCRIPTOR(ts), INTERVAL '6' SECOND))";
    for (select, says) in [
        (
            format!("SELECT window_start, window_end, count(*) AS n FROM {SESSION} GROUP BY window_start, window_end"),
            "symbol",
        ),
        (format!("SELECT window_start, window_end, symbol FROM {SESSION}"), "without an aggregate"),
        (
            format!(
                "SELECT window_start, window_end, symbol, count(*) AS n FROM {SESSION} WHERE size > 3 \
                 GROUP BY window_start, window_end, symbol"
            ),
            "between a session window and its aggregate",
        ),
        (
            format!("SELECT window_end, symbol, max(window_start) AS n FROM {SESSION} GROUP BY window_end, symbol"),
            "bounds of a session",
        ),
    ] {
        let job = job(&select);
        let error = QueryPlan::new(&job, &job.inserts[0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}
