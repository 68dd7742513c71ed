//! `--progress-log`: every batch's progress as a line of JSON in a file.

use std::{
    fs::File,
    io::Write,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

use super::{listener::QueryListener, progress::QueryProgress};
use crate::error::{Error, ErrorKind, Result};

/// The log starts anew at this size; the one before it is kept as `<name>.1`.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// The open log.
#[derive(Debug)]
pub struct ProgressLog(Mutex<LogFile>);

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl ProgressLog {
    /// Goes on with the file at `path`, or makes it.
    ///
    /// # Errors
    /// `Invalid` if it cannot be opened.
    pub fn open(path: PathBuf) -> Result<Self> {
        let file = File::options().create(true).append(true).open(&path).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("cannot open the progress log {}", path.display()))
                .source_error(error)
        })?;
        let bytes = file.metadata().map(|metadata| metadata.len()).unwrap_or(0);
        Ok(Self(Mutex::new(LogFile { path, file, bytes })))
    }
}

impl QueryListener for ProgressLog {
    fn progress(&self, _: &QueryProgress, json: &Value) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = log.write(&json.to_string()) {
            // A full disk under the log must not stop the job; the user hears of it.
            tracing::warn!(path = %log.path.display(), %error, "the progress log cannot be written");
        }
    }
}

impl LogFile {
    fn write(&mut self, line: &str) -> std::io::Result<()> {
        if self.bytes > LOG_BYTES_MAX {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.path, old)?;
            self.file = File::options().create(true).append(true).open(&self.path)?;
            self.bytes = 0;
        }
        writeln!(self.file, "{line}")?;
        self.bytes += line.len() as u64 + 1;
        Ok(())
    }
}
