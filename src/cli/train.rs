//! `tidemill train`, and how `train` and `predict` open what they read.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use datafusion::{
    execution::{SendableRecordBatchStream, context::SQLOptions},
    prelude::{DataFrame, ParquetReadOptions, SessionContext},
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    catalog::session::{SessionLimits, session},
    error::{Error, ErrorKind, Result},
    model::{Registry, TrainOptions, report, train},
};

/// Fit a linear regression to a query and save the model
#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The column to predict
    #[arg(long, value_name = "COLUMN")]
    target: String,
    /// The columns to predict it from, with commas between; '' fits the mean alone
    #[arg(long, value_name = "COLUMNS")]
    features: String,
    /// The seed of the random split
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The share of rows that is held back to test on
    #[arg(long, default_value_t = 0.2)]
    test_fraction: f64,
    /// The model's name; the target's, if not given
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Where models are kept
    #[arg(long, default_value = "models", value_name = "DIRECTORY")]
    models_dir: PathBuf,
    /// Print a report, the predictions alone (csv), or everything for programs (json)
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    format: ReportFormat,
    /// Leave out constant and collinear features instead of refusing them
    #[arg(long)]
    drop_redundant: bool,
    /// Refuse a model that looks as if the answer stood among its features
    #[arg(long)]
    strict: bool,
    /// How many test rows to show with their predictions
    #[arg(long, default_value_t = 20, value_name = "ROWS")]
    show: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    Table,
    Csv,
    Json,
}

/// Trains, saves and reports. Warnings go to stderr, whatever the format.
pub async fn run(args: TrainArgs) -> Result<()> {
    let query = open_query(&args.source).await?;
    let options = TrainOptions {
        name: args.model.unwrap_or_else(|| args.target.clone()),
        source: args.source.source.clone(),
        target: args.target,
        features: split_names(&args.features)?,
        seed: args.seed,
        test_fraction: args.test_fraction,
        drop_redundant: args.drop_redundant,
        strict: args.strict,
        rows_shown: args.show,
    };
    let needed: Vec<String> = options.features.iter().chain([&options.target]).cloned().collect();
    let spinner = spinner()?;
    let training = train(&options, || query.stream(Some(&needed)), &|rows| spinner.inc(rows)).await;
    spinner.finish_and_clear();
    let training = training?;
    for warning in &training.warnings {
        eprintln!("warning: {warning}");
    }
    let stored = Registry::new(args.models_dir).save(training.model.clone())?;
    let text = match args.format {
        ReportFormat::Table => report::text(&training, &stored)?.into_bytes(),
        ReportFormat::Json => report::json(&training, &stored)?.into_bytes(),
        ReportFormat::Csv => {
            eprint!("{}", report::summary(&stored));
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(Vec::new());
            writer.write(&training.predictions)?;
            writer.into_inner()
        }
    };
    print(&text)?;
    Ok(())
}

/// What to read.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// A query (SELECT ..., WITH ..., FROM ...), a table of the job, or the path of a CSV or Parquet file or directory
    pub(super) source: String,
    /// The job file whose tables the query names
    #[arg(long, value_name = "JOB.sql")]
    job: Option<PathBuf>,
    /// The columns of a CSV file without a header: 'timestamp TIMESTAMP, price DOUBLE' or 'timestamp:TIMESTAMP,...'
    #[arg(long, value_name = "NAME:TYPE,...")]
    columns: Option<String>,
    /// Memory for sorts, joins and aggregates of the query, in MiB; beyond it they use the disk
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    memory_limit: usize,
}

/// A query that can be run again and again.
pub(super) struct Query {
    context: SessionContext,
    sql: String,
}

impl Query {
    /// Runs the query, in one partition, so that rows come in the order of the files or of ORDER BY. With `needed`
    /// only these columns are read, if they are all there.
    pub(super) async fn stream(&self, needed: Option<&[String]>) -> Result<SendableRecordBatchStream> {
        let mut frame = self.frame().await?;
        let schema = frame.schema().as_arrow().clone();
        if let Some(needed) = needed
            && needed.iter().all(|name| schema.fields().iter().filter(|field| field.name() == name).count() == 1)
        {
            let columns = frame.schema().columns();
            let wanted = columns.into_iter().filter(|column| needed.contains(&column.name));
            frame = frame.select(wanted.map(datafusion::prelude::Expr::Column).collect::<Vec<_>>())?;
        }
        Ok(frame.execute_stream().await?)
    }

    async fn frame(&self) -> Result<DataFrame> {
        // Only queries: a source that writes is a mistake.
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        Ok(self.context.sql_with_options(&self.sql, options).await?)
    }
}

/// Opens the source: a query over local files, or a path.
pub(super) async fn open_query(args: &SourceArgs) -> Result<Query> {
    if args.job.is_some() {
        return Err(Error::unsupported("tables of job files as a source of training")
            .help("name the file's path, or write a query: SELECT ... FROM 'path/*.parquet'"));
    }
    // One partition keeps the rows in order, which the split and the last-value baseline depend on.
    let limits = SessionLimits { memory_bytes: args.memory_limit << 20, partitions: 1 };
    let context = session(limits)?.enable_url_table();
    let first_word = args.source.split_whitespace().next().unwrap_or_default().to_uppercase();
    if ["SELECT", "WITH", "FROM"].contains(&first_word.as_str()) {
        if args.columns.is_some() {
            return Err(Error::invalid("--columns declares the columns of a CSV file, but the source is a query"));
        }
        return Ok(Query { context, sql: args.source.clone() });
    }
    let path = Path::new(&args.source);
    if !path.exists() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no file or directory '{}'", args.source))
            .help("a query starts with SELECT, WITH or FROM"));
    }
    if is_parquet(path)? {
        if args.columns.is_some() {
            return Err(Error::invalid("--columns declares the columns of a CSV file, but the source is Parquet"));
        }
        context.register_parquet("source", &args.source, ParquetReadOptions::default()).await?;
    } else {
        context.sql(&csv_table(&args.source, args.columns.as_deref())?).await?;
    }
    Ok(Query { context, sql: "SELECT * FROM source".to_owned() })
}

/// A directory is what its first visible file is.
fn is_parquet(path: &Path) -> Result<bool> {
    let ends = |path: &Path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"));
    if path.is_file() {
        return Ok(ends(path));
    }
    let failed = |error| crate::model::file::io_error("list", path, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?.path();
        let hidden = entry.file_name().is_none_or(|name| name.to_string_lossy().starts_with(['.', '_']));
        if !hidden {
            names.push(entry);
        }
    }
    names.sort();
    match names.first() {
        Some(first) if first.is_dir() => is_parquet(first),
        Some(first) => Ok(ends(first)),
        None => Err(Error::invalid(format!("the directory {} has no data files", path.display()))),
    }
}

/// The statement that makes a table of a CSV file.
fn csv_table(path: &str, columns: Option<&str>) -> Result<String> {
    let declared = match columns {
        None => String::new(),
        Some(columns) => {
            let columns: Vec<String> = split_columns(columns).map(declare).collect::<Result<_>>()?;
            format!(" ({})", columns.join(", "))
        }
    };
    let location = path.replace('\'', "''");
    let header = columns.is_none();
    Ok(format!(
        "CREATE EXTERNAL TABLE source{declared} STORED AS CSV LOCATION '{location}' \
         OPTIONS ('format.has_header' '{header}')"
    ))
}

/// At the commas outside parentheses: `a:DECIMAL(10,2),b:INT`.
fn split_columns(columns: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    columns
        .split(move |c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            c == ',' && depth == 0
        })
        .map(str::trim)
}

fn declare(column: &str) -> Result<String> {
    let (name, data_type) = column
        .split_once([':', ' '])
        .map(|(name, data_type)| (name.trim(), data_type.trim()))
        .filter(|(name, data_type)| !name.is_empty() && !data_type.is_empty())
        .ok_or_else(|| Error::invalid(format!("'{column}' in --columns is not NAME:TYPE")).help("price:DOUBLE"))?;
    if !data_type.chars().all(|c| c.is_ascii_alphanumeric() || " _(),".contains(c)) {
        return Err(Error::invalid(format!("'{data_type}' in --columns is not a type")).help("price:DOUBLE"));
    }
    Ok(format!("\"{}\" {data_type}", name.replace('"', "\"\"")))
}

fn split_names(text: &str) -> Result<Vec<String>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err(Error::invalid(format!("'{text}' in --features has an empty name")));
    }
    Ok(names)
}

/// Rows so far and per second; nothing where stderr is no terminal.
pub(super) fn spinner() -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{spinner} {human_pos} rows, {per_sec}")
        .map_err(|error| Error::internal(error.to_string()))?;
    Ok(ProgressBar::new_spinner().with_style(style))
}

/// To stdout. False if its reader has gone away (`| head`), which is no error.
pub(super) fn print(text: &[u8]) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::internal("cannot write to stdout").source_error(error)),
    }
}
