//! Files on the local disk that appear whole, and replace nothing unless asked to.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::error::{Error, ErrorKind, Result};

/// An error that says what was being done to which file.
pub fn io_error(action: &str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        io::ErrorKind::InvalidData => ErrorKind::Corrupt,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("cannot {action} {}", path.display())).source_error(error)
}

/// A file that is being written under a hidden name beside its final one. Dropped without `publish`, it is deleted.
#[derive(Debug)]
pub struct NewFile {
    hidden: PathBuf,
    path: PathBuf,
    file: File,
}

impl NewFile {
    /// Starts the file.
    ///
    /// # Errors
    /// What the disk says.
    pub fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let hidden = path.with_file_name(format!(".{name}.{}.tmp", uuid::Uuid::new_v4().simple()));
        let file = File::create_new(&hidden).map_err(|error| io_error("create", &hidden, error))?;
        Ok(Self { hidden, path: path.to_owned(), file })
    }

    /// Makes it durable and gives it its name. False if that name is taken, and then nothing has changed.
    ///
    /// # Errors
    /// What the disk says.
    pub fn publish(self) -> Result<bool> {
        self.file.sync_all().map_err(|error| io_error("write", &self.hidden, error))?;
        // A link, not a rename, because a rename would replace a file that is there.
        match fs::hard_link(&self.hidden, &self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) if without_links(&error) => {
                // Here another process could come between the look and the rename.
                if self.path.try_exists().map_err(|error| io_error("look for", &self.path, error))? {
                    return Ok(false);
                }
                fs::rename(&self.hidden, &self.path).map_err(|error| io_error("create", &self.path, error))?;
            }
            Err(error) => return Err(io_error("create", &self.path, error)),
        }
        self.sync_directory()?;
        Ok(true)
    }

    /// As `publish`, in the place of a file that is there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn replace(self) -> Result<()> {
        self.file.sync_all().map_err(|error| io_error("write", &self.hidden, error))?;
        fs::rename(&self.hidden, &self.path).map_err(|error| io_error("replace", &self.path, error))?;
        self.sync_directory()
    }

    fn sync_directory(&self) -> Result<()> {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| io_error("write", directory, error))
    }
}

/// Whether the file system has no hard links (FAT, some network mounts).
fn without_links(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported) || error.raw_os_error() == Some(libc::EPERM)
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After a rename there is nothing to delete.
        if let Err(error) = fs::remove_file(&self.hidden)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.hidden.display(), %error, "a temporary file stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appears_whole_and_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        let write = |text: &str| {
            let mut file = NewFile::create(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        };
        let first = write("one");
        assert!(!path.exists());
        assert!(first.publish().unwrap());
        assert!(!write("two").publish().unwrap());
        drop(write("three"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        write("four").replace().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "four");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn names_the_file_in_an_error() {
        let error = NewFile::create(Path::new("/no/such/directory/a.json")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().contains("/no/such/directory/"), "{error}");
    }
}
