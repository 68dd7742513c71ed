//! Where a Kafka table starts and ends to read: Spark's options and their precedence.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::{
    options::Options,
    table::{OffsetSpec, StartingOffsets, Subscription},
};
use crate::error::{Result, nearest};

type PerPartition<T> = BTreeMap<String, BTreeMap<i32, T>>;

/// `startingTimestamp`, else `startingOffsetsByTimestamp`, else `startingOffsets`, else the latest, as a stream does.
///
/// # Errors
/// `Invalid` at the value.
pub fn starting(options: &mut Options<'_>, subscription: &Subscription) -> Result<StartingOffsets> {
    let strategy = "startingOffsetsByTimestampStrategy";
    if options.given(&["startingTimestamp", "startingOffsetsByTimestamp"]).is_empty() {
        options.refuse(&[strategy], "startingTimestamp and startingOffsetsByTimestamp")?;
    }
    let latest_if_none = options.one_of(strategy, &[("error", false), ("latest", true)])?.unwrap_or(false);
    let names = ["startingTimestamp", "startingOffsetsByTimestamp", "startingOffsets"];
    resolve(options, subscription, names, latest_if_none, true)
}

/// The same for the end. Where no record is as late as a timestamp, the end is the latest record, as in Spark.
///
/// # Errors
/// `Invalid` at the value.
pub fn ending(options: &mut Options<'_>, subscription: &Subscription) -> Result<StartingOffsets> {
    let names = ["endingTimestamp", "endingOffsetsByTimestamp", "endingOffsets"];
    resolve(options, subscription, names, true, false)
}

/// Reads all three, so that a mistake in one that is not used is told too.
fn resolve(
    options: &mut Options<'_>,
    subscription: &Subscription,
    [timestamp, by_timestamp, offsets]: [&str; 3],
    latest_if_none: bool,
    start: bool,
) -> Result<StartingOffsets> {
    let for_all = milliseconds(options, timestamp)?;
    let expected = "JSON with milliseconds for each partition, such as {\"topic\": {\"0\": 1700000000000}}";
    let per_partition: Option<PerPartition<i64>> = json(options, by_timestamp, expected)?;
    if let Some(ms) = &per_partition {
        check_partitions(options, by_timestamp, ms, subscription)?;
        if ms.values().flat_map(BTreeMap::values).any(|ms| *ms < 0) {
            return Err(options.wrong(by_timestamp, expected));
        }
    }
    let plain = offsets_or_word(options, offsets, subscription, start)?;
    Ok(match (for_all, per_partition) {
        (Some(ms), _) => StartingOffsets::Timestamp { ms, latest_if_none },
        (None, Some(ms)) => StartingOffsets::TimestampPerPartition { ms, latest_if_none },
        (None, None) => plain.unwrap_or(StartingOffsets::Latest),
    })
}

fn milliseconds(options: &mut Options<'_>, name: &str) -> Result<Option<i64>> {
    let Some(value) = options.text(name) else { return Ok(None) };
    let ms = value.trim().parse::<i64>().ok().filter(|ms| *ms >= 0);
    ms.map(Some).ok_or_else(|| options.wrong(name, "milliseconds since 1970-01-01 UTC, such as '1700000000000'"))
}

/// `earliest`, `latest`, or an offset for each partition.
fn offsets_or_word(
    options: &mut Options<'_>,
    name: &str,
    subscription: &Subscription,
    start: bool,
) -> Result<Option<StartingOffsets>> {
    let Some(value) = options.text(name) else { return Ok(None) };
    let expected = if start {
        "'earliest', 'latest' or JSON such as {\"topic\": {\"0\": 23, \"1\": -2}}, where -2 is earliest and -1 latest"
    } else {
        "'latest' or JSON such as {\"topic\": {\"0\": 23, \"1\": -1}}, where -1 is latest"
    };
    if !value.trim_start().starts_with('{') {
        return match value.trim().to_ascii_lowercase().as_str() {
            "earliest" if start => Ok(Some(StartingOffsets::Earliest)),
            "latest" => Ok(Some(StartingOffsets::Latest)),
            word => {
                let words = if start { &["earliest", "latest"][..] } else { &["latest"] };
                let error = options.wrong(name, expected);
                Err(match nearest(word, words.iter().copied()) {
                    Some(near) => error.help(format!("did you mean '{near}'?")),
                    None => error,
                })
            }
        };
    }
    let Some(numbers) = json::<PerPartition<i64>>(options, name, expected)? else { return Ok(None) };
    check_partitions(options, name, &numbers, subscription)?;
    let mut specific = PerPartition::new();
    for (topic, partitions) in numbers {
        for (partition, offset) in partitions {
            let spec = match offset {
                -2 if start => OffsetSpec::Earliest,
                -1 => OffsetSpec::Latest,
                0.. => OffsetSpec::At(offset),
                _ => return Err(options.wrong(name, expected)),
            };
            specific.entry(topic.clone()).or_default().insert(partition, spec);
        }
    }
    Ok(Some(StartingOffsets::Specific(specific)))
}

/// The value as JSON of the expected shape.
///
/// # Errors
/// `Invalid` at the value.
pub fn json<T: DeserializeOwned>(options: &mut Options<'_>, name: &str, expected: &str) -> Result<Option<T>> {
    let Some(value) = options.text(name) else { return Ok(None) };
    serde_json::from_str(&value).map(Some).map_err(|_| options.wrong(name, expected))
}

/// What is said of partitions must be said of partitions that are read; with `assign`, of all of them.
fn check_partitions<T>(
    options: &Options<'_>,
    name: &str,
    given: &PerPartition<T>,
    subscription: &Subscription,
) -> Result<()> {
    if given.values().all(BTreeMap::is_empty) || given.values().flat_map(BTreeMap::keys).any(|partition| *partition < 0)
    {
        return Err(options.wrong(name, "a number for each partition, which are 0, 1, 2 and so on"));
    }
    let read: Vec<&str> = match subscription {
        Subscription::Topics(topics) => topics.iter().map(String::as_str).collect(),
        Subscription::Partitions(partitions) => partitions.keys().map(String::as_str).collect(),
        // Known when the cluster is asked.
        Subscription::Pattern(_) => return Ok(()),
    };
    if let Some(unknown) = given.keys().find(|topic| !read.contains(&topic.as_str())) {
        let error = options.at_value(name, &format!("'{name}' names the topic '{unknown}', which is not read"));
        return Err(match nearest(unknown, read.iter().copied()) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help(format!("the topics read are {}", read.join(", "))),
        });
    }
    if let Some(left_out) = read.iter().find(|topic| !given.contains_key(**topic)) {
        let error = options.at_value(name, &format!("'{name}' leaves out the topic '{left_out}'"));
        return Err(error.help("say it for every partition that is read"));
    }
    let Subscription::Partitions(assigned) = subscription else { return Ok(()) };
    for (topic, partitions) in assigned {
        let listed: Vec<i32> = given.get(topic).map(|listed| listed.keys().copied().collect()).unwrap_or_default();
        let mut wanted = partitions.clone();
        wanted.sort_unstable();
        if listed != wanted {
            let message = format!("'{name}' lists the partitions {listed:?} of '{topic}', 'assign' lists {wanted:?}");
            return Err(options.at_value(name, &message).help("say it for every partition that is read"));
        }
    }
    Ok(())
}
