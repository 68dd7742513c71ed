//! A plan, cut at each windowed aggregate.
//!
//! Below a cut the plan runs over the rows of a batch and feeds the aggregate's state; above it, over the windows that
//! close, which are complete. So what stands above may be anything that treats each window by itself.

use std::{cmp::Ordering, fmt, hash::Hash, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::{
        Column, DFSchemaRef, Result as DataFusionResult,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    functions_aggregate::expr_fn::count,
    logical_expr::{Aggregate, Expr, Extension, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore, lit},
};

use super::{
    late::late_schema,
    source::{SessionKeys, Source, looks_at_windows, session_keys, source_window, window_column},
};
use crate::{
    error::{Error, Result},
    stream::{
        scan::{reads_stream, stream_table},
        stateless,
    },
    window::{EVENT_TIME_KEY, WINDOW_END, WINDOW_KEY, WINDOW_START, WindowKind, WindowSpec},
};

/// The hidden aggregate that counts input rows.
const ROWS: &str = "__tidemill_rows";

/// A plan in the order in which it runs: the operators, each over the rows of the one before, then the rest.
#[derive(Debug, Clone)]
pub struct Stages {
    pub operators: Vec<Operator>,
    /// Over the rows of the last operator.
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
}

impl Stages {
    /// What makes the state: if it changes, the state is of another query.
    pub fn signature(&self) -> Vec<String> {
        self.operators.iter().map(|operator| operator.aggregate.display_indent().to_string()).collect()
    }

    /// The schema of the rows that come too late for the first operator.
    pub fn late_schema(&self) -> Option<SchemaRef> {
        let first = self.operators.first()?;
        let assign = source_window(&first.aggregate)?;
        Some(late_schema(assign.input().schema().as_arrow()))
    }
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
        let (operator, above) = cut(aggregate, &assign, index)?;
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
    let operator = Operator { aggregate, spec, panes, start, end, time, session, name };
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
    for (at, operator) in stages.operators.iter().enumerate() {
        let LogicalPlan::Aggregate(aggregate) = &operator.aggregate else { continue };
        check_part(&aggregate.input, at.checked_sub(1).and_then(|before| stages.operators.get(before)))?;
    }
    let assigns = |node: &LogicalPlan| Ok(Source::of(node).is_some());
    if stages.rest.exists(assigns)? {
        return Err(
            Error::unsupported(format!("{} over a stream", stateless::BARE_WINDOW.0)).help(stateless::BARE_WINDOW.1)
        );
    }
    check_part(&stages.rest, stages.operators.last())?;
    // An operator takes in all its records before the next one does.
    let parts = stages.operators.iter().map(|operator| &operator.aggregate).chain([&stages.rest]);
    let with_tables = |part: &&LogicalPlan| part.exists(|node| Ok(stream_table(node).is_some())).unwrap_or(true);
    if parts.filter(with_tables).count() > 1 {
        return Err(Error::unsupported("a stream that reads its tables in more than one windowed aggregate")
            .help("write one INSERT for each, or join the stored results with `tidemill query`"));
    }
    Ok(())
}

fn check_part(plan: &LogicalPlan, before: Option<&Operator>) -> Result<()> {
    let mut refused = None;
    plan.apply_with_subqueries(|node| {
        if refused.is_none() {
            refused = refusal(node, before);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match refused {
        Some((what, help)) => Err(Error::unsupported(format!("{what} over a stream")).help(help)),
        None => Ok(()),
    }
}

fn refusal(node: &LogicalPlan, before: Option<&Operator>) -> Option<(String, &'static str)> {
    const GROUP: &str = "group by window_start and window_end too: FROM TUMBLE(table, time, INTERVAL '1 minute')";
    match node {
        // Of stored files.
        node if !reads_stream(node) => None,
        LogicalPlan::Extension(_) => None,
        LogicalPlan::Aggregate(aggregate)
            if before.is_some_and(|before| is_per_window(&aggregate.group_expr, node, before)) =>
        {
            None
        }
        LogicalPlan::Aggregate(_) if before.is_some() => {
            Some(("an aggregate over more than one window".to_owned(), GROUP))
        }
        LogicalPlan::Window(window)
            if before.is_some_and(|before| {
                window.window_expr.iter().all(|expr| match expr.clone().unalias() {
                    Expr::WindowFunction(function) => is_per_window(&function.params.partition_by, node, before),
                    _ => false,
                })
            }) =>
        {
            None
        }
        LogicalPlan::Window(_) if before.is_some() => Some((
            "OVER across windows".to_owned(),
            "add window_start and window_end to its PARTITION BY, or run it over the stored files with `tidemill query`",
        )),
        other => stateless::refusal(other),
    }
}

/// Do the keys keep the windows apart?
fn is_per_window(keys: &[Expr], node: &LogicalPlan, before: &Operator) -> bool {
    let Some(input) = node.inputs().first().map(|input| Arc::clone(input.schema())) else { return false };
    let has = |which: &str| {
        keys.iter().any(|key| match key {
            Expr::Column(column) => input
                .index_of_column(column)
                .is_ok_and(|at| input.field(at).metadata().get(WINDOW_KEY).is_some_and(|value| value == which)),
            _ => false,
        })
    };
    match before.spec.kind {
        WindowKind::Cumulate { .. } => has(WINDOW_START) && has(WINDOW_END),
        // Sessions of different keys that start together end at different times.
        WindowKind::Session => has(WINDOW_END),
        _ => has(WINDOW_START) || has(WINDOW_END),
    }
}
