//! Streams joined with stored files: which version of the files a batch sees, and what is refused.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use tidemill::store::Store;

use crate::support::{
    job::{JobText, TestJob, send},
    kafka,
    kafka::create_topic,
    tidemill,
};

const SYMBOLS: &str = "0,BTC,coin\n1,ETH,coin\n2,EUR,cash\n";
const JOINED: &str = "SELECT p.id, p.price, s.name FROM prices p JOIN symbols s ON p.id % 5 = s.symbol";

/// A job that reads the topic and the directory `symbols` beside the job file.
fn job(columns: &str, select: &str) -> TestJob {
    let job = TestJob::new(None, &JobText::default());
    std::fs::create_dir(directory(&job)).unwrap();
    write(&job, "a.csv", SYMBOLS);
    rewrite(&job, columns, select);
    job
}

fn directory(job: &TestJob) -> std::path::PathBuf {
    job.directory.path().join("symbols")
}

/// Replaces a file as whole, as everyone should.
fn write(job: &TestJob, name: &str, content: &str) {
    let hidden = directory(job).join(format!(".{name}"));
    std::fs::write(&hidden, content).unwrap();
    std::fs::rename(hidden, directory(job).join(name)).unwrap();
}

fn rewrite(job: &TestJob, columns: &str, select: &str) {
    let sql = format!(
        "CREATE TABLE prices ({columns}) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{}',\n  \
         subscribe = '{}', startingOffsets = 'earliest', format = 'json', maxOffsetsPerTrigger = '100');\n\
         CREATE TABLE symbols (symbol BIGINT, name STRING, kind STRING)\n\
         WITH (connector = 'filesystem', path = '{}', format = 'csv');\n\
         CREATE TABLE stored WITH (connector = 'file', path = '{}', format = 'csv', checkpointLocation = '{}');\n\
         INSERT INTO stored {select};\n",
        kafka(),
        job.topic,
        directory(job).display(),
        job.output,
        job.checkpoint(),
    );
    std::fs::write(&job.file, sql).unwrap();
}

fn prices(ids: std::ops::Range<u64>) -> Vec<String> {
    ids.map(|id| format!("{{\"id\": {id}, \"price\": {id}.5}}")).collect()
}

/// What the join gives for `ids` with these names.
fn joined(ids: std::ops::Range<u64>, names: &[&str]) -> Vec<String> {
    let line = |id: u64| names.get(usize::try_from(id % 5).unwrap()).map(|name| format!("{id},{id}.5,{name}"));
    let mut lines: Vec<String> = ids.filter_map(line).collect();
    lines.sort();
    lines
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

async fn wait_for(job: &TestJob, lines: usize) {
    for _ in 0..600 {
        if job.lines().await.len() >= lines {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} lines of {lines} came", job.lines().await.len());
}

fn prepared(job: &TestJob, batch: u64) -> Value {
    let text = std::fs::read_to_string(Path::new(&job.checkpoint()).join(format!("prepared/{batch}"))).unwrap();
    serde_json::from_str(text.lines().nth(1).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_are_read_again_before_the_next_batch() {
    let job = job("id BIGINT, price DOUBLE", JOINED);
    create_topic(&job.topic, 1).await;
    let mut child = job.command(&["--progress", "none"]).stderr(Stdio::piped()).spawn().unwrap();
    send(&job.topic, 0, &prices(0..50));
    wait_for(&job, 30).await;
    let first = joined(0..50, &["BTC", "ETH", "EUR"]);
    assert_eq!(job.lines().await, first);
    // One more file, and one that is replaced by another of the same size.
    write(&job, "b.csv", "3,USD,cash\n");
    write(&job, "a.csv", "0,XXX,coin\n1,ETH,coin\n2,EUR,cash\n");
    send(&job.topic, 0, &prices(50..100));
    wait_for(&job, 70).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let second = joined(50..100, &["XXX", "ETH", "EUR", "USD"]);
    assert_eq!(job.lines().await, sorted([first.clone(), second.clone()].concat()));
    // A batch that was announced and not prepared sees the files that are there when it is run at last.
    send(&job.topic, 0, &prices(100..150));
    let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", "staged:2").output().unwrap();
    assert!(!output.status.success());
    write(&job, "b.csv", "3,CHF,cash\n4,GBP,cash\n");
    job.run();
    let third = joined(100..150, &["XXX", "ETH", "EUR", "CHF", "GBP"]);
    assert_eq!(job.lines().await, sorted([first, second, third].concat()));
    let version = |batch: u64| prepared(&job, batch)["staticTables"][0].clone();
    assert_eq!((&version(0)["table"], &version(0)["files"]), (&Value::from("symbols"), &Value::from(1)));
    assert_eq!((&version(2)["files"], &version(2)["bytes"]), (&Value::from(2), &Value::from(55)));
    assert_ne!(version(0)["crc32"], version(2)["crc32"]);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_job_joins_each_record_once() {
    let job = job("id BIGINT, price DOUBLE", JOINED);
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &prices(0..700));
    for step in ["offsets:0", "staged:1", "prepared:2", "published:3", "logged:4", "committed:5"] {
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", step).output().unwrap();
        assert!(!output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
    }
    job.run();
    assert_eq!(job.lines().await, joined(0..700, &["BTC", "ETH", "EUR"]));
    assert_eq!(job.lines().await, job.logged_lines().await);
    let (ok, said) = job.verify();
    assert!(ok && said.contains("consumed 700 = written 420 + filtered 280 + bad 0"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_may_be_on_either_side_and_keep_its_rows() {
    let outer = "SELECT p.id, s.name FROM prices p LEFT JOIN symbols s ON p.id = s.symbol";
    for (select, expected) in [
        (outer, vec!["0,BTC", "1,ETH", "2,EUR", "3,", "4,"]),
        (
            "SELECT p.id, s.name FROM symbols s RIGHT JOIN prices p ON p.id = s.symbol",
            vec!["0,BTC", "1,ETH", "2,EUR", "3,", "4,"],
        ),
        ("SELECT id, name FROM symbols JOIN prices ON id = symbol AND price > 1", vec!["1,ETH", "2,EUR"]),
        ("SELECT id, 1 AS one FROM prices LEFT SEMI JOIN symbols ON id = symbol", vec!["0,1", "1,1", "2,1"]),
        ("SELECT id, 1 AS one FROM prices LEFT ANTI JOIN symbols ON id = symbol", vec!["3,1", "4,1"]),
        ("SELECT id, 1 AS one FROM prices WHERE id IN (SELECT symbol FROM symbols WHERE kind = 'cash')", vec!["2,1"]),
        (
            "SELECT id, 1 AS one FROM prices WHERE NOT EXISTS (SELECT 1 FROM symbols WHERE symbol = id)",
            vec!["3,1", "4,1"],
        ),
        (
            "SELECT id, n FROM prices JOIN (SELECT kind, count(*) AS n, min(symbol) AS first FROM symbols GROUP BY kind) \
             ON id = first",
            vec!["0,2", "2,1"],
        ),
        ("SELECT id, name FROM prices, symbols WHERE id = 4", vec!["4,BTC", "4,ETH", "4,EUR"]),
    ] {
        let job = job("id BIGINT, price DOUBLE", select);
        create_topic(&job.topic, 1).await;
        send(&job.topic, 0, &prices(0..5));
        job.run();
        assert_eq!(job.lines().await, expected, "{select}");
        let (ok, said) = job.verify();
        assert!(ok, "{select}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_partner_every_record_is_filtered_and_one_that_fails_is_a_dead_letter() {
    let select = "SELECT id, CAST(text AS INT) AS n, name FROM prices LEFT JOIN symbols ON id % 5 = symbol";
    let failing = job("id BIGINT, text STRING", select);
    create_topic(&failing.topic, 1).await;
    let text = |id: u64| format!("{{\"id\": {id}, \"text\": \"{}\"}}", if id == 7 { "x" } else { "1" });
    send(&failing.topic, 0, &(0..10).map(text).collect::<Vec<_>>());
    failing.run();
    let name = |id: u64| ["BTC", "ETH", "EUR", "", ""][usize::try_from(id % 5).unwrap()];
    let expected: Vec<String> = (0..10).filter(|id| *id != 7).map(|id| format!("{id},1,{}", name(id))).collect();
    assert_eq!(failing.lines().await, expected);
    let (ok, said) = failing.verify();
    assert!(ok && said.contains("consumed 10 = written 9 + filtered 0 + bad 1"), "{said}");

    let none = job("id BIGINT, price DOUBLE", &format!("{JOINED} AND s.kind = 'stone'"));
    create_topic(&none.topic, 1).await;
    send(&none.topic, 0, &prices(0..500));
    none.run();
    let (ok, said) = none.verify();
    assert!(ok && said.contains("consumed 500 = written 0 + filtered 500 + bad 0"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gives_rows_of_the_files_is_refused() {
    for (select, expected) in [
        (
            "SELECT id, name FROM symbols LEFT JOIN prices ON id = symbol",
            "an outer join that keeps rows of stored files",
        ),
        ("SELECT id, name FROM prices RIGHT JOIN symbols ON id = symbol", "an outer join that keeps rows"),
        ("SELECT id, name FROM prices FULL JOIN symbols ON id = symbol", "an outer join that keeps rows"),
        ("SELECT symbol FROM symbols LEFT SEMI JOIN prices ON id = symbol", "gives rows of stored files"),
        ("SELECT id FROM prices WHERE id NOT IN (SELECT symbol FROM symbols)", "NOT IN"),
        ("SELECT id FROM prices UNION ALL SELECT symbol FROM symbols", "UNION ALL with the rows of stored files"),
        ("SELECT a.id FROM prices a JOIN prices b ON a.id = b.id", "a join of two streams"),
        (
            "SELECT id, n FROM prices JOIN (SELECT window_start, count(*) AS n FROM TUMBLE((SELECT to_timestamp(symbol) AS at \
             FROM symbols), at, INTERVAL '1 minute') GROUP BY window_start, window_end) ON id = n",
            "windows over stored files",
        ),
        ("SELECT symbol FROM symbols", "no Kafka table"),
    ] {
        let job = job("id BIGINT, price DOUBLE", select);
        let (code, said) = job.fails(&["--dry-run"]);
        assert!(code == 2 && said.contains(expected) && said.contains("help:"), "{select}: {code} {said}");
    }
    let job = job("id BIGINT, price DOUBLE", JOINED);
    std::fs::remove_dir_all(directory(&job)).unwrap();
    let (code, said) = job.fails(&["--dry-run"]);
    assert!(code == 2 && said.contains("the table symbols") && said.contains("no file to read"), "{said}");
    assert!(said.contains("job.sql:4:") && said.contains("path = "), "the place is shown: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_joined_below_in_and_above_windows() {
    let columns = "id BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '0' SECOND";
    let record = |id: u64, second: u64| format!(r#"{{"id":{id},"ts":"2024-01-01T00:00:{second:02}"}}"#);
    let below = "SELECT window_start, kind, count(*) AS n FROM \
         TUMBLE((SELECT ts, kind FROM prices JOIN symbols ON id % 5 = symbol), ts, INTERVAL '10 seconds') \
         GROUP BY window_start, window_end, kind";
    let between = "SELECT window_start, kind, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '10 seconds') \
         JOIN symbols ON id % 5 = symbol GROUP BY window_start, window_end, kind";
    let above = "SELECT window_start, kind, sum(m) AS n FROM (SELECT window_start, window_end, id % 5 AS five, \
         count(*) AS m FROM TUMBLE(prices, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end, id % 5) \
         JOIN symbols ON five = symbol GROUP BY window_start, window_end, kind";
    for select in [below, between, above] {
        let job = job(columns, select);
        create_topic(&job.topic, 1).await;
        let records: Vec<String> = (0..250).map(|id| record(id, id / 10)).collect();
        send(&job.topic, 0, &records);
        for step in ["staged:0", "prepared:1"] {
            let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", step).output().unwrap();
            assert!(!output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
        }
        job.run();
        let line = |start: u64, kind: &str, n: u64| format!("2024-01-01T00:00:{start:02}.000,{kind},{n}");
        let expected = vec![line(0, "cash", 20), line(0, "coin", 40), line(10, "cash", 20), line(10, "coin", 40)];
        assert_eq!(job.lines().await, expected, "{select}");
        let (ok, said) = job.verify();
        assert!(ok, "{select}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_one_insert_enriches_another() {
    let job = job("id BIGINT, price DOUBLE", "SELECT id, price FROM prices WHERE id < 3");
    create_topic(&job.topic, 1).await;
    let sql = std::fs::read_to_string(&job.file).unwrap();
    let second = job.output.replace("/data", "/second");
    let more = format!(
        "CREATE TABLE second WITH (connector = 'file', path = '{second}', format = 'csv', checkpointLocation = '{second}_c');\n\
         INSERT INTO second SELECT p.id, s.price FROM prices p JOIN stored s ON p.id = s.id;\n"
    );
    std::fs::write(&job.file, sql + &more).unwrap();
    // Nothing was written yet, which is no mistake of a table that this job fills.
    job.run();
    send(&job.topic, 0, &prices(0..5));
    job.run();
    send(&job.topic, 0, &prices(0..5));
    job.run();
    let store = Store::open(&second).await.unwrap();
    let lines = crate::support::job::sorted_lines(crate::support::job::visible_files(&store).await.values());
    assert!(lines.len() >= 3 && lines.iter().all(|line| line.ends_with(".5")), "{lines:?}");
    let output = std::process::Command::new(tidemill()).arg("verify").arg(&job.file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
