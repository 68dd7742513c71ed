//! Prices into Kafka.
//!
//! `binance.rs` and `klines.rs` ask Binance, `simulate.rs` invents, `replay.rs` reads a file; `topic.rs` is the
//! idempotent producer that they share, with its rate, progress and clean stop.
