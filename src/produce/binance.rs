//! The latest prices, asked for at an interval: `/api/v3/ticker/price`.
//!
//! A record is `{"symbol": "BTCUSDT", "price": 16555.07}`, keyed by its symbol; the price has the digits that Binance
//! sent, as a number.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    clock::{self, Stopwatch},
    error::{Error, ErrorKind, Result},
    produce::{
        output::Output,
        rest::checked_symbols,
        text::{decimal_number, write_decimal, write_time_ms},
    },
};

pub use crate::produce::rest::{RestClient, RestOptions};

const PATH: &str = "/api/v3/ticker/price";

/// What to ask for.
#[derive(Debug, Clone)]
pub struct TickerOptions {
    pub rest: RestOptions,
    pub symbols: Vec<String>,
    pub interval: Duration,
    /// Adds `"timestamp"`: when the answer came, in UTC.
    pub event_time: bool,
}

/// One price of an answer.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Ticker {
    symbol: String,
    price: String,
}

/// Which ticks were served and which were missed. Tick `n` is due at `n * interval`; a late answer serves the tick
/// that is current when it comes, and the ones before are missed, never made up for.
#[derive(Debug)]
struct Ticks {
    interval: Duration,
    next: u64,
}

impl Ticks {
    /// How long until the next tick is due.
    fn wait(&self, elapsed: Duration) -> Duration {
        let due = self.interval.as_secs_f64() * self.next as f64;
        Duration::try_from_secs_f64(due).unwrap_or(Duration::MAX).saturating_sub(elapsed)
    }

    /// An answer came: how many ticks passed without one.
    fn serve(&mut self, elapsed: Duration) -> u64 {
        let current = self.current(elapsed);
        let missed = current.saturating_sub(self.next);
        self.next = current.max(self.next) + 1;
        missed
    }

    /// No answer came before the end: how many ticks were due.
    fn abandon(&self, elapsed: Duration) -> u64 {
        (self.current(elapsed) + 1).saturating_sub(self.next)
    }

    fn current(&self, elapsed: Duration) -> u64 {
        (elapsed.as_secs_f64() / self.interval.as_secs_f64()).floor() as u64
    }
}

/// Sends the prices at every tick until the output is done. Counts "gaps" and "missed ticks" beside what the client counts.
///
/// # Errors
/// `Invalid`, naming a symbol that Binance does not know; those of the client and the output; `Unavailable` when
/// Binance never answered.
pub async fn run(options: &TickerOptions, output: &mut Output) -> Result<()> {
    let symbols = checked_symbols(&options.symbols)?;
    if options.interval.is_zero() {
        return Err(Error::invalid("--interval must be longer than nothing"));
    }
    let mut client = RestClient::new(&options.rest)?;
    let watch = Stopwatch::start();
    let mut ticks = Ticks { interval: options.interval, next: 0 };
    let mut value = Vec::new();
    while !output.done() {
        let wait = ticks.wait(watch.elapsed());
        if !wait.is_zero() {
            output.pause(wait).await?;
            continue;
        }
        let Some(tickers) = prices(&mut client, &symbols, output).await? else { break };
        let missed = ticks.serve(watch.elapsed());
        if missed > 0 {
            output.note("gaps", 1);
            output.note("missed ticks", missed);
            output.notice(&format!("a gap of {missed} ticks of {:?}: those prices are lost", options.interval));
        }
        let now_ms = clock::now_ms();
        for ticker in tickers {
            write_record(&ticker, options.event_time.then_some(now_ms), &mut value)?;
            if !output.send(Some(ticker.symbol.as_bytes()), &value).await? {
                break;
            }
        }
    }
    if client.troubled() {
        // The gap goes on to the end.
        output.note("gaps", 1);
        output.note("missed ticks", ticks.abandon(watch.elapsed()));
    }
    client.check_answered()
}

/// Asks Binance about the symbols once, so that a misspelt one is an error now and not a stream that stays silent.
///
/// # Errors
/// As `run`; what only hinders the question is said and not an error.
pub async fn check_symbols(client: &mut RestClient, symbols: &[String], output: &mut Output) -> Result<()> {
    prices(client, symbols, output).await.map(drop)
}

async fn prices(client: &mut RestClient, symbols: &[String], output: &mut Output) -> Result<Option<Vec<Ticker>>> {
    let listed = symbols.join("', '");
    let answer = match symbols {
        [symbol] => {
            let parse = |body: &[u8]| parse(symbols, serde_json::from_slice(body).map(|ticker| vec![ticker]));
            let what = format!("the symbol '{listed}'");
            client.fetch((PATH, &[("symbol", symbol)]), &what, parse, output).await
        }
        _ => {
            let list = serde_json::to_string(symbols).map_err(|error| Error::internal(error.to_string()))?;
            let parse = |body: &[u8]| parse(symbols, serde_json::from_slice(body));
            let what = format!("one of the symbols '{listed}'");
            client.fetch((PATH, &[("symbols", &list)]), &what, parse, output).await
        }
    };
    match answer {
        // Binance does not say which: ask one by one.
        Err(error) if error.kind() == ErrorKind::Invalid && symbols.len() > 1 => {
            for symbol in symbols {
                Box::pin(prices(client, std::slice::from_ref(symbol), output)).await?;
            }
            Err(error)
        }
        other => Ok(other?.map(|(tickers, _)| tickers)),
    }
}

/// The tickers of every symbol, each with a number for a price, or why not.
fn parse(symbols: &[String], parsed: serde_json::Result<Vec<Ticker>>) -> Result<Vec<Ticker>, String> {
    let tickers = parsed.map_err(|error| error.to_string())?;
    for symbol in symbols {
        if !tickers.iter().any(|ticker| ticker.symbol == *symbol) {
            return Err(format!("the price of '{symbol}' is missing"));
        }
    }
    match tickers.iter().find(|ticker| decimal_number(&ticker.price).is_none() || !symbols.contains(&ticker.symbol)) {
        Some(wrong) => Err(format!("'{}' is no price of '{}'", wrong.price, wrong.symbol)),
        None => Ok(tickers),
    }
}

fn write_record(ticker: &Ticker, time_ms: Option<i64>, value: &mut Vec<u8>) -> Result<()> {
    value.clear();
    // A checked symbol has nothing that JSON would escape.
    value.extend_from_slice(b"{\"symbol\": \"");
    value.extend_from_slice(ticker.symbol.as_bytes());
    value.extend_from_slice(b"\", \"price\": ");
    if !write_decimal(&ticker.price, value) {
        return Err(Error::internal(format!("'{}' passed for a price", ticker.price)));
    }
    if let Some(time_ms) = time_ms {
        value.extend_from_slice(b", \"timestamp\": \"");
        write_time_ms(time_ms, value);
        value.push(b'"');
    }
    value.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_missed_and_never_made_up_for() {
        let seconds = Duration::from_secs;
        let mut ticks = Ticks { interval: seconds(5), next: 0 };
        assert_eq!(ticks.wait(seconds(0)), Duration::ZERO);
        assert_eq!(ticks.serve(seconds(1)), 0);
        assert_eq!(ticks.wait(seconds(1)), seconds(4));
        // Tick 1 was due at 5 s; its answer came at 23 s, within tick 4: 1, 2 and 3 are lost.
        assert_eq!(ticks.serve(seconds(23)), 3);
        assert_eq!(ticks.wait(seconds(23)), seconds(2));
        assert_eq!(ticks.abandon(seconds(24)), 0);
        assert_eq!(ticks.abandon(seconds(31)), 2);
    }

    #[test]
    fn a_record_looks_as_expected() {
        let mut value = Vec::new();
        let ticker = Ticker { symbol: "BTCUSDT".into(), price: "16555.07000000".into() };
        write_record(&ticker, None, &mut value).unwrap();
        assert_eq!(value, br#"{"symbol": "BTCUSDT", "price": 16555.07}"#);
        write_record(&ticker, Some(1_767_225_600_007), &mut value).unwrap();
        let text = r#"{"symbol": "BTCUSDT", "price": 16555.07, "timestamp": "2026-01-01T00:00:00.007Z"}"#;
        assert_eq!(value, text.as_bytes());
    }
}
