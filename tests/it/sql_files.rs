//! The job files of `sql/` against the real Kafka and the real HDFS, and what they leave there.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tidemill::store::Store;

use crate::support::{
    hdfs,
    job::{send, visible_files},
    kafka,
    kafka::admin,
    signal, tidemill, unique,
};

/// A running job of `sql/`, below a directory of its own.
struct Running {
    child: Child,
    root: String,
}

impl Running {
    /// Starts it and waits until it has fixed where it starts: the files say `startingOffsets = 'latest'`.
    async fn start(file: &str, checkpoints: &[&str]) -> Self {
        let root = format!("{}/{}", hdfs(), unique("sql"));
        let child = Command::new(tidemill())
            .arg("stream")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("sql").join(file))
            .args(["-D", &format!("KAFKA={}", kafka()), "-D", &format!("HDFS={root}"), "--progress", "none"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        for checkpoint in checkpoints {
            let store = Store::open(&format!("{root}/{checkpoint}")).await.unwrap();
            while store.read("sources/0/0").await.unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Self { child, root }
    }

    /// Waits until the directory has that many lines, and gives them, sorted.
    async fn lines(&self, directory: &str, count: usize) -> Vec<String> {
        let store = Store::open(&format!("{}/{directory}", self.root)).await.unwrap();
        for _ in 0..600 {
            let files = visible_files(&store).await;
            let text: String = files.values().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
            if text.lines().count() >= count {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort();
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{directory} did not get {count} lines");
    }

    /// Stops it clean and gives what it printed.
    fn stop(self) -> String {
        signal(&self.child, "TERM");
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// The files name their topics, so these are shared by all runs on this broker.
async fn ensure_topic(name: &str) {
    use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
    // It may be there from an earlier run.
    drop(admin().create_topics([&topic], &AdminOptions::new()).await.unwrap());
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binance_prices_on_the_screen_and_as_csv_on_hdfs() {
    ensure_topic("binance-topic").await;
    let job = Running::start("binance.sql", &["binance/checkpoint"]).await;
    // The console's query has a temporary checkpoint; it is as fast as the other.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let prices = ["16555.07", "16553.49", "16555.23"];
    let records: Vec<String> =
        prices.iter().map(|price| format!("{{\"symbol\": \"BTCUSDT\", \"price\": {price}}}")).collect();
    send("binance-topic", 0, &records);
    let lines = job.lines("binance/data", 3).await;
    assert_eq!(lines, ["BTCUSDT,16553.49", "BTCUSDT,16555.07", "BTCUSDT,16555.23"]);
    let screen = job.stop();
    let expected =
        "-------------------------------------------\nBatch: 0\n-------------------------------------------\n";
    assert!(screen.starts_with(expected), "{screen}");
    for row in ["|symbol |price   |", "|BTCUSDT|16555.07|", "|BTCUSDT|16553.49|", "|BTCUSDT|16555.23|"] {
        assert!(screen.contains(row), "{row} is not in\n{screen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_bitcoin_to_headerless_csv_on_hdfs_and_a_model_of_it() {
    ensure_topic("bitcointopic").await;
    let job = Running::start("bitcoin.sql", &["bitcoin/data/ii"]).await;
    let produced = Command::new(tidemill())
        .args(["produce", "simulate", "--brokers", &kafka(), "--topic", "bitcointopic", "--rate", "max"])
        .args(["--count", "500", "--seed", "42", "--start", "2026-01-01T00:00:00Z", "--quiet"])
        .output()
        .unwrap();
    assert!(produced.status.success(), "{}", String::from_utf8_lossy(&produced.stderr));
    let lines = job.lines("bitcoin/data/bitcoin_data", 500).await;
    assert_eq!(lines.len(), 500);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bitcoin.csv");
    let first: String = lines[..5].iter().map(|line| format!("{line}\n")).collect();
    if std::env::var("TIDEMILL_GOLDEN").as_deref() == Ok("write") {
        std::fs::write(&golden, &first).unwrap();
    }
    assert_eq!(first, std::fs::read_to_string(golden).unwrap());
    let root = job.root.clone();
    job.stop();
    model_of(&root);
}

/// The columns under the names that the pipeline's training step gives them: the answer stands among the features.
fn model_of(root: &str) {
    let models = tempfile::tempdir().unwrap();
    let columns = "timestamp STRING, buy_price DOUBLE, sell_price DOUBLE, volume DOUBLE, volatility DOUBLE, \
                   change_1h DOUBLE, change_24h DOUBLE, spread DOUBLE";
    let train = |arguments: &[&str]| {
        let source = format!("{root}/bitcoin/data/bitcoin_data");
        let output = Command::new(tidemill())
            .args(["train", &source, "--columns", columns, "--target", "sell_price", "--models-dir"])
            .arg(models.path())
            .args(arguments)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let leaky = "buy_price,volume,volatility,change_1h,change_24h,spread";
    let (ok, text) = train(&["--features", leaky]);
    assert!(!ok && text.contains("change_1h"), "collinear features are refused by name: {text}");
    let (ok, text) = train(&["--features", leaky, "--drop-redundant"]);
    assert!(ok && text.contains("Coefficients") && text.contains("Intercept"), "{text}");
    assert!(text.contains("warning") && text.contains("change_24h"), "the leak is told: {text}");
    let (ok, text) = train(&["--features", "buy_price,volume,volatility"]);
    assert!(ok && text.contains("the mean") && text.contains("RMSE"), "{text}");
}

/// Runs `sql/NAME.sql` over simulated prices: what it stores is what it stored before (`tests/golden/NAME.csv`), and what
/// its own SELECT gives over the topic, `closed` being the rows that the watermark has passed.
///
/// `more`: further options of the simulator, and of the file.
fn stores_what_a_batch_query_gives(
    name: &str,
    (count, time, closed): (u32, &str, &str),
    (simulator, more): (&[&str], &[&str]),
) -> String {
    let (topic, root) = (unique(name), format!("{}/{}", hdfs(), unique("sql")));
    let run = |arguments: &[&str]| {
        let output = Command::new(tidemill()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (brokers, count) = (kafka(), count.to_string());
    let simulate =
        ["produce", "simulate", "--brokers", &brokers, "--topic", &topic, "--rate", "max", "--count", &count];
    let shape = ["--seed", "42", "--start", "2026-01-01T00:00:00Z", "--step", "1s", "--out-of-order", "0.2", "--quiet"];
    run(&[&simulate[..], &shape[..], simulator].concat());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql").join(format!("{name}.sql")).display().to_string();
    let servers = ["-D", &format!("KAFKA={brokers}"), "-D", &format!("HDFS={root}")];
    let topic = format!("TOPIC={topic}");
    let topic = [&["-D", &topic, "-D", "START=earliest"], more].concat();
    run(&[&["stream", &file, "--available-now", "--progress", "none"], &servers[..], &topic[..]].concat());
    let query =
        |sql: &str| run(&[&["query", "--job", &file, "--format", "csv"], &servers[..], &topic[..], &[sql]].concat());
    let stored = query(&format!("SELECT * FROM {name} ORDER BY {time}"));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.csv"));
    if std::env::var("TIDEMILL_GOLDEN").as_deref() == Ok("write") {
        std::fs::write(&golden, &stored).unwrap();
    }
    assert_eq!(stored, std::fs::read_to_string(golden).unwrap());
    let text = std::fs::read_to_string(&file).unwrap();
    let select = text.split_once(&format!("INSERT INTO {name}")).unwrap().1.trim().trim_end_matches(';');
    let batch = query(&format!("SELECT * FROM ({select}) WHERE {closed} ORDER BY {time}"));
    assert_eq!(stored, batch);
    let verified = run(&[&["verify", &file], &servers[..], &topic[..]].concat());
    assert!(verified.contains("yes") || verified.contains("accounted"), "{verified}");
    stored
}

#[tokio::test(flavor = "multi_thread")]
async fn candles_of_bitcoin_as_parquet_on_hdfs_are_those_of_a_batch_query() {
    stores_what_a_batch_query_gives("ohlc", (600, "window_start", "window_end <= '2026-01-01T00:09:00'"), (&[], &[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn features_look_at_the_candles_before_as_in_a_batch_query() {
    stores_what_a_batch_query_gives(
        "features",
        (1800, "window_start", "window_start < '2026-01-01T00:29:00'"),
        (&[], &[]),
    );
}

/// A random walk: the skill is about none, whatever model serves.
#[tokio::test(flavor = "multi_thread")]
async fn forecasts_of_a_random_walk_are_those_of_a_batch_query_and_know_that_they_know_nothing() {
    let models = tempfile::tempdir().unwrap();
    let models = format!("MODELS={}", models.path().display());
    let stored = stores_what_a_batch_query_gives(
        "forecast",
        (18_000, "window_end", "window_end <= '2026-01-01T04:59:00'"),
        (&["--model", "random-walk"], &["-D", &models, "-D", "HOLDOUT=30 minutes"]),
    );
    let skill = |line: &str| line.rsplit(',').nth(1).and_then(|skill| skill.parse::<f64>().ok());
    let last = stored.lines().last().and_then(skill).unwrap();
    assert!(last.abs() < 0.1, "{last}");
}
