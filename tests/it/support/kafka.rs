//! Topics and records on the real broker.
#![allow(dead_code)]

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::OwnedHeaders,
    producer::{BaseProducer, BaseRecord, Producer},
};
use tidemill::catalog::{
    DecodeOptions, KafkaClientOptions, KafkaTable, ParseMode, PayloadFormat, StartingOffsets, Subscription,
};

pub const TIMEOUT: Duration = Duration::from_secs(30);

pub fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", super::kafka()).create().unwrap()
}

/// Creates a topic, and waits until the broker knows it.
pub async fn create_topic(name: &str, partitions: i32) {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
    for result in admin().create_topics([&topic], &options).await.unwrap() {
        result.unwrap();
    }
    let client = tidemill::kafka::KafkaClient::new(&options_for(&super::kafka())).unwrap();
    for _ in 0..100 {
        let name = name.to_owned();
        if client.run(move |client| client.partitions(&name)).await.unwrap().is_some_and(|p| !p.is_empty()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("topic {name} did not appear");
}

pub async fn delete_topic(name: &str) {
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
    for result in admin().delete_topics(&[name], &options).await.unwrap() {
        result.unwrap();
    }
}

/// Lets Kafka forget the records of a partition before `offset`, as retention does.
pub async fn delete_records(topic: &str, partition: i32, offset: i64) {
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
    let deleted = admin().delete_records(&before, &options).await.unwrap();
    assert!(deleted.elements().iter().all(|element| element.error().is_ok()), "{deleted:?}");
}

pub fn producer(servers: &str, extra: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("linger.ms", "5").set("compression.type", "lz4");
    config.set("queue.buffering.max.messages", "1000000").set("queue.buffering.max.kbytes", "1048576");
    for (key, value) in extra {
        config.set(*key, *value);
    }
    config.create().unwrap()
}

/// Sends records to one partition and waits until they are stored. An absent key or value is null.
pub fn produce(topic: &str, partition: i32, records: &[(Option<&str>, Option<&str>)]) {
    let producer = producer(&super::kafka(), &[]);
    for (key, value) in records {
        send(&producer, topic, partition, key.map(str::as_bytes), value.map(str::as_bytes), None);
    }
    producer.flush(TIMEOUT).unwrap();
}

/// Sends `count` records `prefix0`, `prefix1` and so on.
pub fn produce_numbers(producer: &BaseProducer, topic: &str, partition: i32, prefix: &str, count: usize) {
    for number in 0..count {
        send(producer, topic, partition, None, Some(format!("{prefix}{number}").as_bytes()), None);
    }
    producer.flush(TIMEOUT).unwrap();
}

pub fn send(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: Option<OwnedHeaders>,
) {
    let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(partition);
    if let Some(key) = key {
        record = record.key(key);
    }
    if let Some(value) = value {
        record = record.payload(value);
    }
    if let Some(headers) = headers {
        record = record.headers(headers);
    }
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.poll(Duration::ZERO);
}

pub fn options_for(servers: &str) -> KafkaClientOptions {
    KafkaClientOptions(BTreeMap::from([("bootstrap.servers".to_owned(), servers.to_owned())]))
}

/// A table over topics of the real broker, read as raw bytes from the earliest offset.
pub fn table(topics: &[&str]) -> KafkaTable {
    table_at(&super::kafka(), topics)
}

pub fn table_at(servers: &str, topics: &[&str]) -> KafkaTable {
    KafkaTable {
        client: options_for(servers),
        subscription: Some(Subscription::Topics(topics.iter().map(|topic| (*topic).to_owned()).collect())),
        topic: None,
        key_fields: Vec::new(),
        starting_offsets: StartingOffsets::Earliest,
        ending_offsets: StartingOffsets::Latest,
        fail_on_data_loss: true,
        max_offsets_per_trigger: None,
        min_offsets_per_trigger: None,
        max_trigger_delay: Duration::from_secs(900),
        include_headers: false,
        decode: DecodeOptions { format: PayloadFormat::Raw, mode: ParseMode::DeadLetter, corrupt_column: None },
        checkpoint_location: None,
        dead_letter_path: None,
    }
}

/// Keys and values as a `read_committed` consumer sees them, each partition in its order.
pub fn visible(topic: &str, partitions: i32) -> Vec<(String, String)> {
    let mut records = Vec::new();
    for partition in 0..partitions {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", super::kafka())
            .set("group.id", super::unique("reader"))
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        consumer.assign(&from).unwrap();
        loop {
            match consumer.poll(Duration::from_secs(10)).expect("the broker answers") {
                Ok(message) => {
                    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or(b"no key").to_vec()).unwrap();
                    records.push((text(message.key()), text(message.payload())));
                }
                Err(KafkaError::PartitionEOF(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    records
}
