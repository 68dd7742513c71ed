//! File names and options as DataFusion's file formats.

use std::sync::Arc;

use datafusion::{
    common::config::{CsvOptions as DfCsvOptions, JsonOptions, TableParquetOptions},
    common::parsers::CompressionTypeVariant,
    datasource::file_format::{FileFormat as DfFileFormat, csv::CsvFormat, json::JsonFormat, parquet::ParquetFormat},
};

use super::listing::Listing;
use crate::{
    catalog::{CsvOptions, FileFormat},
    error::{Error, Result},
};

/// How many rows of text files are looked at to guess the types of the columns.
pub(super) const ROWS_SAMPLED: usize = 1000;

/// What a file's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Csv,
    Json,
    Parquet,
}

impl FileKind {
    /// In lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Parquet => "parquet",
        }
    }

    /// Of a table of a job.
    pub fn of(format: &FileFormat) -> Self {
        match format {
            FileFormat::Csv(_) => Self::Csv,
            FileFormat::Json { .. } => Self::Json,
            FileFormat::Parquet => Self::Parquet,
        }
    }
}

/// The kind and the compression that a name ends with.
pub(super) fn kind_of(path: &str) -> Option<(FileKind, CompressionTypeVariant)> {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let (stem, compression) = match name.rsplit_once('.')? {
        (stem, "gz") => (stem.to_owned(), CompressionTypeVariant::GZIP),
        (stem, "zst") => (stem.to_owned(), CompressionTypeVariant::ZSTD),
        (stem, "bz2") => (stem.to_owned(), CompressionTypeVariant::BZIP2),
        (stem, "xz") => (stem.to_owned(), CompressionTypeVariant::XZ),
        _ => (name, CompressionTypeVariant::UNCOMPRESSED),
    };
    let kind = match stem.rsplit_once('.')?.1 {
        "csv" | "tsv" => FileKind::Csv,
        "json" | "ndjson" | "jsonl" => FileKind::Json,
        "parquet" => FileKind::Parquet,
        _ => return None,
    };
    Some((kind, compression))
}

/// Keeps the files of one kind and says which; files with other extensions are no data.
///
/// # Errors
/// `Invalid` if there are several kinds or compressions, or none; names a file of each.
pub(super) fn one_kind(
    listing: &mut Listing,
    wanted: Option<FileKind>,
) -> Result<Option<(FileKind, CompressionTypeVariant)>> {
    let found = |path: &str| kind_of(path).filter(|(kind, _)| wanted.is_none_or(|wanted| wanted == *kind));
    let all_files = listing.files.len();
    listing.files.retain(|file| found(&file.path).is_some());
    let Some(first) = listing.files.first() else {
        if all_files == 0 {
            return Ok(None);
        }
        let extension = wanted.map_or("csv, json or parquet", FileKind::name);
        return Err(Error::invalid(format!("none of the {all_files} files in {} is {extension}", listing.root.url()))
            .help(
                "the extension says what a file is: .csv, .json, .ndjson, .jsonl, .parquet, and .gz or .zst after it",
            ));
    };
    let expected = found(&first.path);
    if let Some(other) = listing.files.iter().find(|file| found(&file.path) != expected) {
        return Err(Error::invalid(format!(
            "{} and {} are not files of one kind",
            listing.url(first),
            listing.url(other)
        ))
        .help("name the files of one kind by a pattern: 'directory/*.csv'"));
    }
    Ok(expected)
}

/// Reads CSV in the dialect of `options`, which is the one that our sink and Spark's write, and quotes that are doubled.
/// An empty value is null, quoted or not, as in Spark. `nullValue` is known here to what guesses types alone: the reader
/// leaves it to `text_value.rs`.
pub(super) fn csv(options: &CsvOptions, compression: CompressionTypeVariant) -> Arc<dyn DfFileFormat> {
    let null_regex = (!options.null_value.is_empty()).then(|| format!("^(?:{}|)$", regex::escape(&options.null_value)));
    Arc::new(CsvFormat::default().with_options(DfCsvOptions {
        has_header: Some(options.header),
        delimiter: options.delimiter,
        quote: options.quote,
        escape: (options.escape != options.quote).then_some(options.escape),
        double_quote: Some(true),
        // A quoted value may hold a line break: cutting files at line breaks would tear it.
        newlines_in_values: Some(true),
        compression,
        schema_infer_max_rec: Some(ROWS_SAMPLED),
        null_regex,
        ..DfCsvOptions::default()
    }))
}

/// One JSON object per line.
pub(super) fn json(compression: CompressionTypeVariant) -> Arc<dyn DfFileFormat> {
    let options = JsonOptions { compression, schema_infer_max_rec: Some(ROWS_SAMPLED), ..JsonOptions::default() };
    Arc::new(JsonFormat::default().with_options(options))
}

/// Parquet; row groups and pages that cannot hold a match are skipped.
pub(super) fn parquet(options: &TableParquetOptions) -> Arc<dyn DfFileFormat> {
    Arc::new(ParquetFormat::default().with_options(options.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::listing::DataFile;

    async fn listing(paths: &[&str]) -> Listing {
        let file = |path: &&str| DataFile { path: (*path).to_owned(), size_bytes: 1, modified_ms: 0 };
        Listing { root: crate::store::Store::open("/d").await.unwrap(), files: paths.iter().map(file).collect() }
    }

    #[test]
    fn names_say_what_a_file_is() {
        assert_eq!(kind_of("d.x/part-0.csv"), Some((FileKind::Csv, CompressionTypeVariant::UNCOMPRESSED)));
        assert_eq!(kind_of("part-0.JSON.gz"), Some((FileKind::Json, CompressionTypeVariant::GZIP)));
        assert_eq!(kind_of("part-0.snappy.parquet"), Some((FileKind::Parquet, CompressionTypeVariant::UNCOMPRESSED)));
        assert_eq!(kind_of("a.csv/README"), None);
    }

    #[tokio::test]
    async fn kinds_are_not_mixed() {
        let mut mixed = listing(&["a.csv", "b.parquet"]).await;
        let error = one_kind(&mut mixed, None).unwrap_err();
        assert!(error.message().contains("file:///d/a.csv") && error.message().contains("b.parquet"), "{error}");
        let mut mixed = listing(&["README.md", "a.csv", "b.parquet"]).await;
        assert_eq!(one_kind(&mut mixed, Some(FileKind::Csv)).unwrap().map(|(kind, _)| kind), Some(FileKind::Csv));
        assert_eq!(mixed.files.len(), 1);
        assert!(one_kind(&mut listing(&["a.txt"]).await, None).is_err());
        assert_eq!(one_kind(&mut listing(&[]).await, None).unwrap(), None);
    }
}
