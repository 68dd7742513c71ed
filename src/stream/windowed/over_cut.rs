//! Where OVER needs rows of other batches the plan is cut.

use std::sync::Arc;

use datafusion::{
    common::{Column, DFSchema},
    logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder, Window},
};

use super::{
    emission::Emission,
    join_cut::check_time,
    over::{DUE, Looks, RowTime, due_field, ranked_by, upper_bounds},
    refusals::{is_per_window, keep_apart},
    source::window_of,
    stages::{Kept, Operator, feeds, list},
};
use crate::{
    error::{Error, Result},
    window::{WINDOW_END, WINDOW_START, WindowKind, WindowSpec, window_column},
};

/// What stands in the place of OVER; `None` if it may stay, because it treats each closed window by itself.
pub fn cut_window(window: &Window, operators: &mut Vec<Operator>) -> Result<Option<LogicalPlan>> {
    let schema = window.input.schema();
    let partitions: Option<Vec<&[Expr]>> = window.window_expr.iter().map(partition).collect();
    let partitions = partitions.ok_or_else(|| Error::internal("a window without a function"))?;
    if let Some((index, inner)) = over_moments(&window.input) {
        let gone = || Error::internal("an operator is gone");
        let below = operators.get(index).ok_or_else(gone)?.feeds.first();
        let spec = below.and_then(|below| operators.get(*below)).and_then(|below| below.spec);
        // By the columns of the operator: between here and there the optimizer may have left some out.
        let more = Looks::new(&window.window_expr, inner.schema(), spec.as_ref())?;
        let Kept::Rows(looks) = &mut operators.get_mut(index).ok_or_else(gone)?.kept else { return Err(gone()) };
        looks.merge(more)?;
        return over_due(window, inner).map(Some);
    }
    let assign = window_of(&window.input);
    let feeding = feeds(&window.input).into_iter().filter_map(|index| operators.get(index));
    let feeding: Vec<&Operator> = feeding.filter(|_| assign.is_none()).collect();
    let node = LogicalPlan::Window(window.clone());
    if partitions.iter().all(|keys| is_per_window(keys, &node, &feeding)) {
        return Ok(None);
    }
    let before = match feeding[..] {
        [before] if !matches!(before.kept, Kept::Rows(_) | Kept::Partners(_)) => Some(before),
        _ => None,
    };
    let (index, behind_us) = (operators.len(), behind_us(&window.input, operators));
    let plan = LogicalPlan::clone(&window.input);
    if let Some(assign) = assign {
        assign.check_time()?;
        check_time(assign.input(), assign.time(), operators)?;
        let spec = assign.spec()?;
        let bounds = (window_column(schema.fields(), WINDOW_START), window_column(schema.fields(), WINDOW_END));
        let (true, (Some(start), Some(end))) = (partitions.iter().all(|keys| keep_apart(keys, schema, &spec)), bounds)
        else {
            return Err(Error::unsupported("OVER across windows over a stream")
                .help("add window_start and window_end to its PARTITION BY"));
        };
        if spec.kind == WindowKind::Session {
            return Err(Error::unsupported("OVER within a session window, over a stream")
                .help("aggregate the sessions, or run it over the stored files with `tidemill query`"));
        }
        let above = LogicalPlan::Window(Window::try_new(
            window.window_expr.clone(),
            Arc::new(Emission::plan(index, Arc::clone(schema))),
        )?);
        let (kept, name) = (Kept::InWindows { start, end }, format!("rows in {spec}"));
        operators.push(Operator::new((plan, Some(spec), kept), behind_us, name, operators));
        return Ok(Some(above));
    }
    let looks = Looks::new(&window.window_expr, schema, before.and_then(|before| before.spec.as_ref()))?;
    if let RowTime::Column(time) = looks.time {
        check_time(&window.input, &Column::from(schema.qualified_field(time)), operators)?;
    }
    let emission = Emission::plan(index, Arc::new(with_due(schema)?));
    let name =
        format!("rows for OVER (PARTITION BY {})", partitions.first().map_or_else(String::new, |keys| list(keys)));
    operators.push(Operator::new((plan, Some(moment()?), Kept::Rows(looks)), behind_us, name, operators));
    over_due(window, emission).map(Some)
}

/// The window of a single row: it is late once the watermark has passed it.
pub fn moment() -> Result<WindowSpec> {
    WindowSpec::new(WindowKind::Tumble, 1, 0, None)
}

/// The window functions over `input`, and then only the rows that are given out, with the columns of `window`.
fn over_due(window: &Window, input: LogicalPlan) -> Result<LogicalPlan> {
    let over = LogicalPlan::Window(Window::try_new(window.window_expr.clone(), Arc::new(input))?);
    let columns = window.schema.iter().map(|field| Expr::Column(Column::from(field)));
    let due = Expr::Column(Column::new_unqualified(DUE));
    Ok(LogicalPlanBuilder::from(over).filter(due)?.project(columns.collect::<Vec<_>>())?.build()?)
}

/// If `plan` is the window functions over the rows of an operator that `over_due` made: which, and the functions.
fn over_moments(plan: &LogicalPlan) -> Option<(usize, LogicalPlan)> {
    let mut node = plan;
    // The optimizer leaves out columns that nobody needs.
    while let LogicalPlan::Projection(projection) = node
        && projection.expr.iter().all(|expr| matches!(expr, Expr::Column(_)))
    {
        node = &projection.input;
    }
    let LogicalPlan::Filter(filter) = node else { return None };
    matches!(&filter.predicate, Expr::Column(column) if column.name == DUE).then_some(())?;
    Some((emission_below(&filter.input)?, LogicalPlan::clone(&filter.input)))
}

/// How far the watermark of what runs over a plan is behind the source's.
pub fn behind_us(input: &LogicalPlan, operators: &[Operator]) -> i64 {
    let before = feeds(input).into_iter().filter_map(|index| operators.get(index));
    before.map(Operator::rows_behind_us).max().unwrap_or(0)
}

/// The emission that a plan runs over.
fn emission_below(mut plan: &LogicalPlan) -> Option<usize> {
    loop {
        if let LogicalPlan::Extension(extension) = plan
            && let Some(emission) = extension.node.as_any().downcast_ref::<Emission>()
        {
            return Some(emission.index);
        }
        let [input] = plan.inputs()[..] else { return None };
        plan = input;
    }
}

pub fn with_due(schema: &DFSchema) -> Result<DFSchema> {
    let mut fields: Vec<_> = schema.iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
    fields.push((None, Arc::new(due_field())));
    Ok(DFSchema::new_with_metadata(fields, schema.metadata().clone())?)
}

/// Above an OVER, rows are left out whose rank is too high: then only the first ones need to be known.
pub fn bound_ranks(filter: &Filter, operators: &mut [Operator]) {
    for (column, rank) in upper_bounds(&filter.predicate) {
        let Some(name) = ranked_by(&filter.input, column) else { continue };
        let Some(operator) = emission_below(&filter.input).and_then(|index| operators.get_mut(index)) else { continue };
        if let Kept::Rows(looks) = &mut operator.kept {
            looks.bound(&name, rank);
        }
    }
}

fn partition(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::Alias(alias) => partition(&alias.expr),
        Expr::WindowFunction(function) => Some(&function.params.partition_by),
        _ => None,
    }
}
