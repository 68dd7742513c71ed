//! The late rows of a query.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use datafusion::{
    dataframe::DataFrame,
    functions_aggregate::expr_fn::{count, max},
    logical_expr::{Expr, SortExpr, lit},
    prelude::ident,
};
use futures::StreamExt;

use crate::{
    catalog::Job,
    error::{Error, Result},
    query::{QuerySession, is_hidden},
    state::micros,
    store::{Entry, Store},
    stream::{LATE, LateQuery, Replayable, Standing},
    window::Window,
};

/// Windows that one replay computes again.
pub const WINDOWS_MAX: usize = 1_000_000;

/// The late rows of all committed batches, as a table. What `standing` says of `query` is asked for in here, after the
/// files were listed: so each file is of a batch that it knows.
///
/// # Errors
/// The store's; as `LateQuery::standing`.
pub async fn late_rows(session: &QuerySession, query: &LateQuery) -> Result<(DataFrame, Standing)> {
    let store = Store::open(&query.late.path).await?;
    let listed = store.list_all("").await?;
    let standing = query.standing().await?;
    let is_committed = |entry: &Entry| !is_hidden(&entry.path) && !standing.uncommitted.contains(&entry.path);
    let files: Vec<Entry> = listed.into_iter().filter(|it| it.size_bytes > 0 && is_committed(it)).collect();
    Ok((session.stored(&query.late, &query.late_schema, &files).await?, standing))
}

/// The windows that late rows belong to, with how many of the rows.
///
/// # Errors
/// The store's; `Unsupported` for more than `WINDOWS_MAX`.
pub async fn windows(rows: DataFrame, replayable: &Replayable) -> Result<BTreeMap<Window, u64>> {
    let rows = rows.filter(ident("late_reason").eq(lit(LATE)))?.select(vec![ident(replayable.time.as_str())])?;
    let mut stream = rows.execute_stream().await?;
    let mut windows = BTreeMap::new();
    while let Some(batch) = stream.next().await {
        let times = micros(batch?.column(0))?;
        for time in times.iter().flatten() {
            for window in replayable.windows_of(time) {
                *windows.entry(window).or_insert(0) += 1;
            }
        }
        if windows.len() > WINDOWS_MAX {
            return Err(Error::unsupported(format!("late rows belong to more than {WINDOWS_MAX} windows"))
                .help("run the INSERT's SELECT with `tidemill query --job`: it gives all windows as they would be"));
        }
    }
    Ok(windows)
}

/// The rows that were set aside: one row per query, reason and window, with the newest windows first, at most `limit` of
/// each query.
///
/// # Errors
/// As `late_rows`; `Invalid` for a job without windows.
pub async fn show(session: &QuerySession, job: &Job, limit: usize) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    let mut has_windows = false;
    for insert in &job.inserts {
        let Some(query) = LateQuery::open(job, insert).await? else { continue };
        has_windows = true;
        let counted = async { Ok(counts(late_rows(session, &query).await?.0, &query.name, limit)?.collect().await?) };
        batches.extend(counted.await.map_err(|error: Error| error.context(&query.name))?);
    }
    if !has_windows {
        return Err(no_windows(job));
    }
    Ok(batches)
}

/// The error for a job whose rows cannot be late.
pub fn no_windows(job: &Job) -> Error {
    Error::invalid(format!("no INSERT of the job {} has windows, so no row can be late", job.name))
        .help("only queries over event time have late rows: FROM TUMBLE(table, time, INTERVAL '1 minute')")
}

fn counts(rows: DataFrame, query: &str, limit: usize) -> Result<DataFrame> {
    let keys = ["late_reason", "late_window_start", "late_window_end"].map(ident).to_vec();
    let counted =
        rows.aggregate(keys, vec![count(lit(1i64)).alias("rows"), max(ident("late_by_ms")).alias("late_by_ms_max")])?;
    let newest = |name: &str| SortExpr::new(ident(name), false, false);
    let order = vec![newest("late_window_end"), newest("late_window_start"), newest("late_reason")];
    let named = |from: &str, to: &str| -> Expr { ident(from).alias(to) };
    let shown = counted.sort(order)?.limit(0, Some(limit))?.select(vec![
        lit(query).alias("query"),
        named("late_reason", "reason"),
        named("late_window_start", "window_start"),
        named("late_window_end", "window_end"),
        ident("rows"),
        ident("late_by_ms_max"),
    ])?;
    Ok(shown)
}
