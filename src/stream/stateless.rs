//! Which plans one batch alone can answer: each record's rows depend on that record only.

use datafusion::{common::JoinType, logical_expr::LogicalPlan};

use crate::error::{Error, Result};

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
    let (what, help) = match node {
        LogicalPlan::Aggregate(_) => ("an aggregate (GROUP BY, count, sum, ...)", STORED),
        LogicalPlan::Distinct(_) => ("DISTINCT", STORED),
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
