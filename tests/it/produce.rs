//! Producing: from a local server that speaks Binance's replies, the simulator and files; into the real broker.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use tidemill::{
    error::Result,
    produce::{
        output::{Output, Report},
        progress::ProgressMode,
        topic::{TopicOptions, TopicProducer},
    },
};
use tokio_util::sync::CancellationToken;

use crate::support;

mod command;
mod files;
mod market;
mod streams;

/// An output that is kept, in place of a topic.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// An output that takes so many records, or as many as come in this time.
    fn output(&self, count: Option<u64>, limit: Duration) -> Output {
        let stop = CancellationToken::new();
        let after = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            after.cancel();
        });
        Output::to_lines(Box::new(self.clone()), stop, ProgressMode::None).with_count(count)
    }

    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

/// The report, and the lines that were written.
async fn finish(output: Output, lines: &Lines) -> (Report, Vec<String>) {
    let (report, outcome) = output.finish().await;
    outcome.unwrap();
    (report, lines.lines())
}

async fn topic_output(topic: &str, partitions: i32, count: u64) -> Result<Output> {
    let options = TopicOptions {
        brokers: support::kafka(),
        topic: topic.to_owned(),
        partitions: Some(partitions),
        kafka: vec![("kafka.linger.ms".into(), "5".into())],
    };
    let producer = TopicProducer::open(&options).await?;
    Ok(Output::to_topic(producer, CancellationToken::new(), ProgressMode::None).with_count(Some(count)))
}

/// Partition, key and value of every record of a topic.
type Record = (i32, Option<Vec<u8>>, Vec<u8>);

/// Everything that a topic holds now, partition by partition in order.
fn consume(topic: &str) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", support::kafka())
        .set("group.id", "tidemill-test-produce")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    let partitions = metadata.topics()[0].partitions().len();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment.add_partition_offset(topic, partition.try_into().unwrap(), Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let (mut records, mut ended, start) = (Vec::new(), 0, Instant::now());
    while ended < partitions {
        assert!(start.elapsed() < Duration::from_secs(30), "{topic}: {} records, no end", records.len());
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => records.push((
                message.partition(),
                message.key().map(<[u8]>::to_vec),
                message.payload().unwrap_or_default().to_vec(),
            )),
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => panic!("{topic}: {error}"),
            None => {}
        }
    }
    records.sort_by_key(|record| record.0);
    records
}
