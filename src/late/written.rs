//! What the output has of some windows, and in which files.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use datafusion::{
    logical_expr::{Expr, lit},
    prelude::ident,
    scalar::ScalarValue,
};
use futures::StreamExt;

use super::{compare::Rows, recompute::Bounds, report::ReplacedFile};
use crate::{
    catalog::FileTable,
    error::Result,
    query::{QuerySession, is_hidden},
    sink::spark_log::SparkLog,
    store::{Entry, Store},
    window::Window,
};

/// Reads every committed file of the output, one after the other, and keeps the rows of `wanted` windows. Of Parquet files
/// only the parts are read that can have such rows.
///
/// # Errors
/// The store's; `Invalid` for a file that does not have the columns of the query.
pub async fn read<T>(
    session: &QuerySession,
    output: &FileTable,
    schema: &SchemaRef,
    bounds: Bounds,
    wanted: &BTreeMap<Window, T>,
) -> Result<(Rows, Vec<ReplacedFile>)> {
    let store = Store::open(&output.path).await?;
    let (mut rows, mut replaced) = (Rows::default(), Vec::new());
    let Some(range) = range(schema, bounds, wanted)? else { return Ok((rows, replaced)) };
    for (file, known) in committed(&store).await? {
        let frame = session.stored(output, schema, std::slice::from_ref(&file)).await?;
        let mut stream = frame.filter(range.clone())?.execute_stream().await?;
        let mut of_windows = 0;
        while let Some(batch) = stream.next().await {
            let (kept, windows) = bounds.only(&batch?, wanted)?;
            of_windows += windows.len() as u64;
            rows.add(kept, &windows);
        }
        if of_windows > 0 {
            let (path, size_bytes) = (file.path, file.size_bytes);
            replaced.push(ReplacedFile {
                url: store.path_url(&path),
                path,
                size_bytes,
                rows: known,
                rows_of_windows: of_windows,
            });
        }
    }
    Ok((rows, replaced))
}

/// The files that a reader sees, with their rows where the log says them.
async fn committed(store: &Store) -> Result<Vec<(Entry, Option<u64>)>> {
    if let Some(logged) = SparkLog::new(store.clone()).files().await? {
        let entry = |file: crate::sink::spark_log::SinkFile| {
            let (size_bytes, modified_ms) = (file.published.size_bytes, file.published.modified_ms);
            (Entry { path: file.path, size_bytes, modified_ms }, file.rows)
        };
        return Ok(logged.into_iter().map(entry).filter(|(entry, _)| entry.size_bytes > 0).collect());
    }
    let all = store.list_all("").await?.into_iter();
    Ok(all.filter(|it| it.size_bytes > 0 && !is_hidden(&it.path)).map(|entry| (entry, None)).collect())
}

/// From the first window's start to the last one's, for the statistics of Parquet files.
fn range<T>(schema: &SchemaRef, bounds: Bounds, wanted: &BTreeMap<Window, T>) -> Result<Option<Expr>> {
    let (Some(first), Some(last)) = (wanted.keys().next(), wanted.keys().next_back()) else { return Ok(None) };
    let field = schema.field(bounds.start);
    let bound = |us: i64| -> Result<Expr> {
        let zone = match field.data_type() {
            arrow::datatypes::DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        Ok(lit(ScalarValue::TimestampMicrosecond(Some(us), zone).cast_to(field.data_type())?))
    };
    let start = ident(field.name());
    Ok(Some(start.clone().gt_eq(bound(first.start_us)?).and(start.lt_eq(bound(last.start_us)?))))
}
