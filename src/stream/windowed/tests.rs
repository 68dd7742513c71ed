//! The oracle: whatever the cuts, restarts and compactions, the rows of a stream are those of one batch query.
//! `grammar_tests.rs` gives it random queries over windows; `session_tests.rs`, `over_tests.rs`, `join_tests.rs` and
//! `update_tests.rs` what is special to them.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::concat_batches,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::datasource::MemTable;
use futures::StreamExt;
use proptest::{
    prelude::*,
    test_runner::{RngSeed, TestCaseResult},
};
use tokio::sync::mpsc::channel;

use super::{
    run::{QueryState, Watermarks},
    stages::{Kept, Stages},
};
use crate::{
    catalog::{Job, Variables},
    checkpoint::{Ledger, Read},
    event_time::NO_WATERMARK_MS,
    session::{SessionLimits, plan_sql, session},
    store::Store,
    stream::{plan::QueryPlan, scan::Run},
};

pub(super) const SECOND_US: i64 = 1_000_000;

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

/// One event: its time in seconds (with a few microseconds), or none.
pub(super) type Event = (Option<i64>, i64, u8, Option<i64>, i64);

/// One batch.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) events: Vec<Event>,
    /// With the time of the watermark before the batch (`Some(0)`), or of the one after it, and their microseconds.
    edges: Vec<Event>,
    /// After the batch everything comes back from the files.
    pub(super) restart: bool,
}

impl Step {
    pub(super) fn new(events: &[Event]) -> Self {
        Self { events: events.to_vec(), edges: Vec::new(), restart: true }
    }
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let time = prop_oneof![20 => (-30i64..120).prop_map(Some), 1 => Just(None)];
    let fine = || prop_oneof![3 => Just(0i64), 1 => Just(-1), 1 => Just(1)];
    let price = || prop_oneof![9 => (0i64..100).prop_map(Some), 1 => Just(None)];
    let event = (time, fine(), 0u8..3, price(), 0i64..50);
    // Some come twice.
    let events = proptest::collection::vec((event, proptest::bool::weighted(0.1)), 0..12);
    let events = events.prop_map(|events| {
        events.into_iter().flat_map(|(event, twice)| std::iter::repeat_n(event, 1 + usize::from(twice))).collect()
    });
    let events = prop_oneof![5 => events, 1 => Just(Vec::new())];
    let edge = ((0i64..2).prop_map(Some), fine(), 0u8..3, price(), 0i64..50);
    let edges = proptest::collection::vec(edge, 0..3);
    let step = (events, edges, proptest::bool::weighted(0.3));
    let step = step.prop_map(|(events, edges, restart)| Step { events, edges, restart });
    prop_oneof![9 => proptest::collection::vec(step.clone(), 1..6), 1 => proptest::collection::vec(step, 6..14)]
}

/// So many cases, or as many as `PROPTEST_CASES` says. The seed is shown when one fails.
pub(super) fn cases(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig { max_shrink_iters: 300, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(rand::random());
    }
    if let RngSeed::Fixed(seed) = config.rng_seed {
        eprintln!("PROPTEST_RNG_SEED={seed}");
    }
    config
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
    /// After the first batch.
    pub(super) state: Option<QueryState>,
    store: Store,
    pub(super) from_ms: i64,
    /// The next batch writes rows.
    pub(super) emits: bool,
    batch: u64,
}

impl<'a> Stream<'a> {
    pub(super) fn new(plan: &'a QueryPlan, store: Store) -> Self {
        Self { plan, state: None, store, from_ms: NO_WATERMARK_MS, emits: true, batch: 0 }
    }

    pub(super) fn closed_us(&self) -> i64 {
        if self.from_ms == NO_WATERMARK_MS { i64::MIN } else { self.from_ms * 1000 }
    }

    /// One batch; after a restart everything comes back from the files.
    pub(super) async fn run(&mut self, rows: &RecordBatch, to_ms: i64, restart: bool, out: &mut Streamed) {
        let watermarks = Watermarks { from_ms: self.from_ms, to_ms };
        let (late_in, mut late_out) = channel(100);
        let mut windowed = self.plan.windowed(0, (watermarks, i64::MAX), Some(late_in)).await.unwrap();
        windowed.planned.emits = self.emits;
        let scans = &windowed.reads[0];
        scans.put(Run::default(), &rows.project(&scans.projection).unwrap()).unwrap();
        let (owner, mut written) = (format!("q-{}-run", self.batch), Vec::new());
        let planned = &windowed.planned;
        let empty = || QueryState::new(&planned.operators, self.plan.watermark(), self.store.clone());
        let mut state = self.state.take().unwrap_or_else(empty);
        let absorbed = state.absorb(planned, watermarks, &owner).await.unwrap();
        let mut stream = planned.rest().unwrap();
        while let Some(batch) = stream.next().await {
            written.push(batch.unwrap());
        }
        let settled = state.settle(planned, absorbed).await.unwrap();
        let count = written.iter().map(|batch| batch.num_rows() as u64).sum();
        planned.late.close();
        while let Some(late) = late_out.recv().await {
            out.late += late.num_rows();
        }
        let place = state.save(self.batch, &owner).await.unwrap();
        state.committed().await.unwrap();
        let files = self.store.list("state").await.unwrap();
        assert_eq!(files.into_iter().map(|file| file.path).collect::<BTreeSet<_>>(), state.needed());
        out.last = lines(&written);
        out.lines.extend(out.last.iter().cloned());
        out.ledger +=
            Ledger::of_stateful(Read { consumed: rows.num_rows() as u64, ..Read::default() }, settled.counts, count);
        assert!(out.ledger.balances(), "{:?}", out.ledger);
        if restart {
            state = empty();
            state.restore(place, to_ms).await.unwrap();
        }
        self.state = Some(state);
        (self.from_ms, self.batch) = (to_ms, self.batch + 1);
    }
}

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    InTime,
    Late,
    /// By a WHERE: it is neither.
    Filtered,
    /// It does not come at all. A row that some of its windows take and others do not is in no batch query.
    Absent,
}

/// Runs the steps as a stream, the watermark `delay_s` behind, and then once as a batch query over the rows that were in
/// time: `fates` says which, of the rows of a batch and the watermark before it (microseconds).
pub(super) fn check(
    sql: &str,
    steps: &[Step],
    delay_s: i64,
    mut fates: impl FnMut(&Stages, &[(i64, Event)], i64) -> Vec<Fate>,
) -> TestCaseResult {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let job = job(sql);
        let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let stages = plan.stages().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().display().to_string()).await.unwrap();
        let (mut stream, mut out) = (Stream::new(&plan, store), Streamed::default());
        let (mut all, mut next_id, mut newest, mut to_ms, mut late) = (Vec::new(), 0, i64::MIN, NO_WATERMARK_MS, 0);
        for step in steps {
            let seconds = |at: i64| [stream.from_ms, to_ms][usize::try_from(at).unwrap()].max(0) / 1000;
            let edges = step.edges.iter().map(|edge| (edge.0.map(seconds), edge.1, edge.2, edge.3, edge.4));
            let events: Vec<(i64, Event)> = (next_id..).zip(step.events.iter().copied().chain(edges)).collect();
            next_id += 100;
            let fates = fates(&stages, &events, stream.closed_us());
            let of = |wanted: &[Fate]| -> Vec<(i64, Event)> {
                let found = events.iter().zip(&fates).filter(|(_, fate)| wanted.contains(fate));
                found.map(|(event, _)| *event).collect()
            };
            let come = of(&[Fate::InTime, Fate::Late, Fate::Filtered]);
            stream.run(&rows(&come, &job), to_ms, step.restart, &mut out).await;
            late += of(&[Fate::Late]).len();
            all.push(rows(&of(&[Fate::InTime]), &job));
            newest = come.iter().filter_map(|(_, event)| event.0).max().unwrap_or(newest).max(newest);
            if newest > i64::MIN {
                to_ms = to_ms.max((newest - delay_s) * 1000);
            }
        }
        // The end of time closes the rest, in a batch without records.
        stream.run(&rows(&[], &job), 10_000_000, false, &mut out).await;
        out.lines.sort();
        // The newest rows of each key are kept for what looks back to them.
        let forgets = |kept: &Kept| !matches!(kept, Kept::Rows(_));
        let operators = stages.operators.iter().zip(&stream.state.as_ref().unwrap().operators);
        let mut forgetting = operators.filter(|(operator, _)| forgets(&operator.kept));
        prop_assert!(forgetting.all(|(_, state)| state.is_empty()), "{}", sql);
        prop_assert_eq!(out.late, late, "{}", sql);
        let expected = batch_query(&all, &job).await;
        prop_assert_eq!(&out.lines, &expected, "{}", sql);
        prop_assert_eq!(out.ledger.in_state(), 0);
        Ok(())
    })
}

/// The time of an event, microseconds since the epoch.
pub(super) fn micros(event: &Event) -> Option<i64> {
    event.0.map(|time| time * SECOND_US + event.1)
}

/// By windows whose bounds do not depend on the rows: those of the first aggregate.
pub(super) fn of_windows(stages: &Stages, event: &Event, closed_us: i64) -> Fate {
    let spec = stages.operators[0].spec.unwrap();
    let Some(time) = micros(event) else { return Fate::Late };
    let ends: Vec<i64> = spec.windows_of(time).map(|window| window.end_us).collect();
    match ends.iter().filter(|end| **end <= closed_us).count() {
        0 => Fate::InTime,
        closed if closed == ends.len() => Fate::Late,
        _ => Fate::Absent,
    }
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

/// A batch that fails leaves no file of state; what other instances have written stays where it is.
#[tokio::test]
async fn only_files_of_state_are_deleted_that_nobody_needs_and_that_are_ours() {
    let job = job("SELECT window_start, CAST(max(symbol) AS INT) AS n FROM TUMBLE(prices, ts, INTERVAL '10 seconds') \
         GROUP BY window_start, window_end");
    let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().display().to_string()).await.unwrap();
    let (mut stream, mut out) = (Stream::new(&plan, store.clone()), Streamed::default());
    let events = rows(&[(1, (Some(1), 0, 0, None, 1))], &job);
    stream.run(&events, 5_000, false, &mut out).await;
    let mut state = stream.state.take().unwrap();
    let files =
        async || -> BTreeSet<String> { store.list("state").await.unwrap().into_iter().map(|file| file.path).collect() };
    let needed = state.needed();
    assert_eq!((files().await, needed.len()), (needed.clone(), 2));

    // The window closes, and 'a' is no number.
    let watermarks = Watermarks { from_ms: 5_000, to_ms: 20_000 };
    let windowed = plan.windowed(0, (watermarks, i64::MAX), None).await.unwrap();
    let scans = &windowed.reads[0];
    scans.put(Run::default(), &events.project(&scans.projection).unwrap()).unwrap();
    let before = state.operators.clone();
    drop(state.absorb(&windowed.planned, watermarks, "q-1-run").await.unwrap());
    assert_eq!(files().await.len(), 3);
    assert!(windowed.planned.rest().unwrap().any(async |batch| batch.is_err()).await);
    state.roll_back(before).await.unwrap();
    assert_eq!(files().await, needed);

    for path in ["state/q-1-old-1.arrow", "state/q-1-old.manifest", "state/q-1-theirs-1.arrow"] {
        store.create(path, "left".into()).await.unwrap();
    }
    assert_eq!(state.sweep(&|name| name.starts_with("q-0-run") || name.contains("-old")).await.unwrap(), 2);
    let left = needed.iter().cloned().chain(["state/q-1-theirs-1.arrow".to_owned()]).collect::<BTreeSet<_>>();
    assert_eq!(files().await, left);
}
