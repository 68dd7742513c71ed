//! Output modes update and complete on the real Kafka: what a reader holds who replaces rows by their key is what a batch
//! query says, whatever happens to the process.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{
    job::{JobText, TestJob, send},
    kafka,
    kafka::{create_topic, visible},
    tidemill,
};

const PARTITIONS: i32 = 2;

/// A job from one topic to another.
struct Job {
    inner: TestJob,
    target: String,
}

/// What a test changes.
#[derive(Clone, Copy)]
struct Text<'a> {
    watermark: &'a str,
    /// Options of the sink.
    sink: &'a str,
    select: &'a str,
}

const TOTALS: &str = "SELECT symbol, count(*) AS n, sum(size) AS size, max(price) AS high FROM ticks GROUP BY symbol";
const UPDATE: Text<'_> = Text { watermark: "", sink: "outputMode = 'update', 'key.fields' = 'symbol'", select: TOTALS };

impl Job {
    async fn new(text: &Text<'_>) -> Self {
        let inner = TestJob::new(None, &JobText::default());
        let job = Self { target: format!("{}-out", inner.topic), inner };
        create_topic(&job.inner.topic, PARTITIONS).await;
        create_topic(&job.target, PARTITIONS).await;
        job.write(text);
        job
    }

    fn write(&self, text: &Text<'_>) {
        let sql = format!(
            "CREATE TABLE ticks (id BIGINT, ts TIMESTAMP, symbol STRING, size BIGINT, price DOUBLE{0}) WITH (
               connector = 'kafka', 'kafka.bootstrap.servers' = '{1}', subscribe = '{2}', startingOffsets = 'earliest',
               format = 'json', maxOffsetsPerTrigger = 40);
             CREATE TABLE totals WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{1}', topic = '{3}',
               checkpointLocation = '{4}', {5});
             INSERT INTO totals {6};",
            text.watermark,
            kafka(),
            self.inner.topic,
            self.target,
            self.inner.checkpoint(),
            text.sink,
            text.select
        );
        std::fs::write(&self.inner.file, sql).unwrap();
    }

    /// Ticks on both partitions: their time goes on by a second with each, out of order by up to four.
    fn send(&self, ids: std::ops::Range<i64>) {
        for partition in 0..PARTITIONS {
            let records: Vec<String> = ids.clone().filter(|id| id % 2 == i64::from(partition)).map(tick).collect();
            send(&self.inner.topic, partition, &records);
        }
    }

    fn crash(&self, step: &str) {
        let output = self.inner.command(&["--available-now"]).env("TIDEMILL_CRASH", step).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{step}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What the batch query says, as the records' values.
    fn batch(&self, select: &str) -> Vec<String> {
        let mut command = Command::new(tidemill());
        command.args(["query", "--format", "ndjson", "--job"]).arg(&self.inner.file).arg(select);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        sorted(String::from_utf8_lossy(&output.stdout).lines())
    }

    /// The newest value of each key, as a compacted topic keeps them, and how many records there are.
    fn folded(&self) -> (Vec<String>, usize) {
        let records = visible(&self.target, PARTITIONS);
        let count = records.len();
        let table: BTreeMap<String, String> = records.into_iter().collect();
        (sorted(table.values().map(String::as_str)), count)
    }

    fn run(&self) {
        self.inner.run();
    }

    fn said(&self, command: &str) -> String {
        let output = Command::new(tidemill()).arg(command).arg(&self.inner.file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn tick(id: i64) -> String {
    let second = (id + [0, 3, -1, 2, -2][usize::try_from(id % 5).unwrap()]).max(0);
    let symbol = if id % 11 == 5 { String::new() } else { format!(r#","symbol":"s{}""#, (id * 7) % 13) };
    let (price, size) = ((id * 7919) % 100, id % 9);
    format!(
        r#"{{"id":{id},"ts":"2024-01-01T00:{:02}:{:02}"{symbol},"size":{size},"price":{price}.5}}"#,
        second / 60,
        second % 60
    )
}

/// JSON objects, sorted; nulls and fractions of a second that are zero may be left out.
fn sorted<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let plain = |line: &str| line.replace(r#""symbol":null,"#, "").replace(".000\"", "\"");
    let mut lines: Vec<String> = lines.map(plain).collect();
    lines.sort();
    lines
}

/// The batches have 40 records each: 0 to 5 with them.
const STEPS: &[&str] =
    &["offsets:0", "staged:0", "transaction:1", "prepared:2", "logged:2", "committed:3", "staged:4", "transaction:5"];

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_row_of_each_key_is_the_batch_query_s_across_kill_9_at_every_step() {
    let job = Job::new(&UPDATE).await;
    job.send(0..230);
    for step in STEPS {
        job.crash(step);
    }
    job.run();
    let (held, records) = job.folded();
    assert_eq!(held, job.batch(TOTALS));
    assert!(held.len() == 14 && records > 2 * held.len() && records < 230, "{} of {records}", held.len());
    // Only what changes is written.
    send(&job.inner.topic, 0, &[tick(1000)]);
    job.run();
    assert_eq!(job.folded(), (job.batch(TOTALS), records + 1));
    let said = job.said("state");
    assert!(said.contains("of each group, when it changes; output mode update"), "{said}");
    assert!(said.contains("grouped by ticks.symbol") && said.contains("for 231 rows of input"), "{said}");
    let said = job.said("explain");
    assert!(said.contains("every record that came is read, and its rows are written"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_are_still_open_are_exactly_once_across_kill_9() {
    let select = "SELECT window_start, symbol, count(*) AS n, avg(price) AS mean FROM \
         HOP(ticks, ts, INTERVAL '10 seconds', INTERVAL '20 seconds') GROUP BY window_start, window_end, symbol";
    let text = Text {
        watermark: ", WATERMARK FOR ts AS ts - INTERVAL '30' SECOND",
        sink: "outputMode = 'update', 'key.fields' = 'symbol,window_start'",
        select,
    };
    let job = Job::new(&text).await;
    job.send(0..230);
    for step in STEPS {
        job.crash(step);
    }
    job.run();
    assert_eq!(job.folded().0, job.batch(select));
    // The windows that the watermark has passed are forgotten.
    let said = job.said("state");
    assert!(said.contains("first window"), "{said}");
    let held: u64 = said.split(" of state for ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(held < 100, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn complete_writes_all_groups_in_each_batch_and_takes_the_state_of_update() {
    let job = Job::new(&UPDATE).await;
    job.send(0..60);
    job.run();
    let (before, written) = job.folded();
    assert_eq!(before, job.batch(TOTALS));
    job.write(&Text { sink: "outputMode = 'complete', 'key.fields' = 'symbol'", ..UPDATE });
    send(&job.inner.topic, 0, &[tick(2)]);
    job.crash("transaction:2");
    job.run();
    let (held, records) = job.folded();
    assert_eq!(held, job.batch(TOTALS));
    assert_eq!(records, written + held.len());
    // And back.
    job.write(&UPDATE);
    send(&job.inner.topic, 0, &[tick(3)]);
    job.run();
    assert_eq!(job.folded(), (job.batch(TOTALS), records + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn periodic_rows_are_written_once_in_a_while_and_none_is_forgotten() {
    let select = format!("{TOTALS} EMIT PERIODIC INTERVAL '1 hour'");
    let job = Job::new(&Text { sink: "'key.fields' = 'symbol'", select: &select, ..UPDATE }).await;
    job.send(0..230);
    for step in ["staged:0", "committed:0", "offsets:1", "staged:1", "transaction:2", "prepared:3", "committed:4"] {
        job.crash(step);
    }
    // It stopped in the middle of a period, and says what waits.
    let said = job.said("explain");
    assert!(said.contains("records") && said.contains("EMIT PERIODIC"), "{said}");
    // Batch 5 is the last with records, batch 6 writes what has changed since batch 0.
    job.crash("staged:6");
    job.run();
    let (held, records) = job.folded();
    assert_eq!(held, job.batch(TOTALS));
    assert!(records <= 2 * held.len(), "{records}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_writes_what_changed_when_the_period_ends_though_nothing_comes() {
    let select = format!("{TOTALS} EMIT PERIODIC 2s");
    let job = Job::new(&Text { sink: "'key.fields' = 'symbol'", select: &select, ..UPDATE }).await;
    job.send(0..10);
    let mut child = job.inner.command(&["--progress", "none"]).stderr(Stdio::piped()).spawn().unwrap();
    for ids in [10..20, 20..30] {
        std::thread::sleep(Duration::from_millis(300));
        job.send(ids);
    }
    let all = job.batch(TOTALS);
    let mut held = Vec::new();
    for _ in 0..100 {
        held = job.folded().0;
        if held == all {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    child.kill().unwrap();
    let said = child.wait_with_output().unwrap();
    assert_eq!(held, all, "{}", String::from_utf8_lossy(&said.stderr));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("nothing is forgotten, and the state grows with each new group"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_in_that_mode_is_refused_with_the_way_out() {
    let job = Job::new(&UPDATE).await;
    let windows = "SELECT window_start, symbol, count(*) AS n FROM TUMBLE(ticks, ts, INTERVAL '10 seconds') \
         GROUP BY window_start, window_end, symbol";
    let both = "SELECT window_end, n FROM (SELECT window_start, window_end, count(*) AS n FROM \
         CUMULATE(ticks, ts, INTERVAL '5 seconds', INTERVAL '10 seconds') GROUP BY window_start, window_end)";
    let sessions = "SELECT window_start, count(*) AS n FROM SESSION(ticks, ts, INTERVAL '5 seconds') \
         GROUP BY window_start, window_end";
    let ranked = format!("SELECT *, rank() OVER (ORDER BY n) AS r FROM ({TOTALS})");
    let valued = "SELECT symbol AS key, CAST(count(*) AS STRING) AS value FROM ticks GROUP BY symbol, size";
    let (update, complete) = ("outputMode = 'update'", "outputMode = 'complete'");
    for (sink, select, expected) in [
        (update, TOTALS, "have no key"),
        (update, TOTALS, "'key.fields' = 'symbol'"),
        (update, "SELECT count(*) AS n FROM ticks", "SELECT 'total' AS key"),
        ("outputMode = 'update', 'key.fields' = 'symbol'", windows, "does not hold window_start, window_end"),
        ("outputMode = 'update', 'key.fields' = 'window_end'", both, "does not hold window_start"),
        ("outputMode = 'update', 'key.fields' = 'n'", TOTALS, "does not hold symbol"),
        ("outputMode = 'update', 'key.fields' = 'volume'", TOTALS, "no column of the rows"),
        ("'key.fields' = 'volume'", "SELECT symbol, size FROM ticks", "no column of the rows"),
        ("outputMode = 'update', 'key.fields' = 'symbol'", &ranked, "outputMode = 'complete' gives all groups"),
        (update, valued, "does not hold size"),
        (update, sessions, "session windows in output mode update"),
        (update, "SELECT symbol, sum(size) AS s FROM ticks GROUP BY CUBE(symbol)", "GROUPING SETS"),
        (complete, "SELECT symbol FROM ticks", "output mode complete without an aggregate"),
        ("outputMode = 'append'", TOTALS, "without a window"),
        ("outputMode = 'append'", "SELECT symbol FROM ticks EMIT CHANGES", "contradicts outputMode = 'append'"),
        (complete, "SELECT count(*) AS n FROM ticks EMIT ON WINDOW CLOSE", "contradicts outputMode = 'complete'"),
        (update, "SELECT symbol FROM ticks EMIT PERIODIC 5s", "EMIT PERIODIC without an aggregate"),
        ("outputMode = 'append'", "SELECT symbol FROM ticks EMIT PERIODIC 5s", "contradicts outputMode = 'append'"),
        (update, "SELECT symbol FROM ticks EMIT PERIODIC soon", "a period is a time"),
        (update, "SELECT symbol FROM ticks EMIT PERIODIC 0s", "a period is a time"),
        (update, "SELECT symbol FROM ticks EMIT EVERY INTERVAL '5 seconds'", "EMIT PERIODIC INTERVAL '10 seconds'"),
        ("outputMode = 'updated'", TOTALS, "did you mean 'update'?"),
    ] {
        job.write(&Text { watermark: "", sink, select });
        let (code, said) = job.inner.fails(&["--dry-run"]);
        assert!(code == 2 && said.contains(expected) && said.contains("help:"), "{sink} {select}: {code} {said}");
    }
    let text = JobText { columns: "id BIGINT, price DOUBLE", ..JobText::default() };
    let files = [
        ("format = 'csv', outputMode = 'update'", "SELECT count(*) AS n FROM prices"),
        ("format = 'csv'", "SELECT count(*) AS n FROM prices EMIT CHANGES"),
    ];
    for (sink, select) in files {
        let job = TestJob::new(None, &JobText { sink, select, ..JobText { ..text } });
        let (code, said) = job.fails(&["--dry-run"]);
        assert!(code == 2 && said.contains("can only be appended to") && said.contains("Kafka"), "{code} {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_a_key_is_refused_and_not_written_under_no_key() {
    let select = "SELECT symbol AS key, CAST(count(*) AS STRING) AS value FROM ticks GROUP BY symbol";
    let job = Job::new(&Text { watermark: "", sink: "outputMode = 'update'", select }).await;
    job.send(0..10);
    let (_, said) = job.inner.fails(&["--available-now"]);
    assert!(said.contains("has the key NULL") && said.contains("COALESCE"), "{said}");
    assert!(visible(&job.target, PARTITIONS).is_empty());
    let named = select.replace("symbol AS key", "COALESCE(symbol, 'none') AS key");
    job.write(&Text { watermark: "", sink: "outputMode = 'update'", select: &named });
    job.run();
    assert!(visible(&job.target, PARTITIONS).contains(&("none".to_owned(), "1".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_output_mode_goes_on_only_where_the_state_says_enough() {
    let windows = "SELECT window_start, symbol, count(*) AS n FROM TUMBLE(ticks, ts, INTERVAL '10 seconds') \
         GROUP BY window_start, window_end, symbol";
    let text = |mode: &'static str| Text {
        watermark: ", WATERMARK FOR ts AS ts - INTERVAL '5' SECOND",
        sink: match mode {
            "append" => "outputMode = 'append', 'key.fields' = 'symbol,window_start'",
            "update" => "outputMode = 'update', 'key.fields' = 'symbol,window_start'",
            _ => "outputMode = 'complete', 'key.fields' = 'symbol,window_start'",
        },
        select: windows,
    };
    for (old, new, expected) in [
        ("append", "update", "its state was kept for output mode append, the query now says update"),
        ("update", "append", "its state was kept for output mode update, the query now says append"),
        ("update", "complete", "it forgot the windows that its WATERMARK had passed"),
    ] {
        let job = Job::new(&text(old)).await;
        job.send(0..40);
        job.run();
        job.write(&text(new));
        let (code, said) = job.inner.fails(&["--available-now"]);
        assert!(code == 1 && said.contains(expected) && said.contains("help:"), "{code} {said}");
        job.write(&text(old));
        job.run();
    }
}
