//! One staged file while it is being written: counts, checksums, and hands the bytes to its backend.

use std::fmt;

use bytes::Bytes;

use super::{Hidden, Staged, Store, after_failure, hdfs::HdfsWriter, local::LocalWriter, s3::S3Writer};
use crate::error::{Error, Result};

/// Writes one staged file. Dropped without `finish`, its bytes stay hidden until `sweep`.
pub struct StagedWriter {
    store: Store,
    path: String,
    size_bytes: u64,
    crc: crc32fast::Hasher,
    target: Target,
    /// Set while a write is under way, so that one that failed or was cancelled leaves it set.
    broken: bool,
}

/// Where the bytes go. A file comes with its hidden path, relative to the store.
pub(super) enum Target {
    Local(String, LocalWriter),
    Hdfs(String, Box<HdfsWriter>),
    S3(S3Writer),
}

impl StagedWriter {
    pub(super) fn new(store: Store, path: &str, target: Target) -> Self {
        Self { store, path: path.to_owned(), size_bytes: 0, crc: crc32fast::Hasher::new(), target, broken: false }
    }

    /// Where the file will appear, relative to the store.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Bytes given to `write` so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Appends bytes. Waits while the store is slow: at most a few blocks are in memory.
    ///
    /// # Errors
    /// As `Store::create`. After an error, or when the future was dropped, the file cannot be finished.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if self.broken {
            return Err(after_failure(&self.store.path_url(&self.path)));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.broken = true;
        self.crc.update(&bytes);
        self.size_bytes += bytes.len() as u64;
        match &mut self.target {
            Target::Local(_, writer) => writer.write(bytes).await?,
            Target::Hdfs(_, writer) => writer.write(bytes).await?,
            Target::S3(writer) => writer.write(bytes).await?,
        }
        self.broken = false;
        Ok(())
    }

    /// Closes the file and checks that it has the size that was written.
    ///
    /// # Errors
    /// As `Store::create`.
    pub async fn finish(self) -> Result<Staged> {
        let Self { store, path, size_bytes, crc, target, broken } = self;
        let url = store.path_url(&path);
        if broken {
            return Err(after_failure(&url));
        }
        let (hidden, found) = match target {
            Target::Local(hidden, mut writer) => (Hidden::File { path: hidden }, writer.finish().await?),
            Target::Hdfs(hidden, writer) => (Hidden::File { path: hidden }, writer.finish().await?),
            // S3 checks a part against its signed hash, so there is nothing more to ask.
            Target::S3(writer) => (writer.finish().await?, size_bytes),
        };
        if found != size_bytes {
            return Err(Error::corrupt(format!(
                "the staged file of {url} has {found} bytes, and {size_bytes} were written"
            )));
        }
        Ok(Staged { path, hidden, size_bytes, crc32: crc.finalize() })
    }

    /// Deletes what was written. Dropping the writer leaves that to `sweep`.
    ///
    /// # Errors
    /// As `Store::create`.
    pub async fn abandon(self) -> Result<()> {
        match self.target {
            Target::Local(hidden, writer) => {
                drop(writer);
                self.store.delete(&hidden).await
            }
            Target::Hdfs(hidden, writer) => {
                drop(writer);
                self.store.delete(&hidden).await
            }
            Target::S3(writer) => writer.abandon().await,
        }
    }
}

impl fmt::Debug for StagedWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagedWriter").field("store", &self.store).field("path", &self.path).finish_non_exhaustive()
    }
}
