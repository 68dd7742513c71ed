//! The real binary from the real Kafka to the real HDFS, against R in the same run.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig,
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use serde_json::Value;

use crate::measure::{Usage, process, quantile};

/// Records of the throughput runs; `TIDEMILL_BENCH_RECORDS` changes it (10 million for the memory figure).
const RECORDS: usize = 1_000_000;
const RUNS: usize = 3;

pub struct Setup {
    pub brokers: String,
    hdfs: String,
    directory: tempfile::TempDir,
}

impl Setup {
    pub fn new() -> Self {
        let service = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: eval \"$(scripts/services.sh env)\""))
        };
        Self {
            brokers: service("TIDEMILL_TEST_KAFKA"),
            hdfs: service("TIDEMILL_TEST_HDFS"),
            directory: tempfile::tempdir().expect("a directory"),
        }
    }
}

/// `TIDEMILL_BENCH_RECORDS`, or else `RECORDS`.
pub fn records() -> usize {
    std::env::var("TIDEMILL_BENCH_RECORDS").map_or(RECORDS, |n| n.parse().expect("a count"))
}

pub fn run() {
    let setup = Setup::new();
    let records = records();
    throughput(&setup, records);
    start_to_first_commit(&setup);
    small_batches(&setup);
    latency(&setup);
}

pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}

pub fn tidemill() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tidemill"))
}

/// Fills a topic of one partition with the simulator's records.
pub fn fill(setup: &Setup, topic: &str, records: usize) {
    let status = tidemill()
        .args(["produce", "simulate", "--brokers", &setup.brokers, "--topic", topic, "--partitions", "1"])
        .args(["--rate", "max", "--count", &records.to_string(), "--seed", "1", "--quiet"])
        .args(["--start", "2024-01-01T00:00:00", "--step", "10ms"])
        .stdout(Stdio::null())
        .status()
        .expect("produce");
    assert!(status.success());
}

fn job(setup: &Setup, topic: &str, format: &str, output: &str) -> PathBuf {
    job_of(setup, topic, output, ("timestamp STRING", format, "SELECT * FROM prices"))
}

/// `timestamp` is the declaration of that column, with a watermark if the SELECT has windows. `format` is that of files, or
/// `kafka TOPIC` for updates by `key`.
pub fn job_of(setup: &Setup, topic: &str, output: &str, (timestamp, format, select): (&str, &str, &str)) -> PathBuf {
    let sink = match format.split_once(' ') {
        None => format!("connector = 'file', path = '{output}/data', format = '{format}'"),
        Some((_, topic)) => format!(
            "connector = 'kafka', 'kafka.bootstrap.servers' = '{}', topic = '{topic}', format = 'json', \
             'key.fields' = 'key', outputMode = 'update'",
            setup.brokers
        ),
    };
    let path = setup.directory.path().join(format!("{}.sql", unique("job")));
    let text = format!(
        "CREATE TABLE prices ({timestamp}, buy_price DOUBLE, sell_price DOUBLE, volume BIGINT, volatility DOUBLE,
           buy_price_normalized DOUBLE, sell_price_normalized DOUBLE, volume_normalized DOUBLE)
         WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{}', subscribe = '{topic}',
               startingOffsets = 'earliest', format = 'json');
         CREATE TABLE stored WITH ({sink}, checkpointLocation = '{output}/checkpoint');
         INSERT INTO stored {select};",
        setup.brokers
    );
    std::fs::write(&path, text).expect("the job file");
    path
}

pub const EVENT_TIME: &str = "timestamp TIMESTAMP, WATERMARK FOR timestamp AS timestamp - INTERVAL '10' SECOND";

const OHLC: &str = "SELECT window_start, window_end, first_value(sell_price ORDER BY timestamp) AS open,
       max(sell_price) AS high, min(sell_price) AS low, last_value(sell_price ORDER BY timestamp) AS close,
       sum(volume) AS volume, sum(sell_price * volume) / sum(volume) AS vwap
     FROM TUMBLE(prices, timestamp, INTERVAL '1 minute') GROUP BY window_start, window_end";

pub fn output(setup: &Setup, store: &str) -> String {
    match store {
        "hdfs" => format!("{}/bench/{}", setup.hdfs, unique("out")),
        _ => setup.directory.path().join(unique("out")).display().to_string(),
    }
}

fn throughput(setup: &Setup, records: usize) {
    let topic = unique("bench");
    fill(setup, &topic, records);
    let this = std::env::current_exe().expect("this binary");
    let mut figures: Vec<(&str, Vec<Usage>)> =
        vec![("R", vec![]), ("parquet", vec![]), ("csv", vec![]), ("ohlc", vec![])];
    for _ in 0..RUNS {
        for (name, usages) in &mut figures {
            let usage = if *name == "R" {
                process(Command::new(&this).args(["reference", &setup.brokers, &topic, &records.to_string()]))
            } else {
                let output = output(setup, "hdfs");
                let job = match *name {
                    "ohlc" => job_of(setup, &topic, &output, (EVENT_TIME, "parquet", OHLC)),
                    format => job(setup, &topic, format, &output),
                };
                run_job(&job)
            };
            usages.push(usage);
        }
    }
    let median =
        |usages: &[Usage], of: fn(&Usage) -> f64| quantile(&mut usages.iter().map(of).collect::<Vec<_>>(), 0.5);
    let reference = median(&figures[0].1, |usage| usage.cpu_s);
    for (name, usages) in &figures {
        let cpu = median(usages, |usage| usage.cpu_s);
        println!(
            "{name:8} {records} records: CPU {cpu:.2} s = {:.2} us a record = {:.2} R, wall {:.2} s, resident {:.0} MB",
            cpu * 1e6 / records as f64,
            cpu / reference,
            median(usages, |usage| usage.wall_s),
            median(usages, |usage| usage.resident_mb),
        );
    }
}

/// Runs a job to the end of its topic, and checks that every record is accounted for in its files.
pub fn run_job(job: &PathBuf) -> Usage {
    let arguments = ["--available-now", "--progress", "none"];
    let usage = process(tidemill().arg("stream").arg(job).args(arguments).stderr(Stdio::null()));
    // What was written to Kafka is not recounted.
    if std::fs::read_to_string(job).expect("the job file").contains("connector = 'file'") {
        let verified = tidemill().arg("verify").arg(job).stdout(Stdio::null()).status().expect("verify");
        assert!(verified.success(), "every record is accounted for");
    }
    usage
}

/// A running job whose progress can be read line by line.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(job: &PathBuf, arguments: &[&str]) -> Self {
        let mut child = tidemill()
            .arg("stream")
            .arg(job)
            .args(["--progress", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("stream");
        let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("a batch").expect("a line");
        serde_json::from_str(&line).expect("progress")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_to_first_commit(setup: &Setup) {
    let topic = unique("bench");
    fill(setup, &topic, 1000);
    let mut times = Vec::new();
    for _ in 0..5 {
        let job = job(setup, &topic, "parquet", &output(setup, "hdfs"));
        let start = Instant::now();
        let mut running = Running::start(&job, &[]);
        assert_eq!(running.next()["numInputRows"], 1000);
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    println!("process start to first committed batch on HDFS: median {:.0} ms", quantile(&mut times, 0.5));
}

fn producer(setup: &Setup) -> ThreadedProducer<DefaultProducerContext> {
    ClientConfig::new()
        .set("bootstrap.servers", &setup.brokers)
        .set("linger.ms", "2")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .expect("a producer")
}

const RECORD: &str = r#"{"timestamp": "2024-01-01T00:00:00.123456", "buy_price": 43210.12, "sell_price": 43215.34, "volume": 1234, "volatility": 2.34, "buy_price_normalized": 0.580253, "sell_price_normalized": 0.5803835, "volume_normalized": 0.0585}"#;

fn send(producer: &ThreadedProducer<DefaultProducerContext>, topic: &str) {
    while producer.send(BaseRecord::<(), str>::to(topic).partition(0).payload(RECORD)).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn small_batches(setup: &Setup) {
    for store in ["local", "hdfs"] {
        let topic = unique("bench");
        fill(setup, &topic, 1);
        let job = job(setup, &topic, "parquet", &output(setup, store));
        let mut running = Running::start(&job, &[]);
        running.next();
        let producer = producer(setup);
        let mut durations = Vec::new();
        for _ in 0..40 {
            for _ in 0..10 {
                send(&producer, &topic);
            }
            producer.flush(Duration::from_secs(5)).expect("flushed");
            let progress = running.next();
            durations.push(progress["durationMs"]["triggerExecution"].as_f64().expect("a number"));
        }
        let p90 = quantile(&mut durations, 0.9);
        println!("a batch of 10 records, {store}: median {:.0} ms, p90 {p90:.0} ms", quantile(&mut durations, 0.5));
    }
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs_f64() * 1000.0
}

/// Records a second of the latency bench: about half of what the produce-consume-commit loop sustains here.
const LATENCY_RATE: usize = 50_000;

fn latency(setup: &Setup) {
    let topic = unique("bench");
    fill(setup, &topic, 1);
    let job = job(setup, &topic, "parquet", &output(setup, "hdfs"));
    let mut running = Running::start(&job, &["--trigger", "200ms"]);
    running.next();
    let producer = producer(setup);
    let total = LATENCY_RATE * 10;
    let (brokers_topic, sent) = (topic.clone(), std::sync::Arc::new(std::sync::Mutex::new(vec![0.0; 1])));
    let sending = std::sync::Arc::clone(&sent);
    let thread = std::thread::spawn(move || {
        let start = Instant::now();
        for index in 0..total {
            let due = Duration::from_secs_f64(index as f64 / LATENCY_RATE as f64);
            if let Some(wait) = due.checked_sub(start.elapsed()) {
                std::thread::sleep(wait);
            }
            sending.lock().expect("a lock").push(now_ms());
            send(&producer, &brokers_topic);
        }
        producer.flush(Duration::from_secs(10)).expect("flushed");
    });
    let mut latencies = Vec::with_capacity(total);
    let mut end = 1;
    while end < total + 1 {
        let progress = running.next();
        let seen_ms = now_ms();
        let to = progress["sources"][0]["endOffset"][&topic]["0"].as_u64().expect("an offset") as usize;
        let sent = sent.lock().expect("a lock");
        latencies.extend(sent[end..to].iter().map(|sent_ms| seen_ms - sent_ms));
        end = to;
    }
    thread.join().expect("the producer");
    assert_eq!(latencies.len(), total);
    println!(
        "append to visible on HDFS, {LATENCY_RATE} records/s, 200 ms trigger: median {:.0} ms, p99 {:.0} ms",
        quantile(&mut latencies, 0.5),
        quantile(&mut latencies, 0.99)
    );
}
