//! What a stream cannot answer, and what to do instead.

use std::{collections::BTreeSet, sync::Arc};

use datafusion::{
    common::{DFSchema, tree_node::TreeNode},
    logical_expr::{Expr, Join, LogicalPlan},
};

use super::{
    late,
    source::Source,
    stages::{Kept, Operator, Stages, feeds},
    update,
};
use crate::{
    asof::AsofJoin,
    catalog::OutputMode,
    error::{Error, Result},
    stream::{
        join,
        scan::{reads_stream, stream_table},
        stateless,
    },
    window::{WINDOW_END, WINDOW_START, WindowKind, WindowSpec, is_window},
};

/// Refuses what cannot be answered once per closed window, or row by row.
///
/// # Errors
/// `Unsupported`, naming the operation and what to do instead.
pub fn check(stages: &Stages) -> Result<()> {
    let mode = stages.emit.mode;
    if mode != OutputMode::Append {
        update::check(stages)?;
    }
    let before = |feeds: &[usize]| feeds.iter().filter_map(|at| stages.operators.get(*at)).collect::<Vec<_>>();
    for operator in &stages.operators {
        let below = match &operator.plan {
            LogicalPlan::Aggregate(aggregate) => &aggregate.input,
            plan => plan,
        };
        if let Kept::Rows(looks) = &operator.kept {
            looks.check()?;
        }
        if let Some(input) = operator.late_input().filter(|_| operator.depth == 0) {
            late::check_names(&input)?;
        }
        let before = before(&operator.feeds);
        stateless::refuse(below, &|node| refusal(node, &before, stages))?;
    }
    let assigns = |node: &LogicalPlan| Ok(Source::of(node).is_some());
    if stages.rest.exists(assigns)? {
        return Err(
            Error::unsupported(format!("{} over a stream", stateless::BARE_WINDOW.0)).help(stateless::BARE_WINDOW.1)
        );
    }
    let last = before(&stages.feeds());
    let above = |node: &LogicalPlan| match mode {
        OutputMode::Append => refusal(node, &last, stages),
        OutputMode::Update | OutputMode::Complete => update::refusal(node, mode),
    };
    stateless::refuse(&stages.rest, &above)?;
    let is_table = |node: &LogicalPlan| Ok(stream_table(node).is_some());
    let mixed = stages.operators.iter().filter(|operator| !operator.feeds.is_empty());
    for part in mixed.map(|operator| &operator.plan).chain([&stages.rest]) {
        if part.exists(is_table)? {
            return Err(Error::unsupported("rows of a stream together with the rows of windows")
                .help("group the rows by windows too, or write one INSERT for each"));
        }
    }
    Ok(())
}

fn refusal(node: &LogicalPlan, before: &[&Operator], stages: &Stages) -> stateless::Refusal {
    const GROUP: &str = "group by window_start and window_end too: FROM TUMBLE(table, time, INTERVAL '1 minute')";
    match node {
        // Of stored files.
        node if !reads_stream(node) => None,
        LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<AsofJoin>() {
            Some(asof) if !is_leaf(&asof.right) => join::asof_refusal(asof),
            _ => None,
        },
        LogicalPlan::Join(join) => match (feeds(&join.left), feeds(&join.right)) {
            (left, right) if left.is_empty() || right.is_empty() => join::refusal(join),
            (left, right) => join_refusal(join, left.into_iter().chain(right), stages),
        },
        LogicalPlan::Aggregate(aggregate) if is_per_window(&aggregate.group_expr, node, before) => None,
        LogicalPlan::Aggregate(_) if !before.is_empty() => {
            Some(("an aggregate over more than one window".to_owned(), GROUP))
        }
        // Where it is cut it is looked at.
        LogicalPlan::Window(_) if !before.is_empty() => None,
        other => stateless::refusal(other),
    }
}

fn is_leaf(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Extension(extension) if extension.node.inputs().is_empty())
}

/// A join of the rows of windows is complete if each row's partners close with it.
fn join_refusal(
    join: &Join,
    operators: impl Iterator<Item = usize>,
    stages: &Stages,
) -> Option<(String, &'static str)> {
    const STORED: &str = "their rows come at different times: join the stored results with `tidemill query`";
    let operators: Vec<&Operator> = operators.filter_map(|at| stages.operators.get(at)).collect();
    if operators.iter().any(|operator| is_of_single_rows(operator)) {
        return Some(("a join of rows after an OVER across them".to_owned(), STORED));
    }
    let behind: BTreeSet<i64> = operators.iter().map(|operator| operator.behind_us).collect();
    if behind.len() > 1 {
        return Some(("a join of windows with windows over windows".to_owned(), STORED));
    }
    if compares_ends(join) {
        return None;
    }
    Some((
        "a join of windows whose ends are not compared".to_owned(),
        "join them USING (window_start, window_end, ...) or ON a.window_end = b.window_end: both sides close together then",
    ))
}

/// Does the join compare the ends of the windows of both sides?
pub fn compares_ends(join: &Join) -> bool {
    let is_end = |expr: &Expr, side: &LogicalPlan| has_mark(expr, side.schema(), WINDOW_END);
    join.on.iter().any(|(left, right)| is_end(left, &join.left) && is_end(right, &join.right))
}

fn is_of_single_rows(operator: &Operator) -> bool {
    matches!(operator.kept, Kept::Rows(_) | Kept::Partners(_))
}

/// Is the expression a column with the window's start, or its end?
pub fn has_mark(expr: &Expr, schema: &DFSchema, which: &str) -> bool {
    match expr {
        Expr::Column(column) => schema.index_of_column(column).is_ok_and(|at| is_window(schema.field(at), which)),
        _ => false,
    }
}

/// Do the keys keep the windows apart, of all operators that the rows come from?
pub fn is_per_window(keys: &[Expr], node: &LogicalPlan, before: &[&Operator]) -> bool {
    let Some(input) = node.inputs().first().map(|input| Arc::clone(input.schema())) else { return false };
    let keeps_apart =
        |it: &&Operator| !is_of_single_rows(it) && it.spec.is_some_and(|spec| keep_apart(keys, &input, &spec));
    !before.is_empty() && before.iter().all(keeps_apart)
}

/// Do the keys keep the windows of `spec` apart, in rows of `input`?
pub fn keep_apart(keys: &[Expr], input: &DFSchema, spec: &WindowSpec) -> bool {
    let has = |which: &str| keys.iter().any(|key| has_mark(key, input, which));
    match spec.kind {
        WindowKind::Cumulate { .. } => has(WINDOW_START) && has(WINDOW_END),
        // Sessions of different keys that start together end at different times.
        WindowKind::Session => has(WINDOW_END),
        _ => has(WINDOW_START) || has(WINDOW_END),
    }
}
