//! A directory on HDFS, through `hdfs-native`'s client.
//!
//! A file appears by `rename2` without overwrite, which the NameNode does atomically. The client waits for an answer
//! for ever, so every call has a timeout here; after one the connection is thrown away, because it may be half open.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use hdfs_native::{
    Client, ClientBuilder, HdfsError, WriteOptions,
    client::FileStatus,
    file::{FileReader, FileWriter},
};

use super::{
    Entry, Published, Put, READ_BYTES_MAX, Reveal, StoreTimeouts,
    hdfs_error::{self, is_not_found},
    url::{self, Location},
};
use crate::{
    clock,
    error::{Error, ErrorKind, Result},
};

/// Bytes given to the DataNode's pipeline in one timed call. Behind it hdfs-native queues at most 200 packets of 64 KiB
/// for each open file.
const CHUNK_BYTES: usize = 1 << 20;

/// The port of `hdfs://host` without one, where no name service of that name is configured (Hadoop's default).
const DEFAULT_PORT: u16 = 8020;

#[derive(Clone)]
pub(super) struct Hdfs {
    connection: Arc<Connection>,
    root: String,
}

struct Connection {
    /// `hdfs://host:port`, for the messages.
    base: String,
    /// The same with a port, for the client.
    address: String,
    timeouts: StoreTimeouts,
    client: Mutex<Client>,
}

impl Hdfs {
    pub fn open(location: &Location, timeouts: StoreTimeouts) -> Result<Self> {
        let base = location.base.clone();
        let (address, client) = match client(&base) {
            // Not a name service that the configuration knows: then it is a host.
            Err(HdfsError::InvalidArgument(_)) if !has_port(location.authority()) => {
                let address = format!("{base}:{DEFAULT_PORT}");
                let client = client(&address);
                (address, client)
            }
            client => (base.clone(), client),
        };
        let client = client.map_err(|error| hdfs_error::explain("open", &base, &base, &error))?;
        let connection = Connection { base, address, timeouts, client: Mutex::new(client) };
        Ok(Self { connection: Arc::new(connection), root: location.root.clone() })
    }

    pub fn with_root(&self, root: &str) -> Self {
        Self { connection: Arc::clone(&self.connection), root: root.to_owned() }
    }

    pub fn client(&self) -> Client {
        self.connection.client()
    }

    /// The absolute path on HDFS.
    fn at(&self, path: &str) -> String {
        match (self.root.as_str(), path) {
            ("", "") => "/".to_owned(),
            (root, "") => root.to_owned(),
            (root, path) => format!("{root}/{path}"),
        }
    }

    fn error(&self, what: &str, path: &str, error: &HdfsError) -> Error {
        self.connection.error(what, path, error)
    }

    async fn call<T>(&self, work: impl Future<Output = hdfs_native::Result<T>>) -> hdfs_native::Result<T> {
        self.connection.call(work).await
    }

    pub async fn put(&self, path: &str, content: Bytes) -> Result<Put> {
        let target = self.at(path);
        let temp = self.at(&url::hidden_name(path, &url::create_owner()));
        let mut writer = self.create(temp.clone()).await?;
        let written = match writer.write(content).await {
            Ok(()) => writer.close().await,
            Err(error) => Err(error),
        };
        let renamed = match written {
            Ok(()) => self.call(self.client().rename(&temp, &target, false)).await,
            Err(error) => {
                self.clean_up(&temp).await;
                return Err(error);
            }
        };
        match renamed {
            Ok(()) => Ok(Put::New),
            Err(error) => {
                self.clean_up(&temp).await;
                match error {
                    HdfsError::AlreadyExists(_) => Ok(Put::Taken),
                    error => Err(self.error("create", &target, &error)),
                }
            }
        }
    }

    /// Deletes a temporary after an error that is more important than this one.
    async fn clean_up(&self, temp: &str) {
        if let Err(error) = self.call(self.client().delete(temp, false)).await {
            tracing::debug!("{}{temp} stays until it is swept: {error}", self.connection.base);
        }
    }

    async fn create(&self, path: String) -> Result<HdfsWriter> {
        // What has this name is a temporary of a dead owner, perhaps with its lease: both go.
        let options = WriteOptions::default().overwrite(true);
        match self.call(self.client().create(&path, options)).await {
            Ok(file) => Ok(HdfsWriter { connection: Arc::clone(&self.connection), path, file, written_bytes: 0 }),
            Err(error) => Err(self.error("create", &path, &error)),
        }
    }

    pub async fn stage(&self, hidden: &str) -> Result<HdfsWriter> {
        self.create(self.at(hidden)).await
    }

    async fn open_reader(&self, path: &str) -> Result<Option<FileReader>> {
        match self.call(self.client().read(path)).await {
            Ok(reader) => Ok(Some(reader)),
            // The NameNode says of a directory, too, that it is no file that it can find.
            Err(error) if is_not_found(&error) && error.to_string().contains("Path is not a file") => {
                Err(super::is_directory(&self.connection.url(path)))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(self.error("read", path, &error)),
        }
    }

    /// Gives the file's content, piece by piece.
    async fn each_piece(&self, path: &str, reader: &FileReader, mut take: impl FnMut(&[u8])) -> Result<()> {
        let mut stream = reader.read_range_stream(0, reader.file_length()).boxed();
        let mut read = 0;
        loop {
            let next = self.call(async { stream.next().await.transpose() }).await;
            match next.map_err(|error| self.error("read", path, &error))? {
                Some(piece) => {
                    read += piece.len();
                    take(&piece);
                }
                None if read == reader.file_length() => return Ok(()),
                None => {
                    let short = format!("{read} of {} bytes came", reader.file_length());
                    return Err(self.error("read", path, &HdfsError::DataTransferError(short)));
                }
            }
        }
    }

    pub async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let path = self.at(path);
        let Some(reader) = self.open_reader(&path).await? else { return Ok(None) };
        let size = reader.file_length();
        if size as u64 > READ_BYTES_MAX {
            return Err(super::too_large(&self.connection.url(&path), size as u64));
        }
        let mut content = BytesMut::with_capacity(size);
        self.each_piece(&path, &reader, |piece| content.extend_from_slice(piece)).await?;
        Ok(Some(content.freeze()))
    }

    pub async fn checksum(&self, path: &str) -> Result<u32> {
        let path = self.at(path);
        let reader = self.open_reader(&path).await?;
        let reader = reader.ok_or_else(|| super::vanished(&self.connection.url(&path)))?;
        let mut crc = crc32fast::Hasher::new();
        self.each_piece(&path, &reader, |piece| crc.update(piece)).await?;
        Ok(crc.finalize())
    }

    pub async fn list(&self, path: &str, recursive: bool) -> Result<Vec<Entry>> {
        let directory = self.at(path);
        let below = if self.root.is_empty() { "/".to_owned() } else { format!("{}/", self.root) };
        let listing = self.client().list_status_iter(&directory, recursive);
        let mut entries = Vec::new();
        loop {
            let next = self.call(async { listing.next().await.transpose() }).await;
            let status = match next {
                Ok(Some(status)) => status,
                Ok(None) => return Ok(entries),
                // The directory, or one below it, is not there (any more).
                Err(error) if is_not_found(&error) => continue,
                Err(error) => return Err(self.error("list", &directory, &error)),
            };
            if status.isdir {
                continue;
            }
            // The listing of a file is the file.
            let Some(path) = status.path.strip_prefix(&below).filter(|_| status.path != directory) else {
                return Err(Error::invalid(format!(
                    "{} is a file, and should be a directory",
                    self.connection.url(&directory)
                ))
                .help("choose another path, or move the file away"));
            };
            entries.push(Entry {
                path: path.to_owned(),
                size_bytes: status.length as u64,
                modified_ms: i64::try_from(status.modification_time).unwrap_or(i64::MAX),
            });
        }
    }

    pub async fn delete(&self, path: &str) -> Result<()> {
        let path = self.at(path);
        match self.call(self.client().delete(&path, false)).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(self.error("delete", &path, &error)),
        }
    }

    pub async fn published(&self, path: &str) -> Result<Option<Published>> {
        let path = self.at(path);
        match self.call(self.client().get_file_info(&path)).await {
            Ok(status) if status.isdir => Err(super::is_directory(&self.connection.url(&path))),
            Ok(status) => Ok(Some(published(&status))),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(self.error("look at", &path, &error)),
        }
    }

    pub async fn reveal(&self, hidden: &str, path: &str, size_bytes: u64) -> Result<Reveal> {
        // A rename changes neither size nor times, so this one look serves the sink log too.
        let Some(found) = self.published(hidden).await? else { return Ok(Reveal::Lost) };
        if found.size_bytes != size_bytes {
            return Ok(Reveal::Torn(found.size_bytes));
        }
        match self.call(self.client().rename(&self.at(hidden), &self.at(path), false)).await {
            Ok(()) => Ok(Reveal::Done(found)),
            Err(HdfsError::AlreadyExists(_)) => Ok(Reveal::Taken),
            // Another instance of this job was faster.
            Err(error) if is_not_found(&error) => Ok(Reveal::Lost),
            Err(error) => Err(self.error("publish", &self.at(path), &error)),
        }
    }
}

impl Connection {
    fn client(&self) -> Client {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn error(&self, what: &str, path: &str, error: &HdfsError) -> Error {
        hdfs_error::explain(what, &self.url(path), &self.address, error)
    }

    async fn call<T>(&self, work: impl Future<Output = hdfs_native::Result<T>>) -> hdfs_native::Result<T> {
        let limit = self.timeouts.call;
        if let Ok(result) = tokio::time::timeout(limit, work).await {
            return result;
        }
        match client(&self.address) {
            Ok(fresh) => *self.client.lock().unwrap_or_else(PoisonError::into_inner) = fresh,
            Err(error) => tracing::warn!("the client of {} stays as it is: {error}", self.base),
        }
        let text = format!("no answer within {limit:?}");
        Err(HdfsError::IOError(std::io::Error::new(std::io::ErrorKind::TimedOut, text)))
    }
}

/// When a close that is not done yet is looked at, and how seldom while bytes are still on their way.
const CLOSE_LOOK: Duration = Duration::from_millis(2);
const CLOSE_LOOK_MAX: Duration = Duration::from_millis(200);

/// Writes one file; not visible under its final name until it is renamed.
pub(super) struct HdfsWriter {
    connection: Arc<Connection>,
    path: String,
    file: FileWriter,
    written_bytes: usize,
}

impl HdfsWriter {
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            self.written_bytes += chunk.len();
            if let Err(error) = self.connection.call(self.file.write(chunk)).await {
                return Err(self.connection.error("write", &self.path, &error));
            }
        }
        Ok(())
    }

    /// Waits until the DataNodes and the NameNode have all of it.
    async fn close(mut self) -> Result<()> {
        let connection = Arc::clone(&self.connection);
        let closed = connection.call(self.close_soon()).await;
        closed.map_err(|error| {
            let error = self.connection.error("close", &self.path, &error);
            if error.kind() != ErrorKind::NotFound {
                return error;
            }
            // The instance that wins a batch sweeps the temporaries of the others.
            Error::new(ErrorKind::Conflict, format!("{}: it was deleted while it was written", error.message()))
                .help("another instance of the job runs: this one stops and the other goes on")
        })
    }

    /// Closes without the client's half-second pause.
    ///
    /// The NameNode refuses to complete a file until a DataNode has reported its last block, which mostly comes a
    /// millisecond too late; the client then sleeps 500 ms before it asks again. So a close that takes long is looked
    /// at: once the NameNode says that the file has all the bytes, the last block is committed and only that sleep is
    /// left. Then the close is dropped and called again, which asks again and sends nothing else. Before, it must not
    /// be dropped: it may still be sending.
    async fn close_soon(&mut self) -> hdfs_native::Result<()> {
        let (mut pause, mut committed) = (CLOSE_LOOK, false);
        loop {
            let mut close = std::pin::pin!(self.file.close());
            while !committed {
                let look = async {
                    clock::sleep(pause).await;
                    self.connection.client().get_file_info(&self.path).await
                };
                // Both are polled: a call that waits its turn for the connection and is not polled would block the other.
                tokio::select! {
                    closed = &mut close => return closed,
                    status = look => committed = status?.length == self.written_bytes,
                }
                pause = (pause * 2).min(CLOSE_LOOK_MAX);
            }
            tokio::select! {
                closed = &mut close => return closed.or_else(|error| closed_before(error, committed)),
                () = clock::sleep(CLOSE_LOOK) => {}
            }
        }
    }

    /// Closes the file and asks the NameNode for its size.
    pub async fn finish(self) -> Result<u64> {
        let (connection, path) = (Arc::clone(&self.connection), self.path.clone());
        self.close().await?;
        match connection.call(connection.client().get_file_info(&path)).await {
            Ok(status) => Ok(status.length as u64),
            Err(error) => Err(connection.error("close", &path, &error)),
        }
    }
}

/// An answer that was dropped on its way: the file is closed already, and has all its bytes.
fn closed_before(error: HdfsError, committed: bool) -> hdfs_native::Result<()> {
    match &error {
        HdfsError::RPCError(class, _) if committed && class.ends_with("LeaseExpiredException") => Ok(()),
        _ => Err(error),
    }
}

fn client(address: &str) -> hdfs_native::Result<Client> {
    ClientBuilder::new().with_url(address).build()
}

fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

fn published(status: &FileStatus) -> Published {
    Published {
        size_bytes: status.length as u64,
        modified_ms: i64::try_from(status.modification_time).unwrap_or(i64::MAX),
        block_replication: status.replication.unwrap_or(1),
        block_size_bytes: status.blocksize.unwrap_or_default(),
    }
}
