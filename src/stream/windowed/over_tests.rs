//! The oracle for OVER: whatever the cuts, restarts and trims, each row of a stream looks at the same rows as in one
//! batch query.

use proptest::{prelude::*, test_runner::TestCaseResult};

use super::tests::{self, Event, Fate, Step, Stream, Streamed, cases, job, micros, rows, steps};
use crate::{store::Store, stream::plan::QueryPlan};

/// `{}` stands for OVER's PARTITION BY and ORDER BY.
const FUNCTIONS: &[&str] = &[
    "lag(price) OVER ({})",
    "lag(size, 3, -1) OVER ({})",
    "sum(size) OVER ({} ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)",
    "avg(price) OVER ({} ROWS BETWEEN 4 PRECEDING AND 1 PRECEDING)",
    "first_value(id) OVER ({} ROWS 3 PRECEDING)",
    "count(*) OVER ({} ROWS BETWEEN CURRENT ROW AND CURRENT ROW)",
];

/// Over a time: rows of one time come together, so nothing may tell them apart.
const BY_TIME: &[&str] = &[
    "sum(size) OVER (PARTITION BY symbol ORDER BY ts RANGE BETWEEN INTERVAL '10 seconds' PRECEDING AND CURRENT ROW)",
    "count(*) OVER (ORDER BY ts RANGE BETWEEN INTERVAL '3 seconds' PRECEDING AND INTERVAL '1 second' PRECEDING)",
    "max(price) OVER (PARTITION BY symbol ORDER BY ts RANGE BETWEEN CURRENT ROW AND INTERVAL '5 seconds' FOLLOWING)",
    "min(size) OVER (PARTITION BY size % 2 ORDER BY ts \
     RANGE BETWEEN INTERVAL '7 seconds' PRECEDING AND INTERVAL '2 seconds' FOLLOWING)",
];

/// `{}` stands for columns and the table.
const ABOVE: &[&str] = &[
    "SELECT {}",
    "SELECT * FROM (SELECT {}) WHERE f0 IS NOT NULL",
    "SELECT id, f0, lag(f0) OVER (PARTITION BY symbol ORDER BY ts, id) AS g FROM (SELECT {})",
    "SELECT window_start, window_end, count(*) AS n, max(f0) AS top, last_value(f0 ORDER BY ts, id) AS l \
     FROM TUMBLE((SELECT {}), ts, INTERVAL '10 seconds') GROUP BY window_start, window_end",
];

/// Whole queries.
const QUERIES: &[&str] = &[
    "SELECT id, ts, size FROM (SELECT *, row_number() OVER (PARTITION BY symbol ORDER BY ts, id) AS rn FROM prices) \
     WHERE rn = 1",
    "SELECT id, rn FROM (SELECT *, row_number() OVER (PARTITION BY size ORDER BY ts, id) AS rn FROM prices) \
     WHERE 3 > rn AND price > 10",
    "SELECT id, r FROM (SELECT *, rank() OVER (PARTITION BY size ORDER BY ts) AS r FROM prices) WHERE r <= 2",
    "SELECT DISTINCT ON (symbol, size) symbol, size, id FROM prices ORDER BY symbol, size, ts, id",
    "SELECT DISTINCT ts, symbol FROM prices",
    // A table that is read twice.
    "SELECT id, lag(size) OVER (PARTITION BY symbol ORDER BY ts, id) AS before FROM \
     (SELECT * FROM prices WHERE size % 2 = 0 UNION ALL SELECT * FROM prices WHERE size % 2 <> 0)",
    // Rows of windows, without an aggregate.
    "SELECT window_start, id, rank FROM (SELECT *, row_number() OVER (PARTITION BY window_start, window_end \
     ORDER BY price DESC, id) AS rank FROM TUMBLE(prices, ts, INTERVAL '10 seconds')) WHERE rank <= 2",
    "SELECT window_end, id, first_value(id) OVER (PARTITION BY window_start, window_end, symbol ORDER BY ts, id) AS f \
     FROM HOP(prices, ts, INTERVAL '5 seconds', INTERVAL '10 seconds')",
    // Across windows.
    "SELECT window_start, symbol, n, lag(n) OVER (PARTITION BY symbol ORDER BY window_start) AS before, \
     avg(n) OVER (PARTITION BY symbol ORDER BY window_start ROWS 2 PRECEDING) AS mean \
     FROM (SELECT window_start, window_end, symbol, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '5 seconds') \
     GROUP BY window_start, window_end, symbol)",
    "SELECT window_start, symbol, lag(n) OVER (PARTITION BY symbol ORDER BY window_start) AS b, \
     sum(n) OVER (ORDER BY window_start, symbol ROWS 2 PRECEDING) AS r \
     FROM (SELECT window_start, window_end, symbol, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '5 seconds') \
     GROUP BY window_start, window_end, symbol)",
    "SELECT window_end, symbol, n, sum(n) OVER (PARTITION BY symbol ORDER BY window_end \
     RANGE BETWEEN INTERVAL '20 seconds' PRECEDING AND CURRENT ROW) AS recent \
     FROM (SELECT window_start, window_end, symbol, sum(size) AS n FROM HOP(prices, ts, INTERVAL '5 seconds', \
     INTERVAL '10 seconds') GROUP BY window_start, window_end, symbol)",
];

fn queries() -> impl Strategy<Value = String> {
    let pick = |from: &'static [&'static str]| proptest::sample::select(from);
    let over = prop_oneof![
        Just("PARTITION BY symbol ORDER BY ts, id"),
        Just("ORDER BY ts, id DESC"),
        Just("PARTITION BY symbol, size % 3 ORDER BY ts, id"),
    ];
    let by_row = (pick(FUNCTIONS), over).prop_map(|(function, over)| function.replace("{}", over));
    let function = prop_oneof![2 => by_row, 1 => pick(BY_TIME).prop_map(str::to_owned)];
    let functions = proptest::collection::vec(function, 1..4);
    let shape = (functions, pick(ABOVE), any::<bool>()).prop_map(|(functions, above, filter)| {
        let columns: Vec<String> = functions.iter().enumerate().map(|(at, f)| format!("{f} AS f{at}")).collect();
        let filter = if filter { " WHERE size % 3 <> 1" } else { "" };
        above.replace("{}", &format!("id, ts, symbol, {} FROM prices{filter}", columns.join(", ")))
    });
    prop_oneof![3 => shape, 1 => pick(QUERIES).prop_map(str::to_owned)]
}

/// Rows that some windows would take and others not are in no batch query: late ones do not come at all.
fn check(sql: &str, steps: &[Step]) -> TestCaseResult {
    let fate = |event: &Event, closed_us: i64| match micros(event) {
        Some(time) if time >= closed_us => Fate::InTime,
        _ => Fate::Absent,
    };
    tests::check(sql, steps, 5, |_, events, closed_us| events.iter().map(|(_, event)| fate(event, closed_us)).collect())
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn rows_of_a_stream_look_at_the_same_rows_as_in_a_batch(sql in queries(), steps in steps()) {
        check(&sql, &steps)?;
    }
}

/// Rows that are late are set aside, whether they would be looked at or not; at the watermark itself none is.
#[tokio::test]
async fn a_row_before_the_watermark_is_late() {
    let job = job("SELECT id, lag(id) OVER (ORDER BY ts) AS before FROM prices");
    let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().display().to_string()).await.unwrap();
    let (mut stream, mut out) = (Stream::new(&plan, store), Streamed::default());
    let event = |seconds: i64, fine: i64| (Some(seconds), fine, 0, None, 0);
    stream.run(&rows(&[(1, event(10, 0)), (2, event(20, 0))], &job), 20_000, false, &mut out).await;
    assert_eq!(out.lines, ["1|NULL"]);
    let late = [(3, event(20, -1)), (4, event(20, 0)), (5, (None, 0, 0, None, 0)), (6, event(20, 1))];
    stream.run(&rows(&late, &job), 21_000, true, &mut out).await;
    assert_eq!(out.late, 2);
    assert_eq!(out.lines.len(), 4, "{:?}", out.lines);
    assert!(out.lines.contains(&"6|4".to_owned()) || out.lines.contains(&"6|2".to_owned()), "{:?}", out.lines);
    assert_eq!(out.ledger.in_state(), 0);
}
