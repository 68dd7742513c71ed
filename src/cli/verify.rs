//! `tidemill verify`.

use clap::Args;

use super::job::JobArgs;
use crate::{
    error::{Error, ErrorKind, Result},
    verify::verify,
};

/// Recount a job's files against its offsets: is every record accounted for?
///
/// Says yes, or what is missing or double, and ends with a non-zero exit code then. It may run beside the job: a
/// batch that is under way is left out.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tidemill verify sql/bitcoin.sql -D KAFKA=broker:9092")]
pub struct VerifyArgs {
    #[command(flatten)]
    job: JobArgs,
    /// How the answer is shown
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    format: VerdictFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum VerdictFormat {
    /// A line for each check
    Text,
    /// An array with an object for each query
    Json,
}

/// Runs the command.
///
/// # Errors
/// `Corrupt` if something does not add up.
pub async fn run(args: VerifyArgs) -> Result<()> {
    let verdicts = verify(&args.job.read()?).await?;
    match args.format {
        VerdictFormat::Text => {
            for verdict in &verdicts {
                println!("{}", verdict.query);
                for check in &verdict.checks {
                    println!("  {} {}", if check.ok { "yes" } else { "NO " }, check.what);
                }
            }
        }
        VerdictFormat::Json => {
            let json: Vec<_> = verdicts
                .iter()
                .map(|verdict| {
                    let checks: Vec<_> =
                        verdict.checks.iter().map(|c| serde_json::json!({"ok": c.ok, "what": c.what})).collect();
                    serde_json::json!({"query": verdict.query, "ok": verdict.is_ok(), "checks": checks})
                })
                .collect();
            println!("{}", serde_json::Value::from(json));
        }
    }
    let wrong: Vec<&str> = verdicts.iter().filter(|v| !v.is_ok()).map(|v| v.query.as_str()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, format!("not every record of {} is accounted for", wrong.join(", "))))
}
