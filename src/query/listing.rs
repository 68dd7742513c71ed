//! Which files of a place a reader may see.
//!
//! A directory with `_spark_metadata` has exactly the files of that log. Any other has the files below it, but for
//! hidden ones: a name that starts with `.` or `_`, of the file or of a directory above it (`_key=value` is data).

use regex::Regex;

use crate::{
    error::{Error, ErrorKind, Result},
    sink::spark_log::SparkLog,
    store::Store,
};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DataFile {
    /// Relative to the listing's root.
    pub path: String,
    pub size_bytes: u64,
    pub modified_ms: i64,
}

/// The files of a place.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    /// The directory that the files' paths are relative to.
    pub root: Store,
    /// Not empty ones, in order of path.
    pub files: Vec<DataFile>,
}

impl Listing {
    /// The file's URL, for messages.
    pub fn url(&self, file: &DataFile) -> String {
        self.root.path_url(&file.path)
    }
}

/// Lists `place`: a file, a directory, or a pattern with `*`, `**`, `?`, `[...]`, `{a,b}`; local or a URL.
///
/// # Errors
/// `NotFound` if nothing is there, and the store's.
pub(super) async fn list(place: &str) -> Result<Listing> {
    let listing = find(&absolute(place)?).await?;
    if listing.files.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no file to read at {place}"))
            .help("hidden files (._*), empty files and files that no batch has committed do not count"));
    }
    Ok(listing)
}

/// As `list`, for a directory that a job may not have written yet: then it is empty.
///
/// # Errors
/// The store's.
pub(super) async fn list_directory(directory: &str) -> Result<Listing> {
    let store = Store::open(directory).await?;
    let files = visible(&store).await?;
    Ok(Listing { root: store, files })
}

async fn find(place: &str) -> Result<Listing> {
    if let Some(at) = place.find(['*', '?', '[', '{']) {
        let split = place[..at].rfind('/').unwrap_or(0);
        let pattern = glob(&place[split + 1..])?;
        let mut listing = list_directory(if split == 0 { "/" } else { &place[..split] }).await?;
        listing.files.retain(|file| pattern.is_match(&file.path));
        return Ok(listing);
    }
    let place = place.trim_end_matches('/');
    // A name with an extension is most likely a file.
    if let Some((parent, name)) = place.rsplit_once('/').filter(|(_, name)| name.contains('.')) {
        let store = Store::open(if parent.is_empty() { "/" } else { parent }).await?;
        match store.stat(name).await {
            Ok(Some(entry)) => {
                let file = DataFile { path: entry.path, size_bytes: entry.size_bytes, modified_ms: entry.modified_ms };
                return Ok(Listing { root: store, files: vec![file] });
            }
            Ok(None) => {}
            // A directory may have a dot in its name, too.
            Err(error) if error.kind() == ErrorKind::Invalid => {}
            Err(error) => return Err(error),
        }
    }
    list_directory(if place.is_empty() { "/" } else { place }).await
}

/// A local path made absolute; a URL stays.
fn absolute(place: &str) -> Result<String> {
    if place.contains("://") || place.starts_with("file:/") {
        return Ok(place.to_owned());
    }
    let path = std::path::absolute(place)
        .map_err(|error| Error::invalid(format!("{place} is no path")).source_error(error))?;
    path.to_str().map(str::to_owned).ok_or_else(|| Error::unsupported(format!("the path of {place} is not UTF-8")))
}

async fn visible(store: &Store) -> Result<Vec<DataFile>> {
    let mut files = match committed(store).await? {
        Some(files) => files,
        None => {
            let entries = store.list_all("").await?.into_iter();
            let file = |e: crate::store::Entry| DataFile {
                path: e.path,
                size_bytes: e.size_bytes,
                modified_ms: e.modified_ms,
            };
            entries.map(file).collect()
        }
    };
    files.retain(|file| file.size_bytes > 0 && !is_hidden(&file.path));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    // Spark's log may name a file twice; its rows are there once.
    files.dedup_by(|a, b| a.path == b.path);
    Ok(files)
}

/// The files of the log of this directory, or of the table whose partition directory (`key=value`) this is.
async fn committed(store: &Store) -> Result<Option<Vec<DataFile>>> {
    let mut root = store.clone();
    let mut below = String::new();
    loop {
        if let Some(logged) = SparkLog::new(root.clone()).files().await? {
            let files = logged.into_iter().filter_map(|file| {
                let path = file.path.strip_prefix(&below)?.to_owned();
                Some(DataFile { path, size_bytes: file.published.size_bytes, modified_ms: file.published.modified_ms })
            });
            return Ok(Some(files.collect()));
        }
        let url = root.url().to_owned();
        let Some((parent, name)) = url.rsplit_once('/').filter(|(_, name)| name.contains('=')) else { return Ok(None) };
        below = format!("{name}/{below}");
        root = Store::open(parent).await?;
    }
}

/// Whether no reader takes the file for data; `path` is relative to the directory that is read.
pub fn is_hidden(path: &str) -> bool {
    let (directories, name) = path.rsplit_once('/').unwrap_or(("", path));
    let hidden = |name: &str| name.starts_with(['.', '_']);
    hidden(name) || directories.split('/').any(|name| hidden(name) && !name.contains('='))
}

/// A shell pattern as an expression that matches whole relative paths.
fn glob(pattern: &str) -> Result<Regex> {
    let mut expression = String::from("^");
    let mut rest = pattern;
    let mut braces = 0_usize;
    while let Some(character) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("**/") {
            expression += "(?:.*/)?";
            rest = after;
            continue;
        }
        match character {
            '*' => expression += "[^/]*",
            '?' => expression += "[^/]",
            '[' => expression += if rest.starts_with("[!") { "[^" } else { "[" },
            '!' if expression.ends_with("[^") => {}
            ']' => expression += "]",
            '-' if expression.rfind('[') > expression.rfind(']') => expression.push('-'),
            '{' => {
                expression += "(?:";
                braces += 1;
            }
            '}' if braces > 0 => {
                expression += ")";
                braces -= 1;
            }
            ',' if braces > 0 => expression += "|",
            other => expression += &regex::escape(other.encode_utf8(&mut [0; 4])),
        }
        rest = &rest[character.len_utf8()..];
    }
    Regex::new(&(expression + "$"))
        .map_err(|_| Error::invalid(format!("{pattern} is no pattern")).help("patterns have *, **, ?, [a-z], {a,b}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_files_are_hidden_at_any_depth() {
        for path in [".a.tmp", "_SUCCESS", "_spark_metadata/0", "a/.b/c", "_dead_letters/x.parquet"] {
            assert!(is_hidden(path), "{path}");
        }
        for path in ["a.csv", "d=1/a_b.csv", "_k=1/a.csv", "x/y.z"] {
            assert!(!is_hidden(path), "{path}");
        }
    }

    #[test]
    fn patterns_match_whole_paths() {
        let matches = |pattern: &str, path: &str| glob(pattern).unwrap().is_match(path);
        assert!(matches("*.csv", "a.csv") && !matches("*.csv", "d/a.csv") && !matches("*.csv", "a.csv.gz"));
        assert!(matches("**/*.csv", "d/e/a.csv") && matches("**/*.csv", "a.csv"));
        assert!(matches("d=*/part-?.{csv,json}", "d=1/part-0.json") && !matches("part-?", "part-10"));
        assert!(matches("part-[0-4].csv", "part-3.csv") && !matches("part-[!0-4].csv", "part-3.csv"));
        assert!(matches("part-[!0-4].csv", "part-5.csv") && !matches("a.csv", "abcsv"));
        assert_eq!(glob("a[").unwrap_err().kind(), ErrorKind::Invalid);
    }
}
