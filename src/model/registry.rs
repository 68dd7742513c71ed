//! The models of a directory: `NAME/1.json`, `NAME/2.json` and so on. The highest number is the newest; a file is
//! never replaced. `NAME/promoted.json` says which one is served; it alone changes, in one step.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    artifact::Model,
    file::{NewFile, io_error},
};
use crate::error::{Error, ErrorKind, Result, nearest};

/// `NAME@newest`: the highest revision, whatever is promoted.
pub const NEWEST: &str = "newest";

/// Names the revision that is served.
const PROMOTED: &str = "promoted.json";

/// Longer names are refused; file systems end at 255 bytes.
const NAME_LENGTH_MAX: usize = 100;

/// A directory of models.
#[derive(Debug, Clone)]
pub struct Registry {
    directory: PathBuf,
}

/// A model in the registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub model: Model,
    pub revision: u64,
    pub path: PathBuf,
}

impl Registry {
    /// The directory need not exist.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Saves the model under its name as the next revision.
    ///
    /// # Errors
    /// `Invalid` for a bad name; else what the disk says.
    pub fn save(&self, model: Model) -> Result<Stored> {
        check_name(&model.name)?;
        self.check_local()?;
        let text = model.to_json()?;
        let directory = self.directory.join(&model.name);
        fs::create_dir_all(&directory).map_err(|error| io_error("create", &directory, error))?;
        let newest = self.revisions(&model.name)?.last().copied().unwrap_or(0);
        let mut revision = newest + 1;
        loop {
            let path = directory.join(format!("{revision}.json"));
            let mut file = NewFile::create(&path)?;
            file.write_all(text.as_bytes())
                .and_then(|()| file.write_all(b"\n"))
                .map_err(|error| io_error("write", &path, error))?;
            if file.publish()? {
                return Ok(Stored { model, revision, path });
            }
            // Another training got this number.
            revision += 1;
        }
    }

    /// Loads `NAME`, the promoted revision or, if none was ever promoted, the newest; or `NAME@2`; or `NAME@newest`.
    ///
    /// # Errors
    /// `NotFound`, with the nearest name or the revisions there are; `Corrupt` or `Unsupported`, naming the file.
    pub fn load(&self, reference: &str) -> Result<Stored> {
        let (name, revision) = self.find(reference)?;
        self.load_revision(name, revision)
    }

    /// Which revision of which model `load` would load.
    ///
    /// # Errors
    /// As `load`, but for the file's content.
    pub fn find<'a>(&self, reference: &'a str) -> Result<(&'a str, u64)> {
        let (name, wanted) = match reference.split_once('@') {
            None => {
                check_name(reference)?;
                (reference, self.promoted(reference)?)
            }
            Some((name, NEWEST)) => (name, None),
            Some((name, revision)) => {
                let number = revision.parse::<u64>().map_err(|_| {
                    Error::invalid(format!("'{revision}' in the model '{reference}' is no revision")).help(format!(
                        "write {name}@2 for the second, {name}@{NEWEST}, or {name} for the one that is served"
                    ))
                })?;
                (name, Some(number))
            }
        };
        check_name(name)?;
        self.check_local()?;
        let revisions = self.revisions(name)?;
        let Some(newest) = revisions.last().copied() else {
            return Err(self.no_model(name));
        };
        let revision = wanted.unwrap_or(newest);
        if !revisions.contains(&revision) {
            let known: Vec<String> = revisions.iter().map(u64::to_string).collect();
            return Err(Error::new(ErrorKind::NotFound, format!("the model '{name}' has no revision {revision}"))
                .help(format!("there are: {}", known.join(", "))));
        }
        Ok((name, revision))
    }

    /// Loads a revision of a model.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt` or `Unsupported`, naming the file.
    pub fn load_revision(&self, name: &str, revision: u64) -> Result<Stored> {
        check_name(name)?;
        let path = self.directory.join(name).join(format!("{revision}.json"));
        Ok(Stored { model: Model::read(&path)?, revision, path })
    }

    /// A URL would be taken for a directory of that name.
    fn check_local(&self) -> Result<()> {
        let directory = self.directory.to_string_lossy();
        if !directory.contains("://") {
            return Ok(());
        }
        Err(Error::unsupported(format!("the models' directory {directory} is a URL, and models are on a local disk"))
            .help("name a directory; the files of a model never change, so a copy or a mount will do"))
    }

    /// Where the models are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes a revision the one that its plain name means: in one step, so that every reader gets the old or the new one.
    ///
    /// # Errors
    /// As `load`: what cannot be read is not promoted.
    pub fn promote(&self, reference: &str) -> Result<Stored> {
        let reference = if reference.contains('@') { reference.to_owned() } else { format!("{reference}@{NEWEST}") };
        let stored = self.load(&reference)?;
        let path = self.directory.join(&stored.model.name).join(PROMOTED);
        let text = serde_json::json!({ "revision": stored.revision }).to_string();
        let mut file = NewFile::create(&path)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .map_err(|error| io_error("write", &path, error))?;
        file.replace()?;
        Ok(stored)
    }

    /// The revision that was promoted, if any was.
    ///
    /// # Errors
    /// `Corrupt` if the file that says so is torn; what the disk says.
    pub fn promoted(&self, name: &str) -> Result<Option<u64>> {
        let path = self.directory.join(name).join(PROMOTED);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(io_error("read", &path, error)),
        };
        let value: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let revision = value.and_then(|value| value.get("revision").and_then(serde_json::Value::as_u64));
        revision.map(Some).ok_or_else(|| {
            Error::corrupt(format!("{} does not name a revision", path.display()))
                .help(format!("promote one again: tidemill models promote {name}@1"))
        })
    }

    /// The revisions of a model, rising; none if there is no such model.
    ///
    /// # Errors
    /// What the disk says.
    pub fn revisions(&self, name: &str) -> Result<Vec<u64>> {
        let number = |entry: &str| {
            let digits = entry.strip_suffix(".json")?;
            // `01.json` is not ours: two files would be one revision.
            digits.parse::<u64>().ok().filter(|number| number.to_string() == digits)
        };
        let mut revisions: Vec<u64> =
            names_in(&self.directory.join(name))?.iter().filter_map(|entry| number(entry)).collect();
        revisions.sort_unstable();
        Ok(revisions)
    }

    /// The names of all models, sorted.
    ///
    /// # Errors
    /// What the disk says.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for name in names_in(&self.directory)? {
            if check_name(&name).is_ok() && !self.revisions(&name)?.is_empty() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn no_model(&self, name: &str) -> Error {
        let directory = self.directory.display();
        let error = Error::new(ErrorKind::NotFound, format!("there is no model '{name}' in {directory}"));
        let names = match self.names() {
            Ok(names) => names,
            Err(other) => return other,
        };
        match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None if names.is_empty() => error.help(
                "train one with `tidemill train`, or name the directory: --models-dir on the command line, \
                     CREATE MODEL name WITH ('path' = '...') in SQL",
            ),
            None => error.help(format!("there are: {}", names.join(", "))),
        }
    }
}

/// A model's name is a plain file name, so that it cannot lead out of the directory.
///
/// # Errors
/// `Invalid`.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !name.is_empty() && name.len() <= NAME_LENGTH_MAX && !name.starts_with('.') && name.chars().all(plain) {
        return Ok(());
    }
    Err(Error::invalid(format!("'{name}' cannot be a model's name"))
        .help("use letters, digits, '_', '-' and '.', up to 100 of them, and no '.' at the start"))
}

/// The entries of a directory; none if it is missing.
fn names_in(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(io_error("list", directory, error)),
    };
    let name = |entry: io::Result<fs::DirEntry>| match entry {
        Ok(entry) => Ok(entry.file_name().to_string_lossy().into_owned()),
        Err(error) => Err(io_error("list", directory, error)),
    };
    entries.map(name).collect()
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
