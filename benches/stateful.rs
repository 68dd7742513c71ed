//! Queries with state, from the real Kafka: what a record costs, and what memory, by what is kept.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;

use crate::{
    end_to_end::{EVENT_TIME, Setup, fill, job_of, output, records, run_job, tidemill, unique},
    measure::quantile,
};

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
        let to = unique("bench-out");
        // A topic has to be there.
        fill(&setup, &to, 1);
        let sink = format!("kafka {to}");
        measure(&setup, &topic, &format!("update, {keys:8} keys"), (EVENT_TIME, &sink, &select));
    }
}

/// What batches cost while the state grows, and a restart with it: windows of a day that none of the batches closes.
pub fn state_growth() {
    let setup = Setup::new();
    let topic = unique("bench");
    fill(&setup, &topic, records());
    for keys in [1_000, 100_000, 1_000_000] {
        let select = format!(
            "SELECT window_start, window_end, key, count(*) AS n, max(sell_price) AS high FROM TUMBLE((SELECT *, \
             (CAST(buy_price * 100 AS BIGINT) * 7919 + volume) % {keys} AS key FROM prices), timestamp, INTERVAL '1 day') \
             GROUP BY window_start, window_end, key"
        );
        let job = in_batches(&setup, &topic, &select, "");
        let (batches, _) = run(&job);
        let state =
            |name: &'static str| move |batch: &Value| batch["stateOperators"][0][name].as_f64().expect("a number");
        let [first, middle, last] = thirds(&batches, &duration_ms);
        let updated = thirds(&batches, &state("numRowsUpdated"));
        let (_, restart_ms) = run(&job);
        println!(
            "{keys:8} keys, {} in state: a batch of 20,000 in the first / second / last third: {:.0} / {:.0} / {:.0} ms and \
             {:.0} / {:.0} / {:.0} rows of state written; {:.1} MB of state; start to end of a process with it {restart_ms:.0} ms",
            batches.last().map_or(0.0, state("numRowsTotal")),
            first,
            middle,
            last,
            updated[0],
            updated[1],
            updated[2],
            batches.last().map_or(0.0, |batch| {
                batch["stateOperators"][0]["customMetrics"]["stateFileBytes"].as_f64().expect("a number")
            }) / 1e6,
        );
    }
}

/// What batches cost that fit a model, in the first and in the last third of all: the history must not matter.
pub fn learning() {
    let setup = Setup::new();
    let topic = unique("bench");
    fill(&setup, &topic, records());
    let models = output(&setup, "local");
    let model = format!(
        "CREATE MODEL ahead WITH ('target' = 'price', 'horizon' = '10 seconds', 'retrain' = '1 minute', 'holdout' = '300 rows',
           'minRows' = 60, 'path' = '{models}-models');\n"
    );
    let fit = "SELECT window_start, window_end, linreg_fit(sell_price, buy_price, volume, volatility) AS fit
               FROM TUMBLE(prices, timestamp, INTERVAL '1 day') GROUP BY window_start, window_end";
    let forecast =
        "SELECT * FROM ML_FORECAST((SELECT window_end, price, lag(price) OVER (ORDER BY window_end) AS before,
                      spread FROM (SELECT window_end, last_value(sell_price ORDER BY timestamp) AS price,
                        max(sell_price) - min(sell_price) AS spread FROM TUMBLE(prices, timestamp, INTERVAL '1 second')
                        GROUP BY window_start, window_end)),
                    MODEL ahead, DESCRIPTOR(window_end), DESCRIPTOR(price, before, spread))";
    for (name, select, more) in [("linreg_fit by day", fit, ""), ("ML_FORECAST of seconds", forecast, &model)] {
        let job = in_batches(&setup, &topic, select, more);
        let (batches, _) = run(&job);
        let [first, middle, last] = thirds(&batches, &duration_ms);
        let scored = batches.last().and_then(|batch| batch["forecast"]["numForecastsScored"].as_u64()).unwrap_or(0);
        println!(
            "{name}: a batch of 20,000 in the first / second / last third: {first:.0} / {middle:.0} / {last:.0} ms; {scored} \
             forecasts came due"
        );
    }
}

/// A job that reads `topic` in batches of 20,000, with `more` statements.
fn in_batches(setup: &Setup, topic: &str, select: &str, more: &str) -> PathBuf {
    let job = job_of(setup, topic, &output(setup, "local"), (EVENT_TIME, "parquet", select));
    let text = std::fs::read_to_string(&job).expect("the job file");
    let batches = "startingOffsets = 'earliest', maxOffsetsPerTrigger = '20000'";
    std::fs::write(&job, text.replace("startingOffsets = 'earliest'", batches) + more).expect("the job file");
    job
}

/// The progress of all batches, and the process's time in milliseconds.
fn run(job: &Path) -> (Vec<Value>, f64) {
    let mut command = tidemill();
    command.arg("stream").arg(job).args(["--available-now", "--progress", "json"]).stderr(Stdio::inherit());
    let start = std::time::Instant::now();
    let output = command.output().expect("stream");
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).expect("JSON");
    let batches = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>();
    (batches, start.elapsed().as_secs_f64() * 1000.0)
}

fn duration_ms(batch: &Value) -> f64 {
    batch["durationMs"]["triggerExecution"].as_f64().expect("a number")
}

/// Medians of the first, second and last third of all batches but the first one.
fn thirds(batches: &[Value], number: &dyn Fn(&Value) -> f64) -> [f64; 3] {
    let third = batches.len() / 3;
    [&batches[1..third], &batches[third..2 * third], &batches[2 * third..]]
        .map(|batches| quantile(&mut batches.iter().map(number).collect::<Vec<_>>(), 0.5))
}
