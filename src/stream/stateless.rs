//! Which plans one batch alone can answer: each record's rows depend on that record only.

use datafusion::{common::JoinType, logical_expr::LogicalPlan};

use crate::{
    catalog::{Emit, OutputMode},
    error::{Error, Result},
};

/// Checks that the plan treats each record by itself, and names the one table that it reads.
///
/// # Errors
/// `Unsupported`, naming the operation and what to do instead.
pub fn streaming_source(plan: &LogicalPlan) -> Result<String> {
    let mut refused = None;
    // The closure cannot fail; the subqueries inside expressions are visited too.
    plan.apply_with_subqueries(|node| {
        if refused.is_none() {
            refused = refusal(node);
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    })?;
    if let Some((what, help)) = refused {
        return Err(Error::unsupported(format!("{what} over a stream")).help(help));
    }
    one_table(plan)
}

/// Checks that `emit` can be said of rows that never change.
///
/// # Errors
/// `Unsupported`, saying what to do instead.
pub fn check_emit(emit: Emit) -> Result<()> {
    if emit.mode == OutputMode::Complete {
        return Err(Error::unsupported("output mode complete without an aggregate")
            .help("it would be all rows since the beginning, again and again: write outputMode = 'append'"));
    }
    if emit.period.is_some() {
        return Err(Error::unsupported("EMIT PERIODIC without an aggregate")
            .help("its rows never change, so each batch writes its own: `--trigger 10s` makes batches rarer"));
    }
    Ok(())
}

/// Names the one table that the plan reads.
///
/// # Errors
/// `Invalid` if it reads none, `Unsupported` if it reads several.
pub fn one_table(plan: &LogicalPlan) -> Result<String> {
    let mut tables = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            tables.push(scan.table_name.table().to_owned());
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    })?;
    match tables.as_slice() {
        [table] => Ok(table.clone()),
        [] => Err(Error::invalid("the INSERT reads no table").help("SELECT from a Kafka table of this job file")),
        [first, second, ..] => Err(Error::unsupported(format!("the INSERT reads {first:?} and {second:?}"))
            .help("a streaming INSERT reads one Kafka table, once")),
    }
}

/// Windows that nothing is done with, and what to do instead.
pub const BARE_WINDOW: (&str, &str) = (
    "a window without an aggregate",
    "GROUP BY window_start, window_end and the keys, or run it over the stored files with `tidemill query`",
);

/// What one batch alone cannot answer, and what to do instead.
pub fn refusal(node: &LogicalPlan) -> Option<(String, &'static str)> {
    const STORED: &str = "run it over the stored files with `tidemill query`";
    const CHANGES: &str = "group by a window of the event time (FROM TUMBLE(table, time, INTERVAL '1 minute')), so that \
                           a row can be written once; or write what changes, with outputMode = 'update' or 'complete' \
                           of a Kafka or a console table";
    let (what, help) = match node {
        LogicalPlan::Aggregate(_) => ("an aggregate (GROUP BY, count, sum, ...) without a window", CHANGES),
        LogicalPlan::Distinct(_) => ("DISTINCT", CHANGES),
        LogicalPlan::Window(_) => ("a window function (OVER)", STORED),
        LogicalPlan::Sort(_) => ("ORDER BY", "a stream has no end to sort to: leave it out, and sort when you query"),
        LogicalPlan::Limit(_) => {
            ("LIMIT", "a stream has no end: leave it out, or bound it with endingOffsets in a query")
        }
        LogicalPlan::Join(join) if join.join_type != JoinType::Inner => ("an outer join", STORED),
        LogicalPlan::Join(_) => ("a join", STORED),
        LogicalPlan::Union(_) => ("UNION", "write one INSERT for each branch"),
        LogicalPlan::Extension(_) => BARE_WINDOW,
        LogicalPlan::Subquery(_) => ("a subquery in an expression", "write the values: IN (1, 2, 3)"),
        LogicalPlan::RecursiveQuery(_) => ("a recursive query", STORED),
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::TableScan(_)
        | LogicalPlan::EmptyRelation(_)
        | LogicalPlan::Values(_)
        | LogicalPlan::Unnest(_) => return None,
        other => return Some((format!("{} ", other.display()), STORED)),
    };
    Some((what.to_owned(), help))
}
