//! The whole pipeline in one process, with nothing else installed: simulator, broker, stream, files, ledger, live page,
//! query and model. `broker.rs` is the in-process Kafka, `prices.rs` feeds it, `story.rs` says what happens.

mod broker;
mod prices;
mod story;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    catalog::{Job, Variables},
    clock,
    error::{Error, ErrorKind, Result},
    page::{Page, PageOptions},
    stream::{ProgressFormat, QueryListener, StreamOptions, Trigger, launch},
    verify::verify,
};

/// The job that the demo runs.
const JOB: &str = include_str!("../../sql/demo.sql");
/// A batch every so often: files worth looking at, and a line a second that moves.
const TRIGGER: Duration = Duration::from_secs(1);

/// What the user may choose.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// `None`: until `stop`.
    pub duration: Option<Duration>,
    /// Where the files go; must be empty or absent.
    pub directory: PathBuf,
    /// Prices a second.
    pub rate: u32,
    pub seed: u64,
    /// The live page, if there is one.
    pub page: Option<PageOptions>,
}

/// Runs the demo and tells its story on the standard output.
///
/// # Errors
/// `Invalid` if the directory holds something; else those of its parts.
pub async fn demo(options: &DemoOptions, stop: &CancellationToken) -> Result<()> {
    check_directory(options)?;
    let broker = broker::Broker::start()?;
    let job = job(options, broker.address())?;
    let page = match &options.page {
        Some(page) => Some(Page::open(page, &job.name).await?),
        None => None,
    };
    story::opening(options, broker.address(), page.as_ref().map(Page::url));
    let (enough, done) = (stop.child_token(), CancellationToken::new());
    let feed = prices::Feed::start(options, broker.address(), enough.clone()).await?;
    let stream = {
        let (job, done) = (job.clone(), done.clone());
        let log = Some(options.directory.join("progress.jsonl"));
        let options = StreamOptions {
            trigger: Trigger::ProcessingTime(TRIGGER),
            progress: ProgressFormat::None,
            progress_log: log,
            reset_state: Vec::new(),
            listener: page.as_ref().map(|page| page.hub() as Arc<dyn QueryListener>),
        };
        tokio::spawn(async move { launch(&job, &options, &done).await })
    };
    let told = story::tell(options, &feed, &stream, &enough).await;
    enough.cancel();
    let sent = feed.finish().await?;
    // The stream gets the time to read the last prices before it is stopped.
    clock::sleep(TRIGGER + TRIGGER).await;
    done.cancel();
    let totals = stream.await.map_err(|error| Error::internal("the stream's task died").source_error(error))??;
    told?;
    story::forecasts_in_all(&options.directory);
    story::ledger(&totals, sent);
    story::verdict(&verify(&job).await?)?;
    story::query_and_model(&options.directory).await?;
    story::closing(&options.directory);
    if let Some(page) = page {
        page.close().await;
    }
    Ok(())
}

fn check_directory(options: &DemoOptions) -> Result<()> {
    let directory = &options.directory;
    if directory.to_string_lossy().contains("://") {
        return Err(Error::invalid(format!(
            "{} is a URL, and the demo writes to a local directory",
            directory.display()
        ))
        .help("run sql/demo.sql with `tidemill stream -D DIR=...` for another store"));
    }
    let taken = |error| {
        Error::new(ErrorKind::Invalid, format!("cannot use the directory {}", directory.display())).source_error(error)
    };
    std::fs::create_dir_all(directory).map_err(taken)?;
    if std::fs::read_dir(directory).map_err(taken)?.next().is_some() {
        return Err(Error::invalid(format!("the directory {} is not empty", directory.display()))
            .help("remove it, or name another with --dir"));
    }
    Ok(())
}

fn job(options: &DemoOptions, brokers: &str) -> Result<Job> {
    let directory = std::path::absolute(&options.directory)
        .map_err(|error| Error::invalid(format!("{}", options.directory.display())).source_error(error))?;
    let given = [("KAFKA", brokers.to_owned()), ("DIR", directory.display().to_string())];
    let given = given.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Job::parse("sql/demo.sql", JOB, &Variables { given })
}
