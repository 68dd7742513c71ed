//! Rows as text or Parquet, batch by batch.

use std::io::Write;

use arrow::{
    array::RecordBatch,
    csv::{Writer as CsvWriter, WriterBuilder as CsvWriterBuilder},
    datatypes::SchemaRef,
    json::{
        Writer as JsonWriter, WriterBuilder as JsonWriterBuilder,
        writer::{JsonArray, LineDelimited},
    },
    util::{display::FormatOptions, pretty::pretty_format_batches_with_schema},
};
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};

use crate::error::{Error, Result};

/// The rows of a table that are shown, unless told otherwise.
pub const TABLE_ROWS_DEFAULT: usize = 40;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// A table for people; the first rows only
    Table,
    /// Comma-separated values with a header
    Csv,
    /// One array of objects
    Json,
    /// One object per line
    Ndjson,
    /// A Parquet file (needs --output)
    Parquet,
}

/// Writes the rows of one statement. Only the table holds rows back, and no more than it shows.
pub enum ResultWriter<W: Write + Send> {
    Table { out: W, schema: SchemaRef, shown: Vec<RecordBatch>, rows: usize, rows_max: usize, more: bool },
    Csv(Box<CsvWriter<W>>, SchemaRef, bool),
    Json(Box<JsonWriter<W, JsonArray>>),
    Ndjson(Box<JsonWriter<W, LineDelimited>>),
    Parquet(Box<ArrowWriter<W>>),
}

impl<W: Write + Send> std::fmt::Debug for ResultWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResultWriter")
    }
}

impl<W: Write + Send> ResultWriter<W> {
    /// `rows_max` is for the table; 0 means all.
    ///
    /// # Errors
    /// `Invalid` for a schema that the format cannot hold.
    pub fn new(format: OutputFormat, schema: &SchemaRef, rows_max: usize, out: W) -> Result<Self> {
        Ok(match format {
            OutputFormat::Table => {
                let rows_max = if rows_max == 0 { usize::MAX } else { rows_max };
                Self::Table { out, schema: schema.clone(), shown: Vec::new(), rows: 0, rows_max, more: false }
            }
            OutputFormat::Csv => {
                let nested = schema.fields().iter().find(|field| field.data_type().is_nested());
                if let Some(field) = nested {
                    return Err(Error::invalid(format!("column '{}' is nested, which CSV cannot hold", field.name()))
                        .help("write json, ndjson or parquet"));
                }
                Self::Csv(Box::new(CsvWriterBuilder::new().with_header(true).build(out)), schema.clone(), false)
            }
            OutputFormat::Json => {
                Self::Json(Box::new(JsonWriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(out)))
            }
            OutputFormat::Ndjson => Self::Ndjson(Box::new(
                JsonWriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(out),
            )),
            OutputFormat::Parquet => {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let writer = ArrowWriter::try_new(out, schema.clone(), Some(properties));
                Self::Parquet(Box::new(writer.map_err(as_error)?))
            }
        })
    }

    /// Writes rows; `false` when no more are wanted.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<bool> {
        match self {
            Self::Table { shown, rows, rows_max, more, .. } => {
                let room = *rows_max - *rows;
                *more = batch.num_rows() > room;
                let part = batch.slice(0, batch.num_rows().min(room));
                *rows += part.num_rows();
                shown.push(part);
                return Ok(!*more);
            }
            Self::Csv(writer, _, started) => {
                *started = true;
                writer.write(batch)?;
            }
            Self::Json(writer) => writer.write(batch)?,
            Self::Ndjson(writer) => writer.write(batch)?,
            Self::Parquet(writer) => writer.write(batch).map_err(as_error)?,
        }
        Ok(true)
    }

    /// Writes the end, and gives the output back.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(self) -> Result<W> {
        let mut out = match self {
            Self::Table { mut out, schema, shown, rows, more, .. } => {
                let options = FormatOptions::default();
                // Without rows the header still says what the columns are.
                let table = if shown.is_empty() {
                    pretty_format_batches_with_schema(schema, &shown)?.to_string()
                } else {
                    arrow::util::pretty::pretty_format_batches_with_options(&shown, &options)?.to_string()
                };
                let count = match (rows, more) {
                    (_, true) => format!("(the first {rows} rows; --max-rows 0 shows all)"),
                    (1, false) => "(1 row)".to_owned(),
                    (_, false) => format!("({rows} rows)"),
                };
                writeln!(out, "{table}\n{count}").map_err(written)?;
                out
            }
            Self::Csv(mut writer, schema, started) => {
                if !started {
                    writer.write(&RecordBatch::new_empty(schema))?;
                }
                writer.into_inner()
            }
            Self::Json(mut writer) => {
                writer.finish()?;
                let mut out = writer.into_inner();
                writeln!(out).map_err(written)?;
                out
            }
            Self::Ndjson(mut writer) => {
                writer.finish()?;
                writer.into_inner()
            }
            Self::Parquet(writer) => writer.into_inner().map_err(as_error)?,
        };
        out.flush().map_err(written)?;
        Ok(out)
    }
}

fn as_error(error: parquet::errors::ParquetError) -> Error {
    Error::invalid(error.to_string())
}

fn written(error: std::io::Error) -> Error {
    use crate::error::ErrorKind;
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("writing the result failed: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{Int64Array, StringArray},
        datatypes::{DataType, Field, Schema},
    };

    use super::*;

    fn rows() -> RecordBatch {
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8, true)]);
        let n = Int64Array::from(vec![Some(1), None, Some(3)]);
        let s = StringArray::from(vec![Some("a,b"), Some("c"), None]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(n), Arc::new(s)]).unwrap()
    }

    fn written(format: OutputFormat, rows_max: usize, batches: &[RecordBatch]) -> String {
        let mut writer = ResultWriter::new(format, &rows().schema(), rows_max, Vec::new()).unwrap();
        for batch in batches {
            if !writer.write(batch).unwrap() {
                break;
            }
        }
        String::from_utf8(writer.finish().unwrap()).unwrap()
    }

    #[test]
    fn text_formats() {
        let batches = [rows(), rows().slice(0, 1)];
        assert_eq!(written(OutputFormat::Csv, 1, &batches), "n,s\n1,\"a,b\"\n,c\n3,\n1,\"a,b\"\n");
        assert_eq!(written(OutputFormat::Csv, 1, &[]), "n,s\n");
        assert_eq!(
            written(OutputFormat::Ndjson, 1, &batches[..1]),
            "{\"n\":1,\"s\":\"a,b\"}\n{\"n\":null,\"s\":\"c\"}\n{\"n\":3,\"s\":null}\n"
        );
        assert_eq!(written(OutputFormat::Json, 1, &batches[1..]), "[{\"n\":1,\"s\":\"a,b\"}]\n");
        assert_eq!(written(OutputFormat::Json, 1, &[]), "[]\n");
    }

    #[test]
    fn a_table_shows_the_first_rows_and_says_so() {
        let all = written(OutputFormat::Table, 0, &[rows()]);
        assert!(all.contains("| 3 |") && all.ends_with("(3 rows)\n"), "{all}");
        let some = written(OutputFormat::Table, 2, &[rows()]);
        assert!(!some.contains("| 3 |") && some.ends_with("(the first 2 rows; --max-rows 0 shows all)\n"), "{some}");
        let exact = written(OutputFormat::Table, 3, &[rows()]);
        assert!(exact.ends_with("(3 rows)\n"), "{exact}");
        let none = written(OutputFormat::Table, 3, &[]);
        assert!(none.contains("| n | s |") && none.ends_with("(0 rows)\n"), "{none}");
    }
}
