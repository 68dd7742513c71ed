//! Nexmark: the queries of `tests/nexmark` over the real broker, in random batches and across a `kill -9`, give what one
//! batch query gives, and what the events say without any SQL.

mod expected;
mod generator;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::producer::{BaseRecord, Producer};
use serde_json::Value;
use tidemill::store::Store;

use self::generator::{Event, Timed};
use crate::support::{
    job::visible_files,
    kafka::{TIMEOUT, create_topic, producer, visible},
    tidemill, unique,
};

const PARTITIONS: i32 = 2;
const EVENTS: usize = 4_000;
const SEED: u64 = 20;
/// In output mode update, into a topic: the newest row of each key counts.
const UPSERTS: &[&str] = &["q15", "q16", "q17", "q18"];
/// Windows that are open when all is read are in the batch query only: those of the last day.
const WINDOWED: &[&str] = &["q5", "q5_joined", "q7", "q8", "q11", "q12"];
const LAST_DAY: &str = "2024-01-03";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nexmark")
}

/// The job files of a folder, by their names.
fn queries(folder: &Path) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_query = |path: &PathBuf| path.extension().is_some_and(|it| it == "sql") && !path.ends_with("tables.sql");
    let read = |path: PathBuf| {
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap())
    };
    files.filter(is_query).map(read).collect()
}

/// The SELECT of a query's INSERT.
fn select<'a>(name: &str, text: &'a str) -> &'a str {
    let (_, select) = text.split_once(&format!("INSERT INTO {name}\n")).unwrap();
    select.trim().trim_end_matches(';')
}

/// One job with all queries.
struct Nexmark {
    directory: tempfile::TempDir,
    topic: String,
    variables: Vec<String>,
}

impl Nexmark {
    fn new(text: &str) -> Self {
        let (directory, topic) = (tempfile::tempdir().unwrap(), unique("nexmark"));
        // Batches of any size, each table with its own.
        let mut rng = ChaCha8Rng::seed_from_u64(rand::random());
        let (persons, auctions, bids) =
            (rng.random_range(10..40), rng.random_range(30..100), rng.random_range(300..1_000));
        eprintln!("batches of {persons} persons, {auctions} auctions, {bids} bids");
        let variables = [
            format!("KAFKA={}", crate::support::kafka()),
            format!("TOPIC={topic}"),
            format!("DIR={}", directory.path().display()),
            format!("PERSONS={persons}"),
            format!("AUCTIONS={auctions}"),
            format!("BIDS={bids}"),
        ];
        let tables = std::fs::read_to_string(folder().join("tables.sql")).unwrap();
        std::fs::write(directory.path().join("job.sql"), format!("{tables}\n{text}")).unwrap();
        Self { directory, topic, variables: variables.to_vec() }
    }

    /// The process, with the job and its variables.
    fn command(&self, before: &[&str]) -> Command {
        let mut command = Command::new(tidemill());
        command.args(before).arg(self.path("job.sql"));
        for variable in &self.variables {
            command.args(["-D", variable]);
        }
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn send(&self, events: &[Timed]) {
        let producer = producer(&crate::support::kafka(), &[]);
        for timed in events {
            let kind = match &timed.event {
                Event::Person(_) => "person",
                Event::Auction(_) => "auction",
                Event::Bid(_) => "bid",
            };
            let topic = format!("{}-{kind}", self.topic);
            let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&topic).partition(timed.partition);
            let record = record.payload(timed.json.as_bytes()).timestamp(timed.arrival_ms);
            producer.send(record).map_err(|(error, _)| error).unwrap();
            producer.poll(Duration::ZERO);
        }
        producer.flush(TIMEOUT).unwrap();
    }

    /// What a reader of the output of a query sees.
    async fn written(&self, name: &str) -> Vec<String> {
        if UPSERTS.contains(&name) {
            let newest: BTreeMap<String, String> = visible(&format!("{}-{name}", self.topic), 1).into_iter().collect();
            return newest.into_values().collect();
        }
        let store = Store::open(self.path(name).join("data").to_str().unwrap()).await.unwrap();
        let mut lines = Vec::new();
        for (path, bytes) in visible_files(&store).await {
            // The columns that are in the names of directories come last, as in the SELECT.
            let values: Vec<&str> = path.split('/').filter_map(|part| Some(part.split_once('=')?.1)).collect();
            let tail: String = values.iter().map(|value| format!(",{}", value.replace("%3A", ":"))).collect();
            lines.extend(String::from_utf8(bytes).unwrap().lines().map(|line| format!("{line}{tail}")));
        }
        lines
    }

    /// Runs all SELECTs over the topics as they are; the lines of each.
    fn batch(&self, queries: &BTreeMap<String, String>) -> BTreeMap<String, Vec<String>> {
        std::fs::create_dir(self.path("batch")).unwrap();
        let file = |name: &str| {
            let extension = if UPSERTS.contains(&name) { "json" } else { "csv" };
            self.path("batch").join(format!("{name}.{extension}"))
        };
        let copy = |(name, text): (&String, &String)| {
            let options = if UPSERTS.contains(&name.as_str()) { "" } else { " OPTIONS ('header' 'false')" };
            format!("COPY ({}) TO '{}'{options};\n", select(name, text), file(name).display())
        };
        let script: String = queries.iter().map(copy).collect();
        std::fs::write(self.path("batch.sql"), script).unwrap();
        succeeds(self.command(&["query", "--job"]).arg("--file").arg(self.path("batch.sql")));
        let lines = |name: &String| {
            let text = std::fs::read_to_string(file(name)).unwrap();
            (name.clone(), text.lines().map(str::to_owned).collect())
        };
        queries.keys().map(lines).collect()
    }
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Sorted, without fractions of a second that are zero, and without windows that are still open. Numbers in JSON may be
/// written as 1.0E7 or not.
fn normal(name: &str, lines: &[String]) -> Vec<String> {
    let is_written = |line: &&String| !WINDOWED.contains(&name) || !line.contains(LAST_DAY);
    let plain = |line: &String| match line.starts_with('{') {
        true => serde_json::from_str::<Value>(line).unwrap().to_string().replace(".000\"", "\""),
        false => line.replace(".000", ""),
    };
    let mut lines: Vec<String> = lines.iter().filter(is_written).map(plain).collect();
    lines.sort();
    lines
}

/// Shows what differs only: there are thousands of lines.
fn same(left: &[String], right: &[String], what: &str) {
    let without = |lines: &[String], others: &[String]| {
        let gone: Vec<String> =
            lines.iter().filter(|line| others.binary_search(line).is_err()).take(5).cloned().collect();
        gone
    };
    let (missing, more) = (without(right, left), without(left, right));
    assert!(left == right, "{what}: {} lines and {}; missing {missing:#?}, more {more:#?}", left.len(), right.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queries_over_a_stream_are_those_of_a_batch_and_of_the_events() {
    let queries = queries(&folder());
    let job = Nexmark::new(&queries.values().cloned().collect::<String>());
    for name in ["person", "auction", "bid"] {
        create_topic(&format!("{}-{name}", job.topic), PARTITIONS).await;
    }
    for name in UPSERTS {
        create_topic(&format!("{}-{name}", job.topic), 1).await;
    }
    std::fs::create_dir(job.path("side_input")).unwrap();
    let side: String = (0..100).filter_map(|key| Some(format!("{key},{}\n", expected::side_input(key)?))).collect();
    std::fs::write(job.path("side_input/values.csv"), side).unwrap();
    let events = generator::events(SEED, EVENTS, PARTITIONS);
    job.send(&events);

    let killed = job.command(&["stream", "--available-now"]).env("TIDEMILL_CRASH", "prepared:2").output().unwrap();
    assert!(!killed.status.success());
    succeeds(&mut job.command(&["stream", "--available-now"]));
    succeeds(&mut job.command(&["verify"]));

    let batch = job.batch(&queries);
    for name in queries.keys() {
        let written = normal(name, &job.written(name).await);
        assert!(!written.is_empty(), "{name} wrote nothing");
        same(&written, &normal(name, &batch[name]), &format!("{name}, stream and batch"));
        // Only query 16 has none: it is 15 and 17 in one.
        match expected::lines(name, &events) {
            Some(expected) => same(&written, &normal(name, &expected), &format!("{name}, SQL and events")),
            None => assert_eq!(name, "q16"),
        }
    }
}

#[test]
fn what_a_stream_cannot_answer_is_refused_with_the_way_out() {
    let refused = queries(&folder().join("refused"));
    let names: Vec<&str> = refused.keys().map(String::as_str).collect();
    assert_eq!(names, ["q12", "q19", "q20", "q3", "q4", "q6", "q9"]);
    for (name, text) in &refused {
        let output = Nexmark::new(text).command(&["stream", "--dry-run"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains("help: ") && said.contains(&format!("INSERT INTO {name}")), "{name}: {said}");
    }
}
