//! Trades or mini tickers as they happen: Binance's combined WebSocket streams.
//!
//! Binance ends every connection after 24 hours; networks end them earlier. Each end is a gap: it is said, counted,
//! and followed by a new connection after a wait that grows and jitters. Trade ids are consecutive per symbol, so for
//! trades the number of the lost ones is known exactly.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use futures::StreamExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Error as WsError, Message, http::StatusCode, protocol::WebSocketConfig},
};

use crate::{
    clock::{self, Stopwatch},
    error::{Error, ErrorKind, Result},
    produce::{
        binance::{RestClient, RestOptions, check_symbols},
        output::Output,
        rest::{Backoff, REQUEST_TIMEOUT, checked_symbols},
        text::{write_decimal, write_time_ms},
    },
};

/// An event has some 200 bytes.
const MESSAGE_MAX_BYTES: usize = 1 << 20;
/// Binance pings every 20 seconds (it was every 3 minutes): whoever is silent for longer than that is gone.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(200);
/// A connection that lasted this long was a good one: start the waits anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(60);
/// Streams on one connection, by Binance's rule.
const STREAMS_MAX: usize = 1_024;

/// Which events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Every trade.
    Trade,
    /// Once a second, the last price and the last 24 hours.
    MiniTicker,
}

/// What to listen to.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Where symbols are checked before listening: Binance is silent about a stream that does not exist.
    pub rest: RestOptions,
    /// `wss://stream.binance.com:9443`, or `wss://data-stream.binance.vision` for market data alone.
    pub ws_url: String,
    pub symbols: Vec<String>,
    pub kind: StreamKind,
    /// No message and no ping for this long: connect anew.
    pub idle_timeout: Duration,
}

#[derive(Deserialize)]
struct Combined<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Trade<'a> {
    #[serde(borrow, rename = "s")]
    symbol: Cow<'a, str>,
    #[serde(rename = "t")]
    id: u64,
    #[serde(borrow, rename = "p")]
    price: Cow<'a, str>,
    #[serde(borrow, rename = "q")]
    quantity: Cow<'a, str>,
    #[serde(rename = "T")]
    time_ms: i64,
    #[serde(rename = "m")]
    buyer_is_maker: bool,
}

#[derive(Deserialize)]
struct MiniTicker<'a> {
    #[serde(borrow, rename = "s")]
    symbol: Cow<'a, str>,
    #[serde(rename = "E")]
    time_ms: i64,
    #[serde(borrow, rename = "c")]
    price: Cow<'a, str>,
    #[serde(borrow, rename = "o")]
    open: Cow<'a, str>,
    #[serde(borrow, rename = "h")]
    high: Cow<'a, str>,
    #[serde(borrow, rename = "l")]
    low: Cow<'a, str>,
    #[serde(borrow, rename = "v")]
    volume: Cow<'a, str>,
    #[serde(borrow, rename = "q")]
    quote_volume: Cow<'a, str>,
}

/// What an event gave.
enum Event<'a> {
    Record(Cow<'a, str>),
    /// A trade that was sent before.
    Repeated,
}

/// Why a connection is over.
enum End {
    /// The output is done.
    Done,
    /// Connect again after this wait, or after the next back-off.
    Lost(String, Option<Duration>),
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Sends events until the output is done. Counts "gaps", "gap milliseconds", "missing trades", "repeated trades" and
/// "bad messages".
///
/// # Errors
/// `Invalid` for an unknown symbol or a wrong URL; those of the output; `Unavailable` when there never was a connection.
pub async fn run(options: &StreamOptions, output: &mut Output) -> Result<()> {
    let symbols = checked_symbols(&options.symbols)?;
    if symbols.len() > STREAMS_MAX {
        return Err(Error::invalid(format!(
            "{} symbols are more than the {STREAMS_MAX} of a connection",
            symbols.len()
        )));
    }
    let mut client = RestClient::new(&options.rest)?;
    check_symbols(&mut client, &symbols, output).await?;
    let url = stream_url(options, &symbols);
    let mut listener = Listener { kind: options.kind, symbols, last_ids: HashMap::new(), value: Vec::new() };
    let (mut backoff, mut lost_at, mut connected) = (Backoff::default(), None::<Stopwatch>, false);
    let mut trouble = None;
    while !output.done() {
        let end = match connect(&url, output).await? {
            Ok(None) => break,
            Ok(Some(socket)) => {
                connected = true;
                if let Some(watch) = lost_at.take() {
                    output.note("gap milliseconds", watch.elapsed_ms());
                    output.notice(&format!("connected again after {:.1?}", watch.elapsed()));
                }
                let lasted = Stopwatch::start();
                let end = listener.listen(socket, options.idle_timeout, output).await?;
                if lasted.elapsed() > GOOD_CONNECTION {
                    backoff.reset();
                }
                if matches!(end, End::Lost(..)) {
                    output.note("gaps", 1);
                    lost_at = Some(Stopwatch::start());
                }
                end
            }
            Err(end) => end,
        };
        let End::Lost(reason, wait) = end else { break };
        let wait = wait.unwrap_or_else(|| backoff.wait());
        output.notice(&format!("{reason}; connecting again in {wait:.1?}"));
        trouble = Some(reason);
        output.pause(wait).await?;
    }
    if let Some(watch) = lost_at {
        output.note("gap milliseconds", watch.elapsed_ms());
    }
    match trouble {
        Some(reason) if !connected => {
            Err(Error::new(ErrorKind::Unavailable, format!("there was no connection to {}: {reason}", options.ws_url)))
        }
        _ => Ok(()),
    }
}

fn stream_url(options: &StreamOptions, symbols: &[String]) -> String {
    let name = match options.kind {
        StreamKind::Trade => "trade",
        StreamKind::MiniTicker => "miniTicker",
    };
    let streams: Vec<_> = symbols.iter().map(|symbol| format!("{}@{name}", symbol.to_ascii_lowercase())).collect();
    format!("{}/stream?streams={}", options.ws_url.trim_end_matches('/'), streams.join("/"))
}

/// The outer error ends the run; the inner one is worth another attempt; `None` when the output is done.
async fn connect(url: &str, output: &mut Output) -> Result<Result<Option<Socket>, End>> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX_BYTES)).max_frame_size(Some(MESSAGE_MAX_BYTES));
    let attempt = async {
        tokio::select! {
            connected = connect_async_with_config(url, Some(config), true) => Some(connected),
            () = clock::sleep(REQUEST_TIMEOUT) => None,
        }
    };
    let error = match output.wait_for(attempt).await? {
        None => return Ok(Ok(None)),
        Some(None) => return Ok(Err(End::Lost(format!("no connection after {REQUEST_TIMEOUT:?}"), None))),
        Some(Some(Ok((socket, _)))) => return Ok(Ok(Some(socket))),
        Some(Some(Err(error))) => error,
    };
    match error {
        WsError::Http(response) => {
            let status = response.status();
            let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            if status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::IM_A_TEAPOT) {
                let wait = retry_after.map(Duration::from_secs);
                return Ok(Err(End::Lost(format!("the stream answered {status}"), wait)));
            }
            Err(Error::invalid(format!("the stream answered {status}"))
                .help("is --ws-url the address of Binance's streams, wss://stream.binance.com:9443?"))
        }
        WsError::Url(error) => Err(Error::invalid(format!("--ws-url is no address: {error}"))
            .help("write it as wss://stream.binance.com:9443")),
        WsError::HttpFormat(error) => Err(Error::invalid(format!("--ws-url is no address: {error}"))),
        other => Ok(Err(End::Lost(format!("no connection to the stream: {other}"), None))),
    }
}

struct Listener {
    kind: StreamKind,
    symbols: Vec<String>,
    /// The last trade id of each symbol.
    last_ids: HashMap<String, u64>,
    value: Vec<u8>,
}

impl Listener {
    async fn listen(&mut self, mut socket: Socket, idle: Duration, output: &mut Output) -> Result<End> {
        loop {
            let next = async {
                tokio::select! {
                    message = socket.next() => Some(message),
                    () = clock::sleep(idle) => None,
                }
            };
            let text = match output.wait_for(next).await? {
                None => {
                    // Polite; the connection ends with the process in any case.
                    let _ = close(&mut socket).await;
                    return Ok(End::Done);
                }
                Some(None) => return Ok(End::Lost(format!("the stream was silent for {idle:?}"), None)),
                Some(Some(None)) => return Ok(End::Lost("the stream ended".to_owned(), None)),
                Some(Some(Some(Err(error)))) => return Ok(End::Lost(format!("the stream broke: {error}"), None)),
                Some(Some(Some(Ok(Message::Text(text))))) => text,
                Some(Some(Some(Ok(Message::Close(frame))))) => {
                    let why = frame.map(|frame| format!(": {} {}", frame.code, frame.reason)).unwrap_or_default();
                    return Ok(End::Lost(format!("Binance closed the stream{why}"), None));
                }
                // The pong goes out with the next read.
                Some(Some(Some(Ok(_)))) => continue,
            };
            match self.event(text.as_str(), output) {
                Ok(Event::Record(symbol)) => {
                    if !output.send(Some(symbol.as_bytes()), &self.value).await? {
                        return Ok(End::Done);
                    }
                }
                Ok(Event::Repeated) => output.note("repeated trades", 1),
                Err(reason) => {
                    output.note("bad messages", 1);
                    output.notice(&format!("a message that is no event was left out: {reason}"));
                }
            }
        }
    }

    /// Writes the record of a message into `value`.
    fn event<'a>(&mut self, text: &'a str, output: &mut Output) -> Result<Event<'a>, String> {
        let wrong = |error: serde_json::Error| error.to_string();
        let data = serde_json::from_str::<Combined<'a>>(text).map_err(wrong)?.data.get();
        let known = |symbol: &str| self.symbols.iter().any(|known| known == symbol);
        match self.kind {
            StreamKind::Trade => {
                let trade: Trade<'a> = serde_json::from_str(data).map_err(wrong)?;
                if !known(&trade.symbol) {
                    return Err(format!("nobody asked for '{}'", trade.symbol));
                }
                write_trade(&trade, &mut self.value)?;
                if self.repeated(&trade, output) {
                    return Ok(Event::Repeated);
                }
                Ok(Event::Record(trade.symbol))
            }
            StreamKind::MiniTicker => {
                let ticker: MiniTicker<'a> = serde_json::from_str(data).map_err(wrong)?;
                if !known(&ticker.symbol) {
                    return Err(format!("nobody asked for '{}'", ticker.symbol));
                }
                write_mini_ticker(&ticker, &mut self.value)?;
                Ok(Event::Record(ticker.symbol))
            }
        }
    }

    /// Trade ids count up by one: a step of more tells how many trades are lost, none that it was here before.
    fn repeated(&mut self, trade: &Trade<'_>, output: &mut Output) -> bool {
        let Some(last) = self.last_ids.get_mut(trade.symbol.as_ref()) else {
            self.last_ids.insert(trade.symbol.clone().into_owned(), trade.id);
            return false;
        };
        if trade.id <= *last {
            return true;
        }
        let missing = trade.id - *last - 1;
        if missing > 0 {
            output.note("missing trades", missing);
            let (first, final_id) = (*last + 1, trade.id - 1);
            output.notice(&format!("{missing} trades of {} are missing: ids {first} to {final_id}", trade.symbol));
        }
        *last = trade.id;
        false
    }
}

async fn close(socket: &mut Socket) -> Option<()> {
    tokio::select! {
        closed = socket.close(None) => closed.ok(),
        () = clock::sleep(Duration::from_millis(500)) => None,
    }
}

fn write_fields(symbol: &str, decimals: &[(&str, &str)], value: &mut Vec<u8>) -> Result<(), String> {
    value.clear();
    value.extend_from_slice(b"{\"symbol\": \"");
    value.extend_from_slice(symbol.as_bytes());
    value.push(b'"');
    for (name, decimal) in decimals {
        value.extend_from_slice(b", \"");
        value.extend_from_slice(name.as_bytes());
        value.extend_from_slice(b"\": ");
        if !write_decimal(decimal, value) {
            return Err(format!("the {name} of '{symbol}' is '{decimal}'"));
        }
    }
    Ok(())
}

fn write_time(time_ms: i64, value: &mut Vec<u8>) {
    value.extend_from_slice(b", \"timestamp\": \"");
    write_time_ms(time_ms, value);
    value.push(b'"');
}

fn write_trade(trade: &Trade<'_>, value: &mut Vec<u8>) -> Result<(), String> {
    write_fields(&trade.symbol, &[("price", &trade.price), ("quantity", &trade.quantity)], value)?;
    value.extend_from_slice(format!(", \"trade_id\": {}", trade.id).as_bytes());
    write_time(trade.time_ms, value);
    value.extend_from_slice(format!(", \"buyer_is_maker\": {}}}", trade.buyer_is_maker).as_bytes());
    Ok(())
}

fn write_mini_ticker(ticker: &MiniTicker<'_>, value: &mut Vec<u8>) -> Result<(), String> {
    let decimals = [
        ("price", &*ticker.price),
        ("open", &*ticker.open),
        ("high", &*ticker.high),
        ("low", &*ticker.low),
        ("volume", &*ticker.volume),
        ("quote_volume", &*ticker.quote_volume),
    ];
    write_fields(&ticker.symbol, &decimals, value)?;
    write_time(ticker.time_ms, value);
    value.push(b'}');
    Ok(())
}
