//! Queries over several Kafka tables, and over one table twice: exactly once, with one line per source in the offsets.

use std::{path::Path, process::Stdio};

use serde_json::Value;
use tidemill::store::Store;

use crate::support::{
    hdfs,
    job::{JobText, TestJob, prices, send, sorted_lines, visible_files},
    kafka,
    kafka::{create_topic, produce},
};

const COLUMNS: &str = "id BIGINT, price DOUBLE";
const EVENTS: &str = "id BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND";
const BOTH: &str = "SELECT id, price FROM prices UNION ALL SELECT id, price FROM more WHERE id >= 0";

/// Tables `prices` and `more`, each over a topic of its own.
fn job(root: Option<&str>, columns: &str, options: [&str; 2], select: &str) -> TestJob {
    let job = TestJob::new(root, &JobText::default());
    write(&job, columns, options, select);
    job
}

fn more(job: &TestJob) -> String {
    format!("{}-more", job.topic)
}

fn write(job: &TestJob, columns: &str, [first, second]: [&str; 2], select: &str) {
    let table = |name: &str, topic: &str, options: &str| {
        format!(
            "CREATE TABLE {name} ({columns}) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{}',\n  \
             subscribe = '{topic}', startingOffsets = 'earliest', format = 'json'{options});\n",
            kafka()
        )
    };
    let sql = format!(
        "{}{}CREATE TABLE stored WITH (connector = 'file', path = '{}', format = 'csv', maxRecordsPerFile = '60', \
         checkpointLocation = '{}');\nINSERT INTO stored {select};\n",
        table("prices", &job.topic, first),
        table("more", &more(job), second),
        job.output,
        job.checkpoint(),
    );
    std::fs::write(&job.file, sql).unwrap();
}

fn last_progress(job: &TestJob) -> Value {
    let output = job.command(&["--available-now", "--progress", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn checkpoint_file(job: &TestJob, path: &str) -> String {
    std::fs::read_to_string(Path::new(&job.checkpoint()).join(path)).unwrap()
}

async fn killed_at_every_step(root: Option<&str>) {
    let options = [", maxOffsetsPerTrigger = 100", ", maxOffsetsPerTrigger = 40"];
    let job = job(root, COLUMNS, options, BOTH);
    create_topic(&job.topic, 2).await;
    create_topic(&more(&job), 1).await;
    let (records, lines) = prices(0..1000);
    send(&job.topic, 0, &records[..300]);
    send(&job.topic, 1, &records[300..600]);
    send(&more(&job), 0, &records[600..]);
    let steps = ["offsets:0", "staged:1", "prepared:2", "publishing:3", "published:4", "logged:5", "committed:6"];
    for step in steps {
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", step).output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{step}: {output:?}");
    }
    job.run();
    assert_eq!(job.lines().await, lines);
    assert_eq!(job.logged_lines().await, lines);
    let (ok, said) = job.verify();
    assert!(ok && said.contains("consumed 1000 = written 1000 + filtered 0 + bad 0"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_a_query_over_two_tables_on_a_local_disk() {
    killed_at_every_step(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_a_query_over_two_tables_on_hdfs() {
    killed_at_every_step(Some(&hdfs())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_table_has_its_own_line_its_own_limit_and_its_own_progress() {
    let job = job(None, COLUMNS, [", maxOffsetsPerTrigger = 70", ""], BOTH);
    create_topic(&job.topic, 1).await;
    create_topic(&more(&job), 1).await;
    send(&job.topic, 0, &prices(0..100).0);
    send(&more(&job), 0, &prices(100..130).0);
    let progress = last_progress(&job);
    let (first, second) = (job.topic.clone(), more(&job));
    let lines = |path: &str| checkpoint_file(&job, path).lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        lines("offsets/0")[2..],
        [format!("{{\"{first}\":{{\"0\":70}}}}"), format!("{{\"{second}\":{{\"0\":30}}}}")]
    );
    assert_eq!(
        lines("offsets/1")[2..],
        [format!("{{\"{first}\":{{\"0\":100}}}}"), format!("{{\"{second}\":{{\"0\":30}}}}")]
    );
    assert!(checkpoint_file(&job, "sources/0/0").contains(&format!("{{\"{first}\"")));
    assert!(checkpoint_file(&job, "sources/1/0").contains(&format!("{{\"{second}\"")));
    let of = |source: usize, key: &str| progress["sources"][source][key].clone();
    assert_eq!((of(0, "numInputRows"), of(1, "numInputRows")), (Value::from(30), Value::from(0)));
    assert_eq!(of(1, "description"), Value::from(format!("KafkaV2[Subscribe[{second}]]")));
    assert_eq!(of(1, "endOffset")[&second]["0"], Value::from(30));
    assert_eq!(progress["numInputRows"], Value::from(30));
    // Another table in the query is another query.
    write(&job, COLUMNS, ["", ""], "SELECT id, price FROM prices");
    let (code, said) = job.fails(&["--available-now"]);
    assert!(code == 1 && said.contains("it read KafkaV2") && said.contains(&second), "{said}");
    let output = std::process::Command::new(crate::support::tidemill()).arg("explain").arg(&job.file).output().unwrap();
    assert!(!output.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_read_twice_is_consumed_once() {
    let select = "SELECT id, price FROM prices WHERE id % 2 = 0 UNION ALL SELECT id + 10000, price * 2 FROM prices \
         UNION ALL SELECT id, 0 FROM prices WHERE false";
    let job = job(None, COLUMNS, ["", ""], select);
    create_topic(&job.topic, 1).await;
    // Many decoded batches: the branches must not wait for each other.
    send(&job.topic, 0, &prices(0..60_000).0);
    produce(&job.topic, 0, &[(None, Some("{"))]);
    job.run();
    assert_eq!(job.lines().await.len(), 90_000);
    let (ok, said) = job.verify();
    let equation = "consumed 60001 + expanded 60000 = written 90000 + filtered 30000 + bad 1";
    assert!(ok && said.contains(equation), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_on_which_one_branch_fails_is_one_dead_letter_and_no_row() {
    let select = "SELECT id, CAST(text AS INT) AS n FROM prices UNION ALL SELECT id, 0 FROM prices \
         UNION ALL SELECT id, CAST(text AS INT) FROM more";
    let job = job(None, "id BIGINT, text STRING", ["", ""], select);
    create_topic(&job.topic, 1).await;
    create_topic(&more(&job), 1).await;
    let text = |id: u64| format!("{{\"id\": {id}, \"text\": \"{}\"}}", if id % 7 == 3 { "x" } else { "1" });
    send(&job.topic, 0, &(0..20).map(text).collect::<Vec<_>>());
    send(&more(&job), 0, &(100..120).map(text).collect::<Vec<_>>());
    job.run();
    let good = |id: &u64| id % 7 != 3;
    let both = (0..20).filter(good).flat_map(|id| [format!("{id},0"), format!("{id},1")]);
    let mut expected: Vec<String> = both.chain((100..120).filter(good).map(|id| format!("{id},1"))).collect();
    expected.sort();
    assert_eq!(job.lines().await, expected);
    let (ok, said) = job.verify();
    assert!(ok && said.contains("bad 6"), "{said}");
}

fn record(id: u64, second: u64) -> String {
    format!(r#"{{"id":{id},"ts":"2024-01-01T00:{:02}:{:02}"}}"#, second / 60, second % 60)
}

const WINDOWS: &str = "SELECT window_start, count(*) AS n, sum(id) AS ids FROM TUMBLE((SELECT id, ts FROM prices UNION ALL \
     SELECT id, ts FROM more), ts, INTERVAL '10 seconds') GROUP BY window_start, window_end";

/// The windows of all seconds up to `until`, of the same records in both tables with ids from 0 and from 1000.
fn windows(until: u64) -> Vec<String> {
    let line = |start: u64| {
        let ids: Vec<u64> = (start..start + 10).flat_map(|id| [id, id + 1000]).collect();
        let stamp = format!("2024-01-01T00:{:02}:{:02}.000", start / 60, start % 60);
        format!("{stamp},{},{}", ids.len(), ids.iter().sum::<u64>())
    };
    (0..until).step_by(10).filter(|start| start + 10 <= until).map(line).collect()
}

async fn windows_killed(root: Option<&str>) {
    let options = [", maxOffsetsPerTrigger = 30", ", maxOffsetsPerTrigger = 45"];
    let job = job(root, EVENTS, options, WINDOWS);
    create_topic(&job.topic, 1).await;
    create_topic(&more(&job), 1).await;
    send(&job.topic, 0, &(0..200).map(|id| record(id, id)).collect::<Vec<_>>());
    send(&more(&job), 0, &(0..200).map(|id| record(id + 1000, id)).collect::<Vec<_>>());
    for step in ["offsets:1", "staged:1", "prepared:2", "publishing:2", "published:3", "logged:3", "committed:4"] {
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", step).output().unwrap();
        assert!(!output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
    }
    job.run();
    // Up to the newest event of the slower table, less the delay.
    assert_eq!(job.lines().await, windows(194));
    assert_eq!(job.lines().await, job.logged_lines().await);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_over_two_tables_survive_kill_9_on_a_local_disk() {
    windows_killed(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_over_two_tables_survive_kill_9_on_hdfs() {
    windows_killed(Some(&hdfs())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slower_table_holds_the_windows() {
    let job = job(None, EVENTS, [", idleTimeout = '1 hour'", ", idleTimeout = '1 hour'"], WINDOWS);
    create_topic(&job.topic, 1).await;
    create_topic(&more(&job), 1).await;
    send(&job.topic, 0, &(0..100).map(|id| record(id, id)).collect::<Vec<_>>());
    job.run();
    assert_eq!(job.lines().await, Vec::<String>::new(), "nothing came from the other table yet");
    let explain = |job: &TestJob| {
        let output = std::process::Command::new(crate::support::tidemill()).arg("explain").arg(&job.file).output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    };
    let said = explain(&job);
    assert!(said.contains("the table more has had no event yet"), "{said}");
    send(&more(&job), 0, &(0..48).map(|id| record(id + 1000, id)).collect::<Vec<_>>());
    job.run();
    assert_eq!(job.lines().await, windows(42));
    let said = explain(&job);
    assert!(said.contains(&format!("{}-0 holds it", more(&job))), "{said}");
    assert!(said.contains("more: ") && said.contains("prices: "), "{said}");
    // What is older than both is late.
    send(&job.topic, 0, &[record(7, 7), record(99, 99)]);
    send(&more(&job), 0, &[record(1048, 48)]);
    job.run();
    let late = Store::open(&job.output.replace("/data", "/data_late")).await.unwrap();
    assert_eq!(sorted_lines(visible_files(&late).await.values()).len(), 1);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_table_twice_below_a_window_is_counted_twice() {
    let select = "SELECT window_start, count(*) AS n FROM TUMBLE((SELECT id, ts FROM prices UNION ALL \
         SELECT id, ts FROM prices WHERE id % 2 = 0), ts, INTERVAL '10 seconds') GROUP BY window_start, window_end";
    let job = job(None, EVENTS, ["", ""], select);
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &(0..50_000).map(|id| record(id, id / 500)).collect::<Vec<_>>());
    job.run();
    let line = |start: u64| format!("2024-01-01T00:{:02}:{:02}.000,7500", start / 60, start % 60);
    assert_eq!(job.lines().await, (0..90).step_by(10).map(line).collect::<Vec<_>>());
    let (ok, said) = job.verify();
    assert!(ok && said.contains("expanded 50000"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_two_places_are_refused() {
    let options = [", deadLetterPath = '/tmp/a'", ", deadLetterPath = '/tmp/b'"];
    let job = job(None, COLUMNS, options, BOTH);
    create_topic(&job.topic, 1).await;
    create_topic(&more(&job), 1).await;
    let mut command = job.command(&["--available-now"]);
    let output = command.stdout(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("'/tmp/a' and to '/tmp/b'"), "{said}");
    write(&job, COLUMNS, ["", ""], "SELECT id, price FROM prices UNION SELECT id, price FROM more");
    let (_, said) = job.fails(&["--dry-run"]);
    assert!(said.contains("write UNION ALL"), "{said}");
}

/// Nexmark's query 8 in shape: what happened in both tables in the same window.
const JOINED: &str = "SELECT window_start, k, n, m FROM \
     (SELECT window_start, window_end, id % 5 AS k, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '10 seconds') \
      GROUP BY window_start, window_end, id % 5) x \
     JOIN (SELECT window_start, window_end, id % 7 AS k, sum(id) AS m FROM TUMBLE(more, ts, INTERVAL '10 seconds') \
      GROUP BY window_start, window_end, id % 7) y USING (window_start, window_end, k)";

async fn joined_windows_killed(root: Option<&str>) {
    let options = [", maxOffsetsPerTrigger = 30", ", maxOffsetsPerTrigger = 45"];
    let job = job(root, EVENTS, options, JOINED);
    create_topic(&job.topic, 1).await;
    create_topic(&more(&job), 1).await;
    send(&job.topic, 0, &(0..200).map(|id| record(id, id)).collect::<Vec<_>>());
    send(&more(&job), 0, &(0..200).map(|id| record(id, id)).collect::<Vec<_>>());
    for step in ["offsets:1", "staged:1", "prepared:2", "publishing:2", "published:3", "logged:3", "committed:4"] {
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", step).output().unwrap();
        assert!(!output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
    }
    job.run();
    let mut expected = Vec::new();
    for start in (0..190).step_by(10) {
        for k in 0..5 {
            let ids: Vec<u64> = (start..start + 10).filter(|id| id % 7 == k).collect();
            let stamp = format!("2024-01-01T00:{:02}:{:02}.000", start / 60, start % 60);
            expected.push(format!("{stamp},{k},2,{}", ids.iter().sum::<u64>()));
        }
    }
    assert_eq!(job.lines().await, expected);
    assert_eq!(job.lines().await, job.logged_lines().await);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn joined_windows_survive_kill_9_on_a_local_disk() {
    joined_windows_killed(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joined_windows_survive_kill_9_on_hdfs() {
    joined_windows_killed(Some(&hdfs())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_windowed_aggregates_over_one_table_do_not_wait_for_each_other() {
    let select = "SELECT coalesce(x.window_end, y.window_end) AS at, n, m FROM (SELECT window_end, count(*) AS n FROM \
         TUMBLE(prices, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end) x FULL JOIN (SELECT window_end, \
         count(*) AS m FROM HOP((SELECT ts FROM prices WHERE id % 2 = 0), ts, INTERVAL '5 seconds', INTERVAL '10 seconds') \
         GROUP BY window_start, window_end) y ON x.window_end = y.window_end";
    let job = job(None, EVENTS, ["", ""], select);
    create_topic(&job.topic, 1).await;
    let all: Vec<String> = (0..50_000).map(|id| record(id, id / 500)).collect();
    send(&job.topic, 0, &all);
    job.run();
    let lines = job.lines().await;
    assert_eq!(lines.len(), 18, "{lines:?}");
    assert!(lines.iter().any(|line| line == "2024-01-01T00:00:20.000,5000,2500"), "{lines:?}");
    assert!(lines.iter().any(|line| line == "2024-01-01T00:00:15.000,,2500"), "{lines:?}");
    // Late for both, each with its columns.
    send(&job.topic, 0, &[record(2, 2), record(50_001, 99)]);
    job.run();
    let late = Store::open(&job.output.replace("/data", "/data_late")).await.unwrap();
    let late = sorted_lines(visible_files(&late).await.values());
    assert_eq!(late.len(), 2, "{late:?}");
    assert!(late[0].split(',').count() == late[1].split(',').count() && late[0].contains("late: its last"), "{late:?}");
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}
