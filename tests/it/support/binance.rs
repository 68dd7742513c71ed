//! A local server that answers as Binance documents it (rest-api.md, web-socket-streams.md), and misbehaves on request.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::{
        Query, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};

/// What the next REST request gets instead of its answer.
#[derive(Debug, Clone)]
pub enum Fault {
    Status { status: u16, retry_after: Option<u64>, body: &'static str },
    Body(&'static str),
    Slow(Duration),
}

/// What a WebSocket connection does, step by step; after the last one it is dropped without a close frame.
#[derive(Debug, Clone)]
pub enum Step {
    Text(String),
    /// A ping; the pong must come back before anything else happens.
    Ping,
    Silence(Duration),
    Close,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub at: Instant,
    pub uri: String,
    pub api_key: Option<String>,
}

#[derive(Debug, Default)]
struct Script {
    requests: Vec<Request>,
    faults: VecDeque<Fault>,
    used_weight: u32,
    connections: VecDeque<Vec<Step>>,
    streams: Vec<String>,
    pongs: usize,
    /// Opening times of candles that do not exist.
    holes: Vec<i64>,
}

/// The running server; it ends with the test's runtime.
#[derive(Debug, Clone)]
pub struct Binance {
    pub url: String,
    pub ws_url: String,
    script: Arc<Mutex<Script>>,
}

const PRICES: [(&str, &str); 2] = [("BTCUSDT", "16555.07000000"), ("ETHUSDT", "1200.00000000")];

impl Binance {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::<Mutex<Script>>::default();
        let router = Router::new()
            .route("/api/v3/ticker/price", get(ticker_price))
            .route("/api/v3/klines", get(klines))
            .route("/stream", get(stream))
            .with_state(Arc::clone(&script));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url: format!("http://{address}"), ws_url: format!("ws://{address}"), script }
    }

    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script.lock().unwrap().faults.extend(faults);
    }

    pub fn use_weight(&self, weight: u32) {
        self.script.lock().unwrap().used_weight = weight;
    }

    pub fn connections(&self, connections: impl IntoIterator<Item = Vec<Step>>) {
        self.script.lock().unwrap().connections.extend(connections);
    }

    pub fn leave_out_candles(&self, open_times: impl IntoIterator<Item = i64>) {
        self.script.lock().unwrap().holes.extend(open_times);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.script.lock().unwrap().requests.clone()
    }

    /// The streams that each connection asked for, and the pongs that came.
    pub fn streams(&self) -> (Vec<String>, usize) {
        let script = self.script.lock().unwrap();
        (script.streams.clone(), script.pongs)
    }
}

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

/// A trade event on its combined stream.
pub fn trade(symbol: &str, id: u64, price: &str) -> Step {
    let stream = symbol.to_lowercase();
    Step::Text(format!(
        r#"{{"stream":"{stream}@trade","data":{{"e":"trade","E":1672515782136,"s":"{symbol}","t":{id},"p":"{price}","q":"0.01000000","T":1672515782135,"m":true,"M":true}}}}"#
    ))
}

fn error(code: i64, msg: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!(r#"{{"code":{code},"msg":"{msg}"}}"#)).into_response()
}

/// Notes the request; its fault, if it is to have one.
async fn note(script: &Mutex<Script>, uri: &Uri, headers: &HeaderMap) -> Option<Response> {
    let fault = {
        let mut script = script.lock().unwrap();
        let api_key = headers.get("x-mbx-apikey").map(|key| key.to_str().unwrap().to_owned());
        script.requests.push(Request { at: Instant::now(), uri: uri.to_string(), api_key });
        script.faults.pop_front()?
    };
    match fault {
        Fault::Slow(duration) => {
            tokio::time::sleep(duration).await;
            None
        }
        Fault::Body(body) => Some(body.into_response()),
        Fault::Status { status, retry_after, body } => {
            let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
            if let Some(seconds) = retry_after {
                response.headers_mut().insert("retry-after", seconds.into());
            }
            Some(response)
        }
    }
}

async fn ticker_price(
    State(script): State<Arc<Mutex<Script>>>,
    uri: Uri,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    if let Some(fault) = note(&script, &uri, &headers).await {
        return fault;
    }
    let price = |symbol: &str| PRICES.iter().find(|(known, _)| *known == symbol).map(|(_, price)| *price);
    let ticker = |symbol: &str| Some(format!(r#"{{"symbol":"{symbol}","price":"{}"}}"#, price(symbol)?));
    let body = match (query.get("symbol"), query.get("symbols")) {
        (Some(symbol), None) => ticker(symbol),
        (None, Some(symbols)) => {
            let symbols: Vec<String> = serde_json::from_str(symbols).unwrap();
            let tickers: Option<Vec<_>> = symbols.iter().map(|symbol| ticker(symbol)).collect();
            tickers.map(|tickers| format!("[{}]", tickers.join(",")))
        }
        _ => return error(-1128, "Combination of optional parameters invalid."),
    };
    let Some(body) = body else { return error(-1121, "Invalid symbol.") };
    let weight = script.lock().unwrap().used_weight.to_string();
    ([("x-mbx-used-weight-1m", weight)], body).into_response()
}

/// A candle for every interval until now, except the holes; the last one is still open.
async fn klines(
    State(script): State<Arc<Mutex<Script>>>,
    uri: Uri,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    if let Some(fault) = note(&script, &uri, &headers).await {
        return fault;
    }
    if !PRICES.iter().any(|(known, _)| *known == query["symbol"]) {
        return error(-1121, "Invalid symbol.");
    }
    let length = match query["interval"].as_str() {
        "1s" => 1_000,
        "1m" => 60_000,
        "1h" => 3_600_000,
        _ => return error(-1120, "Invalid interval."),
    };
    let limit: usize = query["limit"].parse().unwrap();
    assert!(limit <= 1_000);
    let start: i64 = query["startTime"].parse().unwrap();
    let holes = script.lock().unwrap().holes.clone();
    let mut rows = Vec::new();
    let mut open = start.div_euclid(length) * length + if start.rem_euclid(length) == 0 { 0 } else { length };
    while rows.len() < limit && open <= now_ms() {
        if !holes.contains(&open) {
            rows.push(format!(
                r#"[{open},"100.50000000","101.00000000","99.00000000","100.75000000","12.00000000",{},"1206.00000000",{},"6.00000000","603.00000000","0"]"#,
                open + length - 1,
                open / length % 1_000,
            ));
        }
        open += length;
    }
    format!("[{}]", rows.join(",")).into_response()
}

async fn stream(
    State(script): State<Arc<Mutex<Script>>>,
    Query(query): Query<HashMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let steps = {
        let mut script = script.lock().unwrap();
        script.streams.push(query["streams"].clone());
        script.connections.pop_front()
    };
    let Some(steps) = steps else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    upgrade.on_upgrade(move |socket| play(socket, steps, script))
}

async fn play(mut socket: WebSocket, steps: Vec<Step>, script: Arc<Mutex<Script>>) {
    for step in steps {
        match step {
            Step::Text(text) => {
                if socket.send(Message::Text(text.into())).await.is_err() {
                    return;
                }
            }
            Step::Ping => {
                socket.send(Message::Ping("tide".into())).await.unwrap();
                while let Some(Ok(message)) = socket.recv().await {
                    if message == Message::Pong("tide".into()) {
                        script.lock().unwrap().pongs += 1;
                        break;
                    }
                }
            }
            Step::Silence(duration) => tokio::time::sleep(duration).await,
            Step::Close => {
                let _ = socket.send(Message::Close(None)).await;
                return;
            }
        }
    }
}
