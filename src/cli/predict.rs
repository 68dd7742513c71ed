//! `tidemill predict`.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use arrow::{
    array::RecordBatch,
    csv::WriterBuilder as CsvBuilder,
    json::{
        Writer as JsonWriter, WriterBuilder as JsonBuilder,
        writer::{JsonArray, LineDelimited},
    },
    util::pretty::pretty_format_batches,
};
use clap::{Args, ValueEnum};
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use parquet::{arrow::ArrowWriter, basic::Compression, errors::ParquetError, file::properties::WriterProperties};

use super::{
    output_file::{OutputFile, OverwriteArg},
    source::{SourceArgs, open_query},
    train::{print, spinner},
};
use crate::{
    error::{Error, Result},
    model::{Predictor, Registry, file::io_error, horizon::over_input},
    sink::parquet::ROW_GROUP_ROWS_MAX,
};

/// Apply a saved model to a query: its columns come out with one more, `prediction`
#[derive(Debug, Args)]
pub struct PredictArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The model: NAME for its newest revision, NAME@2 for the second
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Where models are kept
    #[arg(long, default_value = "models", value_name = "DIRECTORY")]
    models_dir: PathBuf,
    /// Add prediction_low and prediction_high: the interval in which the target lies with this confidence
    #[arg(long, value_name = "CONFIDENCE", num_args = 0..=1, default_missing_value = "0.95")]
    interval: Option<f64>,
    /// Write a file, .csv or .parquet, instead of stdout
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    output: Option<PathBuf>,
    #[command(flatten)]
    overwrite: OverwriteArg,
    /// How to print: table shows the first rows, the others all
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// How many rows a table shows
    #[arg(long, default_value_t = 20, value_name = "ROWS")]
    show: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
    Ndjson,
}

/// Predicts row after row, batch after batch; memory does not grow with the rows.
pub async fn run(args: PredictArgs) -> Result<()> {
    if let Some(path) = &args.output {
        check_extension(path)?;
        args.overwrite.check(path)?;
    }
    let stored = Registry::new(&args.models_dir).load(&args.model)?;
    let mut query = open_query(&args.source, &args.models_dir).await?;
    if let Some(features) = &stored.model.query {
        query = query.wrapped(|source| Ok(over_input(source, features)))?;
    }
    let stream = query.stream(None).await?;
    let predictor = Predictor::new(&stored.model, &stream.schema(), args.interval)
        .map_err(|error| error.context(format!("the model {}@{}", stored.model.name, stored.revision)))?;
    if let Some(path) = args.output {
        let file = args.overwrite.create(&path)?;
        return write_file(&path, file, &predictor, stream).await;
    }
    if args.format == Format::Table {
        return print_table(&predictor, stream, args.show).await;
    }
    let mut encoder = Encoder::new(args.format);
    let mut stream = stream;
    let spinner = spinner()?;
    while let Some(batch) = stream.try_next().await? {
        if !print(&encoder.encode(&predictor.apply(&batch)?)?)? {
            return Ok(());
        }
        spinner.inc(batch.num_rows() as u64);
    }
    spinner.finish_and_clear();
    print(&encoder.finish()?)?;
    Ok(())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

fn check_extension(path: &Path) -> Result<()> {
    if has_extension(path, "csv") || has_extension(path, "parquet") {
        return Ok(());
    }
    Err(Error::invalid(format!("the output {} is neither .csv nor .parquet", path.display())))
}

/// Writes the file. It appears when it is whole.
async fn write_file(
    path: &Path,
    mut file: OutputFile,
    predictor: &Predictor,
    mut stream: SendableRecordBatchStream,
) -> Result<()> {
    let spinner = spinner()?;
    if has_extension(path, "csv") {
        let mut encoder = Encoder::new(Format::Csv);
        while let Some(batch) = stream.try_next().await? {
            let text = encoder.encode(&predictor.apply(&batch)?)?;
            file.write_all(&text).map_err(|error| io_error("write", path, error))?;
            spinner.inc(batch.num_rows() as u64);
        }
        let text = encoder.finish()?;
        file.write_all(&text).map_err(|error| io_error("write", path, error))?;
    } else {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
            .build();
        let failed = |error: ParquetError| parquet_error(path, error);
        let mut writer = ArrowWriter::try_new(file, predictor.schema().clone(), Some(properties)).map_err(failed)?;
        while let Some(batch) = stream.try_next().await? {
            writer.write(&predictor.apply(&batch)?).map_err(failed)?;
            spinner.inc(batch.num_rows() as u64);
        }
        file = writer.into_inner().map_err(failed)?;
    }
    spinner.finish_and_clear();
    file.publish()
}

/// Keeps what the disk said.
fn parquet_error(path: &Path, error: ParquetError) -> Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => io_error("write", path, *error),
            Err(other) => Error::internal(format!("cannot write {}", path.display())).source_error(other),
        },
        other => Error::internal(format!("cannot write {}", path.display())).source_error(other),
    }
}

/// The first rows as a table.
async fn print_table(predictor: &Predictor, mut stream: SendableRecordBatchStream, show: usize) -> Result<()> {
    let mut shown = vec![RecordBatch::new_empty(predictor.schema().clone())];
    let mut rows = 0;
    let mut more = false;
    while !more && let Some(batch) = stream.try_next().await? {
        let taken = batch.num_rows().min(show - rows);
        more = batch.num_rows() > taken;
        shown.push(predictor.apply(&batch.slice(0, taken))?);
        rows += taken;
    }
    let note = if more { format!("only showing top {rows} rows\n") } else { String::new() };
    print(format!("{}\n{note}", pretty_format_batches(&shown)?).as_bytes())?;
    Ok(())
}

/// Batches to text.
enum Encoder {
    Csv { header: bool },
    Json(JsonWriter<Vec<u8>, JsonArray>),
    Ndjson,
}

impl Encoder {
    fn new(format: Format) -> Self {
        match format {
            Format::Csv | Format::Table => Self::Csv { header: true },
            Format::Json => Self::Json(json_options().build(Vec::new())),
            Format::Ndjson => Self::Ndjson,
        }
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        match self {
            Self::Csv { header } => {
                let mut writer = CsvBuilder::new().with_header(std::mem::take(header)).build(Vec::new());
                writer.write(batch)?;
                Ok(writer.into_inner())
            }
            Self::Json(writer) => {
                writer.write(batch)?;
                Ok(std::mem::take(writer.get_mut()))
            }
            Self::Ndjson => {
                let mut writer = json_options().build::<_, LineDelimited>(Vec::new());
                writer.write(batch)?;
                writer.finish()?;
                Ok(writer.into_inner())
            }
        }
    }

    /// What is left to write after the last batch.
    fn finish(self) -> Result<Vec<u8>> {
        let Self::Json(mut writer) = self else { return Ok(Vec::new()) };
        writer.finish()?;
        let mut text = writer.into_inner();
        text.push(b'\n');
        Ok(text)
    }
}

/// A prediction that is null is written as null, not left out.
fn json_options() -> JsonBuilder {
    JsonBuilder::new().with_explicit_nulls(true)
}
