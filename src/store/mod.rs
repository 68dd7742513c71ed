//! A directory on HDFS, S3 or a local disk, and the five things the commit protocol asks of it.
//!
//! | call | promise |
//! |---|---|
//! | `create` | the file is there whole or not at all; of several writers exactly one wins; a loser is told |
//! | `read` | the whole file, or `None` |
//! | `list` | the names below a directory; a missing directory is empty |
//! | `stage` | bytes go to a place that no reader takes for data; `finish` says they are durable |
//! | `publish` | a staged file appears under its final name, whole, never over another; doing it twice is doing it once |
//!
//! Every remote call has a timeout. A call that failed or timed out may have succeeded: `create` and `publish`
//! read back before they decide.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A directory. Cheap to clone. Paths given to its methods are relative to it, with `/`, and never leave it.
#[derive(Debug, Clone)]
pub struct Store {
    url: String,
}

/// Limits on what a store may take. `STORE_TIMEOUT` is for one remote call.
pub const STORE_TIMEOUT: Duration = Duration::from_secs(20);

/// What `create` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It was absent and now holds our bytes. Also when an earlier call of ours, thought lost, had written them.
    New,
    /// It is there with other bytes: another writer was first.
    Exists,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the store.
    pub path: String,
    pub size_bytes: u64,
    pub modified_ms: i64,
}

/// A file whose bytes are durable but which no reader sees. It is written down in `prepared/N`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Where it will appear, relative to the store.
    pub path: String,
    /// Where it is now: the hidden temporary's path, relative to the store, or an S3 upload.
    pub hidden: Hidden,
    pub size_bytes: u64,
    /// Of the whole content.
    pub crc32: u32,
}

/// Where a staged file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Hidden {
    File { path: String },
    Upload { id: String, parts: Vec<String> },
}

/// What the file system says of a published file; Spark's log wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub size_bytes: u64,
    pub modified_ms: i64,
    pub block_replication: u32,
    pub block_size_bytes: u64,
}

/// Writes one staged file. Dropped without `finish`, its bytes stay hidden until `sweep`.
#[derive(Debug)]
pub struct StagedWriter {}

impl Store {
    /// Opens the directory at `url`: `hdfs://host:port/path`, `s3://bucket/path`, `file:///path` or a local path.
    /// The directory need not exist. HDFS and S3 are not contacted yet.
    ///
    /// # Errors
    /// `Invalid` for a URL of another scheme, or one that does not parse.
    pub async fn open(url: &str) -> Result<Self> {
        Ok(Self { url: url.to_owned() })
    }

    /// The absolute URL, without a trailing slash (`file:///...` for a local directory).
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A directory below this one.
    ///
    /// # Errors
    /// `Invalid` if `path` would leave it.
    pub fn below(&self, path: &str) -> Result<Self> {
        Ok(Self { url: format!("{}/{path}", self.url) })
    }

    /// See the module's table.
    ///
    /// # Errors
    /// `Unavailable`, `PermissionDenied`, `StorageFull`; the message names the path and the store.
    pub async fn create(&self, _path: &str, _content: Bytes) -> Result<Created> {
        Err(Error::unsupported("stores"))
    }

    /// The whole file, `None` if there is none.
    ///
    /// # Errors
    /// As `create`.
    pub async fn read(&self, _path: &str) -> Result<Option<Bytes>> {
        Err(Error::unsupported("stores"))
    }

    /// The files directly in the directory `path` (`""`: the store's own), in order of name.
    ///
    /// # Errors
    /// As `create`.
    pub async fn list(&self, _path: &str) -> Result<Vec<Entry>> {
        Err(Error::unsupported("stores"))
    }

    /// The files in `path` and below, hidden ones included, in order of path.
    ///
    /// # Errors
    /// As `create`.
    pub async fn list_all(&self, _path: &str) -> Result<Vec<Entry>> {
        Err(Error::unsupported("stores"))
    }

    /// Deletes a file; one that is not there is fine.
    ///
    /// # Errors
    /// As `create`.
    pub async fn delete(&self, _path: &str) -> Result<()> {
        Err(Error::unsupported("stores"))
    }

    /// Starts a file that will appear at `path`. `owner` says whose temporary it is: it becomes part of the hidden
    /// name (`.<file>.<owner>.tmp` in the file's own directory), so that `sweep` finds it.
    ///
    /// # Errors
    /// As `create`.
    pub async fn stage(&self, _path: &str, _owner: &str) -> Result<StagedWriter> {
        Err(Error::unsupported("stores"))
    }

    /// Makes a staged file visible. A target that already is this file (same size and checksum) is done.
    ///
    /// # Errors
    /// `Conflict` if the target is another file; `Corrupt` if neither the staged file nor the target is there;
    /// else as `create`.
    pub async fn publish(&self, _staged: &Staged) -> Result<Published> {
        Err(Error::unsupported("stores"))
    }

    /// Deletes the temporaries whose owner `is_ours` says yes to, but for those in `keep`, and returns how many.
    /// On S3 it aborts uploads of such owners.
    ///
    /// # Errors
    /// As `create`.
    pub async fn sweep(&self, _is_ours: &(dyn Fn(&str) -> bool + Sync), _keep: &[Staged]) -> Result<usize> {
        Err(Error::unsupported("stores"))
    }
}

impl StagedWriter {
    /// Appends bytes. Waits while the store is slow: at most a few blocks are in memory.
    ///
    /// # Errors
    /// As `Store::create`.
    pub async fn write(&mut self, _bytes: Bytes) -> Result<()> {
        Err(Error::unsupported("stores"))
    }

    /// Closes the file and checks that it has the size that was written.
    ///
    /// # Errors
    /// As `Store::create`.
    pub async fn finish(self) -> Result<Staged> {
        Err(Error::unsupported("stores"))
    }
}
