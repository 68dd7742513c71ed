//! The file that `--output` names: one rule for every command that has it.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    error::{Error, ErrorKind, Result},
    model::file::NewFile,
};

/// Whether an output may take the place of another file.
#[derive(Debug, Clone, Copy, Args)]
pub struct OverwriteArg {
    /// Replace the file of --output if it is there
    #[arg(long, requires = "output")]
    overwrite: bool,
}

impl OverwriteArg {
    /// Looks before the work is done, so that it is not done in vain.
    ///
    /// # Errors
    /// `Conflict` for a file that is there and may not be replaced; `Invalid` for what is no local file.
    pub fn check(self, path: &Path) -> Result<()> {
        if let Some(url) = path.to_str().filter(|it| it.contains("://")) {
            return Err(Error::invalid(format!("--output writes local files, and {url} is a URL"))
                .help(format!("tidemill query writes there: COPY (SELECT ...) TO '{url}'")));
        }
        if path.is_dir() || path.file_name().is_none() {
            return Err(Error::invalid(format!("the output {} is a directory, not a file", path.display())));
        }
        if path.exists() && !self.overwrite { Err(taken(path)) } else { Ok(()) }
    }

    /// Starts the file, under a hidden name until it is whole.
    ///
    /// # Errors
    /// As `check`; what the disk says.
    pub fn create(self, path: &Path) -> Result<OutputFile> {
        self.check(path)?;
        Ok(OutputFile { file: NewFile::create(path)?, path: path.to_owned(), replaces: self.overwrite })
    }
}

fn taken(path: &Path) -> Error {
    Error::new(ErrorKind::Conflict, format!("the output {} is there already", path.display()))
        .help("choose another name, or replace it with --overwrite")
}

/// A file that is being written. Dropped without `publish`, it leaves nothing.
#[derive(Debug)]
pub struct OutputFile {
    file: NewFile,
    path: PathBuf,
    replaces: bool,
}

impl OutputFile {
    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// `Conflict` where another file took the name meanwhile; what the disk says.
    pub fn publish(self) -> Result<()> {
        if self.replaces {
            return self.file.replace();
        }
        if self.file.publish()? { Ok(()) } else { Err(taken(&self.path)) }
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
