//! What a user sees of a query with windows: progress, `explain`, `state`, `verify`, `--dry-run`; on the real Kafka.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{
    job::{JobText, TestJob, send},
    kafka::create_topic,
    signal, tidemill,
};

const COLUMNS: &str = "ts TIMESTAMP, price DOUBLE, WATERMARK FOR ts AS ts - INTERVAL '10' SECOND";
const SELECT: &str = "SELECT window_start, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '1 minute') WHERE price >= 0 \
                      GROUP BY window_start, window_end";

fn windowed(source: &'static str) -> JobText<'static> {
    JobText { columns: COLUMNS, source, sink: "format = 'csv'", select: SELECT }
}

/// Records at seconds after midnight.
fn at(seconds: &[u32]) -> Vec<String> {
    let record = |second: &u32| {
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{{\"ts\": \"2025-01-01T{hour:02}:{minute:02}:{second:02}\", \"price\": 1.0}}")
    };
    seconds.iter().map(record).collect()
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(job: &TestJob, arguments: &[&str]) -> String {
    let (command, rest) = arguments.split_first().unwrap();
    let output: Output = Command::new(tidemill()).arg(command).arg(&job.file).args(rest).output().unwrap();
    assert!(output.status.success(), "{}", string(&output.stderr));
    string(&output.stdout)
}

/// The one query of `tidemill explain --format json`.
fn explain(job: &TestJob) -> Value {
    let answers: Value = serde_json::from_str(&run(job, &["explain", "--format", "json"])).unwrap();
    assert_eq!(answers.as_array().unwrap().len(), 1);
    answers[0].clone()
}

fn reason(situation: &Value) -> &str {
    situation["answer"]["reason"].as_str().unwrap()
}

fn sentence(situation: &Value) -> &str {
    situation["answer"]["sentence"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_partition_is_found_and_the_state_is_shown() {
    let job = TestJob::new(None, &windowed(", idleTimeout = '1 hour'"));
    create_topic(&job.topic, 3).await;
    let empty = explain(&job);
    assert_eq!(reason(&empty), "noRecords");
    send(&job.topic, 0, &at(&[1, 2, 65, 130]));
    send(&job.topic, 1, &at(&[3]));
    let waiting = explain(&job);
    assert_eq!((reason(&waiting), &waiting["waiting"]), ("recordsWaiting", &Value::from(5)), "{waiting}");
    assert!(sentence(&waiting).contains("no batch has been run"), "{waiting}");
    job.run();
    let held = explain(&job);
    assert_eq!(reason(&held), "partitionHolds", "{held}");
    let holder = format!("{}-1", job.topic);
    assert_eq!(held["eventTime"]["heldBy"], Value::from(holder.as_str()));
    assert!(sentence(&held).contains(&format!("{holder} holds it")), "{held}");
    assert!(sentence(&held).contains("at or after 2025-01-01T00:01:10Z"), "{held}");
    assert!(held["answer"]["hint"].as_str().unwrap().contains("smaller idleTimeout"), "{held}");
    let partitions = held["partitions"].as_array().unwrap();
    let holds: Vec<bool> = partitions.iter().map(|it| it["holdsWatermark"].as_bool().unwrap()).collect();
    assert_eq!(holds, [false, true, false]);
    assert_eq!(partitions[0]["newestEvent"], "2025-01-01T00:02:10Z");
    let state: Value = serde_json::from_str(&run(&job, &["state", "--format", "json"])).unwrap();
    let windows = &state[0]["windows"];
    let aggregate = &windows["aggregates"][0];
    assert_eq!((&aggregate["open"], &aggregate["inputRows"]), (&Value::from(3), &Value::from(5)), "{state}");
    assert_eq!(aggregate["first"]["end"], "2025-01-01T00:01:00Z");
    assert_eq!(aggregate["last"]["start"], "2025-01-01T00:02:00Z");
    assert_eq!(windows["nextRows"]["watermark"], "2025-01-01T00:01:00Z");
    let table = run(&job, &["state"]);
    assert!(table.contains("5 rows of input") && table.contains("when the watermark reaches"), "{table}");
    // What it said closes the window.
    send(&job.topic, 1, &at(&[69]));
    job.run();
    assert!(job.lines().await.is_empty());
    send(&job.topic, 1, &at(&[70]));
    job.run();
    assert_eq!(job.lines().await, ["2025-01-01T00:00:00.000,3"]);
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains("state: 4 rows of input in "), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_are_quiet_the_option_that_helps_is_named() {
    let job = TestJob::new(None, &windowed(", idleTimeout = '1 second'"));
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &at(&[1, 30]));
    job.run();
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    let hold = explain(&job);
    assert_eq!((reason(&hold), &hold["eventTime"]["heldBy"]), ("allIdle", &Value::from("idle")), "{hold}");
    assert!(hold["answer"]["hint"].as_str().unwrap().contains("idleWatermark = 'advance'"), "{hold}");
    job.write(&windowed(", idleTimeout = '1 second', idleWatermark = 'advance'"));
    let advances = explain(&job);
    assert_eq!(reason(&advances), "wallClock", "{advances}");
    assert!(sentence(&advances).contains("a running job writes it in"), "{advances}");
    assert!(run(&job, &["explain"]).contains("goes on with the wall clock"));
}

#[tokio::test(flavor = "multi_thread")]
async fn late_rows_are_counted_in_progress_and_verified() {
    let job = TestJob::new(None, &windowed(", idleTimeout = '1 hour'"));
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &at(&[1, 30, 300]));
    job.run();
    assert_eq!(job.lines().await, ["2025-01-01T00:00:00.000,2"]);
    send(&job.topic, 0, &at(&[2, 3, 299]));
    let output = job.command(&["--available-now", "--progress", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", string(&output.stderr));
    let progress: Value = serde_json::from_str(string(&output.stdout).lines().next().unwrap()).unwrap();
    let times = &progress["eventTime"];
    assert_eq!(times["watermark"], "2025-01-01T00:04:50.000Z");
    assert_eq!(
        (&times["min"], &times["max"]),
        (&"2025-01-01T00:00:02.000Z".into(), &"2025-01-01T00:04:59.000Z".into())
    );
    let state = &progress["stateOperators"][0];
    assert_eq!((&state["numRowsDroppedByWatermark"], &state["numRowsUpdated"]), (&2.into(), &1.into()), "{progress}");
    assert!(string(&output.stderr).contains("late 2 + bad 0 + held 4; 2 in state"), "{}", string(&output.stderr));
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains("late: 2 kept in ") && verdict.contains("released 2 = written 1"), "{verdict}");
    let text = run(&job, &["explain"]);
    assert!(
        text.contains("late rows      2 so far, in ") && text.contains("2 panes open, 2 rows for 2 rows"),
        "{text}"
    );
    // A late file that is gone, and a file of state that was changed.
    let late = std::fs::read_dir(format!("{}_late", job.output)).unwrap().map(|entry| entry.unwrap().path());
    let late: Vec<_> = late.filter(|path| path.extension().is_some_and(|it| it == "csv")).collect();
    assert_eq!(late.len(), 1);
    std::fs::remove_file(&late[0]).unwrap();
    let (ok, verdict) = job.verify();
    assert!(!ok && verdict.contains("2 missing"), "{verdict}");
    let mut state =
        std::fs::read_dir(format!("{}/state", job.checkpoint())).unwrap().map(|entry| entry.unwrap().path());
    let state = state.find(|path| path.extension().is_some_and(|it| it == "arrow")).unwrap();
    let mut bytes = std::fs::read(&state).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&state, bytes).unwrap();
    let (ok, verdict) = job.verify();
    assert!(!ok && verdict.contains("its checksum is wrong"), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_several_windows_are_in_the_ledgers_sentence() {
    let select = "SELECT window_start, count(*) AS n FROM HOP(prices, ts, INTERVAL '30 seconds', INTERVAL '1 minute') \
                  GROUP BY window_start, window_end";
    let job = TestJob::new(None, &JobText { select, ..windowed(", idleTimeout = '1 hour'") });
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &at(&[1, 2, 40, 300]));
    let output = job.run();
    let ledger = "consumed 4 + expanded 0 + released 3 = written 3 + folded 0 + filtered 0 + late 0 + bad 0 + held 4; 1 in state";
    assert!(string(&output.stderr).contains(ledger), "{}", string(&output.stderr));
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains(ledger) && verdict.contains("1 in state"), "{verdict}");
    let dry = job.command(&["--dry-run"]).output().unwrap();
    let text = string(&dry.stdout);
    for expected in [
        "event time ts\n  the watermark is 10 seconds behind",
        "a partition is idle after 1 hour without events (idleTimeout); when all are, the watermark stays",
        "aggregate 0: HOP(size 1 minute, slide 30 seconds) grouped by ",
        "a row for each key and pane of 30 seconds",
        "/data_late\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_while_the_job_runs() {
    let job = TestJob::new(None, &windowed(", idleTimeout = '1 hour'"));
    create_topic(&job.topic, 1).await;
    let child = job.command(&["--progress", "none"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    for minute in 0..20 {
        send(&job.topic, 0, &at(&[minute * 60, minute * 60 + 30]));
        let situation = explain(&job);
        let known = ["noRecords", "recordsWaiting", "underWay", "nextBatch", "partitionHolds"];
        assert!(known.contains(&reason(&situation)), "{situation}");
        run(&job, &["state"]);
    }
    for _ in 0..100 {
        if job.lines().await.len() == 19 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let situation = explain(&job);
    assert_eq!(reason(&situation), "partitionHolds", "{situation}");
    assert!(situation["answer"]["hint"].as_str().unwrap().contains("idleWatermark"), "{situation}");
    let (ok, verdict) = job.verify();
    assert!(ok, "{verdict}");
    signal(&child, "TERM");
    assert!(child.wait_with_output().unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_windows_it_says_what_became_of_the_records() {
    let job =
        TestJob::new(None, &JobText { select: "SELECT id, price FROM prices WHERE id > 10", ..JobText::default() });
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &["{\"id\": 1}".to_owned(), "{\"id\": 2}".to_owned()]);
    job.run();
    let filtered = explain(&job);
    assert_eq!(reason(&filtered), "allFiltered", "{filtered}");
    assert!(filtered["eventTime"].is_null() && filtered["windows"].is_null());
    send(&job.topic, 0, &["{".to_owned()]);
    job.run();
    assert_eq!(reason(&explain(&job)), "allBad");
    send(&job.topic, 0, &["{\"id\": 11, \"price\": 1.0}".to_owned()]);
    assert_eq!(reason(&explain(&job)), "recordsWaiting");
    job.run();
    assert_eq!(reason(&explain(&job)), "nothingNew");
    assert!(run(&job, &["state"]).contains("state          none"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_prepared_keeps_its_state_when_another_run_finishes_it() {
    let job = TestJob::new(None, &windowed(", idleTimeout = '1 hour'"));
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &at(&[1, 2]));
    let crash = |at: &str| job.command(&["--available-now"]).env("TIDEMILL_CRASH", at).output().unwrap();
    assert!(!crash("prepared:0").status.success());
    assert_eq!(reason(&explain(&job)), "underWay");
    assert!(run(&job, &["state"]).contains("none was committed yet"));
    job.run();
    send(&job.topic, 0, &at(&[3, 70, 71]));
    assert!(!crash("published:2").status.success());
    job.run();
    assert_eq!(job.lines().await, ["2025-01-01T00:00:00.000,3"]);
    let (ok, verdict) = job.verify();
    assert!(ok, "{verdict}");
}
