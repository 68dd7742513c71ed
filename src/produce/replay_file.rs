//! Reading a file of records chunk by chunk: JSON lines as they are, CSV and Parquet rows as JSON objects.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    ops::Range,
    path::Path,
    sync::Arc,
};

use arrow::{
    array::{Array, AsArray, RecordBatch, StringArray},
    compute::{CastOptions, cast_with_options},
    csv::reader::Format as CsvFormat,
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMillisecondType},
    error::ArrowError,
    json::WriterBuilder,
};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{
    error::{Error, ErrorKind, Result, nearest},
    produce::text::parse_time_us,
};

/// Rows of a chunk: small, so that a wish to stop is heard soon.
const CHUNK_ROWS: usize = 1_024;
/// A line that is longer is no record.
const LINE_MAX_BYTES: u64 = 16 << 20;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    JsonLines,
    Csv,
    Parquet,
}

impl FileFormat {
    /// By the file's extension.
    ///
    /// # Errors
    /// `Invalid` for another one.
    pub fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("jsonl" | "ndjson" | "json") => Ok(Self::JsonLines),
            Some("csv") => Ok(Self::Csv),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err(Error::invalid(format!("'{}' does not say its format", path.display()))
                .help("name it: --format csv, jsonl or parquet")),
        }
    }
}

/// Which columns mean something.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    pub key: Option<String>,
    pub time: Option<String>,
    /// Names for a CSV file that has no header.
    pub names: Option<Vec<String>>,
}

/// Some records of the file.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    value: Range<usize>,
    key: Option<Range<usize>>,
    time_ms: Option<i64>,
}

impl Chunk {
    /// Key, value and event time (ms since the epoch) of each record.
    pub fn rows(&self) -> impl Iterator<Item = (Option<&[u8]>, &[u8], Option<i64>)> {
        let bytes = &self.bytes;
        self.rows
            .iter()
            .map(move |row| (row.key.clone().map(|key| &bytes[key]), &bytes[row.value.clone()], row.time_ms))
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
    }

    fn push(&mut self, value: &[u8], key: Option<&[u8]>, time_ms: Option<i64>) {
        let value = self.add(value);
        let key = key.map(|key| self.add(key));
        self.rows.push(Row { value, key, time_ms });
    }

    fn add(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }
}

/// A file that is read from front to back.
pub enum Reader {
    Lines(LineReader),
    Table(TableReader),
}

impl Reader {
    /// # Errors
    /// `NotFound`, `PermissionDenied`; `Invalid` for a column that is not there or a file that is no such file.
    pub fn open(path: &Path, format: FileFormat, columns: Columns) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::Internal,
            };
            Error::new(kind, format!("'{name}' cannot be read")).source_error(error)
        })?;
        if columns.names.is_some() && format != FileFormat::Csv {
            return Err(Error::invalid("--columns names the columns of a CSV file without a header; this is none"));
        }
        let reader = match format {
            FileFormat::JsonLines => {
                let file = BufReader::new(file);
                return Ok(Self::Lines(LineReader { file, name, columns, line: Vec::new(), number: 0 }));
            }
            FileFormat::Csv => csv_reader(file, columns.names.as_deref()),
            FileFormat::Parquet => parquet_reader(file),
        };
        let (schema, batches) = reader.map_err(|error| Error::from(error).context(&name))?;
        for wanted in columns.key.iter().chain(&columns.time) {
            if schema.column_with_name(wanted).is_none() {
                let names = schema.fields().iter().map(|field| field.name().as_str());
                let near = nearest(wanted, names.clone());
                let help = near.map_or_else(
                    || format!("it has {}", names.collect::<Vec<_>>().join(", ")),
                    |near| format!("did you mean '{near}'?"),
                );
                return Err(Error::invalid(format!("'{name}' has no column '{wanted}'")).help(help));
            }
        }
        Ok(Self::Table(TableReader { batches, name, columns, json: Vec::new(), row: 0 }))
    }

    /// The next records, in place of the chunk's; false at the end.
    ///
    /// # Errors
    /// `Invalid` for a record that is none, with the file's name and the line.
    pub fn next_chunk(&mut self, chunk: &mut Chunk) -> Result<bool> {
        chunk.clear();
        match self {
            Self::Lines(lines) => lines.fill(chunk)?,
            Self::Table(table) => table.fill(chunk)?,
        }
        Ok(!chunk.rows.is_empty())
    }
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// The types come from the whole file: a column is a number only if every value is one. Times stay the text they are.
fn csv_reader(mut file: File, names: Option<&[String]>) -> Result<(SchemaRef, Batches), ArrowError> {
    let format = CsvFormat::default().with_header(names.is_none());
    let (inferred, _) = format.infer_schema(&mut file, None)?;
    if let Some(names) = names
        && names.len() != inferred.fields().len()
    {
        let (named, found) = (names.len(), inferred.fields().len());
        return Err(ArrowError::CsvError(format!("--columns names {named} columns, the first line has {found}")));
    }
    let fields = inferred.fields().iter().enumerate().map(|(index, field)| {
        let name = names.map_or(field.name(), |names| &names[index]);
        let data_type = match field.data_type() {
            kept @ (DataType::Int64 | DataType::Float64 | DataType::Boolean) => kept.clone(),
            _ => DataType::Utf8,
        };
        Field::new(name, data_type, true)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    file.rewind()?;
    let reader = arrow::csv::ReaderBuilder::new(Arc::clone(&schema))
        .with_header(names.is_none())
        .with_batch_size(CHUNK_ROWS)
        .build_buffered(BufReader::new(file))?;
    Ok((schema, Box::new(reader)))
}

fn parquet_reader(file: File) -> Result<(SchemaRef, Batches), ArrowError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let schema = Arc::clone(builder.schema());
    let reader: ParquetRecordBatchReader = builder.with_batch_size(CHUNK_ROWS).build()?;
    Ok((schema, Box::new(reader)))
}

/// CSV or Parquet.
pub struct TableReader {
    batches: Batches,
    name: String,
    columns: Columns,
    json: Vec<u8>,
    /// Rows of the chunks before.
    row: usize,
}

impl TableReader {
    fn fill(&mut self, chunk: &mut Chunk) -> Result<()> {
        let batch = loop {
            match self.batches.next() {
                None => return Ok(()),
                Some(Ok(batch)) if batch.num_rows() == 0 => {}
                Some(batch) => break batch.map_err(|error| Error::from(error).context(&self.name))?,
            }
        };
        let failed = |error: ArrowError| Error::from(error).context(&self.name);
        let column = |name: &Option<String>| name.as_ref().and_then(|name| batch.column_by_name(name));
        let keys = column(&self.columns.key).map(text_column).transpose().map_err(failed)?;
        let times = column(&self.columns.time)
            .map(|column| time_column(column.as_ref()))
            .transpose()
            .map_err(|(row, reason)| Error::invalid(format!("{}, row {}: {reason}", self.name, self.row + row + 1)))?;
        self.json.clear();
        let mut writer = WriterBuilder::new()
            .with_explicit_nulls(true)
            .build::<_, arrow::json::writer::LineDelimited>(&mut self.json);
        writer.write(&batch).and_then(|()| writer.finish()).map_err(failed)?;
        // JSON escapes line breaks, so each line is a row.
        let lines = self.json.split(|byte| *byte == b'\n').take(batch.num_rows());
        for (row, line) in lines.enumerate() {
            let key = keys.as_ref().filter(|keys| keys.is_valid(row)).map(|keys| keys.value(row).as_bytes());
            chunk.push(line, key, times.as_ref().and_then(|times| times[row]));
        }
        self.row += batch.num_rows();
        Ok(())
    }
}

fn text_column(column: &Arc<dyn Array>) -> Result<StringArray, ArrowError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(column, &DataType::Utf8, &options)?.as_string::<i32>().clone())
}

/// Milliseconds since the epoch of a column of timestamps, dates, text or (whole) milliseconds; else the row and why not.
fn time_column(column: &dyn Array) -> Result<Vec<Option<i64>>, (usize, String)> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let whole = |error: ArrowError| (0, error.to_string());
    match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = cast_with_options(column, &DataType::Utf8, &options).map_err(whole)?;
            let texts = texts.as_string::<i32>();
            let parse = |(row, text): (usize, Option<&str>)| {
                let parsed = text.map(parse_time_us).transpose();
                parsed.map(|us| us.map(|us| us.div_euclid(1_000))).map_err(|error| (row, error.message().to_owned()))
            };
            texts.iter().enumerate().map(parse).collect()
        }
        data_type if data_type.is_integer() => {
            let numbers = cast_with_options(column, &DataType::Int64, &options).map_err(whole)?;
            Ok(numbers.as_primitive::<Int64Type>().iter().collect())
        }
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            let wanted = DataType::Timestamp(TimeUnit::Millisecond, None);
            let times = cast_with_options(column, &wanted, &options).map_err(whole)?;
            Ok(times.as_primitive::<TimestampMillisecondType>().iter().collect())
        }
        other => Err((0, format!("a column of type {other} is no time"))),
    }
}

/// JSON lines, kept byte for byte.
pub struct LineReader {
    file: BufReader<File>,
    name: String,
    columns: Columns,
    line: Vec<u8>,
    number: usize,
}

impl LineReader {
    fn fill(&mut self, chunk: &mut Chunk) -> Result<()> {
        while chunk.rows.len() < CHUNK_ROWS {
            self.line.clear();
            let mut limited = (&mut self.file).take(LINE_MAX_BYTES);
            let read = limited.read_until(b'\n', &mut self.line);
            let bytes =
                read.map_err(|error| Error::internal(format!("'{}' cannot be read", self.name)).source_error(error))?;
            if bytes == 0 {
                break;
            }
            self.number += 1;
            let wrong = |reason: String| Error::invalid(format!("{}, line {}: {reason}", self.name, self.number));
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
                if self.line.last() == Some(&b'\r') {
                    self.line.pop();
                }
            } else if u64::try_from(bytes).is_ok_and(|bytes| bytes >= LINE_MAX_BYTES) {
                return Err(wrong(format!("the line is longer than {LINE_MAX_BYTES} bytes")));
            }
            if self.line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let (key, time_ms) = pick(&self.line, &self.columns).map_err(|flaw| match flaw {
                Flaw::Record(reason) => wrong(reason),
                Flaw::Missing(option, name) => wrong(format!("the record has no field '{name}'"))
                    .help(format!("{option} names a field that every record has; its value may be null")),
            })?;
            chunk.push(&self.line, key.as_deref().map(str::as_bytes), time_ms);
        }
        Ok(())
    }
}

/// Why a line is not sent.
enum Flaw<'c> {
    Record(String),
    /// The option, and the field that it names.
    Missing(&'static str, &'c str),
}

/// The key and the time of a JSON object; checks the whole of it.
fn pick<'a, 'c>(line: &'a [u8], columns: &'c Columns) -> Result<(Option<Cow<'a, str>>, Option<i64>), Flaw<'c>> {
    let mut parser = serde_json::Deserializer::from_slice(line);
    let picked = Pick(columns).deserialize(&mut parser).and_then(|picked| parser.end().map(|()| picked));
    let (key, time) = picked.map_err(|error| Flaw::Record(format!("no JSON object: {error}")))?;
    let fields = [("--key-column", &columns.key, key), ("--time-column", &columns.time, time)];
    for (option, name, _) in fields.iter().filter(|(.., value)| value.is_none()) {
        if let Some(name) = name {
            return Err(Flaw::Missing(option, name));
        }
    }
    let time = time.filter(|time| time.get() != "null");
    let time_ms = time.map(|time| raw_time_ms(time.get())).transpose().map_err(Flaw::Record)?;
    Ok((key.filter(|key| key.get() != "null").map(|key| raw_text(key.get())), time_ms))
}

struct Pick<'c>(&'c Columns);
type Picked<'a> = (Option<&'a RawValue>, Option<&'a RawValue>);

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = Picked<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Picked<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut key, mut time) = (None, None);
        while let Some(name) = map.next_key::<Name<'de>>()? {
            let is = |column: &Option<String>| column.as_deref() == Some(name.0.as_ref());
            let (is_key, is_time) = (is(&self.0.key), is(&self.0.time));
            if is_key || is_time {
                let value: &RawValue = map.next_value()?;
                key = if is_key { Some(value) } else { key };
                time = if is_time { Some(value) } else { time };
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok((key, time))
    }
}

/// A field's name, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A string's content, anything else as it is written.
fn raw_text(raw: &str) -> Cow<'_, str> {
    match serde_json::from_str::<String>(raw) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(raw),
    }
}

fn raw_time_ms(raw: &str) -> Result<i64, String> {
    parse_time_us(&raw_text(raw)).map(|us| us.div_euclid(1_000)).map_err(|error| error.message().to_owned())
}
