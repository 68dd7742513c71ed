//! Several windowed aggregates in one query, joined or one after the other: as one batch query would have them.

use proptest::{prelude::*, test_runner::TestCaseResult};

use super::tests::{Event, SECOND_US, Stream, Streamed, batch_query, events, job, rows};
use crate::{event_time::NO_WATERMARK_MS, store::Store, stream::plan::QueryPlan};

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

fn check(select: &str, batches: &[Vec<Event>]) -> TestCaseResult {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let job = job(select);
        let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap_or_else(|error| panic!("{select}: {error}"));
        let specs: Vec<_> = plan.stages().unwrap().operators.iter().map(|operator| operator.spec).collect();
        assert_eq!(specs.len(), 2);
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().display().to_string()).await.unwrap();
        let mut stream = Stream::new(&plan, store).await;
        let mut out = Streamed::default();
        let (mut all, mut next_id, mut newest, mut to_ms) = (Vec::new(), 0, i64::MIN, NO_WATERMARK_MS);
        for events in batches {
            let closed_us = if stream.from_ms == NO_WATERMARK_MS { i64::MIN } else { stream.from_ms * 1000 };
            // Only rows that all windows of both take, so that nothing is late.
            let in_time = |event: &Event| {
                event.0.is_some_and(|time| time * SECOND_US + event.1 - 20 * SECOND_US > closed_us.max(i64::MIN / 2))
            };
            let events: Vec<Event> = events.iter().copied().filter(in_time).collect();
            let events: Vec<(i64, Event)> = (next_id..).zip(events).collect();
            next_id += 100;
            let records = rows(&events, &job);
            stream.run(&records, to_ms, &mut out).await;
            all.push(records);
            newest = events.iter().filter_map(|(_, event)| event.0).max().unwrap_or(newest).max(newest);
            if newest > i64::MIN {
                // Far behind, so that later events are in time mostly.
                to_ms = to_ms.max((newest - 60) * 1000);
            }
        }
        stream.run(&rows(&[], &job), 10_000_000, &mut out).await;
        out.lines.sort();
        prop_assert_eq!(out.late, 0, "{}", select);
        let expected = batch_query(&all, &job).await;
        prop_assert_eq!(&out.lines, &expected, "{}", select);
        prop_assert!(stream.state.operators.iter().all(|operator| operator.is_empty()));
        prop_assert_eq!(out.ledger.in_state(), 0);
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn joined_windows_of_a_stream_are_those_of_a_batch(
        join in proptest::sample::select(JOINS),
        right in proptest::sample::select(RIGHT),
        batches in events(),
    ) {
        check(&join.replace("{l}", LEFT).replace("{r}", right), &batches)?;
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
