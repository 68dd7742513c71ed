//! One file of state: an Arrow IPC stream, LZ4-compressed.

use std::io::Cursor;

use arrow::{
    array::RecordBatch,
    datatypes::SchemaRef,
    ipc::{
        CompressionType,
        reader::StreamReader,
        writer::{IpcWriteOptions, StreamWriter},
    },
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    store::{Created, Store},
};

/// A file of state, as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateFile {
    /// Relative to the checkpoint.
    pub path: String,
    pub bytes: u64,
    pub crc32: u32,
    /// Rows of state.
    pub rows: u64,
    /// Input rows that they stand for.
    pub input_rows: u64,
    /// The start of the first row's window or pane.
    pub first_start_us: i64,
    /// The end of the last window that needs any of it, microseconds since the epoch.
    pub last_end_us: i64,
    /// Groups of it have changed since rows were written last (output mode update).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
}

/// Writes `batches` to `path`, which nobody has written.
///
/// # Errors
/// The store's; `Internal` if the name is taken.
pub async fn write(store: &Store, path: &str, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<(u64, u32)> {
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), schema, options)?;
    for batch in batches {
        writer.write(batch)?;
    }
    let content = Bytes::from(writer.into_inner()?);
    let (bytes, crc32) = (content.len() as u64, crc32fast::hash(&content));
    match store.create(path, content).await? {
        Created::New => Ok((bytes, crc32)),
        Created::Exists => Err(Error::internal(format!("the state file {path} is there already"))),
    }
}

/// Reads a file and checks that it is the one that was written, with columns of the types of `schema`.
///
/// # Errors
/// The store's; `Corrupt` if it is missing, torn or flipped, or of another schema.
pub async fn read(store: &Store, file: &StateFile, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let corrupt = |what: String| {
        Error::corrupt(format!("{} cannot be trusted: {what}", store.path_url(&file.path)))
            .help("restore the checkpoint from a backup, or start anew with another path and checkpointLocation")
    };
    let content = store.read(&file.path).await?.ok_or_else(|| corrupt("the file is missing".into()))?;
    if content.len() as u64 != file.bytes {
        return Err(corrupt(format!("it has {} bytes, the manifest says {}", content.len(), file.bytes)));
    }
    if crc32fast::hash(&content) != file.crc32 {
        return Err(corrupt("its checksum is wrong".into()));
    }
    let reader = StreamReader::try_new(Cursor::new(content), None).map_err(|error| corrupt(error.to_string()))?;
    let mut batches = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| corrupt(error.to_string()))?;
        // Names hold the text of expressions, which may be printed differently tomorrow; position and type count.
        let batch = RecordBatch::try_new(SchemaRef::clone(schema), batch.columns().to_vec());
        batches.push(batch.map_err(|error| corrupt(error.to_string()))?);
    }
    Ok(batches)
}
