//! The streaming job, from the real Kafka to the real HDFS, by the real binary.

use serde_json::Value;

use crate::support::{
    hdfs,
    job::{JobText, TestJob, prices, send},
    kafka::create_topic,
    signal,
};

fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_to_csv_on_hdfs_and_again_after_more_records() {
    let job = TestJob::new(Some(&hdfs()), &JobText::default());
    create_topic(&job.topic, 2).await;
    let (first, mut lines) = prices(0..1000);
    send(&job.topic, 0, &first);
    job.run();
    assert_eq!(job.lines().await, lines);
    let (second, more) = prices(1000..1500);
    send(&job.topic, 1, &second);
    job.run();
    lines.extend(more);
    lines.sort();
    assert_eq!(job.lines().await, lines);
    assert_eq!(job.logged_lines().await, lines);
    let (ok, verdict) = job.verify();
    assert!(ok, "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn filtered_and_bad_records_are_accounted_for() {
    let text = JobText { select: "SELECT id, price FROM prices WHERE id >= 10", ..JobText::default() };
    let job = TestJob::new(None, &text);
    create_topic(&job.topic, 1).await;
    let (mut records, _) = prices(0..100);
    for bad in ["", "{", "{\"id\": \"x\"}", "[1]", "{\"id\": 1} trailing"] {
        records.insert(50, bad.to_owned());
    }
    send(&job.topic, 0, &records);
    let output = job.command(&["--available-now", "--progress", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", string(&output.stderr));
    let progress: Value = serde_json::from_str(string(&output.stdout).lines().last().unwrap()).unwrap();
    let ledger = &progress["ledger"]["total"];
    assert_eq!((&ledger["consumed"], &ledger["bad"]), (&Value::from(105), &Value::from(5)));
    assert_eq!((&ledger["written"], &ledger["filtered"]), (&Value::from(90), &Value::from(10)));
    assert_eq!(job.lines().await, { prices(10..100).1 });
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains("5 kept"), "{verdict}");
    assert!(string(&output.stderr).contains("consumed 105 = written 90 + filtered 10 + bad 5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_missing_double_and_changed_files() {
    let job = TestJob::new(None, &JobText::default());
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &prices(0..10).0);
    job.run();
    let (path, bytes) = job.files().await.pop_first().unwrap();
    let on_disk = std::path::Path::new(&job.output).join(&path);
    std::fs::write(on_disk.with_file_name("part-copy.csv"), &bytes).unwrap();
    let (ok, verdict) = job.verify();
    assert!(!ok && verdict.contains("part-copy.csv is in no log") && verdict.contains("10 too many"), "{verdict}");
    std::fs::remove_file(on_disk.with_file_name("part-copy.csv")).unwrap();
    std::fs::remove_file(&on_disk).unwrap();
    let (ok, verdict) = job.verify();
    assert!(!ok && verdict.contains("is missing") && verdict.contains("10 missing"), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn max_offsets_per_trigger_cuts_batches_and_parquet_is_partitioned() {
    let text = JobText {
        source: ", maxOffsetsPerTrigger = 100",
        sink: "format = 'parquet', partitionBy = 'parity'",
        select: "SELECT id, price, id % 2 AS parity FROM prices",
        ..JobText::default()
    };
    let job = TestJob::new(Some(&hdfs()), &text);
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &prices(0..350).0);
    let output = job.command(&["--available-now", "--progress", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", string(&output.stderr));
    assert_eq!(string(&output.stdout).lines().count(), 4);
    let files = job.files().await;
    assert_eq!(files.len(), 8);
    assert!(files.keys().all(|path| path.starts_with("parity=0/") || path.starts_with("parity=1/")), "{files:?}");
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains("350 rows in 8 files"), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_finishes_the_batch_and_stops_clean() {
    let job = TestJob::new(None, &JobText::default());
    create_topic(&job.topic, 1).await;
    let (records, lines) = prices(0..5000);
    send(&job.topic, 0, &records);
    let child = job.command(&["--progress", "none"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while job.lines().await.len() < lines.len() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    signal(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(string(&output.stderr).contains("consumed 5000 = written 5000"), "{}", string(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_checks_everything_and_writes_nothing() {
    let job = TestJob::new(None, &JobText::default());
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &prices(0..7).0);
    let output = job.command(&["--dry-run"]).output().unwrap();
    let text = string(&output.stdout);
    assert!(output.status.success(), "{}", string(&output.stderr));
    for expected in
        ["7 records waiting", "|-- price: double (nullable = true)", "decodes id, price", "nothing was written"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!std::path::Path::new(&job.output).exists());
    assert!(!std::path::Path::new(&job.checkpoint()).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn now_is_the_batch_time_and_kafka_columns_can_be_selected() {
    let text = JobText {
        columns: "id BIGINT, part INT METADATA FROM 'partition', off BIGINT METADATA FROM 'offset'",
        select: "SELECT id, part, off, now() IS NOT NULL AS timed FROM prices",
        ..JobText::default()
    };
    let job = TestJob::new(None, &text);
    create_topic(&job.topic, 2).await;
    send(&job.topic, 1, &prices(5..7).0);
    job.run();
    assert_eq!(job.lines().await, ["5,1,0,true", "6,1,1,true"]);
}
