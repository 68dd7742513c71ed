//! Offsets, in Spark's text form, and the arithmetic on them. No I/O.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use crate::error::{Error, Result};

/// The next offset to read, per topic and partition. Its text is Spark's: `{"topic":{"0":12,"1":7}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offsets(pub BTreeMap<String, BTreeMap<i32, i64>>);

/// Records `start..end` of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetRange {
    pub topic: String,
    pub partition: i32,
    /// The first offset.
    pub start: i64,
    /// One past the last.
    pub end: i64,
}

impl OffsetRange {
    /// Offsets in the range; records are as many or fewer.
    pub fn len(&self) -> u64 {
        u64::try_from(self.end.saturating_sub(self.start)).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{} [{}, {})", self.topic, self.partition, self.start, self.end)
    }
}

impl Offsets {
    /// The offset of one partition.
    pub fn get(&self, topic: &str, partition: i32) -> Option<i64> {
        self.0.get(topic)?.get(&partition).copied()
    }

    /// Sets the offset of one partition.
    pub fn set(&mut self, topic: &str, partition: i32, offset: i64) {
        match self.0.get_mut(topic) {
            Some(partitions) => partitions.insert(partition, offset),
            None => self.0.entry(topic.to_owned()).or_default().insert(partition, offset),
        };
    }

    /// Every partition, ordered by topic and number.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i32, i64)> {
        self.0.iter().flat_map(|(topic, partitions)| partitions.iter().map(|(p, offset)| (topic.as_str(), *p, *offset)))
    }

    /// How many partitions.
    pub fn partition_count(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// What to read from here to `end`: no empty ranges. A partition that `self` does not know is new and starts at
    /// 0: one that starts later has lost records, which [`data_loss`] reports.
    pub fn ranges(&self, end: &Self) -> Vec<OffsetRange> {
        let range = |(topic, partition, end): (&str, i32, i64)| OffsetRange {
            topic: topic.to_owned(),
            partition,
            start: self.get(topic, partition).unwrap_or(0),
            end,
        };
        end.iter().map(range).filter(|range| !range.is_empty()).collect()
    }

    /// How many offsets lie from here to `end`.
    pub fn count_to(&self, end: &Self) -> u64 {
        self.ranges(end).iter().map(OffsetRange::len).sum()
    }

    /// How far `end` lies ahead, less how far it lies behind. A partition that one side does not have stands at 0 there:
    /// it is new, or it vanished and what was read of it is taken back.
    pub fn distance_to(&self, end: &Self) -> i128 {
        let sum = |offsets: &Self| offsets.iter().map(|(.., offset)| i128::from(offset)).sum::<i128>();
        sum(end) - sum(self)
    }

    /// For each partition of `latest`, how many offsets we are behind it (Spark's `OffsetsBehindLatest`).
    pub fn behind(&self, latest: &Self) -> Vec<u64> {
        let behind = |(topic, partition, latest): (&str, i32, i64)| {
            u64::try_from(latest - self.get(topic, partition).unwrap_or(0)).unwrap_or(0)
        };
        latest.iter().map(behind).collect()
    }

    /// Spark's `maxOffsetsPerTrigger`: the part of the way to `end` that `limit` offsets allow, each partition in
    /// proportion to what it has. A share below one is rounded up, so that no partition starves, and others down, so
    /// the total is near the limit, not always below.
    #[must_use]
    pub fn limited(&self, end: &Self, limit: u64) -> Self {
        let total = self.count_to(end);
        if total <= limit {
            return end.clone();
        }
        let mut limited = end.clone();
        for range in self.ranges(end) {
            // As Spark does it, in doubles, so that both cut a backlog alike.
            let share = limit as f64 * (range.len() as f64 / total as f64);
            let whole = if share < 1.0 { share.ceil() } else { share.floor() };
            let stop = range.start.saturating_add(whole as i64).min(range.end);
            limited.set(&range.topic, range.partition, stop);
        }
        limited
    }
}

/// Several sources' offsets as one text: a line for each. That of one source is its own text.
pub fn to_lines(offsets: &[Offsets]) -> String {
    offsets.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The inverse.
///
/// # Errors
/// `Corrupt`.
pub fn from_lines(text: &str) -> Result<Vec<Offsets>> {
    text.lines().map(str::parse).collect()
}

/// Spark's `minOffsetsPerTrigger` and `maxTriggerDelay`: whether a batch of `available` offsets should run now.
/// `waited` is the time since the last batch; `None` before the first, which always runs.
pub fn enough(available: u64, min: Option<u64>, waited: Option<Duration>, delay_max: Duration) -> bool {
    let waited_long = waited.is_none_or(|waited| waited >= delay_max);
    available > 0 && (min.is_none_or(|min| available >= min) || waited_long)
}

impl fmt::Display for Offsets {
    /// Spark 4's text: no whitespace, partitions ascending.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (topic, partitions)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}:{{", serde_json::Value::from(topic.as_str()))?;
            for (index, (partition, offset)) in partitions.iter().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                write!(f, "{comma}\"{partition}\":{offset}")?;
            }
            f.write_str("}")?;
        }
        f.write_str("}")
    }
}

impl FromStr for Offsets {
    type Err = Error;

    /// Reads Spark's text, in any order of partitions.
    ///
    /// # Errors
    /// `Corrupt`, for this text comes from a checkpoint.
    fn from_str(text: &str) -> Result<Self> {
        let offsets: BTreeMap<String, BTreeMap<i32, i64>> = serde_json::from_str(text)
            .map_err(|error| Error::corrupt(format!("these are no Kafka offsets: {text}")).source_error(error))?;
        let offsets = Self(offsets);
        if let Some((topic, partition, offset)) = offsets.iter().find(|(_, p, offset)| *p < 0 || *offset < 0) {
            return Err(Error::corrupt(format!("partition {topic}-{partition} has the impossible offset {offset}")));
        }
        Ok(offsets)
    }
}

/// Records that are gone, and where reading can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    pub topic: String,
    pub partition: i32,
    /// `None`: the partition is gone.
    pub resume: Option<i64>,
    /// For the user: what is gone, and why, as far as one can see.
    pub sentence: String,
}

/// Compares where we are with the offsets that the cluster has now (each partition's first record and end).
pub fn data_loss(from: &Offsets, earliest: &Offsets, latest: &Offsets) -> Vec<Loss> {
    let mut losses = Vec::new();
    let mut lose = |topic: &str, partition: i32, resume: Option<i64>, sentence: String| {
        losses.push(Loss { topic: topic.to_owned(), partition, resume, sentence });
    };
    for (topic, partition, start) in from.iter() {
        let here = format!("partition {topic}-{partition}");
        match earliest.get(topic, partition).zip(latest.get(topic, partition)) {
            None => lose(topic, partition, None, format!("{here} is gone; we had read up to offset {start}")),
            Some((first, end)) if end < start => lose(
                topic,
                partition,
                Some(first),
                format!(
                    "{here} ends at offset {end}, but we had read up to {start}: the topic was deleted and created \
                     again, or its log was cut; reading can go on at {first}"
                ),
            ),
            Some((first, _)) if first > start => lose(
                topic,
                partition,
                Some(first),
                format!("{here} lost offsets {start} to {first} before they were read: retention deleted them"),
            ),
            Some(_) => {}
        }
    }
    // A query that has read nothing yet knows no partition, and nothing can be lost to it.
    let new = earliest.iter().filter(|(topic, partition, _)| from.get(topic, *partition).is_none());
    for (topic, partition, first) in new.filter(|(.., first)| *first != 0 && !from.0.is_empty()) {
        let sentence = format!(
            "the new partition {topic}-{partition} starts at offset {first}, not 0: older records were deleted \
             before they were read"
        );
        lose(topic, partition, Some(first), sentence);
    }
    losses
}

/// `from` where nothing is lost, else where each loss says that reading can go on; new partitions start at their
/// first record.
pub fn resume(from: &Offsets, earliest: &Offsets, losses: &[Loss]) -> Offsets {
    let mut resumed = from.clone();
    for (topic, partition, first) in earliest.iter() {
        if from.get(topic, partition).is_none() {
            resumed.set(topic, partition, first);
        }
    }
    for loss in losses {
        match loss.resume {
            Some(offset) => resumed.set(&loss.topic, loss.partition, offset),
            None => {
                if let Some(partitions) = resumed.0.get_mut(&loss.topic) {
                    partitions.remove(&loss.partition);
                }
            }
        }
    }
    resumed.0.retain(|_, partitions| !partitions.is_empty());
    resumed
}

#[cfg(test)]
#[path = "offsets_tests.rs"]
mod tests;
