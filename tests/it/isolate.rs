//! Expressions that fail on some records: those become dead letters, the others become rows, and the job goes on.

use serde_json::Value;

use crate::support::{
    hdfs,
    job::{JobText, TestJob, send},
    kafka,
    kafka::{create_topic, produce},
    tidemill,
};

/// `{"id": 7, "text": "7"}`, and every tenth with a text that is no number.
fn texts(ids: std::ops::Range<u64>) -> Vec<String> {
    let text = |id: u64| if id % 10 == 3 { format!("x{id}") } else { id.to_string() };
    ids.map(|id| format!("{{\"id\": {id}, \"text\": \"{}\"}}", text(id))).collect()
}

fn good(ids: std::ops::Range<u64>) -> Vec<String> {
    let mut lines: Vec<String> = ids.filter(|id| id % 10 != 3).map(|id| format!("{id},{id}")).collect();
    lines.sort();
    lines
}

const CAST: JobText<'_> = JobText {
    columns: "id BIGINT, text STRING",
    source: ", maxOffsetsPerTrigger = 1000",
    sink: "format = 'csv'",
    select: "SELECT id, CAST(text AS INT) AS number FROM prices",
};

fn query(select: &str) -> String {
    let output = std::process::Command::new(tidemill()).args(["query", "--format", "csv", select]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ledger(job: &TestJob) -> Value {
    let output = job.command(&["--available-now", "--progress", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let progress: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    progress["ledger"]["total"].clone()
}

async fn no_temporaries(job: &TestJob) {
    for store in
        [job.store().await, tidemill::store::Store::open(&format!("{}_dead_letter", job.output)).await.unwrap()]
    {
        let left = store.list_all("").await.unwrap();
        assert!(!left.iter().any(|entry| entry.path.ends_with(".tmp")), "temporaries are left: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_cast_costs_only_its_own_record_and_keeps_its_bytes() {
    let job = TestJob::new(Some(&hdfs()), &JobText { sink: "format = 'parquet'", ..CAST });
    create_topic(&job.topic, 2).await;
    send(&job.topic, 0, &texts(0..20_000));
    let key = "{\"id\": 99999, \"text\": \"oops\"}";
    produce(&job.topic, 1, &[(Some("the key"), Some(key)), (None, Some("{")), (None, Some("{\"id\": 1}"))]);
    let ledger = ledger(&job);
    assert_eq!((&ledger["consumed"], &ledger["written"]), (&Value::from(20_003), &Value::from(18_001)), "{ledger}");
    assert_eq!((&ledger["bad"], &ledger["filtered"]), (&Value::from(2002), &Value::from(0)), "{ledger}");
    let files = format!("'{}/*.parquet'", job.output);
    let wrong =
        format!("SELECT count(*) AS n, count(number) AS m, sum(number - id) AS d FROM {files} WHERE id % 10 <> 3");
    assert_eq!(query(&wrong), "n,m,d\n18001,18000,0\n");
    let letters = format!("'{}_dead_letter/*.parquet'", job.output);
    let first = format!(
        "SELECT \"partition\", \"offset\", CAST(\"key\" AS VARCHAR) AS k, CAST(\"value\" AS VARCHAR) AS v, reason \
         FROM {letters} WHERE topic = '{}' AND (\"partition\" = 1 OR \"offset\" = 13) ORDER BY 1, 2",
        job.topic
    );
    let kept = query(&first);
    for expected in ["0,13,,", "Cannot cast string 'x13'", "1,0,the key,", "Cannot cast string 'oops'", "1,1,,{,"] {
        assert!(kept.contains(expected), "{expected}: {kept}");
    }
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains("2002 kept"), "{verdict}");
    no_temporaries(&job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_division_by_zero_and_an_overflow_are_bad_records() {
    let text = JobText {
        columns: "a BIGINT, b BIGINT",
        select: "SELECT a, a / b AS q, a * 2 AS twice FROM prices WHERE a <> 5",
        ..CAST
    };
    let job = TestJob::new(None, &text);
    create_topic(&job.topic, 1).await;
    let record = |a: i64, b: i64| format!("{{\"a\": {a}, \"b\": {b}}}");
    send(&job.topic, 0, &[record(6, 2), record(7, 0), record(5, 0), record(i64::MIN, -1), record(8, 2)]);
    let ledger = ledger(&job);
    assert_eq!(job.lines().await, ["6,3,12", "8,4,16"]);
    assert_eq!((&ledger["bad"], &ledger["filtered"]), (&Value::from(2), &Value::from(1)), "{ledger}");
    let (ok, verdict) = job.verify();
    assert!(ok, "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_nothing_but_failing_records_goes_by() {
    let job = TestJob::new(None, &CAST);
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &(0..500).map(|id| format!("{{\"id\": {id}, \"text\": \"x\"}}")).collect::<Vec<_>>());
    job.run();
    assert_eq!(job.lines().await, [""; 0]);
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains("500 kept"), "{verdict}");
    send(&job.topic, 0, &texts(0..10));
    job.run();
    assert_eq!(job.lines().await, good(0..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn failfast_names_the_first_record_that_fails() {
    let job = TestJob::new(None, &JobText { source: ", mode = 'FAILFAST'", ..CAST });
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &texts(0..100));
    let (code, error) = job.fails(&["--available-now"]);
    let place = format!("topic {}, partition 0, offset 3: ", job.topic);
    assert!(code == 1 && error.contains(&place) && error.contains("'x3'"), "{error}");
    assert!(error.contains("FAILFAST") && error.contains("TRY_CAST"), "{error}");
    assert_eq!(job.lines().await, [""; 0]);
    // Without it, the announced batch goes by.
    job.write(&CAST);
    job.run();
    assert_eq!(job.lines().await, good(0..100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_waits_for_the_plan_ends_with_it() {
    // Far more than the queues hold: the reading thread stands still when the plan fails at its first row.
    let job = TestJob::new(None, &JobText { source: ", mode = 'FAILFAST', maxOffsetsPerTrigger = 200000", ..CAST });
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &["{\"id\": 0, \"text\": \"x\"}".to_owned()]);
    send(&job.topic, 0, &(1..100_000).map(|id| format!("{{\"id\": {id}, \"text\": \"1\"}}")).collect::<Vec<_>>());
    let started = std::time::Instant::now();
    let (code, error) = job.fails(&["--available-now"]);
    assert!(code == 1 && error.contains("offset 0: "), "{error}");
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
    job.write(&JobText { source: ", maxOffsetsPerTrigger = 200000", ..CAST });
    job.run();
    assert_eq!(job.lines().await.len(), 99_999);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropmalformed_counts_and_keeps_nothing() {
    let job = TestJob::new(None, &JobText { source: ", mode = 'DROPMALFORMED'", ..CAST });
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &texts(0..100));
    assert_eq!(ledger(&job)["bad"], Value::from(10));
    assert_eq!(job.lines().await, good(0..100));
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains("10 bad, dropped"), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn permissive_keeps_what_only_the_sql_refuses() {
    let text = JobText { source: ", mode = 'PERMISSIVE', columnNameOfCorruptRecord = 'raw'", ..CAST };
    let job = TestJob::new(None, &JobText { columns: "id BIGINT, text STRING, raw STRING", ..text });
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &["{\"id\": 1, \"text\": \"1\"}".into(), "{".into(), "{\"id\": 2, \"text\": \"x\"}".into()]);
    job.run();
    assert_eq!(job.lines().await, [",", "1,1"]);
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains("1 kept"), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constant_that_fails_is_wrong_sql_and_no_million_dead_letters() {
    for select in ["SELECT id, 1 / 0 AS y FROM prices", "SELECT id FROM prices WHERE id > CAST('abc' AS INT)"] {
        let job = TestJob::new(None, &JobText { select, ..CAST });
        create_topic(&job.topic, 1).await;
        send(&job.topic, 0, &texts(0..10));
        for arguments in [["--available-now"], ["--dry-run"]] {
            let (code, error) = job.fails(&arguments);
            assert!(code == 2 && error.contains("fails for every record") && error.contains("job.sql:"), "{error}");
        }
        assert!(!std::path::Path::new(&format!("{}/offsets", job.checkpoint())).exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_run_staged_is_deleted() {
    // The bad record is the last of its batch, so that rows and dead letters are staged when the plan fails; and the
    // second batch is not swept as the first of a start is.
    let source = ", maxOffsetsPerTrigger = 20000";
    for root in [None, Some(hdfs())] {
        let job = TestJob::new(
            root.as_deref(),
            &JobText { source, sink: "format = 'csv', maxRecordsPerFile = 3000", ..CAST },
        );
        create_topic(&job.topic, 1).await;
        for _ in 0..2 {
            send(&job.topic, 0, &["{".to_owned()]);
            send(
                &job.topic,
                0,
                &(0..19_998).map(|id| format!("{{\"id\": {id}, \"text\": \"1\"}}")).collect::<Vec<_>>(),
            );
            send(&job.topic, 0, &["{\"id\": 0, \"text\": \"x\"}".to_owned()]);
        }
        job.run();
        let (ok, verdict) = job.verify();
        assert!(ok && verdict.contains("4 kept") && verdict.contains("39996 rows in 14 files"), "{verdict}");
        no_temporaries(&job).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_records_are_set_aside() {
    for crash in ["isolating:0", "staged:1", "prepared:0", "publishing:1", "logged:0", "committed:1"] {
        let job = TestJob::new(Some(&hdfs()), &CAST);
        create_topic(&job.topic, 1).await;
        send(&job.topic, 0, &texts(0..2500));
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", crash).output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{crash}: {output:?}");
        job.run();
        assert_eq!(job.lines().await, good(0..2500), "{crash}");
        assert_eq!(job.logged_lines().await, good(0..2500), "{crash}");
        let (ok, verdict) = job.verify();
        assert!(ok && verdict.contains("250 kept"), "{crash}: {verdict}");
        no_temporaries(&job).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_sink_gets_each_good_record_once() {
    let job = TestJob::new(None, &CAST);
    let target = format!("{}-out", job.topic);
    create_topic(&job.topic, 1).await;
    create_topic(&target, 1).await;
    let sql = format!(
        "CREATE TABLE prices (id BIGINT, text STRING) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{0}',
           subscribe = '{1}', startingOffsets = 'earliest', format = 'json', maxOffsetsPerTrigger = 100);
         CREATE TABLE copies WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{0}', topic = '{target}',
           checkpointLocation = '{2}');
         INSERT INTO copies SELECT CAST(CAST(text AS INT) AS VARCHAR) AS value FROM prices;",
        kafka(),
        job.topic,
        job.checkpoint()
    );
    std::fs::write(&job.file, sql).unwrap();
    send(&job.topic, 0, &texts(0..300));
    assert_eq!(ledger(&job)["bad"], Value::from(30));
    let sql = format!(
        "CREATE TABLE copies (value BINARY METADATA) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{}',
           subscribe = '{target}', format = 'raw');",
        kafka()
    );
    std::fs::write(&job.file, sql).unwrap();
    let mut query = std::process::Command::new(tidemill());
    let select = "SELECT count(*) AS n, count(DISTINCT value) AS d FROM copies";
    let output = query.args(["query", "--format", "csv", "--job"]).arg(&job.file).arg(select).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "n,d\n270,270\n");
}
