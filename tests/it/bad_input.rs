//! Mistakes and broken surroundings: one clear error, a non-zero exit, nothing lost.

use crate::support::{
    hdfs,
    job::{JobText, TestJob, prices, send},
    kafka::create_topic,
};

/// A job whose topic holds ten records.
async fn ready(root: Option<&str>, text: &JobText<'_>) -> TestJob {
    let job = TestJob::new(root, text);
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &prices(0..10).0);
    job
}

fn assert_all(error: &str, expected: &[&str]) {
    for part in expected {
        assert!(error.contains(part), "{part:?} is not in:\n{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_option_names_its_place_and_the_nearest() {
    let job = ready(None, &JobText { source: ", maxOffsetPerTrigger = 5", ..JobText::default() }).await;
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 2);
    assert_all(&error, &["maxOffsetPerTrigger", "maxOffsetsPerTrigger", "job.sql:2:", "^^^"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_column_names_its_place_and_the_nearest() {
    let job = ready(None, &JobText { select: "SELECT id, prize FROM prices", ..JobText::default() }).await;
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 2);
    assert_all(&error, &["prize", "price", "job.sql:", "^^^^^"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_topic_names_the_nearest() {
    let job = ready(None, &JobText::default()).await;
    let text = std::fs::read_to_string(&job.file).unwrap();
    let misspelt = format!("{}x", job.topic);
    std::fs::write(&job.file, text.replace(&job.topic, &misspelt)).unwrap();
    let (code, error) = job.fails(&["--available-now"]);
    assert_ne!(code, 0);
    assert_all(&error, &[&misspelt, &job.topic]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_broker_is_said_within_seconds() {
    let job = ready(None, &JobText::default()).await;
    let text = std::fs::read_to_string(&job.file).unwrap();
    std::fs::write(&job.file, text.replace(&crate::support::kafka(), "127.0.0.1:1")).unwrap();
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 3);
    assert_all(&error, &["127.0.0.1:1", "help:"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_node_is_said_within_seconds() {
    let job = ready(Some("hdfs://127.0.0.1:1"), &JobText::default()).await;
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 3);
    assert_all(&error, &["127.0.0.1:1", "help:"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_node_that_never_answers_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let root = format!("hdfs://{}", silent.local_addr().unwrap());
    let job = ready(Some(&root), &JobText::default()).await;
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 3);
    assert_all(&error, &[&silent.local_addr().unwrap().to_string(), "help:"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_permission_nothing_is_written() {
    let job = ready(Some(&hdfs()), &JobText::default()).await;
    let output = job.command(&["--available-now"]).env("HADOOP_USER_NAME", "a-stranger").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_all(&error.to_lowercase(), &["permission"]);
    job.run();
    assert_eq!(job.lines().await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_nothing_is_lost() {
    let text = JobText { source: ", maxOffsetsPerTrigger = 50000", ..JobText::default() };
    let job = TestJob::new(None, &text);
    create_topic(&job.topic, 1).await;
    let (records, lines) = prices(0..200_000);
    send(&job.topic, 0, &records);
    let out = job.directory.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let _mounted = SmallDisk::mount(&out);
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 1);
    assert_all(&error, &["No space left", "help: free space"]);
    // More room, and it goes on where it stopped.
    let grown = std::process::Command::new("mount").args(["-o", "remount,size=64m"]).arg(&out).status().unwrap();
    assert!(grown.success());
    job.run();
    assert_eq!(job.lines().await, lines);
    let (ok, verdict) = job.verify();
    assert!(ok, "{verdict}");
}

/// A file system of 2 MiB, which needs root (as in CI and containers).
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path) -> Self {
        let mount =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(at).status();
        assert!(mount.unwrap().success(), "the test of the full disk must be root to mount a small one");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_query_on_an_old_checkpoint_is_refused() {
    let job = ready(None, &JobText::default()).await;
    job.run();
    send(&job.topic, 0, &prices(10..20).0);
    job.write(&JobText { select: "SELECT id, price, price * 2 AS twice FROM prices", ..JobText::default() });
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 1);
    assert_all(&error, &["the checkpoint belongs to another query", "\"twice\" is new", "help:"]);
    let (_, dry) = job.fails(&["--dry-run"]);
    assert_all(&dry, &["\"twice\" is new"]);
    // A filter may change, as in Spark.
    job.write(&JobText { select: "SELECT id, price FROM prices WHERE id <> 15", ..JobText::default() });
    job.run();
    assert_eq!(job.lines().await.len(), 19);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_checkpoint_over_an_output_with_a_log_is_refused() {
    let job = ready(None, &JobText::default()).await;
    job.run();
    std::fs::remove_dir_all(job.checkpoint()).unwrap();
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 1);
    assert_all(&error, &["the checkpoint is new, but the output has a log", "help:"]);
    assert_eq!(job.lines().await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_output_and_a_damaged_checkpoint_are_refused() {
    let job = ready(None, &JobText::default()).await;
    job.run();
    let moved = format!("{}-moved", job.output);
    std::fs::rename(&job.output, &moved).unwrap();
    let (_, error) = job.fails(&["--available-now"]);
    assert_all(&error, &["no _spark_metadata", "help:"]);
    std::fs::rename(&moved, &job.output).unwrap();
    let offsets = std::path::Path::new(&job.checkpoint()).join("offsets/0");
    let text = std::fs::read_to_string(&offsets).unwrap();
    std::fs::write(&offsets, text.replace(":10}", ":90}")).unwrap();
    let (_, error) = job.fails(&["--available-now"]);
    assert_all(&error, &["offsets/0 cannot be trusted", "checksum", "help:"]);
    std::fs::write(&offsets, text).unwrap();
    job.run();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_one_batch_cannot_answer_is_refused_with_the_way_out() {
    for (select, expected) in [
        ("SELECT count(*) AS n FROM prices", "aggregate"),
        ("SELECT DISTINCT id FROM prices", "DISTINCT"),
        ("SELECT id, price FROM prices ORDER BY id", "ORDER BY"),
        ("SELECT id, price FROM prices LIMIT 5", "LIMIT"),
        ("SELECT a.id FROM prices a JOIN prices b ON a.id = b.id", "join"),
        ("SELECT id FROM prices WHERE id IN (SELECT id FROM prices)", "has no WATERMARK"),
        ("SELECT id, NULL AS nothing FROM prices", "without a type"),
        ("SELECT id, price AS id FROM prices", "ambiguous"),
    ] {
        let job = ready(None, &JobText { select, ..JobText::default() }).await;
        let (code, error) = job.fails(&["--available-now"]);
        assert_eq!(code, 2, "{error}");
        assert_all(&error, &[expected, "job.sql:"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failfast_stops_at_the_record_and_commits_nothing_of_the_batch() {
    let job = ready(None, &JobText { source: ", mode = 'FAILFAST'", ..JobText::default() }).await;
    send(&job.topic, 0, &["{\"id\": true}".to_owned()]);
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 1);
    assert_all(&error, &[&job.topic, "partition 0", "offset 10"]);
    assert!(job.lines().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_with_a_log_is_not_written_without_it() {
    let job = ready(None, &JobText::default()).await;
    job.run();
    send(&job.topic, 0, &prices(10..20).0);
    job.write(&JobText { sink: "format = 'csv', sparkMetadata = 'false'", ..JobText::default() });
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 1);
    assert_all(&error, &["sparkMetadata is false, but the output has a log", "help:"]);
    job.write(&JobText::default());
    job.run();
    assert_eq!(job.logged_lines().await.len(), 20);
}

/// What is written beside the rows must not be taken for rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_where_other_files_of_the_job_go_is_refused() {
    let columns = "id BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts";
    let select = "SELECT window_end, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '1 minute') GROUP BY window_start, window_end";
    let with = |suffix: &str, checkpoint: &str| {
        let job = TestJob::new(None, &JobText { columns, select, ..JobText::default() });
        let other = format!(
            "CREATE TABLE other WITH (connector = 'file', path = '{0}{suffix}/', format = 'csv',\n  \
             checkpointLocation = '{0}{checkpoint}');\nINSERT INTO other SELECT id FROM prices;\n",
            job.output
        );
        std::fs::write(&job.file, std::fs::read_to_string(&job.file).unwrap() + &other).unwrap();
        send(&job.topic, 0, &prices(0..1).0);
        job
    };
    for (suffix, checkpoint, expected) in [
        ("_dead_letter", "_cp", "dead letters of 'stored'"),
        ("_late", "_cp", "late rows of 'stored'"),
        ("_other", "_other/cp", "the checkpoint of 'other' is in the path"),
        ("_other", "/cp", "the checkpoint of 'other' is in the path"),
    ] {
        let job = with(suffix, checkpoint);
        for arguments in [&["--available-now"][..], &["--dry-run"]] {
            let (code, error) = job.fails(arguments);
            assert!(code == 2, "{error}");
            assert_all(&error, &[expected, "job.sql:", "help:"]);
        }
        assert!(!std::path::Path::new(&job.output).exists());
    }
    // A hidden name is nobody's rows; and without windows there are no late rows.
    with("_other", "_other/_cp").run();
    let job = with("_late", "_cp");
    std::fs::write(&job.file, std::fs::read_to_string(&job.file).unwrap().replace(select, "SELECT id FROM prices"))
        .unwrap();
    job.run();
}

/// DataFusion cannot put rows together in two orders at once: that is said before the first batch.
#[tokio::test(flavor = "multi_thread")]
async fn two_orders_in_one_aggregate_are_refused_at_the_start() {
    let columns = "id BIGINT, ts TIMESTAMP, price DOUBLE, WATERMARK FOR ts AS ts";
    let select = "SELECT window_start, window_end, string_agg(CAST(id AS STRING), ',' ORDER BY ts) AS a,
      string_agg(CAST(id AS STRING), ',' ORDER BY price) AS b
      FROM TUMBLE(prices, ts, INTERVAL '1 minute') GROUP BY window_start, window_end";
    let job = TestJob::new(None, &JobText { columns, select, ..JobText::default() });
    send(&job.topic, 0, &prices(0..1).0);
    for arguments in [&["--available-now"][..], &["--dry-run"]] {
        let (code, error) = job.fails(arguments);
        assert!(code == 2, "{error}");
        assert_all(&error, &["another ORDER BY each", "job.sql:5:1", "help: give them the same ORDER BY"]);
    }
    assert!(!std::path::Path::new(&job.output).exists());
}
