//! Every INSERT of a job file as a query of its own, started, watched and stopped together.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    listener::QueryListener,
    output::checkpoint_location,
    progress::{ProgressFormat, Reporter},
    progress_log::ProgressLog,
    query::StreamingQuery,
    trigger::Trigger,
};
use crate::{
    catalog::{Connector, Insert, Job},
    checkpoint::Ledger,
    error::{Error, Result, nearest},
};

/// How a job is run.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    pub trigger: Trigger,
    pub progress: ProgressFormat,
    pub progress_log: Option<PathBuf>,
    /// The queries whose state is given up, by the table that they fill.
    pub reset_state: Vec<String>,
    /// Hears of what the queries do.
    pub listener: Option<Arc<dyn QueryListener>>,
}

/// Runs all queries of `job` until their trigger is done, one fails, or `stop` is cancelled; in the last two cases
/// each finishes the batch that it is in. Returns each query's name and totals.
///
/// # Errors
/// That of the query which failed first.
pub async fn launch(job: &Job, options: &StreamOptions, stop: &CancellationToken) -> Result<Vec<(String, Ledger)>> {
    if job.inserts.is_empty() {
        return Err(Error::invalid(format!("the job {} has no INSERT INTO, so there is nothing to run", job.name))
            .help(
                "add INSERT INTO <sink table> SELECT ... FROM <kafka table>; or use `tidemill query --job` to read",
            ));
    }
    let on_screen =
        |insert: &&Insert| matches!(job.table(&insert.target).map(|t| &t.connector), Some(Connector::Console(_)));
    if let (ProgressFormat::Json, Some(insert)) = (options.progress, job.inserts.iter().find(on_screen)) {
        return Err(Error::invalid("--progress json and a console table would share the standard output")
            .at(insert.place.clone())
            .help("use --progress-log FILE for the JSON"));
    }
    for table in &options.reset_state {
        check_reset(job, table)?;
    }
    let mut listeners: Vec<Arc<dyn QueryListener>> = options.listener.iter().cloned().collect();
    if let Some(path) = &options.progress_log {
        listeners.push(Arc::new(ProgressLog::open(path.clone())?));
    }
    let reporter = Arc::new(Reporter::new(options.progress, listeners));
    // All are opened before one is run: a mistake in the second must not let the first begin.
    let mut queries = Vec::new();
    let mut temporary = Vec::new();
    for insert in &job.inserts {
        let location = checkpoint_location(job, insert)?;
        let location = match location {
            Some(location) => location,
            None => {
                let directory = std::env::temp_dir().join(format!("tidemill-{}", uuid::Uuid::new_v4()));
                temporary.push(directory.clone());
                directory.to_string_lossy().into_owned()
            }
        };
        queries.push(StreamingQuery::open(job, insert, &location, options.reset_state.contains(&insert.target)).await?);
    }
    let result = run_all(queries, options.trigger, stop, &reporter).await;
    for directory in temporary {
        if let Err(error) = std::fs::remove_dir_all(&directory) {
            tracing::warn!(directory = %directory.display(), %error, "the temporary checkpoint stays behind");
        }
    }
    result
}

fn check_reset(job: &Job, table: &str) -> Result<()> {
    let targets = || job.inserts.iter().map(|insert| insert.target.as_str());
    if targets().any(|target| target == table) {
        return Ok(());
    }
    let error = Error::invalid(format!("--reset-state {table}: no INSERT of the job {} fills that table", job.name));
    Err(match nearest(table, targets()) {
        Some(near) => error.help(format!("did you mean {near}?")),
        None => error.help(format!("the tables are {}", targets().collect::<Vec<_>>().join(", "))),
    })
}

async fn run_all(
    queries: Vec<StreamingQuery>,
    trigger: Trigger,
    stop: &CancellationToken,
    reporter: &Arc<Reporter>,
) -> Result<Vec<(String, Ledger)>> {
    let stop = stop.child_token();
    let (mut tasks, mut names) = (JoinSet::new(), HashMap::new());
    for query in queries {
        let (stop, reporter, name) = (stop.clone(), Arc::clone(reporter), query.name.clone());
        reporter.started(&name, &query.sink());
        let running = name.clone();
        let task = tasks.spawn(async move { (name, query.run(trigger, &stop, &reporter).await) });
        names.insert(task.id(), running);
    }
    let (mut totals, mut failure) = (Vec::new(), None);
    while let Some(joined) = tasks.join_next().await {
        let (name, result) = joined.unwrap_or_else(|error| {
            let name = names.remove(&error.id()).unwrap_or_default();
            (name, Err(Error::internal("a query's task died").source_error(error)))
        });
        reporter.ended(&name, result.as_ref().err());
        match result {
            Ok(done) => totals.push((name, done)),
            Err(error) if failure.is_none() => {
                stop.cancel();
                failure = Some(error);
            }
            Err(error) => reporter.warn("also", &error.to_string()),
        }
    }
    totals.sort_by(|a, b| a.0.cmp(&b.0));
    failure.map_or(Ok(totals), Err)
}
