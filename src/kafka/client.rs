//! What a cluster says about its topics: partitions, offsets, ids. Every call has a timeout.
//!
//! Methods block the calling thread; from async code go through [`KafkaClient::run`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    config::{ClientConfig, RDKafkaLogLevel},
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use super::config::{bootstrap_servers, consumer_config, producer_config};
use crate::{
    catalog::KafkaClientOptions,
    clock::Stopwatch,
    error::{Error, ErrorKind, Result, nearest},
};

/// How long a cluster may take to answer a question before it counts as unavailable.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a question is asked again, while leaders move.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How many waiting events (log lines, errors) are looked at in one go.
const EVENTS_MAX: usize = 1000;

/// Sends librdkafka's log to tracing and remembers its last complaint, for a timeout that must be explained.
#[derive(Debug, Default)]
pub struct Context {
    last_error: Mutex<Option<(Code, String)>>,
}

impl Context {
    /// The last error that librdkafka reported of the cluster as a whole.
    pub fn last_error(&self) -> Option<(Code, String)> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, "{message}");
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, statistics: &[u8]) {
        tracing::debug!(target: "librdkafka", statistics = %String::from_utf8_lossy(statistics));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        if let Some(code) = error.rdkafka_error_code() {
            let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
            // "All brokers are down" follows the reason why; keep the reason.
            if code != Code::AllBrokersDown || last.is_none() {
                *last = Some((code, reason.to_owned()));
            }
        }
    }
}

impl ConsumerContext for Context {}

/// Topic, partition and, where there is one, an offset.
pub type PartitionOffsets = Vec<(String, i32, Option<i64>)>;

/// A consumer whose log goes to tracing.
pub type NativeConsumer = BaseConsumer<Context>;

/// Asks a cluster about topics and offsets. Cheap to clone.
#[derive(Clone)]
pub struct KafkaClient {
    consumer: Arc<NativeConsumer>,
    options: Arc<KafkaClientOptions>,
    servers: Arc<str>,
}

impl std::fmt::Debug for KafkaClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaClient").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl KafkaClient {
    /// Checks the options. Talks to nobody yet: librdkafka connects in the background.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` naming the option.
    pub fn new(options: &KafkaClientOptions) -> Result<Self> {
        let consumer = create_consumer(&consumer_config(options, 1)?)?;
        let servers = bootstrap_servers(options)?.into();
        Ok(Self { consumer: Arc::new(consumer), options: Arc::new(options.clone()), servers })
    }

    /// Runs a blocking question on tokio's threads for such.
    ///
    /// # Errors
    /// The question's own; `Internal` if it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        let answer = tokio::task::spawn_blocking(move || question(&this)).await;
        answer.map_err(|error| Error::internal("a Kafka request did not finish").source_error(error))?
    }

    /// The address that the user gave.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// Every topic with its partition numbers, ascending.
    ///
    /// # Errors
    /// `Unavailable` naming the servers; `PermissionDenied`.
    pub fn topics(&self) -> Result<BTreeMap<String, Vec<i32>>> {
        let doing = "listing the topics";
        let metadata =
            self.consumer.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|error| self.explain(&error, doing))?;
        let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
        Ok(topics.map(|topic| (topic.name().to_owned(), partition_ids(topic))).collect())
    }

    /// The partition numbers of one topic, ascending; `None` if there is no such topic.
    ///
    /// # Errors
    /// As [`Self::topics`].
    pub fn partitions(&self, topic: &str) -> Result<Option<Vec<i32>>> {
        let doing = format!("asking about topic '{topic}'");
        let watch = Stopwatch::start();
        loop {
            let left = REQUEST_TIMEOUT.saturating_sub(watch.elapsed());
            let metadata = self
                .consumer
                .fetch_metadata(Some(topic), left.max(RETRY_PAUSE))
                .map_err(|error| self.explain(&error, &doing))?;
            let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
            let Some(code) = found.error().map(Code::from) else { return Ok(Some(partition_ids(found))) };
            match code {
                Code::UnknownTopicOrPartition | Code::UnknownTopic => return Ok(None),
                code if is_transient(code) && !left.is_zero() => self.pause(),
                code => return Err(self.explain(&KafkaError::MetadataFetch(code), &doing)),
            }
        }
    }

    /// As [`Self::partitions`], where a missing topic is an error that suggests the nearest name.
    ///
    /// # Errors
    /// As [`Self::partitions`]; `NotFound`.
    pub fn require_topic(&self, topic: &str) -> Result<Vec<i32>> {
        if let Some(partitions) = self.partitions(topic)?.filter(|partitions| !partitions.is_empty()) {
            return Ok(partitions);
        }
        let topics = self.topics()?;
        let visible = topics.keys().map(String::as_str).filter(|name| !name.starts_with("__"));
        let help = match nearest(topic, visible) {
            Some(near) => format!("did you mean '{near}'?"),
            None => "create the topic, or correct 'subscribe'".to_owned(),
        };
        let message = format!("there is no topic '{topic}' at {}", self.servers);
        Err(Error::new(ErrorKind::NotFound, message).help(help))
    }

    /// Offsets of many partitions, one request per broker. `Offset::Beginning` asks for the first record that is
    /// still there, `Offset::End` for the end of what a consumer may read (before any open transaction), and
    /// `Offset::Offset(ms)` for the first record at or after a time; `None` where there is no such record.
    ///
    /// # Errors
    /// `NotFound` where a topic or partition is gone; else as [`Self::topics`].
    pub fn list_offsets(&self, wanted: &[(String, i32, Offset)], timeout: Duration) -> Result<PartitionOffsets> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let watch = Stopwatch::start();
        loop {
            let left = timeout.saturating_sub(watch.elapsed());
            let failed = match self.list_offsets_once(wanted, left.max(RETRY_PAUSE)) {
                Ok(offsets) => return Ok(offsets),
                Err((_, error)) if is_transient_error(&error) && left > RETRY_PAUSE => {
                    self.pause();
                    continue;
                }
                Err(failed) => failed,
            };
            let (place, error) = failed;
            return Err(self.explain(&error, &format!("asking for the offsets of {place}")));
        }
    }

    fn list_offsets_once(
        &self,
        wanted: &[(String, i32, Offset)],
        timeout: Duration,
    ) -> Result<PartitionOffsets, (String, KafkaError)> {
        let place = |topic: &str, partition: i32| format!("{topic}-{partition}");
        let first = &wanted[0];
        let anywhere = |error| (place(&first.0, first.1), error);
        let mut list = TopicPartitionList::with_capacity(wanted.len());
        for (topic, partition, offset) in wanted {
            list.add_partition_offset(topic, *partition, *offset).map_err(anywhere)?;
        }
        let answer = self.consumer.offsets_for_times(list, timeout).map_err(anywhere)?;
        let mut offsets = Vec::with_capacity(wanted.len());
        for element in answer.elements() {
            element.error().map_err(|error| (place(element.topic(), element.partition()), error))?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            offsets.push((element.topic().to_owned(), element.partition(), offset));
        }
        Ok(offsets)
    }

    /// The cluster's id, where it has one.
    pub fn cluster_id(&self) -> Option<String> {
        self.consumer.client().fetch_cluster_id(REQUEST_TIMEOUT)
    }

    /// Creates `topic` unless it exists; returns its number of partitions. The broker's default replication.
    ///
    /// # Errors
    /// `PermissionDenied`, `Unavailable`; `Unsupported` by a cluster without topic creation.
    pub async fn ensure_topic(&self, topic: &str, partitions: u16) -> Result<usize> {
        let name = topic.to_owned();
        let wanted = name.clone();
        if let Some(existing) = self.run(move |client| client.partitions(&wanted)).await? {
            return Ok(existing.len());
        }
        let doing = format!("creating topic '{topic}'");
        let admin: AdminClient<Context> = producer_config(&self.options)?
            .create_with_context(Context::default())
            .map_err(|error| self.explain(&error, &doing))?;
        let new = NewTopic::new(topic, i32::from(partitions.max(1)), TopicReplication::Fixed(-1));
        let options =
            AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT));
        let results = admin.create_topics([&new], &options).await.map_err(|error| self.explain(&error, &doing))?;
        for result in results {
            match result {
                // Somebody else may have been quicker.
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(self.explain(&KafkaError::AdminOp(code), &doing)),
            }
        }
        let watch = Stopwatch::start();
        loop {
            let wanted = name.clone();
            let found = self.run(move |client| client.partitions(&wanted)).await?;
            match found.filter(|found| !found.is_empty()) {
                Some(found) => return Ok(found.len()),
                None if watch.elapsed() > REQUEST_TIMEOUT => return Err(self.unavailable(&doing, None)),
                None => crate::clock::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Tells the group `kafka.group.id` how far we are, for tools that show a group's lag. Nothing reads it back.
    ///
    /// # Errors
    /// As [`Self::topics`].
    pub fn commit_group_offsets(&self, offsets: &[(String, i32, i64)]) -> Result<()> {
        let doing = "committing offsets to the consumer group";
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (topic, partition, offset) in offsets {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))
                .map_err(|error| self.explain(&error, doing))?;
        }
        self.consumer.commit(&list, CommitMode::Async).map_err(|error| self.explain(&error, doing))
    }

    /// Serves waiting events without blocking: log lines reach tracing, errors the context.
    pub fn serve_events(&self) {
        serve_events(&self.consumer, Duration::ZERO);
    }

    fn pause(&self) {
        serve_events(&self.consumer, RETRY_PAUSE);
    }

    /// An error of ours for one of librdkafka's, saying what was being done.
    pub fn explain(&self, error: &KafkaError, doing: &str) -> Error {
        serve_events(&self.consumer, Duration::ZERO);
        let last = self.consumer.context().last_error();
        let Some(code) = error.rdkafka_error_code() else {
            return Error::internal(format!("{doing}: {error}"));
        };
        if code == Code::Authentication || matches!(&last, Some((Code::Authentication, _))) {
            let reason = last.map_or_else(|| code.to_string(), |(_, reason)| reason);
            return Error::new(ErrorKind::PermissionDenied, format!("{doing}: {} refused us: {reason}", self.servers))
                .help("check 'kafka.sasl.username', its password and 'kafka.security.protocol'");
        }
        match code {
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::GroupAuthorizationFailed => {
                Error::new(ErrorKind::PermissionDenied, format!("{doing}: {code}"))
                    .help("ask for an ACL that lets this user do it")
            }
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
                Error::new(ErrorKind::NotFound, format!("{doing}: there is no such topic or partition"))
            }
            Code::UnsupportedVersion | Code::UnsupportedFeature => Error::unsupported(format!("{doing}: {code}")),
            code if is_transient(code) => self.unavailable(doing, last.map(|(_, reason)| reason)),
            code => Error::internal(format!("{doing}: {code}")),
        }
    }

    /// `Unavailable`, naming the servers and librdkafka's last complaint.
    pub fn unavailable(&self, doing: &str, reason: Option<String>) -> Error {
        let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
        Error::new(ErrorKind::Unavailable, format!("{doing}: no answer from Kafka at {}{reason}", self.servers))
            .help("check that the broker runs and that 'kafka.bootstrap.servers' is right")
    }

    /// librdkafka's last complaint, for a timeout that must be explained.
    pub fn last_error(&self) -> Option<String> {
        self.consumer.context().last_error().map(|(_, reason)| reason)
    }
}

/// A consumer that sends its log to tracing.
///
/// # Errors
/// `Invalid` where librdkafka refuses the configuration as a whole.
pub fn create_consumer(config: &ClientConfig) -> Result<NativeConsumer> {
    config.create_with_context(Context::default()).map_err(|error| {
        Error::invalid(format!("librdkafka refuses the 'kafka.*' options: {error}"))
            .help("check the options that depend on one another, such as sizes and security")
    })
}

/// Serves waiting events, at first waiting up to `timeout` for one. Messages do not come this way: partitions have
/// queues of their own.
pub(crate) fn serve_events(consumer: &NativeConsumer, timeout: Duration) {
    let mut timeout = timeout;
    for _ in 0..EVENTS_MAX {
        match consumer.poll(timeout) {
            None => break,
            // The context has heard of it.
            Some(event) => tracing::trace!(target: "librdkafka", error = ?event.err()),
        }
        timeout = Duration::ZERO;
    }
}

fn partition_ids(topic: &rdkafka::metadata::MetadataTopic) -> Vec<i32> {
    let mut ids: Vec<i32> = topic.partitions().iter().map(|partition| partition.id()).collect();
    ids.sort_unstable();
    ids
}

fn is_transient_error(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(is_transient)
}

/// Asking again later may help: brokers restart, leaders move.
fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::Resolve
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::TimedOutQueue
            | Code::WaitingForCoordinator
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NetworkException
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::KafkaStorageError
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
    )
}
