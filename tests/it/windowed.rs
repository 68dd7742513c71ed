//! Windows over a stream, from the real Kafka to real files: exactly once, whatever happens to the process.

use std::{process::Stdio, time::Duration};

use tidemill::store::Store;

use crate::support::{
    hdfs,
    job::{JobText, TestJob, send, sorted_lines, visible_files},
    kafka,
    kafka::create_topic,
};

const COLUMNS: &str = "id BIGINT, ts TIMESTAMP, price DOUBLE, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND";

const CANDLES: &str = "SELECT window_start, window_end, first_value(price ORDER BY ts) AS open, max(price) AS high, \
     min(price) AS low, last_value(price ORDER BY ts) AS close, count(*) AS n \
     FROM TUMBLE(prices, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end";

fn text(select: &'static str) -> JobText<'static> {
    JobText { columns: COLUMNS, select, ..JobText::default() }
}

/// A record at `second` of the first hour of 2024, plus `micros`.
fn record(id: usize, second: i64, price: f64) -> String {
    let (minute, second) = (second / 60, second % 60);
    format!(r#"{{"id":{id},"ts":"2024-01-01T00:{minute:02}:{second:02}","price":{price}}}"#)
}

/// Prices every 2 seconds, out of order by up to 4 seconds.
fn records(count: usize) -> Vec<String> {
    let at = |id: usize| record(id, (id as i64 * 2) + [0, 3, -1, 4, -3][id % 5] + 4, ((id * 7919) % 100) as f64);
    (0..count).map(at).collect()
}

/// The candles of `records`, computed here: of all windows that end up to `until`.
fn candles(records: &[String], until: i64) -> Vec<String> {
    let mut windows: std::collections::BTreeMap<i64, Vec<(i64, f64)>> = std::collections::BTreeMap::new();
    for record in records {
        let json: serde_json::Value = serde_json::from_str(record).unwrap();
        let time = json["ts"].as_str().unwrap();
        let second = time[14..16].parse::<i64>().unwrap() * 60 + time[17..19].parse::<i64>().unwrap();
        windows.entry(second / 10 * 10).or_default().push((second, json["price"].as_f64().unwrap()));
    }
    let line = |(start, prices): (&i64, &Vec<(i64, f64)>)| {
        let stamp = |second: i64| format!("2024-01-01T00:{:02}:{:02}.000", second / 60, second % 60);
        let open = prices.iter().min_by_key(|(second, _)| *second).unwrap().1;
        let close = prices.iter().rev().max_by_key(|(second, _)| *second).unwrap().1;
        let high = prices.iter().map(|(_, price)| *price).fold(f64::MIN, f64::max);
        let low = prices.iter().map(|(_, price)| *price).fold(f64::MAX, f64::min);
        format!("{},{},{open:?},{high:?},{low:?},{close:?},{}", stamp(*start), stamp(start + 10), prices.len())
    };
    let mut lines: Vec<String> = windows.iter().filter(|(start, _)| **start + 10 <= until).map(line).collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn candles_come_when_the_watermark_passes() {
    let job = TestJob::new(None, &text(CANDLES));
    let all = records(100);
    send(&job.topic, 0, &all[..50]);
    job.run();
    assert_eq!(job.lines().await, candles(&all[..50], newest(&all[..50]) - 5));
    send(&job.topic, 0, &all[50..]);
    job.run();
    // Nothing new: nothing happens.
    job.run();
    assert_eq!(job.lines().await, candles(&all, newest(&all) - 5));
    assert_eq!(job.lines().await, job.logged_lines().await);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn late_rows_are_kept_and_counted() {
    let job = TestJob::new(None, &text(CANDLES));
    send(&job.topic, 0, &[record(1, 1, 10.0), record(2, 100, 20.0)]);
    job.run();
    let late = [record(3, 2, 30.0), record(4, 101, 40.0), r#"{"id":5,"price":1}"#.to_owned()];
    send(&job.topic, 0, &late);
    let far = r#"{"id":6,"ts":"2999-01-01T00:00:00","price":1}"#.to_owned();
    send(&job.topic, 0, &[far]);
    job.run();
    let candles = ["2024-01-01T00:00:00.000,2024-01-01T00:00:10.000,10.0,10.0,10.0,10.0,1"];
    assert_eq!(job.lines().await, candles);
    let store = Store::open(&job.output.replace("/data", "/data_late")).await.unwrap();
    let late = sorted_lines(visible_files(&store).await.values());
    assert_eq!(late.len(), 3, "{late:?}");
    assert!(late.iter().any(|line| line.contains("its event time is NULL")), "{late:?}");
    assert!(late.iter().any(|line| line.contains("further in the future")), "{late:?}");
    let closed = "2024-01-01T00:00:00.000,2024-01-01T00:00:10.000,2024-01-01T00:01:35.000,85000,late";
    assert!(late.iter().any(|line| line.contains(closed)), "{late:?}");
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}

/// The pieces of a session that is closed stay for a gap: they are not in the state that the ledger counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_session_is_not_in_state() {
    let select = "SELECT window_start, window_end, count(*) AS n FROM SESSION(prices, ts, INTERVAL '10 seconds') \
                  GROUP BY window_start, window_end";
    let job = TestJob::new(None, &text(select));
    send(&job.topic, 0, &[record(1, 1, 1.0), record(2, 3, 1.0), record(3, 20, 1.0)]);
    job.run();
    assert_eq!(job.lines().await, ["2024-01-01T00:00:01.000,2024-01-01T00:00:13.000,2"]);
    let (ok, said) = job.verify();
    assert!(ok && said.contains("1 in state"), "{said}");
    // An open session of two pieces, of which one has ended: it is one.
    send(&job.topic, 0, &[record(4, 29, 1.0), record(5, 38, 1.0)]);
    job.run();
    let (ok, said) = job.verify();
    assert!(ok && said.contains("3 in state"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_window_closes_when_nothing_comes_any_more() {
    let source = ", idleTimeout = '1 second', idleWatermark = 'advance'";
    let job = TestJob::new(None, &JobText { source, ..text(CANDLES) });
    send(&job.topic, 0, &[record(1, 1, 10.0)]);
    let mut child = job.command(&["--progress", "none"]).stderr(Stdio::piped()).spawn().unwrap();
    for _ in 0..600 {
        if !job.lines().await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(job.lines().await, candles(&[record(1, 1, 10.0)], 10));
}

async fn killed_at_every_step(root: Option<&str>, sink: &'static str) {
    let job = TestJob::new(root, &JobText { sink, source: ", maxOffsetsPerTrigger = '30'", ..text(CANDLES) });
    let all = records(150);
    send(&job.topic, 0, &all);
    // Batch 4 is the last with records, batch 5 closes windows without any.
    let steps =
        ["offsets:1", "staged:1", "prepared:2", "publishing:2", "published:3", "logged:3", "committed:4", "staged:5"];
    for step in steps {
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", step).output().unwrap();
        assert!(!output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
    }
    job.run();
    assert_eq!(job.lines().await, candles(&all, 150 * 2 - 6 + 5 - 5));
    assert_eq!(job.lines().await, job.logged_lines().await);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
    // Nothing is left over in the state's directory but what the last batch needs.
    let checkpoint = Store::open(&job.checkpoint()).await.unwrap();
    let files = checkpoint.list("state").await.unwrap();
    let manifests = files.iter().filter(|entry| entry.path.ends_with(".manifest")).count();
    assert_eq!(manifests, 1, "{files:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_a_windowed_job_on_a_local_disk() {
    killed_at_every_step(None, "format = 'csv'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_a_windowed_job_on_hdfs() {
    killed_at_every_step(Some(&hdfs()), "format = 'csv'").await;
}

/// A job over single rows, killed at every step: what it writes is what a query over the same records gives.
async fn rows_killed_at_every_step(root: Option<&str>, select: &'static str) {
    let job = TestJob::new(root, &JobText { source: ", maxOffsetsPerTrigger = '30'", ..text(select) });
    let mut all = records(150);
    all.push(record(999, 3000, 1.0));
    send(&job.topic, 0, &all);
    let steps =
        ["offsets:0", "staged:1", "prepared:2", "publishing:2", "published:3", "logged:4", "committed:4", "staged:5"];
    for step in steps {
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", step).output().unwrap();
        assert!(!output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
    }
    job.run();
    let mut lines = job.lines().await;
    lines.sort();
    // All but the last record, which the watermark has not passed.
    let query = format!("SELECT * FROM ({select}) WHERE ts < '2024-01-01T00:49:00'");
    let output = std::process::Command::new(crate::support::tidemill())
        .args(["query", "--format", "csv", "--job", &job.file.display().to_string(), &query])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut expected: Vec<String> = said.lines().skip(1).map(str::to_owned).collect();
    expected.sort();
    assert_eq!(lines.len(), expected.len(), "{}", String::from_utf8_lossy(&output.stderr));
    let key = |line: &String| line.replace(".000", "");
    assert_eq!(lines.iter().map(key).collect::<Vec<_>>(), expected.iter().map(key).collect::<Vec<_>>());
    assert_eq!(job.lines().await, job.logged_lines().await);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_an_over_on_hdfs() {
    let select = "SELECT id, ts, lag(price) OVER (PARTITION BY id % 3 ORDER BY ts, id) AS before, \
         max(price) OVER (ORDER BY ts RANGE BETWEEN INTERVAL '20 seconds' PRECEDING AND CURRENT ROW) AS high FROM prices";
    rows_killed_at_every_step(Some(&hdfs()), select).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_a_deduplication() {
    let select = "SELECT DISTINCT ON (id % 40) id, ts, price FROM prices ORDER BY id % 40, ts, id";
    rows_killed_at_every_step(None, select).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_on_which_an_aggregates_argument_fails_is_a_dead_letter() {
    let select = "SELECT window_start, sum(CAST(note AS INT)) AS notes, count(*) AS n \
         FROM TUMBLE(prices, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end";
    let columns = "id BIGINT, ts TIMESTAMP, note STRING, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND";
    let job = TestJob::new(None, &JobText { columns, select, ..JobText::default() });
    let record = |id: usize, second: usize, note: &str| {
        format!(r#"{{"id":{id},"ts":"2024-01-01T00:{:02}:{:02}","note":"{note}"}}"#, second / 60, second % 60)
    };
    let note = |id: usize| if id % 7 == 3 { "many".to_owned() } else { id.to_string() };
    let all: Vec<String> = (0..40).map(|id| record(id, id, &note(id))).collect();
    send(&job.topic, 0, &all);
    // Late for a window that is closed by then: it is late once, though its batch is run twice.
    job.run();
    send(&job.topic, 0, &[record(40, 2, "1"), record(41, 41, "x"), record(42, 100, "1")]);
    job.run();
    let line = |start: usize| {
        let good = (start..start + 10).filter(|id| id % 7 != 3 && *id < 40);
        format!("2024-01-01T00:00:{start:02}.000,{},{}", good.clone().sum::<usize>(), good.count())
    };
    assert_eq!(job.lines().await, [0, 10, 20, 30].map(line));
    let late = Store::open(&job.output.replace("/data", "/data_late")).await.unwrap();
    assert_eq!(sorted_lines(visible_files(&late).await.values()).len(), 1);
    let dead = format!("SELECT reason, count(*) AS n FROM '{}_dead_letter' GROUP BY reason", job.output);
    let output = std::process::Command::new(crate::support::tidemill())
        .args(["query", "--format", "csv", &dead])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("'many'") && said.contains(",6") && said.contains("'x'"), "{said}");
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_those_of_a_batch_query_across_kill_9() {
    let select = "SELECT window_start, window_end, k, count(*) AS n, max(price) AS high FROM \
         SESSION((SELECT *, id % 3 AS k FROM prices) PARTITION BY k, DESCRIPTOR(ts), INTERVAL '7 seconds') \
         GROUP BY window_start, window_end, k";
    let job = TestJob::new(None, &JobText { source: ", maxOffsetsPerTrigger = '25'", ..text(select) });
    let mut all: Vec<String> =
        records(120).into_iter().enumerate().filter(|(id, _)| id % 11 < 7).map(|it| it.1).collect();
    all.push(record(999, 3000, 1.0));
    send(&job.topic, 0, &all);
    for step in ["staged:0", "prepared:1", "published:2", "committed:2", "staged:3"] {
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", step).output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{step}: {output:?}");
    }
    job.run();
    let batch = format!("SELECT * FROM ({select}) WHERE window_end < '2024-01-01T00:49:00'");
    let output = std::process::Command::new(crate::support::tidemill())
        .args(["query", "--format", "csv", "--job"])
        .arg(&job.file)
        .arg(&batch)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut expected: Vec<String> = text.lines().skip(1).map(|line| line.replace(":", "")).collect();
    expected.sort();
    let found = job.lines().await.iter().map(|line| line.replace(".000", "").replace(":", "")).collect::<Vec<_>>();
    assert!(expected.len() > 20, "{expected:?}");
    assert_eq!(found, expected);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}

/// The newest event of records, in seconds.
fn newest(records: &[String]) -> i64 {
    let second = |record: &String| {
        let json: serde_json::Value = serde_json::from_str(record).unwrap();
        let time = json["ts"].as_str().unwrap().to_owned();
        time[14..16].parse::<i64>().unwrap() * 60 + time[17..19].parse::<i64>().unwrap()
    };
    records.iter().map(second).max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_into_a_topic_are_exactly_once_and_wait_for_the_slowest_partition() {
    let job = TestJob::new(None, &JobText::default());
    let target = format!("{}-out", job.topic);
    create_topic(&job.topic, 2).await;
    create_topic(&target, 1).await;
    let sql = format!(
        "CREATE TABLE prices ({COLUMNS}) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{0}',
           subscribe = '{1}', startingOffsets = 'earliest', format = 'json', maxOffsetsPerTrigger = 40);
         CREATE TABLE candles WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{0}', topic = '{target}',
           checkpointLocation = '{2}');
         INSERT INTO candles SELECT CAST(window_start AS VARCHAR) || ' ' || CAST(count(*) AS VARCHAR) AS value
         FROM TUMBLE(prices, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end;",
        kafka(),
        job.topic,
        job.checkpoint()
    );
    std::fs::write(&job.file, sql).unwrap();
    // The second partition ends earlier: its newest event holds the watermark.
    let all = records(160);
    let (first, second) = (all.iter().step_by(2).cloned().collect::<Vec<_>>(), all[..120].iter().skip(1).step_by(2));
    let second: Vec<String> = second.cloned().collect();
    send(&job.topic, 0, &first);
    send(&job.topic, 1, &second);
    for crash in ["staged:0", "transaction:1", "prepared:2", "committed:3"] {
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", crash).output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{crash}: {output:?}");
    }
    job.run();
    let until = newest(&first).min(newest(&second)) - 5;
    let count = |line: &String| {
        let cells: Vec<&str> = line.split(',').collect();
        format!("{} {}", cells[0].trim_end_matches(".000"), cells[6])
    };
    let expected: Vec<String> = candles(&[first, second].concat(), until).iter().map(count).collect();
    assert!(expected.len() > 10);
    let sql = format!(
        "CREATE TABLE candles (value BINARY METADATA) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{}',
           subscribe = '{target}', format = 'raw');",
        kafka()
    );
    std::fs::write(&job.file, sql).unwrap();
    let select = "SELECT CAST(value AS VARCHAR) AS v FROM candles ORDER BY v";
    let mut query = std::process::Command::new(crate::support::tidemill());
    let output = query.args(["query", "--format", "csv", "--job"]).arg(&job.file).arg(select).output().unwrap();
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    let found: Vec<&str> = found.lines().skip(1).collect();
    assert_eq!(found, expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_aggregate_does_not_take_the_old_state() {
    let job = TestJob::new(None, &text(CANDLES));
    send(&job.topic, 0, &records(20));
    job.run();
    let changed = "SELECT window_start, window_end, first_value(price ORDER BY ts) AS open, max(price) AS high, \
         min(price) AS low, last_value(price ORDER BY ts) AS close, count(*) AS n \
         FROM TUMBLE(prices, ts, INTERVAL '20 seconds') GROUP BY window_start, window_end";
    job.write(&text(changed));
    let (code, said) = job.fails(&["--available-now"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("its state was made by") && said.contains("size 10 seconds"), "{said}");
    // What stands above the aggregate may change.
    let above = "SELECT window_start, window_end, first_value(price ORDER BY ts) AS open, max(price) AS high, \
         min(price) AS low, last_value(price ORDER BY ts) AS close, count(*) AS n \
         FROM TUMBLE(prices, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end HAVING count(*) > 1";
    job.write(&text(above));
    send(&job.topic, 0, &records(60)[20..]);
    job.run();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_cannot_answer_is_refused_with_the_way_out() {
    for (select, expected) in [
        ("SELECT count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '10 seconds')", "not grouped by the window"),
        ("SELECT price, count(*) AS n FROM prices GROUP BY price", "an aggregate"),
        (
            "SELECT window_start, n, sum(n) OVER (ORDER BY window_start) AS total FROM \
             (SELECT window_start, window_end, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '10 seconds') \
             GROUP BY window_start, window_end)",
            "has no bound",
        ),
    ] {
        let job = TestJob::new(None, &JobText { select, ..text(CANDLES) });
        let (code, said) = job.fails(&["--dry-run"]);
        assert!(code == 2 && said.contains(expected) && said.contains("help:"), "{code} {said}");
    }
    let job = TestJob::new(None, &JobText { columns: "id BIGINT, ts TIMESTAMP, price DOUBLE", ..text(CANDLES) });
    let (_, said) = job.fails(&["--dry-run"]);
    assert!(said.contains("has no WATERMARK"), "{said}");
}
