//! The idempotent producer that every source shares.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};

use crate::{
    catalog::KafkaClientOptions,
    clock::{self, Stopwatch},
    error::{Error, ErrorKind, Result},
    kafka::producer_config,
};

/// No broker after this long is an error.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// A new topic has its leaders after this long, or something is wrong.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);
/// Long enough to take every event that waits.
const EVENT_DRAIN: Duration = Duration::from_millis(50);
/// What librdkafka may hold of records that are not confirmed yet; more than that, and a source has to wait.
const QUEUE_MAX_KBYTES: u32 = 32 * 1024;
/// The same, in records: each has an overhead of some 150 bytes inside librdkafka.
const QUEUE_MAX_RECORDS: u32 = 200_000;

/// Which topic of which cluster.
#[derive(Debug, Clone, Default)]
pub struct TopicOptions {
    /// `host:port`, several with commas.
    pub brokers: String,
    pub topic: String,
    /// Create a missing topic with this many, and refuse one that has another number; else the broker decides.
    pub partitions: Option<i32>,
    /// librdkafka properties, without the `kafka.` prefix; they win over ours.
    pub kafka: Vec<(String, String)>,
}

/// Sends records to one topic: each exactly once and in order per key, as long as this producer lives.
pub struct TopicProducer {
    producer: Arc<BaseProducer<Deliveries>>,
    topic: String,
    brokers: String,
}

impl std::fmt::Debug for TopicProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicProducer").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// What `send` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Queued,
    /// The queue is full: poll, wait a little, send it again.
    Full,
}

/// Counts delivery reports: librdkafka calls this from `poll`.
#[derive(Default)]
struct Deliveries {
    delivered: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<KafkaError>>,
    last_complaint: Mutex<Option<String>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
        let mut last = self.last_complaint.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers are down" follows the reason why they are, and says less.
        if last.is_none() || error.rdkafka_error_code() != Some(Code::AllBrokersDown) {
            *last = Some(reason.to_owned());
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.delivered.fetch_add(1, Ordering::Relaxed),
            Err((error, _)) => {
                self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
                self.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

/// The user's options, checked, and our defaults where they say nothing.
fn client_config(options: &TopicOptions) -> Result<ClientConfig> {
    let servers = ("bootstrap.servers", options.brokers.as_str());
    let given = options.kafka.iter().map(|(name, value)| (name.strip_prefix("kafka.").unwrap_or(name), value.as_str()));
    let given = std::iter::once(servers).chain(given).map(|(name, value)| (name.to_owned(), value.to_owned()));
    let given = KafkaClientOptions(given.collect());
    let mut config = producer_config(&given)?;
    let (kbytes, records) = (QUEUE_MAX_KBYTES.to_string(), QUEUE_MAX_RECORDS.to_string());
    for (name, value) in [
        ("client.id", "tidemill-produce"),
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("compression.type", "lz4"),
        ("linger.ms", "20"),
        ("batch.size", "1000000"),
        ("queue.buffering.max.kbytes", kbytes.as_str()),
        ("queue.buffering.max.messages", records.as_str()),
        // The Java client's choice of partition, so that a key stays where other producers put it.
        ("partitioner", "murmur2_random"),
    ] {
        if !given.0.contains_key(name) {
            config.set(name, value);
        }
    }
    Ok(config)
}

impl TopicProducer {
    /// Connects, and creates the topic where it is missing.
    ///
    /// # Errors
    /// `Invalid` for a property that librdkafka does not take, and for a topic that has not the partitions it should;
    /// `Unavailable` without a broker; `NotFound` for a topic that is missing and cannot be created; `PermissionDenied`.
    pub async fn open(options: &TopicOptions) -> Result<Self> {
        let config = client_config(options)?;
        let producer: BaseProducer<Deliveries> =
            config.create_with_context(Deliveries::default()).map_err(|error| match error {
                KafkaError::ClientConfig(_, text, name, _) => {
                    Error::invalid(format!("the Kafka property '{name}' is wrong: {text}"))
                        .help("librdkafka's CONFIGURATION.md lists the properties that --kafka takes")
                }
                other => Error::invalid("the Kafka producer does not start").source_error(other),
            })?;
        let opened = Self {
            producer: Arc::new(producer),
            topic: options.topic.clone(),
            brokers: config.get("bootstrap.servers").unwrap_or_default().to_owned(),
        };
        // Asking for every topic never creates one, so `--partitions` can.
        let found = match opened.metadata(false).await? {
            Some(found) => found,
            None => opened.create(&config, options.partitions).await?,
        };
        match options.partitions.and_then(|wanted| usize::try_from(wanted).ok()).filter(|wanted| *wanted != found) {
            None => Ok(opened),
            Some(wanted) => {
                let text = format!("the topic '{}' has {found} partitions, not the {wanted} asked for", opened.topic);
                Err(Error::invalid(text).help("leave --partitions out to write to it as it is, or name another topic"))
            }
        }
    }

    /// The topic's partitions, if it is there and all have leaders. Asking for it by name makes some brokers create it.
    async fn metadata(&self, by_name: bool) -> Result<Option<usize>> {
        let producer = Arc::clone(&self.producer);
        let topic = self.topic.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let wanted = by_name.then_some(topic.as_str());
            let answer = producer.client().fetch_metadata(wanted, CONNECT_TIMEOUT);
            // The reason for a failure waits in the event queue.
            if answer.is_err() {
                producer.poll(EVENT_DRAIN);
            }
            let metadata = answer?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            match found.and_then(|found| found.error()) {
                Some(error) => Err(KafkaError::MetadataFetch(error.into())),
                None => Ok(found.map(|found| found.partitions()).and_then(|parts| {
                    let ready = !parts.is_empty() && parts.iter().all(|part| part.leader() >= 0);
                    ready.then_some(parts.len())
                })),
            }
        })
        .await
        .map_err(|error| Error::internal("asking for metadata").source_error(error))?;
        match answer {
            Ok(found) => Ok(found),
            Err(error) => match error.rdkafka_error_code() {
                Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::LeaderNotAvailable) => Ok(None),
                _ => Err(self.explain(&error)),
            },
        }
    }

    /// Returns how many partitions it has, which is another number where somebody else was faster.
    async fn create(&self, config: &ClientConfig, partitions: Option<i32>) -> Result<usize> {
        let admin: AdminClient<DefaultClientContext> =
            config.create().map_err(|error| Error::internal("the Kafka admin client").source_error(error))?;
        let options = AdminOptions::new().request_timeout(Some(CREATE_TIMEOUT)).operation_timeout(Some(CREATE_TIMEOUT));
        // -1 leaves the number to the broker.
        let topic = NewTopic::new(&self.topic, partitions.unwrap_or(-1), TopicReplication::Fixed(-1));
        let refusal = match admin.create_topics([&topic], &options).await {
            Ok(results) => results.into_iter().find_map(|result| match result {
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => None,
                Err((_, code)) => Some(KafkaError::AdminOp(code)),
            }),
            Err(error) => Some(error),
        };
        if let Some(error) = &refusal
            && partitions.is_some()
        {
            return Err(self.missing(error));
        }
        let waited = Stopwatch::start();
        while waited.elapsed() < CREATE_TIMEOUT {
            // By name: where creating is not for us, a broker with auto-creation still does it.
            if let Some(found) = self.metadata(true).await? {
                return Ok(found);
            }
            clock::sleep(Duration::from_millis(100)).await;
            if let Some(error) = &refusal
                && waited.elapsed() > CREATE_TIMEOUT / 4
            {
                return Err(self.missing(error));
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("the new topic '{}' has no leader after {CREATE_TIMEOUT:?}", self.topic),
        ))
    }

    fn missing(&self, error: &KafkaError) -> Error {
        let kind = match error.rdkafka_error_code() {
            Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => ErrorKind::PermissionDenied,
            Some(Code::InvalidTopic | Code::InvalidPartitions) => ErrorKind::Invalid,
            _ => ErrorKind::NotFound,
        };
        Error::new(
            kind,
            format!("the topic '{}' is not on {} and cannot be created: {error}", self.topic, self.brokers),
        )
        .help(format!("create it: kafka-topics.sh --bootstrap-server {} --create --topic {}", self.brokers, self.topic))
    }

    /// Hands one record to librdkafka, which copies it.
    ///
    /// # Errors
    /// `Invalid` for a record larger than `message.max.bytes`; `Unavailable` and others when the producer is dead.
    pub fn send(&self, key: Option<&[u8]>, value: &[u8]) -> Result<Sent> {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic).payload(value);
        if let Some(key) = key {
            record = record.key(key);
        }
        match self.producer.send(record) {
            Ok(()) => Ok(Sent::Queued),
            Err((KafkaError::MessageProduction(Code::QueueFull), _)) => Ok(Sent::Full),
            Err((KafkaError::MessageProduction(Code::MessageSizeTooLarge), _)) => Err(Error::invalid(format!(
                "a record of {} bytes is too large for the topic '{}'",
                value.len(),
                self.topic
            ))
            .help("raise the limit with --kafka message.max.bytes=N, and the topic's max.message.bytes with it")),
            Err((error, _)) => Err(self.explain(&error)),
        }
    }

    /// Serves delivery reports; never blocks.
    ///
    /// # Errors
    /// The first record that was not delivered.
    pub fn poll(&self) -> Result<()> {
        self.producer.poll(Duration::ZERO);
        self.check()
    }

    fn check(&self) -> Result<()> {
        if self.failed() == 0 {
            return Ok(());
        }
        let failure = self.producer.context().first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let error = match failure {
            Some(error) => self.explain(&error),
            None => Error::internal("a delivery failed without a reason"),
        };
        Err(error.context(format!("{} delivered, {} failed", self.delivered(), self.failed())))
    }

    /// Waits until every record is delivered or has failed.
    ///
    /// # Errors
    /// The first record that was not delivered; `Unavailable` when some are still waiting after `timeout`.
    pub async fn flush(&self, timeout: Duration) -> Result<()> {
        let producer = Arc::clone(&self.producer);
        let flushed = tokio::task::spawn_blocking(move || producer.flush(timeout))
            .await
            .map_err(|error| Error::internal("flushing the producer").source_error(error))?;
        self.check()?;
        flushed.map_err(|error| {
            let waiting = self.producer.in_flight_count();
            self.explain(&error).context(format!("{waiting} records are not confirmed after {timeout:?}"))
        })
    }

    /// Records that the broker has confirmed.
    pub fn delivered(&self) -> u64 {
        self.producer.context().delivered.load(Ordering::Relaxed)
    }

    /// Records that were given up.
    pub fn failed(&self) -> u64 {
        self.producer.context().failed.load(Ordering::Relaxed)
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    fn explain(&self, error: &KafkaError) -> Error {
        let topic = &self.topic;
        match error.rdkafka_error_code() {
            Some(
                Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::SaslAuthenticationFailed
                | Code::Authentication,
            ) => Error::new(
                ErrorKind::PermissionDenied,
                format!("{} refused the topic '{topic}': {error}", self.brokers),
            ),
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
                Error::new(ErrorKind::NotFound, format!("the topic '{topic}' is not on {}: {error}", self.brokers))
            }
            Some(Code::InvalidTopic) => Error::invalid(format!("'{topic}' is no topic name"))
                .help("a topic name has up to 249 letters, digits, '.', '_' and '-'"),
            Some(Code::MessageSizeTooLarge) => Error::invalid(format!("a record is too large for the topic '{topic}'"))
                .help("raise the topic's max.message.bytes"),
            Some(
                Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::MessageTimedOut
                | Code::RequestTimedOut
                | Code::Resolve
                | Code::TimedOutQueue
                | Code::NotEnoughReplicas
                | Code::NotEnoughReplicasAfterAppend
                | Code::LeaderNotAvailable,
            ) => {
                let complaint =
                    self.producer.context().last_complaint.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let reason = complaint.unwrap_or_else(|| error.to_string());
                Error::new(ErrorKind::Unavailable, format!("Kafka at {} does not answer: {reason}", self.brokers))
                    .help("is the broker running, and does it listen there? --brokers HOST:PORT names another")
            }
            _ => Error::internal(format!("the topic '{topic}': {error}")),
        }
    }
}
