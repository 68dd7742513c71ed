//! Joins of two streams, from the real Kafka to real files: the pairs of a batch query, each exactly once.

use std::process::Command;

use serde_json::Value;

use crate::support::{
    hdfs,
    job::{JobText, TestJob, send},
    kafka,
    kafka::create_topic,
    tidemill,
};

const INTERVAL: &str = "SELECT t.id, t.price, q.id AS quote, q.price AS bid FROM trades t LEFT JOIN quotes q \
     ON t.symbol = q.symbol AND q.ts BETWEEN t.ts - INTERVAL '5 seconds' AND t.ts + INTERVAL '2 seconds'";

const ASOF: &str = "SELECT t.id, t.price, q.id AS quote, q.price AS bid FROM trades t ASOF LEFT JOIN quotes q \
     MATCH_CONDITION (t.ts >= q.ts) ON t.symbol = q.symbol";

const TWICE: &str = "SELECT a.id, b.id AS other FROM trades a JOIN trades b ON a.symbol = b.symbol AND a.id < b.id \
     AND b.ts BETWEEN a.ts - INTERVAL '3 seconds' AND a.ts + INTERVAL '3 seconds'";

/// Tables `trades` and `quotes`, each over a topic of its own.
fn job(root: Option<&str>, most: usize, select: &str) -> TestJob {
    let job = TestJob::new(root, &JobText::default());
    let table = |name: &str, topic: &str| {
        format!(
            "CREATE TABLE {name} (id BIGINT, ts TIMESTAMP, symbol STRING, price DOUBLE, WATERMARK FOR ts AS ts - \
             INTERVAL '5' SECOND) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{}', subscribe = '{topic}', \
             startingOffsets = 'earliest', maxOffsetsPerTrigger = '{most}', format = 'json');\n",
            kafka()
        )
    };
    let sql = format!(
        "{}{}CREATE TABLE stored WITH (connector = 'file', path = '{}', format = 'csv', checkpointLocation = '{}');\n\
         INSERT INTO stored {select};\n",
        table("trades", &job.topic),
        table("quotes", &quotes(&job)),
        job.output,
        job.checkpoint(),
    );
    std::fs::write(&job.file, sql).unwrap();
    job
}

fn quotes(job: &TestJob) -> String {
    format!("{}-quotes", job.topic)
}

/// A record of every second, out of order by up to 4 seconds, and one that lets all of them out.
fn records(count: usize, add: usize, far: usize) -> Vec<String> {
    let record = |id: usize, second: usize| {
        format!(
            r#"{{"id":{id},"ts":"2024-01-01T00:{:02}:{:02}","symbol":"{}","price":{}.5}}"#,
            second / 60,
            second % 60,
            ["A", "B", "C"][id * 7 % 3],
            id * 7919 % 100
        )
    };
    let at = |id: usize| record(id + add, id + [4, 7, 3, 8, 1][id % 5]);
    (0..count).map(at).chain([record(far, 3000)]).collect()
}

fn said(command: &str, job: &TestJob, arguments: &[&str]) -> String {
    let output = Command::new(tidemill()).arg(command).args(arguments).arg(&job.file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the query gives over all that is in Kafka, without the last record of each table.
fn batch(job: &TestJob, select: &str) -> Vec<String> {
    let query = format!("SELECT * FROM ({select}) WHERE id < 9000");
    let output = Command::new(tidemill())
        .args(["query", "--format", "csv", "--job"])
        .arg(&job.file)
        .arg(&query)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().skip(1).map(str::to_owned).collect();
    lines.sort();
    lines
}

async fn killed_at_every_step(root: Option<&str>, select: &'static str, operators: [&str; 2]) {
    let job = job(root, 30, select);
    create_topic(&job.topic, 1).await;
    create_topic(&quotes(&job), 1).await;
    send(&job.topic, 0, &records(150, 0, 9000));
    send(&quotes(&job), 0, &records(200, 1000, 9001));
    let description = said("stream", &job, &["--dry-run"]);
    assert!(operators.iter().all(|name| description.contains(name)), "{description}");
    let steps =
        ["offsets:0", "staged:1", "prepared:2", "publishing:2", "published:3", "logged:3", "committed:4", "staged:5"];
    for step in steps {
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", step).output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{step}: {output:?}");
    }
    let state: Value = serde_json::from_str(&said("state", &job, &["--format", "json"])).unwrap();
    let text = state.to_string();
    assert!(operators.iter().all(|name| text.contains(name)) && text.contains("\"kept\":\"partners\""), "{text}");
    let explained = said("explain", &job, &[]);
    assert!(operators.iter().all(|name| explained.contains(name)), "{explained}");
    job.run();
    let expected = batch(&job, select);
    assert!(expected.len() >= 150, "{expected:?}");
    assert_eq!(job.lines().await, expected);
    assert_eq!(job.logged_lines().await, expected);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}

const PAIRS: [&str; 2] = ["rows that wait for partners of JOIN ON", "partners of JOIN ON"];
const LAST: [&str; 2] = ["rows that wait for the last one of ASOF JOIN ON", "last rows of each key of ASOF JOIN ON"];

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_an_interval_join_on_hdfs() {
    killed_at_every_step(Some(&hdfs()), INTERVAL, PAIRS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_an_interval_join_on_a_local_disk() {
    killed_at_every_step(None, INTERVAL, PAIRS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_an_as_of_join_on_hdfs() {
    killed_at_every_step(Some(&hdfs()), ASOF, LAST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_an_as_of_join_on_a_local_disk() {
    killed_at_every_step(None, ASOF, LAST).await;
}

/// Many decoded batches: the two scans of the table must not wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_joined_with_itself_is_consumed_once() {
    let job = job(None, 1_000_000, TWICE);
    create_topic(&job.topic, 1).await;
    let count = 30_000;
    let record = |id: usize| {
        let (micros, symbol) = (id * 10_000, id % 100);
        let (second, micros) = (micros / 1_000_000, micros % 1_000_000);
        format!(
            r#"{{"id":{id},"ts":"2024-01-01T00:{:02}:{:02}.{micros:06}","symbol":"S{symbol}","price":1}}"#,
            second / 60,
            second % 60
        )
    };
    let all: Vec<String> = (0..count).map(record).collect();
    send(&job.topic, 0, &all);
    job.run();
    // A symbol comes once a second. The watermark is at 00:04:54.99, so rows have waited long enough up to 00:04:51.98.
    assert_eq!(job.lines().await.len(), 3 * 29_199);
    let (ok, said) = job.verify();
    assert!(ok && said.contains(&format!("consumed {count} + expanded")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_meets_the_last_row_of_stored_files() {
    let job = TestJob::new(None, &JobText::default());
    let files = job.directory.path().join("quotes");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("q.csv"), "symbol,at,bid\nA,2024-01-01T00:00:01,1.5\nA,2024-01-01T00:00:05,2.5\n")
        .unwrap();
    let sql = format!(
        "CREATE TABLE trades (id BIGINT, ts TIMESTAMP, symbol STRING) WITH (connector = 'kafka', \
         'kafka.bootstrap.servers' = '{}', subscribe = '{}', startingOffsets = 'earliest', format = 'json');\n\
         CREATE TABLE quotes (symbol STRING, at TIMESTAMP, bid DOUBLE) WITH (connector = 'file', path = '{}', \
         format = 'csv', header = 'true');\n\
         CREATE TABLE stored WITH (connector = 'file', path = '{}', format = 'csv', checkpointLocation = '{}');\n\
         INSERT INTO stored SELECT t.id, q.bid FROM trades t ASOF LEFT JOIN quotes q ON t.symbol = q.symbol AND t.ts > q.at;\n",
        kafka(),
        job.topic,
        files.display(),
        job.output,
        job.checkpoint(),
    );
    std::fs::write(&job.file, sql).unwrap();
    let record = |id: usize, second: usize, symbol: &str| {
        format!(r#"{{"id":{id},"ts":"2024-01-01T00:00:{second:02}","symbol":"{symbol}"}}"#)
    };
    send(&job.topic, 0, &[record(1, 1, "A"), record(2, 5, "A"), record(3, 6, "A"), record(4, 9, "B")]);
    job.run();
    assert_eq!(job.lines().await, ["1,", "2,1.5", "3,2.5", "4,"]);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}
