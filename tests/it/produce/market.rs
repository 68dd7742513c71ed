//! REST: tickers and candles.

use std::collections::HashSet;

use serde_json::Value;
use tidemill::{
    error::{ErrorKind, Result},
    produce::{
        binance::{self, RestOptions, TickerOptions},
        klines::{self, KlineOptions},
        pace::Rate,
        simulate::{self, RecordKind, Simulator, SimulatorOptions},
    },
};

use super::*;
use crate::support::binance::{Binance, Fault, now_ms};

fn rest(server: &Binance) -> RestOptions {
    RestOptions { base_url: server.url.clone(), timeout: Duration::from_millis(700), ..RestOptions::default() }
}

fn tickers(server: &Binance, symbols: &[&str], interval: Duration) -> TickerOptions {
    let symbols = symbols.iter().map(|symbol| (*symbol).to_owned()).collect();
    TickerOptions { rest: rest(server), symbols, interval, event_time: false }
}

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn simulated_records_arrive_in_kafka_once_and_in_order() {
    let topic = support::unique("produce-simulate");
    let symbols = vec!["BTCUSDT".to_owned(), "ETHUSDT".to_owned(), "BNBUSDT".to_owned()];
    let options = SimulatorOptions {
        symbols,
        seed: 5,
        late: 0.1,
        duplicate: 0.05,
        out_of_order: 0.05,
        poison: 0.1,
        future: 0.02,
        ..SimulatorOptions::default()
    };
    let mut output = topic_output(&topic, 3, 5_000).await.unwrap();
    simulate::run(options.clone(), Rate::Max, false, &mut output).await.unwrap();
    let (report, outcome) = output.finish().await;
    outcome.unwrap();
    assert_eq!((report.totals.records, report.totals.delivered, report.totals.failed), (5_000, 5_000, 0));

    let mut simulator = Simulator::new(options).unwrap();
    let mut expected: std::collections::BTreeMap<Vec<u8>, Vec<Vec<u8>>> = Default::default();
    let mut kinds = [0; RecordKind::ALL.len()];
    for _ in 0..5_000 {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        kinds[simulator.next_record(&mut key, &mut value).unwrap() as usize] += 1;
        expected.entry(key).or_default().push(value);
    }
    for kind in RecordKind::ALL {
        assert_eq!(report.note(kind.name()), kinds[kind as usize], "{kind:?}");
        assert!(kinds[kind as usize] > 50, "{kind:?} is rare");
    }
    let mut found: std::collections::BTreeMap<Vec<u8>, Vec<Vec<u8>>> = Default::default();
    let records = consume(&topic);
    for (partition, key, value) in &records {
        let key = key.clone().unwrap();
        assert!(records.iter().filter(|other| other.1.as_ref() == Some(&key)).all(|other| other.0 == *partition));
        found.entry(key).or_default().push(value.clone());
    }
    assert!(found == expected, "each key's records, in their order");
}

#[tokio::test]
async fn prices_are_numbers_with_binances_digits() {
    let server = Binance::start().await;
    let lines = Lines::default();
    let mut output = lines.output(Some(5), LONG);
    let mut options = tickers(&server, &["btcusdt", "ETHUSDT"], SHORT);
    options.rest.api_key = Some("a-key".into());
    binance::run(&options, &mut output).await.unwrap();
    let (report, lines) = finish(output, &lines).await;
    assert_eq!(lines[0], r#"{"symbol": "BTCUSDT", "price": 16555.07}"#);
    assert_eq!(lines[1], r#"{"symbol": "ETHUSDT", "price": 1200.0}"#);
    assert_eq!((lines.len(), report.note("gaps")), (5, 0));
    let requests = server.requests();
    assert_eq!(requests[0].uri, "/api/v3/ticker/price?symbols=%5B%22BTCUSDT%22%2C%22ETHUSDT%22%5D");
    assert!(requests.iter().all(|request| request.api_key.as_deref() == Some("a-key")));
    for pair in requests.windows(2) {
        assert!(pair[1].at - pair[0].at >= SHORT / 2, "the interval is kept");
    }
}

#[tokio::test]
async fn prices_reach_kafka_with_their_event_time() {
    let server = Binance::start().await;
    let topic = support::unique("produce-binance");
    let mut output = topic_output(&topic, 1, 2).await.unwrap();
    let options = TickerOptions { event_time: true, ..tickers(&server, &["BTCUSDT"], SHORT) };
    binance::run(&options, &mut output).await.unwrap();
    output.finish().await.1.unwrap();
    let records = consume(&topic);
    assert_eq!(records.len(), 2);
    for (_, key, value) in records {
        assert_eq!(key.unwrap(), b"BTCUSDT");
        let value: Value = serde_json::from_slice(&value).unwrap();
        assert_eq!(value["price"], 16555.07);
        let time = chrono::DateTime::parse_from_rfc3339(value["timestamp"].as_str().unwrap()).unwrap();
        assert!((now_ms() - time.timestamp_millis()).abs() < 20_000);
    }
    assert_eq!(server.requests()[0].uri, "/api/v3/ticker/price?symbol=BTCUSDT");
    assert_eq!(server.requests()[0].api_key, None);
}

#[tokio::test]
async fn rate_limits_are_obeyed_to_the_second() {
    for status in [429, 418] {
        let server = Binance::start().await;
        let body = r#"{"code":-1003,"msg":"Too many requests."}"#;
        server.fail([Fault::Status { status, retry_after: Some(2), body }]);
        let lines = Lines::default();
        let mut output = lines.output(Some(2), LONG);
        binance::run(&tickers(&server, &["BTCUSDT"], Duration::from_millis(500)), &mut output).await.unwrap();
        let (report, _) = finish(output, &lines).await;
        let requests = server.requests();
        assert!(requests[1].at - requests[0].at >= Duration::from_secs(2), "{status}: asked again too early");
        assert_eq!((report.note("rate limits"), report.note("gaps")), (1, 1), "{status}");
        assert!((3..=6).contains(&report.note("missed ticks")), "{status}: {report:?}");
        assert_eq!(requests.len(), 3, "{status}: no burst after the gap");
    }
}

#[tokio::test]
async fn failures_that_may_pass_are_outlived() {
    let server = Binance::start().await;
    server.fail([
        Fault::Status { status: 502, retry_after: None, body: "<html>Bad Gateway</html>" },
        Fault::Body(r#"{"symbol":"BTCUSDT","pri"#),
        Fault::Body(r#"{"symbol":"BTCUSDT","price":"NaN"}"#),
        Fault::Slow(Duration::from_secs(2)),
    ]);
    let lines = Lines::default();
    let mut output = lines.output(Some(1), LONG);
    binance::run(&tickers(&server, &["BTCUSDT"], SHORT), &mut output).await.unwrap();
    let (report, lines) = finish(output, &lines).await;
    assert_eq!(lines, [r#"{"symbol": "BTCUSDT", "price": 16555.07}"#]);
    assert_eq!((report.note("failed requests"), report.note("gaps")), (4, 1));
}

#[tokio::test]
async fn near_the_weight_limit_nothing_is_asked() {
    let server = Binance::start().await;
    server.use_weight(5_900);
    let lines = Lines::default();
    // The minute may turn while the test runs: then one more request is right.
    let mut output = lines.output(None, Duration::from_millis(1_500));
    binance::run(&tickers(&server, &["BTCUSDT"], SHORT), &mut output).await.unwrap();
    let (report, _) = finish(output, &lines).await;
    assert!(report.note("weight waits") >= 1, "{report:?}");
    assert!(server.requests().len() <= 2, "{:?}", server.requests());
}

#[tokio::test]
async fn an_unknown_symbol_is_named() {
    let server = Binance::start().await;
    let lines = Lines::default();
    let mut output = lines.output(None, LONG);
    let symbols = ["BTCUSDT", "BTCUSDX", "ETHUSDT"];
    let error = binance::run(&tickers(&server, &symbols, SHORT), &mut output).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.message(), "Binance does not know the symbol 'BTCUSDX': Invalid symbol. (-1121)");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_in_the_end() {
    let lines = Lines::default();
    let mut output = lines.output(None, Duration::from_secs(1));
    let rest = RestOptions { base_url: "http://127.0.0.1:1".into(), ..RestOptions::default() };
    let options = TickerOptions { rest, symbols: vec!["BTCUSDT".into()], interval: SHORT, event_time: false };
    let error = binance::run(&options, &mut output).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let (report, _) = finish(output, &lines).await;
    assert!(report.note("missed ticks") >= 8, "{report:?}");
}

const MINUTE: i64 = 60_000;

fn candles(server: &Binance, symbols: &[&str], interval: &str, from_ms: i64, to_ms: Option<i64>) -> KlineOptions {
    KlineOptions {
        rest: rest(server),
        symbols: symbols.iter().map(|symbol| (*symbol).to_owned()).collect(),
        interval: interval.into(),
        from_ms: Some(from_ms),
        to_ms,
        include_open: false,
        poll: SHORT,
    }
}

async fn run_klines(options: &KlineOptions, limit: Duration) -> Result<(Report, Vec<Value>)> {
    let lines = Lines::default();
    let mut output = lines.output(None, limit);
    klines::run(options, &mut output).await?;
    let (report, lines) = finish(output, &lines).await;
    Ok((report, lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()))
}

#[tokio::test]
async fn history_has_every_candle_once_whatever_happens_between_pages() {
    let server = Binance::start().await;
    server.fail([
        Fault::Status { status: 429, retry_after: Some(1), body: "{}" },
        Fault::Body("[[1,2]]"),
        Fault::Status { status: 500, retry_after: None, body: "" },
    ]);
    let from = 1_700_000_040_000;
    assert_eq!(from % MINUTE, 0);
    // 2,500 candles: three pages for each symbol. Two neighbours and one more never were.
    server.leave_out_candles([from + 700 * MINUTE, from + 701 * MINUTE, from + 1_000 * MINUTE]);
    let options = candles(&server, &["BTCUSDT", "ETHUSDT"], "1m", from, Some(from + 2_500 * MINUTE));
    let (report, candles) = run_klines(&options, LONG).await.unwrap();
    assert_eq!(candles.len(), 2 * 2_497);
    let opens: Vec<_> = candles.iter().map(|candle| candle["open_time"].as_i64().unwrap()).collect();
    assert!(opens.is_sorted(), "symbols are merged by time");
    let distinct: HashSet<_> =
        candles.iter().map(|c| (c["symbol"].as_str().unwrap(), c["open_time"].as_i64())).collect();
    assert_eq!(distinct.len(), candles.len(), "none twice");
    assert_eq!((opens[0], opens[opens.len() - 1]), (from, from + 2_499 * MINUTE));
    assert_eq!((report.note("gaps"), report.note("missing candles")), (4, 6));
    assert_eq!((report.note("rate limits"), report.note("failed requests")), (1, 2));
}

#[tokio::test]
async fn a_candle_has_numbers() {
    let server = Binance::start().await;
    let from = 1_700_000_040_000;
    let lines = Lines::default();
    let mut output = lines.output(Some(1), LONG);
    klines::run(&candles(&server, &["BTCUSDT"], "1m", from, None), &mut output).await.unwrap();
    let (_, lines) = finish(output, &lines).await;
    let expected = concat!(
        r#"{"symbol": "BTCUSDT", "interval": "1m", "open_time": 1700000040000, "close_time": 1700000099999, "#,
        r#""open": 100.5, "high": 101.0, "low": 99.0, "close": 100.75, "volume": 12.0, "quote_volume": 1206.0, "#,
        r#""taker_buy_volume": 6.0, "taker_buy_quote_volume": 603.0, "trades": 334}"#
    );
    assert_eq!(lines, [expected]);
}

#[tokio::test]
async fn live_candles_follow_history_as_they_close() {
    let server = Binance::start().await;
    let from = (now_ms() / 1_000 - 5) * 1_000;
    let options = candles(&server, &["BTCUSDT"], "1s", from, None);
    let (report, candles) = run_klines(&options, Duration::from_secs(5)).await.unwrap();
    let end = now_ms();
    let opens: Vec<_> = candles.iter().map(|candle| candle["open_time"].as_i64().unwrap()).collect();
    assert!(opens.len() >= 7, "history and live ones: {opens:?}");
    assert!(opens.windows(2).all(|pair| pair[1] - pair[0] == 1_000), "{opens:?}");
    assert!(
        candles.iter().all(|candle| candle["close_time"].as_i64().unwrap() < end && candle.get("closed").is_none())
    );
    assert_eq!(report.note("gaps"), 0);
    assert!(server.requests().len() <= 10, "one look a second is enough: {}", server.requests().len());
}

#[tokio::test]
async fn an_open_candle_comes_only_when_asked_for() {
    let server = Binance::start().await;
    let start = now_ms();
    let from = start / 3_600_000 * 3_600_000 - 3_600_000;
    let options = KlineOptions { include_open: true, ..candles(&server, &["BTCUSDT"], "1h", from, None) };
    let (_, candles) = run_klines(&options, Duration::from_secs(1)).await.unwrap();
    assert_eq!(candles[0]["closed"], true);
    // The hour may turn while the test runs.
    let open: Vec<_> = candles.iter().filter(|candle| candle["closed"] == false).collect();
    assert!(open.len() > 1 && open.iter().all(|candle| candle["close_time"].as_i64().unwrap() > start), "{candles:?}");
}

#[tokio::test]
async fn a_wrong_interval_or_symbol_is_refused() {
    let server = Binance::start().await;
    let error = run_klines(&candles(&server, &["BTCUSDT"], "7m", 0, None), LONG).await.unwrap_err();
    assert!(error.to_string().contains("one of 1s 1m"), "{error}");
    let error = run_klines(&candles(&server, &["FOO"], "1m", 0, None), LONG).await.unwrap_err();
    assert!(error.message().contains("'FOO'"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
