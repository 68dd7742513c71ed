//! Counts the rows of a stored file, streaming.

use std::{
    io::{BufReader, Read},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use futures::{FutureExt, TryFutureExt, TryStreamExt, future::BoxFuture};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::{arrow::async_reader::MetadataFetch, errors::ParquetError, file::metadata::ParquetMetaDataReader};

use crate::{
    catalog::{CsvOptions, FileFormat},
    error::{Error, Result},
    store::Store,
};

/// Bytes of a text file in memory at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The rows of the file at `path`.
///
/// # Errors
/// The store's; `Corrupt` for a file that is not of its format, naming it.
pub async fn rows(store: &Store, path: &str, size_bytes: u64, format: &FileFormat) -> Result<u64> {
    let torn = |error: String| Error::corrupt(format!("{}/{path} cannot be counted: {error}", store.url()));
    if *format == FileFormat::Parquet {
        let location = store.object_path(path)?;
        let ranges = Ranges { store: store.object_store(), location };
        let metadata = ParquetMetaDataReader::new().load_and_finish(ranges, size_bytes).await;
        let metadata = metadata.map_err(|error| torn(error.to_string()))?;
        return u64::try_from(metadata.file_metadata().num_rows()).map_err(|error| torn(error.to_string()));
    }
    let location: Path = store.object_path(path)?;
    let object = store.object_store().get(&location).await.map_err(|error| torn(error.to_string()))?;
    // The reader below is synchronous (decompression), the store is not: a bridge on a thread of its own.
    let stream = tokio_util::io::StreamReader::new(object.into_stream().map_err(std::io::Error::other));
    let bridge = tokio_util::io::SyncIoBridge::new(stream);
    let (format, path) = (format.clone(), path.to_owned());
    let counted = tokio::task::spawn_blocking(move || count_text(bridge, &path, &format)).await;
    let counted = counted.map_err(|error| Error::internal("the counting thread died").source_error(error))?;
    counted.map_err(|error| torn(error.to_string()))
}

/// Reads a Parquet file's footer and nothing else of it.
struct Ranges {
    store: Arc<dyn ObjectStore>,
    location: Path,
}

impl MetadataFetch for Ranges {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        let read = async move { self.store.get_range(&self.location, range).await };
        read.map_err(|error| ParquetError::External(Box::new(error))).boxed()
    }
}

fn count_text(bytes: impl Read, path: &str, format: &FileFormat) -> std::io::Result<u64> {
    let extension = path.rsplit('.').next().unwrap_or_default();
    let plain: Box<dyn Read> = match extension {
        "gz" => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        "zst" => Box::new(zstd::stream::read::Decoder::new(bytes)?),
        _ => Box::new(bytes),
    };
    let mut reader = BufReader::with_capacity(CHUNK_BYTES, plain);
    match format {
        FileFormat::Csv(options) => count_csv(&mut reader, options),
        _ => count_lines(&mut reader),
    }
}

fn count_lines(reader: &mut impl Read) -> std::io::Result<u64> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut lines = 0;
    loop {
        let read = reader.read(&mut chunk)?;
        if read == 0 {
            return Ok(lines);
        }
        lines += memchr::memchr_iter(b'\n', &chunk[..read]).count() as u64;
    }
}

/// A line feed inside quotes does not end a record.
fn count_csv(reader: &mut impl Read, options: &CsvOptions) -> std::io::Result<u64> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut records, mut quoted, mut escaped) = (0, false, false);
    loop {
        let read = reader.read(&mut chunk)?;
        if read == 0 {
            return Ok(if options.header && records > 0 { records - 1 } else { records });
        }
        for &byte in &chunk[..read] {
            if escaped {
                escaped = false;
            } else if quoted && byte == options.escape && options.escape != options.quote {
                escaped = true;
            } else if byte == options.quote {
                // A doubled quote closes and opens again: the state after it is the same.
                quoted = !quoted;
            } else if byte == b'\n' && !quoted {
                records += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_records_not_lines() {
        let csv = |header| FileFormat::Csv(CsvOptions { header, ..CsvOptions::default() });
        let count = |text: &str, header| count_text(text.as_bytes(), "a.csv", &csv(header)).unwrap();
        assert_eq!(count("a,b\nc,d\n", false), 2);
        assert_eq!(count("a,b\nc,d\n", true), 1);
        assert_eq!(count("\"a\nb\",c\n\"x\\\"\ny\",d\n", false), 2);
        assert_eq!(count("", true), 0);
        assert_eq!(count_text(&b"{}\n{}\n"[..], "a.json", &FileFormat::Json { timestamp_format: None }).unwrap(), 2);
    }
}
