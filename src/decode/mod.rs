//! Bytes to `RecordBatch`, and a dead letter for what is no record.
//!
//! Every format reads one record at a time straight into growing columns (`column.rs`; `row.rs` has those of one record or
//! nested struct). When a record turns out to be bad, each column is cut back to the rows before it, so
//! one bad record never costs another. `json.rs` walks over the bytes with `scan.rs`, `number.rs` and `temporal.rs`;
//! `csv.rs` (with `pattern.rs`) and `avro.rs` (with `avro_schema.rs` and `registry.rs`) read theirs; `metadata.rs` fills the columns that come from the Kafka record itself;
//! `dead_letter.rs` keeps what could not be decoded, and `flaw.rs` is why.

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
};
use base64::{Engine, prelude::BASE64_STANDARD};

use self::{
    avro::Avro,
    column::Column as Growing,
    csv::Csv,
    dead_letter::DeadLetters,
    flaw::{Flaw, Step},
    json::Json,
    row::{FirstFlaw, Row},
};
use crate::{
    catalog::{Column, DecodeOptions, KafkaColumn, ParseMode, PayloadFormat},
    error::{Error, ErrorKind, Result, nearest},
    kafka::KafkaRecord,
};

mod avro;
mod avro_schema;
mod column;
mod csv;
pub mod dead_letter;
mod flaw;
mod json;
mod metadata;
mod number;
mod pattern;
mod registry;
mod row;
mod scan;
mod temporal;

pub(crate) use self::pattern::Pattern as TimePattern;

/// Turns the records of one Kafka table into record batches with the columns that a query needs.
#[derive(Debug)]
pub struct RecordDecoder {
    schema: SchemaRef,
    mode: ParseMode,
    format: Format,
    /// The projected columns that the payload fills.
    row: Row,
    metadata: Vec<(KafkaColumn, Growing)>,
    /// The text of bad records, if that column is projected.
    corrupt: Option<Growing>,
    /// Where each column of `schema` grows.
    places: Vec<Place>,
    dead_letters: DeadLetters,
    /// Since the last flush.
    pushed: usize,
    bad: u64,
    /// Bytes of records since the buffers were last measured.
    unmeasured: usize,
    full: bool,
}

/// What `flush` gives.
#[derive(Debug)]
pub struct Decoded {
    /// The rows, in the order in which their records were pushed.
    pub rows: RecordBatch,
    /// Bad records in the dead-letter schema (`dead_letter::schema()`); `None` when there are none to keep.
    pub dead_letters: Option<RecordBatch>,
    /// Records that gave no row: those in `dead_letters`, and the ones dropped by DROPMALFORMED.
    pub bad: u64,
}

/// A batch of this many rows fits the caches: larger ones were measured slower.
pub const ROWS_PER_BATCH: usize = 8192;

/// A batch that holds this much is full, however few its rows are.
pub const BATCH_BYTES_MAX: usize = 32 << 20;

/// Bytes of records after which the buffers are measured again.
const MEASURE_EVERY_BYTES: usize = 256 << 10;

#[derive(Debug)]
enum Format {
    Json(Json),
    Csv(Csv),
    Avro(Avro),
    Raw,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Payload(usize),
    Metadata(usize),
    Corrupt,
}

impl RecordDecoder {
    /// `columns` are the table's; `projection` (indices into them, ascending) are the ones to produce. Only those
    /// are parsed and checked; the rest of a record need only be well formed.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` for a column type that the format cannot give; names the column.
    pub fn new(columns: &[Column], projection: &[usize], options: &DecodeOptions) -> Result<Self> {
        let corrupt_name = corrupt_column(columns, options)?;
        let is_corrupt = |column: &Column| corrupt_name == Some(column.name.as_str());
        for column in columns {
            check_column(column, is_corrupt(column), options)?;
        }
        let (mut fields, mut places) = (Vec::new(), Vec::new());
        let (mut payload, mut metadata, mut corrupt) = (Vec::new(), Vec::new(), None);
        for index in projection {
            let Some(column) = columns.get(*index) else {
                return Err(Error::internal(format!("column {index} of {} is projected", columns.len())));
            };
            fields.push(field(column));
            if let Some(kafka) = column.metadata {
                places.push(Place::Metadata(metadata.len()));
                metadata.push((kafka, Growing::new(field(column))?));
            } else if is_corrupt(column) {
                places.push(Place::Corrupt);
                corrupt = Some(Growing::new(field(column))?);
            } else {
                places.push(Place::Payload(payload.len()));
                payload.push(field(column));
            }
        }
        let declared = columns.iter().filter(|column| column.metadata.is_none() && !is_corrupt(column));
        let format = format(options, declared, &payload)?;
        Ok(Self {
            schema: Arc::new(Schema::new(fields)),
            mode: options.mode,
            format,
            row: Row::new(payload.into_iter())?,
            metadata,
            corrupt,
            places,
            dead_letters: DeadLetters::new()?,
            pushed: 0,
            bad: 0,
            unmeasured: 0,
            full: false,
        })
    }

    /// The schema of `Decoded::rows`: the projected columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Adds records. A bad one is handled by the mode, and never touches another.
    ///
    /// # Errors
    /// `BadRecord` in FAILFAST, naming topic, partition, offset and reason; `Unavailable` when a schema registry
    /// does not answer. The records before the one that failed are in the batch.
    pub fn push(&mut self, records: &[KafkaRecord<'_>]) -> Result<()> {
        records.iter().try_for_each(|record| self.push_one(record))
    }

    /// Adds records until the batch is full, and says how many it took: flush, then come back with the rest.
    ///
    /// # Errors
    /// As `push`.
    pub fn push_until_full(&mut self, records: &[KafkaRecord<'_>]) -> Result<usize> {
        for (taken, record) in records.iter().enumerate() {
            if self.is_full() {
                return Ok(taken);
            }
            self.push_one(record)?;
        }
        Ok(records.len())
    }

    /// `ROWS_PER_BATCH` records or `BATCH_BYTES_MAX` bytes are in: time to flush.
    pub fn is_full(&self) -> bool {
        self.full || self.pushed >= ROWS_PER_BATCH
    }

    /// Records pushed since the last flush, good and bad.
    pub fn len(&self) -> usize {
        self.pushed
    }

    /// Rows since the last flush: the records that were good.
    pub fn rows(&self) -> usize {
        self.pushed - usize::try_from(self.bad).unwrap_or(self.pushed)
    }

    /// No record since the last flush.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows so far; the decoder is empty afterwards and ready for more.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn flush(&mut self) -> Result<Decoded> {
        (self.pushed, self.unmeasured, self.full) = (0, 0, false);
        if let Format::Avro(avro) = &mut self.format {
            avro.forget_unknown();
        }
        let (rows, payload) = self.row.finish()?;
        let metadata = self.metadata.iter_mut().map(|(_, column)| column.finish()).collect::<Result<Vec<_>>>()?;
        let corrupt = self.corrupt.as_mut().map(Growing::finish).transpose()?;
        let array = |place: &Place| match place {
            Place::Payload(index) => payload.get(*index).cloned(),
            Place::Metadata(index) => metadata.get(*index).cloned(),
            Place::Corrupt => corrupt.clone(),
        };
        // Without a column (`SELECT count(*)`) the batch still knows how many rows it has.
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let arrays = self.places.iter().filter_map(array).collect();
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map_err(|error| Error::internal(format!("decoded columns: {error}")))?;
        Ok(Decoded { rows, dead_letters: self.dead_letters.finish()?, bad: std::mem::take(&mut self.bad) })
    }

    #[inline]
    fn push_one(&mut self, record: &KafkaRecord<'_>) -> Result<()> {
        if let (Format::Avro(avro), Some(value)) = (&mut self.format, record.value) {
            avro.prepare(value)?;
        }
        if let Err(flaw) = self.append(record) {
            self.roll_back();
            self.bad_record(record, *flaw)?;
        }
        self.pushed += 1;
        self.unmeasured += record.value.map_or(0, <[u8]>::len) + record.key.map_or(0, <[u8]>::len);
        if self.unmeasured >= MEASURE_EVERY_BYTES {
            self.measure();
        }
        Ok(())
    }

    /// Appends the record to every column, or to some of them and says what is wrong.
    #[inline]
    fn append(&mut self, record: &KafkaRecord<'_>) -> Step<()> {
        let mut flaw = self.append_payload(record)?;
        for (kafka, column) in &mut self.metadata {
            if let Err(other) = metadata::push(column, *kafka, record) {
                let other = other.named(column.field.name());
                if self.mode != ParseMode::Permissive || *other == Flaw::Full {
                    return Err(other);
                }
                column.truncate(self.row.len - 1);
                column.push_null()?;
                flaw.get_or_insert(other);
            }
        }
        if let Some(corrupt) = &mut self.corrupt {
            // Avro is no text: its bytes are kept as base64.
            let binary = matches!(self.format, Format::Avro(_));
            match (flaw, record.value) {
                (Some(_), Some(value)) if binary => corrupt.push_bytes(BASE64_STANDARD.encode(value).as_bytes())?,
                (Some(_), Some(value)) => corrupt.push_bytes(String::from_utf8_lossy(value).as_bytes())?,
                _ => corrupt.push_null()?,
            }
        }
        Ok(())
    }

    #[inline]
    fn append_payload(&mut self, record: &KafkaRecord<'_>) -> Step<FirstFlaw> {
        let read = match (&mut self.format, record.value) {
            (Format::Raw, _) => self.row.close().map(|()| None),
            (_, None) => Err(Flaw::malformed("no value: the record is a tombstone")),
            (Format::Json(json), Some(value)) => json.read(value, &mut self.row),
            (Format::Csv(csv), Some(value)) => csv.read(value, &mut self.row),
            (Format::Avro(avro), Some(value)) => avro.read(value, &mut self.row),
        };
        match read {
            Err(flaw) if self.mode == ParseMode::Permissive && *flaw != Flaw::Full => {
                self.row.push_nulls()?;
                Ok(Some(flaw))
            }
            read => read,
        }
    }

    /// Cuts every column back to the rows before the record that is being read.
    #[cold]
    fn roll_back(&mut self) {
        // The payload's columns may have taken the record before another column refused it.
        let rows = usize::try_from(self.pushed as u64 - self.bad).unwrap_or(usize::MAX);
        self.row.truncate(rows);
        self.metadata.iter_mut().for_each(|(_, column)| column.truncate(rows));
        self.corrupt.iter_mut().for_each(|column| column.truncate(rows));
    }

    #[cold]
    fn bad_record(&mut self, record: &KafkaRecord<'_>, flaw: Flaw) -> Result<()> {
        let place = || format!("topic {}, partition {}, offset {}", record.topic, record.partition, record.offset);
        let full = || {
            Error::internal(format!("{}: a batch of more than 2 GiB of text", place()))
                .help("a defect: the batch should have been flushed when it was full")
        };
        let reason = match flaw {
            Flaw::Malformed(reason) | Flaw::Field(reason) => reason,
            Flaw::Full => return Err(full()),
        };
        match self.mode {
            ParseMode::FailFast => {
                return Err(Error::new(ErrorKind::BadRecord, format!("{}: {reason}", place())).help(
                    "mode = 'FAILFAST' stops at the first bad record; without it they are kept as dead letters",
                ));
            }
            ParseMode::DeadLetter => self.dead_letters.push(record, &reason).map_err(|_| full())?,
            ParseMode::DropMalformed | ParseMode::Permissive => {}
        }
        self.bad += 1;
        Ok(())
    }

    #[cold]
    fn measure(&mut self) {
        self.unmeasured = 0;
        let others = self.metadata.iter().map(|(_, column)| column).chain(&self.corrupt);
        let bytes = self.row.buffered_bytes() + others.map(Growing::buffered_bytes).sum::<usize>();
        self.full = bytes + self.dead_letters.buffered_bytes() >= BATCH_BYTES_MAX;
    }
}

fn field(column: &Column) -> FieldRef {
    Arc::new(Field::new(&column.name, column.data_type.clone(), column.nullable))
}

/// The reader for the payload; `declared` are the columns that a payload has, `projected` the ones that are wanted.
fn format<'a>(
    options: &DecodeOptions,
    declared: impl Iterator<Item = &'a Column>,
    projected: &[FieldRef],
) -> Result<Format> {
    let lenient = options.mode == ParseMode::Permissive;
    Ok(match &options.format {
        PayloadFormat::Json => Format::Json(Json::new(lenient)),
        PayloadFormat::Csv(csv) => {
            let slot = |column: &Column| projected.iter().position(|field| *field.name() == column.name);
            Format::Csv(Csv::new(csv, declared.map(slot).collect(), lenient)?)
        }
        PayloadFormat::Avro(avro) => Format::Avro(Avro::new(avro, lenient)?),
        PayloadFormat::Raw => Format::Raw,
    })
}

/// The name of the column for the text of bad records.
fn corrupt_column<'a>(columns: &[Column], options: &'a DecodeOptions) -> Result<Option<&'a str>> {
    let Some(name) = &options.corrupt_column else { return Ok(None) };
    let Some(column) = columns.iter().find(|column| column.name == *name) else {
        let near = nearest(name, columns.iter().map(|column| column.name.as_str()));
        let error = Error::invalid(format!("columnNameOfCorruptRecord = '{name}' names no column of the table"));
        return Err(error.help(match near {
            Some(near) => format!("did you mean {near}?"),
            None => format!("add {name} STRING to the columns"),
        }));
    };
    if column.data_type != DataType::Utf8 || !column.nullable || column.metadata.is_some() {
        return Err(Error::invalid(format!(
            "column {name} is for corrupt records, so it must be a STRING that can be null"
        ))
        .help(format!("declare {name} STRING")));
    }
    if matches!(options.format, PayloadFormat::Raw) {
        return Err(Error::invalid("columnNameOfCorruptRecord has no use with format = 'raw', where no record is bad")
            .help("take the option away"));
    }
    Ok(Some(name))
}

/// That the format and the mode can fill the column, projected or not.
fn check_column(column: &Column, corrupt: bool, options: &DecodeOptions) -> Result<()> {
    let field = field(column);
    if let Some(kafka) = column.metadata {
        metadata::check(&field, kafka)?;
    } else if matches!(options.format, PayloadFormat::Raw) {
        return Err(Error::invalid(format!("column {}: format = 'raw' has only Kafka's own columns", column.name))
            .help(format!("declare it METADATA FROM one of {}", KafkaColumn::ALL.map(KafkaColumn::name).join(", "))));
    } else if !corrupt {
        if matches!(options.format, PayloadFormat::Csv(_)) && field.data_type().is_nested() {
            return Err(Error::unsupported(format!(
                "column {}: a CSV field cannot give {}",
                column.name,
                field.data_type()
            ))
            .help("declare STRING and take it apart in the query"));
        }
        Growing::new(field)?;
    }
    let can_be_null = column.metadata.is_none_or(metadata::optional);
    if options.mode == ParseMode::Permissive && can_be_null && !column.nullable {
        let name = &column.name;
        return Err(Error::invalid(format!(
            "column {name} is NOT NULL, but mode = 'PERMISSIVE' makes what is bad null"
        ))
        .help(format!("declare {name} without NOT NULL, or choose another mode")));
    }
    Ok(())
}
