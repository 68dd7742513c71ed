//! The live page: what the queries of a running job do, in a browser.
//!
//! `hub.rs` hears of every batch and keeps the newest of everything (`history.rs`), `query.rs` is what it knows of one
//! query, `access.rs` says who may look, `server.rs` answers over HTTP, and `assets` is what a browser gets. The page asks
//! for nothing but these; it reads, and changes nothing.

mod access;
mod hub;
mod query;
mod history;
mod server;

pub use access::{TOKEN_VARIABLE, parse_address};
pub use hub::Hub;
pub use server::{Page, PageOptions};
