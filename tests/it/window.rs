//! Event-time windows in batch SQL: every spelling, against one another and against a plain computation.

use std::{collections::BTreeMap, sync::Arc};

use crate::support::{
    job::{JobText, TestJob, send},
    tidemill,
};
use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, TimeUnit},
    util::pretty::pretty_format_batches,
};
use datafusion::datasource::MemTable;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tidemill::{
    error::Result,
    query::QuerySession,
    session::SessionLimits,
    window::{EVENT_TIME_KEY, Window, WindowKind, WindowSpec},
};

const SECOND_US: i64 = 1_000_000;

/// Time in microseconds, key, value.
type Row = (Option<i64>, Option<&'static str>, i64);

/// Times around the epoch, with nulls, ties and bounds of windows among them.
fn random_rows(seed: u64) -> Vec<Row> {
    let mut random = StdRng::seed_from_u64(seed);
    let rows = random.random_range(0..400);
    let mut row = |value: i64| {
        let time = match random.random_range(0..10) {
            0 => None,
            1..4 => Some(random.random_range(-20..20_i64) * 60 * SECOND_US),
            _ => Some(random.random_range(-1_200 * SECOND_US..1_200 * SECOND_US)),
        };
        let key = [Some("a"), Some("b"), None][random.random_range(0..3)];
        (time, key, value)
    };
    (0..rows).map(&mut row).collect()
}

/// A session with the rows as table `t`, in several batches and partitions.
fn session_with(rows: &[Row]) -> QuerySession {
    let session = QuerySession::new(Vec::new(), SessionLimits { memory_bytes: 128 << 20, partitions: 3 }).unwrap();
    let event_time = Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true)
        .with_metadata([(EVENT_TIME_KEY.to_owned(), "true".to_owned())].into());
    let fields = vec![event_time, Field::new("k", DataType::Utf8, true), Field::new("v", DataType::Int64, false)];
    let schema = Arc::new(Schema::new(fields));
    let batch = |rows: &[Row]| {
        let times: TimestampMicrosecondArray = rows.iter().map(|row| row.0).collect();
        let keys: StringArray = rows.iter().map(|row| row.1).collect();
        let values: Int64Array = rows.iter().map(|row| Some(row.2)).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(times), Arc::new(keys), Arc::new(values)];
        RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
    };
    let (one, two) = rows.split_at(rows.len() / 3);
    let partitions = [one, two].map(|rows| rows.chunks(37).map(batch).collect()).to_vec();
    let table = MemTable::try_new(Arc::clone(&schema), partitions).unwrap();
    session.context().register_table("t", Arc::new(table)).unwrap();
    session
}

async fn try_table(session: &QuerySession, sql: &str) -> Result<String> {
    let mut rows = session.select(sql).await?;
    let mut batches = vec![RecordBatch::new_empty(rows.schema())];
    while let Some(batch) = rows.next().await? {
        batches.push(batch);
    }
    Ok(pretty_format_batches(&batches).unwrap().to_string())
}

async fn table(session: &QuerySession, sql: &str) -> String {
    try_table(session, sql).await.unwrap_or_else(|error| panic!("{error}\nin {sql}"))
}

/// The rows as lines of `a,b,c`, sorted.
async fn lines(session: &QuerySession, sql: &str) -> Vec<String> {
    let text = table(session, sql).await;
    let rows = text.lines().skip(3).filter(|line| line.starts_with('|'));
    let line = |row: &str| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(",");
    let mut lines: Vec<String> = rows.map(line).collect();
    lines.sort();
    lines
}

async fn refusal(session: &QuerySession, sql: &str) -> String {
    match try_table(session, sql).await {
        Ok(table) => panic!("{sql}\n{table}"),
        Err(error) => error.to_string(),
    }
}

const SELECT: &str = "SELECT window_start, window_end, k, count(*), sum(v)";
const BY: &str = "GROUP BY window_start, window_end, k";
const SPARK: &str = "SELECT window.start, window.end, k, count(*), sum(v)";

#[tokio::test]
async fn each_spelling_gives_the_same_rows() {
    let session = session_with(&random_rows(1));
    let arroyo = |window: &str| {
        format!(
            "SELECT w.start, w.end, k, n, s FROM (SELECT {window} AS w, k, count(*) AS n, sum(v) AS s FROM t \
             GROUP BY {window}, k)"
        )
    };
    let tumble = [
        format!("{SELECT} FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '7' MINUTE)) {BY}"),
        format!(
            "{SELECT} FROM TABLE(TUMBLE(DATA => TABLE t, TIMECOL => DESCRIPTOR(ts), SIZE => INTERVAL '7' MINUTES)) {BY}"
        ),
        format!(
            "{SELECT} FROM TABLE(TUMBLE(SIZE => INTERVAL '7' MINUTE, TIMECOL => DESCRIPTOR(ts), DATA => TABLE t)) {BY}"
        ),
        format!("{SELECT} FROM TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '7' MINUTE) {BY}"),
        format!("{SELECT} FROM TUMBLE(t, ts, INTERVAL '7 minutes') {BY}"),
        format!("{SELECT} FROM tumble(t, INTERVAL '7 minutes') AS w {BY}"),
        format!("WITH c AS (SELECT * FROM t) {SELECT} FROM TUMBLE(TABLE c, DESCRIPTOR(ts), INTERVAL '7' MINUTE) {BY}"),
        format!("{SELECT} FROM TUMBLE((SELECT v, k, ts FROM t), DESCRIPTOR(ts), INTERVAL '420' SECOND) {BY}"),
        format!("{SELECT} FROM HOP(t, ts, INTERVAL '7' MINUTE, INTERVAL '7' MINUTE, INTERVAL '-7' MINUTE) {BY}"),
        arroyo("TUMBLE(INTERVAL '7 minutes')"),
        arroyo("tumble(ts, INTERVAL '7 minutes')"),
        format!("{SPARK} FROM t GROUP BY window(ts, '7 minutes'), k"),
        format!("{SPARK} FROM t GROUP BY k, window(ts, 'INTERVAL 420 SECONDS', '7 minutes')"),
    ];
    let hop = [
        format!(
            "{SELECT} FROM TABLE(HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '2' MINUTE, INTERVAL '5' MINUTE, \
             INTERVAL '30' SECOND)) {BY}"
        ),
        format!(
            "{SELECT} FROM HOP(t, ts, SIZE => INTERVAL '5' MINUTE, SLIDE => INTERVAL '2' MINUTE, \
             \"OFFSET\" => '30 seconds') {BY}"
        ),
        format!("{SELECT} FROM HOP(t, ts, INTERVAL '2 minutes', INTERVAL '5 minutes', INTERVAL '30 seconds') {BY}"),
        arroyo("HOP(INTERVAL '2 minutes', INTERVAL '5 minutes', INTERVAL '30 seconds')"),
        format!("{SPARK} FROM t GROUP BY window(ts, '5 minutes', '2 minutes', '30 seconds'), k"),
        format!("{SPARK} FROM t GROUP BY window(ts + INTERVAL '0' SECOND, '5 minutes', '2 minutes', '30 seconds'), k"),
    ];
    let session_windows = [
        format!("{SELECT} FROM TABLE(SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) {BY}"),
        format!("{SELECT} FROM SESSION(TABLE t PARTITION BY (k), DESCRIPTOR(ts), INTERVAL '1' MINUTE) {BY}"),
        format!(
            "{SELECT} FROM SESSION(DATA => TABLE t PARTITION BY k, TIMECOL => DESCRIPTOR(ts), \
             GAP => INTERVAL '1' MINUTE) {BY}"
        ),
        arroyo("SESSION(INTERVAL '1 minute')"),
        "SELECT session_window.start, session_window.end, k, count(*), sum(v) FROM t \
         GROUP BY session_window(ts, '1 minute'), k"
            .to_owned(),
    ];
    for spellings in [tumble.as_slice(), hop.as_slice(), session_windows.as_slice()] {
        let expected = lines(&session, &spellings[0]).await;
        assert!(expected.len() > 10, "{expected:?}");
        for spelling in spellings {
            assert_eq!(lines(&session, spelling).await, expected, "{spelling}");
        }
    }
}

/// Count and sum by window and key, computed row by row.
fn expected(rows: &[Row], windows_of: impl Fn(&Row) -> Vec<Window>) -> Vec<String> {
    let mut groups: BTreeMap<(Window, Option<&str>), (i64, i64)> = BTreeMap::new();
    for row in rows {
        for window in windows_of(row) {
            let group = groups.entry((window, row.1)).or_default();
            *group = (group.0 + 1, group.1 + row.2);
        }
    }
    let line = |((window, key), (count, sum)): (&(Window, Option<&str>), &(i64, i64))| {
        format!("{},{},{},{count},{sum}", window.start_us, window.end_us, key.unwrap_or_default())
    };
    let mut lines: Vec<String> = groups.iter().map(line).collect();
    lines.sort();
    lines
}

async fn grouped(session: &QuerySession, from: &str) -> Vec<String> {
    let us = |name: &str| format!("CAST({name} AS BIGINT)");
    let select = format!("SELECT {}, {}, k, count(*), sum(v)", us("window_start"), us("window_end"));
    lines(session, &format!("{select} FROM {from} {BY}")).await
}

#[tokio::test]
async fn windows_are_those_of_a_plain_computation() {
    for seed in 0..12 {
        let rows = random_rows(seed);
        let session = session_with(&rows);
        let minutes = |count: i64| count * 60 * SECOND_US;
        let hop = |slide, size| WindowSpec::new(WindowKind::Hop { slide_us: minutes(slide) }, minutes(size), 0, None);
        for (call, spec) in [
            ("TUMBLE(t, ts, INTERVAL '5' MINUTE)", WindowSpec::new(WindowKind::Tumble, minutes(5), 0, None)),
            ("HOP(t, ts, INTERVAL '2' MINUTE, INTERVAL '7' MINUTE)", hop(2, 7)),
            ("HOP(t, ts, INTERVAL '7' MINUTE, INTERVAL '3' MINUTE)", hop(7, 3)),
            (
                "CUMULATE(t, ts, INTERVAL '3' MINUTE, INTERVAL '12' MINUTE)",
                WindowSpec::new(WindowKind::Cumulate { step_us: minutes(3) }, minutes(12), 0, None),
            ),
        ] {
            let spec = spec.unwrap();
            let windows = |row: &Row| row.0.map(|time| spec.windows_of(time).collect()).unwrap_or_default();
            assert_eq!(grouped(&session, call).await, expected(&rows, windows), "{call}, seed {seed}");
        }
    }
}

/// The session of a row: the rows with its key, joined one after another.
fn session_of(rows: &[Row], row: &Row, gap_us: i64, by_key: bool) -> Vec<Window> {
    let Some(time) = row.0 else { return Vec::new() };
    let same = rows.iter().filter(|other| !by_key || other.1 == row.1);
    let mut times: Vec<i64> = same.filter_map(|other| other.0).collect();
    times.sort_unstable();
    let mut sessions: Vec<Window> = Vec::new();
    for time in times {
        match sessions.last_mut() {
            Some(last) if time <= last.end_us => last.end_us = time + gap_us,
            _ => sessions.push(Window { start_us: time, end_us: time + gap_us }),
        }
    }
    sessions.into_iter().filter(|window| window.start_us <= time && time < window.end_us).collect()
}

#[tokio::test]
async fn sessions_are_those_of_a_plain_computation() {
    for seed in 0..12 {
        let rows = random_rows(seed);
        let session = session_with(&rows);
        for gap in [1, 20, 60, 600] {
            let gap_us = gap * SECOND_US;
            let call = format!("SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '{gap}' SECOND)");
            let wanted = expected(&rows, |row| session_of(&rows, row, gap_us, true));
            assert_eq!(grouped(&session, &call).await, wanted, "{call}, seed {seed}");
            let call = format!("SESSION(TABLE t, DESCRIPTOR(ts), INTERVAL '{gap}' SECOND)");
            let wanted = expected(&rows, |row| session_of(&rows, row, gap_us, false));
            assert_eq!(grouped(&session, &call).await, wanted, "{call}, seed {seed}");
        }
    }
}

fn few_rows() -> QuerySession {
    let second = |count: i64| Some(count * SECOND_US);
    session_with(&[
        (second(0), Some("a"), 1),
        (second(59), Some("a"), 2),
        (second(60), Some("b"), 4),
        (None, Some("b"), 8),
        (second(150), Some("a"), 16),
        (second(-1), Some("b"), 32),
    ])
}

#[tokio::test]
async fn select_star_gives_all_columns_and_those_of_the_window() {
    let expected = "\
+---------------------+---+----+---------------------+---------------------+-------------------------+
| ts                  | k | v  | window_start        | window_end          | window_time             |
+---------------------+---+----+---------------------+---------------------+-------------------------+
| 1969-12-31T23:59:59 | b | 32 | 1969-12-31T23:59:00 | 1970-01-01T00:00:00 | 1969-12-31T23:59:59.999 |
| 1970-01-01T00:00:00 | a | 1  | 1970-01-01T00:00:00 | 1970-01-01T00:01:00 | 1970-01-01T00:00:59.999 |
| 1970-01-01T00:00:59 | a | 2  | 1970-01-01T00:00:00 | 1970-01-01T00:01:00 | 1970-01-01T00:00:59.999 |
| 1970-01-01T00:01:00 | b | 4  | 1970-01-01T00:01:00 | 1970-01-01T00:02:00 | 1970-01-01T00:01:59.999 |
| 1970-01-01T00:02:30 | a | 16 | 1970-01-01T00:02:00 | 1970-01-01T00:03:00 | 1970-01-01T00:02:59.999 |
+---------------------+---+----+---------------------+---------------------+-------------------------+";
    let sql = "SELECT * FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) ORDER BY ts";
    assert_eq!(table(&few_rows(), sql).await, expected);
}

#[tokio::test]
async fn windows_over_windows() {
    let expected = "\
+---------------------+---------------------+---------+-------+
| window_start        | window_end          | minutes | total |
+---------------------+---------------------+---------+-------+
| 1969-12-31T23:58:00 | 1970-01-01T00:00:00 | 1       | 32    |
| 1970-01-01T00:00:00 | 1970-01-01T00:02:00 | 2       | 7     |
| 1970-01-01T00:02:00 | 1970-01-01T00:04:00 | 1       | 16    |
+---------------------+---------------------+---------+-------+";
    let inner = "SELECT window_start, window_end, window_time, sum(v) AS s FROM TUMBLE(t, ts, INTERVAL '1' MINUTE) \
                 GROUP BY window_start, window_end, window_time";
    let outer = "SELECT window_start, window_end, count(*) AS minutes, sum(s) AS total";
    let by = "GROUP BY window_start, window_end ORDER BY window_start";
    let session = few_rows();
    for sql in [
        format!("WITH m AS ({inner}) {outer} FROM TUMBLE(TABLE m, DESCRIPTOR(window_time), INTERVAL '2' MINUTE) {by}"),
        format!("WITH m AS ({inner}) {outer} FROM TUMBLE(m, INTERVAL '2' MINUTE) {by}"),
        format!(
            "WITH m AS ({inner}) SELECT w.start AS window_start, w.end AS window_end, minutes, total FROM \
             (SELECT TUMBLE(INTERVAL '2 minutes') AS w, count(window_start) AS minutes, sum(s) AS total FROM m \
             GROUP BY TUMBLE(INTERVAL '2 minutes')) ORDER BY window_start"
        ),
        "WITH m AS (SELECT window, sum(v) AS s FROM t GROUP BY window(ts, '1 minute')) \
         SELECT window.start AS window_start, window.end AS window_end, count(*) AS minutes, sum(s) AS total FROM m \
         GROUP BY window(window_time(m.window), '2 minutes') ORDER BY window.start"
            .to_owned(),
    ] {
        assert_eq!(table(&session, &sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn windows_follow_a_zone() {
    // 2025-03-09 had 23 hours in New York.
    let hours = |zone: &str| {
        format!(
            "(SELECT arrow_cast(value * 3600000000, 'Timestamp(Microsecond, {zone})') AS ts \
             FROM generate_series(483747, 483795))"
        )
    };
    let select = "SELECT arrow_cast(window_start, 'Timestamp(Microsecond, None)') AS window_start, \
                  arrow_cast(window_end, 'Timestamp(Microsecond, None)') AS window_end, count(*) AS hours FROM";
    let by = "GROUP BY window_start, window_end ORDER BY window_start";
    let expected = "\
+---------------------+---------------------+-------+
| window_start        | window_end          | hours |
+---------------------+---------------------+-------+
| 2025-03-08T05:00:00 | 2025-03-09T05:00:00 | 2     |
| 2025-03-09T05:00:00 | 2025-03-10T04:00:00 | 23    |
| 2025-03-10T04:00:00 | 2025-03-11T04:00:00 | 24    |
+---------------------+---------------------+-------+";
    let (plain, zoned) = (hours("None"), hours("Some(\"America/New_York\")"));
    for sql in [
        format!("{select} TUMBLE({plain}, ts, INTERVAL '1' DAY, 'America/New_York') {by}"),
        format!("{select} TUMBLE({plain}, ts, ZONE => 'America/New_York', SIZE => INTERVAL '1' DAY) {by}"),
        format!("{select} TUMBLE({zoned}, ts, INTERVAL '1' DAY) {by}"),
    ] {
        assert_eq!(table(&few_rows(), &sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn a_window_reads_only_the_columns_that_are_used() {
    let session = few_rows();
    let sql = "EXPLAIN SELECT window_start, count(*) FROM TUMBLE(t, ts, INTERVAL '1' MINUTE) WHERE k = 'a' \
               GROUP BY window_start";
    let plan = table(&session, sql).await;
    let assign = plan.find("WindowAssign: TUMBLE(size 1 minute) of t.ts").expect(&plan);
    let filter = plan.find("Filter: t.k = Utf8(\"a\")").expect(&plan);
    assert!(assign < filter && plan.contains("TableScan: t projection=[ts, k]"), "{plan}");
}

#[tokio::test]
async fn refusals_point_at_their_place() {
    let session = few_rows();
    let mut text = String::new();
    for sql in [
        "SELECT * FROM TUMBLE(TABLE t, DESCRIPTOR(tss), INTERVAL '1' MINUTE)",
        "SELECT * FROM TUMBLE(t, v, INTERVAL '1' MINUTE)",
        "SELECT * FROM TUMBLE(t, ts, INTERVAL '1' MONTH)",
        "SELECT * FROM TUMBLE(t, ts, INTERVAL '0' MINUTE)",
        "SELECT * FROM TUMBLE(t, INTERVAL '1' MINUTE, ts)",
        "SELECT * FROM TUMBLE(t, ts)",
        "SELECT * FROM HOP(t, ts, INTERVAL '1' MINUTE)",
        "SELECT * FROM HOP(t, ts, SIZ => INTERVAL '1' MINUTE)",
        "SELECT * FROM TUMBLE(t, ts, INTERVAL '1' MINUTE, INTERVAL '1' MINUTE, INTERVAL '1' MINUTE)",
        "SELECT * FROM CUMULATE(t, ts, INTERVAL '5' MINUTE, INTERVAL '1' MINUTE)",
        "SELECT * FROM TUMBLE(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '1' MINUTE)",
        "SELECT * FROM TUMBLE((SELECT v FROM t), INTERVAL '1' MINUTE)",
        "SELECT * FROM TUMBLE(TABLE tt, DESCRIPTOR(ts), INTERVAL '1' MINUTE)",
        "SELECT count(*) FROM t GROUP BY window(v, '1 minute')",
        "SELECT count(*) FROM t GROUP BY window(ts, '1 minute', '2 minutes')",
        "SELECT count(*) FROM t GROUP BY window(ts, '1 month')",
        "SELECT count(*) FROM t GROUP BY window(ts, '1 minute'), window(ts, '2 minutes')",
        "SELECT * FROM t WHERE TUMBLE(ts, INTERVAL '1' MINUTE) IS NULL",
        "SELECT count(*) FROM t GROUP BY TUMBLE()",
        "SELECT * FROM TUMBLE(t, ts, '1 day', 'Amerika/New_York')",
        "SELECT * FROM TUMBLE(t, ts, '1 dey')",
        "SELECT * FROM TUMBLE(t, ts, 60)",
        "SELECT * FROM SESSION(t, ts, '1 day', 'Europe/Paris')",
    ] {
        text += &format!("{}\n\n", refusal(&session, sql).await);
    }
    let expected = include_str!("../golden/window_refusals.txt");
    assert!(text == expected, "{text}");
}

#[tokio::test]
async fn the_columns_of_spark_have_its_names() {
    let sql = "SELECT window, window.end, count(*) AS n, window_time(window) AS at FROM t WHERE v < 30 \
               GROUP BY window(ts, '1 minute') HAVING window.start < TIMESTAMP '1970-01-01 00:02:00' \
               ORDER BY window.start";
    let expected = "\
+-------------------------------------------------------+---------------------+---+-------------------------+
| window                                                | end                 | n | at                      |
+-------------------------------------------------------+---------------------+---+-------------------------+
| {start: 1970-01-01T00:00:00, end: 1970-01-01T00:01:00} | 1970-01-01T00:01:00 | 2 | 1970-01-01T00:00:59.999 |
| {start: 1970-01-01T00:01:00, end: 1970-01-01T00:02:00} | 1970-01-01T00:02:00 | 1 | 1970-01-01T00:01:59.999 |
+-------------------------------------------------------+---------------------+---+-------------------------+";
    let both = "SELECT window.start FROM t GROUP BY window(ts, '1 minute') UNION ALL \
                SELECT session_window.end FROM t GROUP BY session_window(ts, '1 minute')";
    assert_eq!(lines(&few_rows(), both).await.len(), 4 + 2);
    let squeeze = |text: &str| text.replace(['-', ' '], "");
    assert_eq!(squeeze(&table(&few_rows(), sql).await), squeeze(expected));
}

#[tokio::test]
async fn many_windows_for_each_row_come_in_bounded_batches() {
    let session = few_rows();
    let sql = "SELECT v, window_end FROM HOP(t, ts, INTERVAL '1' SECOND, INTERVAL '1' DAY)";
    let mut rows = session.select(sql).await.unwrap();
    let mut count = 0;
    while let Some(batch) = rows.next().await.unwrap() {
        assert!(batch.num_rows() <= 8192, "{}", batch.num_rows());
        count += batch.num_rows();
    }
    assert_eq!(count, 5 * 86_400);
}

#[test]
fn the_command_groups_files_by_window() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(tidemill());
        let output = command.arg("query").args(arguments).current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let trades = "timestamp,price,volume\n\
                  2025-01-01T09:00:59.5,101.5,3\n2025-01-01T09:00:01.0,100.5,1\n2025-01-01T09:00:30.0,102.0,2\n\
                  2025-01-01T09:02:00.0,99.0,5\n,1.0,7\n";
    std::fs::create_dir(directory.path().join("trades")).unwrap();
    std::fs::write(directory.path().join("trades/1.csv"), trades).unwrap();
    let job = "CREATE TABLE trades (timestamp TIMESTAMP, price DOUBLE, volume BIGINT, \
               WATERMARK FOR timestamp AS timestamp - INTERVAL '1' MINUTE) \
               WITH (connector = 'file', path = 'trades', format = 'csv', header = 'true');\n\
               CREATE VIEW ohlc AS SELECT window_start, first_value(price ORDER BY timestamp) AS open, \
               max(price) AS high, min(price) AS low, last_value(price ORDER BY timestamp) AS close, \
               sum(volume) AS volume, sum(price * volume) / sum(volume) AS vwap \
               FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(timestamp), INTERVAL '1' MINUTE)) GROUP BY window_start;\n";
    std::fs::write(directory.path().join("job.sql"), job).unwrap();
    let expected = "\
+---------------------+-------+-------+-------+-------+--------+-------+
| window_start        | open  | high  | low   | close | volume | vwap  |
+---------------------+-------+-------+-------+-------+--------+-------+
| 2025-01-01T09:00:00 | 100.5 | 102.0 | 100.5 | 101.5 | 6      | 101.5 |
| 2025-01-01T09:02:00 | 99.0  | 99.0  | 99.0  | 99.0  | 5      | 99.0  |
+---------------------+-------+-------+-------+-------+--------+-------+
(2 rows)
";
    assert_eq!(run(&["-j", "job.sql", "SELECT * FROM ohlc ORDER BY window_start"]), expected);
    let marked = "SELECT window.start, count(*) AS n FROM trades GROUP BY TUMBLE(INTERVAL '1 minute') ORDER BY 1";
    assert_eq!(run(&["-j", "job.sql", "--format", "csv", marked]).lines().count(), 3);
    let starts = "SELECT window.start, count(*) AS n FROM 'trades/1.csv' GROUP BY window(timestamp, '1 minute')";
    run(&[&format!("COPY ({starts}) TO 'n.parquet'")]);
    assert_eq!(run(&["--format", "csv", "SELECT n FROM 'n.parquet' ORDER BY start"]), "n\n3\n1\n");
}

#[test]
fn a_topic_is_grouped_by_the_time_of_its_watermark() {
    let columns = "ts TIMESTAMP, v BIGINT, WATERMARK FOR ts AS ts - INTERVAL '1' MINUTE";
    let job = TestJob::new(None, &JobText { columns, select: "SELECT v FROM prices", ..JobText::default() });
    let records = [0, 61, 59, 130].map(|second| {
        let (minute, second) = (second / 60, second % 60);
        format!("{{\"ts\": \"2025-01-01T00:{minute:02}:{second:02}\", \"v\": 1}}")
    });
    send(&job.topic, 0, &records);
    for sql in [
        "SELECT w.start, n FROM (SELECT HOP(INTERVAL '1 minute', INTERVAL '2 minutes') AS w, sum(v) AS n FROM prices \
         GROUP BY HOP(INTERVAL '1 minute', INTERVAL '2 minutes')) ORDER BY 1",
        "SELECT window_start AS start, sum(v) AS n FROM HOP(prices, INTERVAL '1' MINUTE, INTERVAL '2' MINUTE) \
         GROUP BY window_start, window_end ORDER BY 1",
    ] {
        let arguments = ["query", "-j", job.file.to_str().unwrap(), "--format", "csv", sql];
        let output = std::process::Command::new(tidemill()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows = String::from_utf8(output.stdout).unwrap();
        let counts: Vec<&str> = rows.lines().skip(1).filter_map(|line| line.rsplit(',').next()).collect();
        assert_eq!(counts, ["2", "3", "2", "1"], "{rows}");
    }
}
