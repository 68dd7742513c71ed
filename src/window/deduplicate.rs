//! `DEDUPLICATE(TABLE t PARTITION BY id, DESCRIPTOR(ts), INTERVAL '1' HOUR)`: rows whose key was there a short time ago
//! are left out, so that a stream need not know the keys of all time.
//!
//! The aim is that of Spark's `dropDuplicatesWithinWatermark`. Which rows stay depends on the rows alone, not on when
//! they were read: a row stays if no other with its key is older by at most the interval, and of rows of one moment the
//! first by all other columns does. As SQL that is two window functions, which a stream and a query run as they are.

use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use datafusion::{
    common::{Column, DFSchema, ExprSchema, Result as DataFusionResult, ScalarValue},
    functions_aggregate::count::count_all_window,
    functions_window::expr_fn::row_number,
    logical_expr::{
        Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, SortExpr, WindowFrame, WindowFrameBound,
        WindowFrameUnits, lit, planner::RelationPlannerContext,
    },
    sql::sqlparser::ast,
};

use super::{
    arguments::{at, duration_us},
    call::{TableCall, descriptor, is_column, span_of},
    event_time,
};
use crate::error::Error;

const USAGE: &str = "DEDUPLICATE(TABLE t PARTITION BY key, DESCRIPTOR(time), interval)";

/// The hidden number of rows with the same key shortly before a row.
const BEFORE: &str = "__tidemill_before";

/// The hidden number of a row among those with its key and its time.
const NUMBER: &str = "__tidemill_number";

/// Plans a call.
///
/// # Errors
/// `Invalid` or `Unsupported` at the argument that is wrong.
pub fn plan(call: &ast::Function, context: &mut dyn RelationPlannerContext) -> DataFusionResult<LogicalPlan> {
    let mut call = TableCall::read("DEDUPLICATE".to_owned(), USAGE.to_owned(), call)?;
    let input = call.input(context)?;
    let schema = std::sync::Arc::clone(input.schema());
    let keys = call.key_columns(&schema, context)?;
    if keys.is_empty() {
        return Err(call.wrong("DEDUPLICATE does not say which rows are the same", None));
    }
    let mut others = std::mem::take(&mut call.others).into_iter();
    let mut next = others.next();
    let time = match &next {
        Some((None, value)) if descriptor(value).is_some() || is_column(value) => {
            let time = call.time_column(value, &schema, context)?;
            next = others.next();
            time
        }
        _ => event_time(&schema).map_err(|error| at(error, call.span))?,
    };
    let Some((None, interval)) = next else {
        return Err(call.wrong("DEDUPLICATE does not say for how long a key is known", None));
    };
    if let Some((_, extra)) = others.next() {
        return Err(call.wrong(format!("DEDUPLICATE has no argument '{extra}'"), span_of(&extra)));
    }
    let span = span_of(&interval).or(call.span);
    let interval = context.sql_to_expr(interval, &DFSchema::empty())?;
    let within_us = duration_us(&interval, "interval of DEDUPLICATE").map_err(|error| at(error, span))?;
    let DataType::Timestamp(unit, _) = schema.field_from_column(&time)?.data_type() else {
        return Err(at(Error::invalid(format!("the column '{}' is no TIMESTAMP", time.name)), call.span));
    };
    let moment_ns = match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    };
    let Some(within_ns) = within_us.checked_mul(1_000).filter(|within| *within >= moment_ns) else {
        return Err(at(Error::invalid("the interval of DEDUPLICATE is too short for the column, or too long"), span));
    };
    first_of_each(input, &schema, (time, keys), (within_ns, moment_ns))
}

/// The rows that stay. `moment_ns` is one unit of the time's clock.
fn first_of_each(
    input: LogicalPlan,
    schema: &DFSchema,
    (time, keys): (Column, Vec<Column>),
    (within_ns, moment_ns): (i64, i64),
) -> DataFusionResult<LogicalPlan> {
    let ago =
        |ns| WindowFrameBound::Preceding(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, 0, ns))));
    let frame = WindowFrame::new_bounds(WindowFrameUnits::Range, ago(within_ns), ago(moment_ns));
    let by_time = || Expr::Column(time.clone()).sort(true, false);
    let keys: Vec<Expr> = keys.into_iter().map(Expr::Column).collect();
    let before = count_all_window().partition_by(keys.clone()).order_by(vec![by_time()]).window_frame(frame).build()?;
    // What is first among equals must not depend on how the rows came.
    let columns: Vec<Column> = schema.columns();
    let of_moment: Vec<Expr> = keys.into_iter().chain([Expr::Column(time.clone())]).collect();
    let rest = columns.iter().zip(schema.fields()).filter(|(_, field)| !field.data_type().is_nested());
    let rest = rest.map(|(column, _)| Expr::Column(column.clone()));
    let rest = rest.filter(|column| !of_moment.contains(column)).map(|column| column.sort(true, false));
    let order: Vec<SortExpr> = [by_time()].into_iter().chain(rest).collect();
    let number = row_number().partition_by(of_moment).order_by(order).build()?;
    let hidden = |name: &str| Expr::Column(Column::new_unqualified(name));
    // Functions of one node must be sorted alike.
    LogicalPlanBuilder::from(input)
        .window(vec![before.alias(BEFORE)])?
        .window(vec![number.alias(NUMBER)])?
        .filter(hidden(BEFORE).eq(lit(0i64)).and(hidden(NUMBER).eq(lit(1u64))))?
        .project(columns.into_iter().map(Expr::Column))?
        .build()
}
