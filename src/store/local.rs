//! A directory on a local disk, or anything mounted as one.
//!
//! A file appears by `link`, which is atomic and fails when the name is taken (`rename` would overwrite). Contents are
//! synced before the link and the directory after it, so what was reported done survives a power cut.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind as Io, Read, Write},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use bytes::Bytes;

use super::{Entry, Published, Put, READ_BYTES_MAX, Reveal, url};
use crate::error::{Error, ErrorKind, Result};

/// Bytes gathered before they are handed to a blocking thread.
const CHUNK_BYTES: usize = 1 << 20;

/// What Spark's log says of a local file (Hadoop's local file system: one copy, 32 MiB blocks).
const BLOCK_SIZE_BYTES: u64 = 32 << 20;

#[derive(Debug, Clone)]
pub(super) struct Local {
    root: PathBuf,
}

impl Local {
    pub fn new(root: &str) -> Self {
        Self { root: PathBuf::from(if root.is_empty() { "/" } else { root }) }
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    pub async fn put(&self, path: &str, content: Bytes) -> Result<Put> {
        let target = self.at(path);
        let temp = self.at(&url::hidden_name(path, &url::create_owner()));
        blocking(move || {
            let mut file = create_file(&temp)?;
            let written = file.write_all(&content).and_then(|()| file.sync_all());
            let linked = match written {
                Ok(()) => link(&temp, &target),
                Err(error) => Err(failed("write", &temp, &error)),
            };
            remove(&temp)?;
            if linked? { Ok(Put::Taken) } else { sync_parent(&target).map(|()| Put::New) }
        })
        .await
    }

    pub async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let path = self.at(path);
        blocking(move || {
            let Some(mut file) = open(&path)? else { return Ok(None) };
            let size = file.metadata().map_err(|error| failed("read", &path, &error))?.len();
            if size > READ_BYTES_MAX {
                return Err(super::too_large(&path.display().to_string(), size));
            }
            let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
            file.read_to_end(&mut content).map_err(|error| failed("read", &path, &error))?;
            Ok(Some(content.into()))
        })
        .await
    }

    pub async fn list(&self, path: &str, recursive: bool) -> Result<Vec<Entry>> {
        let (directory, prefix) = (self.at(path), path.to_owned());
        blocking(move || {
            let mut entries = Vec::new();
            // Directories still to look at. No recursion: the depth of a user's directory is not ours to trust.
            let mut waiting = vec![(directory, prefix)];
            while let Some((directory, prefix)) = waiting.pop() {
                list_one(&directory, &prefix, &mut entries, if recursive { Some(&mut waiting) } else { None })?;
            }
            Ok(entries)
        })
        .await
    }

    pub async fn delete(&self, path: &str) -> Result<()> {
        let path = self.at(path);
        blocking(move || remove(&path)).await
    }

    pub async fn published(&self, path: &str) -> Result<Option<Published>> {
        let path = self.at(path);
        blocking(move || published(&path)).await
    }

    pub async fn checksum(&self, path: &str) -> Result<u32> {
        let path = self.at(path);
        blocking(move || {
            let mut file = open(&path)?.ok_or_else(|| super::vanished(&path.display().to_string()))?;
            let (mut crc, mut buffer) = (crc32fast::Hasher::new(), vec![0; CHUNK_BYTES]);
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => return Ok(crc.finalize()),
                    Ok(count) => crc.update(&buffer[..count]),
                    Err(error) if error.kind() == Io::Interrupted => {}
                    Err(error) => return Err(failed("read", &path, &error)),
                }
            }
        })
        .await
    }

    pub async fn stage(&self, hidden: &str) -> Result<LocalWriter> {
        let path = self.at(hidden);
        blocking(move || {
            // Removed and not truncated: after a crash between link and unlink this inode is a published file too.
            remove(&path)?;
            let file = create_file(&path)?;
            Ok(LocalWriter { path, file: Some(file), buffer: Vec::new() })
        })
        .await
    }

    pub async fn reveal(&self, hidden: &str, path: &str, size_bytes: u64) -> Result<Reveal> {
        let (hidden, target) = (self.at(hidden), self.at(path));
        blocking(move || {
            let Some(found) = published(&hidden)? else { return Ok(Reveal::Lost) };
            if found.size_bytes != size_bytes {
                return Ok(Reveal::Torn(found.size_bytes));
            }
            if link(&hidden, &target)? {
                return Ok(Reveal::Taken);
            }
            remove(&hidden)?;
            sync_parent(&target)?;
            Ok(Reveal::Done(found))
        })
        .await
    }
}

/// Writes one hidden file. Bytes cross to the blocking pool in chunks.
#[derive(Debug)]
pub(super) struct LocalWriter {
    path: PathBuf,
    /// Absent while a chunk is on its way, and after a failure.
    file: Option<File>,
    buffer: Vec<u8>,
}

impl LocalWriter {
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if self.buffer.len() + bytes.len() <= CHUNK_BYTES {
            self.buffer.extend_from_slice(&bytes);
            return Ok(());
        }
        self.flush(bytes, false).await
    }

    /// Makes the bytes durable, the name included, and returns the file's size.
    pub async fn finish(&mut self) -> Result<u64> {
        self.flush(Bytes::new(), true).await?;
        let path = self.path.clone();
        blocking(move || {
            sync_parent(&path)?;
            Ok(fs::metadata(&path).map_err(|error| failed("close", &path, &error))?.len())
        })
        .await
    }

    async fn flush(&mut self, bytes: Bytes, sync: bool) -> Result<()> {
        let Some(mut file) = self.file.take() else {
            return Err(super::after_failure(&self.path.display().to_string()));
        };
        let (path, mut buffer) = (self.path.clone(), std::mem::take(&mut self.buffer));
        let (file, buffer) = blocking(move || {
            let mut written = file.write_all(&buffer).and_then(|()| file.write_all(&bytes));
            if sync {
                written = written.and_then(|()| file.sync_all());
            }
            written.map_err(|error| failed("write", &path, &error))?;
            buffer.clear();
            Ok((file, buffer))
        })
        .await?;
        (self.file, self.buffer) = (Some(file), buffer);
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(format!("a thread that does file I/O died: {error}"))),
    }
}

fn open(path: &Path) -> Result<Option<File>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == Io::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path, &error)),
    };
    // Opening a directory succeeds; only reading it would fail.
    let metadata = file.metadata().map_err(|error| failed("open", path, &error))?;
    if metadata.is_dir() { Err(super::is_directory(&path.display().to_string())) } else { Ok(Some(file)) }
}

/// Creates a file that is not there, and the directories above it.
fn create_file(path: &Path) -> Result<File> {
    let create = || OpenOptions::new().write(true).create_new(true).open(path);
    let created = match (create(), path.parent()) {
        (Err(error), Some(parent)) if error.kind() == Io::NotFound => {
            make_directory(parent)?;
            create()
        }
        (created, _) => created,
    };
    created.map_err(|error| failed("create", path, &error))
}

/// Creates a directory and those above it, and syncs the parent of each new one.
fn make_directory(path: &Path) -> Result<()> {
    match (fs::create_dir(path), path.parent()) {
        (Ok(()), _) => sync_parent(path),
        (Err(error), _) if error.kind() == Io::AlreadyExists && path.is_dir() => Ok(()),
        (Err(error), Some(parent)) if error.kind() == Io::NotFound => {
            make_directory(parent)?;
            make_directory(path)
        }
        (Err(error), _) if error.kind() == Io::AlreadyExists => Err(not_a_directory(path)),
        (Err(error), _) => Err(failed("create the directory", path, &error)),
    }
}

/// Gives the file a second name. `true`: the name is taken.
fn link(from: &Path, to: &Path) -> Result<bool> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == Io::AlreadyExists => Ok(true),
        Err(error) if error.kind() == Io::Unsupported => {
            Err(Error::unsupported(format!("the file system of {} has no hard links", to.display()))
                .help("Tidemill publishes by linking; use a directory on ext4, xfs, btrfs, apfs, tmpfs or NFS"))
        }
        Err(error) => Err(failed("publish", to, &error)),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != Io::NotFound => Err(failed("delete", path, &error)),
        _ => Ok(()),
    }
}

/// A new name is durable once its directory is synced.
fn sync_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(|error| failed("sync", parent, &error))
}

fn published(path: &Path) -> Result<Option<Published>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(super::is_directory(&path.display().to_string())),
        Ok(metadata) => Ok(Some(Published {
            size_bytes: metadata.len(),
            modified_ms: modified_ms(&metadata),
            block_replication: 1,
            block_size_bytes: BLOCK_SIZE_BYTES,
        })),
        Err(error) if error.kind() == Io::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path, &error)),
    }
}

fn modified_ms(metadata: &fs::Metadata) -> i64 {
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Adds the files of one directory; its directories go to `waiting`, if there is such a list.
fn list_one(
    directory: &Path,
    prefix: &str,
    entries: &mut Vec<Entry>,
    mut waiting: Option<&mut Vec<(PathBuf, String)>>,
) -> Result<()> {
    let names = match fs::read_dir(directory) {
        Ok(names) => names,
        Err(error) if error.kind() == Io::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", directory, &error)),
    };
    for name in names {
        let name = name.map_err(|error| failed("list", directory, &error))?;
        let text = name.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { text } else { format!("{prefix}/{text}") };
        let kind = name.file_type().map_err(|error| failed("list", &name.path(), &error))?;
        if kind.is_dir() {
            if let Some(waiting) = &mut waiting {
                waiting.push((name.path(), path));
            }
            continue;
        }
        // Follows a link to a file. A link to a directory is skipped: it may lead back up.
        match fs::metadata(name.path()) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) => {
                entries.push(Entry { path, size_bytes: metadata.len(), modified_ms: modified_ms(&metadata) });
            }
            // It was deleted after the directory was read.
            Err(error) if error.kind() == Io::NotFound => {}
            Err(error) => return Err(failed("list", &name.path(), &error)),
        }
    }
    Ok(())
}

fn not_a_directory(path: &Path) -> Error {
    let file = path.ancestors().find(|ancestor| ancestor.is_file()).unwrap_or(path);
    Error::invalid(format!("{} is a file, and {} needs it to be a directory", file.display(), path.display()))
        .help("choose another path, or move the file away")
}

/// Names the path, and says in the error's kind what a caller may do.
fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    let (kind, help) = match error.kind() {
        Io::NotADirectory => return not_a_directory(path),
        Io::IsADirectory => return super::is_directory(&path.display().to_string()),
        Io::PermissionDenied => (ErrorKind::PermissionDenied, "check the owner and the mode of the directory"),
        Io::ReadOnlyFilesystem => (ErrorKind::PermissionDenied, "the file system is mounted read-only"),
        Io::StorageFull | Io::QuotaExceeded => {
            (ErrorKind::StorageFull, "free space on the disk, then start again: nothing that was committed is lost")
        }
        Io::FileTooLarge => (ErrorKind::StorageFull, "the file system or a limit (ulimit -f) allows no larger file"),
        Io::InvalidFilename | Io::InvalidInput => (ErrorKind::Invalid, "the file system does not allow this name"),
        Io::NotFound => (ErrorKind::NotFound, "something deleted it meanwhile"),
        Io::TimedOut | Io::StaleNetworkFileHandle | Io::HostUnreachable | Io::NetworkUnreachable => {
            (ErrorKind::Unavailable, "the disk is mounted over a network that does not answer")
        }
        _ => (ErrorKind::Internal, "look into the system's log: the disk may be failing"),
    };
    Error::new(kind, format!("cannot {what} {}: {error}", path.display())).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_so() {
        // /dev/full is a real file system object that answers every write with ENOSPC.
        let error = OpenOptions::new().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err();
        let error = failed("write", Path::new("/out/part-0"), &error);
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert!(error.to_string().contains("/out/part-0") && error.to_string().contains("free space"), "{error}");
    }

    #[test]
    fn kinds_of_io_errors() {
        for (errno, kind) in [
            (libc::EDQUOT, ErrorKind::StorageFull),
            (libc::EACCES, ErrorKind::PermissionDenied),
            (libc::EROFS, ErrorKind::PermissionDenied),
            (libc::ENAMETOOLONG, ErrorKind::Invalid),
            (libc::EIO, ErrorKind::Internal),
        ] {
            assert_eq!(failed("x", Path::new("/x"), &io::Error::from_raw_os_error(errno)).kind(), kind, "{errno}");
        }
    }

    #[tokio::test]
    async fn staging_again_does_not_touch_what_was_published() {
        let directory = tempfile::tempdir().unwrap();
        let local = Local::new(directory.path().to_str().unwrap());
        // As a crash between link and unlink leaves it: one inode, two names.
        fs::write(directory.path().join("a"), "published").unwrap();
        fs::hard_link(directory.path().join("a"), directory.path().join(".a.q.tmp")).unwrap();
        let mut writer = local.stage(".a.q.tmp").await.unwrap();
        writer.write(Bytes::from_static(b"new")).await.unwrap();
        assert_eq!(writer.finish().await.unwrap(), 3);
        assert_eq!(fs::read(directory.path().join("a")).unwrap(), b"published");
    }

    #[tokio::test]
    async fn a_failed_writer_stays_failed() {
        let mut writer = LocalWriter {
            path: "/dev/full".into(),
            file: Some(OpenOptions::new().write(true).open("/dev/full").unwrap()),
            buffer: Vec::new(),
        };
        let chunk = Bytes::from(vec![0; CHUNK_BYTES + 1]);
        assert_eq!(writer.write(chunk.clone()).await.unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(writer.write(chunk).await.unwrap_err().kind(), ErrorKind::Internal);
        assert!(writer.finish().await.is_err());
    }
}
