//! Which plans one batch alone can answer: each record's rows depend on that record only, and on stored files.

use datafusion::{common::tree_node::TreeNodeRecursion, logical_expr::LogicalPlan};

use super::{join, scan::reads_stream};
use crate::{
    asof::AsofJoin,
    catalog::{Emit, OutputMode},
    error::{Error, Result},
};

/// Checks that the plan treats each record by itself. What is done to stored files alone may be anything.
///
/// # Errors
/// `Unsupported`, naming the operation and what to do instead.
pub fn check(plan: &LogicalPlan) -> Result<()> {
    refuse(plan, &refusal)
}

/// What is refused, and what to do instead.
pub type Refusal = Option<(String, &'static str)>;

/// Refuses a plan of which `refusal` says so of a node.
///
/// # Errors
/// `Unsupported`, naming the first such operation and what to do instead.
pub fn refuse(plan: &LogicalPlan, refusal: &dyn Fn(&LogicalPlan) -> Refusal) -> Result<()> {
    let mut refused = None;
    // The closure cannot fail; the subqueries inside expressions are visited too.
    plan.apply_with_subqueries(|node| {
        if refused.is_none() {
            refused = refusal(node);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match refused {
        Some((what, help)) => Err(Error::unsupported(format!("{what} over a stream")).help(help)),
        None => Ok(()),
    }
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
    if !emit.lateness.is_zero() {
        return Err(no_lateness());
    }
    if emit.period.is_some() {
        return Err(Error::unsupported("EMIT PERIODIC without an aggregate")
            .help("its rows never change, so each batch writes its own: `--trigger 10s` makes batches rarer"));
    }
    Ok(())
}

/// The error for `allowedLateness` where nothing can be late.
pub fn no_lateness() -> Error {
    Error::unsupported("allowedLateness without a window").help("leave it out: no row is late here")
}

/// Windows that nothing is done with, and what to do instead.
pub const BARE_WINDOW: (&str, &str) = (
    "a window without an aggregate",
    "GROUP BY window_start, window_end and the keys, or run it over the stored files with `tidemill query`",
);

/// What one batch alone cannot answer, and what to do instead. Joins are looked at when the plan is optimised
/// (`join.rs`).
pub fn refusal(node: &LogicalPlan) -> Option<(String, &'static str)> {
    const STORED: &str = "run it over the stored files with `tidemill query`";
    if !reads_stream(node) {
        return None;
    }
    const CHANGES: &str = "group by a window of the event time (FROM TUMBLE(table, time, INTERVAL '1 minute')), so that \
                           a row can be written once; or write what changes, with outputMode = 'update' or 'complete' \
                           of a Kafka or a console table";
    let (what, help) = match node {
        LogicalPlan::Aggregate(_) => ("an aggregate (GROUP BY, count, sum, ...) without a window", CHANGES),
        LogicalPlan::Distinct(distinct) if matches!(distinct.input().as_ref(), LogicalPlan::Union(_)) => {
            ("UNION, which removes rows that are there twice,", "write UNION ALL, which keeps all rows")
        }
        LogicalPlan::Distinct(_) => ("DISTINCT", CHANGES),
        LogicalPlan::Window(_) => ("a window function (OVER)", STORED),
        LogicalPlan::Sort(_) => ("ORDER BY", "a stream has no end to sort to: leave it out, and sort when you query"),
        LogicalPlan::Limit(_) => {
            ("LIMIT", "a stream has no end: leave it out, or bound it with endingOffsets in a query")
        }
        LogicalPlan::Union(union) if !union.inputs.iter().all(|input| reads_stream(input)) => (
            "UNION ALL with the rows of stored files, which each batch would write again,",
            "unite them in `tidemill query`",
        ),
        LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<AsofJoin>() {
            Some(asof) => return join::asof_refusal(asof),
            None => BARE_WINDOW,
        },
        LogicalPlan::Subquery(_) => (
            "a subquery in an expression, which reads the stream,",
            "write the values: IN (1, 2, 3), or read a table of stored files in it",
        ),
        LogicalPlan::RecursiveQuery(_) => ("a recursive query", STORED),
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::TableScan(_)
        | LogicalPlan::EmptyRelation(_)
        | LogicalPlan::Values(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Unnest(_) => return None,
        other => return Some((format!("{} ", other.display()), STORED)),
    };
    Some((what.to_owned(), help))
}
