//! `tidemill state`.

use clap::Args;

use super::job::JobArgs;
use crate::{
    error::{Error, Result},
    stream::inspect,
};

/// Show what the queries of a job remember
///
/// Open windows, rows, bytes and files of each aggregate, the watermark, and which window closes next. It reads the
/// checkpoint and changes nothing; the job may run or be stopped.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tidemill state job.sql\n  \
    tidemill state job.sql --format json")]
pub struct StateArgs {
    #[command(flatten)]
    job: JobArgs,
    /// How it is shown
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: StateFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum StateFormat {
    /// Lines for people
    Table,
    /// An array with an object for each query
    Json,
}

/// Runs the command.
///
/// # Errors
/// As `inspect::state`.
pub async fn run(args: StateArgs) -> Result<()> {
    let reports = inspect::state(&args.job.read()?).await?;
    match args.format {
        StateFormat::Table => reports.iter().for_each(|report| println!("{}", report.to_text())),
        StateFormat::Json => println!("{}", json(&reports)?),
    }
    Ok(())
}

/// One line.
///
/// # Errors
/// `Internal`: a defect.
pub fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal("the answer is no JSON").source_error(error))
}
