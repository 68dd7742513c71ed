//! Several windowed aggregates in one query, joined or one after the other: as one batch query would have them.

use proptest::{prelude::*, test_runner::TestCaseResult};

use super::tests::{self, Event, Fate, SECOND_US, Step, cases, job, micros, steps};
use crate::stream::plan::QueryPlan;

/// The two aggregates, `x` and `y`; both are over windows of ten seconds and have the key `k`.
const LEFT: &str = "(SELECT window_start, window_end, symbol AS k, count(*) AS n, sum(size) AS s \
     FROM TUMBLE(prices, ts, INTERVAL '10 seconds') WHERE size % 2 = 0 GROUP BY window_start, window_end, symbol) x";
const RIGHT: &[&str] = &[
    "(SELECT window_start, window_end, symbol AS k, max(price) AS m, max(window_time) AS t \
     FROM TUMBLE(prices, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end, symbol) y",
    "(SELECT window_start, window_end, symbol AS k, max(id) AS m, max(window_time) AS t \
     FROM HOP(prices, ts, INTERVAL '10 seconds', INTERVAL '20 seconds') GROUP BY window_start, window_end, symbol) y",
    "(SELECT window_start, window_end, symbol AS k, min(id) AS m, max(window_time) AS t \
     FROM SESSION((SELECT * FROM prices WHERE size % 3 = 0), ts, INTERVAL '4 seconds') \
     GROUP BY window_start, window_end, symbol) y",
];

/// What stands over both; `{l}` and `{r}` are the aggregates.
const JOINS: &[&str] = &[
    "SELECT x.window_end, x.k, n, s, m FROM {l} JOIN {r} ON x.window_end = y.window_end AND x.k = y.k",
    "SELECT window_end, k, n, m FROM {l} JOIN {r} USING (window_end, k)",
    "SELECT x.window_end, x.k, n, y.k AS yk, m FROM {l} LEFT JOIN {r} ON x.window_end = y.window_end AND x.k = y.k",
    "SELECT x.window_end, y.window_end AS ye, n, m FROM {l} FULL JOIN {r} ON x.window_end = y.window_end AND n > 1",
    "SELECT x.window_end, n FROM {l} LEFT ANTI JOIN {r} ON x.window_end = y.window_end AND x.k = y.k",
    "SELECT x.window_end, y.window_start, count(*) AS pairs, sum(n) AS total FROM {l} JOIN {r} \
     ON x.window_end = y.window_end GROUP BY x.window_end, y.window_start",
    "SELECT window_end, k, n FROM {l} UNION ALL SELECT window_end, k, CAST(m AS BIGINT) FROM {r}",
];

/// Only rows come that all windows of both take, so that nothing is late. The watermark is far behind, so that most do.
fn check(select: &str, steps: &[Step]) -> TestCaseResult {
    let fate = |event: &Event, closed_us: i64| match micros(event) {
        Some(time) if time - 20 * SECOND_US > closed_us.max(i64::MIN / 2) => Fate::InTime,
        _ => Fate::Absent,
    };
    tests::check(select, steps, 60, |stages, events, closed_us| {
        assert_eq!(stages.operators.len(), 2);
        events.iter().map(|(_, event)| fate(event, closed_us)).collect()
    })
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn joined_windows_of_a_stream_are_those_of_a_batch(
        join in proptest::sample::select(JOINS),
        right in proptest::sample::select(RIGHT),
        steps in steps(),
    ) {
        check(&join.replace("{l}", LEFT).replace("{r}", right), &steps)?;
    }
}

async fn refused(select: &str) -> String {
    let job = job(select);
    let error = QueryPlan::new(&job, &job.inserts[0]).await.expect_err(select);
    error.to_string()
}

#[tokio::test]
async fn what_would_not_be_complete_is_refused() {
    let tumble = |table: &str| {
        format!(
            "(SELECT window_start, window_end, window_time, count(*) AS n FROM TUMBLE({table}, INTERVAL '10 seconds') \
                 GROUP BY window_start, window_end, window_time)"
        )
    };
    let one = tumble("prices, ts");
    let two = tumble(&format!("{one}, window_time"));
    for (select, expected) in [
        (format!("SELECT x.n FROM {one} x JOIN {one} y ON x.n = y.n"), "whose ends are not compared"),
        (
            format!("SELECT x.n FROM {one} x JOIN {one} y ON x.window_end = y.window_start"),
            "whose ends are not compared",
        ),
        (format!("SELECT x.n FROM {one} x CROSS JOIN {one} y"), "whose ends are not compared"),
        (format!("SELECT x.n FROM {one} x JOIN {two} y USING (window_end)"), "with windows over windows"),
        (format!("SELECT x.n FROM {one} x JOIN prices p ON x.n = p.size"), "a join of two streams"),
        (format!("SELECT n FROM {one} UNION ALL SELECT size FROM prices"), "together with the rows of windows"),
        (format!("SELECT count(*) AS c FROM {one} x JOIN {one} y USING (window_end)"), "more than one window"),
    ] {
        let said = refused(&select).await;
        assert!(said.contains(expected) && said.contains("help:"), "{select}: {said}");
    }
}
