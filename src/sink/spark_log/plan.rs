//! Pure decisions over a listing of the log: what to read, when to compact, what to delete.

use std::collections::BTreeMap;

use crate::store::Entry;

/// `spark.sql.streaming.fileSink.log.compactInterval`
const COMPACT_INTERVAL: u64 = 10;
/// `spark.sql.streaming.minBatchesToRetain`
const RETAINED_BATCHES_MIN: u64 = 100;
/// `spark.sql.streaming.fileSink.log.cleanupDelay`: a reader that listed the directory has this long to read.
const CLEANUP_DELAY_MS: i64 = 600_000;

/// The log's files. Others (`.7.<uuid>.tmp`, `.7.crc`) are not looked at, as in Spark.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By name: the id, whether it is compacted, the time.
    names: BTreeMap<String, (u64, bool, i64)>,
}

impl Listing {
    pub fn new(entries: &[Entry]) -> Self {
        let mut names = BTreeMap::new();
        for entry in entries {
            let name = entry.path.rsplit('/').next().unwrap_or_default();
            let (number, compact) = match name.strip_suffix(".compact") {
                Some(number) => (number, true),
                None => (name, false),
            };
            // `parse` alone would take "+7" and "007" for a batch.
            if let Ok(id) = number.parse::<u64>()
                && id.to_string() == number
            {
                names.insert(name.to_owned(), (id, compact, entry.modified_ms));
            }
        }
        Self { names }
    }

    pub fn latest(&self) -> Option<u64> {
        self.names.values().map(|(id, ..)| *id).max()
    }

    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Another interval may have been set when the log was begun; the compacted files tell.
    pub fn interval(&self) -> u64 {
        let mut compacted: Vec<u64> =
            self.names.values().filter(|(_, compact, _)| *compact).map(|(id, ..)| *id).collect();
        compacted.sort_unstable();
        match compacted.as_slice() {
            [.., before, last] => last - before,
            [only] => first_interval(only + 1),
            [] => COMPACT_INTERVAL,
        }
    }

    /// The name under which batch `id` is, or would be, in the log.
    pub fn name_of(&self, id: u64, interval: u64) -> String {
        if is_compaction(id, interval) { format!("{id}.compact") } else { id.to_string() }
    }

    /// The files that together hold everything: the last compacted one and those after it.
    pub fn read_set(&self) -> Vec<String> {
        let interval = self.interval();
        let Some(latest) = self.latest() else { return Vec::new() };
        (last_compaction(latest, interval)..=latest).map(|id| self.name_of(id, interval)).collect()
    }

    /// Files that no reader needs any more once batch `batch` is in the log.
    pub fn deletable(&self, batch: u64, interval: u64, now_ms: i64) -> Vec<String> {
        let kept = (batch + 1).saturating_sub(RETAINED_BATCHES_MIN);
        if kept < interval {
            return Vec::new();
        }
        let first_kept = kept - kept % interval - 1;
        let old = self.names.iter().filter(|(_, (id, _, modified_ms))| {
            *id < first_kept && *modified_ms <= now_ms.saturating_sub(CLEANUP_DELAY_MS)
        });
        old.map(|(name, _)| name.clone()).collect()
    }
}

pub(super) fn is_compaction(id: u64, interval: u64) -> bool {
    (id + 1).is_multiple_of(interval)
}

/// The id of the last compacted file at or before `id`, 0 if there is none.
pub(super) fn last_compaction(id: u64, interval: u64) -> u64 {
    ((id + 1) / interval * interval).saturating_sub(1)
}

/// The interval when there is one compacted file, of the batch before `next`.
fn first_interval(next: u64) -> u64 {
    if next <= COMPACT_INTERVAL {
        next
    } else if COMPACT_INTERVAL < next / 2 {
        (COMPACT_INTERVAL..=next).find(|divisor| next.is_multiple_of(*divisor)).unwrap_or(next)
    } else {
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let entry = |name: &&str| Entry { path: format!("_spark_metadata/{name}"), size_bytes: 2, modified_ms: 0 };
        Listing::new(&names.iter().map(entry).collect::<Vec<_>>())
    }

    #[test]
    fn other_files_are_not_batches() {
        let listing = listing(&["0", "1", ".2.crc", ".2.uuid.tmp", "README", "007", "+8", "9.compact.bak", "-1"]);
        assert_eq!(listing.latest(), Some(1));
        assert_eq!(listing.read_set(), ["0", "1"]);
    }

    #[test]
    fn reads_from_the_last_compacted_file() {
        let to = |last: u64| -> Vec<String> {
            let name = |id| if is_compaction(id, 10) { format!("{id}.compact") } else { id.to_string() };
            let names: Vec<String> = (0..=last).map(name).collect();
            listing(&names.iter().map(String::as_str).collect::<Vec<_>>()).read_set()
        };
        assert_eq!(to(8).len(), 9);
        assert_eq!(to(9), ["9.compact"]);
        assert_eq!(to(11), ["9.compact", "10", "11"]);
        assert_eq!(to(20), ["19.compact", "20"]);
    }

    #[test]
    fn the_interval_is_spark_s() {
        for (names, interval) in [
            (vec!["0"], 10),
            (vec!["9.compact"], 10),
            (vec!["2.compact"], 3),
            (vec!["2.compact", "5.compact"], 3),
            (vec!["14.compact"], 15),
            (vec!["59.compact"], 10),
            (vec!["32.compact"], 11),
            (vec!["9.compact", "19.compact", "29.compact"], 10),
        ] {
            assert_eq!(listing(&names).interval(), interval, "{names:?}");
        }
    }

    #[test]
    fn deletes_only_what_is_old_and_replaced() {
        let name = |id| if is_compaction(id, 10) { format!("{id}.compact") } else { id.to_string() };
        let names: Vec<String> = (0..130).map(name).collect();
        let listing = listing(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(listing.deletable(108, 10, CLEANUP_DELAY_MS), Vec::<String>::new());
        // 129 + 1 - 100 = 30 are not kept, of which 29.compact and what follows is.
        let mut deleted = listing.deletable(129, 10, CLEANUP_DELAY_MS);
        deleted.sort_by_key(|name| name.trim_end_matches(".compact").parse::<u64>().unwrap());
        assert_eq!(deleted, names[..29]);
        assert_eq!(listing.deletable(129, 10, CLEANUP_DELAY_MS - 1), Vec::<String>::new());
    }
}
