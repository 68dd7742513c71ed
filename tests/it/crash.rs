//! kill -9 at every named step of the protocol and at random moments, on the real Kafka and the real HDFS; and a
//! reader that looks all the while.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng};
use tidemill::store::Store;

use crate::support::{
    hdfs,
    job::{JobText, TestJob, prices, send, visible_files},
    kafka::create_topic,
};

/// Every point at which the process can die between two batches, in the order of the protocol.
const STEPS: [&str; 7] = ["offsets", "staged", "prepared", "publishing", "published", "logged", "committed"];

/// Looks at the directory until told to stop: what was seen once must never change or vanish, and no row may be there
/// twice.
struct Watcher {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<usize>,
}

impl Watcher {
    fn start(store: Store) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut seen: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            let mut looks = 0;
            while !stopping.load(Ordering::Relaxed) {
                let now = visible_files(&store).await;
                for (path, bytes) in &seen {
                    assert_eq!(now.get(path), Some(bytes), "{path} changed or vanished");
                }
                let mut lines: Vec<&[u8]> = now
                    .values()
                    .flat_map(|bytes| bytes.split(|b| *b == b'\n'))
                    .filter(|line| !line.is_empty())
                    .collect();
                assert!(now.values().all(|bytes| bytes.ends_with(b"\n")), "a torn file");
                let count = lines.len();
                lines.sort_unstable();
                lines.dedup();
                assert_eq!(lines.len(), count, "a row is there twice");
                seen = now;
                looks += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            looks
        });
        Self { stop, task }
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.task.await.expect("the reader saw nothing wrong") > 0);
    }
}

async fn dies_at_every_step(root: Option<&str>) {
    for (index, step) in STEPS.into_iter().enumerate() {
        let text = JobText {
            source: ", maxOffsetsPerTrigger = 200",
            sink: "format = 'csv', maxRecordsPerFile = 60",
            ..JobText::default()
        };
        let job = TestJob::new(root, &text);
        create_topic(&job.topic, 2).await;
        let (records, lines) = prices(0..1000);
        send(&job.topic, 0, &records[..600]);
        send(&job.topic, 1, &records[600..]);
        let watcher = Watcher::start(job.store().await);
        let batch = index % 3;
        let crash = format!("{step}:{batch}");
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", &crash).output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{crash}: {output:?}");
        job.run();
        watcher.finish().await;
        assert_eq!(job.lines().await, lines, "{crash}: by the directory");
        assert_eq!(job.logged_lines().await, lines, "{crash}: by the log");
        let hidden = job.store().await.list_all("").await.unwrap();
        assert!(!hidden.iter().any(|entry| entry.path.ends_with(".tmp")), "{crash}: temporaries are swept: {hidden:?}");
        let (ok, verdict) = job.verify();
        assert!(ok, "{crash}: {verdict}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_on_hdfs() {
    dies_at_every_step(Some(&hdfs())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_on_a_local_disk() {
    dies_at_every_step(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_random_moments_on_hdfs() {
    let seed = std::env::var("TIDEMILL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("TIDEMILL_SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let text = JobText { source: ", maxOffsetsPerTrigger = 500", ..JobText::default() };
    let job = TestJob::new(Some(&hdfs()), &text);
    create_topic(&job.topic, 1).await;
    let (records, lines) = prices(0..20_000);
    send(&job.topic, 0, &records);
    let watcher = Watcher::start(job.store().await);
    for _ in 0..8 {
        let mut child = job.command(&["--available-now", "--progress", "none"]).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1500))).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    job.run();
    watcher.finish().await;
    assert_eq!(job.lines().await, lines, "seed {seed}");
    assert_eq!(job.logged_lines().await, lines, "seed {seed}");
    let (ok, verdict) = job.verify();
    assert!(ok, "seed {seed}: {verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_instances_one_stays_and_nothing_is_lost_or_double() {
    let text = JobText { source: ", maxOffsetsPerTrigger = 100", ..JobText::default() };
    let job = TestJob::new(Some(&hdfs()), &text);
    create_topic(&job.topic, 1).await;
    let (records, lines) = prices(0..5000);
    send(&job.topic, 0, &records);
    let watcher = Watcher::start(job.store().await);
    let start = || job.command(&["--available-now"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut children = Vec::new();
    for _ in 0..6 {
        children.push(start());
        // Some start together, some while the others are at their batches.
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    let outputs: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let losers: Vec<_> = outputs.iter().filter(|output| !output.status.success()).collect();
    assert!(losers.len() >= outputs.len() - 1, "at most one instance wins: {outputs:?}");
    for loser in losers {
        let error = String::from_utf8_lossy(&loser.stderr);
        assert!(error.contains("written by another instance") || error.contains("another"), "{error}");
    }
    job.run();
    watcher.finish().await;
    assert_eq!(job.lines().await, lines);
    assert_eq!(job.logged_lines().await, lines);
    let (ok, verdict) = job.verify();
    assert!(ok, "{verdict}");
}
