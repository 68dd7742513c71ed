//! Expressions that fail whatever the records say, as `1 / 0` does: refused before the first batch. Otherwise every
//! record would end as a dead letter.

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::Schema,
};
use datafusion::{
    common::{
        DFSchema,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    execution::SessionState,
    logical_expr::{Expr, LogicalPlan},
};

use super::isolate::is_of_a_row;
use crate::error::{Error, Result};

/// Optimises `plan`, which evaluates most of its constants, and evaluates those that are left.
///
/// # Errors
/// `Invalid`, naming the expression that fails; DataFusion's for a plan that cannot be optimised.
pub fn check(state: &SessionState, plan: &LogicalPlan) -> Result<()> {
    let plan = state.optimize(plan).map_err(|error| match is_of_a_row(&error) {
        true => fails("a constant expression", error),
        false => Error::from(error),
    })?;
    let mut failed = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| expression.apply(|expression| Ok(look_at(state, expression, &mut failed))))
    })?;
    match failed {
        Some((expression, error)) => Err(fails(&expression, error)),
        None => Ok(()),
    }
}

fn fails(expression: &str, error: DataFusionError) -> Error {
    let reason = Error::from(error);
    Error::invalid(format!("{expression} fails for every record: {}", reason.message()))
        .help("TRY_CAST gives NULL where CAST fails, NULLIF(x, 0) avoids a division by zero")
}

fn look_at(
    state: &SessionState,
    expression: &Expr,
    failed: &mut Option<(String, DataFusionError)>,
) -> TreeNodeRecursion {
    if failed.is_some() {
        return TreeNodeRecursion::Stop;
    }
    if !expression.any_column_refs() && !expression.is_volatile() {
        *failed = evaluate(state, expression).err().map(|error| (expression.to_string(), error));
        return TreeNodeRecursion::Jump;
    }
    // Whether `1 / 0` is reached in CASE WHEN x > 0 THEN 1 / 0 END is for each record to say.
    if expression.short_circuits() { TreeNodeRecursion::Jump } else { TreeNodeRecursion::Continue }
}

/// Fails only if the expression itself does: what cannot stand alone (a variable of a lambda) is no constant.
fn evaluate(state: &SessionState, expression: &Expr) -> Result<(), DataFusionError> {
    let Ok(physical) = state.create_physical_expr(expression.clone(), &DFSchema::empty()) else { return Ok(()) };
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Schema::empty().into(), Vec::new(), &options)?;
    match physical.evaluate(&row) {
        Err(error) if is_of_a_row(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::datasource::empty::EmptyTable;

    use super::*;
    use crate::session::{SessionLimits, session};

    async fn verdict(select: &str) -> Result<()> {
        let context = session(SessionLimits { memory_bytes: 1 << 20, partitions: 1 }).unwrap();
        let field = arrow::datatypes::Field::new("x", arrow::datatypes::DataType::Int64, true);
        let table = EmptyTable::new(Schema::new(vec![field]).into());
        context.register_table("t", std::sync::Arc::new(table)).unwrap();
        let plan = context.state().create_logical_plan(select).await.unwrap();
        check(&context.state(), &plan)
    }

    #[tokio::test]
    async fn what_fails_for_every_record_is_refused() {
        for select in [
            "SELECT 1 / 0 AS y FROM t",
            "SELECT x + 1 / 0 AS y FROM t",
            "SELECT x FROM t WHERE x > 1 / 0",
            "SELECT CAST('abc' AS INT) AS y FROM t",
            "SELECT CAST(concat('a', 'b') AS INT) + x AS y FROM t",
        ] {
            let error = verdict(select).await.expect_err(select);
            assert!(error.message().contains("fails for every record"), "{select}: {error}");
        }
    }

    #[tokio::test]
    async fn what_depends_on_the_record_is_not() {
        for select in [
            "SELECT 1 / x AS y FROM t",
            "SELECT CASE WHEN x > 5 THEN 1 / 0 ELSE x END AS y FROM t",
            "SELECT x FROM t WHERE x > 5 OR 1 / 0 = 1",
            "SELECT coalesce(x, 1 / 0) AS y FROM t",
            "SELECT now() AS y, random() AS z, TRY_CAST('abc' AS INT) AS n FROM t",
            "SELECT 1 / 0 AS y FROM t WHERE false",
        ] {
            verdict(select).await.unwrap_or_else(|error| panic!("{select}: {error}"));
        }
    }
}
