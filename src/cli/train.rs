//! `tidemill train`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::source::{SourceArgs, open_query};
use crate::{
    error::{Error, Result},
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
