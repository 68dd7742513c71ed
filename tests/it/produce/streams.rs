//! WebSocket streams: pings, drops, gaps.

use serde_json::Value;
use tidemill::{
    error::ErrorKind,
    produce::{
        binance::RestOptions,
        binance_stream::{self, StreamKind, StreamOptions},
    },
};

use super::*;
use crate::support::binance::{Binance, Fault, Step, trade};

fn options(server: &Binance, symbols: &[&str], kind: StreamKind) -> StreamOptions {
    StreamOptions {
        rest: RestOptions { base_url: server.url.clone(), ..RestOptions::default() },
        ws_url: server.ws_url.clone(),
        symbols: symbols.iter().map(|symbol| (*symbol).to_owned()).collect(),
        kind,
        idle_timeout: Duration::from_millis(600),
    }
}

const LONG: Duration = Duration::from_secs(20);

fn ids(lines: &[String]) -> Vec<u64> {
    lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["trade_id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn trades_survive_a_drop_and_the_lost_ones_are_counted() {
    let server = Binance::start().await;
    server.connections([
        vec![trade("BTCUSDT", 1, "16555.07000000"), Step::Ping, trade("BTCUSDT", 2, "16555.00000000")],
        // Dropped; meanwhile 3 and 4 happened.
        vec![trade("BTCUSDT", 5, "16556.10000000"), trade("BTCUSDT", 5, "16556.10000000"), Step::Close],
        vec![trade("ETHUSDT", 90, "1200.1"), trade("BTCUSDT", 6, "16557.0"), Step::Silence(LONG)],
    ]);
    let lines = Lines::default();
    let mut output = lines.output(Some(5), LONG);
    binance_stream::run(&options(&server, &["BTCUSDT", "ETHUSDT"], StreamKind::Trade), &mut output).await.unwrap();
    let (report, lines) = finish(output, &lines).await;
    let first = concat!(
        r#"{"symbol": "BTCUSDT", "price": 16555.07, "quantity": 0.01, "trade_id": 1, "#,
        r#""timestamp": "2022-12-31T19:43:02.135Z", "buyer_is_maker": true}"#
    );
    assert_eq!(lines[0], first);
    assert_eq!(ids(&lines), [1, 2, 5, 90, 6]);
    assert_eq!((report.note("gaps"), report.note("missing trades"), report.note("repeated trades")), (2, 2, 1));
    assert!(report.note("gap milliseconds") > 0);
    let (streams, pongs) = server.streams();
    assert_eq!(streams, ["btcusdt@trade/ethusdt@trade"; 3]);
    assert_eq!(pongs, 1);
}

#[tokio::test]
async fn a_silent_stream_is_left_and_a_bad_message_is_left_out() {
    let server = Binance::start().await;
    server.connections([
        vec![Step::Silence(LONG)],
        vec![
            Step::Text("{\"stream\":".into()),
            trade("BTCUSDT", 1, "not a number"),
            trade("DOGEUSDT", 1, "1.0"),
            trade("BTCUSDT", 2, "3.0"),
            Step::Silence(LONG),
        ],
    ]);
    let lines = Lines::default();
    let mut output = lines.output(Some(1), LONG);
    let started = Instant::now();
    binance_stream::run(&options(&server, &["BTCUSDT"], StreamKind::Trade), &mut output).await.unwrap();
    let (report, lines) = finish(output, &lines).await;
    assert_eq!(ids(&lines), [2]);
    assert_eq!((report.note("bad messages"), report.note("gaps")), (3, 1));
    assert!(started.elapsed() > Duration::from_millis(600));
}

#[tokio::test]
async fn mini_tickers() {
    let server = Binance::start().await;
    let event = r#"{"stream":"btcusdt@miniTicker","data":{"e":"24hrMiniTicker","E":1672515782136,"s":"BTCUSDT","c":"2.50","o":"1.0","h":"3","l":"0.5","v":"10000","q":"18"}}"#;
    server.connections([vec![Step::Text(event.into()), Step::Silence(LONG)]]);
    let lines = Lines::default();
    let mut output = lines.output(Some(1), LONG);
    binance_stream::run(&options(&server, &["BTCUSDT"], StreamKind::MiniTicker), &mut output).await.unwrap();
    let expected = concat!(
        r#"{"symbol": "BTCUSDT", "price": 2.5, "open": 1.0, "high": 3.0, "low": 0.5, "volume": 10000.0, "#,
        r#""quote_volume": 18.0, "timestamp": "2022-12-31T19:43:02.136Z"}"#
    );
    assert_eq!(finish(output, &lines).await.1, [expected]);
    assert_eq!(server.streams().0, ["btcusdt@miniTicker"]);
}

#[tokio::test]
async fn an_unknown_symbol_is_an_error_and_not_silence() {
    let server = Binance::start().await;
    let lines = Lines::default();
    let mut output = lines.output(None, LONG);
    let error = binance_stream::run(&options(&server, &["NOPE"], StreamKind::Trade), &mut output).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("'NOPE'"), "{error}");
    assert!(server.streams().0.is_empty());
}

#[tokio::test]
async fn a_refused_stream_is_tried_again_and_is_an_error_in_the_end() {
    let server = Binance::start().await;
    // No connection is scripted: 503 each time.
    let lines = Lines::default();
    let mut output = lines.output(None, Duration::from_secs(3));
    let error = binance_stream::run(&options(&server, &["BTCUSDT"], StreamKind::Trade), &mut output).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!((2..=8).contains(&server.streams().0.len()), "{:?}", server.streams());
    // A limit on the check before it is obeyed as well.
    server.fail([Fault::Status { status: 429, retry_after: Some(1), body: "" }]);
    server.connections([vec![trade("BTCUSDT", 1, "1.0")]]);
    let mut output = Lines::default().output(Some(1), LONG);
    binance_stream::run(&options(&server, &["BTCUSDT"], StreamKind::Trade), &mut output).await.unwrap();
}
