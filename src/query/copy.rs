//! COPY ... TO: Spark's option names as DataFusion's, and nothing that is there is overwritten.

use datafusion::sql::{parser::CopyToStatement, sqlparser::ast::Value};

use super::{
    external::FORMATS,
    format::{FileKind, kind_of},
    options::TextOption,
};
use crate::{
    decode::TimePattern,
    error::{Error, ErrorKind, Result},
    store::Store,
};

/// Spark's names of the compressions of text, and DataFusion's.
const TEXT_COMPRESSIONS: [(&str, &str); 6] = [
    ("none", "UNCOMPRESSED"),
    ("uncompressed", "UNCOMPRESSED"),
    ("gzip", "GZIP"),
    ("bzip2", "BZIP2"),
    ("xz", "XZ"),
    ("zstd", "ZSTD"),
];

/// The same for Parquet, with the levels that a job's files have.
const PARQUET_COMPRESSIONS: [(&str, &str); 6] = [
    ("none", "uncompressed"),
    ("uncompressed", "uncompressed"),
    ("snappy", "snappy"),
    ("gzip", "gzip(6)"),
    ("zstd", "zstd(1)"),
    ("lz4", "lz4_raw"),
];

const DATAFUSION_HELP: &str = "DataFusion's other options have 'format.' in front of their names";

/// Refuses a target that is a file already, or that lies beside the files of a commit log: no reader of the log would
/// see the copy.
///
/// # Errors
/// `Conflict`, `Invalid`; the store's.
pub(super) async fn check_target(target: &str) -> Result<()> {
    let store = Store::open(target).await?;
    let (parent, name) = store.url().rsplit_once('/').unwrap_or_default();
    let is_directory = |it: &&str| !it.is_empty() && !it.ends_with(":/");
    // First, because a file has nothing below it to look at.
    if !target.ends_with('/') && !name.is_empty() && is_directory(&parent) {
        let there = Store::open(parent).await?.stat(name).await?;
        if there.is_some() {
            return Err(Error::new(ErrorKind::Conflict, format!("{target} is there already"))
                .help("COPY overwrites nothing: choose another name, or delete the file first"));
        }
    }
    for directory in [target, parent].into_iter().filter(is_directory) {
        if !Store::open(directory).await?.list("_spark_metadata").await?.is_empty() {
            return Err(Error::invalid(format!(
                "{directory} is the output of a streaming job: its log would not know these files"
            ))
            .help("copy to another directory"));
        }
    }
    Ok(())
}

/// Puts DataFusion's options in the place of Spark's, and says the format and the compression where the name does.
///
/// # Errors
/// `Invalid` for an option that the format does not have, with the nearest name, and for a value.
pub(super) fn translate(copy: &mut CopyToStatement) -> Result<()> {
    let by_name = kind_of(&copy.target).filter(|_| !copy.target.ends_with('/'));
    let kind = match &copy.stored_as {
        Some(name) => FORMATS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, kind)| *kind),
        None => by_name.map(|(kind, _)| kind),
    };
    let Some(kind) = kind else {
        let error = match &copy.stored_as {
            Some(name) => Error::unsupported(format!("files stored as {name}")),
            None => Error::invalid(format!("the name {} does not say the format", copy.target)),
        };
        return Err(error.help("COPY ... TO '...' STORED AS CSV, JSON or PARQUET"));
    };
    copy.stored_as = Some(kind.name().to_uppercase());
    let mut out = Options { kind, pairs: Vec::new(), compression: None, quote: b'"', escape: None };
    for (key, value) in std::mem::take(&mut copy.options) {
        out.add(key, value)?;
    }
    if kind != FileKind::Parquet
        && let Some((_, compression)) = by_name
    {
        let named = compression.to_string();
        let named = if named.is_empty() { "UNCOMPRESSED".to_owned() } else { named };
        let wanted = *out.compression.get_or_insert_with(|| {
            TEXT_COMPRESSIONS.iter().map(|(_, ours)| *ours).find(|ours| *ours == named).unwrap_or("UNCOMPRESSED")
        });
        if wanted != named {
            let target = &copy.target;
            return Err(Error::invalid(format!("the compression {wanted} does not fit the name {target}"))
                .help("readers go by the name: .gz, .bz2, .xz or .zst after .csv or .json"));
        }
    }
    copy.options = out.finish();
    Ok(())
}

/// DataFusion's options so far.
struct Options {
    kind: FileKind,
    pairs: Vec<(String, Value)>,
    compression: Option<&'static str>,
    quote: u8,
    escape: Option<u8>,
}

impl Options {
    fn add(&mut self, key: String, value: Value) -> Result<()> {
        let text = match &value {
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => text.clone(),
            other => other.to_string(),
        };
        let option = match TextOption::parse(&key, &text, self.kind) {
            Ok(option) => option,
            // DataFusion's own, which checks it.
            Err(_) if key.contains('.') => {
                self.pairs.push((key, value));
                return Ok(());
            }
            Err(error) if self.kind == FileKind::Parquet => return Err(error.help(DATAFUSION_HELP)),
            Err(error) => return Err(error),
        };
        match option {
            TextOption::Header(header) => self.set("has_header", header),
            TextOption::Delimiter(byte) => self.set("delimiter", char::from(byte)),
            TextOption::Quote(byte) => {
                self.quote = byte;
                self.set("quote", char::from(byte));
            }
            TextOption::Escape(byte) => self.escape = Some(byte),
            TextOption::NullValue(text) => self.set("null_value", text),
            TextOption::TimestampFormat(_) if self.kind == FileKind::Json => {
                return Err(Error::unsupported(format!("COPY to JSON has no option '{key}'"))
                    .help("write the text yourself: SELECT to_char(at, '%d.%m.%Y') AS at"));
            }
            TextOption::TimestampFormat(pattern) => {
                let format = strftime("timestampFormat", &pattern)?;
                self.set("timestamp_format", &format);
                self.set("timestamp_tz_format", format);
            }
            TextOption::DateFormat(pattern) => {
                let format = strftime("dateFormat", &pattern)?;
                self.set("date_format", &format);
                self.set("datetime_format", format);
            }
            TextOption::Compression(name) => {
                let known = if self.kind == FileKind::Parquet { PARQUET_COMPRESSIONS } else { TEXT_COMPRESSIONS };
                let Some((_, ours)) = known.iter().find(|(spark, _)| *spark == name) else {
                    let names: Vec<_> = known.iter().map(|(spark, _)| *spark).collect();
                    return Err(Error::invalid(format!("option '{key}' is '{name}', which is no compression here"))
                        .help(format!("there are {}", names.join(", "))));
                };
                self.compression = Some(ours);
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: impl ToString) {
        self.pairs.push((format!("format.{name}"), Value::SingleQuotedString(value.to_string())));
    }

    fn finish(mut self) -> Vec<(String, Value)> {
        if let Some(escape) = self.escape {
            self.set("double_quote", escape == self.quote);
            if escape != self.quote {
                self.set("escape", char::from(escape));
            }
        }
        if let Some(compression) = self.compression {
            self.set("compression", compression);
        }
        self.pairs
    }
}

/// A pattern of Java's letters in the `%` letters of DataFusion's writer.
///
/// # Errors
/// `Invalid` for a pattern that is none; `Unsupported`, naming the letter, for one that has no twin.
fn strftime(option: &str, pattern: &str) -> Result<String> {
    TimePattern::new(option, pattern)?;
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(letter) = rest.chars().next() {
        let count = rest.chars().take_while(|it| *it == letter).count();
        if letter == '\'' {
            let end = rest[1..].find('\'').unwrap_or(0);
            let text = if end == 0 { "'" } else { &rest[1..=end] };
            out += &text.replace('%', "%%");
            rest = &rest[end + 2..];
            continue;
        }
        if !letter.is_ascii_alphabetic() && !matches!(letter, '[' | ']') {
            if letter == '%' {
                out.push('%');
            }
            out.push(letter);
            rest = &rest[letter.len_utf8()..];
            continue;
        }
        out += match (letter, count) {
            ('y' | 'u', 2) => "%y",
            ('y' | 'u', _) => "%Y",
            ('M' | 'L', 1) => "%-m",
            ('M' | 'L', 2) => "%m",
            ('M' | 'L', 3) => "%b",
            ('M' | 'L', _) => "%B",
            ('d', 1) => "%-d",
            ('d', _) => "%d",
            ('D', 3) => "%j",
            ('E', 4) => "%A",
            ('E', _) => "%a",
            ('a', _) => "%p",
            ('H', 1) => "%-H",
            ('H', _) => "%H",
            ('h', 1) => "%-I",
            ('h', _) => "%I",
            ('m', 1) => "%-M",
            ('m', _) => "%M",
            ('s', 1) => "%-S",
            ('s', _) => "%S",
            ('S', 3) => "%3f",
            ('S', 6) => "%6f",
            ('S', 9) => "%9f",
            _ => {
                let text = format!("{option} = '{pattern}' has {}, which COPY cannot write", &rest[..count]);
                return Err(Error::unsupported(text)
                    .help("write the text yourself: SELECT to_char(at, '%Y-%m-%d %H:%M:%S%:z') AS at"));
            }
        };
        rest = &rest[count..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn javas_letters_as_percent_letters() {
        assert_eq!(strftime("timestampFormat", "dd.MM.yyyy'T'H:mm:ss.SSS").unwrap(), "%d.%m.%YT%-H:%M:%S.%3f");
        assert_eq!(strftime("timestampFormat", "EEE d MMM yy h a '%'''").unwrap(), "%a %-d %b %y %-I %p %%'");
        for (pattern, letters) in [("HH:mmXXX", "XXX"), ("ss[.SSS]", "["), ("ss.SS", "SS"), ("kk", "kk")] {
            let error = strftime("timestampFormat", pattern).unwrap_err();
            assert!(error.message().contains(&format!("has {letters},")), "{error}");
        }
    }
}
