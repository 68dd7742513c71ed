//! Late rows on the real Kafka: what their windows would be with them, and that the output stays as it is.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use tidemill::store::Store;

use crate::support::{
    hdfs,
    job::{JobText, TestJob, send, sorted_lines, visible_files},
    kafka::delete_records,
    tidemill,
};

const COLUMNS: &str =
    "id BIGINT, ts TIMESTAMP, symbol STRING, price DOUBLE, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND";

const CANDLES: &str = "SELECT window_start AS \"from\", window_end AS \"to\", symbol, max(price) AS high, count(*) AS n \
     FROM TUMBLE(prices, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end, symbol";

fn text(select: &'static str) -> JobText<'static> {
    JobText { columns: COLUMNS, select, ..JobText::default() }
}

fn record(id: usize, second: usize, symbol: &str, price: usize) -> String {
    format!(
        r#"{{"id":{id},"ts":"2024-01-01T00:{:02}:{:02}","symbol":"{symbol}","price":{price}}}"#,
        second / 60,
        second % 60
    )
}

/// Records of 100 seconds, of which every eleventh comes 40 records late.
fn out_of_order() -> Vec<String> {
    let at = |id: usize| record(id, id, ["a", "b", "c"][id % 3], (id * 7919) % 100);
    let is_late = |id: &usize| id % 11 == 3;
    let mut all: Vec<String> = Vec::new();
    for id in 0..140 {
        if !is_late(&id) && id < 100 {
            all.push(at(id));
        }
        if id >= 40 && is_late(&(id - 40)) {
            all.push(at(id - 40));
        }
    }
    all.push(record(999, 200, "a", 1));
    all
}

fn late(job: &TestJob, command: &str, arguments: &[&str]) -> Output {
    Command::new(tidemill()).args(["late", command]).arg(&job.file).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

fn replay(job: &TestJob, arguments: &[&str]) -> Value {
    let output = late(job, "replay", &[&["--format", "json"], arguments].concat());
    assert!(output.status.success(), "{}", said(&output));
    let reports: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    reports[0].clone()
}

fn refused(job: &TestJob, arguments: &[&str], expected: &str) {
    let output = late(job, "replay", arguments);
    let said = said(&output);
    assert!(!output.status.success() && said.contains(expected), "{expected}: {said}");
}

/// The lines that a batch query over all records gives for the windows from `starts`.
fn batch(job: &TestJob, select: &str, starts: &[&str]) -> Vec<String> {
    let query = Command::new(tidemill())
        .args(["query", "--format", "csv", "--job"])
        .arg(&job.file)
        .arg(select)
        .output()
        .unwrap();
    let lines = String::from_utf8_lossy(&query.stdout).into_owned();
    let wanted = |line: &&str| starts.iter().any(|start| line.starts_with(start.trim_end_matches('Z')));
    let mut lines: Vec<String> = lines.lines().skip(1).filter(wanted).map(str::to_owned).collect();
    lines.sort();
    lines
}

fn starts(report: &Value) -> Vec<String> {
    report["windows"].as_array().unwrap().iter().map(|it| it["start"].as_str().unwrap().to_owned()).collect()
}

async fn corrected_is_what_a_batch_query_gives(root: Option<&str>, select: &'static str, sink: &'static str) {
    let job = TestJob::new(root, &JobText { source: ", maxOffsetsPerTrigger = '10'", sink, ..text(select) });
    send(&job.topic, 0, &out_of_order());
    job.run();
    let before = job.files().await;
    let directory = job.output.replace("/data", "/corrected");
    let report = replay(&job, &["--output", &directory]);
    let starts = starts(&report);
    assert!(starts.len() >= 5, "{report}");
    let store = Store::open(&directory).await.unwrap();
    let corrected = sorted_lines(visible_files(&store).await.values());
    let starts: Vec<&str> = starts.iter().map(String::as_str).collect();
    let expected = batch(&job, select, &starts);
    let plain: Vec<String> = corrected.iter().map(|line| line.replace(".000", "")).collect();
    assert_eq!(plain, expected);
    assert!(expected.len() >= 5, "{expected:?}");
    // The list beside them is the report, and names files that hold what is replaced.
    let list = store.read("_replaced.json").await.unwrap().unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list, report);
    let written: u64 = report["windows"].as_array().unwrap().iter().map(|it| it["rowsWritten"].as_u64().unwrap()).sum();
    let replaced = report["replaces"].as_array().unwrap();
    assert_eq!(replaced.iter().map(|it| it["rowsOfWindows"].as_u64().unwrap()).sum::<u64>(), written);
    assert!(replaced.iter().all(|it| before.contains_key(it["path"].as_str().unwrap())), "{report}");
    // The output has not changed in a byte, and verify is content.
    assert_eq!(job.files().await, before);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn corrected_rows_are_those_of_a_batch_query() {
    corrected_is_what_a_batch_query_gives(None, CANDLES, "format = 'csv'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn corrected_rows_of_hops_on_hdfs() {
    let select = "SELECT window_start, window_end, sum(CAST(price AS BIGINT)) AS total, count(*) AS n FROM \
         HOP(prices, ts, INTERVAL '10 seconds', INTERVAL '20 seconds') GROUP BY window_start, window_end";
    corrected_is_what_a_batch_query_gives(Some(&hdfs()), select, "format = 'csv'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_over_windows_are_computed_again() {
    let select = "SELECT window_start, window_end, max(n) AS most, sum(n) AS n FROM TUMBLE((SELECT window_start, \
         window_end, window_time, symbol, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '5 seconds') \
         GROUP BY window_start, window_end, window_time, symbol), window_time, INTERVAL '10 seconds') \
         GROUP BY window_start, window_end";
    corrected_is_what_a_batch_query_gives(None, select, "format = 'csv'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_was_written_and_what_it_is_now() {
    for format in ["format = 'csv'", "format = 'parquet'", "format = 'json'"] {
        let job = TestJob::new(None, &JobText { sink: format, ..text(CANDLES) });
        // The second is the last of its window.
        let last = r#"{"id":2,"ts":"2024-01-01T00:00:09.999999","symbol":"b","price":10}"#.to_owned();
        send(&job.topic, 0, &[record(1, 1, "a", 10), last, record(3, 100, "a", 20)]);
        job.run();
        let future = r#"{"id":7,"ts":"2999-01-01T00:00:00","symbol":"a","price":1}"#.to_owned();
        let without = r#"{"id":6,"symbol":"a","price":1}"#.to_owned();
        send(&job.topic, 0, &[record(4, 3, "a", 30), record(5, 4, "c", 40), future, without]);
        job.run();
        let report = replay(&job, &[]);
        let windows = report["windows"].as_array().unwrap();
        // Those from the future and without a time belong to no window that is open either.
        assert!(windows.len() == 1 && report["open"].as_array().unwrap().is_empty(), "{report}");
        let window = &windows[0];
        assert_eq!(
            (&window["lateRows"], &window["rowsWritten"], &window["rowsNow"]),
            (&2.into(), &2.into(), &3.into())
        );
        let changes: BTreeMap<&str, (&str, usize)> = window["changes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| {
                let key = it["key"]["symbol"].as_str().unwrap();
                (key, (it["kind"].as_str().unwrap(), it["columns"].as_array().unwrap().len()))
            })
            .collect();
        assert_eq!(changes, BTreeMap::from([("a", ("changed", 2)), ("c", ("added", 2))]), "{report}");
        assert_eq!(report["replaces"].as_array().unwrap().len(), 1, "{report}");
        let table = said(&late(&job, "replay", &[]));
        assert!(table.contains("symbol=a") && table.contains("nothing was written: --output DIR"), "{table}");
        let shown = said(&late(&job, "show", &["--format", "csv"]));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 4, "{shown}");
        assert!(lines[1].contains("2999") && shown.contains("NULL") && shown.contains(",2,85000"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_is_refused() {
    let job = TestJob::new(None, &text(CANDLES));
    send(&job.topic, 0, &[record(1, 1, "a", 10), record(2, 100, "a", 20)]);
    refused(&job, &[], "no batch was committed yet");
    job.run();
    let output = late(&job, "replay", &[]);
    assert!(output.status.success() && said(&output).contains("nothing is to be replayed"), "{}", said(&output));
    send(&job.topic, 0, &[record(3, 1, "a", 10)]);
    job.run();
    refused(&job, &["--table", "storred"], "did you mean stored?");
    refused(&job, &["--output", &job.output], "what is visible in the output never changes");
    refused(&job, &["--output", &format!("{}/sub", job.output)], "of the job");
    let full = job.directory.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("mine.csv"), "1").unwrap();
    refused(&job, &["--output", full.to_str().unwrap()], "is there already");
    assert_eq!(std::fs::read_dir(&full).unwrap().count(), 1);
    for (select, expected) in [
        ("SELECT id, price FROM prices", "has windows, so no row can be late"),
        (
            "SELECT window_start, window_end, count(*) AS n FROM SESSION(prices, ts, INTERVAL '5 seconds') \
             GROUP BY window_start, window_end",
            "session windows",
        ),
        ("SELECT id, lag(price) OVER (PARTITION BY symbol ORDER BY ts) AS before FROM prices", "OVER or DISTINCT"),
        (
            "SELECT window_start, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '10 seconds') \
             GROUP BY window_start, window_end",
            "does not give window_end",
        ),
    ] {
        let job = TestJob::new(None, &text(select));
        refused(&job, &[], expected);
    }
}

/// Late files that are there already, of a batch that is not committed, do not count; nor does what the job has not read.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_committed_counts() {
    let job = TestJob::new(None, &text(CANDLES));
    send(&job.topic, 0, &[record(1, 1, "a", 10), record(2, 100, "a", 20)]);
    job.run();
    send(&job.topic, 0, &[record(3, 2, "a", 30)]);
    // The batch that closed the windows was the second.
    let killed = job.command(&["--available-now"]).env("TIDEMILL_CRASH", "logged:2").output().unwrap();
    assert_eq!(killed.status.signal(), Some(9), "{}", said(&killed));
    let late_files = visible_files(&Store::open(&job.output.replace("/data", "/data_late")).await.unwrap()).await;
    assert_eq!(late_files.len(), 1, "the late row is there");
    assert!(starts(&replay(&job, &[])).is_empty(), "and its batch is not committed");
    job.run();
    send(&job.topic, 0, &[record(4, 3, "a", 90)]);
    let report = replay(&job, &[]);
    assert_eq!(starts(&report), ["2024-01-01T00:00:00Z"]);
    let columns = &report["windows"][0]["changes"][0]["columns"];
    assert_eq!((&columns[0]["now"], &columns[1]["now"]), (&"30.0".into(), &"2".into()), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_whose_records_kafka_has_deleted_are_named_and_newer_ones_computed() {
    let columns = "id BIGINT, ts TIMESTAMP, symbol STRING, price DOUBLE, WATERMARK FOR ts AS ts - INTERVAL '0' SECOND";
    let select = "SELECT window_start, window_end, symbol, max(price) AS high, count(*) AS n \
         FROM TUMBLE(prices, ts, INTERVAL '1 second') GROUP BY window_start, window_end, symbol";
    let job =
        TestJob::new(None, &JobText { columns, source: ", maxFutureSkew = '1 second'", select, ..JobText::default() });
    send(&job.topic, 0, &[record(1, 1, "a", 10), record(2, 1, "b", 10), record(3, 100, "a", 20)]);
    job.run();
    send(&job.topic, 0, &[record(4, 1, "a", 30)]);
    job.run();
    let whole = replay(&job, &[]);
    assert_eq!(starts(&whole), ["2024-01-01T00:00:01Z"]);
    // Nothing of the window is left: no other windows have late rows.
    delete_records(&job.topic, 0, 4).await;
    refused(&job, &[], "offsets 0 to 4 are deleted: 1 windows with late rows may have had records there");
    let directory = job.output.replace("/data", "/corrected");
    refused(&job, &["--output", &directory], "offsets 0 to 4 are deleted");
    assert!(visible_files(&Store::open(&directory).await.unwrap()).await.is_empty());

    // From this batch on nothing is read of what is gone. What starts later than that by the clock, and maxFutureSkew
    // besides, had all its records behind.
    send(&job.topic, 0, &[record(5, 101, "a", 1)]);
    job.run();
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let second = chrono::Utc::now().timestamp();
    let at = |id: i64, ms: i64, symbol: &str| {
        let time = chrono::DateTime::from_timestamp_millis(second * 1_000 + ms).unwrap();
        format!(r#"{{"id":{id},"ts":"{}","symbol":"{symbol}","price":{id}}}"#, time.format("%Y-%m-%dT%H:%M:%S%.3f"))
    };
    send(&job.topic, 0, &[at(6, 100, "a"), at(7, 200, "b"), at(8, 1_000, "a")]);
    job.run();
    send(&job.topic, 0, &[at(9, 300, "b")]);
    job.run();
    let report = replay(&job, &["--output", &directory]);
    assert_eq!(report["lost"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["lost"][0]["start"], "2024-01-01T00:00:01Z", "{report}");
    assert_eq!(report["deleted"], serde_json::json!([format!("{}-0 offsets 0 to 4 are deleted", job.topic)]));
    let windows = report["windows"].as_array().unwrap();
    assert!(windows.len() == 1 && windows[0]["lateRows"] == 1 && windows[0]["rowsNow"] == 2, "{report}");
    assert_eq!(windows[0]["changes"][0]["columns"][0]["now"], "9.0", "{report}");
    let corrected = sorted_lines(visible_files(&Store::open(&directory).await.unwrap()).await.values());
    let ends: Vec<&str> =
        corrected.iter().map(|line| line.split_once(".000,").unwrap().1).map(|it| &it[24..]).collect();
    assert_eq!(ends, ["a,6.0,1", "b,9.0,2"], "{corrected:?}");
    let table = said(&late(&job, "replay", &[]));
    assert!(table.contains("1 windows cannot be computed again") && table.contains("offsets 0 to 4"), "{table}");

    // A topic that was made again is another one: its offsets say nothing.
    crate::support::kafka::delete_topic(&job.topic).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    crate::support::kafka::create_topic(&job.topic, 1).await;
    refused(&job, &[], "the topic was deleted and created again");
}

async fn killed_while_it_writes(root: Option<&str>) {
    let sink = "format = 'csv', maxRecordsPerFile = '4'";
    let job = TestJob::new(root, &JobText { source: ", maxOffsetsPerTrigger = '10'", sink, ..text(CANDLES) });
    send(&job.topic, 0, &out_of_order());
    job.run();
    let before = job.files().await;
    let expected = replay(&job, &[]);
    for step in ["corrected:0", "corrected:1", "corrected:3"] {
        let directory = job.output.replace("/data", &format!("/{}", step.replace(':', "-")));
        let mut command = Command::new(tidemill());
        command.args(["late", "replay"]).arg(&job.file).args(["--output", &directory]).env("TIDEMILL_CRASH", step);
        let output = command.output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{step}: {}", said(&output));
        // What is there is not complete, and says so: the list is missing. No line is torn.
        let store = Store::open(&directory).await.unwrap();
        assert_eq!(store.read("_replaced.json").await.unwrap(), None, "{step}");
        let files = visible_files(&store).await;
        assert_eq!(files.len().to_string(), step[step.len() - 1..], "{step}");
        assert!(files.values().all(|bytes| bytes.ends_with(b"\n")), "{step}");
        // It is not mixed with the files of another try.
        refused(&job, &["--output", &directory], "is there already");
        assert_eq!(visible_files(&store).await, files, "{step}");
        assert_eq!(job.files().await, before, "{step}: the output has changed");
    }
    let directory = job.output.replace("/data", "/corrected");
    let mut report = replay(&job, &["--output", &directory]);
    let corrected = report["corrected"].take();
    assert_eq!(report, expected);
    let files = visible_files(&Store::open(&directory).await.unwrap()).await;
    let named: Vec<&str> = corrected["files"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert!(named.len() > 3 && named.iter().all(|path| files.contains_key(*path)), "{corrected}");
    assert_eq!(corrected["rows"], sorted_lines(files.values()).len());
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_leaves_no_complete_directory_on_a_local_disk() {
    killed_while_it_writes(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_leaves_no_complete_directory_on_hdfs() {
    killed_while_it_writes(Some(&hdfs())).await;
}
