//! `offsets/N`: what batch N reads, in Spark's text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    event_time::NO_WATERMARK_MS,
    source::{Offsets, offsets},
};

/// One file of the offset log.
#[derive(Debug, Clone, PartialEq)]
pub struct OffsetEntry {
    pub watermark_ms: i64,
    /// What `now()` says in this batch, however often it is run.
    pub timestamp_ms: i64,
    /// Spark's configuration map, and our keys.
    pub conf: Map<String, Value>,
    /// Where the batch ends, one line per source; empty for a source that Spark had no offset of.
    pub ends: Vec<Offsets>,
}

/// Where the batch starts: mostly where the one before it ends, but not after records were lost.
const START: &str = "tidemill.start";

/// The version of each model that the batch predicts with, as JSON.
const MODELS: &str = "tidemill.models";

/// `false`: the batch only takes records in, and writes no rows (`EMIT PERIODIC`).
const EMITS: &str = "tidemill.emits";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    batch_watermark_ms: i64,
    #[serde(default)]
    batch_timestamp_ms: i64,
    #[serde(default)]
    conf: Map<String, Value>,
}

/// Who wrote the file; Spark ignores keys that it does not know.
const RUN_ID: &str = "tidemill.runId";
/// Of the file without this key, so that a flipped bit is noticed.
const CRC32: &str = "tidemill.crc32";

impl OffsetEntry {
    /// The file's text, without a final line feed, as Spark writes it.
    pub fn to_text(&self, run_id: &str) -> String {
        let mut conf = self.conf.clone();
        conf.remove(CRC32);
        conf.insert(RUN_ID.to_owned(), Value::from(run_id));
        let body = self.text_with(conf.clone());
        conf.insert(CRC32.to_owned(), Value::from(format!("{:08x}", crc32fast::hash(body.as_bytes()))));
        self.text_with(conf)
    }

    /// Did Tidemill write it?
    pub fn is_ours(&self) -> bool {
        self.conf.contains_key(RUN_ID)
    }

    /// Notes where the batch starts, for each source.
    #[must_use]
    pub fn starting_at(mut self, starts: &[Offsets]) -> Self {
        self.conf.insert(START.to_owned(), Value::from(offsets::to_lines(starts)));
        self
    }

    /// Notes whether the batch writes rows.
    #[must_use]
    pub fn emitting(mut self, emits: bool) -> Self {
        if !emits {
            self.conf.insert(EMITS.to_owned(), Value::from("false"));
        }
        self
    }

    /// Does the batch write rows?
    pub fn emits(&self) -> bool {
        self.conf.get(EMITS).and_then(Value::as_str) != Some("false")
    }

    /// Notes which versions of models the batch predicts with, however often it is run.
    #[must_use]
    pub fn predicting_with(mut self, versions: &BTreeMap<String, u64>) -> Self {
        if !versions.is_empty() {
            // A text, as all values of Spark's map are.
            self.conf.insert(MODELS.to_owned(), Value::from(serde_json::json!(versions).to_string()));
        }
        self
    }

    /// The version of each model that the batch predicts with.
    ///
    /// # Errors
    /// `Corrupt` for a text that is none.
    pub fn models(&self) -> Result<BTreeMap<String, u64>> {
        let Some(text) = self.conf.get(MODELS).and_then(Value::as_str) else { return Ok(BTreeMap::new()) };
        serde_json::from_str(text).map_err(|error| Error::corrupt(format!("{MODELS} names no models: {error}")))
    }

    /// Where the batch starts, if that is noted (Spark does not).
    ///
    /// # Errors
    /// `Corrupt` for a text that is no offsets.
    pub fn starts(&self) -> Result<Option<Vec<Offsets>>> {
        self.conf.get(START).and_then(Value::as_str).map(offsets::from_lines).transpose()
    }

    fn text_with(&self, conf: Map<String, Value>) -> String {
        let header = Header { batch_watermark_ms: self.watermark_ms, batch_timestamp_ms: self.timestamp_ms, conf };
        let header = serde_json::to_value(&header).map(|value| value.to_string()).unwrap_or_default();
        let mut text = format!("v1\n{header}");
        for end in &self.ends {
            text.push('\n');
            text.push_str(&end.to_string());
        }
        text
    }

    /// Reads a file of ours or of Spark's.
    ///
    /// # Errors
    /// `Corrupt`, saying what is wrong; the caller adds the file's name.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        match lines.next() {
            Some("v1") => {}
            None => return Err(Error::corrupt("the file is empty")),
            Some(other) => {
                return Err(Error::corrupt(format!("the first line is {other:?}, expected \"v1\"")));
            }
        }
        let header = lines.next().ok_or_else(|| Error::corrupt("the line with the batch's metadata is missing"))?;
        let header: Header = serde_json::from_str(header)
            .map_err(|error| Error::corrupt(format!("line 2 is no batch metadata: {error}")))?;
        // Of a source without an offset Spark writes a dash.
        let end = |line: &str| if line == "-" { Ok(Offsets::default()) } else { line.parse() };
        let ends = lines.map(end).collect::<Result<Vec<_>>>()?;
        if ends.is_empty() {
            return Err(Error::corrupt("the offsets are missing (a torn file?)"));
        }
        let entry = Self {
            watermark_ms: header.batch_watermark_ms,
            timestamp_ms: header.batch_timestamp_ms,
            conf: header.conf,
            ends,
        };
        entry.check_crc32()?;
        Ok(entry)
    }

    fn check_crc32(&self) -> Result<()> {
        let Some(expected) = self.conf.get(CRC32).and_then(Value::as_str) else {
            return Ok(()); // Spark wrote it
        };
        let mut conf = self.conf.clone();
        conf.remove(CRC32);
        let found = format!("{:08x}", crc32fast::hash(self.text_with(conf).as_bytes()));
        if found == expected {
            return Ok(());
        }
        Err(Error::corrupt(format!("its checksum is {found}, it says {expected}: the file was changed")))
    }
}

/// The configuration that Spark 3.5 to 4 keep with every batch, for a query that Spark may take over.
pub fn spark_conf() -> Map<String, Value> {
    let pairs = [
        (
            "spark.sql.streaming.stateStore.providerClass",
            "org.apache.spark.sql.execution.streaming.state.HDFSBackedStateStoreProvider",
        ),
        ("spark.sql.streaming.join.stateFormatVersion", "2"),
        ("spark.sql.streaming.stateStore.compression.codec", "lz4"),
        ("spark.sql.optimizer.pruneFiltersCanPruneStreamingSubplan", "false"),
        ("spark.sql.streaming.stateStore.rocksdb.formatVersion", "5"),
        ("spark.sql.streaming.statefulOperator.useStrictDistribution", "true"),
        ("spark.sql.streaming.flatMapGroupsWithState.stateFormatVersion", "2"),
        ("spark.sql.streaming.multipleWatermarkPolicy", "min"),
        ("spark.sql.streaming.aggregation.stateFormatVersion", "2"),
        ("spark.sql.shuffle.partitions", "200"),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect()
}

/// A watermark as Spark's logs have it: 0 stands for none.
pub fn logged_watermark(watermark_ms: i64) -> i64 {
    if watermark_ms == NO_WATERMARK_MS { 0 } else { watermark_ms }
}

/// The inverse.
pub fn read_watermark(logged_ms: i64) -> i64 {
    if logged_ms == 0 { NO_WATERMARK_MS } else { logged_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> OffsetEntry {
        OffsetEntry {
            watermark_ms: 0,
            timestamp_ms: 1_795_225_122_869,
            conf: spark_conf(),
            ends: vec![r#"{"t35":{"1":2,"0":2}}"#.parse().unwrap()],
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let text = entry().to_text("run");
        assert!(text.starts_with("v1\n{\"batchWatermarkMs\":0,\"batchTimestampMs\":1795225122869,\"conf\":{\"spark."));
        assert!(text.ends_with("\n{\"t35\":{\"0\":2,\"1\":2}}"));
        let read = OffsetEntry::parse(&text).unwrap();
        assert_eq!(read.ends, entry().ends);
        assert_eq!(read.to_text("run"), text);
    }

    #[test]
    fn has_a_line_for_each_source() {
        let line = |text: &str| text.parse::<Offsets>().unwrap();
        let starts = [line(r#"{"a":{"0":1}}"#), line(r#"{"b":{"0":3}}"#)];
        let ends = vec![line(r#"{"a":{"0":2}}"#), line(r#"{"b":{"0":4}}"#)];
        let text = OffsetEntry { ends: ends.clone(), ..entry() }.starting_at(&starts).to_text("run");
        assert!(text.ends_with("\n{\"a\":{\"0\":2}}\n{\"b\":{\"0\":4}}"), "{text}");
        let read = OffsetEntry::parse(&text).unwrap();
        assert_eq!((read.ends.clone(), read.starts().unwrap().unwrap()), (ends, starts.to_vec()));
        let cut = text.rsplit_once('\n').unwrap().0;
        assert!(OffsetEntry::parse(cut).is_err(), "a missing source is noticed");
    }

    #[test]
    fn names_the_models_of_the_batch() {
        assert!(entry().models().unwrap().is_empty());
        let versions = BTreeMap::from([("price@2".to_owned(), 2), ("sell".to_owned(), 11)]);
        let text = entry().predicting_with(&versions).to_text("run");
        assert!(text.contains(r#""tidemill.models":"{\"price@2\":2,\"sell\":11}""#), "{text}");
        assert_eq!(OffsetEntry::parse(&text).unwrap().models().unwrap(), versions);
    }

    #[test]
    fn reads_what_spark_wrote() {
        let text = "v1\n{\"batchWatermarkMs\":0,\"batchTimestampMs\":1,\"conf\":{}}\n{\"t\":{\"1\":2,\"0\":2}}";
        assert_eq!(OffsetEntry::parse(text).unwrap().timestamp_ms, 1);
        assert!(OffsetEntry::parse("v1\n{}\n{\"t\":{\"0\":2}}").is_ok());
        let two = OffsetEntry::parse("v1\n{}\n{\"t\":{\"0\":2}}\n-").unwrap();
        assert_eq!(two.ends, [r#"{"t":{"0":2}}"#.parse().unwrap(), Offsets::default()]);
    }

    #[test]
    fn any_flipped_or_missing_byte_is_noticed() {
        let text = entry().to_text("run");
        for cut in 0..text.len() {
            let error = OffsetEntry::parse(&text[..cut]).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::Corrupt, "cut at {cut}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let flipped = String::from_utf8_lossy(&bytes).into_owned();
            // A flip inside the run id or the checksum's own key may be harmless; offsets must never change unnoticed.
            if let Ok(read) = OffsetEntry::parse(&flipped) {
                assert_eq!((read.ends, read.timestamp_ms), (entry().ends, entry().timestamp_ms), "flipped {at}");
            }
        }
    }
}
