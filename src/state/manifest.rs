//! Which files make up the state after a batch.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::file::StateFile;
use crate::{
    error::{Error, Result},
    event_time::PartitionTimes,
    store::{Created, Store},
};

/// The state after one batch. It is a file of its own, which `prepared/N` names: a Kafka transaction's marker has no
/// room for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub batch_id: u64,
    /// DataFusion's version: what a partial aggregate holds is its business.
    pub datafusion: String,
    /// Of the first source.
    pub partitions: PartitionTimes,
    /// When rows that change were written last, by the timestamp of the batch (`EMIT PERIODIC`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emitted_ms: Option<i64>,
    /// Of the others, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_partitions: Vec<PartitionTimes>,
    pub operators: Vec<OperatorManifest>,
    /// What ML_FORECAST has learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecaster: Option<StateRef>,
}

/// The state of one operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorManifest {
    /// What it computes, for messages.
    pub name: String,
    /// The types of its columns, in order.
    pub types: Vec<String>,
    /// Rows when all of them had been merged last, of state that nothing expires from.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub merged_rows: u64,
    pub files: Vec<StateFile>,
}

fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

/// A manifest's place, in `prepared/N`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateRef {
    /// Relative to the checkpoint.
    pub path: String,
    pub crc32: u32,
}

impl Manifest {
    /// Writes it under a name that has `owner` in it, so that no other instance's is touched.
    ///
    /// # Errors
    /// The store's.
    pub async fn write(&self, store: &Store, owner: &str) -> Result<StateRef> {
        let json = serde_json::to_vec(self)
            .map_err(|error| Error::internal("the state's manifest does not serialise").source_error(error))?;
        let (path, crc32) = (format!("state/{owner}.manifest"), crc32fast::hash(&json));
        match store.create(&path, Bytes::from(json)).await? {
            Created::New => Ok(StateRef { path, crc32 }),
            Created::Exists => Err(Error::internal(format!("the state's manifest {path} is there already"))),
        }
    }

    /// Reads the manifest that `place` names.
    ///
    /// # Errors
    /// The store's; `Corrupt` if it is missing, torn or flipped.
    pub async fn read(store: &Store, place: &StateRef) -> Result<Self> {
        let corrupt = |what: &str| {
            Error::corrupt(format!("{} cannot be trusted: {what}", store.path_url(&place.path)))
                .help("restore the checkpoint from a backup, or start anew with another path and checkpointLocation")
        };
        let json = store.read(&place.path).await?.ok_or_else(|| corrupt("the file is missing"))?;
        if crc32fast::hash(&json) != place.crc32 {
            return Err(corrupt("its checksum is wrong"));
        }
        serde_json::from_slice(&json).map_err(|error| corrupt(&error.to_string()))
    }

    /// How far each partition's events have come, for each source.
    pub fn sources(&self) -> Vec<PartitionTimes> {
        [&self.partitions].into_iter().chain(&self.more_partitions).cloned().collect()
    }

    /// All files that it needs, its own not among them.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        let files = self.operators.iter().flat_map(|operator| &operator.files).map(|file| file.path.as_str());
        files.chain(self.forecaster.iter().map(|place| place.path.as_str()))
    }
}
