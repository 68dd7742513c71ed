//! RecordBatch to Parquet.
//!
//! What Spark cannot read is stored as the nearest type that it can: nanoseconds become microseconds (the last three
//! digits are cut), seconds become milliseconds, `Date64` becomes a date, half floats become floats.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit},
};
use bytes::Bytes;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression as Codec, GzipLevel, ZstdLevel},
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};

use super::chunks::Chunks;
use crate::{
    catalog::Compression,
    error::{Error, Result},
};

/// A row group is closed when it has this many rows,
pub const ROW_GROUP_ROWS_MAX: usize = 128 << 10;
/// or when its pages and dictionaries take this much memory.
pub const ROW_GROUP_BYTES_MAX: usize = 8 << 20;

/// A column whose dictionary grows beyond this in a row group has values that hardly repeat: it goes on without one.
const DICTIONARY_BYTES_MAX: usize = 256 << 10;

/// Writes one file into memory, from where the caller takes what is done.
pub struct ParquetEncoder {
    writer: ArrowWriter<Chunks>,
    schema: SchemaRef,
}

impl std::fmt::Debug for ParquetEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetEncoder").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl ParquetEncoder {
    /// # Errors
    /// `Invalid` for a column that Parquet cannot hold.
    pub fn new(schema: &Schema, compression: Compression) -> Result<Self> {
        if let Some(field) = schema.fields().iter().find(|field| !is_storable(field.data_type())) {
            let text = format!("column '{}' of type {} cannot be written as Parquet", field.name(), field.data_type());
            return Err(Error::invalid(text).help("cast it to a string or a number"));
        }
        let stored: Fields = schema.fields().iter().map(stored_field).collect();
        let stored = Arc::new(Schema::new(stored));
        let writer = ArrowWriter::try_new(Chunks::default(), stored.clone(), Some(properties(&stored, compression)?))
            .map_err(|error| Error::invalid(format!("the rows cannot be written as Parquet: {error}")))?;
        Ok(Self { writer, schema: stored })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// `Invalid` for a value that the stored type cannot hold; `Internal`: a defect.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let mut columns = Vec::with_capacity(rows.num_columns());
        for (array, field) in rows.columns().iter().zip(self.schema.fields()) {
            columns.push(if array.data_type() == field.data_type() {
                array.clone()
            } else {
                cast_with_options(array, field.data_type(), &options)
                    .map_err(|error| Error::from(error).context(format!("column '{}'", field.name())))?
            });
        }
        self.writer.write(&RecordBatch::try_new(self.schema.clone(), columns)?).map_err(defect)?;
        if self.writer.in_progress_rows() >= ROW_GROUP_ROWS_MAX || self.writer.memory_size() >= ROW_GROUP_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    /// Closes the row group.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(defect)?;
        self.writer.sync().map_err(|error| Error::internal(error.to_string()))
    }

    /// Bytes in memory: the open row group, and what was not taken yet.
    pub fn memory_bytes(&self) -> usize {
        self.writer.memory_size() + self.writer.inner().len()
    }

    /// Bytes that `take` would give.
    pub fn done_bytes(&self) -> usize {
        self.writer.inner().len()
    }

    /// Takes the bytes that are done.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.writer.inner_mut().take()
    }

    /// Closes the file and takes its last bytes.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn finish(self) -> Result<Vec<Bytes>> {
        Ok(self.writer.into_inner().map_err(defect)?.take())
    }
}

fn defect(error: parquet::errors::ParquetError) -> Error {
    Error::internal(format!("Parquet: {error}"))
}

/// Parquet has no such values, or no reader for them.
fn is_storable(data_type: &DataType) -> bool {
    match data_type {
        DataType::Interval(_) | DataType::Union(..) | DataType::RunEndEncoded(..) => false,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => is_storable(item.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| is_storable(field.data_type())),
        _ => true,
    }
}

fn stored_field(field: &Arc<Field>) -> Arc<Field> {
    let stored = stored_type(field.data_type());
    if &stored == field.data_type() { field.clone() } else { Arc::new(field.as_ref().clone().with_data_type(stored)) }
}

/// The type in the file for a type in memory.
fn stored_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Timestamp(TimeUnit::Second, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
        DataType::Date64 => DataType::Date32,
        DataType::Float16 => DataType::Float32,
        DataType::List(item) => DataType::List(stored_field(item)),
        DataType::LargeList(item) => DataType::LargeList(stored_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(stored_field(item), *size),
        DataType::Map(entries, sorted) => DataType::Map(stored_field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(stored_field).collect()),
        other => other.clone(),
    }
}

fn properties(schema: &Schema, compression: Compression) -> Result<WriterProperties> {
    let bad_level = |error: parquet::errors::ParquetError| Error::internal(error.to_string());
    let codec = match compression {
        Compression::None => Codec::UNCOMPRESSED,
        Compression::Snappy => Codec::SNAPPY,
        Compression::Gzip => Codec::GZIP(GzipLevel::try_new(GZIP_LEVEL).map_err(bad_level)?),
        Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).map_err(bad_level)?),
        Compression::Lz4 => Codec::LZ4_RAW,
    };
    // parquet-mr trusts the statistics only of writers whose name it can parse.
    let created_by = format!("tidemill version {} (build release)", env!("CARGO_PKG_VERSION"));
    let mut properties = WriterProperties::builder()
        .set_compression(codec)
        .set_created_by(created_by)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES_MAX)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX));
    for field in schema.fields() {
        if !repeats(field.data_type()) {
            properties = properties.set_column_dictionary_enabled(ColumnPath::from(field.name().as_str()), false);
        }
    }
    Ok(properties.build())
}

/// The levels that `gzip` and `zstd` default to, less one step for zstd: it is as small and faster.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// Whether values of this type tend to repeat, so that a dictionary pays. Prices and times do not: a dictionary is
/// built only to be given up at its limit. Without it a million rows of prices took 0.13 CPU seconds instead of 0.36,
/// and the file had 39 bytes per row instead of 49 (`benches/sink.rs`).
fn repeats(data_type: &DataType) -> bool {
    !matches!(data_type, DataType::Float16 | DataType::Float32 | DataType::Float64 | DataType::Timestamp(..))
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{
            ArrayRef, AsArray, Float64Array, Int64Array, ListArray, StringArray, TimestampNanosecondArray,
            TimestampSecondArray,
        },
        datatypes::{Float64Type, TimestampMicrosecondType, TimestampMillisecondType},
    };
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn rows() -> RecordBatch {
        let list =
            ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(1.5), None]), None, Some(vec![])]);
        RecordBatch::try_from_iter_with_nullable([
            ("x", Arc::new(Float64Array::from(vec![Some(1.5), None, Some(f64::NAN)])) as ArrayRef, true),
            ("n", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef, false),
            ("s", Arc::new(StringArray::from(vec![Some(""), None, Some("\u{e9}")])) as ArrayRef, true),
            ("ns", Arc::new(TimestampNanosecondArray::from(vec![1_999, -1, 0]).with_timezone("UTC")) as ArrayRef, true),
            ("sec", Arc::new(TimestampSecondArray::from(vec![7, 8, 9])) as ArrayRef, true),
            ("list", Arc::new(list) as ArrayRef, true),
        ])
        .unwrap()
    }

    fn read(chunks: Vec<Bytes>) -> (usize, String, RecordBatch) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(chunks.concat())).unwrap();
        let groups = reader.metadata().num_row_groups();
        let created_by = reader.metadata().file_metadata().created_by().unwrap().to_owned();
        let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
        (groups, created_by, arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap())
    }

    #[test]
    fn reads_back_with_every_codec() {
        use Compression::{Gzip, Lz4, None, Snappy, Zstd};
        for compression in [None, Snappy, Gzip, Zstd, Lz4] {
            let mut encoder = ParquetEncoder::new(&rows().schema(), compression).unwrap();
            encoder.write(&rows()).unwrap();
            let (_, created_by, read) = read(encoder.finish().unwrap());
            assert!(created_by.starts_with("tidemill version "), "{created_by}");
            for name in ["n", "s", "list"] {
                assert_eq!(read.column_by_name(name).unwrap(), rows().column_by_name(name).unwrap());
            }
            assert!(read.column(0).as_primitive::<Float64Type>().value(2).is_nan());
            let micros = read.column_by_name("ns").unwrap().as_primitive::<TimestampMicrosecondType>();
            assert_eq!(micros.values(), &[1, 0, 0]);
            assert_eq!(micros.timezone(), Some("UTC"));
            let millis = read.column_by_name("sec").unwrap().as_primitive::<TimestampMillisecondType>();
            assert_eq!(millis.values(), &[7000, 8000, 9000]);
        }
    }

    #[test]
    fn bytes_can_be_taken_between_row_groups() {
        let mut encoder = ParquetEncoder::new(&rows().schema(), Compression::Snappy).unwrap();
        let mut file = Vec::new();
        for _ in 0..3 {
            encoder.write(&rows()).unwrap();
            encoder.flush().unwrap();
            file.extend(encoder.take());
            assert!(encoder.memory_bytes() < 64 << 10, "{}", encoder.memory_bytes());
        }
        file.extend(encoder.finish().unwrap());
        let (groups, _, read) = read(file);
        assert_eq!((groups, read.num_rows()), (3, 9));
    }

    #[test]
    fn what_parquet_cannot_hold_is_refused() {
        let interval = DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano);
        let schema = Schema::new(vec![Field::new("gap", DataType::new_list(interval, true), true)]);
        let error = ParquetEncoder::new(&schema, Compression::Snappy).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Invalid);
        assert!(error.message().contains("'gap'"), "{error}");
    }
}
