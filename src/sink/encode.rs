//! Rows in, the bytes of one file out: a format and its compression.

use std::{io::Write, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use bytes::Bytes;
use flate2::write::GzEncoder;

use super::{chunks::CHUNK_BYTES, csv::CsvEncoder, json::JsonEncoder, parquet::ParquetEncoder};
use crate::{
    catalog::{Compression, FileFormat},
    error::{Error, Result},
};

/// What all files of one sink share.
#[derive(Debug, Clone)]
pub(crate) struct Format {
    rows: RowFormat,
    compression: Compression,
    extension: &'static str,
}

#[derive(Debug, Clone)]
enum RowFormat {
    Csv(Arc<CsvEncoder>),
    Json(Arc<JsonEncoder>),
    Parquet(SchemaRef),
}

/// The encoder of one open file.
#[derive(Debug)]
pub(crate) struct Encoder {
    rows: OpenFormat,
    /// Text before its compression, one slice of rows at a time.
    text: Vec<u8>,
}

enum OpenFormat {
    Csv(Arc<CsvEncoder>, TextFile),
    Json(Arc<JsonEncoder>, TextFile),
    Parquet(Box<ParquetEncoder>),
}

impl std::fmt::Debug for OpenFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Csv(..) => "Csv",
            Self::Json(..) => "Json",
            Self::Parquet(..) => "Parquet",
        })
    }
}

/// Compression as it streams.
enum TextFile {
    Plain(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Format {
    /// `schema` is that of the files: without the partition columns.
    ///
    /// # Errors
    /// `Invalid` for a column that the format cannot hold, and a compression that it does not have.
    pub fn new(format: &FileFormat, compression: Compression, schema: &SchemaRef) -> Result<Self> {
        let (rows, name) = match format {
            FileFormat::Csv(options) => (RowFormat::Csv(Arc::new(CsvEncoder::new(schema, options)?)), "csv"),
            FileFormat::Json { timestamp_format } => {
                (RowFormat::Json(Arc::new(JsonEncoder::new(schema, timestamp_format.as_deref())?)), "json")
            }
            FileFormat::Parquet => {
                // Not kept: it shows now, and not at the first batch, that the schema can be written.
                ParquetEncoder::new(schema, compression)?;
                (RowFormat::Parquet(schema.clone()), "parquet")
            }
        };
        Ok(Self { rows, compression, extension: extension(name, compression)? })
    }

    /// `.csv.gz`, `.snappy.parquet`: what Spark appends to a file's name.
    pub fn extension(&self) -> &'static str {
        self.extension
    }

    /// Starts a file.
    pub fn open(&self) -> Result<Encoder> {
        let rows = match &self.rows {
            RowFormat::Csv(encoder) => {
                let mut file = TextFile::new(self.compression)?;
                file.write(encoder.header())?;
                OpenFormat::Csv(encoder.clone(), file)
            }
            RowFormat::Json(encoder) => OpenFormat::Json(encoder.clone(), TextFile::new(self.compression)?),
            RowFormat::Parquet(schema) => OpenFormat::Parquet(Box::new(ParquetEncoder::new(schema, self.compression)?)),
        };
        Ok(Encoder { rows, text: Vec::new() })
    }
}

fn extension(name: &str, compression: Compression) -> Result<&'static str> {
    Ok(match (name, compression) {
        ("csv", Compression::None) => ".csv",
        ("csv", Compression::Gzip) => ".csv.gz",
        ("csv", Compression::Zstd) => ".csv.zst",
        ("json", Compression::None) => ".json",
        ("json", Compression::Gzip) => ".json.gz",
        ("json", Compression::Zstd) => ".json.zst",
        ("parquet", Compression::None) => ".parquet",
        ("parquet", Compression::Snappy) => ".snappy.parquet",
        ("parquet", Compression::Gzip) => ".gz.parquet",
        ("parquet", Compression::Zstd) => ".zstd.parquet",
        ("parquet", Compression::Lz4) => ".lz4raw.parquet",
        (text, other) => {
            let other = format!("{other:?}").to_lowercase();
            return Err(Error::invalid(format!("compression = '{other}' is not for format = '{text}'"))
                .help("use none, gzip or zstd"));
        }
    })
}

impl Encoder {
    /// Adds rows.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        match &mut self.rows {
            OpenFormat::Csv(encoder, TextFile::Plain(out)) => encoder.encode(rows, out),
            OpenFormat::Json(encoder, TextFile::Plain(out)) => encoder.encode(rows, out),
            OpenFormat::Csv(encoder, file) => {
                self.text.clear();
                encoder.encode(rows, &mut self.text)?;
                file.write(&self.text)
            }
            OpenFormat::Json(encoder, file) => {
                self.text.clear();
                encoder.encode(rows, &mut self.text)?;
                file.write(&self.text)
            }
            OpenFormat::Parquet(encoder) => encoder.write(rows),
        }
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        let held = match &self.rows {
            OpenFormat::Csv(_, file) | OpenFormat::Json(_, file) => file.done_bytes(),
            OpenFormat::Parquet(encoder) => encoder.memory_bytes(),
        };
        held + self.text.capacity()
    }

    /// Brings to an end what can be ended inside the file (a Parquet row group), so that `take` frees memory.
    pub fn flush(&mut self) -> Result<()> {
        match &mut self.rows {
            OpenFormat::Parquet(encoder) => encoder.flush(),
            OpenFormat::Csv(..) | OpenFormat::Json(..) => Ok(()),
        }
    }

    /// Bytes that `take` would give.
    pub fn done_bytes(&self) -> usize {
        match &self.rows {
            OpenFormat::Csv(_, file) | OpenFormat::Json(_, file) => file.done_bytes(),
            OpenFormat::Parquet(encoder) => encoder.done_bytes(),
        }
    }

    /// Takes the bytes that are done, piece by piece.
    pub fn take(&mut self) -> Vec<Bytes> {
        match &mut self.rows {
            OpenFormat::Csv(_, file) | OpenFormat::Json(_, file) => vec![file.take().into()],
            OpenFormat::Parquet(encoder) => encoder.take(),
        }
    }

    /// Ends the file and takes its last bytes.
    pub fn finish(self) -> Result<Vec<Bytes>> {
        match self.rows {
            OpenFormat::Csv(_, file) | OpenFormat::Json(_, file) => Ok(vec![file.finish()?.into()]),
            OpenFormat::Parquet(encoder) => encoder.finish(),
        }
    }
}

impl TextFile {
    fn new(compression: Compression) -> Result<Self> {
        Ok(match compression {
            Compression::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))),
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL).map_err(defect)?),
            Compression::None | Compression::Snappy | Compression::Lz4 => Self::Plain(Vec::new()),
        })
    }

    fn write(&mut self, text: &[u8]) -> Result<()> {
        match self {
            Self::Plain(out) => out.write_all(text),
            Self::Gzip(encoder) => encoder.write_all(text),
            Self::Zstd(encoder) => encoder.write_all(text),
        }
        .map_err(defect)
    }

    fn done_bytes(&self) -> usize {
        match self {
            Self::Plain(out) => out.len(),
            Self::Gzip(encoder) => encoder.get_ref().len(),
            Self::Zstd(encoder) => encoder.get_ref().len(),
        }
    }

    fn take(&mut self) -> Vec<u8> {
        let out = match self {
            Self::Plain(out) => out,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        };
        // As much will come again, and growing to it would copy it.
        let room = Vec::with_capacity(out.capacity().min(2 * CHUNK_BYTES));
        std::mem::replace(out, room)
    }

    fn finish(self) -> Result<Vec<u8>> {
        match self {
            Self::Plain(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish().map_err(defect),
            Self::Zstd(encoder) => encoder.finish().map_err(defect),
        }
    }
}

/// Hadoop's own levels: zlib's default, zstd's default.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

fn defect(error: std::io::Error) -> Error {
    Error::internal(format!("compression: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;
    use crate::catalog::CsvOptions;

    fn rows(count: i64) -> RecordBatch {
        let n: ArrayRef = Arc::new((0..count).collect::<Int64Array>());
        RecordBatch::try_from_iter([("n", n)]).unwrap()
    }

    fn file(format: &FileFormat, compression: Compression, batches: usize) -> Vec<u8> {
        let format = Format::new(format, compression, &rows(1).schema()).unwrap();
        let mut encoder = format.open().unwrap();
        let mut out = Vec::new();
        for _ in 0..batches {
            encoder.write(&rows(1000)).unwrap();
            out.extend(encoder.take().concat());
        }
        out.extend(encoder.finish().unwrap().concat());
        out
    }

    #[test]
    fn text_streams_through_its_compression() {
        let csv = FileFormat::Csv(CsvOptions { header: true, ..CsvOptions::default() });
        let json = FileFormat::Json { timestamp_format: None };
        for format in [csv, json] {
            let plain = file(&format, Compression::None, 5);
            let mut text = String::new();
            let gzip = file(&format, Compression::Gzip, 5);
            flate2::read::MultiGzDecoder::new(gzip.as_slice()).read_to_string(&mut text).unwrap();
            assert_eq!(text.as_bytes(), plain);
            let zstd = file(&format, Compression::Zstd, 5);
            assert_eq!(zstd::stream::decode_all(zstd.as_slice()).unwrap(), plain);
            assert!(gzip.len() < plain.len() && zstd.len() < plain.len());
        }
    }

    #[test]
    fn names_are_spark_s_and_text_has_no_snappy() {
        let schema = rows(1).schema();
        let parquet = Format::new(&FileFormat::Parquet, Compression::Snappy, &schema).unwrap();
        assert_eq!(parquet.extension(), ".snappy.parquet");
        let csv = FileFormat::Csv(CsvOptions::default());
        assert_eq!(Format::new(&csv, Compression::Zstd, &schema).unwrap().extension(), ".csv.zst");
        let error = Format::new(&csv, Compression::Snappy, &schema).unwrap_err();
        assert!(error.message().contains("compression = 'snappy'"), "{error}");
    }
}
