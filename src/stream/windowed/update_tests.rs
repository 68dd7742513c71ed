//! The oracle of the output modes update and complete: after each batch, what a reader holds who replaces rows by their
//! key is what one batch query says of the records so far.

use std::collections::BTreeMap;

use proptest::{prelude::*, test_runner::TestCaseResult};

use super::{
    run::{Watermarks, stage_us},
    tests::{AGGREGATES, Event, Step, Stream, Streamed, batch_query, cases, job_with, micros, rows, steps},
};
use crate::{catalog::OutputMode, event_time::NO_WATERMARK_MS, store::Store, stream::plan::QueryPlan};

const WATERMARK: &str = ", WATERMARK FOR ts AS ts - INTERVAL '5' SECOND";

/// Where the rows come from, and what is grouped by beside the key.
const SOURCES: &[(&str, &str)] = &[
    ("prices", ""),
    ("TUMBLE(prices, ts, INTERVAL '10 seconds')", "window_start, window_end"),
    ("HOP(prices, ts, INTERVAL '3 seconds', INTERVAL '12 seconds')", "window_start, window_end"),
    ("HOP(prices, ts, INTERVAL '15 seconds', INTERVAL '10 seconds')", "window_start, window_end"),
    (
        "TABLE(CUMULATE(TABLE prices, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '20' SECOND))",
        "window_start, window_end",
    ),
];

/// Keys with nulls, NaN and both zeros among them; none is one total.
const KEYS: &[&str] = &[
    "",
    "symbol",
    "symbol, size % 7",
    "CASE WHEN size % 5 = 0 THEN NULL ELSE symbol END",
    "CASE size % 4 WHEN 0 THEN CAST('NaN' AS DOUBLE) WHEN 1 THEN 0.0 WHEN 2 THEN -0.0 ELSE price END",
];

/// What may stand above groups that change, and above all of them.
const ABOVE: &[&str] = &["{}", "SELECT *, 1 AS one FROM ({})", "{} HAVING count(*) > 2"];
const ABOVE_ALL: &[&str] = &[
    "{}",
    "SELECT count(*) AS n, max(a0) AS top FROM ({})",
    "SELECT *, row_number() OVER (ORDER BY {order}) AS rank FROM ({})",
    "SELECT * FROM ({}) ORDER BY {order} LIMIT 3",
];

#[derive(Debug, Clone)]
struct Shape {
    source: (&'static str, &'static str),
    key: &'static str,
    aggregates: Vec<&'static str>,
    filter: bool,
    above: &'static str,
    above_all: &'static str,
    waits: bool,
}

impl Shape {
    /// The grouping columns come first; how many they are.
    fn sql(&self, mode: OutputMode) -> (String, usize) {
        let groups: Vec<&str> = [self.source.1, self.key].into_iter().filter(|part| !part.is_empty()).collect();
        let mut columns: Vec<String> = Vec::new();
        for (at, key) in split(self.source.1).into_iter().chain(split(self.key)).enumerate() {
            columns.push(format!("{key} AS g{at}"));
        }
        let keys = columns.len();
        columns.extend(self.aggregates.iter().enumerate().map(|(at, aggregate)| format!("{aggregate} AS a{at}")));
        let filter = if self.filter { " WHERE size % 3 <> 1" } else { "" };
        let group = if groups.is_empty() { String::new() } else { format!(" GROUP BY {}", groups.join(", ")) };
        let inner = format!("SELECT {} FROM {}{filter}{group}", columns.join(", "), self.source.0);
        let order: Vec<String> =
            if keys == 0 { vec!["1".to_owned()] } else { (0..keys).map(|at| format!("g{at}")).collect() };
        let above = if mode == OutputMode::Complete { self.above_all } else { self.above };
        (above.replace("{order}", &order.join(", ")).replace("{}", &inner), keys)
    }
}

/// Commas inside parentheses do not count.
fn split(keys: &'static str) -> Vec<&'static str> {
    if keys.contains("CASE") { vec![keys] } else { keys.split(", ").filter(|key| !key.is_empty()).collect() }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let pick = |from: &'static [&'static str]| proptest::sample::select(from);
    let aggregates = proptest::collection::vec(pick(AGGREGATES), 1..4);
    let source = proptest::sample::select(SOURCES);
    (source, pick(KEYS), aggregates, any::<bool>(), pick(ABOVE), pick(ABOVE_ALL), any::<bool>()).prop_map(
        |(source, key, aggregates, filter, above, above_all, waits)| Shape {
            source,
            key,
            aggregates,
            filter,
            above,
            above_all,
            waits,
        },
    )
}

/// What a reader holds who replaces the row of each key.
fn upsert(table: &mut BTreeMap<String, String>, rows: &[String], keys: usize) {
    for row in rows {
        let key = row.split('|').take(keys).collect::<Vec<_>>().join("|");
        table.insert(key, row.clone());
    }
}

fn groups(rows: &[String], keys: usize) -> Vec<String> {
    let mut groups: Vec<String> =
        rows.iter().map(|row| row.split('|').take(keys).collect::<Vec<_>>().join("|")).collect();
    groups.sort();
    groups
}

fn check(shape: &Shape, steps: &[Step], mode: OutputMode, emits: &[bool]) -> TestCaseResult {
    let (sql, keys) = shape.sql(mode);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let job = job_with(if shape.waits { WATERMARK } else { "" }, mode.name(), &sql);
        let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().display().to_string()).await.unwrap();
        let mut stream = Stream::new(&plan, store);
        let spec = plan.stages().unwrap().operators[0].spec;
        let waits = plan.waits();
        let (mut out, mut table, mut all) = (Streamed::default(), BTreeMap::new(), Vec::new());
        let (mut newest, mut to_ms) = (i64::MIN, NO_WATERMARK_MS);
        // What came since rows were written last.
        let mut since = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            let closed_us = stream.closed_us();
            let ends = |event: &Event| -> Vec<i64> {
                let Some(spec) = spec else { return vec![i64::MAX] };
                micros(event).into_iter().flat_map(|time| spec.windows_of(time)).map(|window| window.end_us).collect()
            };
            let closed = |event: &Event| ends(event).iter().filter(|end| **end <= closed_us).count();
            // A row that some of its windows take and others do not is in no batch query: such rows do not come.
            let is_whole = |event: &Event| [0, ends(event).len()].contains(&closed(event));
            let events: Vec<(i64, Event)> =
                (at as i64 * 100..).zip(step.events.iter().copied()).filter(|(_, event)| is_whole(event)).collect();
            let in_time: Vec<(i64, Event)> = events.iter().copied().filter(|(_, event)| closed(event) == 0).collect();
            stream.emits = emits.get(at).copied().unwrap_or(true);
            // Windows close with the rows that say so.
            let next_ms = if stream.emits { to_ms } else { stream.from_ms };
            stream.run(&rows(&events, &job), next_ms, step.restart, &mut out).await;
            all.push(rows(&in_time, &job));
            since.push(rows(&in_time, &job));
            newest = events.iter().filter_map(|(_, event)| event.0).max().unwrap_or(newest).max(newest);
            if waits && newest > i64::MIN {
                to_ms = to_ms.max((newest - 5) * 1000);
            }
            if !stream.emits {
                prop_assert!(out.last.is_empty(), "{}", sql);
                continue;
            }
            if mode == OutputMode::Update {
                upsert(&mut table, &out.last, keys);
            }
            // A batch query costs as much as a batch: not after each.
            if at % 3 != 1 && at + 1 != steps.len() {
                since.clear();
                continue;
            }
            let expected = batch_query(&all, &job).await;
            let recent = batch_query(&std::mem::take(&mut since), &job).await;
            if mode == OutputMode::Update && keys > 0 && !shape.above.contains("HAVING") {
                // Each group that changed once, and no other.
                prop_assert_eq!(groups(&out.last, keys), groups(&recent, keys), "{}", sql);
            }
            match mode {
                OutputMode::Complete => prop_assert_eq!(&out.last, &expected, "{}", sql),
                _ => {
                    let mut held: Vec<String> = table.values().cloned().collect();
                    held.sort();
                    // A total of nothing is a row of the batch query, and no change.
                    let nothing = keys == 0 && table.is_empty();
                    prop_assert!(nothing || held == expected, "{}\n{:?}\n{:?}", sql, held, expected);
                }
            }
        }
        let state = &stream.state.as_ref().unwrap().operators[0];
        let (mut live, mut held) = (state.live(if waits { stage_us(stream.from_ms, 0) } else { i64::MIN }), 0);
        while let Some(batches) = live.next().await.unwrap() {
            held += batches.iter().map(|batch| state.layout.input_rows(batch).unwrap()).sum::<u64>();
        }
        prop_assert_eq!(out.ledger.in_state(), held, "{}", sql);
        Ok(())
    })
}

proptest! {
    #![proptest_config(cases(130))]

    #[test]
    fn updates_replayed_as_upserts_are_the_batch_query(shape in shapes(), steps in steps()) {
        check(&shape, &steps, OutputMode::Update, &[])?;
    }

    #[test]
    fn complete_is_the_batch_query_in_each_batch(shape in shapes(), steps in steps()) {
        check(&shape, &steps, OutputMode::Complete, &[])?;
    }

    #[test]
    fn groups_that_changed_in_between_are_written_when_it_is_time(
        shape in shapes(),
        steps in steps(),
        emits in proptest::collection::vec(any::<bool>(), 14),
    ) {
        check(&shape, &steps, OutputMode::Update, &emits)?;
    }
}

#[test]
fn state_that_never_expires_follows_the_groups_and_not_the_batches() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let job = job_with("", "update", "SELECT size, count(*) AS n FROM prices GROUP BY size");
        let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().display().to_string()).await.unwrap();
        let mut stream = Stream::new(&plan, store);
        let (mut out, mut most) = (Streamed::default(), 0);
        let events: Vec<(i64, Event)> = (0..10).map(|id| (id, (Some(id), 0, 0, None, id))).collect();
        for _ in 0..20 {
            stream.run(&rows(&events, &job), NO_WATERMARK_MS, false, &mut out).await;
            most = most.max(stream.state.as_ref().unwrap().operators[0].rows());
        }
        assert_eq!(stream.state.as_ref().unwrap().operators[0].manifest().merged_rows, 10);
        // Twice the groups, the least that is worth it, and one batch more.
        assert!(most < 2 * 10 + 16 + 10, "{most}");
        assert_eq!(out.last, (0..10).map(|size| format!("{size}|20")).collect::<Vec<_>>());
    });
}

/// An engine that has nothing to read asks this before each batch.
#[test]
fn a_batch_without_records_is_made_only_when_it_writes_rows() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let job = job_with("", "update", "SELECT symbol, count(*) AS n FROM prices GROUP BY symbol");
        let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().display().to_string()).await.unwrap();
        let (mut stream, mut out) = (Stream::new(&plan, store), Streamed::default());
        let nothing = Watermarks { from_ms: NO_WATERMARK_MS, to_ms: NO_WATERMARK_MS };
        let event = (Some(1), 0, 0, None, 1);
        for (emits, written) in [(false, 0), (true, 1)] {
            stream.emits = emits;
            stream.run(&rows(&[(1, event)], &job), NO_WATERMARK_MS, true, &mut out).await;
            assert_eq!(out.last.len(), written);
            let state = stream.state.as_ref().unwrap();
            let would = [false, true].map(|emits| state.would_give_rows(plan.emit, emits, nothing).unwrap());
            assert_eq!(would, [false, !emits], "after a batch that wrote rows: {emits}");
        }
    });
}

/// Files of state whose groups are still to be written are joined when they are many, and stay such files.
#[test]
fn groups_that_changed_in_many_batches_are_all_written_when_it_is_time() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let job = job_with("", "update", "SELECT size, count(*) AS n FROM prices GROUP BY size");
        let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().display().to_string()).await.unwrap();
        let (mut stream, mut out) = (Stream::new(&plan, store), Streamed::default());
        for size in 0..8 {
            stream.emits = size == 7;
            let event = (Some(size), 0, 0, None, size);
            stream.run(&rows(&[(1, event)], &job), NO_WATERMARK_MS, size % 2 == 1, &mut out).await;
        }
        assert_eq!(out.lines, (0..8).map(|size| format!("{size}|1")).collect::<Vec<_>>());
    });
}

#[tokio::test]
async fn a_state_that_grows_for_ever_is_warned_of_and_no_other() {
    const WINDOWS: &str = "SELECT window_end, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '1 minute') \
                           GROUP BY window_start, window_end";
    const GROUPS: &str = "SELECT symbol, count(*) AS n FROM prices GROUP BY symbol";
    for (watermark, mode, select, expected) in [
        (WATERMARK, "update", WINDOWS, None),
        (WATERMARK, "append", WINDOWS, None),
        ("", "update", WINDOWS, Some("has no window that a WATERMARK closes")),
        (WATERMARK, "update", GROUPS, Some("has no window that a WATERMARK closes")),
        (WATERMARK, "complete", WINDOWS, Some("needs all groups for ever")),
        ("", "complete", "SELECT count(*) AS n FROM prices", None),
    ] {
        let job = job_with(watermark, mode, select);
        let said = QueryPlan::new(&job, &job.inserts[0]).await.unwrap().grows().unwrap();
        let is_it = match (&said, expected) {
            (Some(said), Some(expected)) => said.contains(expected),
            (said, expected) => said.is_none() && expected.is_none(),
        };
        assert!(is_it, "{mode} {select}: {said:?}");
    }
}
