//! DISTINCT over a stream: the first row of each key, by event time.

use datafusion::{
    common::{Column, DFSchema, tree_node::Transformed},
    functions_window::expr_fn::row_number,
    logical_expr::{Distinct, DistinctOn, Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, SortExpr, lit},
};

use crate::{
    error::{Error, Result},
    window::{EVENT_TIME_KEY, WINDOW_KEY},
};

/// The hidden number of a row among those of its key.
const NUMBER: &str = "__tidemill_number";

/// Writes DISTINCT ON, and DISTINCT over rows with their event time, as `row_number() OVER (...) = 1`.
///
/// # Errors
/// `Unsupported` for a DISTINCT ON that does not say which row it takes.
pub fn number_rows(plan: LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Distinct(Distinct::On(on)) => Ok(Transformed::yes(first_of(on)?)),
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let schema = input.schema();
            let marked =
                |key: &str| (0..schema.fields().len()).find(|at| schema.field(*at).metadata().contains_key(key));
            match (marked(EVENT_TIME_KEY), marked(WINDOW_KEY)) {
                // Rows that differ in time are different: nothing older has to be known.
                (Some(time), None) => {
                    let (columns, time) = (columns(schema), Column::from(schema.qualified_field(time)));
                    let order = vec![Expr::Column(time).sort(true, false)];
                    Ok(Transformed::yes(first(LogicalPlan::clone(&input), columns.clone(), order, columns)?))
                }
                _ => Ok(Transformed::no(LogicalPlan::Distinct(Distinct::All(input)))),
            }
        }
        node => Ok(Transformed::no(node)),
    })?;
    Ok(rewritten.data)
}

fn first_of(on: DistinctOn) -> Result<LogicalPlan> {
    // The first expressions of ORDER BY are those of ON.
    let order = on.sort_expr.unwrap_or_default().split_off(on.on_expr.len());
    if order.is_empty() {
        return Err(Error::unsupported("DISTINCT ON over a stream, without an order that says which row is taken")
            .help("add ORDER BY: the same expressions, and then the column of the table's WATERMARK"));
    }
    first(LogicalPlan::clone(&on.input), on.on_expr, order, on.select_expr)
}

fn first(input: LogicalPlan, keys: Vec<Expr>, order: Vec<SortExpr>, select: Vec<Expr>) -> Result<LogicalPlan> {
    let number = row_number().partition_by(keys).order_by(order).build()?.alias(NUMBER);
    let first = Expr::Column(Column::new_unqualified(NUMBER)).eq(lit(1u64));
    Ok(LogicalPlanBuilder::from(input).window(vec![number])?.filter(first)?.project(select)?.build()?)
}

fn columns(schema: &DFSchema) -> Vec<Expr> {
    schema.iter().map(|field| Expr::Column(Column::from(field))).collect()
}
