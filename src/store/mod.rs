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
//! read back before they decide. What fails because a service is away is tried again (`retry.rs`).
//!
//! How a file appears: locally a hard link, on HDFS a rename without overwrite (`rename2`), on S3 the completion of a
//! multipart upload with `If-None-Match: *`. S3 cannot say who started an upload, so `sweep` there aborts only those
//! that this process began; what a killed process left is for the bucket's lifecycle rule
//! `AbortIncompleteMultipartUpload`. No reader ever sees such an upload, it only costs space.

mod hdfs;
mod hdfs_error;
mod local;
mod object;
mod retry;
mod s3;
mod url;
mod writer;

use std::{fmt, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::retry::{BACKOFF_FIRST, StoreTimeouts, TRIES_MAX};
pub use self::writer::StagedWriter;
use self::{
    hdfs::Hdfs,
    local::Local,
    retry::retrying,
    s3::S3,
    url::{Kind, Location},
    writer::Target,
};
use crate::{
    clock,
    error::{Error, ErrorKind, Result},
};

/// A directory. Cheap to clone. Paths given to its methods are relative to it, with `/`, and never leave it.
#[derive(Clone)]
pub struct Store {
    location: Location,
    url: String,
    backend: Backend,
    timeouts: StoreTimeouts,
}

#[derive(Clone)]
enum Backend {
    Local(Local),
    Hdfs(Hdfs),
    S3(S3),
}

/// Limits on what a store may take. `STORE_TIMEOUT` is for one remote call.
pub const STORE_TIMEOUT: Duration = Duration::from_secs(20);

/// The largest file that `read` takes into memory. It is for bookkeeping; data is read through `object_store`.
pub const READ_BYTES_MAX: u64 = 1 << 30;

/// A `create` takes at most a few timeouts: a temporary of one that is this old belongs to a dead process.
const CREATE_ORPHAN_AGE_MS: i64 = 24 * 60 * 60 * 1000;

/// How to open a store, where the defaults will not do.
#[derive(Clone, Default)]
pub struct StoreOptions {
    pub timeouts: StoreTimeouts,
    /// Settings of the S3 client, over those of the environment and by the same names (`AWS_ENDPOINT_URL`).
    pub aws: Vec<(String, String)>,
}

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

/// What a backend found when it put a whole file.
enum Put {
    New,
    /// The name is taken; nothing was changed.
    Taken,
}

/// What a backend found when it gave a staged file its final name.
enum Reveal {
    Done(Published),
    /// The name is taken; nothing was changed.
    Taken,
    /// The staged bytes are not there.
    Lost,
    /// The staged file has this size, which is not the one that was written.
    Torn(u64),
}

impl Store {
    /// Opens the directory at `url`: `hdfs://host:port/path`, `s3://bucket/path`, `file:///path` or a local path,
    /// which may be relative to the current directory. Nothing in it is percent-decoded. The directory need not exist.
    /// HDFS and S3 are not contacted yet. HDFS is configured by `HADOOP_CONF_DIR`, S3 by the usual `AWS_*` variables.
    ///
    /// # Errors
    /// `Invalid` for a URL of another scheme, or one that does not parse.
    pub async fn open(url: &str) -> Result<Self> {
        Self::open_with(url, &StoreOptions::default()).await
    }

    /// As `open`, with limits and S3 settings of one's own.
    ///
    /// # Errors
    /// As `open`.
    pub async fn open_with(url: &str, options: &StoreOptions) -> Result<Self> {
        let timeouts = options.timeouts;
        let location = Location::parse(url)?;
        let backend = match location.kind {
            Kind::Local => Backend::Local(Local::new(&location.root)),
            Kind::Hdfs => Backend::Hdfs(Hdfs::open(&location, timeouts)?),
            Kind::S3 => Backend::S3(S3::open(&location, options)?),
        };
        Ok(Self { url: location.url(), location, backend, timeouts })
    }

    /// The absolute URL, without a trailing slash (`file:///...` for a local directory).
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The absolute URL of something below, raw: Spark's percent-encoding is the sink log's business.
    pub fn path_url(&self, path: &str) -> String {
        self.location.child_url(path)
    }

    /// A directory below this one.
    ///
    /// # Errors
    /// `Invalid` if `path` would leave it.
    pub fn below(&self, path: &str) -> Result<Self> {
        url::check_directory(path)?;
        let location = self.location.below(path);
        let backend = match &self.backend {
            Backend::Local(_) => Backend::Local(Local::new(&location.root)),
            Backend::Hdfs(hdfs) => Backend::Hdfs(hdfs.with_root(&location.root)),
            Backend::S3(s3) => Backend::S3(s3.with_root(&location.root)),
        };
        Ok(Self { url: location.url(), location, backend, timeouts: self.timeouts })
    }

    /// See the module's table. Parent directories are made.
    ///
    /// # Errors
    /// `Unavailable`, `PermissionDenied`, `StorageFull`; the message names the path and the store.
    pub async fn create(&self, path: &str, content: Bytes) -> Result<Created> {
        url::check_file(path)?;
        retrying(self.timeouts, || self.create_once(path, content.clone())).await
    }

    async fn create_once(&self, path: &str, content: Bytes) -> Result<Created> {
        let put = match &self.backend {
            Backend::Local(local) => local.put(path, content.clone()).await,
            Backend::Hdfs(hdfs) => hdfs.put(path, content.clone()).await,
            Backend::S3(s3) => s3.put(path, content.clone()).await,
        };
        settle(put, &content, self.read_once(path), || vanished(&self.path_url(path))).await
    }

    /// The whole file, `None` if there is none.
    ///
    /// # Errors
    /// As `create`; `Unsupported` beyond `READ_BYTES_MAX`.
    pub async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        url::check_file(path)?;
        retrying(self.timeouts, || self.read_once(path)).await
    }

    async fn read_once(&self, path: &str) -> Result<Option<Bytes>> {
        match &self.backend {
            Backend::Local(local) => local.read(path).await,
            Backend::Hdfs(hdfs) => hdfs.read(path).await,
            Backend::S3(s3) => s3.read(path).await,
        }
    }

    /// Size and time of a file, `None` if there is none.
    ///
    /// # Errors
    /// As `create`.
    pub async fn stat(&self, path: &str) -> Result<Option<Entry>> {
        url::check_file(path)?;
        let found = retrying(self.timeouts, || self.published(path)).await?;
        Ok(found.map(|p| Entry { path: path.to_owned(), size_bytes: p.size_bytes, modified_ms: p.modified_ms }))
    }

    async fn published(&self, path: &str) -> Result<Option<Published>> {
        match &self.backend {
            Backend::Local(local) => local.published(path).await,
            Backend::Hdfs(hdfs) => hdfs.published(path).await,
            Backend::S3(s3) => s3.published(path).await,
        }
    }

    /// The files directly in the directory `path` (`""`: the store's own), in order of name. Hidden ones are included.
    ///
    /// # Errors
    /// As `create`.
    pub async fn list(&self, path: &str) -> Result<Vec<Entry>> {
        self.listing(path, false).await
    }

    /// The files in `path` and below, hidden ones included, in order of path.
    ///
    /// # Errors
    /// As `create`.
    pub async fn list_all(&self, path: &str) -> Result<Vec<Entry>> {
        self.listing(path, true).await
    }

    async fn listing(&self, path: &str, recursive: bool) -> Result<Vec<Entry>> {
        url::check_directory(path)?;
        let mut entries = retrying(self.timeouts, || async {
            match &self.backend {
                Backend::Local(local) => local.list(path, recursive).await,
                Backend::Hdfs(hdfs) => hdfs.list(path, recursive).await,
                Backend::S3(s3) => s3.list(path, recursive).await,
            }
        })
        .await?;
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// Deletes a file; one that is not there is fine.
    ///
    /// # Errors
    /// As `create`.
    pub async fn delete(&self, path: &str) -> Result<()> {
        url::check_file(path)?;
        retrying(self.timeouts, || async {
            match &self.backend {
                Backend::Local(local) => local.delete(path).await,
                Backend::Hdfs(hdfs) => hdfs.delete(path).await,
                Backend::S3(s3) => s3.delete(path).await,
            }
        })
        .await
    }

    /// Starts a file that will appear at `path`. `owner` says whose temporary it is: it becomes part of the hidden
    /// name (`.<file>.<owner>.tmp` in the file's own directory), so that `sweep` finds it. What the same owner had
    /// staged for the same path is replaced. Parent directories are made.
    ///
    /// # Errors
    /// As `create`; `Invalid` if `owner` holds anything but ASCII letters, digits, `-` and `_`.
    pub async fn stage(&self, path: &str, owner: &str) -> Result<StagedWriter> {
        url::check_file(path)?;
        url::check_owner(owner)?;
        let hidden = url::hidden_name(path, owner);
        let target = retrying(self.timeouts, || async {
            Ok(match &self.backend {
                Backend::Local(local) => Target::Local(hidden.clone(), local.stage(&hidden).await?),
                Backend::Hdfs(hdfs) => Target::Hdfs(hidden.clone(), Box::new(hdfs.stage(&hidden).await?)),
                Backend::S3(s3) => Target::S3(s3.stage(path, owner).await?),
            })
        })
        .await?;
        Ok(StagedWriter::new(self.clone(), path, target))
    }

    /// Makes a staged file visible. A target that already is this file (same size and checksum) is done.
    ///
    /// # Errors
    /// `Conflict` if the target is another file; `Corrupt` if neither the staged file nor the target is there;
    /// else as `create`.
    pub async fn publish(&self, staged: &Staged) -> Result<Published> {
        url::check_file(&staged.path)?;
        if let Hidden::File { path } = &staged.hidden {
            url::check_file(path)?;
        }
        retrying(self.timeouts, || self.publish_once(staged)).await
    }

    async fn publish_once(&self, staged: &Staged) -> Result<Published> {
        let (path, size) = (staged.path.as_str(), staged.size_bytes);
        let revealed = match (&self.backend, &staged.hidden) {
            (Backend::Local(local), Hidden::File { path: hidden }) => local.reveal(hidden, path, size).await,
            (Backend::Hdfs(hdfs), Hidden::File { path: hidden }) => hdfs.reveal(hidden, path, size).await,
            (Backend::S3(s3), Hidden::Upload { id, parts }) => s3.reveal(path, id, parts).await,
            _ => {
                return Err(Error::corrupt(format!("{path} was staged on another kind of store than {}", self.url)));
            }
        };
        if let Ok(Reveal::Done(published)) = revealed {
            return Ok(published);
        }
        // Whatever happened, what counts is what is there now.
        let url = self.path_url(path);
        if let Some(found) = self.published(path).await? {
            let same = found.size_bytes == size && self.checksum(path).await? == staged.crc32;
            if !same {
                return Err(Error::new(ErrorKind::Conflict, format!("{url} is there already, and is another file"))
                    .help("another job writes to this directory, or its checkpoint was lost: give each job its own"));
            }
            if let Err(error) = self.discard(staged).await {
                tracing::warn!("{url} is published, but its temporary stays until the next sweep: {error}");
            }
            return Ok(found);
        }
        match revealed {
            Err(error) => Err(error),
            Ok(Reveal::Torn(found)) => {
                Err(Error::corrupt(format!("the staged file of {url} has {found} bytes, and {size} were written"))
                    .help("something changed the hidden .tmp file; the rows are still in Kafka"))
            }
            Ok(Reveal::Lost) => {
                Err(Error::corrupt(format!("{url} was staged, but neither it nor its temporary is there"))
                    .help("something deleted the hidden .tmp file or aborted the upload; the rows are still in Kafka"))
            }
            Ok(_) => Err(vanished(&url)),
        }
    }

    async fn checksum(&self, path: &str) -> Result<u32> {
        match &self.backend {
            Backend::Local(local) => local.checksum(path).await,
            Backend::Hdfs(hdfs) => hdfs.checksum(path).await,
            Backend::S3(s3) => s3.checksum(path).await,
        }
    }

    /// Deletes a staged file that will not be published; one that is gone is fine.
    ///
    /// # Errors
    /// As `create`.
    pub async fn discard(&self, staged: &Staged) -> Result<()> {
        match (&staged.hidden, &self.backend) {
            (Hidden::File { path }, _) => self.delete(path).await,
            (Hidden::Upload { id, .. }, Backend::S3(s3)) => {
                retrying(self.timeouts, || s3.abort(&staged.path, id)).await
            }
            (Hidden::Upload { .. }, _) => Ok(()),
        }
    }

    /// Deletes the temporaries whose owner `is_ours` says yes to, but for those in `keep`, and returns how many.
    /// On S3 it aborts uploads of such owners, as far as this process began them. Temporaries that a `create` left a
    /// day ago go too.
    ///
    /// # Errors
    /// As `create`.
    pub async fn sweep(&self, is_ours: &(dyn Fn(&str) -> bool + Sync), keep: &[Staged]) -> Result<usize> {
        if let Backend::S3(s3) = &self.backend {
            return s3.sweep(is_ours, keep).await;
        }
        let kept = |path: &str| keep.iter().any(|s| matches!(&s.hidden, Hidden::File { path: p } if p == path));
        let orphans_before_ms = clock::now_ms() - CREATE_ORPHAN_AGE_MS;
        let mut swept = 0;
        for entry in self.list_all("").await? {
            let Some(owner) = url::owner_of(&entry.path) else { continue };
            let is_orphan = url::is_create_owner(owner) && entry.modified_ms < orphans_before_ms;
            if (is_orphan || is_ours(owner)) && !kept(&entry.path) {
                self.delete(&entry.path).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

impl fmt::Debug for StoreOptions {
    /// Names only: the values may be keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.aws.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("StoreOptions").field("timeouts", &self.timeouts).field("aws", &names).finish()
    }
}

impl fmt::Debug for Store {
    /// The URL alone: the clients behind it hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.url).finish()
    }
}

/// What a `put` came to. After an error it may be done all the same: its answer was lost, or the client asked a second
/// NameNode, which found the temporary renamed already ("not found"). What counts is what is there now.
async fn settle(
    put: Result<Put>,
    content: &Bytes,
    read: impl Future<Output = Result<Option<Bytes>>>,
    vanished: impl FnOnce() -> Error,
) -> Result<Created> {
    use ErrorKind as K;
    match put {
        Ok(Put::New) => return Ok(Created::New),
        // The service refused: nothing was written.
        Err(error) if matches!(error.kind(), K::PermissionDenied | K::StorageFull | K::Invalid | K::Unsupported) => {
            return Err(error);
        }
        _ => {}
    }
    match (read.await?, put) {
        (Some(found), _) if found == *content => Ok(Created::New),
        (Some(_), _) => Ok(Created::Exists),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(vanished()),
    }
}

fn vanished(url: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{url} was there a moment ago and is gone"))
        .help("something else writes to or deletes from this directory")
}

fn is_directory(url: &str) -> Error {
    Error::invalid(format!("{url} is a directory, and should be a file")).help("choose another path, or move it away")
}

fn after_failure(url: &str) -> Error {
    Error::internal(format!("an earlier write to {url} failed, so it cannot go on"))
}

fn too_large(url: &str, size_bytes: u64) -> Error {
    Error::unsupported(format!("{url} has {size_bytes} bytes; at most {READ_BYTES_MAX} are read at once"))
        .help("this should be a small file of bookkeeping: is it the right path?")
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
