//! Who may look at the page: everybody on this machine, and beyond it who has the token.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The environment variable that has the token: arguments can be seen by everybody on a machine.
pub const TOKEN_VARIABLE: &str = "TIDEMILL_UI_TOKEN";
/// Shorter ones can be guessed.
const TOKEN_CHARS_MIN: usize = 16;

/// `4040`, `127.0.0.1:4040`, `localhost:4040`, `0.0.0.0:4040`, `[::1]:4040`. Port 0 is any that is free.
///
/// # Errors
/// `Invalid`, with examples.
pub fn parse_address(text: &str) -> Result<SocketAddr> {
    let port = text.strip_prefix("localhost:").unwrap_or(text).parse();
    let address = port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).or_else(|_| text.parse());
    address.map_err(|_| {
        Error::invalid(format!("{text:?} is no address for the page"))
            .help("write a port, which is opened for this machine only, as in 4040, or an address: 127.0.0.1:4040")
    })
}

/// Decides about requests.
#[derive(Clone)]
pub struct Access {
    /// What a cookie has instead of the token.
    digest: Option<String>,
    cookie: String,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("token", &self.digest.as_ref().map(|_| "***")).finish_non_exhaustive()
    }
}

/// What is answered to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Welcome,
    /// The token is missing or wrong.
    TokenNeeded,
    /// The browser was led here under another name (DNS rebinding).
    WrongHost,
}

impl Access {
    /// To a page at `address`.
    ///
    /// # Errors
    /// `Invalid` if the page could be seen from other machines and there is no token, and for a token that is too short.
    pub fn new(address: SocketAddr, token: Option<&str>) -> Result<Self> {
        let token = token.filter(|token| !token.is_empty());
        match token {
            None if !address.ip().is_loopback() => {
                return Err(Error::invalid(format!(
                    "the page at {address} could be read from other machines, and has no token"
                ))
                .help(format!(
                    "set {TOKEN_VARIABLE} to a secret of {TOKEN_CHARS_MIN} characters or more, or take 127.0.0.1:{}",
                    address.port()
                )));
            }
            Some(token) if token.chars().count() < TOKEN_CHARS_MIN => {
                return Err(Error::invalid(format!("{TOKEN_VARIABLE} is shorter than {TOKEN_CHARS_MIN} characters"))
                    .help("take a longer one, as from: openssl rand -hex 16"));
            }
            _ => {}
        }
        Ok(Self { digest: token.map(digest), cookie: format!("tidemill-{}", address.port()) })
    }

    /// Of a request with these headers.
    pub(super) fn check(&self, headers: &HeaderMap) -> Answer {
        let Some(digest) = &self.digest else {
            return if is_this_machine(headers) { Answer::Welcome } else { Answer::WrongHost };
        };
        let bearer = text(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        if bearer.is_some_and(|token| self.is_token(token.trim())) {
            return Answer::Welcome;
        }
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        match pairs.any(|(name, value)| name == self.cookie && are_equal(value, digest)) {
            true => Answer::Welcome,
            false => Answer::TokenNeeded,
        }
    }

    /// Is it the one?
    pub(super) fn is_token(&self, token: &str) -> bool {
        self.digest.as_ref().is_some_and(|expected| are_equal(&self::digest(token), expected))
    }

    /// The header that lets a browser in from now on. Nothing here changes anything, so a link from elsewhere may lead here.
    pub(super) fn set_cookie(&self) -> String {
        let value = self.digest.as_deref().unwrap_or_default();
        format!("{}={value}; Path=/; HttpOnly; SameSite=Lax", self.cookie)
    }
}

/// The token cannot be had from it.
fn digest(token: &str) -> String {
    let hash = Sha256::new().chain_update("tidemill page\0").chain_update(token).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// In a time that does not tell where they differ.
fn are_equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Does the `Host` say so? A name of somebody else's may lead here too, and its pages could read ours.
fn is_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = text(headers, header::HOST) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn addresses_are_of_this_machine_unless_they_say_otherwise() {
        for (text, expected) in [
            ("4040", "127.0.0.1:4040"),
            ("localhost:1", "127.0.0.1:1"),
            ("0.0.0.0:4040", "0.0.0.0:4040"),
            ("[::1]:0", "[::1]:0"),
        ] {
            assert_eq!(parse_address(text).unwrap().to_string(), expected);
        }
        for text in ["", "job.sql", "127.0.0.1", "example.com:80", "99999", ":4040", "localhost:x"] {
            let error = parse_address(text).unwrap_err();
            assert!(error.message().contains(text) && error.advice().is_some(), "{error}");
        }
    }

    #[test]
    fn beyond_this_machine_a_token_is_needed() {
        let address = "0.0.0.0:4040".parse().unwrap();
        let error = Access::new(address, None).unwrap_err();
        assert!(error.advice().unwrap().contains(TOKEN_VARIABLE), "{error}");
        assert!(Access::new(address, Some("")).is_err() && Access::new(address, Some("short")).is_err());
        let access = Access::new(address, Some("0123456789abcdef")).unwrap();
        assert!(!format!("{access:?}").contains("0123456789abcdef"));
        let asked = |pairs: &[(header::HeaderName, &str)]| access.check(&headers(pairs));
        assert_eq!(asked(&[(header::HOST, "localhost")]), Answer::TokenNeeded);
        assert_eq!(asked(&[(header::AUTHORIZATION, "Bearer 0123456789abcdef")]), Answer::Welcome);
        for wrong in ["Bearer 0123456789abcdeg", "Bearer ", "Basic 0123456789abcdef", "0123456789abcdef"] {
            assert_eq!(asked(&[(header::AUTHORIZATION, wrong)]), Answer::TokenNeeded, "{wrong}");
        }
        let cookie = access.set_cookie();
        let cookie = cookie.split(';').next().unwrap();
        assert!(!cookie.contains("0123456789abcdef"));
        assert_eq!(asked(&[(header::COOKIE, &format!("a=b; {cookie}; c"))]), Answer::Welcome);
        for wrong in [format!("{cookie}0"), cookie.replace("4040", "4041"), cookie[..cookie.len() - 1].to_owned()] {
            assert_eq!(asked(&[(header::COOKIE, &wrong)]), Answer::TokenNeeded, "{wrong}");
        }
    }

    #[test]
    fn on_this_machine_another_name_is_refused() {
        let access = Access::new("127.0.0.1:4040".parse().unwrap(), None).unwrap();
        let asked = |host: &str| access.check(&headers(&[(header::HOST, host)]));
        for host in ["localhost", "localhost:4040", "LocalHost:1", "127.0.0.1:4040", "127.1.2.3", "[::1]:4040", "[::1]"]
        {
            assert_eq!(asked(host), Answer::Welcome, "{host}");
        }
        for host in ["evil.example:4040", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example", ""] {
            assert_eq!(asked(host), Answer::WrongHost, "{host}");
        }
        assert_eq!(access.check(&HeaderMap::new()), Answer::WrongHost);
        assert!(!access.is_token(""));
    }
}
