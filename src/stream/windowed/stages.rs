//! A plan, cut at each windowed aggregate.
//!
//! Below a cut the plan runs over the rows of a batch and feeds the aggregate's state; above it, over the windows that
//! close, which are complete. So what stands above may be anything that treats each window by itself.

use std::{cmp::Ordering, collections::BTreeSet, fmt, hash::Hash, sync::Arc};

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::{
    common::{
        Column, DFSchemaRef, Result as DataFusionResult,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    functions_aggregate::expr_fn::count,
    logical_expr::{
        Aggregate, Expr, Extension, Join, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore, lit,
    },
};

use super::{
    late::{LateShape, late_schema},
    source::{SessionKeys, Source, looks_at_windows, session_keys, source_window, window_column},
};
use crate::{
    error::{Error, Result},
    stream::{
        join,
        scan::{reads_stream, stream_table},
        stateless,
    },
    window::{EVENT_TIME_KEY, WINDOW_END, WINDOW_KEY, WINDOW_START, WindowKind, WindowSpec},
};

/// The hidden aggregate that counts input rows.
const ROWS: &str = "__tidemill_rows";

/// A plan in the order in which it runs: the operators, each over records or the rows of operators before it, then the
/// rest.
#[derive(Debug, Clone)]
pub struct Stages {
    pub operators: Vec<Operator>,
    /// Over the rows of operators.
    pub rest: LogicalPlan,
}

/// A windowed aggregate.
#[derive(Debug, Clone)]
pub struct Operator {
    /// An `Aggregate` over a `WindowAssign` or `SessionAssign`; its last aggregate counts the input rows.
    pub aggregate: LogicalPlan,
    pub spec: WindowSpec,
    /// Rows are kept by pane, not by window: nothing below the aggregate looks at the window.
    pub panes: bool,
    /// Which grouping expressions are the window's start and end.
    pub start: usize,
    pub end: usize,
    /// Which one is its event time, if any.
    pub time: Option<usize>,
    /// What keeps sessions apart, if the windows are sessions.
    pub session: Option<SessionKeys>,
    /// How it is shown.
    pub name: String,
    /// The operators whose rows it is over; none if it is over records.
    pub feeds: Vec<usize>,
    /// How many operators a row has gone through before: the watermark is a little behind for each.
    pub depth: usize,
}

impl Stages {
    /// What makes the state: if it changes, the state is of another query.
    pub fn signature(&self) -> Vec<String> {
        self.operators.iter().map(|operator| operator.aggregate.display_indent().to_string()).collect()
    }

    /// The rows that come too late, of each operator that is over records: all have one schema.
    pub fn late_shapes(&self) -> Vec<LateShape> {
        let over_records = self.operators.iter().filter(|operator| operator.depth == 0);
        let assigns: Vec<Source> = over_records.filter_map(|operator| source_window(&operator.aggregate)).collect();
        let inputs: Vec<&Schema> = assigns.iter().map(|assign| assign.input().schema().as_arrow()).collect();
        LateShape::of_all(&inputs)
    }

    /// The schema of the rows that come too late.
    pub fn late_schema(&self) -> Option<SchemaRef> {
        let mut over_records = self.operators.iter().filter(|operator| operator.depth == 0);
        let (first, others) = (over_records.next()?, over_records.next());
        match others {
            Some(_) => self.late_shapes().first().map(|shape| Arc::clone(shape.schema())),
            None => {
                let assign = source_window(&first.aggregate)?;
                Some(late_schema(assign.input().schema().as_arrow()))
            }
        }
    }

    /// The operators whose rows the rest is over.
    pub fn feeds(&self) -> Vec<usize> {
        feeds(&self.rest)
    }
}

/// The operators whose rows a plan is over.
fn feeds(plan: &LogicalPlan) -> Vec<usize> {
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

/// The rows of the windows of operator `index` that close with a batch: a leaf.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Emission {
    pub index: usize,
    schema: DFSchemaRef,
}

impl PartialOrd for Emission {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.index.partial_cmp(&other.index).filter(|_| self == other || self.index != other.index)
    }
}

impl UserDefinedLogicalNodeCore for Emission {
    fn name(&self) -> &str {
        "Emission"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Emission: closed windows of aggregate {}", self.index)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, _inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        Ok(self.clone())
    }
}

/// Does any part of the plan need state, if it runs over a stream?
///
/// # Errors
/// None but a defect's.
pub fn needs_state(plan: &LogicalPlan) -> Result<bool> {
    Ok(plan.exists(|node| Ok(matches!(node, LogicalPlan::Aggregate(_)) && source_window(node).is_some()))?)
}

/// Cuts an optimised plan.
///
/// # Errors
/// `Unsupported` for what a stream cannot answer, with the way out.
pub fn split(plan: LogicalPlan) -> Result<Stages> {
    let mut operators: Vec<Operator> = Vec::new();
    let rest = plan.transform_up(|node| {
        let LogicalPlan::Aggregate(aggregate) = &node else { return Ok(Transformed::no(node)) };
        let Some(assign) = source_window(&node) else { return Ok(Transformed::no(node)) };
        assign.check_time()?;
        let index = operators.len();
        let (mut operator, above) = cut(aggregate, &assign, index)?;
        let below = operator.feeds.iter().filter_map(|at| operators.get(*at));
        operator.depth = below.map(|below| below.depth + 1).max().unwrap_or(0);
        operators.push(operator);
        Ok(Transformed::yes(above))
    })?;
    Ok(Stages { operators, rest: rest.data })
}

/// The operator, and what stands in the aggregate's place: a projection of its emission.
fn cut(aggregate: &Aggregate, assign: &Source, index: usize) -> Result<(Operator, LogicalPlan)> {
    let spec = assign.spec()?;
    let input = aggregate.input.schema();
    let marked = |expr: &Expr, which: &str| match expr {
        Expr::Column(column) => input
            .index_of_column(column)
            .is_ok_and(|at| input.field(at).metadata().get(WINDOW_KEY).is_some_and(|value| value == which)),
        _ => false,
    };
    let mut groups = aggregate.group_expr.clone();
    let find = |groups: &[Expr], which: &str| groups.iter().position(|group| marked(group, which));
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
    let counted = count(lit(1i64)).alias(ROWS);
    let mut aggregates = aggregate.aggr_expr.clone();
    aggregates.push(counted);
    let widened = Aggregate::try_new(Arc::clone(&aggregate.input), groups, aggregates)?;
    let schema = Arc::clone(&widened.schema);
    let emission = Emission { index, schema: Arc::clone(&schema) };
    let emission = LogicalPlan::Extension(Extension { node: Arc::new(emission) });
    // The columns that the aggregate had, in their order: without what was added.
    let added = schema.fields().len() - 1 - aggregate.schema.fields().len();
    let columns = (0..aggregate.schema.fields().len()).map(|at| {
        let from = if at < original { at } else { at + added };
        Expr::Column(Column::from(schema.qualified_field(from)))
    });
    let above = LogicalPlanBuilder::from(emission).project(columns)?.build()?;
    let name = format!("{spec} grouped by {}", list(&aggregate.group_expr));
    let aggregate = LogicalPlan::Aggregate(widened);
    let feeds = feeds(&aggregate);
    let operator = Operator { aggregate, spec, panes, start, end, time, session, name, feeds, depth: 0 };
    Ok((operator, above))
}

fn list(exprs: &[Expr]) -> String {
    exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Refuses what cannot be answered once per closed window, or row by row.
///
/// # Errors
/// `Unsupported`, naming the operation and what to do instead.
pub fn check(stages: &Stages) -> Result<()> {
    let before = |feeds: &[usize]| feeds.iter().filter_map(|at| stages.operators.get(*at)).collect::<Vec<_>>();
    for operator in &stages.operators {
        let LogicalPlan::Aggregate(aggregate) = &operator.aggregate else { continue };
        check_part(&aggregate.input, &before(&operator.feeds), stages)?;
    }
    let assigns = |node: &LogicalPlan| Ok(Source::of(node).is_some());
    if stages.rest.exists(assigns)? {
        return Err(
            Error::unsupported(format!("{} over a stream", stateless::BARE_WINDOW.0)).help(stateless::BARE_WINDOW.1)
        );
    }
    check_part(&stages.rest, &before(&stages.feeds()), stages)?;
    let is_table = |node: &LogicalPlan| Ok(stream_table(node).is_some());
    let mixed = stages.operators.iter().filter(|operator| !operator.feeds.is_empty());
    for part in mixed.map(|operator| &operator.aggregate).chain([&stages.rest]) {
        if part.exists(is_table)? {
            return Err(Error::unsupported("rows of a stream together with the rows of windows")
                .help("group the rows by windows too, or write one INSERT for each"));
        }
    }
    Ok(())
}

fn check_part(plan: &LogicalPlan, before: &[&Operator], stages: &Stages) -> Result<()> {
    let mut refused = None;
    plan.apply_with_subqueries(|node| {
        if refused.is_none() {
            refused = refusal(node, before, stages);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match refused {
        Some((what, help)) => Err(Error::unsupported(format!("{what} over a stream")).help(help)),
        None => Ok(()),
    }
}

fn refusal(node: &LogicalPlan, before: &[&Operator], stages: &Stages) -> Option<(String, &'static str)> {
    const GROUP: &str = "group by window_start and window_end too: FROM TUMBLE(table, time, INTERVAL '1 minute')";
    match node {
        // Of stored files.
        node if !reads_stream(node) => None,
        LogicalPlan::Extension(_) => None,
        LogicalPlan::Join(join) => match (feeds(&join.left), feeds(&join.right)) {
            (left, right) if left.is_empty() || right.is_empty() => join::refusal(join),
            (left, right) => join_refusal(join, left.into_iter().chain(right), stages),
        },
        LogicalPlan::Aggregate(aggregate) if is_per_window(&aggregate.group_expr, node, before) => None,
        LogicalPlan::Aggregate(_) if !before.is_empty() => {
            Some(("an aggregate over more than one window".to_owned(), GROUP))
        }
        LogicalPlan::Window(window)
            if window.window_expr.iter().all(|expr| match expr.clone().unalias() {
                Expr::WindowFunction(function) => is_per_window(&function.params.partition_by, node, before),
                _ => false,
            }) =>
        {
            None
        }
        LogicalPlan::Window(_) if !before.is_empty() => Some((
            "OVER across windows".to_owned(),
            "add window_start and window_end to its PARTITION BY, or run it over the stored files with `tidemill query`",
        )),
        other => stateless::refusal(other),
    }
}

/// A join of the rows of windows is complete if each row's partners close with it.
fn join_refusal(
    join: &Join,
    operators: impl Iterator<Item = usize>,
    stages: &Stages,
) -> Option<(String, &'static str)> {
    let depths: BTreeSet<usize> = operators.filter_map(|at| stages.operators.get(at)).map(|it| it.depth).collect();
    if depths.len() > 1 {
        return Some((
            "a join of windows with windows over windows".to_owned(),
            "their rows come at different times: join the stored results with `tidemill query`",
        ));
    }
    let is_end = |expr: &Expr, side: &LogicalPlan| has_mark(std::slice::from_ref(expr), side.schema(), WINDOW_END);
    if join.on.iter().any(|(left, right)| is_end(left, &join.left) && is_end(right, &join.right)) {
        return None;
    }
    Some((
        "a join of windows whose ends are not compared".to_owned(),
        "join them USING (window_start, window_end, ...) or ON a.window_end = b.window_end: both sides close together then",
    ))
}

/// Is a column among `keys` that is the window's start, or its end?
fn has_mark(keys: &[Expr], schema: &DFSchemaRef, which: &str) -> bool {
    keys.iter().any(|key| match key {
        Expr::Column(column) => schema
            .index_of_column(column)
            .is_ok_and(|at| schema.field(at).metadata().get(WINDOW_KEY).is_some_and(|value| value == which)),
        _ => false,
    })
}

/// Do the keys keep the windows apart, of all operators that the rows come from?
fn is_per_window(keys: &[Expr], node: &LogicalPlan, before: &[&Operator]) -> bool {
    let Some(input) = node.inputs().first().map(|input| Arc::clone(input.schema())) else { return false };
    let has = |which: &str| has_mark(keys, &input, which);
    let keeps_apart = |operator: &&Operator| match operator.spec.kind {
        WindowKind::Cumulate { .. } => has(WINDOW_START) && has(WINDOW_END),
        // Sessions of different keys that start together end at different times.
        WindowKind::Session => has(WINDOW_END),
        _ => has(WINDOW_START) || has(WINDOW_END),
    };
    !before.is_empty() && before.iter().all(keeps_apart)
}
