//! What a replay found, and how it is shown.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch, StringArray, UInt64Array},
    datatypes::{DataType, Field, Schema},
};
use serde::Serialize;

use crate::{error::Result, stream::inspect::Span};

/// The answer for one query.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayReport {
    pub query: String,
    pub late_directory: String,
    /// The newest committed batch: what was read up to it counts.
    pub batch: u64,
    /// In order.
    pub windows: Vec<WindowReport>,
    /// False with too many rows: then there are no changes, only counts.
    pub compared: bool,
    /// The files of the output with rows of these windows.
    pub replaces: Vec<ReplacedFile>,
    /// Windows that cannot be computed again, because Kafka has deleted a part of what was read.
    pub lost: Vec<Span>,
    /// Which part.
    pub deleted: Vec<String>,
    /// Windows over closed windows that are still open: they will be written without the late rows.
    pub open: Vec<Span>,
    pub corrected: Option<Corrected>,
}

/// One window with late rows.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowReport {
    #[serde(flatten)]
    pub window: Span,
    pub late_rows: u64,
    /// Rows of the result.
    pub rows_written: u64,
    pub rows_now: u64,
    pub changes: Vec<Change>,
}

/// One row of the result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// `changed`, `added` or `removed`.
    pub kind: &'static str,
    /// What the query groups by, but for the window.
    pub key: BTreeMap<String, String>,
    pub columns: Vec<ColumnChange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ColumnChange {
    pub column: String,
    pub written: Option<String>,
    pub now: Option<String>,
}

/// A file of the output.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplacedFile {
    pub url: String,
    /// Relative to the output.
    pub path: String,
    pub size_bytes: u64,
    /// All of its rows, where the sink's log says it.
    pub rows: Option<u64>,
    /// Those that the corrected rows take the place of.
    pub rows_of_windows: u64,
}

/// Where the corrected rows are.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Corrected {
    pub directory: String,
    pub files: Vec<String>,
    pub rows: u64,
}

impl ReplayReport {
    /// What the changes do not say, in lines.
    pub fn to_text(&self) -> String {
        let late: u64 = self.windows.iter().map(|window| window.late_rows).sum();
        let mut lines = vec![
            self.query.clone(),
            format!(
                "  {late} late rows of {} in {} windows, as of batch {}",
                self.late_directory,
                self.windows.len(),
                self.batch
            ),
        ];
        if !self.compared {
            lines.push("  too many rows to compare them one by one: only their numbers are compared".to_owned());
        }
        for file in &self.replaces {
            let all = file.rows.map_or_else(String::new, |rows| format!(" of {rows}"));
            lines.push(format!("  replaces {}{all} rows of {}", file.rows_of_windows, file.url));
        }
        let spans =
            |windows: &[Span]| windows.iter().take(SHOWN_MAX).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if !self.lost.is_empty() {
            let (count, gone) = (self.lost.len(), self.deleted.join(", "));
            lines.push(format!("  {count} windows cannot be computed again, for {gone}: {}", spans(&self.lost)));
        }
        if !self.open.is_empty() {
            lines.push(format!("  {} windows are not written yet: {}", self.open.len(), spans(&self.open)));
        }
        match &self.corrected {
            Some(corrected) => lines.push(format!(
                "  {} corrected rows in {} files of {}; the output is as it was",
                corrected.rows,
                corrected.files.len(),
                corrected.directory
            )),
            None if self.windows.is_empty() => lines.push("  nothing is to be replayed".to_owned()),
            None => lines.push("  nothing was written: --output DIR writes the corrected rows".to_owned()),
        }
        lines.join("\n")
    }
}

/// Windows that are named in a sentence.
const SHOWN_MAX: usize = 5;

/// All changes of all queries, a row for each value.
///
/// # Errors
/// `Internal`: a defect.
pub fn table(reports: &[ReplayReport]) -> Result<RecordBatch> {
    let mut late = Vec::new();
    let mut columns: [Vec<Option<String>>; 8] = Default::default();
    for (report, window) in reports.iter().flat_map(|report| report.windows.iter().map(move |it| (report, it))) {
        let mut push = |change: &str, key: Option<String>, value: Option<&ColumnChange>| {
            late.push(window.late_rows);
            let (start, end) = window.window.bounds();
            let cells = [
                Some(report.query.clone()),
                Some(start),
                Some(end),
                Some(change.to_owned()),
                key,
                value.map(|it| it.column.clone()),
                value.and_then(|it| it.written.clone()),
                value.and_then(|it| it.now.clone()),
            ];
            columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(cell));
        };
        if window.changes.is_empty() {
            let rows = |rows: u64| Some(format!("{rows} rows"));
            let counts =
                ColumnChange { column: String::new(), written: rows(window.rows_written), now: rows(window.rows_now) };
            push(if report.compared { "none" } else { "not compared" }, None, Some(&counts));
        }
        for change in &window.changes {
            let key: Vec<String> = change.key.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let key = (!key.is_empty()).then(|| key.join(", "));
            change.columns.iter().for_each(|column| push(change.kind, key.clone(), Some(column)));
            if change.columns.is_empty() {
                push(change.kind, key, None);
            }
        }
    }
    let names = ["query", "window_start", "window_end", "change", "key", "column", "written", "now"];
    let mut fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
    let mut arrays: Vec<ArrayRef> = columns.into_iter().map(|it| Arc::new(StringArray::from(it)) as ArrayRef).collect();
    fields.insert(3, Field::new("late_rows", DataType::UInt64, false));
    arrays.insert(3, Arc::new(UInt64Array::from(late)));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}
