//! Event time: how far the events of a stream have come, and when a window may close. No I/O.
//!
//! The watermark is a promise: no event older than it is waited for. It is the newest event of each partition, less the
//! delay that the table declares, and of those the smallest, so that a partition that lags behind is waited for. It
//! never goes back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalog::Watermark;

/// Before the first event.
pub const NO_WATERMARK_MS: i64 = i64::MIN;

/// What is known of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionTime {
    /// Its newest event, microseconds since the epoch; without those too far in the future.
    pub newest_us: i64,
    /// The wall clock when its last events came, milliseconds since the epoch.
    pub active_ms: i64,
}

/// `{"topic":{"0":{...}}}`, as it stands in the checkpoint.
pub type PartitionTimes = BTreeMap<String, BTreeMap<i32, PartitionTime>>;

/// The event times of the rows of one batch, without those too far in the future.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventTimeStats {
    rows: u64,
    min_us: i64,
    max_us: i64,
    /// Microseconds of many rows do not fit an `i64`.
    sum_us: i128,
}

impl EventTimeStats {
    /// Takes in times, in microseconds since the epoch.
    pub fn add(&mut self, times: impl Iterator<Item = i64>) {
        for time in times {
            (self.min_us, self.max_us) = match self.rows {
                0 => (time, time),
                _ => (self.min_us.min(time), self.max_us.max(time)),
            };
            self.rows = self.rows.saturating_add(1);
            self.sum_us += i128::from(time);
        }
    }

    /// Takes in those of another source.
    pub fn merge(&mut self, other: &Self) {
        (self.min_us, self.max_us) = match (self.rows, other.rows) {
            (_, 0) => return,
            (0, _) => (other.min_us, other.max_us),
            _ => (self.min_us.min(other.min_us), self.max_us.max(other.max_us)),
        };
        self.rows = self.rows.saturating_add(other.rows);
        self.sum_us += other.sum_us;
    }

    /// The oldest, the newest and the mean, in milliseconds since the epoch; `None` without rows.
    pub fn min_max_avg_ms(&self) -> Option<(i64, i64, i64)> {
        let mean = self.sum_us.checked_div(i128::from(self.rows))?;
        let mean_us = i64::try_from(mean).ok()?;
        Some((self.min_us.div_euclid(1000), self.max_us.div_euclid(1000), mean_us.div_euclid(1000)))
    }
}

/// The watermark of one source.
#[derive(Debug, Clone)]
pub struct WatermarkTracker {
    /// `None`: there is no watermark, whatever comes.
    policy: Option<Watermark>,
    partitions: PartitionTimes,
    /// Milliseconds since the epoch, `NO_WATERMARK_MS` before the first event.
    current_ms: i64,
}

/// Why the watermark stands where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// No event has come.
    Nothing,
    /// This partition has the oldest newest event of those that are not idle.
    Partition { topic: String, partition: i32 },
    /// All partitions are idle, and the watermark stays.
    AllIdle,
    /// All partitions are idle, and the watermark goes on with the wall clock.
    WallClock,
}

impl WatermarkTracker {
    /// Before the first event.
    pub fn new(policy: impl Into<Option<Watermark>>) -> Self {
        Self { policy: policy.into(), partitions: PartitionTimes::new(), current_ms: NO_WATERMARK_MS }
    }

    /// The same policy, where a checkpoint stands.
    pub fn restore(self, partitions: PartitionTimes, current_ms: i64) -> Self {
        Self { partitions, current_ms, ..self }
    }

    /// Milliseconds since the epoch, `NO_WATERMARK_MS` before the first event.
    pub fn current_ms(&self) -> i64 {
        self.current_ms
    }

    /// What the checkpoint keeps.
    pub fn partitions(&self) -> &PartitionTimes {
        &self.partitions
    }

    /// Events beyond this (microseconds since the epoch) are set aside, if it is `now_ms`.
    pub fn future_us(&self, now_ms: i64) -> i64 {
        let Some(policy) = &self.policy else { return i64::MAX };
        let skew_us = i64::try_from(policy.max_future_skew.as_micros()).unwrap_or(i64::MAX);
        now_ms.saturating_mul(1000).saturating_add(skew_us)
    }

    /// Takes in the newest event of each partition that a batch had.
    pub fn observe(&mut self, newest: &PartitionTimes) {
        for (topic, partitions) in newest {
            let known = self.partitions.entry(topic.clone()).or_default();
            for (partition, time) in partitions {
                let entry = known.entry(*partition).or_insert(*time);
                entry.newest_us = entry.newest_us.max(time.newest_us);
                entry.active_ms = entry.active_ms.max(time.active_ms);
            }
        }
    }

    /// Has no event of this partition been seen?
    pub fn is_unheard(&self, topic: &str, partition: i32) -> bool {
        !self.partitions.get(topic).is_some_and(|partitions| partitions.contains_key(&partition))
    }

    /// Moves the watermark to where it is at `now_ms`, and returns it. A partition that `is_behind` (has records
    /// that were not read yet) is not idle however long ago its last events came.
    pub fn advance(&mut self, now_ms: i64, is_behind: &dyn Fn(&str, i32) -> bool) -> i64 {
        let (holder, at_us) = self.position(now_ms, is_behind);
        if holder != Holder::Nothing && holder != Holder::AllIdle {
            let delay_us = self.policy.as_ref().map_or(0, |policy| policy.delay_us);
            let at_ms = at_us.saturating_sub(delay_us).div_euclid(1000);
            // In Spark's logs 0 stands for no watermark; a millisecond less holds nothing back that matters.
            self.current_ms = self.current_ms.max(if at_ms == 0 { -1 } else { at_ms });
        }
        self.current_ms
    }

    /// Who holds the watermark at `now_ms`.
    pub fn holder(&self, now_ms: i64, is_behind: &dyn Fn(&str, i32) -> bool) -> Holder {
        self.position(now_ms, is_behind).0
    }

    fn position(&self, now_ms: i64, is_behind: &dyn Fn(&str, i32) -> bool) -> (Holder, i64) {
        let Some(policy) = &self.policy else { return (Holder::Nothing, 0) };
        let idle_ms = i64::try_from(policy.idle_timeout.as_millis()).unwrap_or(i64::MAX);
        let all = || {
            let of = |(topic, partitions): (&'_ String, &'_ BTreeMap<i32, PartitionTime>)| {
                let topic = topic.clone();
                partitions.iter().map(move |(partition, time)| (topic.clone(), *partition, *time)).collect::<Vec<_>>()
            };
            self.partitions.iter().flat_map(of)
        };
        let active = all().filter(|(topic, partition, time)| {
            now_ms.saturating_sub(time.active_ms) < idle_ms || is_behind(topic, *partition)
        });
        if let Some((topic, partition, time)) = active.min_by_key(|(_, _, time)| time.newest_us) {
            return (Holder::Partition { topic, partition }, time.newest_us);
        }
        // The newest of all: the silent ones before it were passed already, or would hold for ever.
        let Some((_, _, newest)) = all().max_by_key(|(_, _, time)| time.newest_us) else {
            return (Holder::Nothing, 0);
        };
        if !policy.advances_when_idle {
            return (Holder::AllIdle, newest.newest_us);
        }
        let last_ms = all().map(|(_, _, time)| time.active_ms).max().unwrap_or(now_ms);
        let silent_us = now_ms.saturating_sub(last_ms).max(0).saturating_mul(1000);
        (Holder::WallClock, newest.newest_us.saturating_add(silent_us))
    }
}

/// The watermark of a query: of its sources', the smallest, as Spark's `multipleWatermarkPolicy = min` has it. A source
/// of which all partitions are idle does not hold it, unless all sources are.
#[derive(Debug, Clone)]
pub struct QueryWatermark {
    sources: Vec<WatermarkTracker>,
    current_ms: i64,
    /// The wall clock when it was asked for the first time: a source that never had an event is waited for from then on.
    since_ms: Option<i64>,
}

impl QueryWatermark {
    /// Before the first event, of sources with these policies.
    pub fn new(policies: Vec<Option<Watermark>>) -> Self {
        let sources = policies.into_iter().map(WatermarkTracker::new).collect();
        Self { sources, current_ms: NO_WATERMARK_MS, since_ms: None }
    }

    /// Where a checkpoint stands; `partitions` are those of each source.
    pub fn restore(self, partitions: Vec<PartitionTimes>, current_ms: i64) -> Self {
        let restored = self.sources.into_iter().zip(partitions);
        let sources = restored.map(|(source, partitions)| source.restore(partitions, current_ms)).collect();
        Self { sources, current_ms, ..self }
    }

    /// Milliseconds since the epoch, `NO_WATERMARK_MS` before the first event.
    pub fn current_ms(&self) -> i64 {
        self.current_ms
    }

    /// What the checkpoint keeps, for each source.
    pub fn partitions(&self) -> Vec<PartitionTimes> {
        self.sources.iter().map(|source| source.partitions().clone()).collect()
    }

    /// Each source by itself.
    pub fn sources(&self) -> &[WatermarkTracker] {
        &self.sources
    }

    /// Events beyond this are believed of no source.
    pub fn future_us(&self, now_ms: i64) -> i64 {
        self.sources.iter().map(|source| source.future_us(now_ms)).max().unwrap_or(i64::MAX)
    }

    /// Takes in the newest event of each partition of source `source` that a batch had.
    pub fn observe(&mut self, source: usize, newest: &PartitionTimes) {
        if let Some(source) = self.sources.get_mut(source) {
            source.observe(newest);
        }
    }

    /// As `WatermarkTracker::advance`; `is_behind` also says of which source.
    pub fn advance(&mut self, now_ms: i64, is_behind: &dyn Fn(usize, &str, i32) -> bool) -> i64 {
        self.since_ms.get_or_insert(now_ms);
        for (index, source) in self.sources.iter_mut().enumerate() {
            source.advance(now_ms, &|topic, partition| is_behind(index, topic, partition));
        }
        if let (_, _, Some(at_ms)) = self.position(now_ms, is_behind) {
            self.current_ms = self.current_ms.max(at_ms);
        }
        self.current_ms
    }

    /// Which source holds the watermark at `now_ms`, and who in it.
    pub fn holder(&self, now_ms: i64, is_behind: &dyn Fn(usize, &str, i32) -> bool) -> (usize, Holder) {
        let (source, holder, _) = self.position(now_ms, is_behind);
        (source, holder)
    }

    fn position(&self, now_ms: i64, is_behind: &dyn Fn(usize, &str, i32) -> bool) -> (usize, Holder, Option<i64>) {
        let stands: Vec<(usize, Holder, i64)> = self
            .sources
            .iter()
            .enumerate()
            .map(|(index, source)| {
                let holder = source.holder(now_ms, &|topic, partition| is_behind(index, topic, partition));
                (index, holder, source.current_ms())
            })
            .collect();
        let waited_ms = now_ms.saturating_sub(self.since_ms.unwrap_or(now_ms));
        let is_awaited = |index: usize| {
            let idle = self.sources.get(index).and_then(|source| source.policy.as_ref());
            let idle = idle.map_or(0, |policy| policy.idle_timeout.as_millis());
            u128::try_from(waited_ms).unwrap_or(0) < idle
        };
        let silent = |stand: &&(usize, Holder, i64)| stand.1 == Holder::Nothing;
        if let Some((index, ..)) = stands.iter().filter(silent).find(|(index, ..)| is_awaited(*index)) {
            return (*index, Holder::Nothing, None);
        }
        let active = stands.iter().filter(|(_, holder, _)| matches!(holder, Holder::Partition { .. }));
        if let Some((index, holder, at_ms)) = active.min_by_key(|(.., at_ms)| *at_ms) {
            return (*index, holder.clone(), Some(*at_ms));
        }
        let heard: Vec<_> = stands.iter().filter(|stand| !silent(stand)).collect();
        if let Some((index, ..)) = heard.iter().find(|(_, holder, _)| *holder == Holder::AllIdle) {
            return (*index, Holder::AllIdle, None);
        }
        match heard.iter().min_by_key(|(.., at_ms)| *at_ms) {
            Some((index, holder, at_ms)) => (*index, holder.clone(), Some(*at_ms)),
            None => (0, Holder::Nothing, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Place;

    fn policy(advances_when_idle: bool) -> Watermark {
        Watermark {
            column: "ts".into(),
            delay_us: 10_000_000,
            idle_timeout: Duration::from_secs(30),
            advances_when_idle,
            max_future_skew: Duration::from_secs(300),
            place: Place { file: String::new(), line: 1, column: 1, text: String::new(), width: 1 },
        }
    }

    fn times(newest: &[(i32, i64, i64)]) -> PartitionTimes {
        let partition = |&(partition, newest_s, active_s): &(i32, i64, i64)| {
            (partition, PartitionTime { newest_us: newest_s * 1_000_000, active_ms: active_s * 1000 })
        };
        [("t".to_owned(), newest.iter().map(partition).collect())].into()
    }

    fn tracker(advances_when_idle: bool, newest: &[(i32, i64, i64)]) -> WatermarkTracker {
        WatermarkTracker::new(policy(advances_when_idle)).restore(times(newest), NO_WATERMARK_MS)
    }

    #[test]
    fn the_slowest_partition_holds_it() {
        let mut tracker = tracker(false, &[(0, 1_000, 1), (1, 400, 1)]);
        assert_eq!(tracker.advance(2_000, &|_, _| false), 390_000);
        assert_eq!(tracker.holder(2_000, &|_, _| false), Holder::Partition { topic: "t".into(), partition: 1 });
        tracker.observe(&times(&[(1, 1_200, 2)]));
        assert_eq!(tracker.advance(3_000, &|_, _| false), 990_000);
    }

    #[test]
    fn it_never_goes_back() {
        let mut tracker = tracker(false, &[(0, 1_000, 1)]);
        assert_eq!(tracker.advance(2_000, &|_, _| false), 990_000);
        tracker.observe(&times(&[(0, 500, 2), (1, 100, 2)]));
        assert_eq!(tracker.advance(3_000, &|_, _| false), 990_000);
    }

    #[test]
    fn an_idle_partition_does_not_hold_it_unless_it_has_records_to_read() {
        let mut tracker = tracker(false, &[(0, 1_000, 100), (1, 400, 1)]);
        assert_eq!(tracker.advance(101_000, &|_, partition| partition == 1), 390_000);
        assert_eq!(tracker.advance(101_000, &|_, _| false), 990_000);
    }

    #[test]
    fn when_all_are_idle_it_stays_or_goes_with_the_clock() {
        let mut stays = tracker(false, &[(0, 1_000, 100), (1, 400, 1)]);
        assert_eq!(stays.advance(131_000, &|_, _| false), NO_WATERMARK_MS);
        assert_eq!(stays.holder(131_000, &|_, _| false), Holder::AllIdle);
        let mut goes = tracker(true, &[(0, 1_000, 100), (1, 400, 1)]);
        assert_eq!(goes.advance(131_000, &|_, _| false), 1_021_000);
        assert_eq!(goes.holder(131_000, &|_, _| false), Holder::WallClock);
    }

    #[test]
    fn without_events_there_is_none() {
        let mut empty = tracker(true, &[]);
        assert_eq!(empty.advance(1, &|_, _| false), NO_WATERMARK_MS);
        assert_eq!(empty.future_us(1_000), 301_000_000);
    }

    fn of_two(first: &[(i32, i64, i64)], second: &[(i32, i64, i64)]) -> QueryWatermark {
        QueryWatermark::new(vec![Some(policy(false)), Some(policy(true))])
            .restore(vec![times(first), times(second)], NO_WATERMARK_MS)
    }

    #[test]
    fn of_two_sources_the_slower_holds_it() {
        let mut both = of_two(&[(0, 1_000, 1)], &[(0, 400, 1)]);
        assert_eq!(both.advance(2_000, &|_, _, _| false), 390_000);
        assert_eq!(both.holder(2_000, &|_, _, _| false).0, 1);
        both.observe(1, &times(&[(0, 2_000, 2)]));
        assert_eq!(both.advance(3_000, &|_, _, _| false), 990_000);
        // It never goes back, though a partition with old events turns up.
        both.observe(1, &times(&[(7, 100, 3)]));
        assert_eq!(both.advance(3_000, &|_, _, _| false), 990_000);
    }

    #[test]
    fn an_idle_source_does_not_hold_it_unless_it_has_records_to_read() {
        let mut both = of_two(&[(0, 1_000, 100)], &[(0, 400, 1)]);
        assert_eq!(both.advance(101_000, &|source, _, _| source == 1), 390_000);
        assert_eq!(both.advance(101_000, &|_, _, _| false), 990_000);
    }

    #[test]
    fn a_source_without_any_event_is_waited_for_as_long_as_an_idle_one() {
        let mut both = of_two(&[(0, 1_000, 100)], &[]);
        assert_eq!(both.advance(100_000, &|_, _, _| false), NO_WATERMARK_MS);
        both.observe(0, &times(&[(0, 1_020, 129)]));
        assert_eq!(both.advance(129_999, &|_, _, _| false), NO_WATERMARK_MS);
        assert_eq!(both.holder(129_999, &|_, _, _| false), (1, Holder::Nothing));
        assert_eq!(both.advance(130_000, &|_, _, _| false), 1_010_000);
    }

    #[test]
    fn when_all_sources_are_idle_one_that_stays_holds_the_others() {
        let mut both = of_two(&[(0, 1_000, 100)], &[(0, 2_000, 100)]);
        assert_eq!(both.advance(100_000, &|_, _, _| false), 990_000);
        assert_eq!(both.advance(500_000, &|_, _, _| false), 990_000);
        assert_eq!(both.holder(500_000, &|_, _, _| false), (0, Holder::AllIdle));
    }
}
