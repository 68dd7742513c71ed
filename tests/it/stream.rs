//! The streaming job, from the real Kafka to the real HDFS, by the real binary.

use serde_json::Value;
use tidemill::store::Store;

use crate::support::{
    hdfs,
    job::{JobText, TestJob, prices, send, visible_files},
    kafka,
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

#[tokio::test(flavor = "multi_thread")]
async fn the_same_job_writes_to_s3_and_survives_kill_9() {
    let server = crate::store::S3Server::start().await;
    let text = JobText { source: ", maxOffsetsPerTrigger = 100", ..JobText::default() };
    let job = TestJob::new(Some("s3://bucket/jobs"), &text);
    create_topic(&job.topic, 1).await;
    let (records, lines) = prices(0..500);
    send(&job.topic, 0, &records);
    let run = |crash: &str| {
        let mut command = job.command(&["--available-now"]);
        command.envs(server.options().aws).env("TIDEMILL_CRASH", crash).output().unwrap()
    };
    for crash in ["staged:0", "prepared:1", "publishing:2", "logged:3"] {
        let output = run(crash);
        assert!(!output.status.success(), "{crash}");
    }
    let output = run("");
    assert!(output.status.success(), "{}", string(&output.stderr));
    let store = Store::open_with(&job.output, &server.options()).await.unwrap();
    let mut found: Vec<String> = visible_files(&store)
        .await
        .values()
        .flat_map(|bytes| string(bytes).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    found.sort();
    assert_eq!(found, lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_to_kafka_is_exactly_once_across_kill_9() {
    let job = TestJob::new(None, &JobText::default());
    let target = format!("{}-out", job.topic);
    create_topic(&job.topic, 1).await;
    create_topic(&target, 1).await;
    let sql = format!(
        "CREATE TABLE prices (id BIGINT, price DOUBLE) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{0}',
           subscribe = '{1}', startingOffsets = 'earliest', format = 'json', maxOffsetsPerTrigger = 100);
         CREATE TABLE copies WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{0}', topic = '{target}',
           checkpointLocation = '{2}');
         INSERT INTO copies SELECT CAST(id AS VARCHAR) AS value FROM prices WHERE id <> 7;",
        kafka(),
        job.topic,
        job.checkpoint()
    );
    std::fs::write(&job.file, sql).unwrap();
    send(&job.topic, 0, &prices(0..400).0);
    for crash in ["staged:0", "transaction:1", "prepared:2", "committed:3"] {
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", crash).output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{crash}: {output:?}");
    }
    job.run();
    let sql = format!(
        "CREATE TABLE copies (value BINARY METADATA) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{}',
           subscribe = '{target}', format = 'raw');",
        kafka()
    );
    std::fs::write(&job.file, sql).unwrap();
    let select = "SELECT count(*) AS n, count(DISTINCT value) AS d, min(CAST(value AS VARCHAR)) AS first FROM copies";
    let mut query = std::process::Command::new(crate::support::tidemill());
    let output = query.args(["query", "--format", "csv", "--job"]).arg(&job.file).arg(select).output().unwrap();
    assert_eq!(string(&output.stdout), "n,d,first\n399,399,0\n", "{}", string(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn takes_over_from_spark_where_it_stopped() {
    let job = TestJob::new(None, &JobText::default());
    create_topic(&job.topic, 1).await;
    let (records, lines) = prices(0..25);
    send(&job.topic, 0, &records);
    // What Spark 3.5 leaves after a batch of ten records.
    let write = |path: String, content: String| {
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    let (checkpoint, output, topic) = (job.checkpoint(), &job.output, &job.topic);
    let data: String = (0..10).map(|id| format!("{id},{id}.5\n")).collect();
    let file = format!("{output}/part-00000-3f584345-25bd-46ca-bba9-322fb20734a2-c000.csv");
    let entry = format!(
        "v1\n{{\"path\":\"file://{file}\",\"size\":{},\"isDir\":false,\"modificationTime\":1795226946197,\
         \"blockReplication\":1,\"blockSize\":33554432,\"action\":\"add\"}}",
        data.len()
    );
    write(file, data);
    write(format!("{output}/_spark_metadata/0"), entry);
    write(format!("{checkpoint}/metadata"), "{\"id\":\"ef782226-b59b-4283-a161-d0b6838ef648\"}".to_owned());
    write(format!("{checkpoint}/sources/0/0"), format!("\0v1\n{{\"{topic}\":{{\"0\":0}}}}"));
    let header = "{\"batchWatermarkMs\":0,\"batchTimestampMs\":1795225122869,\"conf\":{}}";
    write(format!("{checkpoint}/offsets/0"), format!("v1\n{header}\n{{\"{topic}\":{{\"0\":10}}}}"));
    write(format!("{checkpoint}/commits/0"), "v1\n{\"nextBatchWatermarkMs\":0}".to_owned());
    job.run();
    assert_eq!(job.lines().await, lines);
    assert_eq!(job.logged_lines().await, lines);
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains("15 written beside 10 that Spark wrote"), "{verdict}");
    let metadata = std::fs::read_to_string(format!("{checkpoint}/metadata")).unwrap();
    assert!(metadata.contains("ef782226"), "the query's identity stays");
}
