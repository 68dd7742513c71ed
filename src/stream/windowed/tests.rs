//! The oracle: whatever the cuts, restarts and compactions, the windows of a stream are those of one batch query.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::concat_batches,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::datasource::MemTable;
use futures::StreamExt;
use proptest::{prelude::*, test_runner::TestCaseResult};
use tokio::sync::mpsc::channel;

use super::run::{QueryState, Watermarks};
use crate::{
    catalog::{Job, Variables},
    checkpoint::{Ledger, Read},
    event_time::NO_WATERMARK_MS,
    session::{SessionLimits, plan_sql, session},
    store::Store,
    stream::{plan::QueryPlan, scan::Run},
};

pub(super) const SECOND_US: i64 = 1_000_000;

/// Windows in the spellings that a user may write; each with the columns that every query groups by.
const WINDOWS: &[&str] = &[
    "TUMBLE(prices, ts, INTERVAL '10 seconds')",
    "TABLE(TUMBLE(TABLE prices, DESCRIPTOR(ts), INTERVAL '7' SECOND))",
    "HOP(prices, ts, INTERVAL '3 seconds', INTERVAL '12 seconds')",
    "HOP(prices, ts, INTERVAL '4 seconds', INTERVAL '10 seconds')",
    "HOP(prices, ts, INTERVAL '15 seconds', INTERVAL '10 seconds')",
    "TABLE(CUMULATE(TABLE prices, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '20' SECOND))",
    "TABLE(TUMBLE(TABLE prices, DESCRIPTOR(ts), INTERVAL '10' SECOND, INTERVAL '3' SECOND))",
    "TUMBLE((SELECT * FROM prices WHERE size % 2 = 0 UNION ALL SELECT * FROM prices WHERE size % 2 <> 0), ts, \
     INTERVAL '10 seconds')",
];

pub(super) const AGGREGATES: &[&str] = &[
    "count(*)",
    "count(price)",
    "sum(size)",
    "min(price)",
    "max(symbol)",
    "avg(size)",
    "count(DISTINCT symbol)",
    "sum(size) FILTER (WHERE symbol = 'a')",
    "first_value(price ORDER BY ts, id)",
    "last_value(price ORDER BY ts, id)",
    "array_agg(id ORDER BY id)",
    "sum(DISTINCT size)",
    "median(size)",
    "max(price) - min(price)",
    "bool_or(price > 50)",
];

/// Plans over the aggregate; `{}` is the aggregate's SELECT.
pub(super) const ABOVE: &[&str] = &[
    "{}",
    "SELECT * FROM ({}) WHERE a0 IS NOT NULL",
    "SELECT window_start, window_end, a0, row_number() OVER (PARTITION BY window_start, window_end ORDER BY k, a0) AS rank FROM ({})",
    "SELECT window_start, window_end, count(*) AS n, max(k) AS top FROM ({}) GROUP BY window_start, window_end",
    "SELECT window_start AS ws, window_end AS we, count(*) AS n FROM TUMBLE(({}), window_time, INTERVAL '30 seconds') \
     GROUP BY window_start, window_end",
];

#[derive(Debug, Clone)]
struct Shape {
    window: &'static str,
    aggregates: Vec<&'static str>,
    by_symbol: bool,
    filter: bool,
    having: bool,
    above: &'static str,
}

impl Shape {
    fn sql(&self) -> String {
        let chained = self.above.contains("window_time");
        let key = if self.by_symbol { "symbol" } else { "'all'" };
        let mut columns = format!("window_start, window_end, {key} AS k");
        let mut groups = "window_start, window_end".to_owned();
        if chained {
            (columns, groups) = (format!("{columns}, window_time"), format!("{groups}, window_time"));
        }
        for (at, aggregate) in self.aggregates.iter().enumerate() {
            columns += &format!(", {aggregate} AS a{at}");
        }
        if self.by_symbol {
            groups += ", symbol";
        }
        let filter = if self.filter { " WHERE size % 3 <> 1" } else { "" };
        let having = if self.having { " HAVING count(*) > 1" } else { "" };
        let inner = format!("SELECT {columns} FROM {}{filter} GROUP BY {groups}{having}", self.window);
        self.above.replace("{}", &inner)
    }
}

/// One event: its time in seconds (with a few microseconds), or none.
pub(super) type Event = (Option<i64>, i64, u8, Option<i64>, i64);

fn shapes() -> impl Strategy<Value = Shape> {
    let pick = |from: &'static [&'static str]| proptest::sample::select(from);
    let aggregates = proptest::collection::vec(pick(AGGREGATES), 1..4);
    (pick(WINDOWS), aggregates, any::<bool>(), any::<bool>(), any::<bool>(), pick(ABOVE)).prop_map(
        |(window, aggregates, by_symbol, filter, having, above)| Shape {
            window,
            aggregates,
            by_symbol,
            filter,
            having,
            above,
        },
    )
}

pub(super) fn events() -> impl Strategy<Value = Vec<Vec<Event>>> {
    let time = prop_oneof![20 => (-30i64..120).prop_map(Some), 1 => Just(None)];
    let fine = prop_oneof![3 => Just(0i64), 1 => Just(-1), 1 => Just(1)];
    let price = prop_oneof![9 => (0i64..100).prop_map(Some), 1 => Just(None)];
    let event = (time, fine, 0u8..3, price, 0i64..50);
    proptest::collection::vec(proptest::collection::vec(event, 0..12), 1..14)
}

pub(super) fn job(select: &str) -> Job {
    job_with(", WATERMARK FOR ts AS ts - INTERVAL '5' SECOND", "append", select)
}

pub(super) fn job_with(watermark: &str, mode: &str, select: &str) -> Job {
    let sql = format!(
        "CREATE TABLE prices (id BIGINT, ts TIMESTAMP, symbol STRING, price DOUBLE, size BIGINT{watermark}) \
         WITH (connector = 'kafka', 'kafka.bootstrap.servers' = 'a:1', subscribe = 't', format = 'json');\n\
         CREATE TABLE out WITH (connector = 'console', outputMode = '{mode}');\nINSERT INTO out {select};\n"
    );
    Job::parse("job.sql", &sql, &Variables::default()).unwrap()
}

pub(super) fn rows(events: &[(i64, Event)], job: &Job) -> RecordBatch {
    let ids: ArrayRef = Arc::new(events.iter().map(|(id, _)| *id).collect::<Int64Array>());
    let events: Vec<Event> = events.iter().map(|(_, event)| *event).collect();
    let micros = |(time, fine, ..): &Event| time.map(|time| time * SECOND_US + fine);
    let times: ArrayRef = Arc::new(events.iter().map(micros).collect::<TimestampMicrosecondArray>());
    let symbols = events.iter().map(|event| ["a", "b", "c"][usize::from(event.2)]);
    let symbols: ArrayRef = Arc::new(StringArray::from_iter_values(symbols));
    let prices: ArrayRef = Arc::new(events.iter().map(|event| event.3.map(|p| p as f64)).collect::<Float64Array>());
    let sizes: ArrayRef = Arc::new(events.iter().map(|event| event.4).collect::<Int64Array>());
    let schema = job.tables[0].schema();
    RecordBatch::try_new(schema, vec![ids, times, symbols, prices, sizes]).unwrap()
}

pub(super) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            lines.push(columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    lines.sort();
    lines
}

/// What a stream made of the events.
#[derive(Default)]
pub(super) struct Streamed {
    pub(super) lines: Vec<String>,
    /// Rows that were set aside.
    pub(super) late: usize,
    pub(super) ledger: Ledger,
    /// Of the last batch alone.
    pub(super) last: Vec<String>,
}

/// A stream in memory: only the source and the sink are not there.
pub(super) struct Stream<'a> {
    plan: &'a QueryPlan,
    pub(super) state: QueryState,
    store: Store,
    pub(super) from_ms: i64,
    /// The next batch writes rows.
    pub(super) emits: bool,
    batch: u64,
}

impl<'a> Stream<'a> {
    pub(super) async fn new(plan: &'a QueryPlan, store: Store) -> Self {
        let nothing = Watermarks { from_ms: NO_WATERMARK_MS, to_ms: NO_WATERMARK_MS };
        let planned = plan.windowed(0, (nothing, i64::MAX), None).await.unwrap().planned;
        let state = QueryState::new(&planned.operators, plan.watermark(), store.clone());
        Self { plan, state, store, from_ms: NO_WATERMARK_MS, emits: true, batch: 0 }
    }

    /// One batch.
    pub(super) async fn run(&mut self, rows: &RecordBatch, to_ms: i64, out: &mut Streamed) {
        let watermarks = Watermarks { from_ms: self.from_ms, to_ms };
        let (late_in, mut late_out) = channel(100);
        let mut windowed = self.plan.windowed(0, (watermarks, i64::MAX), Some(late_in)).await.unwrap();
        windowed.planned.emits = self.emits;
        let scans = &windowed.reads[0];
        scans.put(Run::default(), &rows.project(&scans.projection).unwrap()).unwrap();
        let (owner, mut written) = (format!("q-{}-run", self.batch), Vec::new());
        let planned = &windowed.planned;
        let absorbed = self.state.absorb(planned, watermarks, &owner).await.unwrap();
        let mut stream = planned.rest().unwrap();
        while let Some(batch) = stream.next().await {
            written.push(batch.unwrap());
        }
        let settled = self.state.settle(planned, absorbed).await.unwrap();
        let count = written.iter().map(|batch| batch.num_rows() as u64).sum();
        windowed.planned.late.close();
        while let Some(late) = late_out.recv().await {
            out.late += late.num_rows();
        }
        let place = self.state.save(self.batch, &owner).await.unwrap();
        self.state.committed().await.unwrap();
        let files = self.store.list("state").await.unwrap();
        assert_eq!(files.into_iter().map(|file| file.path).collect::<BTreeSet<_>>(), self.state.needed());
        out.last = lines(&written);
        out.lines.extend(out.last.iter().cloned());
        out.ledger +=
            Ledger::of_stateful(Read { consumed: rows.num_rows() as u64, ..Read::default() }, settled.counts, count);
        assert!(out.ledger.balances(), "{:?}", out.ledger);
        (self.from_ms, self.batch) = (to_ms, self.batch + 1);
        if self.batch.is_multiple_of(3) {
            // A restart: everything comes back from the files.
            let mut next = Stream::new(self.plan, self.store.clone()).await;
            next.state.restore(place, to_ms).await.unwrap();
            self.state = next.state;
        }
    }
}

fn check(shape: &Shape, batches: &[Vec<Event>]) -> TestCaseResult {
    let sql = shape.sql();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let job = job(&sql);
        let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().display().to_string()).await.unwrap();
        let mut stream = Stream::new(&plan, store).await;
        let mut out = Streamed::default();
        let (mut all, mut next_id, mut newest) = (Vec::new(), 0, i64::MIN);
        let (mut to_ms, mut late) = (NO_WATERMARK_MS, 0);
        let spec = plan.stages().unwrap().operators[0].spec.unwrap();
        for events in batches {
            let closed_us = if stream.from_ms == NO_WATERMARK_MS { i64::MIN } else { stream.from_ms * 1000 };
            // A row that some of its windows take and others do not is in no batch query: such rows do not come.
            let stands = |event: &Event| {
                let time = event.0.map(|time| time * SECOND_US + event.1);
                let ends: Vec<i64> =
                    time.into_iter().flat_map(|time| spec.windows_of(time)).map(|w| w.end_us).collect();
                (ends.iter().filter(|end| **end <= closed_us).count(), ends.len(), time.is_none())
            };
            let partly =
                |(_, event): &(i64, Event)| matches!(stands(event), (closed, all, _) if closed != 0 && closed != all);
            let events: Vec<(i64, Event)> =
                (next_id..).zip(events.iter().copied()).filter(|event| !partly(event)).collect();
            next_id += 100;
            stream.run(&rows(&events, &job), to_ms, &mut out).await;
            let filtered = |event: &Event| shape.filter && event.4 % 3 == 1;
            let is_late = |event: &Event| matches!(stands(event), (1.., _, _) | (_, _, true)) && !filtered(event);
            late += events.iter().filter(|(_, event)| is_late(event)).count();
            let in_time: Vec<(i64, Event)> = events.iter().copied().filter(|(_, event)| stands(event).0 == 0).collect();
            all.push(rows(&in_time, &job));
            newest = events.iter().filter_map(|(_, event)| event.0).max().unwrap_or(newest).max(newest);
            if newest > i64::MIN {
                to_ms = to_ms.max((newest - 5) * 1000);
            }
        }
        // The end of time closes the rest, in a batch without records.
        stream.run(&rows(&[], &job), 10_000_000, &mut out).await;
        out.lines.sort();
        prop_assert!(stream.state.operators.iter().all(|operator| operator.is_empty()));
        prop_assert_eq!(out.late, late, "{}", sql);
        let expected = batch_query(&all, &job).await;
        prop_assert_eq!(&out.lines, &expected, "{}", sql);
        prop_assert_eq!(out.ledger.in_state(), 0);
        Ok(())
    })
}

/// The same query, once over everything that was in time.
pub(super) async fn batch_query(all: &[RecordBatch], job: &Job) -> Vec<String> {
    let context = session(SessionLimits { memory_bytes: 64 << 20, partitions: 1 }).unwrap();
    let schema = job.tables[0].schema();
    let whole = concat_batches(&schema, all).unwrap();
    let table = MemTable::try_new(schema, vec![vec![whole]]).unwrap();
    context.register_table("prices", Arc::new(table)).unwrap();
    let plan = plan_sql(&context.state(), job.inserts[0].select.sql()).await.unwrap();
    let batches = datafusion::dataframe::DataFrame::new(context.state(), plan).collect().await.unwrap();
    lines(&batches)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn windows_of_a_stream_are_those_of_a_batch(shape in shapes(), batches in events()) {
        check(&shape, &batches)?;
    }
}

/// Files that are not in memory, as after a restart, must be looked at however small the steps of the watermark are.
#[tokio::test]
async fn nothing_is_forgotten_when_the_watermark_goes_on_in_small_steps() {
    for sql in [
        "SELECT window_start, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end",
        "SELECT id, lag(id) OVER (ORDER BY ts, id) AS before FROM prices",
        "SELECT window_start, count(*) AS n FROM SESSION(prices, ts, INTERVAL '40 milliseconds') \
         GROUP BY window_start, window_end",
        "SELECT a.id, b.id AS other FROM prices a LEFT JOIN prices b ON a.symbol = b.symbol AND b.ts BETWEEN a.ts AND \
         a.ts + INTERVAL '100 milliseconds'",
        "SELECT a.id, b.id AS other FROM prices a ASOF LEFT JOIN prices b ON a.symbol = b.symbol AND a.ts > b.ts",
    ] {
        let job = job(sql);
        let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().display().to_string()).await.unwrap();
        let (mut stream, mut out) = (Stream::new(&plan, store).await, Streamed::default());
        let event = |fine: i64| (Some(19), fine, 0, None, 0);
        let all = rows(&[(1, event(940_000)), (2, event(970_000)), (3, event(990_000))], &job);
        let none = rows(&[], &job);
        stream.run(&all, 0, &mut out).await;
        stream.run(&none, 1_000, &mut out).await;
        // After every third batch all state is in files only.
        for to_ms in (19_900..20_200).step_by(20) {
            stream.run(&none, to_ms, &mut out).await;
        }
        out.lines.sort();
        assert_eq!(out.lines, batch_query(&[all], &job).await, "{sql}");
        assert_eq!(out.ledger.in_state(), 0, "{sql}");
    }
}
