//! A plan, cut at each windowed aggregate, and at each OVER across the rows of the stream.
//!
//! Below a cut the plan runs over the rows of a batch and feeds the operator's state; above it, over the windows that
//! close, which are complete, or over the rows that the watermark has passed. So what stands above an aggregate may be
//! anything that treats each window by itself.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::{
        Column,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    functions_aggregate::expr_fn::count,
    logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, lit},
};

use super::{
    emission::Emission,
    join_cut::{check_time, cut_asof, cut_join},
    late::{LateShape, late_schema},
    over::Looks,
    over_cut::{behind_us, bound_ranks, cut_window},
    refusals::has_mark,
    source::{SessionKeys, Source, looks_at_windows, session_keys, source_window, window_column, window_of},
    update,
};
use crate::{
    asof::AsofJoin,
    catalog::{Emit, OutputMode},
    error::{Error, Result},
    stream::scan::reads_stream,
    window::{EVENT_TIME_KEY, WINDOW_END, WINDOW_START, WindowKind, WindowSpec},
};

/// The hidden aggregate that counts input rows.
const ROWS: &str = "__tidemill_rows";

/// A plan in the order in which it runs: the operators, each over records or the rows of operators before it, then the
/// rest.
#[derive(Debug, Clone)]
pub struct Stages {
    /// Which rows it writes.
    pub emit: Emit,
    /// Its windows wait for a watermark, and are forgotten when it has passed.
    pub waits: bool,
    pub operators: Vec<Operator>,
    /// Over the rows of operators.
    pub rest: LogicalPlan,
}

/// Something that keeps state.
#[derive(Debug, Clone)]
pub struct Operator {
    /// What gives the rows of state.
    pub plan: LogicalPlan,
    /// `None` for an aggregate without windows, whose kept positions say nothing.
    pub spec: Option<WindowSpec>,
    pub kept: Kept,
    /// Its watermark is so far behind the source's.
    pub behind_us: i64,
    /// How it is shown.
    pub name: String,
    /// The operators whose rows it is over; none if it is over records.
    pub feeds: Vec<usize>,
    /// How many operators a row has gone through before.
    pub depth: usize,
}

/// What an operator keeps of its rows.
#[derive(Debug, Clone)]
pub enum Kept {
    Aggregate(KeptAggregate),
    /// The rows of open windows, with the positions of the window's start and end: for an OVER within windows.
    InWindows {
        start: usize,
        end: usize,
    },
    /// Single rows that wait: for an OVER across them, or for their partners of a join.
    Rows(Looks),
    /// Single rows that others are joined with.
    Partners(Partners),
}

/// The rows of one side of a join, which those of the other side wait for.
#[derive(Debug, Clone)]
pub struct Partners {
    /// How long they are kept.
    pub looks: Looks,
    /// The oldest that may be needed when the watermark was at a moment before: so long after that; `None`: however old.
    pub since_us: Option<i64>,
    /// The newest, after the moment at which the watermark is then.
    pub until_us: i64,
}

impl Partners {
    /// The event times of what may be needed when the watermark goes from `from_us` to `to_us`, both included.
    pub fn times(&self, (from_us, to_us): (i64, i64)) -> (i64, i64) {
        let since_us = self.since_us.map_or(i64::MIN, |since_us| from_us.saturating_add(since_us));
        (since_us, to_us.saturating_add(self.until_us))
    }
}

/// An `Aggregate`, over a `WindowAssign` or `SessionAssign` if it has windows; its last aggregate counts the input rows.
#[derive(Debug, Clone)]
pub struct KeptAggregate {
    /// Rows are kept by pane, not by window: nothing below the aggregate looks at the window.
    pub panes: bool,
    /// Which grouping expressions are the window's start and end.
    pub start: usize,
    pub end: usize,
    /// Which one is its event time, if any.
    pub time: Option<usize>,
    /// What keeps sessions apart, if the windows are sessions.
    pub session: Option<SessionKeys>,
}

impl Stages {
    /// What makes the state: if it changes, the state is of another query.
    pub fn signature(&self) -> Vec<String> {
        let sign = |operator: &Operator| {
            let plan = operator.plan.display_indent();
            match &operator.kept {
                Kept::Aggregate(_) => plan.to_string(),
                Kept::InWindows { .. } => format!("Rows: in windows\n{plan}"),
                Kept::Rows(looks) => format!("{}\n{plan}", looks.signature()),
                Kept::Partners(Partners { looks, since_us, until_us }) => {
                    format!("Partners: {} from {since_us:?} to {until_us} us\n{plan}", looks.signature())
                }
            }
        };
        self.operators.iter().map(sign).collect()
    }

    fn over_records(&self) -> impl Iterator<Item = &Operator> {
        self.operators.iter().filter(|operator| operator.depth == 0)
    }

    /// The rows that come too late, of each operator that is over records: all have one schema.
    pub fn late_shapes(&self) -> Vec<LateShape> {
        LateShape::of_all(&self.over_records().filter_map(Operator::late_input).collect::<Vec<_>>())
    }

    /// The schema of the rows that come too late.
    pub fn late_schema(&self) -> Option<SchemaRef> {
        match self.over_records().count() {
            1 => self.over_records().find_map(Operator::late_input).map(|input| late_schema(&input)),
            _ => self.late_shapes().first().map(|shape| Arc::clone(shape.schema())),
        }
    }

    /// The operators whose rows the rest is over.
    pub fn feeds(&self) -> Vec<usize> {
        feeds(&self.rest)
    }
}

/// The operators whose rows a plan is over.
pub fn feeds(plan: &LogicalPlan) -> Vec<usize> {
    let mut found = Vec::new();
    // The closure cannot fail.
    let _ = plan.apply(|node| {
        if let LogicalPlan::Extension(extension) = node
            && let Some(emission) = extension.node.as_any().downcast_ref::<Emission>()
        {
            found.push(emission.index);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

impl Operator {
    /// Is it over sessions?
    pub fn is_session(&self) -> bool {
        matches!(&self.kept, Kept::Aggregate(kept) if kept.session.is_some())
    }

    /// Over the rows of those `operators` whose emissions `plan` reads.
    pub fn new(
        (plan, spec, kept): (LogicalPlan, Option<WindowSpec>, Kept),
        behind_us: i64,
        name: String,
        operators: &[Self],
    ) -> Self {
        let feeds = feeds(&plan);
        let depth = feeds.iter().filter_map(|at| operators.get(*at)).map(|below| below.depth + 1).max().unwrap_or(0);
        Self { plan, spec, kept, behind_us, name, feeds, depth }
    }

    /// The rows that can be late.
    pub fn late_input(&self) -> Option<SchemaRef> {
        let rows = |assign: Source| Arc::clone(assign.input().schema().inner());
        match &self.kept {
            Kept::Rows(_) | Kept::Partners(_) => Some(Arc::clone(self.plan.schema().inner())),
            Kept::Aggregate(_) => match source_window(&self.plan) {
                Some(assign) => Some(rows(assign)),
                // Without a window nothing is late.
                None => self.plan.inputs().first().map(|input| Arc::clone(input.schema().inner())),
            },
            Kept::InWindows { .. } => window_of(&self.plan).map(rows),
        }
    }

    /// How far the watermark of an operator over its rows is behind the source's: no row comes out with an older event
    /// time.
    pub fn rows_behind_us(&self) -> i64 {
        let behind_us = match &self.kept {
            // The event time of a window's row is its end less a millisecond.
            Kept::Aggregate(_) => 1_000,
            // A row is given out with its window's end; a day of a calendar has up to 25 hours.
            Kept::InWindows { .. } => {
                let size_us = self.spec.map_or(0, |spec| spec.size_us);
                size_us.saturating_add(size_us / 24).saturating_add(1_000)
            }
            Kept::Rows(looks) => looks.ahead_us,
            // The rows of a join come when those that wait do.
            Kept::Partners(_) => 0,
        };
        self.behind_us.saturating_add(behind_us)
    }
}

/// Does any part of the plan need state, if it runs over a stream in that output mode?
///
/// # Errors
/// None but a defect's.
pub fn needs_state(plan: &LogicalPlan, mode: OutputMode) -> Result<bool> {
    let changes = mode != OutputMode::Append;
    Ok(plan.exists(|node| {
        Ok(match node {
            LogicalPlan::Aggregate(_) => source_window(node).is_some() || (changes && reads_stream(node)),
            LogicalPlan::Window(_) => !changes && reads_stream(node),
            LogicalPlan::Join(join) => !changes && reads_stream(&join.left) && reads_stream(&join.right),
            LogicalPlan::Extension(extension) => {
                let asof = extension.node.as_any().downcast_ref::<AsofJoin>();
                !changes && asof.is_some_and(|asof| reads_stream(&asof.left) && reads_stream(&asof.right))
            }
            _ => false,
        })
    })?)
}

/// Cuts an optimised plan. `waits`: its windows wait for a watermark.
///
/// # Errors
/// `Unsupported` for what a stream cannot answer, with the way out.
pub fn split(plan: LogicalPlan, emit: Emit, waits: bool) -> Result<Stages> {
    let mut operators: Vec<Operator> = Vec::new();
    let rest = plan.transform_up(|node| {
        match &node {
            LogicalPlan::Window(window) if emit.mode == OutputMode::Append && reads_stream(&window.input) => {
                let above = cut_window(window, &mut operators)?;
                return Ok(above.map_or_else(|| Transformed::no(node), Transformed::yes));
            }
            LogicalPlan::Join(join) if emit.mode == OutputMode::Append => {
                let above = cut_join(join, &mut operators)?;
                return Ok(above.map_or_else(|| Transformed::no(node), Transformed::yes));
            }
            LogicalPlan::Extension(extension) if emit.mode == OutputMode::Append => {
                let asof = extension.node.as_any().downcast_ref::<AsofJoin>();
                let above = asof.map(|asof| cut_asof(asof, &mut operators)).transpose()?.flatten();
                return Ok(above.map_or_else(|| Transformed::no(node), Transformed::yes));
            }
            LogicalPlan::Filter(filter) => bound_ranks(filter, &mut operators),
            _ => {}
        }
        let LogicalPlan::Aggregate(aggregate) = &node else { return Ok(Transformed::no(node)) };
        let lateness_us = i64::try_from(emit.lateness.as_micros()).unwrap_or(i64::MAX);
        let behind_us = behind_us(&aggregate.input, &operators).saturating_add(lateness_us);
        let index = operators.len();
        let (operator, above) = match source_window(&node) {
            Some(assign) => {
                if waits {
                    assign.check_time()?;
                    check_time(assign.input(), assign.time(), &operators)?;
                }
                cut(aggregate, &assign, (index, behind_us), &operators)?
            }
            None if emit.mode != OutputMode::Append && reads_stream(&node) && update::is_first(aggregate)? => {
                update::cut(aggregate, index)?
            }
            None => return Ok(Transformed::no(node)),
        };
        operators.push(operator);
        Ok(Transformed::yes(above))
    })?;
    Ok(Stages { emit, waits, operators, rest: rest.data })
}

/// The operator, and what stands in the aggregate's place: a projection of its emission.
fn cut(
    aggregate: &Aggregate,
    assign: &Source,
    (index, behind_us): (usize, i64),
    operators: &[Operator],
) -> Result<(Operator, LogicalPlan)> {
    let spec = assign.spec()?;
    let input = aggregate.input.schema();
    let mut groups = aggregate.group_expr.clone();
    let find = |groups: &[Expr], which: &str| groups.iter().position(|group| has_mark(group, input, which));
    if matches!(groups.first(), Some(Expr::GroupingSet(_))) {
        return Err(Error::unsupported("GROUPING SETS, CUBE and ROLLUP over the windows of a stream")
            .help("write one INSERT for each grouping"));
    }
    let given = (find(&groups, WINDOW_START), find(&groups, WINDOW_END));
    let enough = match spec.kind {
        WindowKind::Cumulate { .. } => given.0.is_some() && given.1.is_some(),
        _ => given.0.is_some() || given.1.is_some(),
    };
    if !enough {
        return Err(Error::unsupported("an aggregate over windows that is not grouped by the window").help(
            "add window_start and window_end to the GROUP BY: a stream has no end at which it could give a total",
        ));
    }
    let original = groups.len();
    for (which, found) in [(WINDOW_START, given.0), (WINDOW_END, given.1)] {
        if found.is_none() {
            groups.push(window_column(aggregate, which)?);
        }
    }
    let position = |which| find(&groups, which).ok_or_else(|| Error::internal("the window is not grouped by"));
    let (start, end) = (position(WINDOW_START)?, position(WINDOW_END)?);
    let time = groups.iter().position(|group| match group {
        Expr::Column(column) => {
            let field = input.index_of_column(column).map(|at| input.field(at));
            field.is_ok_and(|field| field.metadata().contains_key(EVENT_TIME_KEY))
        }
        _ => false,
    });
    let session = match assign {
        Source::Session(session) => Some(session_keys(aggregate, &groups, session)?),
        Source::Window(_) => None,
    };
    let panes = session.is_none() && (spec.kind == WindowKind::Tumble || !looks_at_windows(aggregate, &groups)?);
    let widened = with_row_count(aggregate, groups)?;
    let schema = Arc::clone(&widened.schema);
    let emission = Emission::plan(index, Arc::clone(&schema));
    // The columns that the aggregate had, in their order: without what was added.
    let added = schema.fields().len() - 1 - aggregate.schema.fields().len();
    let columns = (0..aggregate.schema.fields().len()).map(|at| {
        let from = if at < original { at } else { at + added };
        Expr::Column(Column::from(schema.qualified_field(from)))
    });
    let above = LogicalPlanBuilder::from(emission).project(columns)?.build()?;
    let name = format!("{spec} grouped by {}", list(&aggregate.group_expr));
    let kept = Kept::Aggregate(KeptAggregate { panes, start, end, time, session });
    let state = (LogicalPlan::Aggregate(widened), Some(spec), kept);
    Ok((Operator::new(state, behind_us, name, operators), above))
}

/// The aggregate by `groups`, with one more that counts its input rows.
///
/// # Errors
/// DataFusion's.
pub fn with_row_count(aggregate: &Aggregate, groups: Vec<Expr>) -> Result<Aggregate> {
    let counted = count(lit(1i64)).alias(ROWS);
    let mut aggregates = aggregate.aggr_expr.clone();
    aggregates.push(counted);
    Ok(Aggregate::try_new(Arc::clone(&aggregate.input), groups, aggregates)?)
}

/// Expressions with commas between them.
pub fn list(exprs: &[Expr]) -> String {
    exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
