//! `connector = 'file'`: a directory of files on HDFS, S3 or a local disk.

use std::sync::Arc;

use arrow::datatypes::DataType;

use super::{
    connector::csv,
    ddl::DeclaredColumn,
    options::{Options, Vocabulary},
    table::{Compression, FileFormat, FileTable},
    text::SourceText,
    types,
};
use crate::error::{Error, Result, nearest};

const CSV_WRITER: &str = "this version has no such choice when it writes CSV; leave it out";
const CSV_READER: &str = "declare the columns, and leave it out";
const FILE_SOURCE: &str = "name one directory in 'path', and leave it out";

pub const VOCABULARY: Vocabulary = Vocabulary {
    owner: "the connector 'file'",
    names: &[
        "connector",
        "path",
        "format",
        "compression",
        "partitionBy",
        "maxRecordsPerFile",
        "checkpointLocation",
        "sparkMetadata",
        "deadLetterPath",
        "outputMode",
        "allowedLateness",
        "header",
        "sep",
        "quote",
        "escape",
        "nullValue",
        "timestampFormat",
        "dateFormat",
    ],
    aliases: &[("delimiter", "sep"), ("codec", "compression")],
    foreign: &[
        ("quoteAll", CSV_WRITER),
        ("escapeQuotes", CSV_WRITER),
        ("emptyValue", CSV_WRITER),
        ("ignoreLeadingWhiteSpace", CSV_WRITER),
        ("ignoreTrailingWhiteSpace", CSV_WRITER),
        ("lineSep", CSV_WRITER),
        ("encoding", CSV_WRITER),
        ("charset", CSV_WRITER),
        ("charToEscapeQuoteEscaping", CSV_WRITER),
        ("timestampNTZFormat", "use timestampFormat"),
        ("multiLine", CSV_READER),
        ("inferSchema", CSV_READER),
        ("mergeSchema", CSV_READER),
        ("pathGlobFilter", FILE_SOURCE),
        ("recursiveFileLookup", FILE_SOURCE),
        ("retention", "the log of the output keeps every file; leave it out"),
        ("mode", "a file is written and read as a whole; leave it out"),
    ],
    prefix: None,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Parquet,
    Json,
}

const FORMATS: &[(&str, Format)] = &[("csv", Format::Csv), ("parquet", Format::Parquet), ("json", Format::Json)];

const TEXT_COMPRESSIONS: &[(&str, Compression)] = &[
    ("none", Compression::None),
    ("gzip", Compression::Gzip),
    ("zstd", Compression::Zstd),
    ("uncompressed", Compression::None),
];

const PARQUET_COMPRESSIONS: &[(&str, Compression)] = &[
    ("none", Compression::None),
    ("uncompressed", Compression::None),
    ("snappy", Compression::Snappy),
    ("gzip", Compression::Gzip),
    ("zstd", Compression::Zstd),
    ("lz4", Compression::Lz4),
];

/// Reads the options of a file table.
///
/// # Errors
/// `Invalid` or `Unsupported` at the option or the column.
pub fn table(source: &Arc<SourceText>, options: &mut Options<'_>, columns: &[DeclaredColumn]) -> Result<FileTable> {
    let path = options.required("path", "add path = 'hdfs://host:9000/directory', or another URL or local path")?;
    options.required("format", "add format = 'csv', 'parquet' or 'json'")?;
    let kind = options.one_of("format", FORMATS)?.unwrap_or(Format::Parquet);
    if kind != Format::Csv {
        let csv = ["header", "sep", "quote", "escape", "nullValue", "dateFormat"];
        options.refuse(&csv, "the format 'csv'")?;
    }
    check_times(options, columns)?;
    let (format, compression) = match kind {
        Format::Csv => {
            check_flat(source, columns)?;
            (FileFormat::Csv(csv(options)?), options.one_of("compression", TEXT_COMPRESSIONS)?)
        }
        Format::Json => {
            let timestamp_format = options.not_blank("timestampFormat")?;
            (FileFormat::Json { timestamp_format }, options.one_of("compression", TEXT_COMPRESSIONS)?)
        }
        Format::Parquet => {
            options.refuse(&["timestampFormat"], "the formats 'csv' and 'json'")?;
            let compression = options.one_of("compression", PARQUET_COMPRESSIONS)?;
            (FileFormat::Parquet, Some(compression.unwrap_or(Compression::Snappy)))
        }
    };
    let table = FileTable {
        path: path.trim().to_owned(),
        format,
        compression: compression.unwrap_or(Compression::None),
        partition_by: partition_by(options, columns)?,
        max_records_per_file: options.number("maxRecordsPerFile", 1)?,
        checkpoint_location: options.not_blank("checkpointLocation")?,
        spark_metadata: options.boolean("sparkMetadata", true)?,
        dead_letter_path: options.not_blank("deadLetterPath")?,
    };
    let clean = |path: &str| path.trim().trim_end_matches('/').to_owned();
    if table.checkpoint_location.as_deref().map(clean) == Some(clean(&table.path)) {
        let error = options.at_value("checkpointLocation", "the checkpoint is the table's own directory");
        return Err(error.help("give it a directory of its own"));
    }
    Ok(table)
}

/// A pattern that no declared column can use is a mistake in the one or the others.
fn check_times(options: &Options<'_>, columns: &[DeclaredColumn]) -> Result<()> {
    let is_of = |name: &str, data_type: &DataType| match data_type {
        DataType::Timestamp(..) => name == "timestampFormat",
        DataType::Date32 | DataType::Date64 => name == "dateFormat",
        // What stands inside is looked at by the writer.
        nested => nested.is_nested(),
    };
    for (name, wanted) in [("timestampFormat", "TIMESTAMP"), ("dateFormat", "DATE")] {
        let used = columns.is_empty() || columns.iter().any(|declared| is_of(name, &declared.column.data_type));
        if options.has(name) && !used {
            let error = options.at_name(name, &format!("no column of the table is a {wanted}"));
            return Err(error.help(format!("leave '{name}' out, or declare a column as {wanted}")));
        }
    }
    Ok(())
}

/// CSV has no nested values.
///
/// # Errors
/// `Unsupported` at the first type that is nested.
pub fn check_flat(source: &SourceText, columns: &[DeclaredColumn]) -> Result<()> {
    let payload = |declared: &&DeclaredColumn| declared.column.metadata.is_none();
    match columns.iter().filter(payload).find(|declared| declared.column.data_type.is_nested()) {
        Some(declared) => {
            let name = types::sql_name(&declared.column.data_type);
            let error = Error::unsupported(format!("CSV cannot hold the type {name}"));
            Err(error
                .at(source.place(declared.data_type.clone()))
                .help("use the format 'json', or columns without nesting"))
        }
        None => Ok(()),
    }
}

/// `partitionBy`; its columns must be among the declared ones, and not all of them.
fn partition_by(options: &mut Options<'_>, columns: &[DeclaredColumn]) -> Result<Vec<String>> {
    let names = options.list("partitionBy")?.unwrap_or_default();
    if columns.is_empty() {
        return Ok(names);
    }
    let declared = || columns.iter().map(|declared| declared.column.name.as_str());
    if let Some(unknown) = names.iter().find(|name| !declared().any(|column| column == name.as_str())) {
        let error = options.wrong("partitionBy", "columns of the table");
        return Err(match nearest(unknown, declared()) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help(format!("its columns are {}", declared().collect::<Vec<_>>().join(", "))),
        });
    }
    if !names.is_empty() && names.len() == columns.len() {
        return Err(options.at_value("partitionBy", "a column must be left for the files"));
    }
    Ok(names)
}
