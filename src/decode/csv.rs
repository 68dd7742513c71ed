//! One CSV line per record, under Spark's rules for `from_csv`: fields go to the payload columns in declared order;
//! a field that equals `nullValue` (nothing, by default) is null, quoted or not; inside quotes the escape character
//! stands before a quote or itself, and line breaks belong to the field. Numbers may have a plus sign and bare points;
//! TRUE and FALSE are read in any case.
//!
//! Stricter than Spark: a line with too few or too many fields, with text after a closing quote, or with a second line
//! after it is bad. In mode PERMISSIVE the fields that are there are kept.

use super::{
    column::{Column, Integer, Store},
    flaw::{Flaw, Step, excerpt},
    json::{push, single_float, special_float, valid_utf8},
    number,
    pattern::Pattern,
    row::{FirstFlaw, Row},
    temporal,
};
use crate::{
    catalog::CsvOptions,
    error::{Error, Result},
};

/// Reads CSV payloads.
#[derive(Debug)]
pub(super) struct Csv {
    lenient: bool,
    options: CsvOptions,
    timestamp: Option<Pattern>,
    date: Option<Pattern>,
    /// For each field of a line: the column of the row that it fills, if that is projected.
    slots: Vec<Option<usize>>,
    /// A quoted field without its escapes.
    scratch: Vec<u8>,
}

impl Csv {
    /// `slots`: for each payload column of the table, its place in the row.
    ///
    /// # Errors
    /// `Invalid` for an option that makes no sense for one line.
    pub fn new(options: &CsvOptions, slots: Vec<Option<usize>>, lenient: bool) -> Result<Self> {
        if options.header {
            return Err(Error::invalid("header = 'true' has no meaning for Kafka records: each one is a single line")
                .help("take the option away; fields go to the columns in declared order"));
        }
        let pattern = |name, text: &Option<String>| text.as_deref().map(|text| Pattern::new(name, text)).transpose();
        Ok(Self {
            lenient,
            timestamp: pattern("timestampFormat", &options.timestamp_format)?,
            date: pattern("dateFormat", &options.date_format)?,
            options: options.clone(),
            slots,
            scratch: Vec::new(),
        })
    }

    /// Appends the record to `row`, which the caller rolls back after an error.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn read(&mut self, payload: &[u8], row: &mut Row) -> Step<FirstFlaw> {
        valid_utf8(payload)?;
        let line = payload.strip_prefix(b"\xef\xbb\xbf").unwrap_or(payload);
        let line = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
        if line.is_empty() {
            return Err(Flaw::malformed("an empty payload"));
        }
        let (mut rest, mut fields, mut first_flaw) = (Some(line), 0, None);
        while let Some(text) = rest {
            let (field, after) = self.field(text)?;
            if let Some(Some(index)) = self.slots.get(fields) {
                let rows = row.len;
                let value = self.plain(field);
                let null = value == self.options.null_value.as_bytes();
                let column = row.open(*index);
                let stored = if null { column.push_null() } else { self.store(value, column) };
                if let Err(flaw) = stored {
                    let flaw = flaw.named(column.field.name());
                    if !self.lenient || *flaw == Flaw::Full {
                        return Err(flaw);
                    }
                    column.truncate(rows);
                    column.push_null()?;
                    first_flaw.get_or_insert(flaw);
                }
            }
            fields += 1;
            rest = after;
        }
        if fields != self.slots.len() {
            let flaw = Flaw::field(format!("{fields} fields instead of {}", self.slots.len()));
            if !self.lenient {
                return Err(flaw);
            }
            first_flaw.get_or_insert(flaw);
        }
        row.close()?;
        Ok(first_flaw)
    }

    /// The first field of `text`, and what follows its delimiter; `None` if it was the last one.
    fn field<'a>(&mut self, text: &'a [u8]) -> Step<(Field<'a>, Option<&'a [u8]>)> {
        let CsvOptions { delimiter, quote, escape, .. } = self.options;
        if text.first() != Some(&quote) {
            let end = memchr::memchr3(delimiter, b'\n', b'\r', text);
            return match end {
                None => Ok((Field::Plain(text), None)),
                Some(at) if text[at] == delimiter => Ok((Field::Plain(&text[..at]), Some(&text[at + 1..]))),
                Some(_) => Err(Flaw::malformed("a second line")),
            };
        }
        self.scratch.clear();
        let mut at = 1;
        loop {
            match (text.get(at), text.get(at + 1)) {
                (None, _) => return Err(Flaw::malformed("a quote is not closed")),
                (Some(byte), Some(next)) if *byte == escape && (*next == quote || *next == escape) => {
                    self.scratch.push(*next);
                    at += 2;
                }
                (Some(byte), None) if *byte == quote => return Ok((Field::Unquoted, None)),
                (Some(byte), Some(next)) if *byte == quote => {
                    return match *next {
                        next if next == delimiter => Ok((Field::Unquoted, Some(&text[at + 2..]))),
                        b'\n' | b'\r' => Err(Flaw::malformed("a second line")),
                        _ => Err(Flaw::malformed(format!("{:?} after a closing quote", excerpt(&text[at + 1..])))),
                    };
                }
                (Some(byte), _) => {
                    self.scratch.push(*byte);
                    at += 1;
                }
            }
        }
    }

    fn plain<'s>(&'s self, field: Field<'s>) -> &'s [u8] {
        match field {
            Field::Plain(text) => text,
            Field::Unquoted => &self.scratch,
        }
    }

    /// Reads `text` as the column's type.
    fn store(&self, text: &[u8], column: &mut Column) -> Step<()> {
        let fits = match &mut column.store {
            Store::Bytes { .. } => return column.push_bytes(text),
            Store::Boolean(values) => push(values, boolean(text)),
            Store::Float { values, single } => push(values, float(text, *single)),
            Store::Decimal { values, precision, scale } => {
                let text = text.strip_prefix(b"+").unwrap_or(text);
                let value = number::scan(text).filter(|number| number.length == text.len());
                push(values, value.and_then(|_| number::decimal(text, *precision, *scale)))
            }
            Store::Integer { values, kind } => push(values, self.integer(text, *kind)),
            Store::List { .. } | Store::Map { .. } | Store::Struct(_) => false,
        };
        if !fits {
            return Err(Flaw::field(format!("{} is no {}", excerpt(text), column.type_name())));
        }
        column.filled();
        Ok(())
    }

    fn integer(&self, text: &[u8], kind: Integer) -> Option<i64> {
        match (kind, &self.timestamp, &self.date) {
            (Integer::Timestamp(unit), Some(pattern), _) => pattern.timestamp(text)?.ticks(unit),
            (Integer::Timestamp(unit), None, _) => temporal::timestamp(text)?.ticks(unit),
            (Integer::Date, _, Some(pattern)) => pattern.date(text),
            (Integer::Date, _, None) => temporal::date(text),
            (Integer::Unsigned(64), ..) => std::str::from_utf8(text).ok()?.parse().ok().map(u64::cast_signed),
            _ => kind.fit(std::str::from_utf8(text).ok()?.parse().ok()?),
        }
    }
}

/// A field of a line.
#[derive(Debug, Clone, Copy)]
enum Field<'a> {
    Plain(&'a [u8]),
    /// It was quoted, and stands in the scratch buffer.
    Unquoted,
}

fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case(b"true") => Some(true),
        _ if text.eq_ignore_ascii_case(b"false") => Some(false),
        _ => None,
    }
}

fn float(text: &[u8], single: bool) -> Option<f64> {
    if let Some(number) = number::scan(text).filter(|number| number.length == text.len() && !single) {
        return number.to_f64(text);
    }
    let numeric = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
    if !text.iter().all(numeric) {
        // The standard library knows more names for infinity than Spark does.
        return special_float(text);
    }
    if single {
        return single_float(text);
    }
    std::str::from_utf8(text).ok()?.parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(line: &str, options: CsvOptions) -> Option<Vec<String>> {
        let mut csv = Csv::new(&options, Vec::new(), false).unwrap();
        let (mut rest, mut found) = (Some(line.as_bytes()), Vec::new());
        while let Some(text) = rest {
            let (field, after) = csv.field(text).ok()?;
            found.push(String::from_utf8(csv.plain(field).to_vec()).unwrap());
            rest = after;
        }
        Some(found)
    }

    #[test]
    fn splits_as_spark_writes() {
        let split = |line: &str| fields(line, CsvOptions::default());
        let expect = |line: &str, expected: &[&str]| assert_eq!(split(line).unwrap(), expected, "{line}");
        expect("a,b,c", &["a", "b", "c"]);
        expect(",,", &["", "", ""]);
        expect(r#""he said \"hi\"",x"#, &[r#"he said "hi""#, "x"]);
        expect(r#""b\\\"q",back\slash,"a\\b,c""#, &[r#"b\"q"#, r"back\slash", r"a\b,c"]);
        expect("\"two\nlines\",1", &["two\nlines", "1"]);
        for bad in ["\"open", "\"a\"b", "a\nb", "\"a\"\n\"b\"", "\"a\\\""] {
            assert_eq!(split(bad), None, "{bad}");
        }
        let doubled = CsvOptions { escape: b'"', delimiter: b';', ..CsvOptions::default() };
        assert_eq!(fields(r#""open"";1"#, doubled.clone()), None);
        assert_eq!(fields(r#""with""quote";\;"""""#, doubled).unwrap(), [r#"with"quote"#, r"\", "\""]);
    }

    #[test]
    fn reads_numbers_as_java_does() {
        for (text, expected) in [
            ("+1.5", Some(1.5)),
            (".5", Some(0.5)),
            ("1.", Some(1.0)),
            ("-1e3", Some(-1000.0)),
            ("inf", None),
            ("1e400", None),
            ("", None),
            (" 1", None),
            ("1d", None),
        ] {
            assert_eq!(float(text.as_bytes(), false), expected, "{text}");
        }
        assert!(float(b"NaN", false).unwrap().is_nan());
        assert_eq!(float(b"-Infinity", true), Some(f64::NEG_INFINITY));
    }
}
