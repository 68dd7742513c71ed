//! The metrics of `ML_EVALUATE`, as an aggregate over labels and predictions: the plan that `score.rs` would be in SQL.

use arrow::datatypes::DataType;
use datafusion::{
    common::Result as DataFusionResult,
    functions::math::expr_fn::{abs, sqrt},
    functions_aggregate::expr_fn::{avg, count, var_pop},
    logical_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, cast, col, lit, when},
};

use super::artifact::Model;

const LABEL: &str = "__label";
const PREDICTED: &str = "__predicted";
const ROWS: &str = "__rows";
const USED: &str = "__used";
const SQUARES: &str = "__squares";
const ABSOLUTE: &str = "__absolute";
const RELATIVE: &str = "__relative";
const SPREAD: &str = "__spread";
const MEAN_SQUARES: &str = "__mean_squares";

/// One row of metrics over the rows of `input`: `count` and `dropped` rows (a label or a prediction that is null or not
/// finite), `rmse`, `mae`, `mape` (as a share, over labels that are not 0), `r2`, and against the mean of the training
/// target `mean_rmse` and `skill` (1 - rmse / mean_rmse). Without a row, or where it means nothing, a metric is null.
///
/// # Errors
/// DataFusion's.
pub fn plan(input: LogicalPlan, label: Expr, predicted: Expr, model: &Model) -> DataFusionResult<LogicalPlan> {
    let mean = model.factor.mean(model.factor.columns() - 1);
    let double = |expr: Expr| cast(expr, DataType::Float64);
    let finite = |name: &str| abs(col(name)).lt(lit(f64::INFINITY));
    let usable = || finite(LABEL).and(finite(PREDICTED));
    let error = || col(LABEL) - col(PREDICTED);
    let over = |aggregate: Expr, filter: Expr, name: &str| -> DataFusionResult<Expr> {
        Ok(aggregate.filter(filter).build()?.alias(name))
    };
    let own = |aggregate: Expr, name: &str| over(aggregate, usable(), name);
    let from_mean = || col(LABEL) - lit(mean);
    let not_zero = usable().and(col(LABEL).not_eq(lit(0.0)));
    let aggregates: Vec<Expr> = vec![
        count(lit(1_i64)).alias(ROWS),
        own(count(lit(1_i64)), USED)?,
        own(avg(error() * error()), SQUARES)?,
        own(avg(abs(error())), ABSOLUTE)?,
        over(avg(abs(error() / col(LABEL))), not_zero, RELATIVE)?,
        own(var_pop(col(LABEL)), SPREAD)?,
        own(avg(from_mean() * from_mean()), MEAN_SQUARES)?,
    ];
    let r2 = when(col(SPREAD).gt(lit(0.0)), lit(1.0) - col(SQUARES) / col(SPREAD)).end()?;
    let skill = lit(1.0) - sqrt(col(SQUARES)) / sqrt(col(MEAN_SQUARES));
    let skill = when(col(MEAN_SQUARES).gt(lit(0.0)), skill).end()?;
    LogicalPlanBuilder::from(input)
        .project([double(label).alias(LABEL), predicted.alias(PREDICTED)])?
        .aggregate(Vec::<Expr>::new(), aggregates)?
        .project([
            col(USED).alias("count"),
            (col(ROWS) - col(USED)).alias("dropped"),
            sqrt(col(SQUARES)).alias("rmse"),
            col(ABSOLUTE).alias("mae"),
            col(RELATIVE).alias("mape"),
            r2.alias("r2"),
            sqrt(col(MEAN_SQUARES)).alias("mean_rmse"),
            skill.alias("skill"),
        ])?
        .build()
}
