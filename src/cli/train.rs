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
    model::{
        Registry, TrainRequest,
        columns::HandleInvalid,
        fit::Objective,
        penalty::Penalty,
        plot, report,
        request::{EvaluateKind, split_names},
    },
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
    /// SQL that makes the features of the source, which it calls `input`; saved with the model, and applied by `predict`
    #[arg(long, value_name = "SELECT")]
    query: Option<String>,
    /// A feature of words and its values: 'symbol=BTCUSDT|ETHUSDT'; the others are compared with the first
    #[arg(long, value_name = "COLUMN=VALUE|VALUE")]
    categorical: Vec<String>,
    /// What to do with another value of such a feature: stop, or leave the row out
    #[arg(long, value_enum, default_value_t = Invalid::Error)]
    handle_invalid: Invalid,
    /// Units to keep with the model: 'buy_price=USD,volume=BTC'
    #[arg(long, value_name = "COLUMN=UNIT,...", default_value = "", hide_default_value = true)]
    units: String,
    #[command(flatten)]
    weighting: WeightingArgs,
    #[command(flatten)]
    objective: ObjectiveArgs,
    #[command(flatten)]
    evaluation: EvaluationArgs,
    /// The model's name; the target's, if not given
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Where models are kept
    #[arg(long, default_value = "models", value_name = "DIRECTORY")]
    models_dir: PathBuf,
    /// Print a report, the predictions alone (csv), or everything for programs (json)
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    format: ReportFormat,
    /// Draw predicted against actual, the residuals and the coefficients
    #[arg(long, value_name = "FILE.svg")]
    report: Option<PathBuf>,
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

/// How much each row counts.
#[derive(Debug, Args)]
struct WeightingArgs {
    /// The column of observation weights: a row of weight 2 counts as two rows
    #[arg(long, value_name = "COLUMN", help_heading = "Fit")]
    weight: Option<String>,
    /// A row this much older than the newest counts half: '1d', by --time; or '1000 rows'
    #[arg(long, value_name = "DURATION|ROWS", help_heading = "Fit")]
    half_life: Option<String>,
}

/// What is minimised; the names are Spark MLlib's.
#[derive(Debug, Args)]
#[command(next_help_heading = "Fit")]
struct ObjectiveArgs {
    /// How strongly large coefficients are held down (Spark's regParam)
    #[arg(long, default_value_t = 0.0, value_name = "NUMBER")]
    reg_param: f64,
    /// 0 is ridge, 1 is lasso, between them elastic net (Spark's elasticNetParam)
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    elastic_net_param: f64,
    /// Whether each feature is held down in units of its own deviation (Spark's standardization)
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    standardization: bool,
    /// Whether there is an intercept (Spark's fitIntercept)
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    fit_intercept: bool,
    /// The confidence of the intervals
    #[arg(long, default_value_t = 0.95, value_name = "SHARE")]
    confidence: f64,
}

/// On which rows the model is tested, and against what.
#[derive(Debug, Args)]
#[command(next_help_heading = "Evaluation")]
struct EvaluationArgs {
    /// How rows are held back; by default chronological with --time, else random
    #[arg(long, value_enum)]
    evaluate: Option<EvaluateKind>,
    /// The seed of the random split; 42, if not given
    #[arg(long)]
    seed: Option<u64>,
    /// The share of rows that is held back to test on; 0.2, if not given
    #[arg(long)]
    test_fraction: Option<f64>,
    /// How many stretches a walk-forward evaluation predicts, each by a model of all rows before it; 5, if not given
    #[arg(long)]
    folds: Option<usize>,
    /// The column of times: rows are put in its order
    #[arg(long, value_name = "COLUMN")]
    time: Option<String>,
    /// Predict the target this much later: '5m'
    #[arg(long, value_name = "DURATION", requires = "time")]
    horizon: Option<String>,
    /// How much later than asked for a value may be; a tenth of the horizon or season, if not given
    #[arg(long, value_name = "DURATION")]
    tolerance: Option<String>,
    /// Also compare with the value one season before: '24h', or '288 rows'
    #[arg(long, value_name = "DURATION|ROWS")]
    season: Option<String>,
    /// Columns that tell series apart, each with a past and a future of its own
    #[arg(long, value_name = "COLUMNS", default_value = "", hide_default_value = true)]
    partition_by: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Invalid {
    Error,
    Skip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    Table,
    Csv,
    Json,
}

/// Trains, saves and reports. Warnings go to stderr, whatever the format.
pub async fn run(args: TrainArgs) -> Result<()> {
    if let Some(path) = &args.report {
        plot::check_path(path)?;
    }
    let request = args.request()?;
    let query = open_query(&args.source, &args.models_dir).await?;
    let spinner = spinner()?;
    let training = query.train(request, &|rows| spinner.inc(rows)).await;
    spinner.finish_and_clear();
    let training = training?;
    for warning in &training.warnings {
        eprintln!("warning: {warning}");
    }
    let stored = Registry::new(args.models_dir).save(training.model.clone())?;
    if let Some(path) = &args.report {
        plot::write(path, &stored, &training.drawn)?;
    }
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

impl TrainArgs {
    fn request(&self) -> Result<TrainRequest> {
        let ObjectiveArgs { reg_param, elastic_net_param, standardization, fit_intercept, confidence } = self.objective;
        let evaluation = &self.evaluation;
        Ok(TrainRequest {
            model: self.model.clone(),
            query: self.query.clone(),
            features: Some(split_names(&self.features, "--features")?),
            categorical: self.categorical.clone(),
            handle_invalid: match self.handle_invalid {
                Invalid::Error => HandleInvalid::Error,
                Invalid::Skip => HandleInvalid::Skip,
            },
            units: self.units.clone(),
            weight: self.weighting.weight.clone(),
            half_life: self.weighting.half_life.clone(),
            objective: Objective { fit_intercept, penalty: Penalty { reg_param, elastic_net_param, standardization } },
            confidence,
            evaluate: evaluation.evaluate,
            seed: evaluation.seed,
            test_fraction: evaluation.test_fraction,
            folds: evaluation.folds,
            time: evaluation.time.clone(),
            horizon: evaluation.horizon.clone(),
            tolerance: evaluation.tolerance.clone(),
            season: evaluation.season.clone(),
            partition_by: split_names(&evaluation.partition_by, "--partition-by")?,
            drop_redundant: self.drop_redundant,
            strict: self.strict,
            rows_shown: self.show,
            ..TrainRequest::new(&self.source.source, &self.target)
        })
    }
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
