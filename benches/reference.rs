//! The reference R: what the obvious pieces take to do nothing useful. librdkafka's `poll`, arrow-json into record
//! batches, one thread, nothing written.

use std::{sync::Arc, time::Duration};

use arrow::{
    datatypes::{DataType, Field, Schema},
    json::ReaderBuilder,
};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

/// The eight fields of the price records.
pub fn schema() -> Arc<Schema> {
    let double = |name| Field::new(name, DataType::Float64, true);
    Arc::new(Schema::new(vec![
        Field::new("timestamp", DataType::Utf8, true),
        double("buy_price"),
        double("sell_price"),
        Field::new("volume", DataType::Int64, true),
        double("volatility"),
        double("buy_price_normalized"),
        double("sell_price_normalized"),
        double("volume_normalized"),
    ]))
}

/// Consumes and decodes `records` records of partition 0 of `topic`.
pub fn consume(brokers: &str, topic: &str, records: usize) {
    // The queue settings are the fast ones: the defaults would make R slower by waiting, not by CPU.
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "tidemill-reference")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.min.messages", "100000")
        .create()
        .expect("a consumer");
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&assignment).expect("an assignment");
    let mut decoder = ReaderBuilder::new(schema()).with_batch_size(8192).build_decoder().expect("a decoder");
    let (mut seen, mut rows) = (0, 0);
    while seen < records {
        let Some(message) = consumer.poll(Duration::from_secs(10)) else { panic!("the topic ended at {seen}") };
        let message = message.expect("a message");
        decoder.decode(message.payload().expect("a payload")).expect("a record");
        seen += 1;
        if seen % 8192 == 0 || seen == records {
            rows += decoder.flush().expect("a batch").map_or(0, |batch| batch.num_rows());
        }
    }
    assert_eq!(rows, records);
}
