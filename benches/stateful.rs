//! Queries with state, from the real Kafka: what a record costs, and what memory, by what is kept.

use crate::end_to_end::{EVENT_TIME, Setup, fill, job_of, output, records, run_job, unique};

fn measure(setup: &Setup, topic: &str, name: &str, job: (&str, &str, &str)) {
    let usage = run_job(&job_of(setup, topic, &output(setup, "local"), job));
    println!(
        "{name}: CPU {:.2} us a record, wall {:.2} s, resident {:.0} MB",
        usage.cpu_s * 1e6 / records() as f64,
        usage.wall_s,
        usage.resident_mb
    );
}

/// CPU per record as the slide of a window of one minute shrinks, and as the keys grow.
pub fn windows() {
    let setup = Setup::new();
    let records = records();
    let topic = unique("bench");
    fill(&setup, &topic, records);
    let aggregates = "max(sell_price) AS high, sum(volume) AS volume, count(*) AS n";
    let hop = |slide: u64| {
        format!(
            "SELECT window_start, window_end, {aggregates} FROM HOP(prices, timestamp, INTERVAL '{slide} seconds', \
             INTERVAL '60 seconds') GROUP BY window_start, window_end"
        )
    };
    let keyed = |keys: u64| {
        format!(
            "SELECT window_start, window_end, key, {aggregates} FROM TUMBLE((SELECT *, CAST(buy_price * 1000 AS BIGINT) \
             % {keys} AS key FROM prices), timestamp, INTERVAL '1 hour') GROUP BY window_start, window_end, key"
        )
    };
    let slides = [60, 30, 10, 5, 1].map(|slide| (format!("slide {slide:2} s of 60 s"), hop(slide)));
    let keys = [10, 1_000, 100_000, 10_000_000].map(|keys| (format!("{keys:8} keys"), keyed(keys)));
    for (name, select) in slides.into_iter().chain(keys) {
        measure(&setup, &topic, &name, (EVENT_TIME, "parquet", &select));
    }
}

/// CPU per record of what keeps single rows, sessions, or groups that are written each time they change.
pub fn stateful() {
    let setup = Setup::new();
    let topic = unique("bench");
    fill(&setup, &topic, records());
    let keyed = |keys: u64| format!("(SELECT *, CAST(buy_price * 1000 AS BIGINT) % {keys} AS key FROM prices)");
    let over = |function: &str| format!("SELECT timestamp, key, {function} AS value FROM {}", keyed(1000));
    let by_key = "OVER (PARTITION BY key ORDER BY timestamp";
    let queries = [
        ("lag by 1000 keys", over(&format!("lag(sell_price) {by_key})"))),
        ("mean of 20 rows by 1000 keys", over(&format!("avg(sell_price) {by_key} ROWS 19 PRECEDING)"))),
        (
            "mean of a minute by 1000 keys",
            over(&format!("avg(sell_price) {by_key} RANGE BETWEEN INTERVAL '1 minute' PRECEDING AND CURRENT ROW)")),
        ),
        (
            "DEDUPLICATE by 1000 keys, a minute",
            format!(
                "SELECT timestamp, key FROM DEDUPLICATE(TABLE {} PARTITION BY key, DESCRIPTOR(timestamp), INTERVAL '1 minute')",
                keyed(1000)
            ),
        ),
        (
            "sessions of 1000 keys, a gap of 5 s",
            format!(
                "SELECT window_start, window_end, key, count(*) AS n FROM SESSION(TABLE {} PARTITION BY key, \
                 DESCRIPTOR(timestamp), INTERVAL '5 seconds') GROUP BY window_start, window_end, key",
                keyed(1000)
            ),
        ),
    ];
    for (name, select) in &queries {
        measure(&setup, &topic, name, (EVENT_TIME, "parquet", select));
    }
    for keys in [10, 100_000, 10_000_000] {
        let select = format!("SELECT key, count(*) AS n, max(sell_price) AS high FROM {} GROUP BY key", keyed(keys));
        let sink = format!("kafka {}", unique("bench-out"));
        measure(&setup, &topic, &format!("update, {keys:8} keys"), (EVENT_TIME, &sink, &select));
    }
}
