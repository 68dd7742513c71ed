//! The text of one log file: `v1`, then a JSON object per line, and no line feed at the end.

use serde::{Deserialize, Serialize};

use super::{SinkFile, encode_path};
use crate::{
    error::{Error, Result},
    store::{Published, Store},
};

/// A line as it stands in the file, in Spark's order of fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    /// An absolute URI.
    pub path: String,
    size: u64,
    is_dir: bool,
    modification_time: i64,
    block_replication: u32,
    block_size: u64,
    action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
}

const VERSION: &str = "v1";

impl Line {
    pub fn new(output: &Store, file: &SinkFile) -> Result<Self> {
        Ok(Self {
            path: encode_path(output.url(), &file.path)?,
            size: file.published.size_bytes,
            is_dir: false,
            modification_time: file.published.modified_ms,
            block_replication: file.published.block_replication,
            block_size: file.published.block_size_bytes,
            action: "add".to_owned(),
            rows: file.rows,
        })
    }

    pub fn into_file(self, path: String) -> SinkFile {
        let published = Published {
            size_bytes: self.size,
            modified_ms: self.modification_time,
            block_replication: self.block_replication,
            block_size_bytes: self.block_size,
        };
        SinkFile { path, published, rows: self.rows }
    }

    /// Names hold a UUID, so two files of one name and size are one file. The time may differ: a store may have
    /// none, and a copied file has a new one.
    pub fn is_same_file(&self, other: &Self) -> bool {
        self.path == other.path && self.size == other.size
    }
}

pub(super) fn render(lines: &[Line]) -> Vec<u8> {
    let mut out = VERSION.as_bytes().to_vec();
    for line in lines {
        out.push(b'\n');
        // A struct of numbers and strings always becomes JSON; were it not so, the reader would refuse the line.
        out.extend(serde_json::to_vec(line).unwrap_or_default());
    }
    out
}

/// # Errors
/// `Corrupt`, with the line's number.
pub(super) fn parse(content: &[u8]) -> Result<Vec<Line>> {
    let text = std::str::from_utf8(content).map_err(|_| Error::corrupt("the sink log file is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    match lines.next() {
        Some(VERSION) => {}
        Some("") | None => return Err(damaged(1, "the file is empty")),
        Some(version) if version.strip_prefix('v').is_some_and(|number| number.parse::<u64>().is_ok()) => {
            let text = format!("the sink log has version {version}, this program reads {VERSION}");
            return Err(Error::unsupported(text).help("a newer Spark wrote it"));
        }
        Some(other) => return Err(damaged(1, &format!("'{}' is no version", shown(other)))),
    }
    lines.enumerate().map(|(i, line)| parse_line(i + 2, line)).collect()
}

fn parse_line(number: usize, text: &str) -> Result<Line> {
    let line: Line = serde_json::from_str(text).map_err(|error| damaged(number, &error.to_string()))?;
    if line.is_dir {
        return Err(damaged(number, "the entry is a directory"));
    }
    if line.action != "add" {
        return Err(damaged(number, &format!("the action is '{}', not 'add'", shown(&line.action)))
            .help("Spark's versions do not agree whether such a file is to be read"));
    }
    Ok(line)
}

fn damaged(line: usize, what: &str) -> Error {
    Error::corrupt(format!("line {line} of the sink log file is damaged: {what}"))
        .help("restore the file, or remove _spark_metadata to give up the log")
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    const SPARK: &str = concat!(
        "v1\n{\"path\":\"hdfs://nn:8020/out/part-00000-3f584345-25bd-46ca-bba9-322fb20734a2-c000.csv\",\"size\":33,",
        "\"isDir\":false,\"modificationTime\":1795226946197,\"blockReplication\":1,\"blockSize\":134217728,",
        "\"action\":\"add\"}"
    );

    #[test]
    fn reads_and_writes_what_spark_wrote() {
        let lines = parse(SPARK.as_bytes()).unwrap();
        assert_eq!((lines.len(), lines[0].size, lines[0].rows), (1, 33, None));
        assert_eq!(render(&lines), SPARK.as_bytes());
        assert_eq!(parse(b"v1").unwrap(), []);
        assert_eq!(render(&[]), b"v1");
    }

    #[test]
    fn tolerates_what_spark_tolerates() {
        for text in
            [SPARK.replace('\n', "\r\n"), format!("{SPARK}\n"), SPARK.replace("{\"path", "{ \"new\": [1], \"path")]
        {
            assert_eq!(parse(text.as_bytes()).unwrap().len(), 1, "{text}");
        }
    }

    #[test]
    fn says_which_line_is_damaged() {
        for (text, words) in [
            (String::new(), "line 1"),
            ("{}".to_owned(), "line 1"),
            ("v1\n".to_owned() + "\n", "line 2"),
            (format!("{SPARK}\n\n"), "line 3"),
            (SPARK[..SPARK.len() - 3].to_owned(), "line 2"),
            (SPARK.replace("\"size\":33,", ""), "missing field `size`"),
            (SPARK.replace("add", "delete"), "'delete'"),
            (SPARK.replace("isDir\":false", "isDir\":true"), "directory"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.message().contains(words), "{text}: {error}");
        }
        assert_eq!(parse(SPARK.replace("v1", "v2").as_bytes()).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    proptest! {
        #[test]
        fn a_torn_file_is_never_read_as_another(cut in 0..SPARK.len()) {
            // But for a cut at the end of a line, which a file that is created whole never has.
            prop_assert!(parse(&SPARK.as_bytes()[..cut]).is_err() || cut == 2 || cut == 3);
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
