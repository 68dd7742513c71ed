//! Does a plan say something else in each batch?

use datafusion::{
    common::{
        Result as DataFusionResult,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, LogicalPlan, Volatility},
};

/// Is there `now()`, or the like, which the optimiser makes a constant of? What is random has a value for each row, so
/// the plan stays the same.
///
/// # Errors
/// None but a defect's.
pub fn depends_on_time(plan: &LogicalPlan) -> DataFusionResult<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found |= expr.exists(|part| Ok(is_stable(part)))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(found)
}

/// The same in a batch, another in the next.
fn is_stable(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if call.func.signature().volatility == Volatility::Stable)
}

#[cfg(test)]
mod tests {
    use datafusion::physical_plan::displayable;

    use crate::{
        catalog::{Job, Variables},
        stream::plan::QueryPlan,
    };

    #[tokio::test]
    async fn a_plan_with_the_time_of_the_batch_is_made_anew_for_each() {
        for (select, expected) in [
            ("SELECT id, now() AS at FROM t", true),
            ("SELECT id, ts FROM recent", true),
            ("SELECT id, CASE WHEN id > 3 THEN current_date END AS day FROM t", true),
            ("SELECT id, random() AS r, date_part('hour', ts) AS hour FROM t", false),
        ] {
            let sql = format!(
                "CREATE TABLE t (id BIGINT, ts TIMESTAMP) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = 'a:1', \
                 subscribe = 't', format = 'json');\nCREATE VIEW recent AS SELECT * FROM t WHERE ts > now();\n\
                 CREATE TABLE out WITH (connector = 'console');\nINSERT INTO out {select};\n"
            );
            let job = Job::parse("job.sql", &sql, &Variables::default()).unwrap();
            let plan = QueryPlan::new(&job, &job.inserts[0]).await.unwrap();
            let (first, second) = (plan.batch(0).await.unwrap(), plan.batch(90_000_000).await.unwrap());
            let [first, second] =
                [first, second].map(|plan| displayable(plan.physical[0].as_ref()).indent(false).to_string());
            assert_eq!(first != second, expected, "{select}: {first}");
        }
    }
}
