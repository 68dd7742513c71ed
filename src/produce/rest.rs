//! Binance over HTTP: one request at a time, its limits obeyed, its failures told apart.
//!
//! The rules are Binance's own (rest-api.md, "LIMITS" and "HTTP Return Codes"): 429 and 418 carry `Retry-After` in
//! seconds, and whoever asks on meanwhile is banned for up to three days; every answer tells the weight that this
//! address has used in the running minute.

use std::time::Duration;

use chrono::DateTime;
use rand::Rng;
use reqwest::{
    StatusCode, Url,
    header::{DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde::Deserialize;

use crate::{
    clock,
    error::{Error, ErrorKind, Result},
    produce::output::Output,
};

/// A request that takes longer has failed.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A page of 1000 candles has some 200 kB; what is much larger is no answer of Binance's.
const BODY_MAX_BYTES: usize = 8 << 20;
/// A 429 or 418 without `Retry-After`: the weight's minute, and the shortest ban.
const LIMITED_WAIT: Duration = Duration::from_secs(60);
const BANNED_WAIT: Duration = Duration::from_secs(120);
/// From this share of the minute's weight on, wait for the next minute: others behind the same address ask, too.
const WEIGHT_SHARE: f64 = 0.8;
const USED_WEIGHT: HeaderName = HeaderName::from_static("x-mbx-used-weight-1m");
const API_KEY: HeaderName = HeaderName::from_static("x-mbx-apikey");

/// How to reach Binance.
#[derive(Clone)]
pub struct RestOptions {
    /// `https://api.binance.com`, or `https://data-api.binance.vision` for market data alone.
    pub base_url: String,
    /// Sent as `X-MBX-APIKEY`; market data needs none. Never logged.
    pub api_key: Option<String>,
    /// The weight a minute that Binance grants an address: 6000 as documented in 2026.
    pub weight_limit: u32,
    pub timeout: Duration,
}

impl Default for RestOptions {
    fn default() -> Self {
        let base_url = "https://api.binance.com".to_owned();
        Self { base_url, api_key: None, weight_limit: 6_000, timeout: REQUEST_TIMEOUT }
    }
}

impl std::fmt::Debug for RestOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RestOptions").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// Waits longer after each failure, by a random share of it, so that many clients do not come back at once
/// ("equal jitter", AWS Architecture Blog, "Exponential Backoff And Jitter").
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(60);

    /// How long to wait after one more failure: at most a minute.
    pub fn wait(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(Self::LONGEST);
        full / 2 + (full / 2).mul_f64(rand::rng().random::<f64>())
    }

    /// It worked again.
    pub fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Self::FIRST }
    }
}

#[derive(Debug)]
enum Failure {
    /// Ask no more for this long.
    Limited(StatusCode, Duration),
    /// Trying again may help.
    Transient(String),
    /// It does not.
    Refused(Error),
}

struct Reply {
    body: Vec<u8>,
    server_ms: i64,
}

/// Binance's `{"code": -1121, "msg": "Invalid symbol."}`.
#[derive(Debug, Deserialize)]
struct ErrorBody {
    code: i64,
    msg: String,
}

/// A client that never asks too often.
#[derive(Debug)]
pub struct RestClient {
    http: reqwest::Client,
    base: Url,
    weight_limit: u32,
    /// Not before this much later, after the answer that said so.
    hold: Option<Duration>,
    backoff: Backoff,
    answered: bool,
    last_trouble: Option<String>,
}

impl RestClient {
    /// # Errors
    /// `Invalid` for a URL or a key that is none.
    pub fn new(options: &RestOptions) -> Result<Self> {
        let wrong = |reason: String| {
            Error::invalid(format!("--base-url '{}' is no address: {reason}", options.base_url))
                .help("write it as https://api.binance.com, or https://data-api.binance.vision for market data alone")
        };
        let base = Url::parse(&options.base_url).map_err(|error| wrong(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(wrong(format!("'{}' is neither http nor https", base.scheme())));
        }
        let mut headers = HeaderMap::new();
        if let Some(key) = &options.api_key {
            let mut value = HeaderValue::from_str(key)
                .map_err(|_| Error::invalid("BINANCE_API_KEY has characters that no key has"))?;
            value.set_sensitive(true);
            headers.insert(API_KEY, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")))
            .timeout(options.timeout)
            .connect_timeout(options.timeout)
            // A key must not follow a redirect to another host.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::internal("the HTTP client does not start").source_error(error))?;
        let (hold, backoff) = (None, Backoff::default());
        let weight_limit = options.weight_limit;
        Ok(Self { http, base, weight_limit, hold, backoff, answered: false, last_trouble: None })
    }

    /// Asks until there is an answer that `parse` takes; with it, the server's clock (ms). `None` when the output is done first.
    /// Waits are said and counted: "rate limits", "failed requests".
    ///
    /// # Errors
    /// What asking again cannot cure: an unknown symbol (`what` names it), a wrong URL, a refused key.
    pub async fn fetch<T>(
        &mut self,
        (path, query): (&str, &[(&str, &str)]),
        what: &str,
        parse: impl Fn(&[u8]) -> Result<T, String>,
        output: &mut Output,
    ) -> Result<Option<(T, i64)>> {
        loop {
            if let Some(hold) = self.hold.take() {
                output.notice(&format!("the request weight of this minute is nearly used: waiting {hold:.1?}"));
                output.note("weight waits", 1);
                if !output.pause(hold).await? {
                    return Ok(None);
                }
            }
            let asked = output.wait_for(self.get(path, query, what)).await?;
            let answer = match asked {
                None => return Ok(None),
                Some(answer) => answer.and_then(|reply| match parse(&reply.body) {
                    Ok(parsed) => Ok((parsed, reply.server_ms)),
                    Err(reason) => Err(Failure::Transient(format!("{path} answered what is no answer: {reason}"))),
                }),
            };
            let wait = match answer {
                Ok(parsed) => {
                    self.backoff.reset();
                    self.answered = true;
                    self.last_trouble = None;
                    return Ok(Some(parsed));
                }
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Limited(status, wait)) => {
                    output.note("rate limits", 1);
                    let text = format!("Binance answered {status}: asking nothing for {wait:?}, as it wants");
                    output.notice(&text);
                    self.last_trouble = Some(text);
                    wait
                }
                Err(Failure::Transient(reason)) => {
                    output.note("failed requests", 1);
                    let wait = self.backoff.wait();
                    output.notice(&format!("{reason}; asking again in {wait:.1?}"));
                    self.last_trouble = Some(reason);
                    wait
                }
            };
            if !output.pause(wait).await? {
                return Ok(None);
            }
        }
    }

    /// The last request failed.
    pub fn troubled(&self) -> bool {
        self.last_trouble.is_some()
    }

    /// # Errors
    /// `Unavailable` when Binance was asked and never answered: a run that sent nothing is no success.
    pub fn check_answered(&self) -> Result<()> {
        match &self.last_trouble {
            Some(trouble) if !self.answered => {
                Err(Error::new(ErrorKind::Unavailable, format!("{} never gave an answer: {trouble}", self.base)))
            }
            _ => Ok(()),
        }
    }

    async fn get(&mut self, path: &str, query: &[(&str, &str)], what: &str) -> Result<Reply, Failure> {
        let mut url = self.base.clone();
        url.set_path(path);
        let transient = |error: reqwest::Error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Failure::Transient(format!("{error}{cause}"))
        };
        let mut response = self.http.get(url).query(query).send().await.map_err(transient)?;
        let status = response.status();
        let headers = response.headers();
        let server_ms = server_ms(headers);
        let used = headers.get(USED_WEIGHT).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
        self.hold = weight_wait(used, self.weight_limit, server_ms);
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transient)? {
            if body.len() + chunk.len() > BODY_MAX_BYTES {
                return Err(Failure::Transient(format!("{path} answered more than {BODY_MAX_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(Reply { body, server_ms });
        }
        Err(failure(status, retry_after, &body, path, what))
    }
}

fn failure(status: StatusCode, retry_after: Option<Duration>, body: &[u8], path: &str, what: &str) -> Failure {
    let error: Option<ErrorBody> = serde_json::from_slice(body).ok();
    let said = error.as_ref().map_or_else(|| status.to_string(), |error| format!("{} ({})", error.msg, error.code));
    let refused = |kind, message: String, help: &str| Failure::Refused(Error::new(kind, message).help(help));
    match (status.as_u16(), error.as_ref().map(|error| error.code)) {
        (418, _) => Failure::Limited(status, retry_after.unwrap_or(BANNED_WAIT)),
        // -1003 is TOO_MANY_REQUESTS, whatever the status.
        (429, _) | (_, Some(-1003)) => Failure::Limited(status, retry_after.unwrap_or(LIMITED_WAIT)),
        (408 | 500..=599, _) => Failure::Transient(format!("{path} answered {status}: {said}")),
        (_, Some(-1121 | -1100)) => refused(
            ErrorKind::Invalid,
            format!("Binance does not know {what}: {said}"),
            "a symbol is written without separator: BTCUSDT; /api/v3/exchangeInfo lists them",
        ),
        (_, Some(-1120)) => refused(
            ErrorKind::Invalid,
            format!("Binance does not know the candles of {what}: {said}"),
            "intervals are 1s 1m 3m 5m 15m 30m 1h 2h 4h 6h 8h 12h 1d 3d 1w 1M",
        ),
        (401, _) | (_, Some(-2014 | -2015)) => refused(
            ErrorKind::PermissionDenied,
            format!("Binance refused the key: {said}"),
            "market data needs no key: unset BINANCE_API_KEY, or correct it",
        ),
        (403 | 451, _) => refused(
            ErrorKind::PermissionDenied,
            format!("Binance does not serve this address: {said}"),
            "--base-url https://data-api.binance.vision serves market data alone, and in more places",
        ),
        _ => refused(
            ErrorKind::Invalid,
            format!("{path} for {what} answered {status}: {said}"),
            "is --base-url the address of Binance's REST API?",
        ),
    }
}

/// The `Date` of an answer: candles close by Binance's clock, not ours.
fn server_ms(headers: &HeaderMap) -> i64 {
    let date = headers.get(DATE).and_then(|value| DateTime::parse_from_rfc2822(value.to_str().ok()?).ok());
    date.map_or_else(clock::now_ms, |date| date.timestamp_millis())
}

/// The rest of the minute, when most of its weight is used.
fn weight_wait(used: u32, limit: u32, now_ms: i64) -> Option<Duration> {
    let near = f64::from(used) >= f64::from(limit) * WEIGHT_SHARE;
    let rest_ms = 60_000 - now_ms.rem_euclid(60_000);
    near.then(|| Duration::from_millis(rest_ms.unsigned_abs()))
}

/// Upper-case symbols without repetition, `BTCUSDT` and not `BTC/USDT`.
///
/// # Errors
/// `Invalid`, naming what Binance would not take (its rule: `^[A-Z0-9-_.]{1,20}$`).
pub fn checked_symbols(symbols: &[String]) -> Result<Vec<String>> {
    let mut checked: Vec<String> = Vec::with_capacity(symbols.len());
    for symbol in symbols {
        let upper = symbol.trim().to_ascii_uppercase();
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if upper.is_empty() || upper.len() > 20 || !upper.bytes().all(legal) {
            return Err(Error::invalid(format!("'{symbol}' is no symbol"))
                .help("a symbol is written without separator: BTCUSDT"));
        }
        if !checked.contains(&upper) {
            checked.push(upper);
        }
    }
    if checked.is_empty() {
        return Err(Error::invalid("no symbol was named").help("--symbol BTCUSDT"));
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_mean_what_binance_says() {
        let of = |status: u16, retry: Option<u64>, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            failure(status, retry.map(Duration::from_secs), body.as_bytes(), "/p", "'FOO'")
        };
        assert!(matches!(of(429, Some(7), ""), Failure::Limited(_, wait) if wait == Duration::from_secs(7)));
        assert!(matches!(of(429, None, ""), Failure::Limited(_, LIMITED_WAIT)));
        assert!(matches!(of(418, Some(0), ""), Failure::Limited(_, Duration::ZERO)));
        assert!(matches!(of(418, None, "{}"), Failure::Limited(_, BANNED_WAIT)));
        assert!(matches!(of(400, None, r#"{"code":-1003,"msg":"Too many"}"#), Failure::Limited(_, LIMITED_WAIT)));
        assert!(matches!(of(502, None, "<html>"), Failure::Transient(_)));
        let Failure::Refused(error) = of(400, None, r#"{"code":-1121,"msg":"Invalid symbol."}"#) else { panic!() };
        assert_eq!(
            (error.kind(), error.message()),
            (ErrorKind::Invalid, "Binance does not know 'FOO': Invalid symbol. (-1121)")
        );
        let Failure::Refused(error) = of(451, None, "") else { panic!() };
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(matches!(of(404, None, "not here"), Failure::Refused(error) if error.kind() == ErrorKind::Invalid));
    }

    #[test]
    fn weight_is_respected_until_the_minute_turns() {
        assert_eq!(weight_wait(4_799, 6_000, 30_000), None);
        assert_eq!(weight_wait(4_800, 6_000, 90_000), Some(Duration::from_secs(30)));
        assert_eq!(weight_wait(9_999, 6_000, 119_999), Some(Duration::from_millis(1)));
    }

    #[test]
    fn backoff_grows_jitters_and_is_bounded() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.wait()).collect();
        assert!(waits[0] >= Duration::from_millis(250) && waits[0] <= Duration::from_millis(500), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(60)), "{waits:?}");
        assert!(waits[11] >= Duration::from_secs(30), "{waits:?}");
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(500));
    }

    #[test]
    fn the_key_is_nowhere_to_be_seen() {
        let options = RestOptions { api_key: Some("topsecret".into()), ..Default::default() };
        let client = RestClient::new(&options).unwrap();
        assert!(!format!("{options:?}{client:?}").contains("topsecret"));
    }

    #[test]
    fn symbols_are_checked() {
        let list = |symbols: &[&str]| checked_symbols(&symbols.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(list(&["btcusdt", "BTCUSDT", "ethusdt"]).unwrap(), ["BTCUSDT", "ETHUSDT"]);
        for wrong in [&["BTC/USDT"][..], &[""], &[]] {
            assert!(list(wrong).is_err(), "{wrong:?}");
        }
    }
}
