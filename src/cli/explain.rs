//! `tidemill explain`.

use clap::Args;

use super::{job::JobArgs, state::json};
use crate::{error::Result, stream::inspect};

/// Say why nothing comes out of a job, and what would help
///
/// What waits in Kafka, which partition holds the watermark, how far it is to the next window that closes, what is in
/// state, and what became of the last records. It changes nothing; the job may run or be stopped.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tidemill explain job.sql -D KAFKA=broker:9092")]
pub struct ExplainArgs {
    #[command(flatten)]
    job: JobArgs,
    /// How the answer is shown
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    format: ExplainFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ExplainFormat {
    /// A sentence, and what it follows from
    Text,
    /// An array with an object for each query
    Json,
}

/// Runs the command.
///
/// # Errors
/// As `inspect::situation`.
pub async fn run(args: ExplainArgs) -> Result<()> {
    let situations = inspect::situation(&args.job.read()?).await?;
    match args.format {
        ExplainFormat::Text => situations.iter().for_each(|situation| println!("{}", situation.to_text())),
        ExplainFormat::Json => {
            let answered = situations.iter().map(|situation| {
                let mut object = serde_json::to_value(situation)?;
                object["answer"] = serde_json::to_value(situation.answer())?;
                Ok(object)
            });
            let answered: serde_json::Result<Vec<_>> = answered.collect();
            let internal = |error| crate::error::Error::internal("the answer is no JSON").source_error(error);
            println!("{}", json(&answered.map_err(internal)?)?);
        }
    }
    Ok(())
}
