//! Paths in the log: absolute, and encoded as `java.net.URI` does. A store's own URL is not encoded.

use std::fmt::Write;

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// Bytes that `java.net.URI` leaves as they are in a path, beside letters and digits.
const UNRESERVED: &[u8] = b"_-!.~'()*,;:$&+=@/";

/// The URI of the file `path` of the directory `url`.
///
/// # Errors
/// `Internal` if `path` is not a relative path.
pub fn encode_path(url: &str, path: &str) -> Result<String> {
    if path.is_empty() || path.starts_with('/') {
        return Err(Error::internal(format!("'{path}' is not relative to {url}")));
    }
    let (_, directory) = split(url).ok_or_else(|| Error::internal(format!("'{url}' is no URL")))?;
    let mut out = String::with_capacity(url.len() + path.len() + 8);
    out.push_str(&url[..url.len() - directory.len()]);
    let directory = directory.trim_end_matches('/');
    for letter in directory.chars().chain(['/']).chain(path.chars()) {
        match u8::try_from(letter) {
            Ok(byte) if letter.is_ascii() && !byte.is_ascii_alphanumeric() && !UNRESERVED.contains(&byte) => {
                // Writing to a string does not fail.
                let _ = write!(out, "%{byte:02X}");
            }
            _ => out.push(letter),
        }
    }
    Ok(out)
}

/// The path of a file relative to the directory `url`; the opposite of `encode_path`.
///
/// # Errors
/// `Corrupt` if the file is not in the directory: the directory was moved, or the URI is none.
pub fn decode_path(url: &str, uri: &str) -> Result<String> {
    let (_, directory) = split(url).ok_or_else(|| Error::internal(format!("'{url}' is no URL")))?;
    let Some((place, file)) = split(uri) else {
        return Err(Error::corrupt(format!("'{uri}' is not an absolute path"))
            .help("Spark does not read such an entry: write its path with the scheme"));
    };
    let file = percent_decode_str(file).decode_utf8().map_err(|_| Error::corrupt(format!("'{uri}' is not UTF-8")))?;
    let inside = file.strip_prefix(directory.trim_end_matches('/')).and_then(|rest| rest.strip_prefix('/'));
    match inside {
        Some(path) if same_place(split(url).map_or("", |(place, _)| place), place) && is_below(path) => {
            Ok(path.to_owned())
        }
        _ => Err(Error::corrupt(format!("'{uri}' is not a file of {url}")).help(format!(
            "the directory was moved or copied, but the paths in its log are absolute: move it back, or replace the \
             beginning of 'path' in all files of _spark_metadata by {url}, or remove _spark_metadata"
        ))),
    }
}

/// Scheme and authority; the path. `file:/x` and `file:///x` are one.
fn split(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once(':')?;
    match rest.strip_prefix("//") {
        Some(rest) => {
            let slash = rest.find('/').unwrap_or(rest.len());
            let place = if slash == 0 { scheme } else { &url[..scheme.len() + 3 + slash] };
            Some((place, &rest[slash..]))
        }
        None => rest.starts_with('/').then_some((scheme, rest)),
    }
}

/// A name node has many names (`nn:8020`, a nameservice, an address) and a bucket three schemes. So for HDFS the
/// path alone decides: even in a copy at the same path on another cluster, the files are those of the copy.
fn same_place(ours: &str, theirs: &str) -> bool {
    fn bucket(place: &str) -> Option<&str> {
        ["s3://", "s3a://", "s3n://"].iter().find_map(|scheme| place.strip_prefix(scheme))
    }
    let hdfs = |place: &str| place.starts_with("hdfs") || place.starts_with("viewfs");
    ours == theirs || (hdfs(ours) && hdfs(theirs)) || bucket(ours).is_some_and(|name| bucket(theirs) == Some(name))
}

fn is_below(path: &str) -> bool {
    !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn encodes_as_java_does() {
        for (path, text) in [
            ("p=a%3Db/x.csv", "p=a%253Db/x.csv"),
            ("p=a b/x", "p=a%20b/x"),
            ("p=a<b>|c}", "p=a%3Cb%3E%7Cc%7D"),
            ("p=[x]", "p=%5Bx%5D"),
            ("p=a,b;c:d$e&f+g@h!i~j'k(l)m*n", "p=a,b;c:d$e&f+g@h!i~j'k(l)m*n"),
            ("p=\u{e9}", "p=\u{e9}"),
        ] {
            assert_eq!(encode_path("hdfs://nn:8020/out", path).unwrap(), format!("hdfs://nn:8020/out/{text}"));
        }
        for (url, uri) in [
            ("file:///tmp/x", "file:///tmp/x/y"),
            ("file:///tmp/a b%", "file:///tmp/a%20b%25/y"),
            ("file:///", "file:///y"),
            ("hdfs://nn", "hdfs://nn/y"),
        ] {
            assert_eq!(encode_path(url, "y").unwrap(), uri);
            assert_eq!(decode_path(url, uri).unwrap(), "y");
        }
    }

    #[test]
    fn finds_the_path_in_the_directory() {
        for (url, uri, path) in [
            ("file:///tmp/x", "file:///tmp/x/a.csv", "a.csv"),
            ("file:///tmp/x", "file:/tmp/x/p=1/a.csv", "p=1/a.csv"),
            ("hdfs://127.0.0.1:19000/out", "hdfs://nn:8020/out/p=%C3%A9/a", "p=\u{e9}/a"),
            ("s3://bucket/out", "s3a://bucket/out/a", "a"),
            ("hdfs://nn", "hdfs://nn/a", "a"),
        ] {
            assert_eq!(decode_path(url, uri).unwrap(), path);
        }
    }

    #[test]
    fn explains_a_directory_that_was_moved() {
        for (url, uri) in [
            ("hdfs://nn/new", "hdfs://nn/old/a.csv"),
            ("hdfs://nn/out", "hdfs://nn/output/a.csv"),
            ("hdfs://nn/out", "file:///out/a.csv"),
            ("s3://one/out", "s3://two/out/a.csv"),
            ("hdfs://nn/out", "hdfs://nn/out/../secret"),
            ("hdfs://nn/out", "hdfs://nn/out/%2E%2E/secret"),
            ("hdfs://nn/out", "a.csv"),
        ] {
            let error = decode_path(url, uri).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{uri}");
            assert!(error.to_string().contains("help: "), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back(parts in proptest::collection::vec("[^/\u{0}]{1,12}", 1..4)) {
            prop_assume!(parts.iter().all(|part| part != "." && part != ".."));
            let path = parts.join("/");
            let uri = encode_path("hdfs://nn:8020/out", &path).unwrap();
            prop_assert_eq!(decode_path("hdfs://nn:8020/out", &uri).unwrap(), path);
        }
    }
}
