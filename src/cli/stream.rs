//! `tidemill stream`.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{job::JobArgs, page, signals};
use crate::{
    error::{Error, Result},
    page::Page,
    stream::{ProgressFormat, QueryListener, StreamOptions, Trigger, describe, launch},
};

/// Launch the streaming queries of a job file
///
/// Every INSERT INTO of the file becomes a query of its own, with its own checkpoint. Stop it with Ctrl-C or SIGTERM:
/// it finishes the batch that it is in. Start it again and it goes on where it stopped, exactly once.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tidemill stream sql/bitcoin.sql --dry-run\n  \
    tidemill stream sql/bitcoin.sql -D KAFKA=broker:9092 --trigger '10 seconds'\n  \
    tidemill stream sql/bitcoin.sql --available-now      # read what is there, then stop\n  \
    tidemill stream sql/forecast.sql --ui 4040            # and show it at http://localhost:4040")]
pub struct StreamArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Start a batch every so often ('10 seconds', '200ms'); without it, as soon as there is something to read
    #[arg(long, value_name = "INTERVAL", value_parser = interval)]
    trigger: Option<Duration>,
    /// Read what is in Kafka now, in batches, then stop
    #[arg(long, conflicts_with_all = ["trigger", "once"])]
    available_now: bool,
    /// Run one batch without limits, then stop
    #[arg(long, conflicts_with = "trigger")]
    once: bool,
    /// Check everything, print schemas, plans and where each query stands, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Give up the state of the query that fills this table, once, after a change that its state does not fit:
    /// the windows that are open begin anew, and the rows in them are counted as reset
    #[arg(long, value_name = "TABLE", conflicts_with = "dry_run")]
    reset_state: Vec<String>,
    /// How progress is shown
    #[arg(long, value_enum, default_value = "line", value_name = "FORMAT")]
    progress: ProgressFormat,
    /// Also append every batch's progress (Spark's JSON) to this file
    #[arg(long, value_name = "FILE")]
    progress_log: Option<PathBuf>,
    /// Show the live page at this port of this machine, or at this address ('0.0.0.0:4040': then with the token in
    /// TIDEMILL_UI_TOKEN); port 0 is any that is free
    #[arg(long, value_name = "ADDR", value_parser = page::address, conflicts_with = "dry_run")]
    ui: Option<SocketAddr>,
}

/// Runs the command.
///
/// # Errors
/// The job's.
pub async fn run(args: StreamArgs) -> Result<()> {
    let job = args.job.read()?;
    if args.dry_run {
        print!("{}", describe(&job).await?);
        println!("dry run: everything is in order, nothing was written");
        return Ok(());
    }
    let trigger = match (args.trigger, args.available_now, args.once) {
        (Some(interval), ..) => Trigger::ProcessingTime(interval),
        (None, true, _) => Trigger::AvailableNow,
        (None, _, true) => Trigger::Once,
        _ => Trigger::AsSoonAsPossible,
    };
    let stop = CancellationToken::new();
    signals::cancel_on_signal(stop.clone());
    let page = match args.ui {
        Some(address) => Some(Page::open(&page::options(address, 0), &job.name).await?),
        None => None,
    };
    if let Some(page) = &page {
        eprintln!("page: {}", page.url());
    }
    let options = StreamOptions {
        trigger,
        progress: args.progress,
        progress_log: args.progress_log,
        reset_state: args.reset_state,
        listener: page.as_ref().map(|page| page.hub() as Arc<dyn QueryListener>),
    };
    let result = launch(&job, &options, &stop).await;
    if let Some(page) = page {
        page.close().await;
    }
    for (name, totals) in result? {
        eprintln!("{name}: {}", totals.equation());
    }
    Ok(())
}

/// `10 seconds`, `200ms`: for clap.
pub fn interval(text: &str) -> Result<Duration, String> {
    crate::catalog::parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| Error::invalid(format!("{text:?} is no interval: write '10 seconds' or '200ms'")).to_string())
}
