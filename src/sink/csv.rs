//! RecordBatch to CSV, byte for byte as Spark writes it, but for two places where Spark loses data:
//!
//! - Spark trims every value, and writes a blank string as `""`. We write strings as they are.
//! - Spark writes no line for a null in a file of a single column. We write `""`, which Spark reads as null.
//!
//! A string that equals `nullValue` reads back as null, there as here: choose a `nullValue` that is not in the data.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::Schema};

use super::text::{TextColumn, TextFormat, Values, has_text};
use crate::{
    catalog::CsvOptions,
    error::{Error, Result},
};

/// Encodes batches of one schema.
#[derive(Debug)]
pub struct CsvEncoder {
    formats: Vec<Arc<TextFormat>>,
    /// Columns whose text is checked for quoting although it is no string.
    checked: Vec<bool>,
    dialect: Dialect,
    header: Vec<u8>,
    /// What stands for null, already quoted if it must be.
    null: Vec<u8>,
}

#[derive(Debug)]
struct Dialect {
    delimiter: u8,
    quote: u8,
    escape: u8,
    /// Bytes that make a value quoted: delimiter, quote, LF and CR.
    special: [bool; 256],
}

/// A guess that spares most growing of the buffer.
const BYTES_PER_VALUE: usize = 12;

impl CsvEncoder {
    /// # Errors
    /// `Invalid` for a column that has no text (it is named), and for options that contradict one another.
    pub fn new(schema: &Schema, options: &CsvOptions) -> Result<Self> {
        let dialect = Dialect::new(options)?;
        let mut formats = Vec::with_capacity(schema.fields().len());
        let mut checked = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            if !has_text(field.data_type()) {
                let text = format!("column '{}' of type {} cannot be written as CSV", field.name(), field.data_type());
                return Err(
                    Error::invalid(text).help("cast it to a string, select its parts, or use format = 'parquet'")
                );
            }
            let (timestamp, date) = (options.timestamp_format.as_deref(), options.date_format.as_deref());
            let format = TextFormat::file(field.data_type(), timestamp, date)
                .map_err(|error| error.context(format!("column '{}'", field.name())))?;
            checked.push(format.is_custom() || dialect.collides_with_numbers());
            formats.push(Arc::new(format));
        }
        let mut null = Vec::new();
        if !options.null_value.is_empty() {
            dialect.write_string(&mut null, options.null_value.as_bytes(), true);
        } else if formats.len() == 1 {
            null.extend_from_slice(&[options.quote, options.quote]);
        }
        let mut header = Vec::new();
        if options.header {
            for (i, field) in schema.fields().iter().enumerate() {
                if i > 0 {
                    header.push(options.delimiter);
                }
                dialect.write_string(&mut header, field.name().as_bytes(), i == 0);
            }
            header.push(b'\n');
        }
        Ok(Self { formats, checked, dialect, header, null })
    }

    /// The first line of every file; empty without the option `header`.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Appends one line per row.
    ///
    /// # Errors
    /// `Internal`: the batch is of another schema.
    pub fn encode(&self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        if rows.num_columns() != self.formats.len() {
            return Err(Error::internal(format!("{} columns, not {}", rows.num_columns(), self.formats.len())));
        }
        let mut columns = Vec::with_capacity(self.formats.len());
        for ((array, format), checked) in rows.columns().iter().zip(&self.formats).zip(&self.checked) {
            let column = TextColumn::new(array, format)?;
            let quoting = self.quoting(&column, *checked, columns.is_empty());
            columns.push((column, quoting));
        }
        out.reserve(rows.num_rows() * columns.len() * BYTES_PER_VALUE);
        for row in 0..rows.num_rows() {
            for (i, (column, quoting)) in columns.iter().enumerate() {
                if i > 0 {
                    out.push(self.dialect.delimiter);
                }
                if column.is_null(row) || matches!(column.values, Values::Null) {
                    out.extend_from_slice(&self.null);
                    continue;
                }
                match quoting {
                    Quoting::Never => column.write(row, out),
                    Quoting::Empty => self.write_clean(column, row, out),
                    Quoting::Check => self.write_checked(column, row, i == 0, out),
                }
            }
            out.push(b'\n');
        }
        Ok(())
    }

    /// One look at all the bytes of a string column spares a look at each value.
    fn quoting(&self, column: &TextColumn, checked: bool, is_first: bool) -> Quoting {
        match &column.values {
            Values::Text(array) => {
                let offsets = array.value_offsets();
                let range = match (offsets.first(), offsets.last()) {
                    (Some(first), Some(last)) => {
                        usize::try_from(*first).unwrap_or(0)..usize::try_from(*last).unwrap_or(0)
                    }
                    _ => 0..0,
                };
                let bytes = array.value_data().get(range).unwrap_or_default();
                let hash = is_first && memchr::memchr(b'#', bytes).is_some();
                if hash || self.dialect.has_special(bytes) { Quoting::Check } else { Quoting::Empty }
            }
            Values::LargeText(_) | Values::TextView(_) => Quoting::Check,
            _ if checked => Quoting::Check,
            _ => Quoting::Never,
        }
    }

    #[inline]
    fn write_clean(&self, column: &TextColumn, row: usize, out: &mut Vec<u8>) {
        let start = out.len();
        column.write(row, out);
        if out.len() == start {
            out.extend_from_slice(&[self.dialect.quote, self.dialect.quote]);
        }
    }

    fn write_checked(&self, column: &TextColumn, row: usize, is_first: bool, out: &mut Vec<u8>) {
        if let Some(text) = column.string(row) {
            return self.dialect.write_string(out, text.as_bytes(), is_first);
        }
        let start = out.len();
        column.write(row, out);
        if self.dialect.needs_quotes(&out[start..], is_first) {
            let text = out.split_off(start);
            self.dialect.write_string(out, &text, is_first);
        }
    }
}

/// What a column of one batch needs.
#[derive(Debug, Clone, Copy)]
enum Quoting {
    /// Numbers: never quoted, never empty.
    Never,
    /// Strings without a special byte: only the empty one is quoted.
    Empty,
    Check,
}

impl Dialect {
    fn new(options: &CsvOptions) -> Result<Self> {
        let CsvOptions { delimiter, quote, escape, .. } = *options;
        for (name, byte) in [("sep", delimiter), ("quote", quote), ("escape", escape)] {
            if matches!(byte, b'\n' | b'\r') || !byte.is_ascii() {
                return Err(Error::invalid(format!("{name} = {:?} cannot be used in CSV", char::from(byte)))
                    .help("use one ASCII character that is no line break"));
            }
        }
        if delimiter == quote || delimiter == escape {
            let text = format!("sep = {:?} is also the quote or escape character", char::from(delimiter));
            return Err(Error::invalid(text).help("choose another sep"));
        }
        let mut special = [false; 256];
        for byte in [delimiter, quote, b'\n', b'\r'] {
            special[usize::from(byte)] = true;
        }
        Ok(Self { delimiter, quote, escape, special })
    }

    fn collides_with_numbers(&self) -> bool {
        [self.delimiter, self.quote].iter().any(|byte| byte.is_ascii_alphanumeric() || b"+-.: ".contains(byte))
    }

    fn has_special(&self, bytes: &[u8]) -> bool {
        memchr::memchr3(self.delimiter, self.quote, b'\n', bytes).is_some() || memchr::memchr(b'\r', bytes).is_some()
    }

    fn needs_quotes(&self, text: &[u8], is_first: bool) -> bool {
        text.is_empty() || (is_first && text[0] == b'#') || text.iter().any(|byte| self.special[usize::from(*byte)])
    }

    /// Inside quotes, quote and escape characters are escaped; outside, nothing is.
    fn write_string(&self, out: &mut Vec<u8>, text: &[u8], is_first: bool) {
        if !self.needs_quotes(text, is_first) {
            return out.extend_from_slice(text);
        }
        out.push(self.quote);
        let mut rest = text;
        while let Some(at) = memchr::memchr2(self.quote, self.escape, rest) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(&[self.escape, rest[at]]);
            rest = &rest[at + 1..];
        }
        out.extend_from_slice(rest);
        out.push(self.quote);
    }
}

#[cfg(test)]
mod tests;
