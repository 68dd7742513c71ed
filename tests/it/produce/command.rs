//! `tidemill produce` as a user meets it: the real binary.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output as Finished, Stdio},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    mocking::MockCluster,
};

use super::*;
use crate::support::binance::Binance;

fn produce(arguments: &[&str]) -> Finished {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(support::tidemill());
    command.arg("produce").args(arguments).env_remove("KAFKA").env_remove("BINANCE_API_KEY");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_teaches() {
    let help = text(&produce(&["--help"]).stdout);
    for word in ["binance", "klines", "simulate", "replay", "Examples:"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    for (source, words) in [
        ("binance", &["--stream", "BINANCE_API_KEY", "data-api.binance.vision", "--event-time"][..]),
        ("klines", &["--from", "--include-open", "1M"]),
        ("simulate", &["--seed", "--poison", "random-walk", "--late-by"]),
        ("replay", &["--speed", "--time-column", "--key-column"]),
    ] {
        let help = text(&produce(&[source, "--help"]).stdout);
        for word in words.iter().chain(&["--brokers", "--kafka", "--count", "--for", "--print", "--partitions"]) {
            assert!(help.contains(word), "{source} {word}: {help}");
        }
    }
}

#[test]
fn a_seed_prints_the_same_bytes() {
    let arguments = [
        "simulate",
        "--print",
        "--seed",
        "7",
        "--start",
        "2026-01-01",
        "--rate",
        "max",
        "--count",
        "5000",
        "--late",
        "0.1",
        "--poison",
        "0.1",
        "--model",
        "random-walk",
    ];
    let (one, two) = (produce(&arguments), produce(&arguments));
    assert!(one.status.success());
    assert!(one.stdout == two.stdout && one.stdout.len() > 500_000);
    let report = text(&one.stderr);
    assert!(report.contains("sent 5,000 records") && report.contains("poison "), "{report}");
}

#[test]
fn wrong_arguments_are_explained() {
    for (arguments, word) in [
        (&["simulate", "--print", "--late", "1.5"][..], "--late 1.5 is no probability"),
        (&["simulate", "--print", "--rate", "fast"], "'fast' is no rate"),
        (&["simulate", "--print", "--for", "soon"], "'soon' is no duration"),
        (&["replay", "x.csv"], "--topic"),
        (&["replay", "/no/such.csv", "--print"], "/no/such.csv"),
        (&["replay", "x.csv", "--print", "--speed", "2x"], "--time-column"),
        (&["binance", "--print", "--symbol", "BTC/USDT"], "'BTC/USDT' is no symbol"),
        (&["binance", "--print", "--stream", "trade", "--event-time"], "--event-time"),
        (&["binance", "--print", "--base-url", "api.binance.com"], "is no address"),
        (&["klines", "--print", "--interval-candle", "7m"], "1s 1m 3m"),
        (&["simulate", "--print", "--symbol", ""], "a symbol is empty"),
        (&["binance", "--print", "--symbol", "BTCUSDT,,ETHUSDT"], "a symbol is empty"),
        (
            &["simulate", "--brokers", "a:1", "--kafka", "bootstrap.servers=b:2"],
            "--kafka bootstrap.servers=b:2 contradicts the brokers a:1",
        ),
        (&["simulate", "--kafka", "secret"], "KEY=VALUE"),
        (&["simulate", "--kafka", "linger.mss=5", "--count", "1"], "linger.mss"),
    ] {
        let finished = produce(arguments);
        let error = text(&finished.stderr);
        assert!(!finished.status.success() && error.contains(word), "{arguments:?}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
}

#[test]
fn without_a_broker_it_says_so_within_ten_seconds() {
    let start = Instant::now();
    let finished = produce(&["simulate", "--brokers", "127.0.0.1:1", "--count", "1"]);
    let error = text(&finished.stderr);
    assert_eq!(finished.status.code(), Some(3), "{error}");
    assert!(error.contains("Kafka at 127.0.0.1:1 does not answer") && error.contains("--brokers"), "{error}");
    assert!(error.contains("refused"), "the reason: {error}");
    assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_symbol_ends_with_exit_code_2() {
    let server = Binance::start().await;
    let finished = produce(&["binance", "--print", "--symbol", "FOO", "--base-url", &server.url]);
    assert_eq!(finished.status.code(), Some(2));
    assert!(text(&finished.stderr).contains("Binance does not know the symbol 'FOO'"), "{}", text(&finished.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_sent_and_never_shown() {
    let server = Binance::start().await;
    let arguments = ["binance", "--print", "--count", "1", "--base-url", &server.url, "--progress", "plain"];
    let finished =
        command(&arguments).env("BINANCE_API_KEY", "top-secret").env("TIDEMILL_LOG", "trace").output().unwrap();
    assert!(finished.status.success());
    assert_eq!(text(&finished.stdout), "{\"symbol\": \"BTCUSDT\", \"price\": 16555.07}\n");
    assert_eq!(server.requests()[0].api_key.as_deref(), Some("top-secret"));
    assert!(!text(&finished.stderr).contains("top-secret"), "{}", text(&finished.stderr));
}

#[test]
fn a_signal_stops_it_clean_and_nothing_is_lost() {
    for signal in ["-INT", "-TERM"] {
        let topic = support::unique("produce-signal");
        let mut child = command(&["simulate", "--brokers", &support::kafka(), "--topic", &topic, "--rate", "2000"])
            .args(["--partitions", "2", "--progress", "plain"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(2_500));
        assert!(Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap().success());
        let stopping = Instant::now();
        let report: Vec<_> = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap).collect();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{report:?}");
        assert!(stopping.elapsed() < Duration::from_secs(5));
        let sent = report.iter().find(|line| line.starts_with("sent ")).unwrap();
        let count: usize = sent.split(' ').nth(1).unwrap().replace(',', "").parse().unwrap();
        assert!((500..6_000).contains(&count), "{sent}");
        assert!(sent.ends_with(" 0 failed"), "{sent}");
        assert_eq!(consume(&topic).len(), count);
    }
}

#[test]
fn a_full_pipe_that_breaks_is_no_error() {
    let mut child = command(&["simulate", "--print", "--rate", "max"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"timestamp\""), "{line}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_record_that_is_too_large_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("large.jsonl");
    std::fs::write(&file, format!("{{\"a\": 1}}\n{{\"a\": \"{}\"}}\n", "x".repeat(1_100_000))).unwrap();
    let topic = support::unique("produce-large");
    let finished = produce(&["replay", file.to_str().unwrap(), "--brokers", &support::kafka(), "--topic", &topic]);
    let error = text(&finished.stderr);
    assert_eq!(finished.status.code(), Some(2), "{error}");
    assert!(error.contains("too large") && error.contains("message.max.bytes"), "{error}");
    assert_eq!(consume(&topic).len(), 1, "what came before it is there");
}

#[test]
fn partitions_that_a_topic_does_not_have_are_an_error() {
    let topic = support::unique("produce-partitions");
    let produced = |partitions: &str| {
        let brokers = support::kafka();
        let finished = produce(&[
            "simulate",
            "--kafka",
            &format!("bootstrap.servers={brokers}"),
            "--topic",
            &topic,
            "--count",
            "1",
            "--partitions",
            partitions,
        ]);
        (finished.status.code(), text(&finished.stderr))
    };
    assert_eq!(produced("2").0, Some(0));
    assert_eq!(produced("2").0, Some(0), "the same number is no contradiction");
    let (code, error) = produced("3");
    assert!(code == Some(2) && error.contains(&format!("'{topic}' has 2 partitions, not the 3")), "{error}");
    assert!(error.contains("--partitions"), "{error}");
    assert_eq!(consume(&topic).len(), 2);
}

/// The broker refuses what the client took: the topic's own limit is lower.
#[tokio::test]
async fn a_failed_delivery_is_an_error() {
    let topic = support::unique("produce-refused");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", support::kafka()).create().unwrap();
    let small = NewTopic::new(&topic, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "100");
    admin.create_topics([&small], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    let finished =
        produce(&["simulate", "--brokers", &support::kafka(), "--topic", &topic, "--count", "5", "--rate", "max"]);
    let error = text(&finished.stderr);
    assert_eq!(finished.status.code(), Some(2), "{error}");
    assert!(error.contains("0 delivered, 5 failed") && error.contains("max.message.bytes"), "{error}");
    assert!(error.contains("sent 5 records") && error.contains(" 5 failed\n"), "{error}");
}

/// librdkafka's own test cluster creates topics only when asked for them by name.
#[tokio::test]
async fn a_cluster_without_create_topics_still_works() {
    let cluster = MockCluster::new(1).unwrap();
    let options = TopicOptions { brokers: cluster.bootstrap_servers(), topic: "prices".into(), ..Default::default() };
    let producer = TopicProducer::open(&options).await.unwrap();
    let mut output = Output::to_topic(producer, CancellationToken::new(), ProgressMode::None);
    assert!(output.send(Some(b"k"), b"v").await.unwrap());
    let (report, outcome) = output.finish().await;
    outcome.unwrap();
    assert_eq!(report.totals.delivered, 1);
    let options = TopicOptions { topic: "other".into(), partitions: Some(3), ..options };
    let error = TopicProducer::open(&options).await.unwrap_err();
    assert!(error.message().contains("'other' is not on") && error.to_string().contains("--create"), "{error}");
}
