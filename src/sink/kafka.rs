//! Rows into a topic, a transaction per batch.
//!
//! The transaction also commits a marker, the batch's id, as the offset of a consumer group that belongs to the
//! query. So the marker and the rows become visible together, and recovery asks the marker whether batch N is done.
//! A broker forgets the offsets of a group without members after `offsets.retention.minutes` (7 days): a batch that
//! is in doubt must be resolved within that time.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, Producer, ThreadedProducer},
};

use crate::{
    catalog::KafkaTable,
    clock,
    error::{Error, ErrorKind, Result},
};

mod context;
mod record;

use context::{SinkContext, failed};
use record::{RecordRow, RecordShape};

/// The transactional producer of one query. `fence` stops an earlier one with the same `query_id`.
pub struct KafkaSink {
    producer: ThreadedProducer<SinkContext>,
    /// Never subscribed: it stands for the marker's group.
    marker: Arc<BaseConsumer>,
    /// The same, but does not wait for an open transaction.
    glance: Arc<BaseConsumer>,
    group: String,
    topic: String,
    shape: RecordShape,
    /// A later row replaces the one of its key, so each has one.
    needs_keys: bool,
    batch: Option<u64>,
}

impl std::fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSink").field("topic", &self.topic).field("batch", &self.batch).finish_non_exhaustive()
    }
}

/// A group's coordinator moves, or loads what it knows: so often it is asked again, after so long.
const COORDINATOR_TRIES: u32 = 40;
const COORDINATOR_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

fn is_moving(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| {
        matches!(code, Code::NotCoordinator | Code::CoordinatorLoadInProgress | Code::CoordinatorNotAvailable)
    })
}

/// A call to the transaction coordinator.
const CALL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// Records that wait in librdkafka, and their bytes.
pub const QUEUE_RECORDS_MAX: usize = 100_000;
pub const QUEUE_KIB_MAX: usize = 32 << 10;
/// While the queue is full.
const QUEUE_WAIT: std::time::Duration = std::time::Duration::from_millis(5);
/// The queue empties at the broker's pace; it must empty at all.
const QUEUE_STALL_MAX: std::time::Duration = std::time::Duration::from_secs(120);
/// A call whose answer was lost is made again this often. librdkafka goes on with the same commit: asking again
/// cannot commit twice.
const CALL_TRIES_MAX: u32 = 4;
/// The broker aborts a transaction that is open for longer, and holds readers back until then after a crash.
const TRANSACTION_TIMEOUT_MS: &str = "600000";
/// `offset.metadata.max.bytes` of a broker.
const MARKER_TEXT_BYTES_MAX: usize = 4096;

impl KafkaSink {
    /// Rows have the columns `value` (string or binary) and, if wanted, `key`, `topic`, `headers`, `partition`, as
    /// in Spark; a row without a `value` column is written as one JSON object per row.
    ///
    /// # Errors
    /// `Invalid` for a schema that cannot be written; `Unavailable`, `NotFound` as every client.
    pub async fn open(table: &KafkaTable, schema: SchemaRef, query_id: &str) -> Result<Self> {
        let Some(topic) = table.topic.clone().filter(|topic| !topic.is_empty()) else {
            return Err(Error::invalid("a Kafka table that is written to needs the option 'topic'").help(
                "set topic = '...': rows without a topic of their own go there, and so does the batch's marker",
            ));
        };
        let shape = RecordShape::new(&schema, &table.key_fields)?;
        let group = format!("tidemill-{query_id}-marker");
        let bad = |error: KafkaError| Error::invalid(format!("the Kafka options were refused: {error}"));
        let options = client_options(table)?;
        let producer: ThreadedProducer<SinkContext> =
            producer_config(&options, query_id).create_with_context(SinkContext::default()).map_err(bad)?;
        let mut consumer = options;
        consumer.set("group.id", &group).set("enable.auto.commit", "false").set("isolation.level", "read_committed");
        let marker: BaseConsumer = consumer.create().map_err(bad)?;
        let glance: BaseConsumer = consumer.set("isolation.level", "read_uncommitted").create().map_err(bad)?;
        let (marker, glance) = (Arc::new(marker), Arc::new(glance));
        let sink = Self { producer, marker, glance, group, topic, shape, needs_keys: false, batch: None };
        sink.check_topic().await?;
        Ok(sink)
    }

    /// From now on a row without a key is refused: later rows replace earlier ones by it.
    pub fn require_keys(&mut self) {
        self.needs_keys = true;
    }

    /// Makes this the only producer of the query: an earlier one is fenced, its open transaction aborted. Before the
    /// first batch, and only when it is sure that the query will run.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn fence(&self) -> Result<()> {
        self.call("a transactional producer cannot be opened", |producer| producer.init_transactions(CALL_TIMEOUT))
            .await
    }

    /// The last batch whose transaction was committed, and the text that was stored with it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn committed(&self) -> Result<Option<(u64, String)>> {
        self.read_marker(self.marker.clone()).await
    }

    /// The same before `fence`, when a transaction may be open: that one is not waited for, and does not count.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn committed_so_far(&self) -> Result<Option<u64>> {
        Ok(self.read_marker(self.glance.clone()).await?.map(|(batch, _)| batch))
    }

    async fn read_marker(&self, marker: Arc<BaseConsumer>) -> Result<Option<(u64, String)>> {
        let topic = self.topic.clone();
        let read = move || -> Result<Option<(u64, String)>, KafkaError> {
            let mut wanted = TopicPartitionList::new();
            wanted.add_partition(&topic, 0);
            let found = marker.committed_offsets(wanted, CALL_TIMEOUT)?;
            let Some(element) = found.find_partition(&topic, 0) else { return Ok(None) };
            element.error()?;
            // The offset is the next batch, as a consumer's is the next record: 0 would be "none yet".
            let batch = match element.offset() {
                Offset::Offset(next) => u64::try_from(next - 1).ok(),
                _ => None,
            };
            Ok(batch.map(|batch| (batch, element.metadata().to_owned())))
        };
        let what = format!("the marker of group '{}' cannot be read", self.group);
        let mut tries = COORDINATOR_TRIES;
        loop {
            match blocking(read.clone()).await? {
                // A broker that has just become the group's coordinator, or is no longer, says so for a moment.
                Err(error) if tries > 0 && is_moving(&error) => tries -= 1,
                read => return read.map_err(|error| failed(&what, &error)),
            }
            clock::sleep(COORDINATOR_PAUSE).await;
        }
    }

    /// Starts the batch's transaction.
    ///
    /// # Errors
    /// `Conflict` when another instance fenced this one.
    pub async fn begin(&mut self, batch: u64) -> Result<()> {
        if let Some(open) = self.batch {
            return Err(Error::internal(format!("batch {batch} begins while batch {open} is open")));
        }
        self.producer.context().clear();
        self.call("a transaction cannot begin", Producer::begin_transaction).await?;
        self.batch = Some(batch);
        Ok(())
    }

    /// Produces rows; waits while the queue is full.
    ///
    /// # Errors
    /// As `begin`.
    pub async fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.open_batch()?;
        let records = self.shape.records(rows)?;
        for row in 0..rows.num_rows() {
            let record = records.row(row)?;
            if self.needs_keys && record.key.is_none() {
                return Err(Error::invalid(format!("a row for topic '{}' has the key NULL", self.topic)).help(
                    "in output mode update a row replaces the one of its key: use COALESCE, or 'key.fields', whose JSON \
                     has a key for NULL too",
                ));
            }
            if !self.try_send(&record)? {
                self.send_when_there_is_room(&record).await?;
            }
        }
        self.check_deliveries()
    }

    /// Flushes, adds the marker with `text` (at most 4096 bytes), commits. A commit whose answer was lost is asked
    /// again.
    ///
    /// # Errors
    /// As `begin`.
    pub async fn commit(&mut self, text: &str) -> Result<()> {
        let batch = self.open_batch()?;
        if text.len() > MARKER_TEXT_BYTES_MAX {
            return Err(Error::internal(format!("the marker's text has {} bytes", text.len())));
        }
        self.call("rows were not delivered", |producer| producer.flush(QUEUE_STALL_MAX)).await?;
        self.check_deliveries()?;
        let next = i64::try_from(batch + 1).map_err(|_| Error::internal(format!("batch {batch} is too large")))?;
        let (marker, topic, text) = (self.marker.clone(), self.topic.clone(), text.to_owned());
        let group = self.group.clone();
        self.call("the batch's marker was not taken", move |producer| {
            let mut offsets = TopicPartitionList::new();
            let mut element = offsets.add_partition(&topic, 0);
            element.set_offset(Offset::Offset(next))?;
            element.set_metadata(text.as_str());
            let Some(metadata) = marker.group_metadata() else { return Err(KafkaError::Subscription(group.clone())) };
            producer.send_offsets_to_transaction(&offsets, &metadata, CALL_TIMEOUT)
        })
        .await?;
        self.call("the transaction was not committed", |producer| producer.commit_transaction(CALL_TIMEOUT)).await?;
        self.batch = None;
        Ok(())
    }

    /// Gives the batch up.
    ///
    /// # Errors
    /// As `begin`.
    pub async fn abort(&mut self) -> Result<()> {
        if self.batch.take().is_none() {
            return Ok(());
        }
        self.call("the transaction was not aborted", |producer| producer.abort_transaction(CALL_TIMEOUT)).await?;
        self.producer.context().clear();
        Ok(())
    }

    fn open_batch(&self) -> Result<u64> {
        self.batch.ok_or_else(|| Error::internal("no transaction is open"))
    }

    /// `false`: the queue is full.
    fn try_send(&self, row: &RecordRow<'_>) -> Result<bool> {
        let topic = row.topic.unwrap_or(&self.topic);
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
        record.key = row.key;
        record.payload = row.value;
        record.partition = row.partition;
        record.headers = row.headers();
        match self.producer.send(record) {
            Ok(()) => Ok(true),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(false),
            Err((error, _)) => {
                let size = row.value.map_or(0, <[u8]>::len);
                Err(failed(&format!("a row of {size} bytes cannot be sent to topic '{topic}'"), &error))
            }
        }
    }

    async fn send_when_there_is_room(&self, row: &RecordRow<'_>) -> Result<()> {
        let waiting = clock::Stopwatch::start();
        while waiting.elapsed() < QUEUE_STALL_MAX {
            self.check_deliveries()?;
            clock::sleep(QUEUE_WAIT).await;
            if self.try_send(row)? {
                return Ok(());
            }
        }
        let text = format!("the broker has taken no row for topic '{}' in {} s", self.topic, QUEUE_STALL_MAX.as_secs());
        Err(Error::new(ErrorKind::Unavailable, text).help("check that the brokers are up"))
    }

    fn check_deliveries(&self) -> Result<()> {
        match self.producer.context().failure() {
            // A fenced producer purges its queue: that it was fenced is the reason to tell.
            Some(_) if self.producer.client().fatal_error().is_some() => {
                let conflict =
                    Error::new(ErrorKind::Conflict, "another instance of this query writes to the topic now");
                Err(conflict.help("this instance stops and the other goes on; give each job a checkpoint of its own"))
            }
            Some(error) => Err(failed(&format!("a row was not delivered to topic '{}'", self.topic), &error)),
            None => Ok(()),
        }
    }

    async fn check_topic(&self) -> Result<()> {
        let (marker, topic) = (self.marker.clone(), self.topic.clone());
        let fetch = move || {
            let metadata = marker.fetch_metadata(Some(&topic), CALL_TIMEOUT)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            Ok(found.is_some_and(|found| found.error().is_none() && !found.partitions().is_empty()))
        };
        match blocking(fetch).await? {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::new(ErrorKind::NotFound, format!("topic '{}' does not exist", self.topic))
                .help("create it: a topic that the broker makes by itself has one partition and no replicas")),
            Err(error) => Err(failed(&format!("topic '{}' cannot be looked up", self.topic), &error)),
        }
    }

    /// Runs a call that blocks on another thread. A fatal error of the producer explains more than the call's own.
    async fn call(
        &self,
        what: &str,
        call: impl Fn(&ThreadedProducer<SinkContext>) -> Result<(), KafkaError> + Send + 'static,
    ) -> Result<()> {
        let producer = self.producer.clone();
        let result = blocking(move || {
            let mut tries = 1;
            loop {
                match call(&producer) {
                    Ok(()) => return Ok(()),
                    Err(KafkaError::Transaction(error)) if error.is_retriable() && tries < CALL_TRIES_MAX => tries += 1,
                    Err(error) => {
                        return Err(match producer.client().fatal_error() {
                            Some((code, text)) => (KafkaError::Global(code), Some(text)),
                            None => (error, None),
                        });
                    }
                }
            }
        });
        result.await?.map_err(|(error, text)| match text {
            Some(text) => failed(&format!("{what}: {text}"), &error),
            None => failed(what, &error),
        })
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(call).await.map_err(|error| Error::internal(format!("a Kafka call ended: {error}")))
}

fn client_options(table: &KafkaTable) -> Result<ClientConfig> {
    for ours in ["transactional.id", "enable.idempotence"] {
        if table.client.0.contains_key(ours) {
            return Err(Error::invalid(format!("'kafka.{ours}' cannot be set for a table that is written to"))
                .help("leave it out: the query sets it, so that each batch is one transaction"));
        }
    }
    crate::kafka::producer_config(&table.client)
}

fn producer_config(options: &ClientConfig, query_id: &str) -> ClientConfig {
    let mut config = options.clone();
    let (records, kib) = (QUEUE_RECORDS_MAX.to_string(), QUEUE_KIB_MAX.to_string());
    for (option, value) in [
        // The same partition for a key as a Java producer's.
        ("partitioner", "murmur2_random"),
        ("linger.ms", "5"),
        ("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS),
        ("queue.buffering.max.messages", &records),
        ("queue.buffering.max.kbytes", &kib),
    ] {
        if config.get(option).is_none() {
            config.set(option, value);
        }
    }
    config.set("transactional.id", format!("tidemill-{query_id}")).set("enable.idempotence", "true");
    config
}
