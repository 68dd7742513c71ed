//! Where rows of two streams are joined the plan is cut.
//!
//! One side drives: its rows wait until the watermark has passed all partners that they may have. The rows of the other
//! side stay as long as a row that waits, or is still to come, may want them. So each batch joins the rows that have
//! waited long enough with all that they can meet, and may do so in any way in which a batch query would.

use std::sync::Arc;

use datafusion::{
    common::{Column, DFSchema, JoinType, ScalarValue},
    logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, Union, lit},
};

use super::{
    emission::Emission,
    interval::{Reach, is_finer, reach},
    over::{Look, Looks, Rank},
    over_cut::{behind_us, moment, with_due},
    pairs::Pairs,
    refusals::compares_ends,
    stages::{Kept, Operator, Partners, feeds},
};
use crate::{
    asof::AsofJoin,
    error::{Error, Result},
    stream::{
        join::{in_order, swap},
        scan::reads_stream,
    },
    window::{EVENT_TIME_KEY, duration},
};

const HOW: &str = "compare a key and the columns of both WATERMARKs: ON a.id = b.id AND b.ts BETWEEN a.ts - INTERVAL '5 \
                   seconds' AND a.ts + INTERVAL '5 seconds'; or GROUP BY windows on both sides and join them USING \
                   (window_start, window_end, ...)";

/// What stands in the place of a join; `None` if it may stay, because rows that meet come in one batch.
///
/// # Errors
/// `Unsupported`, with the way out.
pub fn cut_join(join: &Join, operators: &mut Vec<Operator>) -> Result<Option<LogicalPlan>> {
    if !reads_stream(&join.left) || !reads_stream(&join.right) {
        return Ok(None);
    }
    if compares_ends(join) {
        return Ok(None);
    }
    let driven = match join.join_type {
        JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => join.clone(),
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => swap(join.clone())?,
        JoinType::Full => return full(join, operators).map(Some),
    };
    if driven.null_aware {
        return Err(
            refused(join, "NOT IN looks at all rows of all time").help("write NOT EXISTS (SELECT ...) with bounds")
        );
    }
    let is_time = |side: &LogicalPlan, at: usize| is_event_time(side, at, operators);
    let found = match reach(&driven, &is_time) {
        Ok(found) => found,
        // Of windows another word is said.
        Err(_) if is_over_operators(&join.left) && is_over_operators(&join.right) => return Ok(None),
        Err(why) => return Err(refused(join, why).help(HOW)),
    };
    if !driven.on.iter().any(|(left, right)| {
        !is_column(left, &driven.left, found.left) || !is_column(right, &driven.right, found.right)
    }) {
        return Err(refused(join, "it compares no key of both sides").help(HOW));
    }
    let pairs = Pairs { join: cut(driven, found, operators)?, reach: found };
    Ok(Some(in_order(pairs.into_plan(), &join.schema)?))
}

/// A FULL JOIN has rows of both sides that wait: it is a LEFT JOIN, and the rows of the right side that meet nobody. Each
/// record is read for both.
fn full(join: &Join, operators: &mut Vec<Operator>) -> Result<LogicalPlan> {
    if is_over_operators(&join.left) || is_over_operators(&join.right) {
        return Err(refused(join, "a FULL JOIN after windows, OVER or another join reads their rows twice")
            .help("write a LEFT JOIN, and for the rest an INSERT with a LEFT ANTI JOIN the other way round"));
    }
    let mut part = |join_type| {
        let Join { left, right, on, filter, join_constraint, null_equality, null_aware, .. } = join.clone();
        let part = Join::try_new(left, right, on, filter, join_type, join_constraint, null_equality, null_aware)?;
        cut_join(&part, operators)?.ok_or_else(|| Error::internal("a part of a FULL JOIN is not cut"))
    };
    let (left, rest) = (part(JoinType::Left)?, part(JoinType::RightAnti)?);
    // A union needs names that differ, and its columns are of no table.
    let hidden = |at: usize| format!("__tidemill_full{at}");
    let nulls = join.left.schema().fields().iter().map(|field| Ok(lit(ScalarValue::try_from(field.data_type())?)));
    let nulls = nulls.collect::<datafusion::common::Result<Vec<_>>>()?;
    let named = |plan: LogicalPlan, before: Vec<Expr>| {
        let columns = before.into_iter().chain(plan.schema().columns().into_iter().map(Expr::Column));
        let columns = columns.enumerate().map(|(at, column)| column.alias(hidden(at))).collect::<Vec<_>>();
        LogicalPlanBuilder::from(plan).project(columns)?.build()
    };
    let (left, rest) = (named(left, Vec::new())?, named(rest, nulls)?);
    let both = LogicalPlan::Union(Union::try_new(vec![Arc::new(left), Arc::new(rest)])?);
    let columns = join.schema.iter().enumerate().map(|(at, (qualifier, field))| {
        Expr::Column(Column::new_unqualified(hidden(at))).alias_qualified(qualifier.cloned(), field.name())
    });
    let columns = columns.collect::<Vec<_>>();
    Ok(LogicalPlanBuilder::from(both).project(columns)?.build()?)
}

/// What stands in the place of an as-of join, if its right side reads a stream too.
///
/// # Errors
/// `Unsupported`, with the way out.
pub fn cut_asof(asof: &AsofJoin, operators: &mut Vec<Operator>) -> Result<Option<LogicalPlan>> {
    if !reads_stream(&asof.left) || !reads_stream(&asof.right) {
        return Ok(None);
    }
    let time = |side: &LogicalPlan, expr: &Expr| {
        let at = time_column(expr, side.schema()).filter(|at| is_event_time(side, *at, operators));
        at.ok_or_else(|| {
            Error::unsupported(format!("an ASOF JOIN of two streams by {expr}, which is not the event time"))
                .help("compare the columns of both WATERMARKs as they are: MATCH_CONDITION (t.ts >= q.ts)")
        })
    };
    let (left, right) = (time(&asof.left, &asof.times.0)?, time(&asof.right, &asof.times.1)?);
    let keys = asof.keys.iter().map(|(left, right)| format!("{left} = {right}")).collect::<Vec<_>>().join(" AND ");
    let behind_us = behind_us(&asof.clone().into_plan(), operators);
    let name = format!("rows that wait for the last one of ASOF JOIN ON {keys}");
    let looks = Looks::waiting(left, asof.left.schema(), 0);
    let waiting = rows_of(&asof.left, (looks, behind_us, name), operators)?;
    let keys_of_right = asof.keys.iter().map(|(_, right)| right.clone()).collect();
    let newest = Look { keys: keys_of_right, order: asof.order(), last: 1, first: Rank::None };
    let looks = Looks::looked_at(right, asof.right.schema(), 0, Some(newest));
    let partners = Partners { looks, since_us: None, until_us: -1 };
    let name = format!("last rows of each key of ASOF JOIN ON {keys}");
    let partners = partners_of(&asof.right, (partners, behind_us, name), operators)?;
    let sides = (Arc::new(waiting), Arc::new(partners));
    let cut = AsofJoin::try_new(sides, asof.keys.clone(), asof.times.clone(), (asof.strict, asof.outer))?;
    Ok(Some(cut.into_plan()))
}

/// The column that is the time `expr`: itself, or in the finer unit of the other side.
fn time_column(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Column(column) => schema.maybe_index_of_column(column),
        Expr::Cast(cast) => {
            let at = time_column(&cast.expr, schema)?;
            is_finer(schema.field(at).data_type(), cast.field.data_type()).then_some(at)
        }
        _ => None,
    }
}

/// The join over the emissions of two operators.
fn cut(join: Join, Reach { left, right, from_us, to_us }: Reach, operators: &mut Vec<Operator>) -> Result<Join> {
    let keys = join.on.iter().map(|(left, right)| format!("{left} = {right}")).collect::<Vec<_>>().join(" AND ");
    // Both sides go by the one that is further behind: the rows of the other wait for it.
    let behind_us = behind_us(&LogicalPlan::Join(join.clone()), operators);
    let ahead_us = to_us.max(0);
    let name = format!("rows that wait for partners of JOIN ON {keys}");
    let looks = Looks::waiting(left, join.left.schema(), ahead_us);
    let waiting = rows_of(&join.left, (looks, behind_us, name), operators)?;
    let partners = Partners {
        looks: Looks::looked_at(right, join.right.schema(), ahead_us.saturating_sub(from_us), None),
        since_us: Some(from_us.saturating_sub(ahead_us)),
        until_us: to_us.saturating_sub(ahead_us).saturating_sub(1),
    };
    let between = format!("from {} to {} after", duration(from_us), duration(to_us));
    let name = format!("partners of JOIN ON {keys}, {between}");
    let partners = partners_of(&join.right, (partners, behind_us, name), operators)?;
    Ok(Join { left: Arc::new(waiting), right: Arc::new(partners), ..join })
}

/// The rows of `plan` once they have waited.
fn rows_of(
    plan: &LogicalPlan,
    (looks, behind_us, name): (Looks, i64, String),
    operators: &mut Vec<Operator>,
) -> Result<LogicalPlan> {
    let schema = plan.schema();
    let emission = Emission::plan(operators.len(), Arc::new(with_due(schema)?));
    let kept = (plan.clone(), Some(moment()?), Kept::Rows(looks));
    operators.push(Operator::new(kept, behind_us, name, operators));
    // All of them are due: they look at no others.
    let columns: Vec<Expr> = schema.iter().map(|field| Expr::Column(Column::from(field))).collect();
    Ok(LogicalPlanBuilder::from(emission).project(columns)?.build()?)
}

fn partners_of(
    plan: &LogicalPlan,
    (partners, behind_us, name): (Partners, i64, String),
    operators: &mut Vec<Operator>,
) -> Result<LogicalPlan> {
    let emission = Emission::plan(operators.len(), Arc::clone(plan.schema()));
    let kept = (plan.clone(), Some(moment()?), Kept::Partners(partners));
    operators.push(Operator::new(kept, behind_us, name, operators));
    Ok(emission)
}

/// Checks that a time that rows of `plan` are put in order by, or into windows, is none of the other side of a join.
///
/// # Errors
/// `Unsupported`, naming the column.
pub fn check_time(plan: &LogicalPlan, time: &Column, operators: &[Operator]) -> Result<()> {
    if !is_of_partners(plan, time, operators) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{time} as the event time after a JOIN over a stream: its rows come in another order"
    ))
    .help(
        "use the time of the side whose rows wait: the left one, of a RIGHT JOIN the right one; a FULL JOIN has none",
    ))
}

/// Is column `at` of `plan` an event time that its rows come in the order of?
fn is_event_time(plan: &LogicalPlan, at: usize, operators: &[Operator]) -> bool {
    let (qualifier, field) = plan.schema().qualified_field(at);
    field.metadata().contains_key(EVENT_TIME_KEY) && !is_of_partners(plan, &Column::from((qualifier, field)), operators)
}

/// Does the column come from the other side of a join, whose rows may be of any age?
fn is_of_partners(plan: &LogicalPlan, column: &Column, operators: &[Operator]) -> bool {
    match plan {
        LogicalPlan::Extension(extension) => {
            let emission = extension.node.as_any().downcast_ref::<Emission>();
            if let Some(emission) = emission {
                let operator = operators.get(emission.index);
                return operator.is_some_and(|operator| matches!(operator.kept, Kept::Partners(_)));
            }
            extension
                .node
                .inputs()
                .into_iter()
                .any(|input| holds(input, column) && is_of_partners(input, column, operators))
        }
        LogicalPlan::Projection(projection) => {
            let at = projection.schema.maybe_index_of_column(column);
            match at.and_then(|at| projection.expr.get(at)).map(|expr| expr.clone().unalias_nested().data) {
                Some(Expr::Column(below)) => is_of_partners(&projection.input, &below, operators),
                // Of a row of a FULL JOIN that meets nobody.
                Some(Expr::Literal(value, _)) => value.is_null(),
                _ => false,
            }
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let at = alias.schema.maybe_index_of_column(column);
            at.is_some_and(|at| {
                let below = Column::from(alias.input.schema().qualified_field(at));
                is_of_partners(&alias.input, &below, operators)
            })
        }
        LogicalPlan::Union(union) => {
            let at = union.schema.maybe_index_of_column(column);
            at.is_some_and(|at| {
                let below = |input: &LogicalPlan| Column::from(input.schema().qualified_field(at));
                union.inputs.iter().any(|input| is_of_partners(input, &below(input), operators))
            })
        }
        plan => plan.inputs().into_iter().any(|input| holds(input, column) && is_of_partners(input, column, operators)),
    }
}

fn is_over_operators(plan: &LogicalPlan) -> bool {
    !feeds(plan).is_empty()
}

fn holds(plan: &LogicalPlan, column: &Column) -> bool {
    plan.schema().maybe_index_of_column(column).is_some()
}

fn is_column(expr: &Expr, side: &LogicalPlan, at: usize) -> bool {
    matches!(expr, Expr::Column(column) if side.schema().maybe_index_of_column(column) == Some(at))
}

fn refused(join: &Join, why: &str) -> Error {
    let conditions = join.on.iter().map(|(left, right)| format!("{left} = {right}"));
    let conditions = conditions.chain(join.filter.iter().map(ToString::to_string)).collect::<Vec<_>>().join(" AND ");
    let on = if conditions.is_empty() { "without a condition".to_owned() } else { format!("ON {conditions}") };
    Error::unsupported(format!("a join of two streams {on}: {why}"))
}
