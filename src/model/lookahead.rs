//! Which columns of a query are made of rows after their own: features that no prediction can have.
//!
//! The answer is read off the logical plan, so it does not depend on the data. It follows window functions: `lead`, a
//! frame that ends after the current row, and one without an order, which sees all rows (a mean of the whole table, by
//! which prices are normalised, is the usual case).

use datafusion::logical_expr::{
    Expr, LogicalPlan, WindowFrameBound, WindowFunctionDefinition,
    expr::{Sort, WindowFunction},
};

/// For each output column of `plan` what it looks ahead by, if it does.
pub fn look_ahead(plan: &LogicalPlan) -> Vec<Option<String>> {
    let below: Vec<Vec<Option<String>>> = plan.inputs().into_iter().map(look_ahead).collect();
    let width = plan.schema().fields().len();
    let of = |expr: &Expr| taint(expr, plan, &below);
    let columns: Vec<Option<String>> = match plan {
        LogicalPlan::Projection(projection) => projection.expr.iter().map(of).collect(),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.iter().chain(&aggregate.aggr_expr).map(of).collect(),
        LogicalPlan::Window(window) => {
            let input = below.first().cloned().unwrap_or_default();
            input.into_iter().chain(window.window_expr.iter().map(of)).collect()
        }
        LogicalPlan::Union(_) => {
            (0..width).map(|at| below.iter().find_map(|input| input.get(at).cloned().flatten())).collect()
        }
        // Filters, sorts, limits, aliases and joins pass columns on in order.
        _ => below.iter().flatten().cloned().collect(),
    };
    if columns.len() == width { columns } else { vec![None; width] }
}

/// What an expression looks ahead by: a window of its own, or a column of the inputs that does.
fn taint(expr: &Expr, plan: &LogicalPlan, below: &[Vec<Option<String>>]) -> Option<String> {
    if let Expr::WindowFunction(window) = expr
        && sees_later_rows(window)
    {
        return Some(format!("{expr}"));
    }
    if let Expr::Alias(alias) = expr {
        return taint(&alias.expr, plan, below);
    }
    let inputs = plan.inputs();
    expr.column_refs().into_iter().find_map(|column| {
        inputs.iter().zip(below).find_map(|(input, tainted)| {
            let place = input.schema().maybe_index_of_column(column)?;
            tainted.get(place).cloned().flatten()
        })
    })
}

fn sees_later_rows(window: &WindowFunction) -> bool {
    let (name, params) = (window.fun.name().to_lowercase(), &window.params);
    if matches!(window.fun, WindowFunctionDefinition::WindowUDF(_)) {
        // Ranks and row numbers are of the rows before; these two have a direction.
        let backwards = match name.as_str() {
            "lag" => false,
            "lead" => true,
            "first_value" | "last_value" | "nth_value" => return frame_sees_later(window),
            _ => return false,
        };
        let negative = params.args.get(1).is_some_and(|offset| format!("{offset}").contains("Int64(-"));
        return backwards != (negative != descending(&params.order_by));
    }
    frame_sees_later(window)
}

fn descending(order: &[Sort]) -> bool {
    order.first().is_some_and(|sort| !sort.asc)
}

fn frame_sees_later(window: &WindowFunction) -> bool {
    let params = &window.params;
    if params.order_by.is_empty() {
        return true;
    }
    let later = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::Following(_) => true,
        WindowFrameBound::Preceding(_) | WindowFrameBound::CurrentRow => false,
    };
    let earlier = |bound: &WindowFrameBound| matches!(bound, WindowFrameBound::Preceding(_));
    if descending(&params.order_by) {
        earlier(&params.window_frame.start_bound)
    } else {
        later(&params.window_frame.end_bound)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn ahead(select: &str) -> Vec<bool> {
        #[expect(clippy::disallowed_methods, reason = "no job, no limits: only the planner is wanted")]
        let context = SessionContext::new();
        context.sql("CREATE TABLE t (ts TIMESTAMP, p DOUBLE, s VARCHAR)").await.unwrap();
        let plan = context.state().create_logical_plan(select).await.unwrap();
        look_ahead(&plan).iter().map(Option::is_some).collect()
    }

    #[tokio::test]
    async fn finds_what_comes_later() {
        let select = "WITH a AS (SELECT *, lead(p) OVER (ORDER BY ts) AS next, lag(p, 2) OVER (ORDER BY ts) AS lagged, \
                      lag(p) OVER (ORDER BY ts DESC) AS turned, avg(p) OVER (ORDER BY ts ROWS 3 PRECEDING) AS trailing, \
                      p / max(p) OVER () AS scaled, p - first_value(p) OVER (PARTITION BY s ORDER BY ts) AS since, \
                      avg(p) OVER (ORDER BY ts ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS centred, \
                      lag(p, -1) OVER (ORDER BY ts) AS turned_too FROM t) \
                      SELECT p, next, lagged, 2 * turned AS turned, trailing, scaled, since, centred, turned_too, \
                      row_number() OVER (ORDER BY ts) AS n FROM a WHERE p > 0 ORDER BY ts";
        let wanted = [false, true, false, true, false, true, false, true, true, false];
        assert_eq!(ahead(select).await, wanted);
    }

    #[tokio::test]
    async fn says_by_what() {
        #[expect(clippy::disallowed_methods, reason = "no job, no limits: only the planner is wanted")]
        let context = SessionContext::new();
        context.sql("CREATE TABLE t (ts TIMESTAMP, p DOUBLE)").await.unwrap();
        let plan =
            context.state().create_logical_plan("SELECT lead(p, 5) OVER (ORDER BY ts) AS later FROM t").await.unwrap();
        let by = look_ahead(&plan)[0].clone().unwrap();
        assert!(by.starts_with("lead(t.p, Int64(5))") && by.contains("ORDER BY"), "{by}");
    }
}
