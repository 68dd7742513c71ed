//! `prepared/N`: what batch N produced. From the moment it exists the batch's result is fixed.

use serde::{Deserialize, Serialize};

use super::Ledger;
use crate::{
    error::{Error, Result},
    query::FilesVersion,
    sink::StagedFile,
    state::StateRef,
};

/// One file of the prepared log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prepared {
    pub batch_id: u64,
    /// Who ran the batch.
    pub run_id: String,
    /// Staged in the output directory.
    pub files: Vec<StagedFile>,
    /// Staged in the dead-letter directory `dead_letter_url`.
    pub dead_letters: Vec<StagedFile>,
    pub dead_letter_url: String,
    /// Rows that came too late, staged in the directory `late_url`.
    #[serde(default)]
    pub late: Vec<StagedFile>,
    #[serde(default)]
    pub late_url: String,
    /// The state after the batch, of a query that has one.
    #[serde(default)]
    pub state: Option<StateRef>,
    /// Where those of earlier batches may lie, if it was elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_dead_letter_urls: Vec<String>,
    pub ledger: Ledger,
    /// Of the batches since `counted_from`.
    pub totals: Ledger,
    /// Where the totals start: at batch 0, or where a query of Spark's was taken over. Spark's offset JSON, a line for
    /// each source.
    pub counted_from: String,
    /// Which stored files the batch joined.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub static_tables: Vec<FilesVersion>,
}

impl Prepared {
    /// `v1`, one line of JSON, the checksum of that line.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn to_text(&self) -> Result<String> {
        let json = serde_json::to_string(self)
            .map_err(|error| Error::internal("prepared does not serialise").source_error(error))?;
        Ok(format!("v1\n{json}\n{:08x}", crc32fast::hash(json.as_bytes())))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `Corrupt`, saying what is wrong; the caller adds the file's name.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = text.split('\n');
        let (version, json, crc32) = (lines.next(), lines.next(), lines.next());
        match version {
            Some("v1") => {}
            Some(version) if version.starts_with('v') && version.len() > 1 && json.is_some() => {
                return Err(Error::corrupt(format!("version {version} of the prepared log, this Tidemill knows v1")));
            }
            _ => return Err(Error::corrupt("it does not start with v1")),
        }
        let (Some(json), Some(crc32)) = (json, crc32) else {
            return Err(Error::corrupt("it ends too early (a torn file)"));
        };
        if format!("{:08x}", crc32fast::hash(json.as_bytes())) != crc32 {
            return Err(Error::corrupt("its checksum does not fit: the file is torn or was changed"));
        }
        serde_json::from_str(json).map_err(|error| Error::corrupt(format!("it is no prepared batch: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Read;
    use crate::store::{Hidden, Staged};

    #[test]
    fn reads_what_it_writes_and_notices_every_change() {
        let staged = Staged {
            path: "p=1/part-0.csv".into(),
            hidden: Hidden::File { path: "p=1/.part-0.csv.x.tmp".into() },
            size_bytes: 12,
            crc32: 77,
        };
        let prepared = Prepared {
            batch_id: 3,
            run_id: "r".into(),
            files: vec![StagedFile { staged, rows: 2 }],
            dead_letters: vec![],
            dead_letter_url: "file:///d".into(),
            late: Vec::new(),
            late_url: String::new(),
            state: None,
            earlier_dead_letter_urls: Vec::new(),
            ledger: Ledger::of_batch(Read { consumed: 3, gaps: 0, bad: 1, again: 0 }, 2),
            totals: Ledger::of_batch(Read { consumed: 9, gaps: 0, bad: 1, again: 0 }, 8),
            counted_from: "{\"t\":{\"0\":0}}".into(),
            static_tables: vec![FilesVersion { table: "symbols".into(), files: 2, bytes: 30, crc32: 7 }],
        };
        let text = prepared.to_text().unwrap();
        assert_eq!(Prepared::parse(&text).unwrap(), prepared);
        for cut in 0..text.len() {
            assert!(Prepared::parse(&text[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(Prepared::parse(&String::from_utf8_lossy(&bytes)).is_err(), "flipped {at}");
        }
    }
}
