//! Where a store is, and which names may stand below it. Pure: nothing here does I/O, but for the current directory.
//!
//! Paths are raw, never percent-encoded: what the user writes is the name on the store.

use uuid::Uuid;

use crate::error::{Error, Result, nearest};

/// The schemes that `Store::open` knows.
const SCHEMES: [&str; 4] = ["hdfs", "s3", "s3a", "file"];

/// The owner of a temporary that `create` makes starts with this.
const CREATE_OWNER: &str = "create-";

/// The three kinds of stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Local,
    Hdfs,
    S3,
}

/// A directory: `base` is scheme and authority (`hdfs://host:port`, `file://`), `root` is empty or starts with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    pub kind: Kind,
    pub base: String,
    pub root: String,
}

impl Location {
    /// Takes a URL or a local path apart.
    ///
    /// # Errors
    /// `Invalid`. The message never repeats the authority: it may hold a password.
    pub fn parse(url: &str) -> Result<Self> {
        if url.is_empty() {
            return Err(Error::invalid("the path of a store is empty").help(schemes_help()));
        }
        let Some((scheme, rest)) = split_scheme(url)? else { return Self::local(url) };
        let Some(rest) = rest.strip_prefix("//") else {
            return if scheme == "file" { Self::local(rest) } else { Err(no_authority(&scheme)) };
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(Error::invalid(format!("the {scheme} URL holds a user or a password"))
                .help("give credentials through the environment (AWS_ACCESS_KEY_ID, a Kerberos ticket), not the URL"));
        }
        let kind = match scheme.as_str() {
            "file" if authority.is_empty() || authority == "localhost" => return Self::local(path),
            "file" => {
                return Err(Error::invalid(format!("file://{authority}{path} names the host '{authority}'"))
                    .help("write file:///path, with three slashes"));
            }
            "hdfs" => Kind::Hdfs,
            _ => Kind::S3,
        };
        if authority.is_empty() {
            return Err(no_authority(&scheme));
        }
        let base = format!("{scheme}://{authority}");
        if url::Url::parse(&base).is_err() || (kind == Kind::S3 && authority.contains(':')) {
            let what = if kind == Kind::S3 { "a bucket's name" } else { "a host, or a host and a port" };
            return Err(Error::invalid(format!("'{authority}' in {base} is not {what}")).help(schemes_help()));
        }
        Ok(Self { kind, base, root: normalise(path)? })
    }

    fn local(path: &str) -> Result<Self> {
        let absolute = if path.starts_with('/') {
            path.to_owned()
        } else {
            let current = std::env::current_dir().map_err(|error| {
                Error::invalid(format!("{path} is relative, and the current directory is unknown: {error}"))
            })?;
            let Some(current) = current.to_str() else {
                return Err(Error::invalid(format!(
                    "{path} is relative, and the current directory's name is not UTF-8"
                )));
            };
            format!("{current}/{path}")
        };
        Ok(Self { kind: Kind::Local, base: "file://".to_owned(), root: normalise(&absolute)? })
    }

    /// Host and port, or the bucket.
    pub fn authority(&self) -> &str {
        self.base.split_once("://").map_or("", |(_, authority)| authority)
    }

    /// Without a trailing slash, but for the root of the local disk.
    pub fn url(&self) -> String {
        if self.base == "file://" && self.root.is_empty() {
            return "file:///".to_owned();
        }
        format!("{}{}", self.base, self.root)
    }

    /// The URL of something below; `path` is empty or was checked.
    pub fn child_url(&self, path: &str) -> String {
        if path.is_empty() { self.url() } else { format!("{}{}/{path}", self.base, self.root) }
    }

    /// The directory `path` below; it was checked.
    pub fn below(&self, path: &str) -> Self {
        let root = if path.is_empty() { self.root.clone() } else { format!("{}/{path}", self.root) };
        Self { kind: self.kind, base: self.base.clone(), root }
    }
}

/// The scheme, in lower case, and what follows its colon; `None` for a plain path.
fn split_scheme(url: &str) -> Result<Option<(String, &str)>> {
    let Some((scheme, rest)) = url.split_once(':') else { return Ok(None) };
    let lower = scheme.to_ascii_lowercase();
    let known = SCHEMES.contains(&lower.as_str());
    let is_word = scheme.len() > 1 && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if known || (is_word && rest.starts_with("//")) {
        return if known { Ok(Some((lower, rest))) } else { Err(unknown_scheme(scheme)) };
    }
    Ok(None)
}

fn unknown_scheme(scheme: &str) -> Error {
    let error = Error::invalid(format!("there is no store for '{scheme}://'"));
    match nearest(scheme, SCHEMES) {
        Some(near) => error.help(format!("did you mean {near}://? {}", schemes_help())),
        None => error.help(schemes_help()),
    }
}

fn no_authority(scheme: &str) -> Error {
    let (what, form) = match scheme {
        "hdfs" => ("NameNode", "hdfs://host:port/path, or hdfs://nameservice/path with HADOOP_CONF_DIR set"),
        _ => ("bucket", "s3://bucket/path"),
    };
    Error::invalid(format!("the {scheme} URL names no {what}")).help(format!("write {form}"))
}

fn schemes_help() -> String {
    "write hdfs://host:port/path, s3://bucket/path (or s3a://), file:///path, or a local path".to_owned()
}

/// Drops empty and `.` segments and resolves `..` by name, as Hadoop does. The result is empty or starts with `/`.
fn normalise(path: &str) -> Result<String> {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                if segments.pop().is_none() {
                    return Err(Error::invalid(format!("the path {path} leads above the root")));
                }
            }
            _ => {
                check_characters(path, segment)?;
                segments.push(segment);
            }
        }
    }
    Ok(segments.iter().map(|segment| format!("/{segment}")).collect())
}

fn check_characters(path: &str, segment: &str) -> Result<()> {
    match segment.chars().find(char::is_ascii_control) {
        Some(c) => Err(Error::invalid(format!("the path {path:?} holds the control character {c:?}"))),
        None => Ok(()),
    }
}

/// A file's path relative to a store: segments that are neither empty nor `.` nor `..`.
///
/// # Errors
/// `Invalid`, quoting the path.
pub(super) fn check_file(path: &str) -> Result<()> {
    let why = if path.is_empty() {
        "is empty"
    } else if path.starts_with('/') {
        "is absolute"
    } else if path.split('/').any(|segment| segment == "..") {
        "leaves the store's directory"
    } else if path.split('/').any(|segment| segment.is_empty() || segment == ".") {
        "has an empty segment"
    } else {
        return path.split('/').try_for_each(|segment| check_characters(path, segment));
    };
    Err(Error::invalid(format!("the path {path:?} {why}"))
        .help("paths are relative to the store's directory, like a/b.csv"))
}

/// A directory's path relative to a store; the empty one is the store's own.
///
/// # Errors
/// As `check_file`.
pub(super) fn check_directory(path: &str) -> Result<()> {
    if path.is_empty() { Ok(()) } else { check_file(path) }
}

/// An owner becomes part of a name and is read out of it again.
///
/// # Errors
/// `Invalid`, quoting the owner.
pub(super) fn check_owner(owner: &str) -> Result<()> {
    if !owner.is_empty() && owner.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return Ok(());
    }
    Err(Error::invalid(format!("{owner:?} cannot own a temporary file: letters, digits, '-' and '_' only")))
}

/// `dir/name` -> `dir/.name.<owner>.tmp`. The dot hides it from Spark, Hive and our own readers.
pub(super) fn hidden_name(path: &str, owner: &str) -> String {
    match path.rsplit_once('/') {
        Some((directory, name)) => format!("{directory}/.{name}.{owner}.tmp"),
        None => format!(".{path}.{owner}.tmp"),
    }
}

/// The owner of a hidden temporary; `None` for any other name.
pub(super) fn owner_of(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    let (file, owner) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    (!file.is_empty() && check_owner(owner).is_ok()).then_some(owner)
}

/// An owner for one `create`, never used twice.
pub(super) fn create_owner() -> String {
    format!("{CREATE_OWNER}{}", Uuid::new_v4().simple())
}

/// Whether a `create` made the temporary.
pub(super) fn is_create_owner(owner: &str) -> bool {
    owner.starts_with(CREATE_OWNER)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> String {
        Location::parse(text).unwrap().url()
    }

    #[test]
    fn urls_are_absolute_and_without_a_trailing_slash() {
        assert_eq!(url("hdfs://nn:9000/a//b/"), "hdfs://nn:9000/a/b");
        assert_eq!(url("HDFS://nn:9000"), "hdfs://nn:9000");
        assert_eq!(url("hdfs://nameservice/a"), "hdfs://nameservice/a");
        assert_eq!(url("s3a://bucket/a/./b/../c"), "s3a://bucket/a/c");
        assert_eq!(url("file:/tmp/x"), "file:///tmp/x");
        assert_eq!(url("file:///tmp/x/"), "file:///tmp/x");
        assert_eq!(url("file:///"), "file:///");
        assert_eq!(url("/tmp/a:b c%41"), "file:///tmp/a:b c%41");
        let here = std::env::current_dir().unwrap();
        assert_eq!(url("out/x"), format!("file://{}/out/x", here.display()));
        assert_eq!(url("a:b"), format!("file://{}/a:b", here.display()));
        assert_eq!(Location::parse("/").unwrap().child_url("x"), "file:///x");
    }

    #[test]
    fn wrong_urls_are_explained() {
        for (text, message, help) in [
            ("hdsf://nn/a", "no store for 'hdsf://'", "did you mean hdfs://?"),
            ("gs://b/a", "no store for 'gs://'", "s3://bucket/path"),
            ("hdfs:///a", "names no NameNode", "HADOOP_CONF_DIR"),
            ("hdfs:/a", "names no NameNode", "hdfs://host:port"),
            ("s3://", "names no bucket", "s3://bucket/path"),
            ("file://tmp/a", "names the host 'tmp'", "three slashes"),
            ("", "is empty", "local path"),
            ("hdfs://nn/..", "above the root", ""),
            ("hdfs://nn:port/a", "is not a host", ""),
        ] {
            let error = Location::parse(text).unwrap_err().to_string();
            assert!(error.contains(message) && error.contains(help), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        for text in ["s3://AKIA:secret@bucket/a", "hdfs://me:secret@nn:9000/a", "ftp://me:secret@host/x"] {
            let error = format!("{:?}", Location::parse(text).unwrap_err());
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn relative_paths_stay_inside() {
        for path in ["a", "a/b", ".a", "a b/%41=:", "..a", "\u{e9}"] {
            check_file(path).unwrap();
        }
        for path in ["", "/a", "..", "a/../b", "a/..", "a//b", "a/", "./a", "a\nb", "a\0b"] {
            assert!(check_file(path).is_err(), "{path:?}");
        }
        check_directory("").unwrap();
    }

    #[test]
    fn hidden_names_tell_their_owner() {
        assert_eq!(hidden_name("a/b.csv", "q-1"), "a/.b.csv.q-1.tmp");
        assert_eq!(owner_of("a/.b.csv.q-1.tmp"), Some("q-1"));
        assert_eq!(owner_of(".0.4d1c.tmp"), Some("4d1c"));
        for path in ["b.csv", ".b.csv.tmp.1", ".tmp", "..x.tmp", "a/.b.csv", "..a b.tmp"] {
            assert_eq!(owner_of(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn owners_survive_any_name(name in "[^/\\x00-\\x1f\\x7f]{1,20}", owner in "[A-Za-z0-9_-]{1,20}") {
            prop_assume!(name != "." && name != "..");
            let hidden = hidden_name(&format!("d/{name}"), &owner);
            prop_assert!(check_file(&hidden).is_ok());
            prop_assert_eq!(owner_of(&hidden), Some(owner.as_str()));
        }

        #[test]
        fn no_url_is_above_its_root(path in "[./a]{0,12}") {
            if let Ok(location) = Location::parse(&format!("s3://b/{path}")) {
                prop_assert!(!location.root.split('/').any(|s| s == ".." || s == "."));
                prop_assert!(location.root.is_empty() || location.root.starts_with('/'));
                prop_assert_eq!(&Location::parse(&location.url()).unwrap(), &location);
            }
        }
    }
}
