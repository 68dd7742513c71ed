//! Starts that find something else than they left: a topic that is ahead, another engine's files, records that are
//! gone. Refused without harm to who is well, or gone on with and counted.

use std::{path::Path, process::Stdio, time::Duration};

use rdkafka::{Offset, TopicPartitionList, admin::AdminOptions};
use tidemill::store::Store;

use crate::support::{
    job::{JobText, TestJob, prices, send, visible_files},
    kafka,
    kafka::{admin, create_topic, delete_topic},
    signal,
};

const LENIENT: JobText<'_> = JobText {
    columns: "id BIGINT, price DOUBLE",
    source: ", failOnDataLoss = 'false'",
    sink: "format = 'csv'",
    select: "SELECT id, price FROM prices",
};

fn assert_all(error: &str, expected: &[&str]) {
    for part in expected {
        assert!(error.contains(part), "{part:?} is not in:\n{error}");
    }
}

/// A job that copies the topic to `TOPIC-out`, with its checkpoint at `checkpoint`.
fn write_copy_job(job: &TestJob, checkpoint: &str) {
    let sql = format!(
        "CREATE TABLE prices (id BIGINT, price DOUBLE) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{0}',
           subscribe = '{1}', startingOffsets = 'earliest', format = 'json');
         CREATE TABLE copies WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{0}', topic = '{1}-out',
           checkpointLocation = '{checkpoint}');
         INSERT INTO copies SELECT CAST(id AS VARCHAR) AS value FROM prices;",
        kafka(),
        job.topic,
    );
    std::fs::write(&job.file, sql).unwrap();
}

async fn wait_for(path: &str) {
    for _ in 0..600 {
        if Path::new(path).exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path} did not appear");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_ahead_of_its_checkpoint_is_refused_and_who_is_well_is_not_fenced() {
    let job = TestJob::new(None, &JobText::default());
    create_topic(&job.topic, 1).await;
    create_topic(&format!("{}-out", job.topic), 1).await;
    let (current, old) = (job.checkpoint(), format!("{}-old", job.checkpoint()));
    write_copy_job(&job, &current);
    send(&job.topic, 0, &prices(0..10).0);
    job.run();
    assert!(std::process::Command::new("cp").args(["-r", &current, &old]).status().unwrap().success());
    send(&job.topic, 0, &prices(10..20).0);
    let well = job.command(&["--progress", "none"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&format!("{current}/commits/1")).await;
    write_copy_job(&job, &old);
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 1);
    assert_all(
        &error,
        &["the topic has batch 1 of this query", &old, "is older", "help: restore the newer checkpoint"],
    );
    send(&job.topic, 0, &prices(20..30).0);
    wait_for(&format!("{current}/commits/2")).await;
    signal(&well, "TERM");
    let output = well.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_beside_another_engines_batch() {
    let job = TestJob::new(None, &JobText { source: ", maxOffsetsPerTrigger = 100", ..JobText::default() });
    create_topic(&job.topic, 1).await;
    let (records, lines) = prices(0..200);
    send(&job.topic, 0, &records);
    let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", "prepared:1").output().unwrap();
    assert!(!output.status.success());
    let (first, foreign) = (job.lines().await, format!("{}/_spark_metadata/1", job.output));
    assert_eq!(first.len(), 100);
    let entry = format!(
        "v1\n{{\"path\":\"file://{}/part-00000-3f584345-25bd-46ca-bba9-322fb20734a2-c000.csv\",\"size\":5,\
         \"isDir\":false,\"modificationTime\":1795226946197,\"blockReplication\":1,\"blockSize\":33554432,\
         \"action\":\"add\"}}",
        job.output
    );
    std::fs::write(&foreign, entry).unwrap();
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 1);
    assert_all(&error, &["the output's log has batch 1 with other files", "help: another engine"]);
    assert_eq!(job.lines().await, first, "nothing more is visible");
    std::fs::remove_file(&foreign).unwrap();
    job.run();
    assert_eq!(job.lines().await, lines);
    let (ok, verdict) = job.verify();
    assert!(ok, "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_a_batch_in_doubt_stay_where_they_were_staged() {
    let job = TestJob::new(None, &JobText::default());
    create_topic(&job.topic, 1).await;
    send(&job.topic, 0, &["{\"id\": 1, \"price\": 1.5}".to_owned(), "bad".to_owned()]);
    let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", "prepared:0").output().unwrap();
    assert!(!output.status.success());
    let (old, new) = (format!("{}_dead_letter", job.output), format!("{}_elsewhere", job.output));
    let option = format!(", deadLetterPath = '{new}'");
    job.write(&JobText { source: &option, ..JobText::default() });
    job.run();
    let files = async |url: &str| visible_files(&Store::open(url).await.unwrap()).await.len();
    assert_eq!((files(&old).await, files(&new).await), (1, 0));
    send(&job.topic, 0, &["worse".to_owned(), "{\"id\": 2, \"price\": 2.5}".to_owned()]);
    job.run();
    assert_eq!((files(&old).await, files(&new).await), (1, 1));
    assert_eq!(job.lines().await, ["1,1.5", "2,2.5"]);
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains("2 kept"), "{verdict}");
}

async fn create_again(topic: &str, partitions: i32) {
    delete_topic(topic).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    create_topic(topic, partitions).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_again_with_fewer_partitions_is_counted_back() {
    let job = TestJob::new(None, &JobText::default());
    create_topic(&job.topic, 2).await;
    let (records, _) = prices(0..150);
    send(&job.topic, 0, &records[..100]);
    send(&job.topic, 1, &records[100..]);
    let mut deleted = TopicPartitionList::new();
    deleted.add_partition_offset(&job.topic, 1, Offset::Offset(20)).unwrap();
    admin().delete_records(&deleted, &AdminOptions::new()).await.unwrap();
    job.run();
    let mut lines = [prices(0..100).1, prices(120..150).1].concat();
    create_again(&job.topic, 1).await;
    send(&job.topic, 0, &prices(1000..1010).0);
    let (code, error) = job.fails(&["--available-now"]);
    assert_eq!(code, 1);
    assert_all(&error, &["-0 ends at offset 10, but we had read up to 100", "-1 is gone", "failOnDataLoss"]);
    job.write(&LENIENT);
    job.run();
    lines.extend(prices(1000..1010).1);
    send(&job.topic, 0, &prices(1010..1400).0);
    job.run();
    lines.extend(prices(1010..1400).1);
    lines.sort();
    assert_eq!(job.lines().await, lines);
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains("380 from") && verdict.contains(" + 150 gone back = 530 records"), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_announced_before_its_topic_was_created_again_reads_nothing_of_the_new_one() {
    let job = TestJob::new(None, &LENIENT);
    create_topic(&job.topic, 2).await;
    send(&job.topic, 0, &prices(0..100).0);
    send(&job.topic, 1, &prices(100..150).0);
    job.run();
    send(&job.topic, 0, &prices(150..200).0);
    let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", "offsets:1").output().unwrap();
    assert!(!output.status.success());
    create_again(&job.topic, 2).await;
    send(&job.topic, 0, &prices(2000..2005).0);
    send(&job.topic, 1, &prices(3000..3005).0);
    job.run();
    let mut lines = [prices(0..150).1, prices(2000..2005).1, prices(3000..3005).1].concat();
    lines.sort();
    assert_eq!(job.lines().await, lines);
    let (ok, verdict) = job.verify();
    assert!(ok && verdict.contains("160 records + 50 gaps"), "{verdict}");
}
