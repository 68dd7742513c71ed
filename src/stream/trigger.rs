//! When the next batch starts. No I/O.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock;

/// Spark's triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The default: as soon as the last batch is done and there is something to read.
    AsSoonAsPossible,
    /// At multiples of the interval since the epoch; after an overrun at once.
    ProcessingTime(Duration),
    /// Everything that is there at the start, in as many batches as the limits ask for, then stop.
    AvailableNow,
    /// One batch without limits, then stop.
    Once,
}

impl Trigger {
    /// Does the query end by itself?
    pub fn is_bounded(self) -> bool {
        matches!(self, Self::AvailableNow | Self::Once)
    }

    /// How long to wait before a batch, if the last one started at `last_ms` and it is now `now_ms`.
    pub fn wait(self, last_ms: Option<i64>, now_ms: i64) -> Duration {
        let (Self::ProcessingTime(interval), Some(last_ms)) = (self, last_ms) else { return Duration::ZERO };
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        let next_ms = (last_ms.div_euclid(interval_ms)).saturating_add(1).saturating_mul(interval_ms);
        Duration::from_millis(u64::try_from(next_ms - now_ms).unwrap_or(0))
    }
}

/// Waits, or until `stop` is cancelled.
pub async fn wait(duration: Duration, stop: &CancellationToken) {
    if !duration.is_zero() {
        tokio::select! {
            () = clock::sleep(duration) => {}
            () = stop.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processing_time_is_aligned_and_catches_up() {
        let trigger = Trigger::ProcessingTime(Duration::from_secs(10));
        assert_eq!(trigger.wait(None, 12_345), Duration::ZERO);
        assert_eq!(trigger.wait(Some(12_345), 12_400), Duration::from_millis(7_600));
        assert_eq!(trigger.wait(Some(12_345), 25_000), Duration::ZERO);
        assert_eq!(Trigger::AsSoonAsPossible.wait(Some(1), 2), Duration::ZERO);
    }
}
