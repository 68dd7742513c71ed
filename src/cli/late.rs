//! `tidemill late`.

use clap::{Args, Subcommand};

use super::{job::JobArgs, state::json};
use crate::{
    error::Result,
    late::{self, ReplayOptions},
    query::{MEMORY_BYTES_DEFAULT, OutputFormat, QuerySession, ResultWriter},
    session::SessionLimits,
};

/// Show rows that came too late for their windows, and what the windows would be with them
#[derive(Debug, Args)]
pub struct LateArgs {
    #[command(subcommand)]
    command: LateCommand,
}

#[derive(Debug, Subcommand)]
enum LateCommand {
    Show(ShowArgs),
    Replay(ReplayArgs),
}

/// Count the rows that were set aside, by reason and window, newest first
#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    job: JobArgs,
    /// How it is shown
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: LateFormat,
    /// The most lines of each query
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// Compute the windows of late rows again
///
/// Runs the INSERT's own SELECT over exactly the records that the job has read, for the windows that late rows belong to,
/// and says what was written, what it is with all rows, and which files of the output hold it. The output is never
/// changed, and the job may run.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tidemill late replay job.sql\n  \
    tidemill late replay job.sql --table candles --output hdfs://namenode:9000/candles_corrected")]
struct ReplayArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Only the query that writes this table
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Write the corrected rows to this new directory, in the format of the output, with the list _replaced.json
    #[arg(long, value_name = "DIR")]
    output: Option<String>,
    /// How the report is shown
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: LateFormat,
    /// Memory for sorts and aggregates, e.g. 512MB; beyond it they spill to the temporary directory
    #[arg(long, value_name = "SIZE", value_parser = super::query::bytes, default_value_t = MEMORY_BYTES_DEFAULT)]
    memory_limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LateFormat {
    /// Tables for people
    Table,
    /// Comma-separated values with a header
    Csv,
    /// An array of objects
    Json,
}

impl From<LateFormat> for OutputFormat {
    fn from(format: LateFormat) -> Self {
        match format {
            LateFormat::Table => Self::Table,
            LateFormat::Csv => Self::Csv,
            LateFormat::Json => Self::Json,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// As `late::show`, `late::replay`.
pub async fn run(args: LateArgs) -> Result<()> {
    match args.command {
        LateCommand::Show(args) => show(args).await,
        LateCommand::Replay(args) => replay(args).await,
    }
}

async fn show(args: ShowArgs) -> Result<()> {
    let session = QuerySession::new(Vec::new(), limits(MEMORY_BYTES_DEFAULT))?;
    let shown = late::show(&session, &args.job.read()?, args.limit).await?;
    print(&shown, args.format.into())
}

async fn replay(args: ReplayArgs) -> Result<()> {
    let options = ReplayOptions { table: args.table, output: args.output, limits: limits(args.memory_limit) };
    let reports = late::replay(&args.job.read()?, &options).await?;
    if args.format == LateFormat::Json {
        println!("{}", json(&reports)?);
        return Ok(());
    }
    if reports.iter().any(|report| !report.windows.is_empty()) || args.format == LateFormat::Csv {
        print(&[late::table(&reports)?], args.format.into())?;
    }
    if args.format == LateFormat::Table {
        reports.iter().for_each(|report| println!("{}", report.to_text()));
    }
    Ok(())
}

// One partition: sums of DOUBLE are then in the order of the records.
fn limits(memory_bytes: usize) -> SessionLimits {
    SessionLimits { memory_bytes, partitions: 1 }
}

fn print(batches: &[arrow::array::RecordBatch], format: OutputFormat) -> Result<()> {
    let Some(first) = batches.first() else {
        println!("{}", if format == OutputFormat::Json { "[]" } else { "no rows were late" });
        return Ok(());
    };
    let mut writer = ResultWriter::new(format, &first.schema(), 0, std::io::stdout())?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish().map(drop)
}
