//! What stands between an aggregate and the window of its rows.

use datafusion::{
    common::{
        Column, DFSchemaRef, Result as DataFusionResult,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Aggregate, Expr, LogicalPlan},
};

use crate::{
    error::{Error, Result},
    stream::join::stream_side,
    window::{self, EVENT_TIME_KEY, SessionAssign, WINDOW_KEY, WindowAssign, WindowKind, WindowSpec},
};

/// The window that rows are given.
#[derive(Debug, Clone)]
pub enum Source {
    Window(WindowAssign),
    Session(SessionAssign),
}

impl Source {
    /// If `node` gives rows windows.
    pub fn of(node: &LogicalPlan) -> Option<Self> {
        let LogicalPlan::Extension(extension) = node else { return None };
        let node = extension.node.as_any();
        let window = node.downcast_ref::<WindowAssign>().cloned().map(Self::Window);
        window.or_else(|| node.downcast_ref::<SessionAssign>().cloned().map(Self::Session))
    }

    /// Checks that the windows are over the event time: only that is waited for.
    ///
    /// # Errors
    /// `Unsupported`, naming the column.
    pub fn check_time(&self) -> Result<()> {
        let (input, time) = (self.input(), self.time());
        let at = input.schema().index_of_column(time)?;
        if input.schema().field(at).metadata().contains_key(EVENT_TIME_KEY) {
            return Ok(());
        }
        Err(Error::unsupported(format!("windows over {}, which is not the event time, over a stream", time.name)).help(
            "use the column of the table's WATERMARK as it is, or the window_time of the window inside; what is computed \
             from it has no watermark",
        ))
    }

    /// The rows that are given windows.
    pub fn input(&self) -> &LogicalPlan {
        match self {
            Self::Window(assign) => &assign.input,
            Self::Session(assign) => &assign.input,
        }
    }

    /// The column that the windows are over.
    pub fn time(&self) -> &Column {
        match self {
            Self::Window(assign) => &assign.time,
            Self::Session(assign) => &assign.time,
        }
    }

    /// # Errors
    /// `Internal`: a defect.
    pub fn spec(&self) -> Result<WindowSpec> {
        match self {
            Self::Window(assign) => Ok(assign.spec),
            Self::Session(assign) => WindowSpec::new(WindowKind::Session, assign.gap_us, 0, None),
        }
    }
}

/// The window that the rows of an aggregate were given, with nothing in between that needs more than one row of the
/// stream.
pub fn source_window(node: &LogicalPlan) -> Option<Source> {
    window_of(node.inputs().first()?)
}

/// The window that the rows of a plan were given, likewise.
pub fn window_of(mut node: &LogicalPlan) -> Option<Source> {
    loop {
        match node {
            LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {
                node = *node.inputs().first()?;
            }
            LogicalPlan::Join(join) => node = stream_side(join).as_ref(),
            node => return Source::of(node),
        }
    }
}

/// What makes two rows belong to different sessions: expressions over the rows, and which grouping expressions they
/// are.
#[derive(Debug, Clone)]
pub struct SessionKeys {
    pub exprs: Vec<Expr>,
    pub groups: Vec<usize>,
}

/// Finds the keys of `session` among `groups`, the grouping expressions of `aggregate`.
///
/// # Errors
/// `Unsupported` if the aggregate puts sessions together, or needs to know a session before it has ended.
pub fn session_keys(aggregate: &Aggregate, groups: &[Expr], session: &SessionAssign) -> Result<SessionKeys> {
    let (mut filter, mut joins) = (None, false);
    aggregate.input.apply(|node| {
        if let LogicalPlan::Filter(found) = node {
            filter = filter.take().or(Some(found.predicate.to_string()));
        }
        joins |= matches!(node, LogicalPlan::Join(_));
        Ok(if matches!(node, LogicalPlan::Extension(_)) {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    })?;
    if joins {
        return Err(Error::unsupported("a join between a session window and its aggregate").help(
            "join the rows before they are put into sessions: FROM SESSION((SELECT ... FROM stream JOIN files ...), ...)",
        ));
    }
    if let Some(filter) = filter {
        return Err(Error::unsupported(format!("the filter {filter} between a session window and its aggregate"))
            .help(
                "filter the rows before they are put into sessions, FROM SESSION((SELECT ... WHERE ...), ...), or use \
                   FILTER (WHERE ...) in each aggregate",
            ));
    }
    if looks_at_windows(aggregate, groups)? {
        return Err(Error::unsupported("an expression over the bounds of a session below its aggregate").help(
            "a stream knows the bounds when the session has ended: use window_start and window_end in a query around it",
        ));
    }
    let resolved = groups.iter().map(|group| resolve(group.clone(), &aggregate.input));
    let resolved = resolved.collect::<DataFusionResult<Vec<_>>>()?;
    let (mut exprs, mut positions) = (Vec::new(), Vec::new());
    for key in &session.keys {
        // A constant keeps nothing apart.
        if key.column_refs().is_empty() && !key.is_volatile() {
            continue;
        }
        let wanted = by_index(key.clone(), &|column| Ok(session.input.schema().index_of_column(column)?.to_string()))?;
        let found = resolved.iter().position(|group| *group == wanted).ok_or_else(|| {
            Error::unsupported(format!("an aggregate over sessions of {key} that is not grouped by {key}"))
                .help(format!("add {key} to the GROUP BY, or leave it out of the session's PARTITION BY"))
        })?;
        exprs.push(key.clone());
        positions.push(found);
    }
    Ok(SessionKeys { exprs, groups: positions })
}

/// A grouping expression over the input of the session below it, whose columns it names by their index.
fn resolve(mut expr: Expr, mut node: &LogicalPlan) -> DataFusionResult<Expr> {
    loop {
        expr = match node {
            LogicalPlan::Projection(projection) => columns(expr, &|column| {
                let at = projection.schema.index_of_column(column)?;
                Ok(projection.expr.get(at).cloned().map(|expr| expr.unalias_nested().data))
            })?,
            LogicalPlan::SubqueryAlias(alias) => columns(expr, &|column| {
                let at = alias.schema.index_of_column(column)?;
                Ok(Some(Expr::Column(Column::from(alias.input.schema().qualified_field(at)))))
            })?,
            LogicalPlan::Extension(extension) => {
                let Some(session) = extension.node.as_any().downcast_ref::<SessionAssign>() else { return Ok(expr) };
                let kept = session.kept();
                return by_index(expr, &|column| {
                    let at = session.schema_ref().index_of_column(column)?;
                    Ok(kept.get(at).map_or_else(|| "window".to_owned(), ToString::to_string))
                });
            }
            _ => expr,
        };
        let [input] = node.inputs()[..] else { return Ok(expr) };
        node = input;
    }
}

fn by_index(expr: Expr, name: &dyn Fn(&Column) -> DataFusionResult<String>) -> DataFusionResult<Expr> {
    columns(expr, &|column| Ok(Some(Expr::Column(Column::new_unqualified(name(column)?)))))
}

fn columns(expr: Expr, with: &dyn Fn(&Column) -> DataFusionResult<Option<Expr>>) -> DataFusionResult<Expr> {
    let replaced = expr.transform_up(|expr| match &expr {
        Expr::Column(column) => Ok(with(column)?.map_or(Transformed::no(expr), Transformed::yes)),
        _ => Ok(Transformed::no(expr)),
    })?;
    Ok(replaced.data)
}

/// The window column that the aggregate does not group by.
pub fn window_column(aggregate: &Aggregate, which: &str) -> Result<Expr> {
    let input = aggregate.input.schema();
    let at = window::window_column(input.fields(), which).ok_or_else(|| {
        Error::unsupported(format!("the windows are grouped by, but {which} was left out on the way"))
            .help("select window_start and window_end in the subquery, and GROUP BY both")
    })?;
    Ok(Expr::Column(Column::from(input.qualified_field(at))))
}

/// Does an expression between the window and the aggregate need to know the window? Then a pane is not enough.
pub fn looks_at_windows(aggregate: &Aggregate, groups: &[Expr]) -> Result<bool> {
    let uses = |expr: &Expr, schema: &DFSchemaRef| {
        expr.column_refs().iter().any(|column| {
            schema.index_of_column(column).is_ok_and(|at| {
                let marks = schema.field(at).metadata();
                // Between a window and its aggregate the event time is window_time, under whatever name.
                marks.contains_key(WINDOW_KEY) || marks.contains_key(EVENT_TIME_KEY)
            })
        })
    };
    let input = aggregate.input.schema();
    let plain = |expr: &&Expr| !matches!(expr, Expr::Column(_));
    if groups.iter().filter(plain).chain(&aggregate.aggr_expr).any(|expr| uses(expr, input)) {
        return Ok(true);
    }
    let mut found = false;
    aggregate.input.apply(|node| {
        if let LogicalPlan::Extension(_) = node {
            return Ok(TreeNodeRecursion::Stop);
        }
        if let LogicalPlan::Join(join) = node {
            let exprs = join.on.iter().flat_map(|(left, right)| [left, right]).chain(&join.filter);
            let sides = [join.left.schema(), join.right.schema()];
            found |= exprs.into_iter().any(|expr| sides.iter().any(|schema| uses(expr, schema)));
        }
        if let (LogicalPlan::Filter(_) | LogicalPlan::Projection(_), [below]) = (node, node.inputs().as_slice()) {
            let exprs = node.expressions();
            let schema = below.schema();
            found |= exprs
                .iter()
                .filter(|expr| !matches!((*expr).clone().unalias(), Expr::Column(_)))
                .any(|expr| uses(expr, schema));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}
