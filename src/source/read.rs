//! Reading exactly the given ranges of offsets.
//!
//! Every partition is fetched into a bounded queue of its own, all the time; a batch takes its range from the queues.
//! What was taken but lies behind a range's end is held for the next batch.

use std::{sync::Arc, time::Duration};

use rdkafka::{Offset, consumer::Consumer, error::RDKafkaErrorCode as Code};

use super::{OffsetRange, kafka::ReadSummary};
use crate::{
    catalog::KafkaClientOptions,
    clock::Stopwatch,
    error::{Error, ErrorKind, Result},
    kafka::{
        KafkaClient, KafkaRecord,
        batch::{Event, MESSAGES_PER_CALL_MAX, Messages, PartitionQueue},
        client::{NativeConsumer, create_consumer, serve_events},
        consumer_config,
    },
};

/// How long a broker may send nothing of a range that it has, before the read fails.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// After this much silence, and again each time, the cluster is asked whether it still has what we wait for.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// How long such a question may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for one message of one partition before the others are looked at again.
const WAIT: Duration = Duration::from_millis(5);

/// What the caller does with records; `false` stops the read.
pub type Take<'a> = dyn FnMut(&[KafkaRecord<'_>]) -> Result<bool> + 'a;

/// Reads ranges of offsets with one librdkafka consumer.
pub struct Reader {
    // Before the consumer: messages and queues go first.
    partitions: Vec<Partition>,
    consumer: Arc<NativeConsumer>,
    client: KafkaClient,
    include_headers: bool,
    fail_on_data_loss: bool,
    pub(super) silence_timeout: Duration,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("partitions", &self.partitions).finish_non_exhaustive()
    }
}

/// A partition that is being fetched.
#[derive(Debug)]
struct Partition {
    topic: String,
    partition: i32,
    /// Messages that were taken but not handed out, and the index of the next. Before the queue: they go first.
    held: Option<(Messages, usize)>,
    /// `None` after its records turned out to be gone.
    queue: Option<PartitionQueue>,
    /// The next offset to hand out: each one before it was, or holds no record.
    position: i64,
}

/// How far one look at a partition got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing was there.
    Idle,
    Progress,
    Done,
    /// The caller wants no more.
    Stopped,
    /// Kafka does not have the offset: ask what it has.
    OutOfRange,
}

impl Reader {
    /// A consumer for about `partitions` partitions, which share the memory for what is fetched ahead.
    pub fn new(
        client: KafkaClient,
        options: &KafkaClientOptions,
        partitions: usize,
        include_headers: bool,
        fail_on_data_loss: bool,
    ) -> Result<Self> {
        let mut config = consumer_config(options, partitions)?;
        // The simple consumer needs no group; with one, librdkafka would look for its coordinator.
        config.remove("group.id");
        let consumer = Arc::new(create_consumer(&config)?);
        let silence_timeout = SILENCE_TIMEOUT;
        Ok(Self { partitions: Vec::new(), consumer, client, include_headers, fail_on_data_loss, silence_timeout })
    }

    /// See [`super::KafkaSource::read`].
    pub fn read(&mut self, ranges: &[OffsetRange], take: &mut Take<'_>) -> Result<ReadSummary> {
        let mut summary = ReadSummary::default();
        let result = self.read_all(ranges, take, &mut summary);
        if result.is_err() {
            // Records that the caller did not finish with must come again.
            self.partitions.clear();
        }
        result.map(|()| summary)
    }

    fn read_all(&mut self, ranges: &[OffsetRange], take: &mut Take<'_>, summary: &mut ReadSummary) -> Result<()> {
        let mut pending: Vec<(usize, &OffsetRange)> = Vec::with_capacity(ranges.len());
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            pending.push((self.position(range)?, range));
        }
        let mut silence = Stopwatch::start();
        let mut probe = Stopwatch::start();
        let probe_every = PROBE_EVERY.min(self.silence_timeout / 2);
        let mut turn: usize = 0;
        while !pending.is_empty() {
            let mut progress = false;
            let mut left = Vec::with_capacity(pending.len());
            for (index, range) in pending {
                let step = self.step(index, range, take, summary)?;
                progress |= matches!(step, Step::Progress | Step::Done);
                match step {
                    Step::Stopped => return Ok(()),
                    Step::Done => {}
                    Step::OutOfRange if self.examine(index, range, true, summary)? => progress = true,
                    Step::Idle | Step::Progress | Step::OutOfRange => left.push((index, range)),
                }
            }
            pending = left;
            if progress {
                (silence, probe) = (Stopwatch::start(), Stopwatch::start());
                continue;
            }
            // Errors and log lines arrive on the consumer's own queue.
            serve_events(&self.consumer, Duration::ZERO);
            turn = (turn + 1) % pending.len();
            let (index, range) = pending[turn];
            self.partitions[index].fill(1, WAIT);
            if silence.elapsed() >= self.silence_timeout {
                return Err(self.silent(index, range));
            }
            if probe.elapsed() >= probe_every {
                probe = Stopwatch::start();
                let mut left = Vec::with_capacity(pending.len());
                for (index, range) in pending {
                    if !self.examine(index, range, false, summary)? {
                        left.push((index, range));
                    }
                }
                pending = left;
            }
        }
        Ok(())
    }

    /// Makes sure that the partition is being fetched from the range's start; its index. Where the last read ended
    /// there, what was fetched ahead is kept.
    fn position(&mut self, range: &OffsetRange) -> Result<usize> {
        let known = self.partitions.iter().position(|p| p.partition == range.partition && p.topic == range.topic);
        let index = known.unwrap_or(self.partitions.len());
        if known.is_none() {
            self.partitions.push(Partition {
                topic: range.topic.clone(),
                partition: range.partition,
                held: None,
                queue: None,
                position: range.start,
            });
        }
        let partition = &self.partitions[index];
        if partition.queue.is_none() || partition.position != range.start {
            self.restart(index, range.start)?;
        }
        Ok(index)
    }

    fn restart(&mut self, index: usize, offset: i64) -> Result<()> {
        let partition = &mut self.partitions[index];
        partition.held = None;
        // The old fetching must have stopped before the new one starts.
        partition.queue = None;
        partition.position = offset;
        let queue = PartitionQueue::start(self.consumer.clone(), &partition.topic, partition.partition, offset);
        let queue = queue.map_err(|error| {
            let doing = format!("starting to read {}-{} at offset {offset}", partition.topic, partition.partition);
            self.client.explain(&error, &doing)
        })?;
        partition.queue = Some(queue);
        Ok(())
    }

    fn step(
        &mut self,
        index: usize,
        range: &OffsetRange,
        take: &mut Take<'_>,
        summary: &mut ReadSummary,
    ) -> Result<Step> {
        let partition = &mut self.partitions[index];
        // Never more than the range can hold, so that little is left over.
        let wanted = range.end.saturating_sub(partition.position);
        partition.fill(usize::try_from(wanted).unwrap_or(MESSAGES_PER_CALL_MAX), Duration::ZERO);
        partition.hand_out(range.end, self.include_headers, take, summary)
    }

    /// Asks the cluster whether it still has what we wait for; true if the range needs no more reading. After
    /// `out_of_range`, the fetching starts again.
    fn examine(
        &mut self,
        index: usize,
        range: &OffsetRange,
        out_of_range: bool,
        summary: &mut ReadSummary,
    ) -> Result<bool> {
        let (topic, partition) = (&range.topic, range.partition);
        let ask = |offset| self.client.list_offsets(&[(topic.clone(), partition, offset)], PROBE_TIMEOUT);
        let answers = ask(Offset::Beginning).and_then(|first| Ok((first, ask(Offset::End)?)));
        let position = self.partitions[index].position;
        let (lost_to, reason) = match answers {
            Ok((first, end)) => {
                let first = first.first().and_then(|answer| answer.2).unwrap_or(0);
                let end = end.first().and_then(|answer| answer.2).unwrap_or(0);
                if first > position {
                    (first.min(range.end), format!("the partition starts at offset {first} now"))
                } else if end < range.end && position >= end {
                    (range.end, format!("the partition ends at offset {end} now"))
                } else {
                    if out_of_range {
                        self.restart(index, position)?;
                    }
                    return Ok(false);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (range.end, "the partition is gone".to_owned()),
            Err(error) => {
                tracing::debug!(%error, "cannot tell whether records are gone; waiting on");
                if out_of_range {
                    self.restart(index, position)?;
                }
                return Ok(false);
            }
        };
        let message = format!("offsets {position} to {lost_to} of {topic}-{partition} are gone: {reason}");
        if self.fail_on_data_loss {
            return Err(
                Error::new(ErrorKind::DataLoss, message).help("set 'failOnDataLoss' = 'false' to go on without them")
            );
        }
        tracing::warn!("{message}; going on without them, as failOnDataLoss is false");
        summary.gaps += u64::try_from(lost_to - position).unwrap_or(0);
        let finished = lost_to >= range.end;
        self.restart(index, lost_to)?;
        if finished {
            // Nothing may be there to fetch; the next range says where to start.
            self.partitions[index].queue = None;
        }
        Ok(finished)
    }

    fn silent(&self, index: usize, range: &OffsetRange) -> Error {
        let doing = format!(
            "reading {range}, at offset {}, nothing came for {:?}",
            self.partitions[index].position, self.silence_timeout
        );
        let reason = self.consumer.context().last_error().map(|(_, reason)| reason);
        self.client.unavailable(&doing, reason.or_else(|| self.client.last_error()))
    }
}

impl Partition {
    /// Takes messages from the queue unless some are held.
    fn fill(&mut self, count: usize, timeout: Duration) {
        if self.held.is_none() {
            let messages = self.queue.as_ref().map(|queue| queue.take(count, timeout));
            self.held = messages.filter(|messages| !messages.is_empty()).map(|messages| (messages, 0));
        }
    }

    /// Hands out what is held of the offsets before `end`, and holds the rest.
    fn hand_out(
        &mut self,
        end: i64,
        include_headers: bool,
        take: &mut Take<'_>,
        summary: &mut ReadSummary,
    ) -> Result<Step> {
        let Some((messages, mut next)) = self.held.take() else { return Ok(Step::Idle) };
        let step = loop {
            if self.position >= end {
                break Step::Done;
            }
            match messages.event(next) {
                None => break Step::Progress,
                Some(Event::Record { offset }) if offset < self.position => next += 1,
                Some(Event::Record { offset }) if offset >= end => self.skip_to(end, summary),
                Some(Event::Record { .. }) => {
                    let (to, last) = run_of_records(&messages, next, end);
                    let more = messages.records(next, to, include_headers, &mut *take)?;
                    let count = u64::try_from(to - next).unwrap_or(0);
                    summary.records += count;
                    summary.gaps += u64::try_from(last + 1 - self.position).unwrap_or(0).saturating_sub(count);
                    self.position = last + 1;
                    next = to;
                    if !more {
                        break Step::Stopped;
                    }
                }
                Some(Event::EndOfPartition { offset }) => {
                    next += 1;
                    self.skip_to(offset.min(end), summary);
                }
                Some(Event::Error { code: Code::AutoOffsetReset | Code::OffsetOutOfRange, .. }) => {
                    return Ok(Step::OutOfRange);
                }
                Some(Event::Error { code, text }) => {
                    next += 1;
                    self.check(code, &text)?;
                }
            }
        };
        if next < messages.len() {
            self.held = Some((messages, next));
        }
        Ok(step)
    }

    /// No record lies between here and `offset`: transaction markers, aborted and compacted records only.
    fn skip_to(&mut self, offset: i64, summary: &mut ReadSummary) {
        if offset > self.position {
            summary.gaps += u64::try_from(offset - self.position).unwrap_or(0);
            self.position = offset;
        }
    }

    /// librdkafka goes on after any error. Where the topic's leader or metadata are away for a while that is right;
    /// after anything else it may have skipped records.
    fn check(&self, code: Code, text: &str) -> Result<()> {
        let place = format!("{}-{} at offset {}", self.topic, self.partition, self.position);
        match code {
            Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::NetworkException => {
                tracing::debug!(%code, place, "{text}");
                Ok(())
            }
            Code::TopicAuthorizationFailed => {
                Err(Error::new(ErrorKind::PermissionDenied, format!("reading {place}: {code}"))
                    .help("ask for an ACL that lets this user read the topic"))
            }
            Code::LogTruncation => Err(Error::new(
                ErrorKind::DataLoss,
                format!("reading {place}: the log was cut below what we read: {text}"),
            )
            .help("records that were read are no longer in Kafka; check for an unclean leader election")),
            code => Err(Error::corrupt(format!("reading {place}: {code}: {text}"))
                .help("check the broker's log for a damaged segment or an unsupported compression")),
        }
    }
}

/// The end of the records from `from` on that lie before offset `end`, and the last one's offset.
fn run_of_records(messages: &Messages, from: usize, end: i64) -> (usize, i64) {
    let (mut to, mut last) = (from, 0);
    while let Some(Event::Record { offset }) = messages.event(to)
        && offset < end
    {
        (to, last) = (to + 1, offset);
    }
    (to, last)
}
