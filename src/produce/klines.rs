//! Candles: `/api/v3/klines`, history in pages first, then each candle as it closes.
//!
//! A record has numbers for prices and volumes, with Binance's digits, and milliseconds since the epoch for times; its
//! key is the symbol. Every closed candle is sent once; where Binance has none, the hole is said and counted.

use std::{collections::VecDeque, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    clock,
    error::{Error, Result},
    produce::{
        binance::{RestClient, RestOptions},
        output::Output,
        rest::checked_symbols,
        text::write_decimal,
    },
};

const PATH: &str = "/api/v3/klines";
/// Binance's largest page; also what is held of each symbol.
const PAGE: usize = 1_000;
const PAGE_TEXT: &str = "1000";
/// A closed candle is asked for this much after its end, and then this often while it is not there.
const CLOSING: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// However long a candle is, look this often: clocks differ.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Binance's intervals, and how long they last at least.
const INTERVALS: [(&str, u64); 16] = [
    ("1s", 1),
    ("1m", 60),
    ("3m", 180),
    ("5m", 300),
    ("15m", 900),
    ("30m", 1_800),
    ("1h", 3_600),
    ("2h", 7_200),
    ("4h", 14_400),
    ("6h", 21_600),
    ("8h", 28_800),
    ("12h", 43_200),
    ("1d", 86_400),
    ("3d", 259_200),
    ("1w", 604_800),
    ("1M", 2_419_200),
];

/// Which candles.
#[derive(Debug, Clone)]
pub struct KlineOptions {
    pub rest: RestOptions,
    pub symbols: Vec<String>,
    /// As Binance writes it: `1m`, `1h`, `1d`.
    pub interval: String,
    /// The first candle opens then or later (ms since the epoch); none: from now on.
    pub from_ms: Option<i64>,
    /// Stop before the candle that opens then or later; none: go on live.
    pub to_ms: Option<i64>,
    /// Also send the candle that is not closed yet, each time it is looked at, with `"closed": false`.
    pub include_open: bool,
    /// How often to look at the open candle.
    pub poll: Duration,
}

/// Open time, open, high, low, close, volume, close time, quote volume, trades, taker buy volume (base, quote), unused.
#[derive(Debug, Deserialize)]
struct Row(
    i64,
    String,
    String,
    String,
    String,
    String,
    i64,
    String,
    u64,
    String,
    String,
    #[allow(dead_code)] Box<RawValue>,
);

#[derive(Debug)]
struct Candles {
    symbol: String,
    /// Everything that opens earlier is sent, or in `ready`.
    next_ms: i64,
    ready: VecDeque<Row>,
    open: Option<Row>,
    /// The last page was the last one there is.
    caught_up: bool,
    /// Nothing to look for before then.
    look_at_ms: i64,
    first: bool,
}

/// Sends candles until the output is done, or `to_ms` is reached. Several symbols are merged by open time, so that
/// event time never runs back. Counts "gaps" and "missing candles" beside what the client counts.
///
/// # Errors
/// `Invalid`, naming a symbol or interval that Binance does not know; those of the client and the output.
pub async fn run(options: &KlineOptions, output: &mut Output) -> Result<()> {
    let length_ms = interval_ms(&options.interval)?;
    let from_ms = options.from_ms.unwrap_or_else(clock::now_ms);
    if options.to_ms.is_some_and(|to_ms| to_ms <= from_ms) {
        return Err(Error::invalid("--to is not after --from"));
    }
    let mut client = RestClient::new(&options.rest)?;
    let start = |symbol| Candles {
        symbol,
        next_ms: from_ms,
        ready: VecDeque::new(),
        open: None,
        caught_up: false,
        look_at_ms: 0,
        first: true,
    };
    let mut all: Vec<_> = checked_symbols(&options.symbols)?.into_iter().map(start).collect();
    let mut value = Vec::new();
    while !output.done() {
        for candles in &mut all {
            if candles.ready.is_empty() && !candles.caught_up {
                candles.fetch(options, length_ms, &mut client, output).await?;
            }
        }
        if output.done() {
            break;
        }
        // The symbol whose next candle opens first.
        let earliest = all.iter_mut().filter(|candles| !candles.ready.is_empty());
        if let Some(candles) = earliest.min_by_key(|candles| candles.ready.front().map(|row| row.0)) {
            candles.send_next(&options.interval, options.include_open, &mut value, output).await?;
            continue;
        }
        if all.iter().all(|candles| options.to_ms.is_some_and(|to_ms| candles.next_ms >= to_ms)) {
            break;
        }
        for candles in &mut all {
            candles.send_open(&options.interval, &mut value, output).await?;
        }
        let look_at_ms = all.iter().map(|candles| candles.look_at_ms).min().unwrap_or(0);
        let wait = Duration::from_millis(u64::try_from(look_at_ms - clock::now_ms()).unwrap_or(0));
        output.pause(wait).await?;
        let now_ms = clock::now_ms();
        for candles in &mut all {
            candles.caught_up = candles.look_at_ms > now_ms;
        }
    }
    client.check_answered()
}

/// # Errors
/// `Invalid` with the list of intervals.
pub fn interval_ms(interval: &str) -> Result<i64> {
    let known = INTERVALS.iter().find(|(name, _)| *name == interval);
    known.and_then(|(_, seconds)| i64::try_from(seconds * 1_000).ok()).ok_or_else(|| {
        let names: Vec<_> = INTERVALS.iter().map(|(name, _)| *name).collect();
        Error::invalid(format!("'{interval}' is no candle interval")).help(format!("one of {}", names.join(" ")))
    })
}

impl Candles {
    /// Gets the next page, and decides when to look again after the last one.
    async fn fetch(
        &mut self,
        options: &KlineOptions,
        length_ms: i64,
        client: &mut RestClient,
        output: &mut Output,
    ) -> Result<()> {
        let start = self.next_ms.to_string();
        let query: [(&str, &str); 4] =
            [("symbol", &self.symbol), ("interval", &options.interval), ("startTime", &start), ("limit", PAGE_TEXT)];
        let what = format!("'{}' at interval '{}'", self.symbol, options.interval);
        let Some((rows, server_ms)) = client.fetch((PATH, &query), &what, parse, output).await? else {
            return Ok(());
        };
        let full = rows.len() >= PAGE;
        self.open = None;
        for row in rows {
            let (open_ms, close_ms) = (row.0, row.6);
            if open_ms < self.next_ms {
                continue;
            }
            if options.to_ms.is_some_and(|to_ms| open_ms >= to_ms) {
                self.next_ms = open_ms;
                break;
            }
            if close_ms >= server_ms {
                self.open = options.include_open.then_some(row);
                break;
            }
            self.count_hole(open_ms, close_ms, output);
            self.next_ms = close_ms + 1;
            self.ready.push_back(row);
        }
        if let Some(to_ms) = options.to_ms
            && !full
            && server_ms > to_ms
        {
            // History ends earlier than was asked for: nothing more can come.
            self.next_ms = self.next_ms.max(to_ms);
        }
        self.caught_up = !full || self.ready.is_empty() || self.passed(options.to_ms);
        self.look_again_at(options, length_ms, server_ms);
        Ok(())
    }

    fn look_again_at(&mut self, options: &KlineOptions, length_ms: i64, server_ms: i64) {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        // The next candle is complete then, by Binance's clock; the wait is a difference, so ours may be wrong.
        let closes_in = self.next_ms.saturating_add(length_ms) - server_ms + ms(CLOSING);
        let longest = if options.include_open { ms(options.poll) } else { ms(LONGEST_WAIT) };
        let shortest = ms(LOOK_AGAIN).min(longest);
        self.look_at_ms = clock::now_ms() + closes_in.clamp(shortest, longest);
        if self.passed(options.to_ms) {
            self.look_at_ms = i64::MAX;
        }
    }

    fn passed(&self, to_ms: Option<i64>) -> bool {
        to_ms.is_some_and(|to_ms| self.next_ms >= to_ms)
    }

    fn count_hole(&mut self, open_ms: i64, close_ms: i64, output: &mut Output) {
        let hole_ms = open_ms - self.next_ms;
        let length_ms = (close_ms + 1 - open_ms).max(1);
        // The first candle may open any time after --from.
        if !self.first && hole_ms > 0 {
            let missing = u64::try_from(hole_ms / length_ms).unwrap_or(0).max(1);
            output.note("gaps", 1);
            output.note("missing candles", missing);
            output.notice(&format!(
                "Binance has no candles of {} between {} and {open_ms} (ms): {missing} are missing",
                self.symbol, self.next_ms
            ));
        }
        self.first = false;
    }

    async fn send_next(&mut self, interval: &str, mark: bool, value: &mut Vec<u8>, output: &mut Output) -> Result<()> {
        let Some(row) = self.ready.pop_front() else { return Ok(()) };
        write_record(&self.symbol, interval, &row, mark.then_some(true), value)?;
        output.send(Some(self.symbol.as_bytes()), value).await?;
        Ok(())
    }

    async fn send_open(&mut self, interval: &str, value: &mut Vec<u8>, output: &mut Output) -> Result<()> {
        let Some(row) = self.open.take() else { return Ok(()) };
        write_record(&self.symbol, interval, &row, Some(false), value)?;
        output.send(Some(self.symbol.as_bytes()), value).await?;
        Ok(())
    }
}

/// Rows in ascending order with numbers in them, or why not.
fn parse(body: &[u8]) -> Result<Vec<Row>, String> {
    let rows: Vec<Row> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if rows.windows(2).any(|pair| pair[0].0 >= pair[1].0) || rows.iter().any(|row| row.6 <= row.0) {
        return Err("the candles are out of order".to_owned());
    }
    let mut value = Vec::new();
    match rows.iter().find(|row| write_record("", "", row, None, &mut value).is_err()) {
        Some(row) => Err(format!("the candle of {} has a price that is no number", row.0)),
        None => Ok(rows),
    }
}

fn write_record(symbol: &str, interval: &str, row: &Row, closed: Option<bool>, value: &mut Vec<u8>) -> Result<()> {
    let Row(open_time, open, high, low, close, volume, close_time, quote_volume, trades, buy, buy_quote, _) = row;
    value.clear();
    let text = format!(
        r#"{{"symbol": "{symbol}", "interval": "{interval}", "open_time": {open_time}, "close_time": {close_time}"#
    );
    value.extend_from_slice(text.as_bytes());
    let decimals = [
        ("open", open),
        ("high", high),
        ("low", low),
        ("close", close),
        ("volume", volume),
        ("quote_volume", quote_volume),
        ("taker_buy_volume", buy),
        ("taker_buy_quote_volume", buy_quote),
    ];
    for (name, decimal) in decimals {
        value.extend_from_slice(format!(", \"{name}\": ").as_bytes());
        if !write_decimal(decimal, value) {
            return Err(Error::internal(format!("'{decimal}' is no number")));
        }
    }
    value.extend_from_slice(format!(", \"trades\": {trades}").as_bytes());
    if let Some(closed) = closed {
        value.extend_from_slice(format!(", \"closed\": {closed}").as_bytes());
    }
    value.push(b'}');
    Ok(())
}
