//! The options of CREATE EXTERNAL TABLE and of COPY: Spark's names, as in a job file, and DataFusion's.

use super::format::FileKind;
use crate::error::{Error, Result, nearest};

/// One option, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TextOption {
    Header(bool),
    Delimiter(u8),
    Quote(u8),
    Escape(u8),
    NullValue(String),
    TimestampFormat(String),
    DateFormat(String),
    Compression(String),
}

/// Spark's name, another that is taken, and the kinds of file that have it.
const NAMES: [(&str, &str, &[FileKind]); 8] = [
    ("header", "has_header", &[FileKind::Csv]),
    ("sep", "delimiter", &[FileKind::Csv]),
    ("quote", "quote", &[FileKind::Csv]),
    ("escape", "escape", &[FileKind::Csv]),
    ("nullValue", "null_value", &[FileKind::Csv]),
    ("timestampFormat", "timestamp_format", &[FileKind::Csv, FileKind::Json]),
    ("dateFormat", "date_format", &[FileKind::Csv]),
    ("compression", "codec", &[FileKind::Csv, FileKind::Json, FileKind::Parquet]),
];

impl TextOption {
    /// Reads `key` = `value`. Names are compared without case, and may have DataFusion's `format.` in front.
    ///
    /// # Errors
    /// `Invalid` for an option that files of this kind do not have, with the nearest name, and for a wrong value.
    pub fn parse(key: &str, value: &str, kind: FileKind) -> Result<Self> {
        let name = key.strip_prefix("format.").unwrap_or(key);
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        let there = || NAMES.iter().filter(|(.., kinds)| kinds.contains(&kind)).map(|(spark, ..)| *spark);
        let Some((spark, ..)) =
            NAMES.iter().find(|(spark, other, kinds)| kinds.contains(&kind) && (is(spark) || is(other)))
        else {
            let error = Error::invalid(format!("{} files have no option '{name}'", kind.name()));
            return Err(match nearest(name, there()) {
                Some(near) => error.help(format!("did you mean '{near}'?")),
                None => error.help(format!("they have {}", there().collect::<Vec<_>>().join(", "))),
            });
        };
        let byte = || match value.as_bytes() {
            [byte] if byte.is_ascii() => Ok(*byte),
            _ if value == "\\t" => Ok(b'\t'),
            _ if value == "\\\\" => Ok(b'\\'),
            _ => Err(Error::invalid(format!("option '{name}' is '{value}', which is not one ASCII character"))
                .help("'\\t' is a tab")),
        };
        Ok(match *spark {
            "header" => Self::Header(value.to_ascii_lowercase().parse().map_err(|_| {
                Error::invalid(format!("option '{name}' is '{value}', which is neither true nor false"))
            })?),
            "sep" => Self::Delimiter(byte()?),
            "quote" => Self::Quote(byte()?),
            "escape" => Self::Escape(byte()?),
            "nullValue" => Self::NullValue(value.to_owned()),
            "timestampFormat" => Self::TimestampFormat(value.to_owned()),
            "dateFormat" => Self::DateFormat(value.to_owned()),
            _ => Self::Compression(value.to_ascii_lowercase()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparks_names_and_datafusions() {
        let csv = |key: &str, value: &str| TextOption::parse(key, value, FileKind::Csv);
        for key in ["sep", "delimiter", "format.delimiter", "SEP"] {
            assert_eq!(csv(key, "\\t").unwrap(), TextOption::Delimiter(b'\t'), "{key}");
        }
        assert_eq!(csv("nullvalue", "NULL").unwrap(), TextOption::NullValue("NULL".to_owned()));
        assert_eq!(csv("has_header", "TRUE").unwrap(), TextOption::Header(true));
        for (key, value, words) in [
            ("hedder", "true", "did you mean 'header'?"),
            ("colour", "red", "they have header, sep"),
            ("header", "maybe", "neither true nor false"),
            ("quote", "''", "not one ASCII character"),
        ] {
            assert!(csv(key, value).unwrap_err().to_string().contains(words), "{key}");
        }
        let error = TextOption::parse("sep", ";", FileKind::Parquet).unwrap_err();
        assert!(error.to_string().contains("parquet files have no option 'sep'"), "{error}");
    }
}
