//! From late rows to the windows that they belong to, computed again.

use std::collections::BTreeMap;

use futures::StreamExt;

use super::{
    compare::{self, Columns, Rows},
    correction::Correction,
    recompute::{self, Bounds, Remaining, lost_error},
    report::{ReplayReport, WindowReport},
    rows,
};
use crate::{
    catalog::{Connector, FileFormat, FileTable, Insert, Job},
    error::{Error, ErrorKind, Result, nearest},
    query::QuerySession,
    session::SessionLimits,
    sink::{StagedFile, file::FileSinkWriter},
    stream::{LateQuery, inspect::Span},
    window::Window,
};

/// What is to be replayed.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// Only the INSERT into this table.
    pub table: Option<String>,
    /// Where the corrected rows go.
    pub output: Option<String>,
    pub limits: SessionLimits,
}

/// Computes the windows of all late rows again. The output stays as it is.
///
/// # Errors
/// `NotFound` for a table that is not there, or before the first batch; `Invalid`, `Unsupported` for a query whose windows
/// cannot be computed again; `DataLoss` where Kafka has not the records any more; the stores' and Kafka's.
pub async fn replay(job: &Job, options: &ReplayOptions) -> Result<Vec<ReplayReport>> {
    let mut queries = Vec::new();
    for insert in wanted(job, options.table.as_deref())? {
        match LateQuery::open(job, insert).await? {
            Some(query) => queries.push((insert, query)),
            None if options.table.is_some() => {
                return Err(Error::invalid(format!(
                    "the INSERT into {} has no windows, so no row can be late",
                    insert.target
                ))
                .at(insert.place.clone()));
            }
            None => {}
        }
    }
    if queries.is_empty() {
        return Err(rows::no_windows(job));
    }
    if options.output.is_some() && queries.len() > 1 {
        let names: Vec<&str> = queries.iter().map(|(insert, _)| insert.target.as_str()).collect();
        return Err(Error::invalid("--output takes the rows of one query, and the job has several with windows")
            .help(format!("name one with --table: {}", names.join(", "))));
    }
    let mut reports = Vec::new();
    for (insert, query) in &queries {
        let replayed = Box::pin(replay_one(job, insert, query, options)).await;
        reports.push(replayed.map_err(|error| error.context(&query.name))?);
    }
    Ok(reports)
}

fn wanted<'a>(job: &'a Job, table: Option<&str>) -> Result<Vec<&'a Insert>> {
    let Some(table) = table else { return Ok(job.inserts.iter().collect()) };
    let found: Vec<&Insert> = job.inserts.iter().filter(|it| it.target.eq_ignore_ascii_case(table)).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let names: Vec<&str> = job.inserts.iter().map(|insert| insert.target.as_str()).collect();
    let error = Error::new(ErrorKind::NotFound, format!("no INSERT of the job {} writes a table '{table}'", job.name));
    Err(match nearest(table, names.iter().copied()) {
        Some(near) => error.help(format!("did you mean {near}?")),
        None => error.help(format!("they write {}", names.join(", "))),
    })
}

fn span(window: &Window) -> Span {
    Span { start_us: window.start_us, end_us: window.end_us }
}

async fn replay_one(job: &Job, insert: &Insert, query: &LateQuery, options: &ReplayOptions) -> Result<ReplayReport> {
    let Connector::File(output) = &query.sink.connector else {
        return Err(Error::unsupported("replaying late rows of a query that writes no files")
            .at(query.sink.place.clone())
            .help("run the INSERT's SELECT with `tidemill query --job`: it gives all windows as they would be"));
    };
    let Connector::Kafka(kafka) = &query.source.connector else {
        return Err(Error::internal("the source is no Kafka table"));
    };
    let replayable = query.replayable()?;
    let bounds = Bounds::of(&query.schema).map_err(|error| error.at(insert.place.clone()))?;
    let correction = match &options.output {
        Some(directory) => Some(Correction::open(directory, output, &query.late, &query.schema).await?),
        None => None,
    };
    let session = QuerySession::new(Vec::new(), options.limits)?;
    let (late, standing) = rows::late_rows(&session, query).await?;
    let mut windows = rows::windows(late, &replayable).await?;
    let mut report = ReplayReport {
        query: query.name.clone(),
        late_directory: query.late.path.clone(),
        batch: standing.batch,
        windows: Vec::new(),
        compared: true,
        replaces: Vec::new(),
        lost: Vec::new(),
        deleted: Vec::new(),
        open: Vec::new(),
        corrected: None,
    };
    let open = take(&mut windows, |window| !replayable.is_written(window, standing.watermark_ms));
    report.open = open;
    if windows.is_empty() {
        return Ok(report);
    }
    let skew_us = query.source.watermark.as_ref().map_or(0, |it| it.max_future_skew.as_micros());
    let remaining = Remaining::ask(kafka, &standing, i64::try_from(skew_us).unwrap_or(i64::MAX)).await?;
    report.lost = take(&mut windows, |window| !remaining.has(window));
    report.deleted.clone_from(&remaining.lost);
    if windows.is_empty() {
        let (count, gone) = (report.lost.len(), remaining.lost.join(", "));
        return Err(lost_error(format!("{gone}: {count} windows with late rows may have had records there")));
    }
    let times = (!replayable.is_nested()).then(|| times(&windows));
    let (plan, stream) = recompute::run(job, insert, &query.source, &remaining, options.limits, times).await?;
    let computing = compute(stream, correction.as_ref(), bounds, &windows).await;
    let (now, files) = giving_up(correction.as_ref(), computing).await?;
    let fields = query.schema.fields();
    let columns = Columns {
        names: fields.iter().map(|field| field.name().clone()).collect(),
        keys: compare::keys(&plan),
        bounds,
        null: if matches!(output.format, FileFormat::Csv(_)) { "" } else { "NULL" },
    };
    let comparing = compare_with(&session, query, output, &columns, (&windows, &now), &mut report).await;
    giving_up(correction.as_ref(), comparing).await?;
    if let Some(correction) = &correction {
        correction.publish(&files, &mut report).await?;
    }
    Ok(report)
}

/// Takes the windows out of which `is_out` says yes.
fn take(windows: &mut BTreeMap<Window, u64>, is_out: impl Fn(Window) -> bool) -> Vec<Span> {
    let out: Vec<Window> = windows.keys().copied().filter(|window| is_out(*window)).collect();
    windows.retain(|window, _| !is_out(*window));
    out.iter().map(span).collect()
}

fn times(windows: &BTreeMap<Window, u64>) -> (i64, i64) {
    let first = windows.keys().next().map_or(i64::MIN, |window| window.start_us);
    (first, windows.keys().map(|window| window.end_us).max().unwrap_or(i64::MAX))
}

/// Deletes what was begun of a correction if something failed.
async fn giving_up<T>(correction: Option<&Correction>, result: Result<T>) -> Result<T> {
    if let (Err(error), Some(correction)) = (&result, correction)
        && let Err(left) = correction.abandon().await
    {
        tracing::warn!(%error, %left, "hidden files of the correction stay");
    }
    result
}

async fn compute(
    mut stream: datafusion::execution::SendableRecordBatchStream,
    correction: Option<&Correction>,
    bounds: Bounds,
    windows: &BTreeMap<Window, u64>,
) -> Result<(Rows, Vec<StagedFile>)> {
    let mut writer: Option<FileSinkWriter> = correction.map(Correction::begin);
    let mut rows = Rows::default();
    let running = async {
        while let Some(batch) = stream.next().await {
            let (kept, of) = bounds.only(&batch?, windows)?;
            if let Some(writer) = writer.as_mut().filter(|_| kept.num_rows() > 0) {
                writer.write(&kept).await?;
            }
            rows.add(kept, &of);
        }
        Ok::<(), Error>(())
    };
    let ran = running.await;
    match (ran, writer) {
        (Ok(()), Some(writer)) => Ok((rows, writer.finish().await?)),
        (Ok(()), None) => Ok((rows, Vec::new())),
        (Err(error), Some(writer)) => {
            writer.abandon().await?;
            Err(error)
        }
        (Err(error), None) => Err(error),
    }
}

async fn compare_with(
    session: &QuerySession,
    query: &LateQuery,
    output: &FileTable,
    columns: &Columns,
    (windows, now): (&BTreeMap<Window, u64>, &Rows),
    report: &mut ReplayReport,
) -> Result<()> {
    let (written, replaces) = super::written::read(session, output, &query.schema, columns.bounds, windows).await?;
    report.replaces = replaces;
    let mut changes = compare::changes(&written, now, columns)?;
    report.compared = changes.is_some();
    let counted = |rows: &Rows, window: &Window| rows.counts.get(window).copied().unwrap_or(0);
    let one = |(window, late_rows): (&Window, &u64)| WindowReport {
        window: span(window),
        late_rows: *late_rows,
        rows_written: counted(&written, window),
        rows_now: counted(now, window),
        changes: changes.as_mut().and_then(|changes| changes.remove(window)).unwrap_or_default(),
    };
    report.windows = windows.iter().map(one).collect();
    Ok(())
}
