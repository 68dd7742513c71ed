//! `--ui`: where the live page is.

use std::net::SocketAddr;

use crate::page::{PageOptions, TOKEN_VARIABLE, parse_address};

/// For clap.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    parse_address(text).map_err(|error| error.to_string())
}

/// The page at `address`, or at one of `more_ports` above it, with the token of the environment.
pub fn options(address: SocketAddr, more_ports: u16) -> PageOptions {
    PageOptions { address, more_ports, token: std::env::var(TOKEN_VARIABLE).ok() }
}
