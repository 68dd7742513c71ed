//! A Kafka table as the source of a streaming query.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::Offset;
use regex::Regex;

use super::{
    OffsetRange, Offsets,
    offsets::{data_loss, resume},
    read::Reader,
    start::{Side, resolve, times},
};
use crate::{
    catalog::{KafkaTable, StartingOffsets, Subscription},
    clock::Stopwatch,
    error::{Error, ErrorKind, Result},
    kafka::{KafkaClient, KafkaRecord, client::REQUEST_TIMEOUT},
};

/// How old the list of partitions may be: new partitions and topics are seen after at most this long.
pub const PARTITIONS_AGE_MAX: Duration = Duration::from_secs(3);

/// Reads fixed ranges of offsets. Holds one librdkafka consumer, which keeps fetching between batches into a
/// bounded queue.
#[derive(Debug)]
pub struct KafkaSource {
    /// In a mutex only because its queues are not `Sync`; it is never locked.
    reader: Mutex<Reader>,
    client: KafkaClient,
    subscription: Subscription,
    starting: StartingOffsets,
    ending: StartingOffsets,
    fail_on_data_loss: bool,
    commits_to_group: bool,
    description: String,
    partitions: Mutex<Partitions>,
}

/// The partitions of the subscription, as last seen.
#[derive(Debug, Clone)]
struct Partitions {
    list: Vec<(String, i32)>,
    seen: Stopwatch,
}

/// What one read saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadSummary {
    /// Records given to the callback.
    pub records: u64,
    /// Offsets in the ranges that hold no record: transaction markers, aborted and compacted records.
    pub gaps: u64,
}

impl KafkaSource {
    /// Connects and checks that the topics exist. Every call to the cluster has a timeout.
    ///
    /// # Errors
    /// `Unavailable` (no broker; names the address), `NotFound` (no such topic; suggests the nearest), `Invalid`
    /// (an option that librdkafka refuses).
    pub async fn open(table: &KafkaTable) -> Result<Self> {
        let subscription = table.subscription.clone().ok_or_else(|| {
            Error::invalid("a Kafka table that is read needs 'subscribe', 'subscribePattern' or 'assign'")
                .help("add 'subscribe' = 'topic' to the table")
        })?;
        if let Subscription::Pattern(pattern) = &subscription {
            whole_name(pattern)?;
        }
        let client = KafkaClient::new(&table.client)?;
        let wanted = subscription.clone();
        let list = client.run(move |client| find_partitions(client, &wanted, Missing::IsAnError)).await?;
        let reader =
            Reader::new(client.clone(), &table.client, list.len(), table.include_headers, table.fail_on_data_loss)?;
        Ok(Self {
            reader: Mutex::new(reader),
            client,
            description: describe(&subscription),
            subscription,
            starting: table.starting_offsets.clone(),
            ending: table.ending_offsets.clone(),
            fail_on_data_loss: table.fail_on_data_loss,
            commits_to_group: table.client.0.contains_key("group.id"),
            partitions: Mutex::new(Partitions { list, seen: Stopwatch::start() }),
        })
    }

    /// The same source, giving up a read after `timeout` without a message instead of a minute.
    #[must_use]
    pub fn with_silence_timeout(mut self, timeout: Duration) -> Self {
        self.reader.get_mut().unwrap_or_else(PoisonError::into_inner).silence_timeout = timeout;
        self
    }

    /// Spark's words: `KafkaV2[Subscribe[bitcointopic]]`.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Where a new query starts: `startingOffsets` and its kin, resolved to numbers for every partition.
    ///
    /// # Errors
    /// As `open`; `Invalid` where the option leaves a partition out.
    pub async fn starting_offsets(&self) -> Result<Offsets> {
        self.resolve(&self.starting, Side::Starting).await
    }

    /// Where a bounded read ends: `endingOffsets` and its kin, resolved.
    ///
    /// # Errors
    /// As `starting_offsets`.
    pub async fn ending_offsets(&self) -> Result<Offsets> {
        self.resolve(&self.ending, Side::Ending).await
    }

    /// The end of every partition now, new partitions included. With `read_committed` (the default) an open
    /// transaction is not part of it, so that a batch never waits for one.
    ///
    /// # Errors
    /// As `open`.
    pub async fn latest_offsets(&self) -> Result<Offsets> {
        self.offsets_at(Offset::End).await
    }

    /// The first record of every partition that Kafka still has.
    ///
    /// # Errors
    /// As `open`.
    pub async fn earliest_offsets(&self) -> Result<Offsets> {
        self.offsets_at(Offset::Beginning).await
    }

    /// Compares where we are with what the cluster still has: records that were deleted before they were read,
    /// a topic that was deleted and created again, partitions that vanished. Returns one sentence for each loss,
    /// and the offsets from which reading can go on.
    ///
    /// A topic that was created again and has grown past our offset by now looks like the old one.
    ///
    /// # Errors
    /// `DataLoss` naming the lost ranges if `failOnDataLoss` is true; else as `open`.
    pub async fn check_data_loss(&self, from: &Offsets) -> Result<(Vec<String>, Offsets)> {
        let earliest = self.earliest_offsets().await?;
        let latest = self.latest_offsets().await?;
        let losses = data_loss(from, &earliest, &latest);
        let sentences: Vec<String> = losses.iter().map(|loss| loss.sentence.clone()).collect();
        if self.fail_on_data_loss && !sentences.is_empty() {
            return Err(Error::new(ErrorKind::DataLoss, sentences.join("; "))
                .help("set 'failOnDataLoss' = 'false' to go on without the lost records"));
        }
        Ok((sentences, resume(from, &earliest, &losses)))
    }

    /// Reads exactly `ranges` on the calling thread, which it blocks, giving `take` many records at a time; each
    /// partition's in order of offset. `take` returns `false` to stop early (shutdown).
    ///
    /// A range is complete when everything before its end was given out or is known to hold no record. Where the next
    /// read starts where this one ended, what was fetched ahead is used. After an error nothing fetched is kept.
    ///
    /// # Errors
    /// What `take` returns; `Unavailable` when the broker stays silent past a timeout; `DataLoss` where a range's
    /// records are gone (without `failOnDataLoss` they count as gaps).
    pub fn read(
        &mut self,
        ranges: &[OffsetRange],
        take: &mut dyn FnMut(&[KafkaRecord<'_>]) -> Result<bool>,
    ) -> Result<ReadSummary> {
        self.reader.get_mut().unwrap_or_else(PoisonError::into_inner).read(ranges, take)
    }

    /// With `kafka.group.id`, tells that group how far a finished batch got, for tools that show a group's lag;
    /// without, does nothing. The checkpoint alone decides where reading goes on.
    ///
    /// # Errors
    /// As `open`: worth a warning, not a stop.
    pub async fn commit_group_offsets(&self, offsets: &Offsets) -> Result<()> {
        if !self.commits_to_group {
            return Ok(());
        }
        let list: Vec<_> =
            offsets.iter().map(|(topic, partition, offset)| (topic.to_owned(), partition, offset)).collect();
        self.client.run(move |client| client.commit_group_offsets(&list)).await
    }

    async fn resolve(&self, spec: &StartingOffsets, side: Side) -> Result<Offsets> {
        let earliest = self.earliest_offsets().await?;
        let latest = self.latest_offsets().await?;
        let found = match times(spec, side, &earliest)? {
            Some(times) => {
                let wanted: Vec<_> = times.iter().map(|(t, p, ms)| (t.to_owned(), p, Offset::Offset(ms))).collect();
                collect(self.client.run(move |client| client.list_offsets(&wanted, REQUEST_TIMEOUT)).await?)
            }
            None => Offsets::default(),
        };
        resolve(spec, side, (&earliest, &latest), &found, !self.fail_on_data_loss)
    }

    async fn offsets_at(&self, offset: Offset) -> Result<Offsets> {
        let list = self.partitions().await?;
        let wanted: Vec<_> = list.into_iter().map(|(topic, partition)| (topic, partition, offset)).collect();
        let asked = self.client.run(move |client| {
            client.serve_events();
            client.list_offsets(&wanted, REQUEST_TIMEOUT)
        });
        match asked.await {
            Ok(answers) => Ok(collect(answers)),
            // A partition of the list vanished: look again, so that the answer is about what is there.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let list = self.refresh().await?;
                let wanted: Vec<_> = list.into_iter().map(|(topic, partition)| (topic, partition, offset)).collect();
                Ok(collect(self.client.run(move |client| client.list_offsets(&wanted, REQUEST_TIMEOUT)).await?))
            }
            Err(error) => Err(error),
        }
    }

    async fn partitions(&self) -> Result<Vec<(String, i32)>> {
        let known = self.partitions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.seen.elapsed() < PARTITIONS_AGE_MAX { Ok(known.list) } else { self.refresh().await }
    }

    async fn refresh(&self) -> Result<Vec<(String, i32)>> {
        let subscription = self.subscription.clone();
        let list = self.client.run(move |client| find_partitions(client, &subscription, Missing::IsEmpty)).await?;
        let known = Partitions { list: list.clone(), seen: Stopwatch::start() };
        *self.partitions.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(list)
    }
}

/// What a topic that is not there means: a mistake at the start, a loss later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsAnError,
    IsEmpty,
}

fn find_partitions(client: &KafkaClient, subscription: &Subscription, missing: Missing) -> Result<Vec<(String, i32)>> {
    let find = |topic: &str| match missing {
        Missing::IsAnError => client.require_topic(topic),
        Missing::IsEmpty => Ok(client.partitions(topic)?.unwrap_or_default()),
    };
    let mut found: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    match subscription {
        Subscription::Topics(topics) => {
            for topic in topics {
                found.insert(topic.clone(), find(topic)?);
            }
        }
        Subscription::Pattern(pattern) => {
            let name = whole_name(pattern)?;
            found = client.topics()?;
            found.retain(|topic, _| name.is_match(topic));
            if found.is_empty() && missing == Missing::IsAnError {
                let message = format!("no topic at {} matches 'subscribePattern' = '{pattern}'", client.servers());
                return Err(Error::new(ErrorKind::NotFound, message)
                    .help("the pattern must match a topic's whole name; create the topic or correct the pattern"));
            }
        }
        Subscription::Partitions(wanted) => {
            for (topic, partitions) in wanted {
                let there = find(topic)?;
                let absent = partitions.iter().find(|partition| !there.contains(partition));
                if let Some(partition) = absent.filter(|_| missing == Missing::IsAnError) {
                    let message = format!("'assign' names {topic}-{partition}, but the topic has {}", there.len());
                    return Err(Error::new(ErrorKind::NotFound, format!("{message} partitions"))
                        .help("partitions are numbered from 0"));
                }
                found.insert(topic.clone(), partitions.iter().copied().filter(|p| there.contains(p)).collect());
            }
        }
    }
    Ok(found.into_iter().flat_map(|(topic, ids)| ids.into_iter().map(move |id| (topic.clone(), id))).collect())
}

/// A pattern that must match the whole name, as Java's `matches` does.
fn whole_name(pattern: &str) -> Result<Regex> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
        Error::invalid(format!("'subscribePattern' = '{pattern}' is no pattern that is supported"))
            .source_error(error)
            .help("Java's look-around, possessive quantifiers and back-references are not; most others are")
    })
}

fn describe(subscription: &Subscription) -> String {
    match subscription {
        Subscription::Topics(topics) => format!("KafkaV2[Subscribe[{}]]", topics.join(", ")),
        Subscription::Pattern(pattern) => format!("KafkaV2[SubscribePattern[{pattern}]]"),
        Subscription::Partitions(partitions) => {
            let each = partitions.iter().flat_map(|(topic, ids)| ids.iter().map(move |id| format!("{topic}-{id}")));
            format!("KafkaV2[Assign[{}]]", each.collect::<Vec<_>>().join(", "))
        }
    }
}

fn collect(answers: Vec<(String, i32, Option<i64>)>) -> Offsets {
    let mut offsets = Offsets::default();
    for (topic, partition, offset) in answers {
        if let Some(offset) = offset {
            offsets.set(&topic, partition, offset);
        }
    }
    offsets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names() {
        let name = whole_name("a|price-.*").unwrap();
        assert!(name.is_match("price-btc") && name.is_match("a"));
        assert!(!name.is_match("xprice-btc") && !name.is_match("ab"));
        let error = whole_name("price-(?!x).*").unwrap_err();
        assert!(error.to_string().contains("'subscribePattern'"), "{error}");
    }

    #[test]
    fn descriptions_are_sparks() {
        let topics = Subscription::Topics(vec!["t1".into(), "t2".into()]);
        assert_eq!(describe(&topics), "KafkaV2[Subscribe[t1, t2]]");
        let partitions = Subscription::Partitions([("t".to_owned(), vec![0, 2])].into());
        assert_eq!(describe(&partitions), "KafkaV2[Assign[t-0, t-2]]");
    }

    #[test]
    fn a_source_can_move_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<KafkaSource>();
    }
}
