//! Prices into Kafka.
//!
//! `binance.rs` (REST, on `rest.rs`), `binance_stream.rs` (WebSocket) and `klines.rs` ask Binance; `simulate.rs` invents,
//! with the price models of `market.rs` and the bad payloads of `poison.rs`; `replay.rs` reads a file through
//! `replay_file.rs`. Each hands its records to an `Output`: `topic.rs` is the idempotent producer behind it, `pace.rs`
//! its rate, `progress.rs` what a person sees of it. `text.rs` has the text forms of numbers and times.
//!
//! Absent on purpose: nothing here keeps state across runs, so a restarted producer starts a new gap, and says so.

pub mod binance;
pub mod binance_stream;
pub mod klines;
pub mod output;
pub mod pace;
pub mod progress;
pub mod replay;
pub mod simulate;
pub mod text;
pub mod topic;

mod market;
mod poison;
mod replay_file;
mod rest;
