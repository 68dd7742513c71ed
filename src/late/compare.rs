//! What differs between the rows that were written and those that the windows have now.

use std::collections::BTreeMap;

use arrow::{
    array::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::{
    recompute::Bounds,
    report::{Change, ColumnChange},
};
use crate::{error::Result, window::Window};

/// Rows that are held for the comparison, of each side; with more, only their numbers are compared.
pub const ROWS_COMPARED_MAX: usize = 100_000;

/// Rows of some windows.
#[derive(Debug, Default)]
pub struct Rows {
    /// Empty once there are too many.
    batches: Vec<(RecordBatch, Vec<Window>)>,
    /// How many rows each window has.
    pub counts: BTreeMap<Window, u64>,
    held: usize,
    too_many: bool,
}

impl Rows {
    /// Adds rows, with the window of each.
    pub fn add(&mut self, rows: RecordBatch, windows: &[Window]) {
        for window in windows {
            *self.counts.entry(*window).or_insert(0) += 1;
        }
        self.held += windows.len();
        if self.held > ROWS_COMPARED_MAX {
            self.too_many = true;
            self.batches.clear();
        }
        if !self.too_many && !windows.is_empty() {
            self.batches.push((rows, windows.to_vec()));
        }
    }

    fn cells(&self, null: &str) -> Result<BTreeMap<Window, Vec<Vec<String>>>> {
        let options = FormatOptions::default().with_null(null);
        let mut cells: BTreeMap<Window, Vec<Vec<String>>> = BTreeMap::new();
        for (batch, windows) in &self.batches {
            let formatters = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
            let formatters = formatters.collect::<std::result::Result<Vec<_>, _>>()?;
            for (row, window) in windows.iter().enumerate() {
                let shown = formatters.iter().map(|column| column.value(row).to_string()).collect();
                cells.entry(*window).or_default().push(shown);
            }
        }
        Ok(cells)
    }
}

/// The columns of a result.
#[derive(Debug)]
pub struct Columns {
    pub names: Vec<String>,
    /// Those that tell the rows of a window apart: what was grouped by.
    pub keys: Vec<bool>,
    pub bounds: Bounds,
    /// How NULL is written, so that what the format cannot tell apart is no change.
    pub null: &'static str,
}

/// The changes of each window; `None` where there are too many rows to compare.
///
/// # Errors
/// `Internal`: a defect.
pub fn changes(written: &Rows, now: &Rows, columns: &Columns) -> Result<Option<BTreeMap<Window, Vec<Change>>>> {
    if written.too_many || now.too_many {
        return Ok(None);
    }
    let (mut before, mut after) = (written.cells(columns.null)?, now.cells(columns.null)?);
    let windows: std::collections::BTreeSet<Window> = before.keys().chain(after.keys()).copied().collect();
    let change = |window: Window| {
        let rows = (before.remove(&window).unwrap_or_default(), after.remove(&window).unwrap_or_default());
        (window, columns.differences(rows))
    };
    Ok(Some(windows.into_iter().map(change).collect()))
}

impl Columns {
    fn differences(&self, (mut before, mut after): (Vec<Vec<String>>, Vec<Vec<String>>)) -> Vec<Change> {
        before.sort_unstable();
        after.sort_unstable();
        // Rows that are the same are taken out in pairs.
        let mut same = BTreeMap::<Vec<String>, usize>::new();
        before.iter().for_each(|row| *same.entry(row.clone()).or_insert(0) += 1);
        after.retain(|row| match same.get_mut(row) {
            Some(left) if *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        });
        let mut gone: BTreeMap<Vec<String>, Vec<Vec<String>>> = BTreeMap::new();
        for (row, left) in same {
            for _ in 0..left {
                gone.entry(self.key(&row)).or_default().push(row.clone());
            }
        }
        let mut changes = Vec::new();
        for row in after {
            let key = self.key(&row);
            let old = gone.get_mut(&key).filter(|rows| !rows.is_empty()).map(|rows| rows.remove(0));
            changes.push(self.change(old.as_deref(), Some(&row)));
        }
        changes.extend(gone.values().flatten().map(|row| self.change(Some(row), None)));
        changes
    }

    fn key(&self, row: &[String]) -> Vec<String> {
        row.iter().zip(&self.keys).filter(|(_, key)| **key).map(|(value, _)| value.clone()).collect()
    }

    fn change(&self, before: Option<&[String]>, after: Option<&[String]>) -> Change {
        let is_bound = |at: usize| at == self.bounds.start || at == self.bounds.end;
        let mut change = Change::default();
        for (at, name) in self.names.iter().enumerate().filter(|(at, _)| !is_bound(*at)) {
            let (was, is) = (before.and_then(|row| row.get(at)), after.and_then(|row| row.get(at)));
            if self.keys.get(at) == Some(&true) {
                change.key.insert(name.clone(), was.or(is).cloned().unwrap_or_default());
            } else if was != is {
                change.columns.push(ColumnChange { column: name.clone(), written: was.cloned(), now: is.cloned() });
            }
        }
        change.kind = match (before, after) {
            (Some(_), Some(_)) => "changed",
            (None, _) => "added",
            (_, None) => "removed",
        };
        change
    }
}

/// For each column of a plan, whether it is what an aggregate is grouped by, as it is.
pub fn keys(plan: &LogicalPlan) -> Vec<bool> {
    let width = plan.schema().fields().len();
    let below = |at: usize| plan.inputs().get(at).map(|input| keys(input)).unwrap_or_default();
    match plan {
        LogicalPlan::Projection(projection) => {
            let input = below(0);
            let is_key = |expr: &Expr| match plain(expr) {
                Expr::Column(column) => {
                    let at = projection.input.schema().maybe_index_of_column(column);
                    at.and_then(|at| input.get(at)) == Some(&true)
                }
                _ => false,
            };
            projection.expr.iter().map(is_key).collect()
        }
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => {
            below(0)
        }
        LogicalPlan::Aggregate(aggregate) => (0..width).map(|at| at < aggregate.group_expr.len()).collect(),
        LogicalPlan::Window(_) => below(0).into_iter().chain(std::iter::repeat(false)).take(width).collect(),
        _ => vec![false; width],
    }
}

fn plain(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => plain(&alias.expr),
        Expr::Cast(cast) => plain(&cast.expr),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::Int64Array,
        datatypes::{DataType, Field, Schema},
    };

    use super::*;

    fn columns() -> Columns {
        let names = ["window_start", "window_end", "symbol", "n", "high"].map(str::to_owned).to_vec();
        Columns { names, keys: vec![true, true, true, false, false], bounds: Bounds { start: 0, end: 1 }, null: "" }
    }

    fn row(symbol: &str, n: &str, high: &str) -> Vec<String> {
        ["0", "1", symbol, n, high].map(str::to_owned).to_vec()
    }

    #[test]
    fn rows_are_compared_by_what_is_grouped_by() {
        let before = vec![row("a", "1", "5"), row("b", "1", "5"), row("d", "1", "1")];
        let after = vec![row("b", "2", "5"), row("a", "1", "5"), row("c", "2", "5")];
        let found = columns().differences((before, after));
        let kinds: Vec<_> = found.iter().map(|change| (change.kind, change.key["symbol"].as_str())).collect();
        assert_eq!(kinds, [("changed", "b"), ("added", "c"), ("removed", "d")]);
        let column = ColumnChange { column: "n".into(), written: Some("1".into()), now: Some("2".into()) };
        assert_eq!(found[0].columns, [column]);
        assert!(!found[0].key.contains_key("window_start"));
    }

    #[test]
    fn equal_rows_are_no_change_however_often_they_are_there() {
        let rows = |times: usize| vec![row("a", "1", "5"); times];
        assert!(columns().differences((rows(3), rows(3))).is_empty());
        assert_eq!(columns().differences((rows(1), rows(2))).len(), 1);
    }

    #[test]
    fn of_too_many_rows_only_the_numbers_are_known() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let window = Window { start_us: 0, end_us: 1 };
        let add = |rows: &mut Rows, count: usize| {
            let values = Int64Array::from(vec![7; count]);
            rows.add(RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(values)]).unwrap(), &vec![window; count]);
        };
        let columns =
            Columns { names: vec!["n".into()], keys: vec![false], bounds: Bounds { start: 8, end: 9 }, null: "" };
        let (mut few, mut many) = (Rows::default(), Rows::default());
        add(&mut few, 2);
        add(&mut many, ROWS_COMPARED_MAX);
        assert_eq!(changes(&few, &many, &columns).unwrap().unwrap()[&window].len(), ROWS_COMPARED_MAX - 2);
        add(&mut many, 1);
        add(&mut many, 3);
        assert!(changes(&few, &many, &columns).unwrap().is_none() && changes(&many, &few, &columns).unwrap().is_none());
        assert!(many.batches.is_empty() && many.counts[&window] == ROWS_COMPARED_MAX as u64 + 4);
    }
}
