//! Clients of a Kafka cluster, on librdkafka: configuration, metadata, and messages by the batch.
//!
//! `config.rs` turns `kafka.*` options into a checked librdkafka configuration, `client.rs` asks for metadata and
//! offsets with a timeout, `batch.rs` (the only `unsafe` here) takes messages from a partition's queue many at a time.

pub mod batch;
pub mod client;
pub mod config;
mod keys;

pub use client::KafkaClient;
pub use config::{bootstrap_servers, consumer_config, producer_config};

/// One Kafka record, borrowed from librdkafka's fetch buffer: decode it, then let it go.
#[derive(Debug, Clone, Copy)]
pub struct KafkaRecord<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch; `None` where the record has no timestamp.
    pub timestamp_ms: Option<i64>,
    /// 0 CreateTime, 1 LogAppendTime, -1 none.
    pub timestamp_type: i32,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Empty unless headers were asked for.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}
