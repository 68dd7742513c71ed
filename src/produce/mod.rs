//! Prices into Kafka.
//!
//! `binance.rs` (REST), `binance_stream.rs` (WebSocket) and `klines.rs` ask Binance, `simulate.rs` invents, `replay.rs`
//! reads a file. Each hands its records to an `Output`: `topic.rs` is the idempotent producer behind it, `pace.rs`
//! its rate, `progress.rs` what a person sees of it.
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
