//! Transactions on the real broker: librdkafka's mock only plays them.

use std::{sync::Arc, time::Duration};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
};
use tidemill::{
    catalog::{DecodeOptions, KafkaClientOptions, KafkaTable, ParseMode, PayloadFormat, StartingOffsets},
    error::ErrorKind,
    sink::kafka::KafkaSink,
};

use crate::support::{kafka, unique};

async fn topic() -> String {
    let name = unique("sink");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka()).create().unwrap();
    let topic = NewTopic::new(&name, 1, TopicReplication::Fixed(1));
    for result in admin.create_topics([&topic], &AdminOptions::new()).await.unwrap() {
        result.unwrap();
    }
    name
}

fn table(topic: &str) -> KafkaTable {
    KafkaTable {
        client: KafkaClientOptions([("bootstrap.servers".to_owned(), kafka())].into()),
        subscription: None,
        key_fields: Vec::new(),
        topic: Some(topic.to_owned()),
        starting_offsets: StartingOffsets::Latest,
        ending_offsets: StartingOffsets::Latest,
        fail_on_data_loss: true,
        max_offsets_per_trigger: None,
        min_offsets_per_trigger: None,
        max_trigger_delay: Duration::from_secs(900),
        include_headers: false,
        decode: DecodeOptions { format: PayloadFormat::Raw, mode: ParseMode::FailFast, corrupt_column: None },
        checkpoint_location: None,
        dead_letter_path: None,
    }
}

fn rows(values: &[&str]) -> RecordBatch {
    let keys: StringArray = values.iter().map(|value| Some(format!("k{value}"))).collect();
    RecordBatch::try_from_iter([
        ("key", Arc::new(keys) as ArrayRef),
        ("value", Arc::new(StringArray::from(values.to_vec()))),
    ])
    .unwrap()
}

async fn open(topic: &str, query: &str) -> KafkaSink {
    let sink = KafkaSink::open(&table(topic), rows(&["x"]).schema(), query).await.unwrap();
    sink.fence().await.unwrap();
    sink
}

/// What a `read_committed` consumer sees, up to the end of the topic.
fn visible(topic: &str) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka())
        .set("group.id", unique("reader"))
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let mut values = Vec::new();
    loop {
        match consumer.poll(Duration::from_secs(10)).expect("the broker answers") {
            Ok(message) => values.push(String::from_utf8(message.payload().unwrap().to_vec()).unwrap()),
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => return values,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_marker_become_visible_together() {
    let (topic, query) = (topic().await, unique("q"));
    let mut sink = open(&topic, &query).await;
    assert_eq!(sink.committed().await.unwrap(), None);

    sink.begin(0).await.unwrap();
    sink.write(&rows(&["a", "b"])).await.unwrap();
    sink.commit(r#"{"t":{"0":7}}"#).await.unwrap();
    assert_eq!(visible(&topic), ["a", "b"]);
    assert_eq!(sink.committed().await.unwrap(), Some((0, r#"{"t":{"0":7}}"#.to_owned())));

    sink.begin(1).await.unwrap();
    sink.write(&rows(&["aborted"])).await.unwrap();
    sink.abort().await.unwrap();
    assert_eq!(visible(&topic), ["a", "b"]);
    assert_eq!(sink.committed().await.unwrap().unwrap().0, 0);

    // The same batch again, and a batch without rows: its marker counts.
    sink.begin(1).await.unwrap();
    sink.write(&rows(&["c"])).await.unwrap();
    sink.commit("one").await.unwrap();
    sink.begin(2).await.unwrap();
    sink.commit("").await.unwrap();
    assert_eq!(visible(&topic), ["a", "b", "c"]);
    assert_eq!(sink.committed().await.unwrap(), Some((2, String::new())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_the_commit_leaves_nothing() {
    let (topic, query) = (topic().await, unique("q"));
    let mut sink = open(&topic, &query).await;
    sink.begin(0).await.unwrap();
    sink.write(&rows(&["done"])).await.unwrap();
    sink.commit("zero").await.unwrap();
    sink.begin(1).await.unwrap();
    sink.write(&rows(&["lost"])).await.unwrap();
    drop(sink);
    // The next instance ends the transaction that was left open.
    let mut sink = open(&topic, &query).await;
    assert_eq!(sink.committed().await.unwrap(), Some((0, "zero".to_owned())));
    sink.begin(1).await.unwrap();
    sink.write(&rows(&["again"])).await.unwrap();
    sink.commit("one").await.unwrap();
    assert_eq!(visible(&topic), ["done", "again"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_is_fenced() {
    let (topic, query) = (topic().await, unique("q"));
    let mut zombie = open(&topic, &query).await;
    zombie.begin(0).await.unwrap();
    zombie.write(&rows(&["zombie"])).await.unwrap();
    let mut sink = open(&topic, &query).await;
    let error = match zombie.commit("late").await {
        Err(error) => error,
        Ok(()) => panic!("the zombie committed"),
    };
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    sink.begin(0).await.unwrap();
    sink.write(&rows(&["ours"])).await.unwrap();
    sink.commit("ours").await.unwrap();
    assert_eq!(visible(&topic), ["ours"]);
    assert_eq!(sink.committed().await.unwrap(), Some((0, "ours".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_larger_than_the_queue() {
    let (topic, query) = (topic().await, unique("q"));
    let n: ArrayRef = Arc::new((0..150_000_i64).collect::<Int64Array>());
    let rows = RecordBatch::try_from_iter([("n", n)]).unwrap();
    let mut sink = KafkaSink::open(&table(&topic), rows.schema(), &query).await.unwrap();
    sink.fence().await.unwrap();
    sink.begin(0).await.unwrap();
    sink.write(&rows).await.unwrap();
    sink.commit("").await.unwrap();
    let values = visible(&topic);
    assert_eq!((values.len(), values[0].as_str()), (150_000, r#"{"n":0}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals() {
    let schema = rows(&["x"]).schema();
    let mut nowhere = table("x");
    nowhere.topic = None;
    let error = KafkaSink::open(&nowhere, schema.clone(), "q").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = KafkaSink::open(&table(&unique("missing")), schema.clone(), "q").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let mut ours = table("x");
    ours.client.0.insert("transactional.id".into(), "mine".into());
    let error = KafkaSink::open(&ours, schema.clone(), "q").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.message().contains("transactional.id"), "{error}");
    let mut strange = table("x");
    strange.client.0.insert("no.such.option".into(), "1".into());
    let error = KafkaSink::open(&strange, schema, "q").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.message().contains("no.such.option"), "{error}");
}
