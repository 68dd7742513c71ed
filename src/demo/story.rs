//! What the demo says, in a few clear lines.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    DemoOptions,
    prices::{Feed, SentCounts},
};
use crate::{
    checkpoint::Ledger,
    clock::{self, Stopwatch},
    error::{Error, ErrorKind, Result},
    model::{Evaluate, Registry, TrainOptions, dataset::Roles, report, train},
    query::{MEMORY_BYTES_DEFAULT, OutputFormat, QuerySession, ResultWriter, TABLE_ROWS_DEFAULT},
    session::SessionLimits,
    verify::Verdict,
};

/// A line that moves every so often.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// The model has a line after so many forecasts that came due.
const FORECASTS_PER_LINE: u64 = 5;

type Stream = JoinHandle<Result<Vec<(String, Ledger)>>>;

/// What is about to happen.
pub fn opening(options: &DemoOptions, broker: &str, page: Option<String>) {
    let directory = options.directory.display();
    println!("broker  a Kafka broker inside this process, at {broker}, topic {}", super::broker::TOPIC);
    println!(
        "prices  {} a second, a random walk with seed {}; one in a thousand is spoilt",
        options.rate, options.seed
    );
    println!("stream  sql/demo.sql: Parquet in {directory}/prices, CSV in {directory}/trades, a batch a second");
    println!("windows candles of five seconds in {directory}/candles, each when its time is over");
    println!("learns  a model of the price five seconds ahead, in {directory}/forecasts");
    if let Some(page) = page {
        println!("page    {page}   <- open it in a browser");
    }
    match options.duration {
        Some(duration) => println!("time    {} s\n", duration.as_secs()),
        None => println!("time    until Ctrl-C\n"),
    }
}

/// A line a second, until the time is over, the user stops it, or the stream fails.
///
/// # Errors
/// `Internal` if the stream ended by itself; its own error follows from its task.
pub async fn tell(options: &DemoOptions, feed: &Feed, stream: &Stream, stop: &CancellationToken) -> Result<()> {
    let (started, mut candles) = (Stopwatch::start(), Candles::new(&options.directory));
    let mut forecasts = Forecasts::default();
    while options.duration.is_none_or(|duration| started.elapsed() < duration) {
        tokio::select! {
            () = clock::sleep(LINE_INTERVAL) => {}
            () = stop.cancelled() => return Ok(()),
        }
        if stream.is_finished() {
            return Err(Error::internal("the stream ended before the demo"));
        }
        let latest = feed.latest();
        let price: serde_json::Value = serde_json::from_slice(&latest.value).unwrap_or_default();
        let number = |name: &str| price[name].as_f64().unwrap_or(f64::NAN);
        let (rows, batches) = progress(&options.directory);
        println!(
            "{:>4} s  buy {:>9.2}  sell {:>9.2}  volume {:>5}  | {:>7} sent  {rows:>7} written in {batches} batches",
            started.elapsed().as_secs(),
            number("buy_price"),
            number("sell_price"),
            price["volume"],
            latest.sent,
        );
        candles.tell();
        forecasts.tell(&options.directory);
    }
    Ok(())
}

/// The windows that have closed.
struct Candles {
    directory: PathBuf,
    told: BTreeSet<PathBuf>,
}

impl Candles {
    fn new(directory: &Path) -> Self {
        Self { directory: directory.join("candles"), told: BTreeSet::new() }
    }

    /// Shows those that were not shown yet. Files appear whole, so they can be read as they come.
    fn tell(&mut self) {
        let is_visible =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-"));
        let found = std::fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let new: Vec<PathBuf> = found.filter(|path| is_visible(path) && !self.told.contains(path)).collect();
        for path in new {
            for line in std::fs::read_to_string(&path).unwrap_or_default().lines() {
                if let [start, open, high, low, close, volume] = line.split(',').collect::<Vec<_>>()[..] {
                    let time = start.get(11..19).unwrap_or(start);
                    println!(
                        "window  {time} closed: open {open}, high {high}, low {low}, close {close}, volume {volume}"
                    );
                }
            }
            self.told.insert(path);
        }
    }
}

/// The model that learns while it forecasts.
#[derive(Default)]
struct Forecasts {
    told: u64,
}

impl Forecasts {
    /// How far off it is, whenever so many more forecasts could be held against the truth.
    fn tell(&mut self, directory: &Path) {
        if let Some((scored, said)) = forecasts(directory)
            && scored >= self.told + FORECASTS_PER_LINE
        {
            self.told = scored;
            println!("{said}");
        }
    }
}

/// How far off the model was that learned, when the stream has ended.
pub fn forecasts_in_all(directory: &Path) {
    if let Some((_, said)) = forecasts(directory) {
        println!("{said}");
    }
}

/// How many forecasts could be held against the truth, and what came of it; `None` if there are none.
fn forecasts(directory: &Path) -> Option<(u64, String)> {
    let line = last_progress(directory, "demo.forecasts")?;
    let forecast = &line["forecast"];
    let scored = forecast["numForecastsScored"].as_u64().filter(|scored| *scored > 0)?;
    let by = match forecast["version"].as_u64() {
        Some(version) if version > 0 => format!("version {version}"),
        _ => "the naive forecast".to_owned(),
    };
    let number = |name: &str| forecast["prequential"][name].as_f64().unwrap_or(f64::NAN);
    let [rmse, naive, skill] = ["rmse", "naiveRmse", "skill"].map(number);
    let said = format!(
        "model   {scored} forecasts came due: RMSE {rmse:.2}, that of no change {naive:.2}, skill {skill:.3}; {by} serves"
    );
    Some((scored, said))
}

/// The newest progress of a query, from the job's log.
fn last_progress(directory: &Path, name: &str) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(directory.join("progress.jsonl")).unwrap_or_default();
    let mut lines = text.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.find(|line| line["name"] == name)
}

/// Rows and batches of the Parquet query.
fn progress(directory: &Path) -> (u64, u64) {
    last_progress(directory, "demo.prices").map_or((0, 0), |line| {
        let rows = line["ledger"]["total"]["written"].as_u64().unwrap_or(0);
        (rows, line["batchId"].as_u64().map_or(0, |id| id + 1))
    })
}

/// Every record accounted for.
pub fn ledger(totals: &[(String, Ledger)], sent: SentCounts) {
    println!("\nledger  {} prices sent, {} of them spoilt", sent.records, sent.poisoned);
    for (name, totals) in totals {
        println!("        {name}: {}", totals.equation());
    }
}

/// What `tidemill verify` says.
///
/// # Errors
/// `Corrupt` if something does not add up.
pub fn verdict(verdicts: &[Verdict]) -> Result<()> {
    let wrong: Vec<&str> = verdicts
        .iter()
        .flat_map(|verdict| verdict.checks.iter().filter(|check| !check.ok).map(|check| check.what.as_str()))
        .collect();
    if wrong.is_empty() {
        let checks: usize = verdicts.iter().map(|verdict| verdict.checks.len()).sum();
        println!("verify  {checks} checks: every record is accounted for, the files hold what the ledger says");
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, format!("the recount does not add up: {}", wrong.join("; "))))
}

/// Asks the stored files a question and fits a model to them.
///
/// # Errors
/// Those of the query and of the training.
pub async fn query_and_model(directory: &Path) -> Result<()> {
    let session = QuerySession::new(Vec::new(), SessionLimits { memory_bytes: MEMORY_BYTES_DEFAULT, partitions: 1 })?;
    let files = format!("{}/prices", directory.display()).replace('\'', "''");
    let sql = format!(
        "SELECT date_bin(INTERVAL '5 seconds', timestamp) AS time, count(*) AS ticks,\n  \
         first_value(sell_price ORDER BY timestamp) AS open, max(sell_price) AS high, min(sell_price) AS low,\n  \
         last_value(sell_price ORDER BY timestamp) AS close, sum(volume) AS volume\n\
         FROM '{files}' GROUP BY 1 ORDER BY 1 DESC LIMIT 5"
    );
    println!("\nquery   {}", sql.replace('\n', "\n        "));
    let mut rows = session.select(&sql).await?;
    let schema = rows.schema();
    let mut writer = ResultWriter::new(OutputFormat::Table, &schema, TABLE_ROWS_DEFAULT, std::io::stdout())?;
    while let Some(batch) = rows.next().await? {
        writer.write(&batch)?;
    }
    writer.finish()?;
    model(&session, &files, directory).await
}

async fn model(session: &QuerySession, files: &str, directory: &Path) -> Result<()> {
    // What an honest model may know: the prices of the tick before, not of the same one.
    let sql = format!(
        "SELECT sell_after, sell_price AS sell_before, buy_price AS buy_before, volume AS volume_before, volatility AS volatility_before \
         FROM (SELECT timestamp, lead(sell_price) OVER (ORDER BY timestamp) AS sell_after, sell_price, buy_price, volume, volatility \
               FROM '{files}') WHERE sell_after IS NOT NULL ORDER BY timestamp"
    );
    let options = TrainOptions {
        name: "demo".to_owned(),
        source: sql.clone(),
        roles: Roles {
            target: "sell_after".to_owned(),
            features: ["sell_before", "buy_before", "volume_before", "volatility_before"].map(str::to_owned).to_vec(),
            last_value: Some("sell_before".to_owned()),
            ..Roles::default()
        },
        evaluate: Evaluate::Chronological { test_fraction: 0.2 },
        drop_redundant: true,
        rows_shown: 5,
        ..TrainOptions::default()
    };
    let run = |_| async { Ok(session.select(&sql).await?.into_stream()) };
    let training = train(&options, run, &|_| {}).await?;
    let stored = Registry::new(directory.join("models")).save(training.model)?;
    println!(
        "\nmodel   the next sell_price from the tick before, fitted on the first 80 % of the rows, tested on the rest"
    );
    print!("{}", report::summary(&stored));
    println!(
        "        A random walk cannot be foretold: a model that is about as good as the last value is the truth here."
    );
    Ok(())
}

/// Where to go from here.
pub fn closing(directory: &Path) {
    let directory = directory.display();
    println!("\nlook around:");
    println!("  tidemill query \"SELECT * FROM '{directory}/prices' ORDER BY timestamp DESC LIMIT 10\"");
    println!("  tidemill query \"SELECT * FROM '{directory}/prices_dead_letter'\"     # the spoilt records, and why");
    println!("  tidemill train '{directory}/prices' --target sell_price --features volume,volatility");
    println!("  sql/demo.sql is the job; the same file runs against a Kafka and a Hadoop of your own");
}
