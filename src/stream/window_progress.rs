//! What Spark's progress says of a query with windows: event time and state.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::{forecast::ForecastProgress, windowed::OperatorCounts};
use crate::event_time::{EventTimeStats, NO_WATERMARK_MS};

/// The windows of one batch.
#[derive(Debug, Clone, Default)]
pub struct WindowProgress {
    /// Windows that end up to here closed with the batch, milliseconds since the epoch; `NO_WATERMARK_MS` before the
    /// first event.
    pub watermark_ms: i64,
    pub times: EventTimeStats,
    /// Rows that were set aside: too late, without event time, or too far in the future.
    pub late: u64,
    /// The first of them, as JSON objects, with the reason in `late_reason`.
    pub late_samples: Vec<Value>,
    pub operators: Vec<OperatorCounts>,
    /// Of a query with ML_FORECAST.
    pub forecast: Option<ForecastProgress>,
    /// How long the list of the state's files took to write.
    pub commit_ms: u64,
}

impl WindowProgress {
    /// Spark's `eventTime`: without a watermark Spark says the epoch.
    pub fn event_time(&self) -> Value {
        let mut times = Map::new();
        if let Some((min, max, avg)) = self.times.min_max_avg_ms() {
            times.insert("avg".to_owned(), json!(iso_ms(avg)));
            times.insert("max".to_owned(), json!(iso_ms(max)));
            times.insert("min".to_owned(), json!(iso_ms(min)));
        }
        let watermark_ms = if self.watermark_ms == NO_WATERMARK_MS { 0 } else { self.watermark_ms };
        times.insert("watermark".to_owned(), json!(iso_ms(watermark_ms)));
        Value::Object(times)
    }

    /// Spark's `stateOperators`, and what each computes.
    pub fn state_operators(&self) -> Vec<Value> {
        let operator = |(index, counts): (usize, &OperatorCounts)| {
            // Only records can be late: what one aggregate gives to the next never is.
            let late = if index == 0 { self.late } else { 0 };
            json!({
                "operatorName": "stateStoreSave",
                "numRowsTotal": counts.rows,
                "numRowsUpdated": counts.updated,
                "allUpdatesTimeMs": counts.update_ms,
                "numRowsRemoved": counts.removed,
                "allRemovalsTimeMs": counts.removal_ms,
                "commitTimeMs": self.commit_ms,
                "memoryUsedBytes": counts.memory_bytes,
                "numRowsDroppedByWatermark": late,
                "lateRowSamples": if index == 0 { self.late_samples.as_slice() } else { &[] },
                "numShufflePartitions": 1,
                "numStateStoreInstances": 1,
                "customMetrics": {"stateFiles": counts.files, "stateFileBytes": counts.file_bytes},
                "description": counts.name,
            })
        };
        self.operators.iter().enumerate().map(operator).collect()
    }

    /// The watermark for the one line.
    pub fn watermark(&self) -> String {
        if self.watermark_ms == NO_WATERMARK_MS { "none".to_owned() } else { iso_ms(self.watermark_ms) }
    }
}

/// `2026-11-21T01:38:41.964Z`, as Spark writes times; a time that no calendar holds as a number.
pub fn iso_ms(ms: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms)
        .map_or_else(|| format!("{ms} ms"), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_time_has_sparks_keys() {
        let mut progress = WindowProgress { watermark_ms: NO_WATERMARK_MS, ..WindowProgress::default() };
        assert_eq!(progress.event_time(), json!({"watermark": "1970-01-01T00:00:00.000Z"}));
        progress.watermark_ms = 1_500;
        progress.times.add([5_000_000, 1_000_999, 3_000_000].into_iter());
        let expected = json!({
            "avg": "1970-01-01T00:00:03.000Z", "max": "1970-01-01T00:00:05.000Z",
            "min": "1970-01-01T00:00:01.000Z", "watermark": "1970-01-01T00:00:01.500Z",
        });
        assert_eq!(progress.event_time(), expected);
    }

    #[test]
    fn late_rows_are_those_of_the_first_aggregate() {
        let operators = vec![OperatorCounts { rows: 7, ..OperatorCounts::default() }, OperatorCounts::default()];
        let progress = WindowProgress { late: 3, operators, ..WindowProgress::default() };
        let [first, second] = <[Value; 2]>::try_from(progress.state_operators()).unwrap();
        assert_eq!((&first["numRowsDroppedByWatermark"], &first["numRowsTotal"]), (&json!(3), &json!(7)));
        assert_eq!(second["numRowsDroppedByWatermark"], json!(0));
    }
}
