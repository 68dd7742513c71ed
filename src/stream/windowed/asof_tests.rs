//! The oracle for as-of joins: whatever the cuts, restarts and merges, a stream gives the pairs of one batch query.

use proptest::prelude::*;

use super::{
    interval_tests::{check, refused},
    tests::{Fate, Stream, Streamed, cases, job, rows, steps},
};
use crate::{store::Store, stream::plan::QueryPlan};

/// `{q}` is the right side, `{c}` what is compared.
const QUERIES: &[&str] = &[
    "SELECT t.id, t.ts, q.id AS other, q.ts AS other_ts FROM prices t ASOF JOIN {q} MATCH_CONDITION (t.ts {c} q.ts) ON {k}",
    "SELECT t.id, q.price FROM prices t ASOF LEFT JOIN {q} MATCH_CONDITION (t.ts {c} q.ts) ON {k}",
    "SELECT t.id, q.size FROM prices t ASOF LEFT JOIN {q} ON {k} AND t.ts {c} q.ts",
    "SELECT t.id, q.id AS other FROM (SELECT * FROM prices WHERE size % 3 = 0) t ASOF JOIN {q} ON {k} AND t.ts {c} q.ts \
     WHERE q.price > 20",
    "SELECT window_start, symbol, count(*) AS n, max(other) AS o FROM TUMBLE((SELECT t.ts, t.symbol, q.id AS other FROM \
     prices t ASOF LEFT JOIN {q} ON {k} AND t.ts {c} q.ts), ts, INTERVAL '10 seconds') \
     GROUP BY window_start, window_end, symbol",
    "SELECT id, other, lag(other) OVER (PARTITION BY symbol ORDER BY ts, id) AS before FROM \
     (SELECT t.id, t.ts, t.symbol, q.id AS other FROM prices t ASOF LEFT JOIN {q} ON {k} AND t.ts {c} q.ts)",
    // Both kinds of joins.
    "SELECT x.id, x.other, b.id AS third FROM (SELECT t.id, t.ts, t.symbol, q.id AS other FROM prices t \
     ASOF LEFT JOIN {q} ON {k} AND t.ts {c} q.ts) x JOIN prices b ON x.symbol = b.symbol AND b.ts BETWEEN x.ts AND \
     x.ts + INTERVAL '3 seconds'",
    "SELECT x.id, x.third, q.id AS other FROM (SELECT a.id, a.ts, a.symbol, a.size, b.id AS third FROM prices a LEFT JOIN \
     prices b ON a.symbol = b.symbol AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '3 seconds') x ASOF LEFT JOIN {q} \
     ON x.symbol = q.symbol AND x.ts {c} q.ts",
];

/// Two of them put the columns in another order, which decides between rows of one time.
const RIGHT: &[&str] = &[
    "prices q",
    "(SELECT * FROM prices WHERE size % 4 <> 1) q",
    "(SELECT ts, size, price, symbol, id FROM prices WHERE size % 2 = 0) q",
    "(SELECT symbol, ts, -id AS id, price, size FROM prices) q",
];

const KEYS: &[&str] =
    &["t.symbol = q.symbol", "q.size % 3 = t.size % 3", "t.symbol = q.symbol AND t.size % 2 = q.size % 2"];

fn queries() -> impl Strategy<Value = String> {
    let pick = |from: &'static [&'static str]| proptest::sample::select(from);
    (pick(QUERIES), pick(RIGHT), pick(KEYS), pick(&[">=", ">"])).prop_map(|(query, right, keys, compared)| {
        query.replace("{q}", right).replace("{k}", keys).replace("{c}", compared)
    })
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn the_last_rows_of_a_stream_are_those_of_a_batch(sql in queries(), steps in steps()) {
        check(&sql, &steps, Fate::Absent)?;
    }
}

/// The last row of each key stays for ever, and no more than that.
#[tokio::test]
async fn of_the_past_the_last_row_of_each_key_stays() {
    let job =
        job("SELECT t.id, q.id AS other FROM prices t ASOF LEFT JOIN prices q ON t.symbol = q.symbol AND t.ts > q.ts");
    let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().display().to_string()).await.unwrap();
    let (mut stream, mut out) = (Stream::new(&plan, store), Streamed::default());
    for second in 0..200 {
        let event = (Some(second), 0, u8::try_from(second % 3).unwrap(), None, 0);
        stream.run(&rows(&[(second, event)], &job), (second - 2) * 1000, second % 7 == 0, &mut out).await;
    }
    let rows_of: Vec<u64> = stream.state.as_ref().unwrap().operators.iter().map(|operator| operator.rows()).collect();
    assert!(rows_of[0] <= 3 && rows_of[1] < 60, "{rows_of:?}");
    stream.run(&rows(&[(900, (Some(500), 0, 1, None, 0))], &job), 1_000_000, true, &mut out).await;
    assert!(out.last.contains(&"900|199".to_owned()), "{:?}", out.last);
    assert_eq!(out.ledger.in_state(), 0, "{:?}", out.ledger);
}

#[tokio::test]
async fn what_has_no_last_row_is_refused() {
    for (join, expected) in [
        ("ASOF JOIN prices q ON t.ts >= q.ts", "without a key"),
        ("ASOF JOIN prices q ON t.symbol = q.symbol", "without a comparison of times"),
        ("ASOF JOIN prices q MATCH_CONDITION (t.ts <= q.ts) ON t.symbol = q.symbol", "looks for the next row"),
        (
            "ASOF JOIN prices q ON t.symbol = q.symbol AND t.ts >= q.ts AND t.size > 3",
            "t.size > Int64(3) in the condition",
        ),
        (
            "ASOF JOIN prices q ON t.symbol = q.symbol AND (t.ts >= q.ts OR t.size > 3)",
            "in the condition of an ASOF JOIN",
        ),
        ("ASOF JOIN prices q MATCH_CONDITION (t.size >= q.size) ON t.symbol = q.symbol", "which is not the event time"),
        ("ASOF JOIN prices q ON t.symbol = q.symbol AND CAST(t.ts AS TIMESTAMP(0)) >= q.ts", "not the event time"),
    ] {
        let said = refused(&format!("SELECT t.id, q.id AS other FROM prices t {join}")).await;
        assert!(said.contains(expected) && said.contains("help:"), "{join}: {said}");
    }
}
