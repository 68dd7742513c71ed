//! The oracle for joins of single rows: whatever the cuts, restarts and merges, a stream gives the pairs of one batch
//! query.

use proptest::{prelude::*, test_runner::TestCaseResult};

use super::tests::{self, Event, Fate, SECOND_US, Step, Stream, Streamed, cases, job, micros, rows, steps};
use crate::{store::Store, stream::plan::QueryPlan};

const BOUNDS: &[&str] = &[
    "b.ts BETWEEN a.ts - INTERVAL '5 seconds' AND a.ts + INTERVAL '2 seconds'",
    "b.ts >= a.ts AND b.ts < a.ts + INTERVAL '7 seconds'",
    "a.ts > b.ts AND a.ts - INTERVAL '10 seconds' <= b.ts",
    "b.ts = a.ts",
    "b.ts BETWEEN a.ts - INTERVAL '10 seconds' AND a.ts - INTERVAL '3 seconds'",
    "b.ts + INTERVAL '2 seconds' >= a.ts AND b.ts - INTERVAL '4 seconds' <= a.ts",
    "b.ts > a.ts + INTERVAL '1 second' AND a.ts + INTERVAL '9 seconds' > b.ts AND b.ts < a.ts + INTERVAL '1 hour'",
    "a.ts BETWEEN b.ts - INTERVAL '1 minute' AND b.ts",
];

const KEYS: &[&str] =
    &["a.symbol = b.symbol", "a.size % 4 = b.size % 3", "b.symbol = a.symbol AND a.size % 2 = b.size % 2"];

const MORE: &[&str] = &["", " AND a.price > b.price", " AND a.size % 3 <> 1", " AND b.size % 5 > 1"];

/// `{on}` is the condition.
const JOINS: &[&str] = &[
    "SELECT a.id, a.ts, b.id AS other, b.ts AS other_ts FROM prices a JOIN prices b ON {on}",
    "SELECT a.id, b.id AS other FROM prices a, prices b WHERE {on}",
    "SELECT a.id, b.id AS other, a.price, b.ts, b.symbol FROM prices a FULL JOIN prices b ON {on}",
    "SELECT a.id, a.price, b.id AS other, b.price AS p FROM prices a LEFT JOIN prices b ON {on}",
    "SELECT a.id, b.id AS other, a.symbol, b.symbol AS s FROM prices a RIGHT JOIN prices b ON {on}",
    "SELECT a.id, a.ts FROM prices a LEFT SEMI JOIN prices b ON {on}",
    "SELECT b.id FROM prices a RIGHT ANTI JOIN prices b ON {on}",
    "SELECT a.id FROM prices a WHERE NOT EXISTS (SELECT 1 FROM prices b WHERE {on})",
    "SELECT a.id, b.n FROM prices a LEFT JOIN (SELECT *, size + 1 AS n FROM prices WHERE size % 2 = 0) b ON {on}",
    "SELECT a.id, b.id AS other, a.side FROM (SELECT *, 'x' AS side FROM prices WHERE size % 2 = 0 UNION ALL \
     SELECT *, 'y' AS side FROM prices WHERE size % 2 = 1) a JOIN prices b ON {on}",
    // Above the pairs.
    "SELECT window_start, symbol, count(*) AS n, sum(size) AS s, max(other) AS o FROM TUMBLE((SELECT a.ts, a.symbol, \
     a.size, b.id AS other FROM prices a LEFT JOIN prices b ON {on}), ts, INTERVAL '10 seconds') \
     GROUP BY window_start, window_end, symbol",
    "SELECT id, other, lag(other) OVER (PARTITION BY symbol ORDER BY ts, id, other) AS before FROM \
     (SELECT a.id, a.ts, a.symbol, b.id AS other FROM prices a JOIN prices b ON {on})",
    // A join of a join.
    "SELECT x.id, x.other, c.id AS third FROM (SELECT a.id, a.ts, a.symbol, b.id AS other FROM prices a LEFT JOIN \
     prices b ON {on}) x JOIN prices c ON x.symbol = c.symbol AND c.ts BETWEEN x.ts - INTERVAL '3 seconds' AND x.ts",
    "SELECT c.id, x.other FROM prices c LEFT JOIN (SELECT a.id, a.ts, a.symbol, b.id AS other FROM prices a JOIN \
     prices b ON {on}) x ON x.symbol = c.symbol AND x.ts BETWEEN c.ts AND c.ts + INTERVAL '3 seconds'",
    // Rows of windows.
    "SELECT w.k, w.n, b.id FROM (SELECT window_start, window_end, window_time AS ts, symbol AS k, symbol, size, price, \
     count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '5 seconds') GROUP BY window_start, window_end, window_time, symbol, \
     size, price) w JOIN prices b ON {w}",
];

/// `late`: what becomes of a row that is late; `Absent` where it depends on the row, which then does not come.
pub(super) fn check(sql: &str, steps: &[Step], late: Fate) -> TestCaseResult {
    // What windows inside would not take is late for them, and not for the others.
    let more_us = if sql.contains("window_time AS ts") { 5 * SECOND_US } else { 0 };
    let fate = |event: &Event, closed_us: i64| match micros(event) {
        Some(time) if time >= closed_us.saturating_add(more_us) => Fate::InTime,
        _ => late,
    };
    tests::check(sql, steps, 5, |_, events, closed_us| events.iter().map(|(_, event)| fate(event, closed_us)).collect())
}

fn queries() -> impl Strategy<Value = (String, Fate)> {
    let pick = |from: &'static [&'static str]| proptest::sample::select(from);
    (0..JOINS.len(), pick(BOUNDS), pick(KEYS), 0..MORE.len()).prop_map(|(join, bounds, keys, more)| {
        let on = format!("{keys} AND {bounds}{}", MORE[more]);
        // Filters of one side, and windows, keep late rows away.
        let late = if (join < 7 && join != 2) && more < 2 { Fate::LateTwice } else { Fate::Absent };
        (JOINS[join].replace("{on}", &on).replace("{w}", &on.replace("a.", "w.")), late)
    })
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn pairs_of_a_stream_are_those_of_a_batch((sql, late) in queries(), steps in steps()) {
        check(&sql, &steps, late)?;
    }
}

/// A row that no other row can want any more is gone; one that came too late is set aside, on both sides.
#[tokio::test]
async fn what_nobody_can_meet_is_forgotten() {
    let job = job("SELECT a.id, b.id AS other FROM prices a JOIN prices b ON a.symbol = b.symbol \
                   AND b.ts BETWEEN a.ts - INTERVAL '5 seconds' AND a.ts + INTERVAL '2 seconds'");
    let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().display().to_string()).await.unwrap();
    let (mut stream, mut out) = (Stream::new(&plan, store), Streamed::default());
    let event = |seconds: i64, fine: i64| (Some(seconds), fine, 0, None, 0);
    stream.run(&rows(&[(1, event(10, 0)), (2, event(15, 0)), (3, event(17, 1))], &job), 17_000, false, &mut out).await;
    // Row 1 has waited until 12.000001, row 2 waits until 17.000001.
    assert_eq!(out.last, ["1|1"]);
    let rows_of =
        |stream: &Stream<'_>| stream.state.as_ref().unwrap().operators.iter().map(|it| it.rows()).collect::<Vec<_>>();
    // Row 1 may be wanted by a row of 15, as there is one that waits.
    assert_eq!(rows_of(&stream), [2, 3]);
    assert_eq!(out.ledger.in_state(), 2 + 1, "two wait, one is held as a partner that is not passed");
    stream.run(&rows(&[(4, event(16, 999_999)), (5, event(17, 0))], &job), 17_001, true, &mut out).await;
    assert_eq!(out.late, 2, "row 4, on each side");
    assert_eq!(out.last, ["2|1", "2|2", "2|5"]);
    stream.run(&rows(&[], &job), 1_000_000, false, &mut out).await;
    assert_eq!(out.last, ["3|2", "3|3", "3|5", "5|2", "5|3", "5|5"]);
    assert_eq!(rows_of(&stream), [0, 0]);
    assert_eq!(out.ledger.in_state(), 0);
}

pub(super) async fn refused(select: &str) -> String {
    let job = job(select);
    QueryPlan::new(&job, &job.inserts[0]).await.expect_err(select).to_string()
}

#[tokio::test]
async fn what_has_no_end_is_refused() {
    let key = "a.symbol = b.symbol";
    for (join, expected) in [
        (format!("JOIN prices b ON {key}"), "does not compare their event times"),
        (format!("JOIN prices b ON {key} AND b.ts >= a.ts"), "how much newer than the left row"),
        (
            format!("LEFT JOIN prices b ON {key} AND b.ts <= a.ts + INTERVAL '1 hour'"),
            "how much older than the left row",
        ),
        ("JOIN prices b ON b.ts BETWEEN a.ts AND a.ts + INTERVAL '1 hour'".to_owned(), "no key of both sides"),
        ("JOIN prices b ON b.ts = a.ts".to_owned(), "no key of both sides"),
        ("CROSS JOIN prices b".to_owned(), "without a condition"),
        (format!("JOIN prices b ON {key} AND b.ts BETWEEN a.ts AND now()"), "how much newer"),
    ] {
        let said = refused(&format!("SELECT a.id, b.id AS other FROM prices a {join}")).await;
        assert!(said.contains(expected) && said.contains("help:"), "{join}: {said}");
    }
    let pairs = format!("FROM prices a JOIN prices b ON {key} AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '1 hour'");
    for (select, expected) in [
        (
            format!(
                "SELECT count(*) AS n FROM TUMBLE((SELECT b.ts {pairs}), ts, INTERVAL '1 hour') GROUP BY window_start"
            ),
            "as the event time after a JOIN",
        ),
        (format!("SELECT a.id, lag(b.id) OVER (ORDER BY b.ts) AS before {pairs}"), "as the event time after a JOIN"),
        (format!("SELECT count(*) AS n {pairs}"), "an aggregate"),
        (
            format!("SELECT a.id, lag(b.id) OVER (ORDER BY a.ts) AS before {}", pairs.replace("a JOIN", "a FULL JOIN")),
            "as the event time after a JOIN",
        ),
    ] {
        let said = refused(&select).await;
        assert!(said.contains(expected) && said.contains("help:"), "{select}: {said}");
    }
    let said = refused("SELECT a.id FROM prices a WHERE a.id NOT IN (SELECT b.id FROM prices b)").await;
    assert!(said.contains("NOT IN") && said.contains("help:"), "{said}");
}
