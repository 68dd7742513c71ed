//! OVER across the rows of a stream: which earlier (and later) rows each row looks at, so that a plan over a part of the
//! stream gives what a plan over all of it would.
//!
//! The rows are kept until the watermark has passed them. Then the window functions run over those that are given out,
//! together with the rows that these look at.

use arrow::datatypes::{DataType, Field};
use datafusion::{
    common::{Column, DFSchema, ScalarValue},
    logical_expr::{
        Expr, LogicalPlan, SortExpr, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
        expr::{NullTreatment, WindowFunctionParams},
    },
};

use crate::{
    error::{Error, Result},
    window::{EVENT_TIME_KEY, WINDOW_END, WINDOW_KEY, WINDOW_START, WindowKind, WindowSpec},
};

const DAY_US: i64 = 86_400_000_000;

/// Where the event time of a row is, by column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowTime {
    Column(usize),
    /// The end of the row's window: its event time is a millisecond before.
    WindowEnd(usize),
    /// The start of the row's window, which is so long.
    WindowStart(usize, i64),
}

/// Rows that look at each other, and how far.
#[derive(Debug, Clone)]
pub struct Look {
    /// What they have in common.
    pub keys: Vec<Expr>,
    pub order: Vec<SortExpr>,
    /// So many rows before.
    pub last: u64,
    /// The first so many rows of all time.
    pub first: Rank,
}

/// How many of the first rows are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rank {
    None,
    /// By this column, which nothing bounds so far.
    Unbounded(String),
    UpTo(u64),
}

/// What the window functions of a query look at.
#[derive(Debug, Clone)]
pub struct Looks {
    pub time: RowTime,
    /// The name of its column: the places differ where the optimizer has added columns.
    time_name: String,
    pub looks: Vec<Look>,
    /// So far back, microseconds of event time.
    pub within_us: i64,
    /// So far ahead.
    pub ahead_us: i64,
}

impl Looks {
    /// For rows that wait until the watermark has passed column `time` by `ahead_us`, and look at no others.
    pub fn waiting(time: usize, schema: &DFSchema, ahead_us: i64) -> Self {
        let time_name = schema.field(time).name().clone();
        Self { time: RowTime::Column(time), time_name, looks: Vec::new(), within_us: 0, ahead_us }
    }

    /// For rows that others look at for `within_us` after, by column `time`; of those with equal keys the newest for
    /// ever, if there is a `newest`.
    pub fn looked_at(time: usize, schema: &DFSchema, within_us: i64, newest: Option<Look>) -> Self {
        Self { looks: newest.into_iter().collect(), within_us, ..Self::waiting(time, schema, 0) }
    }

    /// Does any row need rows that are older than a fixed time?
    pub fn always(&self) -> bool {
        self.looks.iter().any(|look| look.last > 0 || look.first != Rank::None)
    }

    /// Are there rows that others look at?
    pub fn any(&self) -> bool {
        self.within_us > 0 || self.ahead_us > 0 || self.always()
    }

    /// What decides which rows are kept, as text.
    pub fn signature(&self) -> String {
        let looks = self.looks.iter().map(|look| {
            let keys: Vec<String> = look.keys.iter().map(ToString::to_string).collect();
            let order: Vec<String> = look.order.iter().map(ToString::to_string).collect();
            format!("[{}] by [{}] last {} first {:?}", keys.join(", "), order.join(", "), look.last, look.first)
        });
        let looks: Vec<String> = looks.collect();
        format!("Rows: within {} us, ahead {} us; {}", self.within_us, self.ahead_us, looks.join("; "))
    }

    /// What the window functions `exprs` look at in rows of `schema`, which are those of windows of `windows`, if any.
    ///
    /// # Errors
    /// `Unsupported` for a function that needs rows without bound, with the way out.
    pub fn new(exprs: &[Expr], schema: &DFSchema, windows: Option<&WindowSpec>) -> Result<Self> {
        let mut time = None;
        let (time_name, column) = (String::new(), RowTime::Column(0));
        let mut looks = Self { time: column, time_name, looks: Vec::new(), within_us: 0, ahead_us: 0 };
        for expr in exprs {
            let name = expr.schema_name().to_string();
            let Expr::WindowFunction(function) = expr.clone().unalias() else {
                return Err(Error::internal(format!("{name} is no window function")));
            };
            let found =
                row_time(&function.params.order_by, schema, windows).map_err(|why| refused(&name, &why, ORDER_HELP))?;
            if *time.get_or_insert(found) != found {
                return Err(refused(&name, "the orders of the window functions differ", ORDER_HELP));
            }
            looks.add(&name, &function.fun, &function.params)?;
        }
        looks.time = time.ok_or_else(|| Error::internal("a window without functions"))?;
        let (RowTime::Column(at) | RowTime::WindowEnd(at) | RowTime::WindowStart(at, _)) = looks.time;
        schema.field(at).name().clone_into(&mut looks.time_name);
        Ok(looks)
    }

    /// The same with what `other` looks at.
    ///
    /// # Errors
    /// `Unsupported` if they are over different times.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        if self.time_name != other.time_name {
            return Err(Error::unsupported("window functions over different orders over a stream").help(ORDER_HELP));
        }
        self.looks.extend(other.looks);
        self.within_us = self.within_us.max(other.within_us);
        self.ahead_us = self.ahead_us.max(other.ahead_us);
        Ok(())
    }

    /// Something above keeps only rows whose `column` is at most `rank`.
    pub fn bound(&mut self, column: &str, rank: u64) {
        for look in &mut self.looks {
            if look.first == Rank::Unbounded(column.to_owned()) {
                look.first = Rank::UpTo(rank);
            }
        }
    }

    /// Refuses a rank that nothing bounds.
    ///
    /// # Errors
    /// `Unsupported`, naming it.
    pub fn check(&self) -> Result<()> {
        for look in &self.looks {
            if let Rank::Unbounded(name) = &look.first {
                return Err(refused(
                    name,
                    "it counts from the first row of all time",
                    "keep the first rows only, in a query around it: WHERE row_number = 1; or add window_start and \
                     window_end to its PARTITION BY",
                ));
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, function: &WindowFunctionDefinition, params: &WindowFunctionParams) -> Result<()> {
        let mut look =
            Look { keys: params.partition_by.clone(), order: params.order_by.clone(), last: 0, first: Rank::None };
        let ignores_nulls = matches!(params.null_treatment, Some(NullTreatment::IgnoreNulls));
        match (function, function.name()) {
            (WindowFunctionDefinition::WindowUDF(_), "row_number" | "rank") => {
                // If the event time is a key, rows of other times have other keys, and rows of one time come together.
                if !params.partition_by.iter().any(|key| is_order(key, params)) {
                    look.first = Rank::Unbounded(name.to_owned());
                }
            }
            (WindowFunctionDefinition::WindowUDF(_), "lag") if ignores_nulls => {
                return Err(refused(name, "the last row that is not NULL may be of any age", BOUND_HELP));
            }
            (WindowFunctionDefinition::WindowUDF(_), "lag") => look.last = lag_rows(name, params)?,
            (WindowFunctionDefinition::WindowUDF(_), "lead") => {
                return Err(refused(
                    name,
                    "the row after a row may never come",
                    "look back from the later row, with lag, or ahead by time: RANGE BETWEEN CURRENT ROW AND \
                     INTERVAL '1 minute' FOLLOWING",
                ));
            }
            (WindowFunctionDefinition::WindowUDF(_), "first_value" | "last_value" | "nth_value")
            | (WindowFunctionDefinition::AggregateUDF(_), _) => self.frame(name, &params.window_frame, &mut look)?,
            _ => return Err(refused(name, "it needs all rows of its partition", BOUND_HELP)),
        }
        self.looks.push(look);
        Ok(())
    }

    fn frame(&mut self, name: &str, frame: &WindowFrame, look: &mut Look) -> Result<()> {
        let endless = || refused(name, &format!("its frame, {frame}, has no bound"), BOUND_HELP);
        let back = match (&frame.start_bound, &frame.end_bound) {
            (WindowFrameBound::Following(_), _) => None,
            (WindowFrameBound::Preceding(bound), _) if bound.is_null() => return Err(endless()),
            (WindowFrameBound::Preceding(bound), _) => Some(bound),
            (WindowFrameBound::CurrentRow, _) => None,
        };
        let ahead = match &frame.end_bound {
            WindowFrameBound::Following(bound) if bound.is_null() => return Err(endless()),
            WindowFrameBound::Following(bound) => Some(bound),
            WindowFrameBound::Preceding(_) | WindowFrameBound::CurrentRow => None,
        };
        match frame.units {
            WindowFrameUnits::Rows => {
                if ahead.is_some() {
                    return Err(refused(
                        name,
                        "rows after a row may never come",
                        "look ahead by time: RANGE, not ROWS",
                    ));
                }
                look.last = back.map_or(Ok(0), |bound| count(bound).ok_or_else(endless))?;
            }
            WindowFrameUnits::Range => {
                let time = |bound: Option<&ScalarValue>| bound.map_or(Some(0), micros_at_most);
                self.within_us = self.within_us.max(time(back).ok_or_else(endless)?);
                self.ahead_us = self.ahead_us.max(time(ahead).ok_or_else(endless)?);
            }
            WindowFrameUnits::Groups => return Err(refused(name, "GROUPS in its frame", BOUND_HELP)),
        }
        Ok(())
    }
}

const ORDER_HELP: &str = "ORDER BY the column of the table's WATERMARK first, ascending; over windows, by window_start, \
                          window_end or window_time";
const BOUND_HELP: &str = "give it a frame with a bound, ROWS BETWEEN 20 PRECEDING AND CURRENT ROW or RANGE BETWEEN \
                          INTERVAL '1 hour' PRECEDING AND CURRENT ROW; or add window_start and window_end to its \
                          PARTITION BY; or run it over the stored files with `tidemill query`";

fn refused(name: &str, why: &str, help: &str) -> Error {
    Error::unsupported(format!("{name} over a stream: {why}")).help(help)
}

/// The event time by which rows are ordered.
fn row_time(
    order: &[SortExpr],
    schema: &DFSchema,
    windows: Option<&WindowSpec>,
) -> std::result::Result<RowTime, String> {
    let Some(first) = order.first() else { return Err("it has no ORDER BY".to_owned()) };
    let not_time = || format!("it is ordered by {}, which is not the event time", first.expr);
    let Expr::Column(column) = &first.expr else { return Err(not_time()) };
    let at = schema.index_of_column(column).map_err(|error| error.to_string())?;
    if !first.asc {
        return Err("the newest row comes first, and a newer one may always come".to_owned());
    }
    let marks = schema.field(at).metadata();
    if marks.contains_key(EVENT_TIME_KEY) {
        return Ok(RowTime::Column(at));
    }
    match (marks.get(WINDOW_KEY).map(String::as_str), windows) {
        (Some(WINDOW_END), Some(_)) => Ok(RowTime::WindowEnd(at)),
        (Some(WINDOW_START), Some(spec)) => match spec.kind {
            WindowKind::Tumble | WindowKind::Hop { .. } if spec.zone.is_none() => {
                Ok(RowTime::WindowStart(at, spec.size_us))
            }
            _ => Err("the ends of these windows do not follow from their starts: order by window_end".to_owned()),
        },
        _ => Err(not_time()),
    }
}

fn is_order(key: &Expr, params: &WindowFunctionParams) -> bool {
    params.order_by.first().is_some_and(|order| order.expr == *key)
}

fn lag_rows(name: &str, params: &WindowFunctionParams) -> Result<u64> {
    match params.args.get(1) {
        None => Ok(1),
        Some(Expr::Literal(value, _)) => {
            count(value).ok_or_else(|| refused(name, "its offset must be a number of rows before", BOUND_HELP))
        }
        Some(_) => Err(refused(name, "its offset is no constant", BOUND_HELP)),
    }
}

fn count(value: &ScalarValue) -> Option<u64> {
    match value.cast_to(&DataType::UInt64) {
        Ok(ScalarValue::UInt64(count)) => count,
        _ => None,
    }
}

/// An interval in microseconds that is not negative, rather too long than too short.
fn micros_at_most(value: &ScalarValue) -> Option<i64> {
    micros_between(value).map(|(_, most)| most).filter(|micros| *micros >= 0)
}

/// How long an interval is at least and at most, microseconds: a month has 28 to 31 days, a day 23 to 25 hours.
pub fn micros_between(value: &ScalarValue) -> Option<(i64, i64)> {
    let between = |count: i32, shortest: i64, longest: i64| {
        let (a, b) = (i64::from(count).checked_mul(shortest)?, i64::from(count).checked_mul(longest)?);
        Some((a.min(b), a.max(b)))
    };
    let months = |months: i32| between(months, 28 * DAY_US, 31 * DAY_US);
    let days = |days: i32| between(days, DAY_US - DAY_US / 24, DAY_US + DAY_US / 24);
    let nanos = |nanos: i64| (nanos.div_euclid(1000), nanos.saturating_add(999).div_euclid(1000));
    let exactly = |micros: i64| (micros, micros);
    let sum = |a: (i64, i64), b: (i64, i64)| Some((a.0.checked_add(b.0)?, a.1.checked_add(b.1)?));
    match value {
        ScalarValue::IntervalMonthDayNano(Some(it)) => {
            sum(sum(months(it.months)?, days(it.days)?)?, nanos(it.nanoseconds))
        }
        ScalarValue::IntervalDayTime(Some(it)) => {
            sum(days(it.days)?, exactly(i64::from(it.milliseconds).checked_mul(1000)?))
        }
        ScalarValue::IntervalYearMonth(Some(it)) => months(*it),
        ScalarValue::DurationSecond(Some(it)) => it.checked_mul(1_000_000).map(exactly),
        ScalarValue::DurationMillisecond(Some(it)) => it.checked_mul(1000).map(exactly),
        ScalarValue::DurationMicrosecond(Some(it)) => Some(exactly(*it)),
        ScalarValue::DurationNanosecond(Some(it)) => Some(nanos(*it)),
        _ => None,
    }
}

/// The bounds that a filter puts on columns: those that must be at most so much.
pub fn upper_bounds(predicate: &Expr) -> Vec<(Column, u64)> {
    use datafusion::logical_expr::{Operator, utils::split_conjunction};
    let bound = |expr: &Expr| {
        let Expr::BinaryExpr(it) = expr else { return None };
        let (column, value, operator) = match (it.left.as_ref(), it.right.as_ref()) {
            (Expr::Column(column), Expr::Literal(value, _)) => (column, value, it.op),
            (Expr::Literal(value, _), Expr::Column(column)) => (column, value, it.op.swap()?),
            _ => return None,
        };
        let value = count(value)?;
        match operator {
            Operator::Eq | Operator::LtEq => Some((column.clone(), value)),
            Operator::Lt => Some((column.clone(), value.saturating_sub(1))),
            _ => None,
        }
    };
    split_conjunction(predicate).into_iter().filter_map(bound).collect()
}

/// Where the column of a filter comes from: the window function that gives it.
pub fn ranked_by(mut node: &LogicalPlan, mut column: Column) -> Option<String> {
    loop {
        match node {
            LogicalPlan::Projection(projection) => {
                let at = projection.schema.index_of_column(&column).ok()?;
                let Expr::Column(below) = projection.expr.get(at)?.clone().unalias_nested().data else { return None };
                (column, node) = (below, &projection.input);
            }
            LogicalPlan::Filter(filter) => node = &filter.input,
            LogicalPlan::SubqueryAlias(alias) => {
                let at = alias.schema.index_of_column(&column).ok()?;
                (column, node) = (Column::from(alias.input.schema().qualified_field(at)), &alias.input);
            }
            LogicalPlan::Window(window) => {
                let at = window.schema.index_of_column(&column).ok()?;
                match at.checked_sub(window.input.schema().fields().len()) {
                    Some(at) => return window.window_expr.get(at).map(|expr| expr.schema_name().to_string()),
                    None => node = &window.input,
                }
            }
            _ => return None,
        }
    }
}

/// Says of a row whether it is given out now.
pub fn due_field() -> Field {
    Field::new(DUE, DataType::Boolean, false)
}

/// The hidden column of `due_field`.
pub const DUE: &str = "__tidemill_due";
