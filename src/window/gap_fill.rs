//! `GAP_FILL(TABLE t PARTITION BY key, DESCRIPTOR(window_start), INTERVAL '1' MINUTE, LOCF(close))`: rows for the windows
//! in which nothing happened (the function and its strategies are RisingWave's).
//!
//! A gap lies between two rows of a key, and is filled when the later one is there: so a stream gives the rows that a
//! query over all of it gives. It is `lag`, and rows made from what lies in between.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{Column, DFSchema, ExprSchema, Result as DataFusionResult},
    functions_window::expr_fn::lag,
    logical_expr::{
        Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, ScalarUDF, cast, lit, planner::RelationPlannerContext,
        when,
    },
    sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments},
};

use super::{
    EVENT_TIME_KEY, WINDOW_KEY, WINDOW_START,
    arguments::{at, duration_us},
    call::{TableCall, column, descriptor, is_column, span_of},
    event_time,
    gap_fill_fn::{GapShare, GapSteps, GapTime},
    window_column,
};
use crate::error::{Error, nearest};

const USAGE: &str = "GAP_FILL(TABLE t PARTITION BY key, DESCRIPTOR(window_start), step [, longest gap], LOCF(column), INTERPOLATE(column))";

/// Without another limit a gap is filled that has at most so many steps: after an outage of a year nobody wants each second.
const STEPS_MAX: i64 = 10_000;

/// The hidden number of a step within a gap; 0 is the row that was there.
const STEP: &str = "__tidemill_step";

/// What stands in a column of a row that was not there; without a strategy it is NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// The last observation is carried forward.
    Locf,
    /// On the line between the row before and the row after.
    Interpolate,
}

/// What a call says.
struct GapFill {
    keys: Vec<Column>,
    time: Column,
    step_us: i64,
    longest_us: i64,
    fills: Vec<(Column, Fill)>,
}

/// Plans a call.
///
/// # Errors
/// `Invalid` or `Unsupported` at the argument that is wrong.
pub fn plan(call: &ast::Function, context: &mut dyn RelationPlannerContext) -> DataFusionResult<LogicalPlan> {
    let call = TableCall::read("GAP_FILL".to_owned(), USAGE.to_owned(), call)?;
    let input = call.input(context)?;
    let gap_fill = GapFill::read(call, input.schema(), context)?;
    gap_fill.over(input)
}

impl GapFill {
    fn read(
        mut call: TableCall,
        schema: &DFSchema,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<Self> {
        let keys = call.key_columns(schema, context)?;
        let (mut time, mut durations, mut fills) = (None, Vec::new(), Vec::new());
        for (name, value) in std::mem::take(&mut call.others) {
            let span = span_of(&value);
            if let Some(name) = name {
                return Err(call.wrong(format!("GAP_FILL has no argument '{name}'"), span));
            }
            if let Some((fill, of)) = strategy(&value).map_err(|error| at(error, span))? {
                let column = column(of, schema, context)?;
                if fill == Fill::Interpolate && !schema.field_from_column(&column)?.data_type().is_numeric() {
                    let error = Error::invalid(format!("INTERPOLATE needs numbers, and '{}' has none", column.name));
                    return Err(at(error.help(format!("write LOCF({})", column.name)), span));
                }
                if keys.contains(&column) || fills.iter().any(|(other, _)| *other == column) {
                    return Err(call.wrong(format!("'{}' is filled already", column.name), span));
                }
                fills.push((column, fill));
            } else if time.is_none() && durations.is_empty() && (descriptor(&value).is_some() || is_column(&value)) {
                time = Some(call.time_column(&value, schema, context)?);
            } else if durations.len() == 2 || is_column(&value) || descriptor(&value).is_some() {
                return Err(call.wrong(format!("GAP_FILL does not know what '{value}' is"), span));
            } else {
                let what = if durations.is_empty() { "step of GAP_FILL" } else { "longest gap" };
                let value = context.sql_to_expr(value, &DFSchema::empty())?;
                let us = duration_us(&value, what).map_err(|error| at(error, span.or(call.span)))?;
                if us <= 0 {
                    return Err(at(Error::invalid(format!("the {what} is not longer than nothing")), span));
                }
                durations.push(us);
            }
        }
        let Some(step_us) = durations.first().copied() else {
            return Err(call.wrong("GAP_FILL does not say how far apart the rows are", None));
        };
        let longest_us = durations.get(1).copied().unwrap_or_else(|| step_us.saturating_mul(STEPS_MAX));
        let time = match time {
            Some(time) => time,
            None => time_of(schema).map_err(|error| at(error, call.span))?,
        };
        if !matches!(schema.field_from_column(&time)?.data_type(), DataType::Timestamp(..)) {
            let error = Error::invalid(format!("the column '{}' is no TIMESTAMP", time.name));
            return Err(at(
                error.help("GAP_FILL goes by the start or the end of a window, or another time"),
                call.span,
            ));
        }
        if let Some((taken, _)) = fills.iter().find(|(column, _)| *column == time) {
            return Err(call.wrong(format!("'{}' is the time, which GAP_FILL fills by itself", taken.name), None));
        }
        Ok(Self { keys, time, step_us, longest_us, fills })
    }

    fn over(&self, input: LogicalPlan) -> DataFusionResult<LogicalPlan> {
        let schema = Arc::clone(input.schema());
        let time = || Expr::Column(self.time.clone());
        let before = |column: &Column| Expr::Column(Column::new_unqualified(before_name(column)));
        let mut lags = Vec::with_capacity(self.fills.len() + 1);
        for column in [&self.time].into_iter().chain(self.fills.iter().map(|(column, _)| column)) {
            let keys = self.keys.iter().cloned().map(Expr::Column).collect();
            let lag = lag(Expr::Column(column.clone()), Some(1), None).partition_by(keys);
            lags.push(lag.order_by(vec![time().sort(true, false)]).build()?.alias(before_name(column)));
        }
        let steps = ScalarUDF::new_from_impl(GapSteps::new(self.step_us, self.longest_us));
        let steps = steps.call(vec![time(), before(&self.time)]).alias(STEP);
        let lagged = LogicalPlanBuilder::from(input).window(lags)?;
        let mut columns: Vec<Expr> = lagged.schema().columns().into_iter().map(Expr::Column).collect();
        columns.push(steps);
        let stepped = lagged.project(columns)?.unnest_column(Column::new_unqualified(STEP))?;
        let filled = schema.columns().into_iter().zip(schema.fields()).map(|(column, field)| {
            let has_time = [EVENT_TIME_KEY, WINDOW_KEY].iter().any(|key| field.metadata().contains_key(*key));
            self.filled(&column, column == self.time || has_time)
        });
        let filled = filled.collect::<DataFusionResult<Vec<_>>>()?;
        stepped.project(filled)?.build()
    }

    /// What a column is in the rows that were there, and in those that were not.
    fn filled(&self, column: &Column, is_time: bool) -> DataFusionResult<Expr> {
        if self.keys.contains(column) {
            return Ok(Expr::Column(column.clone()));
        }
        let (value, step) = (Expr::Column(column.clone()), Expr::Column(Column::new_unqualified(STEP)));
        let before = |column: &Column| Expr::Column(Column::new_unqualified(before_name(column)));
        let (time, time_before) = (Expr::Column(self.time.clone()), before(&self.time));
        let was_there = || step.clone().eq(lit(0i64));
        let fill = self.fills.iter().find(|(filled, _)| filled == column).map(|(_, fill)| *fill);
        let filled = match fill {
            _ if is_time => {
                let shift = ScalarUDF::new_from_impl(GapTime::new(self.step_us));
                shift.call(vec![value, time, time_before, step])
            }
            Some(Fill::Locf) => when(was_there(), value).otherwise(before(column))?,
            Some(Fill::Interpolate) => {
                let share = ScalarUDF::new_from_impl(GapShare::new(self.step_us));
                let share = share.call(vec![time, time_before, step.clone()]);
                let (to, from) = (cast(value, DataType::Float64), cast(before(column), DataType::Float64));
                when(was_there(), to.clone()).otherwise(from.clone() + (to - from) * share)?
            }
            None => when(was_there(), value).end()?,
        };
        Ok(filled.alias_qualified(column.relation.clone(), column.name.clone()))
    }
}

/// The hidden column with the value of the row before.
fn before_name(column: &Column) -> String {
    format!("__tidemill_before_{}", column.name)
}

/// The start of a window, or else the event time.
fn time_of(schema: &DFSchema) -> crate::error::Result<Column> {
    match window_column(schema.fields(), WINDOW_START) {
        Some(at) => Ok(Column::from(schema.qualified_field(at))),
        None => event_time(schema),
    }
}

/// `LOCF(column)` or `INTERPOLATE(column)`; `None` for what is no call.
fn strategy(value: &ast::Expr) -> crate::error::Result<Option<(Fill, &ast::Expr)>> {
    const NAMES: [&str; 2] = ["locf", "interpolate"];
    let ast::Expr::Function(function) = value else { return Ok(None) };
    if descriptor(value).is_some() {
        return Ok(None);
    }
    let name = function.name.to_string();
    let fill = match name.to_lowercase().as_str() {
        "locf" => Fill::Locf,
        "interpolate" => Fill::Interpolate,
        other => {
            let error = Error::invalid(format!("GAP_FILL does not know {name}"));
            return Err(match nearest(other, NAMES) {
                Some(near) => error.help(format!("did you mean {}?", near.to_uppercase())),
                None => error.help("write LOCF(column) or INTERPOLATE(column); other columns are NULL"),
            });
        }
    };
    let FunctionArguments::List(list) = &function.args else {
        return Err(Error::invalid(format!("{name} needs a column")));
    };
    match &list.args[..] {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(of))] => Ok(Some((fill, of))),
        _ => Err(Error::invalid(format!("{name} takes one column"))),
    }
}
