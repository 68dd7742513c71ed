//! `startingOffsets`, `endingOffsets` and their kin, resolved to numbers. No I/O.

use std::collections::BTreeMap;

use super::Offsets;
use crate::{
    catalog::{OffsetSpec, StartingOffsets},
    error::{Error, Result},
};

/// Which of the twin options is resolved: they differ in what they allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Starting,
    Ending,
}

impl Side {
    fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ending => "ending",
        }
    }
}

/// The time to ask the cluster for, per partition, where the option is about times.
///
/// # Errors
/// `Invalid` where a partition is left out, or one is named that the table does not read.
pub fn times(spec: &StartingOffsets, side: Side, partitions: &Offsets) -> Result<Option<Offsets>> {
    match spec {
        StartingOffsets::Timestamp { ms, .. } => {
            let mut times = partitions.clone();
            times.0.values_mut().flat_map(BTreeMap::values_mut).for_each(|time| *time = *ms);
            Ok(Some(times))
        }
        StartingOffsets::TimestampPerPartition { ms, .. } => {
            check_names(ms, &format!("{}OffsetsByTimestamp", side.word()), partitions)?;
            Ok(Some(Offsets(ms.clone())))
        }
        _ => Ok(None),
    }
}

/// Resolves an option. `earliest` and `latest` have the same partitions; `found` are the answers to [`times`], where
/// a partition without a record at or after its time is missing. Offsets outside of what the cluster has are an
/// error, or moved to the nearest that it has if `clamp`.
///
/// # Errors
/// `Invalid` naming the option and the partition.
pub fn resolve(
    spec: &StartingOffsets,
    side: Side,
    (earliest, latest): (&Offsets, &Offsets),
    found: &Offsets,
    clamp: bool,
) -> Result<Offsets> {
    let word = side.word();
    match spec {
        StartingOffsets::Earliest if side == Side::Ending => {
            Err(Error::invalid("option 'endingOffsets' cannot be 'earliest'").help("use 'latest', or JSON offsets"))
        }
        StartingOffsets::Earliest => Ok(earliest.clone()),
        StartingOffsets::Latest => Ok(latest.clone()),
        StartingOffsets::Specific(specs) => {
            check_names(specs, &format!("{word}Offsets"), earliest)?;
            let mut resolved = Offsets::default();
            for (topic, partition, first) in earliest.iter() {
                let end = latest.get(topic, partition).unwrap_or(first);
                let spec = specs.get(topic).and_then(|specs| specs.get(&partition));
                let offset = match spec.copied().unwrap_or(OffsetSpec::Latest) {
                    OffsetSpec::Latest => end,
                    OffsetSpec::Earliest if side == Side::Ending => {
                        return Err(Error::invalid(format!(
                            "option 'endingOffsets' gives -2 (earliest) for {topic}-{partition}"
                        ))
                        .help("give an offset, or -1 for the latest"));
                    }
                    OffsetSpec::Earliest => first,
                    OffsetSpec::At(offset) if (first..=end).contains(&offset) || clamp => offset.clamp(first, end),
                    OffsetSpec::At(offset) => {
                        return Err(Error::invalid(format!(
                            "option '{word}Offsets' gives offset {offset} for {topic}-{partition}, which holds \
                             {first} to {end}"
                        ))
                        .help("give an offset in that range, or set 'failOnDataLoss' = 'false' to take the nearest"));
                    }
                };
                resolved.set(topic, partition, offset);
            }
            Ok(resolved)
        }
        StartingOffsets::Timestamp { latest_if_none, .. }
        | StartingOffsets::TimestampPerPartition { latest_if_none, .. } => {
            let mut resolved = found.clone();
            for (topic, partition, end) in latest.iter().filter(|(t, p, _)| found.get(t, *p).is_none()) {
                // A bounded read ends at the latest record where none is so late, as Spark's does.
                if side == Side::Starting && !latest_if_none {
                    return Err(Error::invalid(format!(
                        "{topic}-{partition} has no record at or after the starting timestamp"
                    ))
                    .help("choose an earlier time, or set 'startingOffsetsByTimestampStrategy' = 'latest'"));
                }
                resolved.set(topic, partition, end);
            }
            Ok(resolved)
        }
    }
}

fn check_names<T>(given: &BTreeMap<String, BTreeMap<i32, T>>, option: &str, partitions: &Offsets) -> Result<()> {
    let named = given.iter().flat_map(|(topic, map)| map.keys().map(move |partition| (topic, *partition)));
    if let Some((topic, partition)) = named.clone().find(|(t, p)| partitions.get(t, *p).is_none()) {
        return Err(Error::invalid(format!(
            "option '{option}' names {topic}-{partition}, which the table does not read"
        ))
        .help("name the partitions of the topics in 'subscribe', and no others"));
    }
    let missing = partitions.iter().find(|(t, p, _)| given.get(*t).is_none_or(|map| !map.contains_key(p)));
    match missing {
        Some((topic, partition, _)) => Err(Error::invalid(format!("option '{option}' leaves out {topic}-{partition}"))
            .help("give every partition an offset: -2 is the earliest, -1 the latest")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(text: &str) -> Offsets {
        text.parse().unwrap()
    }

    fn specific(pairs: &[(i32, OffsetSpec)]) -> StartingOffsets {
        StartingOffsets::Specific([("t".to_owned(), pairs.iter().copied().collect())].into())
    }

    fn run(spec: &StartingOffsets, side: Side, clamp: bool) -> Result<Offsets> {
        let ends = (offsets(r#"{"t":{"0":10,"1":0}}"#), offsets(r#"{"t":{"0":20,"1":5}}"#));
        resolve(spec, side, (&ends.0, &ends.1), &offsets(r#"{"t":{"0":15}}"#), clamp)
    }

    #[test]
    fn words_and_numbers_become_offsets() {
        assert_eq!(
            run(&StartingOffsets::Earliest, Side::Starting, false).unwrap().to_string(),
            r#"{"t":{"0":10,"1":0}}"#
        );
        assert_eq!(run(&StartingOffsets::Latest, Side::Ending, false).unwrap().to_string(), r#"{"t":{"0":20,"1":5}}"#);
        let spec = specific(&[(0, OffsetSpec::At(12)), (1, OffsetSpec::Latest)]);
        assert_eq!(run(&spec, Side::Starting, false).unwrap().to_string(), r#"{"t":{"0":12,"1":5}}"#);
        let spec = specific(&[(0, OffsetSpec::Earliest), (1, OffsetSpec::At(5))]);
        assert_eq!(run(&spec, Side::Starting, false).unwrap().to_string(), r#"{"t":{"0":10,"1":5}}"#);
    }

    #[test]
    fn a_partition_left_out_or_unknown_is_named() {
        let text = run(&specific(&[(0, OffsetSpec::Latest)]), Side::Starting, false).unwrap_err().to_string();
        assert!(text.contains("'startingOffsets' leaves out t-1"), "{text}");
        let all = [(0, OffsetSpec::Latest), (1, OffsetSpec::Latest), (2, OffsetSpec::Latest)];
        let text = run(&specific(&all), Side::Ending, false).unwrap_err().to_string();
        assert!(text.contains("'endingOffsets' names t-2"), "{text}");
    }

    #[test]
    fn an_offset_out_of_range_is_an_error_or_clamped() {
        let spec = specific(&[(0, OffsetSpec::At(500)), (1, OffsetSpec::At(0))]);
        let text = run(&spec, Side::Starting, false).unwrap_err().to_string();
        assert!(text.contains("offset 500 for t-0, which holds 10 to 20"), "{text}");
        assert_eq!(run(&spec, Side::Starting, true).unwrap().get("t", 0), Some(20));
    }

    #[test]
    fn an_end_cannot_be_the_earliest() {
        assert!(run(&StartingOffsets::Earliest, Side::Ending, false).is_err());
        let spec = specific(&[(0, OffsetSpec::Earliest), (1, OffsetSpec::Latest)]);
        assert!(run(&spec, Side::Ending, true).is_err());
    }

    #[test]
    fn a_time_after_the_last_record() {
        let spec = |latest_if_none| StartingOffsets::Timestamp { ms: 1, latest_if_none };
        assert!(run(&spec(false), Side::Starting, false).unwrap_err().to_string().contains("t-1 has no record"));
        assert_eq!(run(&spec(true), Side::Starting, false).unwrap().to_string(), r#"{"t":{"0":15,"1":5}}"#);
        assert_eq!(run(&spec(false), Side::Ending, false).unwrap().get("t", 1), Some(5));
        let partitions = offsets(r#"{"t":{"0":0,"1":0}}"#);
        let asked = times(&spec(true), Side::Starting, &partitions).unwrap().unwrap();
        assert_eq!(asked.to_string(), r#"{"t":{"0":1,"1":1}}"#);
    }
}
